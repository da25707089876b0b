public import Foundation

/// A file or folder that a person chose, which the app may use again after it was started anew.
///
/// In Apple's sandbox a path is not enough for that: a bookmark keeps the permission.
public struct FileReference: Codable, Hashable, Sendable {
    /// The path that it had when it was chosen, by which files are told apart: bookmarks of one file differ.
    public let path: String
    private let bookmark: Data?

    /// Refers to a file that may be used now.
    ///
    /// Where the system gives no bookmark, as it need not outside of a sandbox, the path has to do.
    public init(_ url: URL) {
        let path = url.path(percentEncoded: false)
        // A folder is the same with a slash at its end.
        self.path = path.count > 1 && path.hasSuffix("/") ? String(path.dropLast()) : path
        #if os(macOS)
            bookmark = try? url.bookmarkData(options: .withSecurityScope)
        #elseif canImport(Darwin)
            bookmark = try? url.bookmarkData()
        #else
            bookmark = nil
        #endif
    }

    /// The file where it is now, also where it was moved. ``FileAccess`` has to be taken before it is used.
    public func resolve() throws -> URL {
        #if canImport(Darwin)
            if let bookmark {
                var isStale = false
                #if os(macOS)
                    return try URL(
                        resolvingBookmarkData: bookmark, options: .withSecurityScope, bookmarkDataIsStale: &isStale)
                #else
                    return try URL(resolvingBookmarkData: bookmark, bookmarkDataIsStale: &isStale)
                #endif
            }
        #endif
        return URL(filePath: path)
    }
}

/// The permission to use a file that a person chose, for as long as this object lives.
public final class FileAccess: Sendable {
    /// The file.
    public let url: URL
    #if canImport(Darwin)
        private let isGranted: Bool
    #endif

    /// Takes the permission. Where none is needed there is none to take, which is no error.
    public init(_ url: URL) {
        self.url = url
        #if canImport(Darwin)
            isGranted = url.startAccessingSecurityScopedResource()
        #endif
    }

    deinit {
        #if canImport(Darwin)
            if isGranted {
                url.stopAccessingSecurityScopedResource()
            }
        #endif
    }
}

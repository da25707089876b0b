internal import CMetalCandle

/// What a model is shown of a repository before the file that it completes.
public struct FIMContext: Codable, Hashable, Sendable {
    /// The name of the repository.
    public var repoName: String?
    /// The path of the file that is completed, in the repository.
    public var path: String?
    /// Other files, in the order in which they are shown.
    public var files: [File]

    /// A file of the repository.
    public struct File: Codable, Hashable, Sendable {
        /// Its path in the repository.
        public var path: String
        /// What is in it.
        public var text: String

        /// Makes a file.
        public init(path: String, text: String) {
            self.path = path
            self.text = text
        }
    }

    /// Makes a context.
    public init(repoName: String? = nil, path: String? = nil, files: [File] = []) {
        self.repoName = repoName
        self.path = path
        self.files = files
    }

    func handle() throws -> Handle {
        let context = Handle(mcandle_fim_context_new(), free: mcandle_fim_context_free)
        if let repoName {
            try withName(repoName, "the name of the repository") { name in
                try check { mcandle_fim_context_set_repo_name(context.pointer, name, $0) }
            }
        }
        if let path {
            try withName(path, "the path") { path in
                try check { mcandle_fim_context_set_path(context.pointer, path, $0) }
            }
        }
        for file in files {
            try withName(file.path, "the path") { path in
                try withText(file.text) { text, length in
                    try check { mcandle_fim_context_add_file(context.pointer, path, text, length, $0) }
                }
            }
        }
        return context
    }
}

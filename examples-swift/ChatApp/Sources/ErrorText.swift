#if canImport(SwiftUI)
    import SwiftUI

    /// What went wrong, for people to read and copy.
    struct ErrorText: View {
        private let reason: String

        init(_ reason: String) {
            self.reason = reason
        }

        var body: some View {
            Label(reason, systemImage: "exclamationmark.triangle")
                .foregroundStyle(.red)
                .textSelection(.enabled)
                .frame(maxWidth: .infinity, alignment: .leading)
        }
    }
#endif

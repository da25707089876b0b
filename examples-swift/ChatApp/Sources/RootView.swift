#if canImport(SwiftUI)
    import ChatAppModels
    import SwiftUI

    /// The window: the models that were opened on the left, the one that is open on the right.
    struct RootView: View {
        let app: AppModel
        /// What a narrow screen shows of the two.
        @State private var column = NavigationSplitViewColumn.sidebar

        var body: some View {
            NavigationSplitView(preferredCompactColumn: $column) {
                ModelList(app: app) { column = .detail }
            } detail: {
                detail
            }
        }

        @ViewBuilder private var detail: some View {
            switch app.phase {
            case .empty:
                ContentUnavailableView(
                    "No model is open", systemImage: "cpu",
                    description: Text("Choose a folder with a model, as Hugging Face has them, or a GGUF file."))
            case .loading(let name, let share):
                VStack(spacing: 16) {
                    ProgressView(value: share) { Text("Loading \(name)") }
                        .frame(maxWidth: 320)
                    Button("Cancel") { app.close() }
                }
                .padding()
            case .ready(let open):
                ChatView(open: open)
                    .id(ObjectIdentifier(open))
            case .failed(let name, let reason):
                ContentUnavailableView(
                    "\(name) could not be opened", systemImage: "exclamationmark.triangle", description: Text(reason))
            }
        }
    }
#endif

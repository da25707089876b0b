#if canImport(SwiftUI)
    import ChatAppModels
    import SwiftUI
    import UniformTypeIdentifiers

    /// The models that were opened last, and a button that chooses another.
    struct ModelList: View {
        let app: AppModel
        /// Is called when a model is chosen.
        let onOpen: () -> Void
        @State private var isChoosing = false

        var body: some View {
            List {
                ForEach(app.recents.models) { model in
                    Button {
                        app.open(model)
                        onOpen()
                    } label: {
                        ModelRow(model: model)
                    }
                    .buttonStyle(.plain)
                    .swipeActions {
                        Button("Remove", role: .destructive) { app.recents.remove(model) }
                    }
                    .contextMenu {
                        Button("Remove from the list", role: .destructive) { app.recents.remove(model) }
                    }
                }
                if let error = app.recents.error {
                    ErrorText(error)
                }
            }
            .navigationTitle("Models")
            .toolbar {
                ToolbarItem {
                    Button("Open a model", systemImage: "folder.badge.plus") { isChoosing = true }
                }
            }
            .fileImporter(isPresented: $isChoosing, allowedContentTypes: [.folder, Self.gguf]) { result in
                app.open(result)
                onOpen()
            }
        }

        private static var gguf: UTType { UTType(filenameExtension: "gguf") ?? .data }
    }

    /// A model of the list.
    private struct ModelRow: View {
        let model: RecentModel

        var body: some View {
            VStack(alignment: .leading, spacing: 2) {
                Text(model.name)
                    .lineLimit(1)
                Text(details)
                    .font(.caption)
                    .foregroundStyle(.secondary)
            }
            .frame(maxWidth: .infinity, alignment: .leading)
            .contentShape(.rect)
        }

        private var details: String {
            let weights = model.info.parameters.formatted(.number.notation(.compactName))
            let size = Int64(clamping: model.info.bytes).formatted(.byteCount(style: .file))
            return [model.info.architecture, "\(weights) weights", size, model.info.quantization]
                .compactMap(\.self)
                .joined(separator: " · ")
        }
    }
#endif

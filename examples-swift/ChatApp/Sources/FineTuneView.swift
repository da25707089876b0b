#if canImport(SwiftUI)
    import ChatAppModels
    import SwiftUI
    import UniformTypeIdentifiers

    /// The fine-tuning of the model that is open: what is set, how it goes, and what comes of it.
    struct FineTuneView: View {
        let chat: ChatModel
        @Bindable var fineTuning: FineTuneModel
        @Environment(\.dismiss) private var dismiss
        @State private var isChoosing = false

        var body: some View {
            NavigationStack {
                Form {
                    settings
                    progress
                    adapter
                }
                .formStyle(.grouped)
                .navigationTitle("Fine-tune")
                .toolbar {
                    ToolbarItem(placement: .cancellationAction) {
                        Button("Close") { dismiss() }
                    }
                    ToolbarItem(placement: .primaryAction) {
                        startOrStop
                    }
                }
                .fileImporter(isPresented: $isChoosing, allowedContentTypes: [.folder]) { result in
                    fineTuning.choose(result)
                }
            }
            #if os(macOS)
                .frame(minWidth: 520, minHeight: 600)
            #endif
        }

        private var settings: some View {
            Section {
                LabeledContent("Rows") {
                    Button(fineTuning.data?.lastPathComponent ?? "Choose a folder") { isChoosing = true }
                }
                Stepper("Rank \(fineTuning.settings.rank)", value: $fineTuning.settings.rank, in: 1...256)
                LabeledContent("Learning rate") {
                    TextField(
                        "Learning rate", value: $fineTuning.settings.learningRate,
                        format: .number.precision(.significantDigits(1...4))
                    )
                    .labelsHidden()
                }
                LabeledContent("Steps") {
                    TextField("Steps", value: $fineTuning.settings.steps, format: .number)
                        .labelsHidden()
                }
            } footer: {
                Text("A folder with train.jsonl, and perhaps valid.jsonl.")
            }
            .disabled(fineTuning.isRunning)
        }

        @ViewBuilder private var startOrStop: some View {
            if fineTuning.isRunning {
                Button("Stop") { fineTuning.stop() }
                    .disabled(fineTuning.phase == .stopping)
            } else {
                Button("Start") { fineTuning.start() }
                    .disabled(!fineTuning.canStart)
            }
        }

        private var progress: some View {
            Section {
                FineTuneProgress(phase: fineTuning.phase, step: fineTuning.step)
                if !fineTuning.trainingLoss.points.isEmpty || !fineTuning.validationLoss.points.isEmpty {
                    LossChart(training: fineTuning.trainingLoss.points, validation: fineTuning.validationLoss.points)
                }
                if let checkpoint = fineTuning.checkpoint {
                    Button("Go on from step \(checkpoint.step)") { fineTuning.resume() }
                        .disabled(!fineTuning.canResume)
                }
            }
        }

        @ViewBuilder private var adapter: some View {
            if let adapter = fineTuning.adapter {
                Section {
                    Button("Answer with the adapter") {
                        Task { await chat.use(adapter) }
                    }
                    if chat.hasAdapter {
                        Button("Answer without an adapter") {
                            Task { await chat.use(nil) }
                        }
                    }
                }
            }
        }
    }
#endif

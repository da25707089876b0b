#if canImport(SwiftUI)
    import ChatAppModels
    import SwiftUI

    /// The conversation with the model that is open.
    struct ChatView: View {
        let open: OpenModel
        @Environment(\.scenePhase) private var scenePhase
        @State private var isFineTuning = false

        var body: some View {
            VStack(spacing: 0) {
                MessageList(chat: open.chat)
                    .overlay {
                        if open.chat.messages.isEmpty {
                            ContentUnavailableView(
                                open.name, systemImage: "text.bubble", description: Text(open.summary))
                        }
                    }
                if let error = open.chat.error {
                    ErrorText(error)
                        .padding(.horizontal)
                }
                Composer(chat: open.chat)
            }
            .navigationTitle(open.name)
            .toolbar {
                ToolbarItem {
                    Button("Clear the conversation", systemImage: "trash") {
                        Task { await open.chat.clear() }
                    }
                    .disabled(open.chat.messages.isEmpty)
                }
                ToolbarItem {
                    Button("Fine-tune", systemImage: "slider.horizontal.3") { isFineTuning = true }
                }
            }
            .sheet(isPresented: $isFineTuning) {
                FineTuneView(chat: open.chat, fineTuning: open.fineTuning)
            }
            .task {
                await open.fineTuning.findCheckpoint()
            }
            #if os(iOS)
                // The GPU is not for apps in the background.
                .onChange(of: scenePhase) {
                    if scenePhase == .background {
                        open.stop()
                    }
                }
            #endif
        }
    }

    /// What was said, with its end in sight.
    private struct MessageList: View {
        let chat: ChatModel

        var body: some View {
            ScrollView {
                LazyVStack(spacing: 12) {
                    ForEach(chat.messages) { message in
                        MessageView(message: message)
                    }
                }
                .padding()
            }
            .defaultScrollAnchor(.bottom)
        }
    }

    /// A message: the person's on the right, the model's on the left.
    private struct MessageView: View {
        let message: ChatModel.Message

        var body: some View {
            Text(message.text.isEmpty ? "…" : message.text)
                .textSelection(.enabled)
                .padding(10)
                .background(bubble, in: .rect(cornerRadius: 12))
                .frame(maxWidth: .infinity, alignment: message.isFromPerson ? .trailing : .leading)
                .accessibilityLabel(message.isFromPerson ? "You" : "Model")
                .accessibilityValue(message.text)
        }

        private var bubble: Color {
            message.isFromPerson ? .accentColor.opacity(0.2) : .secondary.opacity(0.1)
        }
    }

    /// Where the next message is typed, and an answer is stopped.
    private struct Composer: View {
        @Bindable var chat: ChatModel

        var body: some View {
            VStack(alignment: .leading, spacing: 4) {
                HStack(alignment: .bottom) {
                    TextField("Message", text: $chat.draft, axis: .vertical)
                        .textFieldStyle(.roundedBorder)
                        .lineLimit(1...6)
                        .onSubmit { chat.send() }
                    if chat.isAnswering {
                        Button("Stop", systemImage: "stop.fill") { chat.stop() }
                            .keyboardShortcut(".", modifiers: .command)
                    } else {
                        Button("Send", systemImage: "arrow.up") { chat.send() }
                            .keyboardShortcut(.return, modifiers: .command)
                            .disabled(!chat.canSend)
                    }
                }
                .labelStyle(.iconOnly)
                .buttonStyle(.borderedProminent)
                status
            }
            .padding()
        }

        @ViewBuilder private var status: some View {
            HStack {
                if chat.hasAdapter {
                    Text("With the adapter")
                }
                if let speed = chat.tokensPerSecond {
                    Text("\(speed, format: .number.precision(.fractionLength(1))) tokens/s")
                }
            }
            .font(.caption)
            .foregroundStyle(.secondary)
        }
    }
#endif

#if canImport(SwiftUI)
    import ChatAppModels
    import SwiftUI

    @main
    struct ChatApp: App {
        @State private var app = AppModel(
            recents: RecentModelFile(URL.applicationSupportDirectory.appending(path: "ChatApp/recent-models.json")),
            runs: URL.applicationSupportDirectory.appending(path: "ChatApp/runs"))

        init() {
            #if os(macOS)
                // Started with `swift run` there is no bundle that says that it has windows.
                NSApplication.shared.setActivationPolicy(.regular)
            #endif
        }

        var body: some Scene {
            WindowGroup {
                RootView(app: app)
            }
            #if os(macOS)
                .defaultSize(width: 900, height: 640)
            #endif
        }
    }
#else
    @main
    struct ChatApp {
        static func main() {
            print("ChatApp needs SwiftUI, which macOS and iOS have. mcandle-chat and mcandle-finetune run here.")
        }
    }
#endif

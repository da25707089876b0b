#if canImport(SwiftUI)
#else
    @main
    struct ChatApp {
        static func main() {
            print("ChatApp needs SwiftUI, which macOS and iOS have. mcandle-chat and mcandle-finetune run here.")
        }
    }
#endif

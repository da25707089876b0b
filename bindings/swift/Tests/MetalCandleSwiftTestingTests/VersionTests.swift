import MetalCandle
import Testing

@Test func versionIsNotEmpty() {
    #expect(!version.isEmpty)
}

internal import CMetalCandle

/// The library that is linked, and the threads that it computes with.
public enum Runtime {
    /// The version of the library, such as "1.2.3".
    public static var version: String { String(cString: mcandle_version()) }

    /// The version of the library's binary interface, which changes with every incompatible change of it.
    public static var abiVersion: UInt32 { mcandle_abi_version() }

    /// How many threads compute on the CPU, in the whole process. Where there are none yet, they are started.
    public static var threadCount: Int { mcandle_thread_count() }

    /// Sets how many threads compute on the CPU, in the whole process.
    ///
    /// It may be called at any time. What runs goes on with the threads that it has to the end of its token or
    /// batch, and takes up the new ones then. It has no effect on threads of Apple's Accelerate. Losses of training
    /// may differ in the last bits between two counts.
    ///
    /// - Parameter count: From 1 to 1024; `nil` for what the environment variable `RAYON_NUM_THREADS` says, or one
    ///   for each logical CPU.
    /// - Throws: ``MetalCandleError/invalidArgument(_:)`` where the number is out of range or the system does not
    ///   start so many; all then is as before.
    public static func setThreadCount(_ count: Int?) throws {
        // Zero, which C takes for the default, is nil here.
        if count == 0 {
            throw MetalCandleError.invalidArgument("the number of threads is 0, expected at least 1")
        }
        let count = try size(count ?? 0, "the number of threads")
        try check { mcandle_set_thread_count(count, $0) }
    }
}

internal import CMetalCandle

/// How much memory there is and is used, in bytes, at one moment. What the system does not tell is `nil`.
public struct MemoryInfo: Codable, Hashable, Sendable {
    /// The resident memory of the process.
    public var processCurrent: UInt64?
    /// The most resident memory that the process has had.
    public var processPeak: UInt64?
    /// The memory of the machine. The limit of a container is not regarded.
    public var systemTotal: UInt64?
    /// What a process may still take of the memory of the machine without harm to others; on iOS, what this process
    /// may take before it is ended. macOS does not tell.
    public var systemAvailable: UInt64?
    /// What the device can hold and still be fast: of a GPU that shares the memory of the machine, the part that the
    /// system recommends. Only Metal tells.
    public var deviceTotal: UInt64?
    /// What the process has allocated on the device. Only Metal tells.
    public var deviceUsed: UInt64?

    /// Finds out how much memory there is and is used now.
    ///
    /// - Parameter device: The device whose memory is looked at too.
    /// - Throws: ``MetalCandleError/device(_:)`` where there is no such device.
    public static func current(device: Device = .auto) async throws -> MemoryInfo {
        try await BlockingWork.run {
            let info = try Handle(free: mcandle_memory_info_free) { mcandle_memory_info_new(device.constant, $0, $1) }
            return MemoryInfo(info.pointer)
        }
    }

    private init(_ info: OpaquePointer) {
        func told(_ bytes: UInt64) -> UInt64? { bytes == 0 ? nil : bytes }
        processCurrent = told(mcandle_memory_info_process_current(info))
        processPeak = told(mcandle_memory_info_process_peak(info))
        systemTotal = told(mcandle_memory_info_system_total(info))
        systemAvailable = told(mcandle_memory_info_system_available(info))
        deviceTotal = told(mcandle_memory_info_device_total(info))
        // Of a device that tells, nothing may be allocated yet.
        deviceUsed = deviceTotal == nil ? nil : mcandle_memory_info_device_used(info)
    }
}

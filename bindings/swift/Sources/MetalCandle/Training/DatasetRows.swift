internal import CMetalCandle

/// The rows of a data set on their way to the library, within one call and one thread.
final class DatasetRows {
    private let next: () -> JSON?
    private let stop: Flag
    /// The row that was handed over last, which the library reads until it asks for the next.
    private var row = UnsafeMutableBufferPointer<CChar>(start: nil, count: 0)

    init(_ rows: some Sequence<JSON>, until stop: Flag) {
        var iterator = rows.makeIterator()
        next = { iterator.next() }
        self.stop = stop
    }

    deinit {
        row.deallocate()
    }

    /// Makes a data set of all rows.
    func dataset(for model: Model, options: Handle) throws -> Handle {
        do {
            return try withExtendedLifetime(self) {
                try Handle(free: mcandle_dataset_free) {
                    mcandle_dataset_from_callback(
                        { row, length, rows in (borrowed(rows) as DatasetRows).hand(to: row, length) },
                        Unmanaged.passUnretained(self).toOpaque(), model.handle.pointer, options.pointer, $0, $1)
                }
            }
        } catch MetalCandleError.cancelled where stop.isRaised {
            throw CancellationError()
        }
    }

    private func hand(
        to place: UnsafeMutablePointer<UnsafePointer<CChar>?>, _ length: UnsafeMutablePointer<Int>
    ) -> Int32 {
        if stop.isRaised {
            return -1
        }
        guard let text = next()?.text else {
            return 0
        }
        row.deallocate()
        row = .allocate(capacity: text.utf8.count)
        _ = row.initialize(from: text.utf8.lazy.map(CChar.init(bitPattern:)))
        place.pointee = UnsafePointer(row.baseAddress)
        length.pointee = row.count
        return 1
    }
}

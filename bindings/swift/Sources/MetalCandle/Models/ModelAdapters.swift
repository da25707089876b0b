internal import CMetalCandle
public import Foundation

/// An adapter of a model, as it was when it was listed.
public struct AdapterInfo: Codable, Hashable, Sendable {
    /// Its name.
    public var name: String
    /// The rank of its matrices.
    public var rank: Int
    /// The number of its weights.
    public var parameterCount: UInt64
    /// Whether it is DoRA.
    public var usesDoRA: Bool
    /// Whether the model generates with it.
    public var isActive: Bool
    /// How much of it acts where it is active: 1 for the adapter as it is.
    public var weight: Double

    private enum CodingKeys: String, CodingKey {
        case name, rank
        case parameterCount = "parameters"
        case usesDoRA = "use_dora"
        case isActive = "active"
        case weight
    }
}

/// The adapters that a model generates with, by name.
///
/// All adapters that are active change what is generated with the model, together and each with its weight, unless a
/// generator or batch has an adapter of its own. They can be changed while others generate: what is being generated
/// goes on with those that were active when it began, and the next generation has the new ones.
extension Model {
    /// Loads an adapter under a name. It is not active, and its weight is 1.
    ///
    /// - Throws: ``MetalCandleError/invalidArgument(_:)`` where the name is empty or taken, and what
    ///   ``Adapter/load(from:for:)`` throws.
    public func loadAdapter(named name: String, from url: URL) async throws {
        try await change(name) { model, name in
            try withPath(url) { path in
                try check { mcandle_model_load_adapter(model, name, path, $0) }
            }
        }
    }

    /// Adds an adapter under a name, such as one that was just trained. It is not active, and its weight is 1.
    ///
    /// - Throws: ``MetalCandleError/invalidArgument(_:)`` where the name is empty or taken, or the adapter is for
    ///   another model.
    public func addAdapter(_ adapter: Adapter, named name: String) async throws {
        try await change(name) { model, name in
            try check { mcandle_model_add_adapter(model, name, adapter.handle.pointer, $0) }
        }
    }

    /// Removes an adapter. What is being generated with it goes on.
    ///
    /// - Throws: ``MetalCandleError/invalidArgument(_:)`` where no adapter has this name.
    public func unloadAdapter(named name: String) async throws {
        try await change(name) { model, name in
            try check { mcandle_model_unload_adapter(model, name, $0) }
        }
    }

    /// Makes an adapter active, beside those that are.
    ///
    /// - Throws: ``MetalCandleError/invalidArgument(_:)`` where no adapter has this name.
    public func activateAdapter(named name: String) async throws {
        try await change(name) { model, name in
            try check { mcandle_model_activate_adapter(model, name, $0) }
        }
    }

    /// Makes an adapter inactive. It stays loaded, with its weight.
    ///
    /// - Throws: ``MetalCandleError/invalidArgument(_:)`` where no adapter has this name.
    public func deactivateAdapter(named name: String) async throws {
        try await change(name) { model, name in
            try check { mcandle_model_deactivate_adapter(model, name, $0) }
        }
    }

    /// Makes these adapters active and all others inactive, in one step: no generation begins in between.
    ///
    /// - Throws: ``MetalCandleError/invalidArgument(_:)`` where no adapter has one of these names; all then is as
    ///   before.
    public func setActiveAdapters(_ names: [String]) async throws {
        try await BlockingWork.run { [handle] in
            try withNames(names, "the name of an adapter") { names in
                try check { mcandle_model_set_active_adapters(handle.pointer, names, names.count, $0) }
            }
        }
    }

    /// Sets how much of an adapter acts where it is active.
    ///
    /// - Parameters:
    ///   - weight: 1 for the adapter as it is, 0 for none of it, below 0 for its opposite.
    ///   - name: Its name.
    /// - Throws: ``MetalCandleError/invalidArgument(_:)`` where no adapter has this name or the weight is not finite.
    public func setAdapterWeight(_ weight: Double, named name: String) async throws {
        try await change(name) { model, name in
            try check { mcandle_model_set_adapter_weight(model, name, weight, $0) }
        }
    }

    /// Gives an adapter, which may outlive its place among those of the model.
    ///
    /// - Throws: ``MetalCandleError/invalidArgument(_:)`` where no adapter has this name.
    public func adapter(named name: String) throws -> Adapter {
        try withName(name, "the name of an adapter") { name in
            Adapter(
                try Handle(free: mcandle_adapter_free) { mcandle_model_get_adapter(handle.pointer, name, $0, $1) })
        }
    }

    /// The adapters that were loaded or added, in the order of their names.
    public var adapters: [AdapterInfo] {
        get throws {
            let list = try Handle(free: mcandle_adapter_list_free) {
                mcandle_model_list_adapters(handle.pointer, $0, $1)
            }
            return try JSON(text: text { mcandle_adapter_list_json(list.pointer, $0) }).decode()
        }
    }

    private func change(
        _ name: String, _ work: @escaping @Sendable (OpaquePointer, UnsafePointer<CChar>) throws -> Void
    ) async throws {
        try await BlockingWork.run { [handle] in
            try withName(name, "the name of an adapter") { try work(handle.pointer, $0) }
        }
    }
}

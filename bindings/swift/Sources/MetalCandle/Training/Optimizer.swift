/// How gradients change weights.
///
/// | | memory beside the weights | |
/// |---|---|---|
/// | ``adamW(_:)`` | 2 numbers a weight | the default |
/// | ``adam(_:)`` | 2 | decay as part of the gradient |
/// | ``sgd(_:)`` | none; 1 with momentum | |
/// | ``adafactor(_:)`` | next to none; 1 with ``AdafactorOptions/beta1`` | |
/// | ``muon(_:)`` | 1; 2 for embeddings, heads and vectors | for matrices between hidden states |
public enum Optimizer: Hashable, Sendable {
    /// AdamW: weights decay apart from the gradient.
    case adamW(AdamWOptions = AdamWOptions())
    /// Adam.
    case adam(AdamOptions = AdamOptions())
    /// Stochastic gradient descent.
    case sgd(SGDOptions = SGDOptions())
    /// Adafactor.
    case adafactor(AdafactorOptions = AdafactorOptions())
    /// Muon for matrices between hidden states, and AdamW for all else.
    case muon(MuonOptions = MuonOptions())
}

extension Optimizer: Codable {
    private enum Name: String, Codable {
        case adamW = "adamw"
        case adam, sgd, adafactor, muon
    }

    /// Reads the name of an optimizer, or an object with its name and settings.
    public init(from decoder: any Decoder) throws {
        let named = try Named<Name>(from: decoder)
        switch named.name {
        case .adamW: self = .adamW(try named.settings(from: decoder, or: AdamWOptions()))
        case .adam: self = .adam(try named.settings(from: decoder, or: AdamOptions()))
        case .sgd: self = .sgd(try named.settings(from: decoder, or: SGDOptions()))
        case .adafactor: self = .adafactor(try named.settings(from: decoder, or: AdafactorOptions()))
        case .muon: self = .muon(try named.settings(from: decoder, or: MuonOptions()))
        }
    }

    /// Writes an object with the name of the optimizer and its settings.
    public func encode(to encoder: any Encoder) throws {
        switch self {
        case .adamW(let options): try encode(.adamW, options, to: encoder)
        case .adam(let options): try encode(.adam, options, to: encoder)
        case .sgd(let options): try encode(.sgd, options, to: encoder)
        case .adafactor(let options): try encode(.adafactor, options, to: encoder)
        case .muon(let options): try encode(.muon, options, to: encoder)
        }
    }

    private func encode(_ name: Name, _ options: some Encodable, to encoder: any Encoder) throws {
        try Named(name).encode(to: encoder)
        try options.encode(to: encoder)
    }
}

extension Optimizer {
    /// The settings that have no sign, by their names.
    var counts: [(String, Int)] {
        if case .muon(let options) = self { [("ns_steps", options.nsSteps)] } else { [] }
    }
}

internal import CMetalCandle

/// How a model is loaded.
public struct ModelOptions: Codable, Hashable, Sendable {
    /// Where it computes.
    public var device: Device
    /// The number format of weights and activations.
    public var dtype: DType
    /// Keeps the weights of the linear maps in fewer bits, or `nil` to keep them as they are stored.
    public var quantization: Quantization?
    /// The most bytes that weights may take, checked by the headers of the files before anything is allocated,
    /// or `nil` for no bound.
    public var memoryBudget: UInt64?

    /// Weights in groups that share a scale and a bias, as MLX has them.
    public struct Quantization: Codable, Hashable, Sendable {
        /// The bits of a weight: 4 or 8.
        public var bits: Int
        /// The weights of a group: 32, 64 or 128.
        public var groupSize: Int

        /// Describes groups; 4 bits in groups of 64 are MLX's default.
        public init(bits: Int = 4, groupSize: Int = 64) {
            self.bits = bits
            self.groupSize = groupSize
        }

        private enum CodingKeys: String, CodingKey {
            case bits
            case groupSize = "group_size"
        }

        /// Reads a description; a key that is left out has its default.
        public init(from decoder: any Decoder) throws {
            self.init()
            let values = try decoder.container(keyedBy: CodingKeys.self)
            bits = try values.decode(.bits, or: bits)
            groupSize = try values.decode(.groupSize, or: groupSize)
        }
    }

    /// Makes options; without arguments, device and number format are chosen automatically and weights stay as
    /// they are stored.
    public init(
        device: Device = .auto, dtype: DType = .auto, quantization: Quantization? = nil, memoryBudget: UInt64? = nil
    ) {
        self.device = device
        self.dtype = dtype
        self.quantization = quantization
        self.memoryBudget = memoryBudget
    }

    private enum CodingKeys: String, CodingKey {
        case device, dtype, quantization
        case memoryBudget = "memory_budget"
    }

    /// Reads options; a key that is left out has its default.
    public init(from decoder: any Decoder) throws {
        self.init()
        let values = try decoder.container(keyedBy: CodingKeys.self)
        device = try values.decode(.device, or: device)
        dtype = try values.decode(.dtype, or: dtype)
        quantization = try values.decode(.quantization, or: quantization)
        memoryBudget = try values.decode(.memoryBudget, or: memoryBudget)
    }

    func handle() throws -> Handle {
        let options = Handle(mcandle_model_options_new(), free: mcandle_model_options_free)
        mcandle_model_options_set_device(options.pointer, device.constant)
        mcandle_model_options_set_dtype(options.pointer, dtype.constant)
        if let quantization {
            // Zero, which C takes for "as they are stored", is nil here.
            if quantization.bits == 0 {
                throw MetalCandleError.invalidArgument("bits is 0, expected 4 or 8")
            }
            mcandle_model_options_set_quantization(
                options.pointer, try size(quantization.bits, "bits"), try size(quantization.groupSize, "group_size"))
        }
        if let memoryBudget {
            // Zero, which C takes for "no bound", is nil here.
            if memoryBudget == 0 {
                throw MetalCandleError.invalidArgument("memory_budget is 0, expected at least 1")
            }
            mcandle_model_options_set_memory_budget(options.pointer, memoryBudget)
        }
        return options
    }
}

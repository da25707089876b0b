/// Options of several kinds in JSON: the name of a kind alone, or an object with a `name` beside settings.
struct Named<Name: Codable>: Codable {
    let name: Name
    /// Whether there is nothing but the name.
    let isBare: Bool

    private enum CodingKeys: String, CodingKey {
        case name
    }

    init(_ name: Name) {
        self.name = name
        isBare = false
    }

    init(from decoder: any Decoder) throws {
        if let text = try? decoder.singleValueContainer(), (try? text.decode(String.self)) != nil {
            name = try text.decode(Name.self)
            isBare = true
        } else {
            name = try decoder.container(keyedBy: CodingKeys.self).decode(Name.self, forKey: .name)
            isBare = false
        }
    }

    func encode(to encoder: any Encoder) throws {
        var values = encoder.container(keyedBy: CodingKeys.self)
        try values.encode(name, forKey: .name)
    }

    /// The settings beside the name.
    func settings<Settings: Decodable>(from decoder: any Decoder, or standard: Settings) throws -> Settings {
        isBare ? standard : try Settings(from: decoder)
    }
}

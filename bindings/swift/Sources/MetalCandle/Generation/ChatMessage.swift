/// A message of a conversation.
public struct ChatMessage: Hashable, Sendable {
    /// Who says it: `system`, `user`, `assistant`, `tool`, or what else the model's template knows.
    public var role: Role
    /// What is said.
    public var content: String
    /// The calls of tools that an assistant makes.
    public var toolCalls: [ToolCall]
    /// What else the model's template reads of a message, such as `reasoning_content`.
    public var extra: [String: JSON]

    /// Who says a message.
    public struct Role: RawRepresentable, Codable, Hashable, Sendable, ExpressibleByStringLiteral,
        CustomStringConvertible
    {
        /// The name, as templates know it.
        public var rawValue: String

        /// Names a role.
        public init(rawValue: String) {
            self.rawValue = rawValue
        }

        /// Names a role.
        public init(stringLiteral value: String) {
            rawValue = value
        }

        /// The name.
        public var description: String { rawValue }

        /// What the model is told before the conversation.
        public static let system: Role = "system"
        /// The person.
        public static let user: Role = "user"
        /// The model.
        public static let assistant: Role = "assistant"
        /// The result of a tool.
        public static let tool: Role = "tool"
    }

    /// Makes a message.
    public init(_ role: Role, _ content: String, toolCalls: [ToolCall] = [], extra: [String: JSON] = [:]) {
        self.role = role
        self.content = content
        self.toolCalls = toolCalls
        self.extra = extra
    }

    /// What the model is told before the conversation.
    public static func system(_ content: String) -> ChatMessage { ChatMessage(.system, content) }

    /// What a person says.
    public static func user(_ content: String) -> ChatMessage { ChatMessage(.user, content) }

    /// What the model answered.
    public static func assistant(_ content: String) -> ChatMessage { ChatMessage(.assistant, content) }

    /// What a tool gave.
    public static func tool(_ content: String) -> ChatMessage { ChatMessage(.tool, content) }

    var json: JSON {
        var members: [(key: String, value: JSON)] = [("role", JSON(role.rawValue)), ("content", JSON(content))]
        if !toolCalls.isEmpty {
            let calls = toolCalls.map { call -> JSON in
                ["type": "function", "function": ["name": JSON(call.name), "arguments": call.arguments]]
            }
            members.append(("tool_calls", JSON(calls)))
        }
        for (key, value) in extra.sorted(by: { $0.key < $1.key }) {
            members.append((key, value))
        }
        return JSON(object: members)
    }
}

extension ChatMessage: Codable {
    private enum CodingKeys: String, CodingKey {
        case role, content
        case toolCalls = "tool_calls"
        case extra
    }

    /// Reads a message; what else than role and content is left out is empty.
    public init(from decoder: any Decoder) throws {
        let values = try decoder.container(keyedBy: CodingKeys.self)
        self.init(
            try values.decode(Role.self, forKey: .role),
            try values.decode(String.self, forKey: .content),
            toolCalls: try values.decode(.toolCalls, or: []),
            extra: try values.decode(.extra, or: [:]))
    }

    /// Writes a message.
    public func encode(to encoder: any Encoder) throws {
        var values = encoder.container(keyedBy: CodingKeys.self)
        try values.encode(role, forKey: .role)
        try values.encode(content, forKey: .content)
        if !toolCalls.isEmpty {
            try values.encode(toolCalls, forKey: .toolCalls)
        }
        if !extra.isEmpty {
            try values.encode(extra, forKey: .extra)
        }
    }
}

/// A call of a tool that a model asks for.
public struct ToolCall: Codable, Hashable, Sendable {
    /// The name of the tool.
    public var name: String
    /// Its arguments, usually an object.
    public var arguments: JSON

    /// Makes a call.
    public init(name: String, arguments: JSON) {
        self.name = name
        self.arguments = arguments
    }
}

/// How a conversation becomes a prompt, by the template of the model.
public struct ChatOptions: Codable, Hashable, Sendable {
    /// The tools that the model may call, each `{"type": "function", "function": {...}}`.
    public var tools: [JSON]
    /// Ends with the start of an assistant's message.
    public var addGenerationPrompt: Bool
    /// Leaves the last message open instead, so that the model goes on with it.
    public var continueFinalMessage: Bool
    /// Further variables of the template, such as `enable_thinking`.
    public var arguments: [String: JSON]

    /// Makes options; without arguments, the model is asked to answer, without tools.
    public init(
        tools: [JSON] = [], addGenerationPrompt: Bool = true, continueFinalMessage: Bool = false,
        arguments: [String: JSON] = [:]
    ) {
        self.tools = tools
        self.addGenerationPrompt = addGenerationPrompt
        self.continueFinalMessage = continueFinalMessage
        self.arguments = arguments
    }

    private enum CodingKeys: String, CodingKey {
        case tools
        case addGenerationPrompt = "add_generation_prompt"
        case continueFinalMessage = "continue_final_message"
        case arguments
    }

    /// Reads options; a key that is left out has its default.
    public init(from decoder: any Decoder) throws {
        self.init()
        let values = try decoder.container(keyedBy: CodingKeys.self)
        tools = try values.decode(.tools, or: tools)
        addGenerationPrompt = try values.decode(.addGenerationPrompt, or: addGenerationPrompt)
        continueFinalMessage = try values.decode(.continueFinalMessage, or: continueFinalMessage)
        arguments = try values.decode(.arguments, or: arguments)
    }

    var json: JSON {
        var members: [(key: String, value: JSON)] = [
            ("add_generation_prompt", JSON(booleanLiteral: addGenerationPrompt)),
            ("continue_final_message", JSON(booleanLiteral: continueFinalMessage)),
        ]
        if !tools.isEmpty {
            members.append(("tools", JSON(tools)))
        }
        if !arguments.isEmpty {
            let sorted = arguments.sorted { $0.key < $1.key }
            members.append(("arguments", JSON(object: sorted.map { (key: $0.key, value: $0.value) })))
        }
        return JSON(object: members)
    }
}

extension [ChatMessage] {
    var json: JSON { JSON(map(\.json)) }
}

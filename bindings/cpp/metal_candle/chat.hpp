/**
 * @file
 * Conversations.
 */
#ifndef METAL_CANDLE_CHAT_HPP
#define METAL_CANDLE_CHAT_HPP

#include "metal_candle/config.hpp"

#include <string>
#include <string_view>

MCANDLE_NAMESPACE_BEGIN

/**
 * Messages as the JSON that the chat functions take. What they have further, such as "tool_calls",
 * is added as JSON.
 */
class conversation {
public:
    /** Adds a message. Role and content are UTF-8. */
    conversation &add(std::string_view role, std::string_view content) {
        return add_json("{\"role\":" + quoted(role) + ",\"content\":" + quoted(content) + "}");
    }

    /** Adds what the model is told before the conversation. */
    conversation &system(std::string_view content) { return add("system", content); }

    /** Adds what the user says. */
    conversation &user(std::string_view content) { return add("user", content); }

    /** Adds what the model answered. */
    conversation &assistant(std::string_view content) { return add("assistant", content); }

    /** Adds a message that is a JSON object already. */
    conversation &add_json(std::string_view message) {
        if (!messages_.empty()) {
            messages_ += ',';
        }
        messages_ += message;
        return *this;
    }

    /** Gives the messages as a JSON array. */
    std::string json() const { return "[" + messages_ + "]"; }

private:
    static std::string quoted(std::string_view text) {
        static constexpr char digits[] = "0123456789abcdef";
        std::string quoted = "\"";
        for (const char character : text) {
            const auto byte = static_cast<unsigned char>(character);
            if (character == '"' || character == '\\') {
                quoted += '\\';
                quoted += character;
            } else if (byte < 0x20) {
                quoted += "\\u00";
                quoted += digits[byte >> 4];
                quoted += digits[byte & 0xf];
            } else {
                quoted += character;
            }
        }
        quoted += '"';
        return quoted;
    }

    std::string messages_;
};

MCANDLE_NAMESPACE_END

#endif

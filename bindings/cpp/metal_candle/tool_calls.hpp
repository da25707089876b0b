/**
 * @file
 * Calls of tools in what is generated.
 */
#ifndef METAL_CANDLE_TOOL_CALLS_HPP
#define METAL_CANDLE_TOOL_CALLS_HPP

#include "metal_candle/callback.hpp"

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <type_traits>

MCANDLE_NAMESPACE_BEGIN

/** What a piece is. */
enum class piece_kind : std::int32_t {
    text = MCANDLE_PIECE_TEXT,           /**< Text for the user. */
    reasoning = MCANDLE_PIECE_REASONING, /**< Text inside of "<think>" and "</think>". */
    tool_call = MCANDLE_PIECE_TOOL_CALL, /**< A whole call of a tool. */
};

/** A part of generated text; it lives only during the callback that is told of it. */
class piece {
public:
    /** The type of C. */
    using c_type = mcandle_piece;

    /** Wraps what C tells. */
    explicit piece(const mcandle_piece *told) noexcept : piece_(told) {}

    /** Gives the kind of the piece. */
    piece_kind kind() const noexcept {
        return static_cast<piece_kind>(mcandle_piece_kind_of(piece_));
    }

    /** Gives the text; of a tool call the arguments, a JSON object. */
    std::string_view text() const noexcept {
        return detail::text_of(
            [this](std::size_t *length) { return mcandle_piece_text(piece_, length); });
    }

    /** Gives the name of the tool that is called; empty for what is no tool call. */
    std::string_view name() const noexcept {
        return detail::text_of(
            [this](std::size_t *length) { return mcandle_piece_name(piece_, length); });
    }

private:
    const mcandle_piece *piece_;
};

/** Finds tool calls in text, in the format of Qwen and Hermes. Text comes in chunks that may end
 * anywhere, such as those of a generation. */
class tool_call_parser : public handle<mcandle_tool_call_parser, mcandle_tool_call_parser_free> {
public:
    using handle::handle;

    /**
     * Makes a parser at the start of a text.
     *
     * @param find_reasoning Whether text between "<think>" and "</think>" comes out as such.
     * @param inside_reasoning Whether the text starts inside of the reasoning.
     */
    explicit tool_call_parser(bool find_reasoning = false, bool inside_reasoning = false)
        : handle(mcandle_tool_call_parser_new(find_reasoning, inside_reasoning)) {}

    /**
     * Takes the next chunk, and tells a function of the pieces that are now complete.
     *
     * @param text The chunk in UTF-8.
     * @param on_piece Takes a piece. After an exception it hears no more of the chunk.
     */
    template <class OnPiece> result<void> push(std::string_view text, OnPiece &&on_piece) {
        return parse(on_piece, [&](auto callback, void *user_data, auto *error) {
            return mcandle_tool_call_parser_push(get(), text.data(), text.size(), callback,
                                                 user_data, error);
        });
    }

    /** Ends the text, and tells a function of what was held back. The next chunk starts another
     * text. */
    template <class OnPiece> result<void> finish(OnPiece &&on_piece) {
        return parse(on_piece, [&](auto callback, void *user_data, auto *error) {
            return mcandle_tool_call_parser_finish(get(), callback, user_data, error);
        });
    }

private:
    template <class OnPiece, class Call> static result<void> parse(OnPiece &on_piece, Call &&call) {
        using listener = detail::listener<piece, OnPiece>;
        listener told(on_piece, {});
        const mcandle_piece_callback callback = [](const mcandle_piece *one, void *self) noexcept {
            static_cast<listener *>(self)->tell(piece(one));
        };
        auto outcome = detail::attempt_call<void>(
            [&](auto *error) { return call(callback, static_cast<void *>(&told), error); });
        told.rethrow();
        return detail::unwrap(std::move(outcome));
    }
};

MCANDLE_NAMESPACE_END

#endif

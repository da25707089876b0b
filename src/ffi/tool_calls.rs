//! Tool calls in generated text.

use super::error::{mcandle_error, mcandle_status};
use super::exclusive::Exclusive;
use super::handle::{self, borrow};
use super::panic::guard;
use super::string::mcandle_string;
use crate::inference::{Piece, ToolCallParser};
use std::ffi::{c_char, c_void};

/// What a piece is: one of the MCANDLE_PIECE_ constants.
pub type mcandle_piece_kind = i32;

/// Text for the user.
pub const MCANDLE_PIECE_TEXT: mcandle_piece_kind = 0;
/// Text inside of "<think>" and "</think>".
pub const MCANDLE_PIECE_REASONING: mcandle_piece_kind = 1;
/// A whole call of a tool.
pub const MCANDLE_PIECE_TOOL_CALL: mcandle_piece_kind = 2;

/// A part of generated text. It lives only during the callback that receives it.
#[derive(Debug)]
pub struct mcandle_piece {
    kind: mcandle_piece_kind,
    text: mcandle_string,
    name: mcandle_string,
}

impl mcandle_piece {
    fn new(piece: &Piece) -> Self {
        let (kind, name, text) = match piece {
            Piece::Text(text) => (MCANDLE_PIECE_TEXT, "", text.clone()),
            Piece::Reasoning(text) => (MCANDLE_PIECE_REASONING, "", text.clone()),
            Piece::ToolCall(call) => {
                let arguments = call.arguments.to_string();
                (MCANDLE_PIECE_TOOL_CALL, call.name.as_str(), arguments)
            }
        };
        Self {
            kind,
            text: mcandle_string::new(&text),
            name: mcandle_string::new(name),
        }
    }
}

/// Gives the kind of a piece.
///
/// @param[in] piece The piece, or NULL.
/// @return One of the MCANDLE_PIECE_ constants; -1 for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_piece_kind_of(piece: *const mcandle_piece) -> mcandle_piece_kind {
    // SAFETY: the caller passes NULL or the piece of a callback that runs.
    unsafe { piece.as_ref() }.map_or(-1, |piece| piece.kind)
}

/// Gives the text of a piece; of a tool call the arguments, a JSON object.
///
/// @param[in] piece The piece, or NULL.
/// @param[out] length Receives the length in bytes; may be NULL.
/// @return The text, with a NUL behind it, which lives only during the callback; empty for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_piece_text(
    piece: *const mcandle_piece,
    length: *mut usize,
) -> *const c_char {
    // SAFETY: the caller passes NULL or the piece of a callback that runs, and NULL or a writable
    // length.
    unsafe { mcandle_string::give(piece.as_ref().map(|piece| &piece.text), length) }
}

/// Gives the name of the tool that a piece calls.
///
/// @param[in] piece The piece, or NULL.
/// @param[out] length Receives the length in bytes; may be NULL.
/// @return The name, with a NUL behind it, which lives only during the callback; empty for NULL, and
/// for a piece that is no tool call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_piece_name(
    piece: *const mcandle_piece,
    length: *mut usize,
) -> *const c_char {
    // SAFETY: the caller passes NULL or the piece of a callback that runs, and NULL or a writable
    // length.
    unsafe { mcandle_string::give(piece.as_ref().map(|piece| &piece.name), length) }
}

/// Receives each piece, in order, on the thread that called. It must not use the parser that calls it.
///
/// @param[in] piece The piece, which lives only during the call.
/// @param[in] user_data As it was given with the callback.
pub type mcandle_piece_callback =
    Option<unsafe extern "C-unwind" fn(piece: *const mcandle_piece, user_data: *mut c_void)>;

/// # Safety
///
/// The callback may be called with `user_data`.
unsafe fn hand_over(pieces: &[Piece], callback: mcandle_piece_callback, user_data: *mut c_void) {
    let Some(callback) = callback else { return };
    for piece in pieces {
        let piece = mcandle_piece::new(piece);
        // SAFETY: as the caller promises; the piece outlives the call.
        unsafe { callback(&raw const piece, user_data) }
    }
}

/// Finds tool calls in text, in the format of Qwen and Hermes: {"name": ..., "arguments": {...}}
/// between "<tool_call>" and "</tool_call>".
///
/// Text comes in chunks that may end anywhere, such as those of a generation. What is outside of
/// calls is passed on at once, as far as it cannot be the start of a tag. What is between the tags and
/// is no call, or has more than 1 MiB, comes out as text, tags included.
#[derive(Debug)]
pub struct mcandle_tool_call_parser {
    inner: Exclusive<ToolCallParser>,
}

/// Makes a parser at the start of a text.
///
/// @param[in] find_reasoning Whether text between "<think>" and "</think>" comes out as
/// MCANDLE_PIECE_REASONING, without the tags; if not, it is text.
/// @param[in] inside_reasoning Whether the text starts inside of the reasoning, as it does where
/// the prompt ends with the opening tag; then the first is true whatever is given.
/// @return A parser, to be freed with mcandle_tool_call_parser_free().
#[must_use]
#[unsafe(no_mangle)]
pub extern "C" fn mcandle_tool_call_parser_new(
    find_reasoning: bool,
    inside_reasoning: bool,
) -> *mut mcandle_tool_call_parser {
    let mut inner = ToolCallParser::new();
    if find_reasoning {
        inner = inner.with_reasoning();
    }
    if inside_reasoning {
        inner = inner.inside_reasoning();
    }
    Box::into_raw(Box::new(mcandle_tool_call_parser {
        inner: Exclusive::new(inner),
    }))
}

/// Takes the next chunk, and hands over the pieces that are now complete.
///
/// @param[in,out] parser The parser.
/// @param[in] text The chunk in UTF-8; may be NULL where the length is 0.
/// @param[in] text_length Its length in bytes.
/// @param[in] callback Receives the pieces; may be NULL.
/// @param[in] user_data Given to the callback as it is; not used after the call.
/// @param[out] error Receives an error on failure; may be NULL.
/// @return MCANDLE_OK, or MCANDLE_INVALID_UTF8, MCANDLE_NULL_POINTER.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_tool_call_parser_push(
    parser: *mut mcandle_tool_call_parser,
    text: *const c_char,
    text_length: usize,
    callback: mcandle_piece_callback,
    user_data: *mut c_void,
    error: *mut *mut mcandle_error,
) -> mcandle_status {
    // SAFETY: the caller passes a parser that nobody else uses now and readable text, or NULL, and a
    // callback that may be called with `user_data`.
    unsafe {
        guard(error, || {
            let parser = borrow(parser, "parser")?;
            let text = handle::text(text, text_length, "text")?;
            parser.inner.with("parser", |inner| {
                hand_over(&inner.push(text), callback, user_data);
                Ok(())
            })
        })
    }
}

/// Ends the text, and hands over what is still held back; a call that was not closed is text. The
/// next chunk starts another text.
///
/// @param[in,out] parser The parser.
/// @param[in] callback Receives the pieces; may be NULL.
/// @param[in] user_data Given to the callback as it is; not used after the call.
/// @param[out] error Receives an error on failure; may be NULL.
/// @return MCANDLE_OK, or MCANDLE_NULL_POINTER.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_tool_call_parser_finish(
    parser: *mut mcandle_tool_call_parser,
    callback: mcandle_piece_callback,
    user_data: *mut c_void,
    error: *mut *mut mcandle_error,
) -> mcandle_status {
    // SAFETY: the caller passes a parser that nobody else uses now, or NULL, and a callback that may
    // be called with `user_data`.
    unsafe {
        guard(error, || {
            let parser = borrow(parser, "parser")?;
            parser.inner.with("parser", |inner| {
                hand_over(&inner.finish(), callback, user_data);
                Ok(())
            })
        })
    }
}

/// Frees a parser.
///
/// @param[in] parser The parser; NULL is allowed and does nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_tool_call_parser_free(parser: *mut mcandle_tool_call_parser) {
    // SAFETY: the caller passes NULL or a parser that it owns.
    unsafe { handle::free(parser) }
}

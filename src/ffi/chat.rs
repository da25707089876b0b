//! Chat templates.

use super::error::{mcandle_error, mcandle_status};
use super::handle::{self, Out, Result, borrow};
use super::model::mcandle_model;
use super::panic::guard;
use super::string::mcandle_string;
use crate::error::Error;
use crate::models::ChatOptions;
use serde_json::Value;
use std::ffi::c_char;

/// Parses JSON that the caller gives as text.
pub(super) fn json(text: &str, name: &'static str, expected: &str) -> Result<Value> {
    Ok(serde_json::from_str(text)
        .map_err(|error| Error::option(name, format!("not JSON ({error})"), expected))?)
}

/// Tells whether a model comes with a chat template.
///
/// @param[in] model The model, or NULL.
/// @return Whether mcandle_model_apply_chat_template() has a template to apply, which may still be
/// one that cannot be compiled; false for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_model_has_chat_template(model: *const mcandle_model) -> bool {
    // SAFETY: the caller passes NULL or a live model.
    unsafe { model.as_ref() }.is_some_and(|model| model.inner.has_chat_template())
}

/// Writes a conversation as the text that a model expects, as transformers' apply_chat_template
/// does.
///
/// The text holds special tokens in writing; continue it as it is, or turn it into ids with
/// mcandle_tokenizer_encode(), without adding special tokens. Special tokens that a message spells
/// become special tokens as well, as in transformers: remove them from text that is not trusted. What
/// a template does and writes is bounded in proportion to the messages.
///
/// @param[in] model The model.
/// @param[in] messages A JSON list of {"role": "user", "content": "..."} in UTF-8; further keys
/// such as "tool_calls", "reasoning_content" are the template's.
/// @param[in] messages_length Its length in bytes.
/// @param[in] options A JSON object with the keys, all optional: "tools", a list of objects;
/// "add_generation_prompt", whether to end with the start of an assistant's message (default true);
/// "continue_final_message", whether to leave the last message open instead (default false);
/// "arguments", an object of further variables such as "enable_thinking". NULL for the defaults.
/// @param[in] options_length Its length in bytes.
/// @param[out] text Receives the text on success, to be freed with mcandle_string_free().
/// @param[out] error Receives an error on failure; may be NULL.
/// @return MCANDLE_OK; MCANDLE_NOT_FOUND where the directory of the model has no template,
/// MCANDLE_INVALID_FORMAT where a model in one file has none, or it cannot be compiled;
/// MCANDLE_INVALID_ARGUMENT where messages or options have another shape, the template refuses them
/// or exceeds its bounds; MCANDLE_INVALID_UTF8, MCANDLE_NULL_POINTER.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_model_apply_chat_template(
    model: *const mcandle_model,
    messages: *const c_char,
    messages_length: usize,
    options: *const c_char,
    options_length: usize,
    text: *mut *mut mcandle_string,
    error: *mut *mut mcandle_error,
) -> mcandle_status {
    // SAFETY: the caller passes a live model, readable texts and writable outputs, or NULL.
    unsafe {
        guard(error, || {
            let model = borrow(model, "model")?;
            let messages = handle::text(messages, messages_length, "messages")?;
            let messages = json(messages, "messages", "a list of messages")?;
            let options = if options.is_null() {
                ChatOptions::default()
            } else {
                let options = handle::text(options, options_length, "options")?;
                ChatOptions::from_json(&json(options, "options", "an object")?)?
            };
            let out = Out::new(text, "text")?;
            let text = model.inner.chat_template()?.render(&messages, &options)?;
            out.give(mcandle_string::new(&text));
            Ok(())
        })
    }
}

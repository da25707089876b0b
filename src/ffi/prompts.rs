//! Generations whose prompt is made from something else than a text to go on with.

use super::error::{mcandle_error, mcandle_status};
use super::fim::mcandle_fim_context;
use super::generate_options::{mcandle_generate_options, resolve};
use super::generation::{mcandle_chunk_callback, mcandle_generation};
use super::generator::{mcandle_generator, run};
use super::handle::borrow;
use super::panic::guard;
use super::prompt::Prompt;
use std::ffi::{c_char, c_void};

/// Answers the last message of a conversation, by the chat template of the model, and hands each
/// token to a callback as it comes.
///
/// What the generator has read of the conversation already is not read again.
///
/// @param[in,out] generator The generator.
/// @param[in] messages The whole conversation as a JSON array of objects such as
/// {"role": "user", "content": "..."}, in UTF-8.
/// @param[in] messages_length Its length in bytes.
/// @param[in] chat_options A JSON object, or NULL for the defaults. Its keys: "tools", an array of
/// descriptions of functions; "add_generation_prompt", default true; "continue_final_message",
/// default false; "arguments", an object of further variables of the template, such as
/// {"enable_thinking": false}.
/// @param[in] chat_options_length Its length in bytes.
/// @param[in] options Options, or NULL for the defaults.
/// @param[in] callback Receives each token; may be NULL.
/// @param[in] user_data Given to the callback as it is; not used after the call.
/// @param[out] generation Receives the finished generation, also when it was stopped, to be freed
/// with mcandle_generation_free(); may be NULL.
/// @param[out] error Receives an error on failure; may be NULL.
/// @return As mcandle_generator_generate(), and for the prompt as
/// mcandle_model_apply_chat_template().
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_generator_chat(
    generator: *mut mcandle_generator,
    messages: *const c_char,
    messages_length: usize,
    chat_options: *const c_char,
    chat_options_length: usize,
    options: *const mcandle_generate_options,
    callback: mcandle_chunk_callback,
    user_data: *mut c_void,
    generation: *mut *mut mcandle_generation,
    error: *mut *mut mcandle_error,
) -> mcandle_status {
    // SAFETY: the caller passes live objects, readable texts and writable outputs, or NULL, and a
    // callback that may be called with `user_data`.
    unsafe {
        guard(error, || {
            let generator = borrow(generator, "generator")?;
            let prompt =
                Prompt::chat(messages, messages_length, chat_options, chat_options_length)?;
            let options = resolve(options)?;
            run(
                generator, &prompt, &options, callback, user_data, generation,
            )
        })
    }
}

/// Writes the code between a prefix and a suffix, with the tokens that the model has for it, and hands
/// each token to a callback as it comes.
///
/// The text ends at the tokens of mcandle_model_fim_stop_tokens() too.
///
/// @param[in,out] generator The generator.
/// @param[in] prefix The code before in UTF-8; may be NULL where the length is 0.
/// @param[in] prefix_length Its length in bytes.
/// @param[in] suffix The code after in UTF-8; may be NULL where the length is 0.
/// @param[in] suffix_length Its length in bytes.
/// @param[in] context What else of the repository the model is shown, or NULL.
/// @param[in] options Options, or NULL for the defaults.
/// @param[in] callback Receives each token; may be NULL.
/// @param[in] user_data Given to the callback as it is; not used after the call.
/// @param[out] generation Receives the finished generation, also when it was stopped, to be freed
/// with mcandle_generation_free(); may be NULL.
/// @param[out] error Receives an error on failure; may be NULL.
/// @return As mcandle_generator_generate(); MCANDLE_TOKENIZER also where the vocabulary has no tokens
/// for the middle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_generator_complete(
    generator: *mut mcandle_generator,
    prefix: *const c_char,
    prefix_length: usize,
    suffix: *const c_char,
    suffix_length: usize,
    context: *const mcandle_fim_context,
    options: *const mcandle_generate_options,
    callback: mcandle_chunk_callback,
    user_data: *mut c_void,
    generation: *mut *mut mcandle_generation,
    error: *mut *mut mcandle_error,
) -> mcandle_status {
    // SAFETY: the caller passes live objects, readable texts and writable outputs, or NULL, and a
    // callback that may be called with `user_data`.
    unsafe {
        guard(error, || {
            let generator = borrow(generator, "generator")?;
            let prompt = Prompt::middle(prefix, prefix_length, suffix, suffix_length, context)?;
            let options = resolve(options)?;
            run(
                generator, &prompt, &options, callback, user_data, generation,
            )
        })
    }
}

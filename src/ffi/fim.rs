//! Fill in the middle.

use super::error::{mcandle_error, mcandle_status};
use super::handle::{self, Out, Result, borrow, borrow_mut};
use super::model::mcandle_model;
use super::panic::guard;
use super::string::mcandle_tokens;
use crate::models::FimContext;
use std::ffi::c_char;

/// What a model is shown of a repository before the file that it completes.
#[derive(Debug)]
pub struct mcandle_fim_context {
    pub(super) inner: FimContext,
}

/// Makes a context without a repository, files or a path.
///
/// @return A context, to be freed with mcandle_fim_context_free().
#[must_use]
#[unsafe(no_mangle)]
pub extern "C" fn mcandle_fim_context_new() -> *mut mcandle_fim_context {
    Box::into_raw(Box::new(mcandle_fim_context {
        inner: FimContext::default(),
    }))
}

/// # Safety
///
/// `text` is NULL, for none, or a NUL-terminated string.
unsafe fn optional(text: *const c_char, name: &str) -> Result<Option<String>> {
    if text.is_null() {
        return Ok(None);
    }
    // SAFETY: as the caller promises.
    unsafe { handle::string(text, name) }.map(|text| Some(text.to_owned()))
}

/// Sets the name of the repository.
///
/// @param[in,out] context The context.
/// @param[in] repo_name The name, NUL-terminated UTF-8; it is copied. NULL for none.
/// @param[out] error Receives an error on failure; may be NULL.
/// @return MCANDLE_OK, or MCANDLE_INVALID_UTF8, MCANDLE_NULL_POINTER.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_fim_context_set_repo_name(
    context: *mut mcandle_fim_context,
    repo_name: *const c_char,
    error: *mut *mut mcandle_error,
) -> mcandle_status {
    // SAFETY: the caller passes a context that nobody else uses now and a NUL-terminated string, or
    // NULL.
    unsafe {
        guard(error, || {
            borrow_mut(context, "context")?.inner.repo_name = optional(repo_name, "repo_name")?;
            Ok(())
        })
    }
}

/// Sets the path of the file that is completed.
///
/// @param[in,out] context The context.
/// @param[in] path The path in the repository, NUL-terminated UTF-8; it is copied. NULL for none.
/// @param[out] error Receives an error on failure; may be NULL.
/// @return MCANDLE_OK, or MCANDLE_INVALID_UTF8, MCANDLE_NULL_POINTER.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_fim_context_set_path(
    context: *mut mcandle_fim_context,
    path: *const c_char,
    error: *mut *mut mcandle_error,
) -> mcandle_status {
    // SAFETY: the caller passes a context that nobody else uses now and a NUL-terminated string, or
    // NULL.
    unsafe {
        guard(error, || {
            borrow_mut(context, "context")?.inner.path = optional(path, "path")?;
            Ok(())
        })
    }
}

/// Adds another file of the repository, the most relevant one last.
///
/// @param[in,out] context The context.
/// @param[in] path The path in the repository, NUL-terminated UTF-8; it is copied.
/// @param[in] text The content in UTF-8; it is copied. May be NULL where the length is 0.
/// @param[in] text_length Its length in bytes.
/// @param[out] error Receives an error on failure; may be NULL.
/// @return MCANDLE_OK, or MCANDLE_INVALID_UTF8, MCANDLE_NULL_POINTER.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_fim_context_add_file(
    context: *mut mcandle_fim_context,
    path: *const c_char,
    text: *const c_char,
    text_length: usize,
    error: *mut *mut mcandle_error,
) -> mcandle_status {
    // SAFETY: the caller passes a context that nobody else uses now and readable texts, or NULL.
    unsafe {
        guard(error, || {
            let context = borrow_mut(context, "context")?;
            let path = handle::string(path, "path")?.to_owned();
            let text = handle::text(text, text_length, "text")?.to_owned();
            context.inner.files.push((path, text));
            Ok(())
        })
    }
}

/// Frees a context.
///
/// @param[in] context The context; NULL is allowed and does nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_fim_context_free(context: *mut mcandle_fim_context) {
    // SAFETY: the caller passes NULL or a context that it owns.
    unsafe { handle::free(context) }
}

/// Makes the prompt for the code between a prefix and a suffix, for
/// mcandle_generator_generate_from_ids().
///
/// It has the tokens that the model was trained with: those of Qwen2.5-Coder, StarCoder,
/// DeepSeek-Coder or Code Llama. Special tokens that the code spells are text.
///
/// @param[in] model The model.
/// @param[in] prefix The code before in UTF-8; may be NULL where the length is 0.
/// @param[in] prefix_length Its length in bytes.
/// @param[in] suffix The code after in UTF-8; may be NULL where the length is 0.
/// @param[in] suffix_length Its length in bytes.
/// @param[in] context What else of the repository the model is shown, or NULL.
/// @param[out] tokens Receives the ids on success, to be freed with mcandle_tokens_free().
/// @param[out] error Receives an error on failure; may be NULL.
/// @return MCANDLE_OK, or MCANDLE_TOKENIZER where the model has no tokenizer or its vocabulary no such
/// tokens, MCANDLE_INVALID_UTF8, MCANDLE_NULL_POINTER.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_model_fim_prompt(
    model: *const mcandle_model,
    prefix: *const c_char,
    prefix_length: usize,
    suffix: *const c_char,
    suffix_length: usize,
    context: *const mcandle_fim_context,
    tokens: *mut *mut mcandle_tokens,
    error: *mut *mut mcandle_error,
) -> mcandle_status {
    // SAFETY: the caller passes live objects, readable texts and writable outputs, or NULL.
    unsafe {
        guard(error, || {
            let model = borrow(model, "model")?;
            let prefix = handle::text(prefix, prefix_length, "prefix")?;
            let suffix = handle::text(suffix, suffix_length, "suffix")?;
            let out = Out::new(tokens, "tokens")?;
            let context = context.as_ref().map(|context| context.inner.clone());
            let context = context.unwrap_or_default();
            let ids = model
                .inner
                .fim_prompt_with_context(prefix, suffix, &context)?;
            out.give(mcandle_tokens { ids });
            Ok(())
        })
    }
}

/// Gives the tokens that end a middle, for mcandle_generate_options_add_stop_token_id().
///
/// @param[in] model The model.
/// @param[out] tokens Receives the ids on success, to be freed with mcandle_tokens_free().
/// @param[out] error Receives an error on failure; may be NULL.
/// @return MCANDLE_OK, or MCANDLE_TOKENIZER where the model has no tokenizer or its vocabulary no
/// tokens for the middle, MCANDLE_NULL_POINTER.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_model_fim_stop_tokens(
    model: *const mcandle_model,
    tokens: *mut *mut mcandle_tokens,
    error: *mut *mut mcandle_error,
) -> mcandle_status {
    // SAFETY: the caller passes a live model and writable outputs, or NULL.
    unsafe {
        guard(error, || {
            let model = borrow(model, "model")?;
            let out = Out::new(tokens, "tokens")?;
            let ids = model.inner.fim_stop_token_ids()?;
            out.give(mcandle_tokens { ids });
            Ok(())
        })
    }
}

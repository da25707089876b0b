//! What a generation starts from, as the C functions take it.

use super::chat::json;
use super::fim::mcandle_fim_context;
use super::handle::{self, Result};
use crate::inference::{Chunk, GenerateOptions, Generation, Generator};
use crate::models::{ChatOptions, FimContext};
use serde_json::Value;
use std::ffi::c_char;
use std::ops::ControlFlow;

/// A copy of what the caller gave, so that it can be taken to another thread.
pub(super) enum Prompt {
    Text(String),
    Ids(Vec<u32>),
    Chat {
        messages: Value,
        options: ChatOptions,
    },
    Middle {
        prefix: String,
        suffix: String,
        context: FimContext,
    },
}

impl Prompt {
    /// # Safety
    ///
    /// `prompt` is NULL or points to `len` readable bytes.
    pub unsafe fn text(prompt: *const c_char, len: usize) -> Result<Self> {
        // SAFETY: as the caller promises.
        let text = unsafe { handle::text(prompt, len, "prompt") }?;
        Ok(Self::Text(text.to_owned()))
    }

    /// # Safety
    ///
    /// `ids` is NULL or points to `count` readable ids.
    pub unsafe fn ids(ids: *const u32, count: usize) -> Result<Self> {
        // SAFETY: as the caller promises.
        let ids = unsafe { handle::items(ids, count, "ids") }?;
        Ok(Self::Ids(ids.to_vec()))
    }

    /// # Safety
    ///
    /// Both texts are NULL or have as many readable bytes as their lengths say.
    pub unsafe fn chat(
        messages: *const c_char,
        messages_len: usize,
        options: *const c_char,
        options_len: usize,
    ) -> Result<Self> {
        // SAFETY: as the caller promises.
        unsafe {
            let text = handle::text(messages, messages_len, "messages")?;
            let messages = json(text, "messages", "JSON")?;
            let options = if options.is_null() {
                ChatOptions::default()
            } else {
                let text = handle::text(options, options_len, "chat_options")?;
                ChatOptions::from_json(&json(text, "chat_options", "JSON")?)?
            };
            Ok(Self::Chat { messages, options })
        }
    }

    /// # Safety
    ///
    /// Both texts are NULL or have as many readable bytes as their lengths say; the context is NULL or
    /// live.
    pub unsafe fn middle(
        prefix: *const c_char,
        prefix_len: usize,
        suffix: *const c_char,
        suffix_len: usize,
        context: *const mcandle_fim_context,
    ) -> Result<Self> {
        // SAFETY: as the caller promises.
        unsafe {
            let prefix = handle::text(prefix, prefix_len, "prefix")?.to_owned();
            let suffix = handle::text(suffix, suffix_len, "suffix")?.to_owned();
            let context = context.as_ref().map(|context| context.inner.clone());
            Ok(Self::Middle {
                prefix,
                suffix,
                context: context.unwrap_or_default(),
            })
        }
    }

    pub fn generate(
        &self,
        generator: &mut Generator,
        options: &GenerateOptions,
        on_chunk: impl FnMut(&Chunk) -> ControlFlow<()>,
    ) -> crate::Result<Generation> {
        match self {
            Self::Text(text) => generator.generate(text, options, on_chunk),
            Self::Ids(ids) => generator.generate_from_ids(ids, options, on_chunk),
            Self::Chat {
                messages,
                options: chat,
            } => generator.chat(messages, chat, options, on_chunk),
            Self::Middle {
                prefix,
                suffix,
                context,
            } => generator.complete(prefix, suffix, context, options, on_chunk),
        }
    }
}

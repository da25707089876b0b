//! Generations whose prompt is made from something else than a text to go on with.

use super::{Chunk, GenerateOptions, Generation, Generator};
use crate::error::Result;
use crate::models::{ChatOptions, FimContext};
use serde_json::Value;
use std::ops::ControlFlow;

impl Generator {
    /// Answers the last message of a conversation, by the chat template of the model.
    ///
    /// `messages` is an array of objects such as `{"role": "user", "content": "…"}`, the whole
    /// conversation each time; what the generator has read of it already is not read again. The
    /// answer is for the caller to append. [`ToolCallParser`](super::ToolCallParser) finds calls of
    /// tools in it.
    ///
    /// # Errors
    ///
    /// Those of [`ChatTemplate::render`](crate::models::ChatTemplate::render) and of
    /// [`Generator::generate`], and [`Error::FileNotFound`](crate::Error::FileNotFound) where the
    /// model has no chat template.
    ///
    /// # Example
    ///
    /// ```
    /// use metal_candle::models::ChatOptions;
    /// use metal_candle::{GenerateOptions, Generator, ModelLoader};
    /// use serde_json::json;
    /// use std::ops::ControlFlow;
    ///
    /// let model = ModelLoader::new().load("assets/tiny-coder")?;
    /// let mut generator = Generator::new(&model);
    /// let messages = json!([{"role": "user", "content": "Reverse a string."}]);
    /// let options = GenerateOptions { max_tokens: 16, ..GenerateOptions::default() };
    /// let answer = generator.chat(&messages, &ChatOptions::default(), &options, |chunk| {
    ///     print!("{}", chunk.text);
    ///     ControlFlow::Continue(())
    /// })?;
    /// # assert!(answer.tokens.len() <= 16);
    /// # Ok::<(), metal_candle::Error>(())
    /// ```
    pub fn chat(
        &mut self,
        messages: &Value,
        chat: &ChatOptions,
        options: &GenerateOptions,
        on_chunk: impl FnMut(&Chunk) -> ControlFlow<()>,
    ) -> Result<Generation> {
        let prompt = self.model().chat_template()?.render(messages, chat)?;
        // The template has written all special tokens that the prompt needs.
        let ids = self.model().tokenizer()?.encode(&prompt, false)?;
        self.generate_from_ids(&ids, options, on_chunk)
    }
    /// Writes the code between `prefix` and `suffix`, with the tokens that the model has for it.
    ///
    /// The text ends at the tokens of [`Model::fim_stop_token_ids`](crate::Model::fim_stop_token_ids)
    /// too. `context` shows the model other files; the default is none.
    ///
    /// # Errors
    ///
    /// Those of [`Model::fim_prompt`](crate::Model::fim_prompt) and of [`Generator::generate`].
    ///
    /// # Example
    ///
    /// ```
    /// use metal_candle::models::FimContext;
    /// use metal_candle::{GenerateOptions, Generator, ModelLoader};
    /// use std::ops::ControlFlow;
    ///
    /// let model = ModelLoader::new().load("assets/tiny-coder")?;
    /// let mut generator = Generator::new(&model);
    /// let options = GenerateOptions { max_tokens: 16, ..GenerateOptions::default() };
    /// let (prefix, suffix) = ("fn add(a: u32, b: u32) -> u32 {\n    ", "\n}\n");
    /// let middle = generator.complete(prefix, suffix, &FimContext::default(), &options, |_| {
    ///     ControlFlow::Continue(())
    /// })?;
    /// # assert!(middle.tokens.len() <= 16);
    /// # Ok::<(), metal_candle::Error>(())
    /// ```
    pub fn complete(
        &mut self,
        prefix: &str,
        suffix: &str,
        context: &FimContext,
        options: &GenerateOptions,
        on_chunk: impl FnMut(&Chunk) -> ControlFlow<()>,
    ) -> Result<Generation> {
        let model = self.model();
        let prompt = model.fim_prompt_with_context(prefix, suffix, context)?;
        let mut options = options.clone();
        options.stop_token_ids.extend(model.fim_stop_token_ids()?);
        self.generate_from_ids(&prompt, &options, on_chunk)
    }
}

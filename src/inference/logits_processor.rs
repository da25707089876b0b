//! A host program's say in the choice of tokens.

use crate::error::Result;
use std::fmt;

/// Changes the logits of each token before it is chosen.
///
/// It comes first: penalties, constraints and filters work on what it leaves. A logit of negative
/// infinity forbids its token.
///
/// Closures are processors too.
///
/// # Example
///
/// ```
/// use metal_candle::{GenerateOptions, Generator, ModelLoader, Result};
/// use std::ops::ControlFlow;
///
/// let model = ModelLoader::new().load("assets/tiny-coder")?;
/// let newline = model.tokenizer()?.encode("\n", false)?[0] as usize;
/// let mut generator = Generator::new(&model);
/// generator.set_logits_processor(move |_: &[u32], logits: &mut [f32]| {
///     logits[newline] = f32::NEG_INFINITY;
///     Ok(())
/// });
/// let options = GenerateOptions { max_tokens: 16, ..GenerateOptions::default() };
/// let generation = generator.generate("fn main() {", &options, |_| ControlFlow::Continue(()))?;
/// assert!(!generation.tokens.contains(&(newline as u32)));
/// # Ok::<(), metal_candle::Error>(())
/// ```
pub trait LogitsProcessor: Send {
    /// Changes `logits`, one for each entry of the vocabulary, of the token that follows `tokens`:
    /// the prompt and what was generated.
    ///
    /// # Errors
    ///
    /// Any error ends the generation and is returned by it.
    fn process(&mut self, tokens: &[u32], logits: &mut [f32]) -> Result<()>;
}

impl<F: FnMut(&[u32], &mut [f32]) -> Result<()> + Send> LogitsProcessor for F {
    fn process(&mut self, tokens: &[u32], logits: &mut [f32]) -> Result<()> {
        self(tokens, logits)
    }
}

/// A processor of any type.
pub(super) struct AnyProcessor(pub Box<dyn LogitsProcessor>);

impl fmt::Debug for AnyProcessor {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("LogitsProcessor")
    }
}

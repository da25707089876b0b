//! The text of a generation as its tokens come: whole characters, up to a stop string.

use super::stop::{Matched, StopMatcher};
use super::{Detokenizer, GenerateOptions};
use crate::error::Result;
use crate::models::Tokenizer;

/// Tokens of the prompt that decide how the first generated one is written.
const LAST_OF_PROMPT: usize = 4;

/// Text from tokens that continue a prompt.
#[derive(Debug)]
pub(super) struct TextStream {
    detokenizer: Detokenizer,
    stop: StopMatcher,
}

impl TextStream {
    /// The text that follows `prompt`. It may begin with a space, which some tokenizers leave out at
    /// the start of a text, and with the rest of a character that the prompt began.
    pub fn new(tokenizer: &Tokenizer, prompt: &[u32], options: &GenerateOptions) -> Result<Self> {
        let skip = options.skip_special_tokens;
        let mut detokenizer = Detokenizer::new(tokenizer).skip_special_tokens(skip);
        for &id in &prompt[prompt.len().saturating_sub(LAST_OF_PROMPT)..] {
            detokenizer.push(id)?;
        }
        Ok(Self {
            detokenizer,
            stop: StopMatcher::new(&options.stop),
        })
    }

    pub fn push(&mut self, token: u32) -> Result<Matched> {
        Ok(match self.detokenizer.push(token)? {
            Some(text) => self.stop.push(&text),
            None => Matched::default(),
        })
    }

    /// The text that was held back.
    pub fn finish(&mut self) -> Result<String> {
        let rest = self.detokenizer.finish()?.unwrap_or_default();
        let mut matched = self.stop.push(&rest);
        if matched.stop.is_none() {
            matched.text.push_str(&self.stop.finish());
        }
        Ok(matched.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inference::detokenizer::tests::byte_fallback;

    /// What `ids` add to the text of `prompt`.
    fn text(prompt: &[u32], ids: &[u32]) -> String {
        let options = GenerateOptions::default();
        let mut stream = TextStream::new(&byte_fallback(), prompt, &options).unwrap();
        let mut text: String = ids
            .iter()
            .map(|&id| stream.push(id).unwrap().text)
            .collect();
        text.push_str(&stream.finish().unwrap());
        text
    }

    #[test]
    fn a_space_at_the_start_is_kept_after_a_prompt_only() {
        let (a, space_b, end) = (258, 259, 260);
        assert_eq!(text(&[a], &[space_b, a]), " ba");
        assert_eq!(text(&[a, space_b, a, a, a, end], &[space_b]), " b");
        // After a special token alone the text begins.
        assert_eq!(text(&[end], &[space_b, a]), "ba");
    }

    #[test]
    fn a_character_that_the_prompt_began_is_finished() {
        let bytes: Vec<u32> = "é".bytes().map(|byte| 1 + u32::from(byte)).collect();
        assert_eq!(text(&[258, bytes[0]], &[bytes[1], 258]), "éa");
    }
}

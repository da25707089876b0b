//! Text from token ids, as the ids come.

use crate::Result;
use crate::models::Tokenizer;

/// The most ids to hold back; a code point has at most four bytes, so well-formed text never
/// needs as many.
const MAX_HELD: usize = 16;

/// Decodes a sequence of token ids piece by piece.
///
/// A token can end in the middle of a code point, and a decoder can treat the first token of a text
/// in its own way. So each id is decoded after the ids of the piece before, and text is given out
/// only once its code points are complete. The cost of an id does not grow with the sequence.
///
/// The pieces joined are the text of [`Tokenizer::decode`] for all ids. The exception is a tokenizer with byte fallback: if bytes that are not UTF-8 follow
/// bytes that are, the whole run of bytes decodes to replacement characters, but its good start
/// has been given out already.
///
/// # Example
///
/// ```no_run
/// use std::path::Path;
///
/// use metal_candle::inference::Detokenizer;
/// use metal_candle::models::Tokenizer;
///
/// if let Some(tokenizer) = Tokenizer::from_dir(Path::new("model"))? {
///     let mut detokenizer = Detokenizer::new(&tokenizer);
///     let mut text = String::new();
///     for id in tokenizer.encode("naïve 🦀", false)? {
///         text.extend(detokenizer.push(id)?);
///     }
///     text.extend(detokenizer.finish()?);
///     assert_eq!(text, "naïve 🦀");
/// }
/// # Ok::<(), metal_candle::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Detokenizer {
    tokenizer: Tokenizer,
    skip_special_tokens: bool,
    /// The ids of the last piece, then the ids held back.
    window: Vec<u32>,
    /// Number of ids of the last piece: where the ids held back start.
    held_start: usize,
    /// The text of `window[..held_start]`, which has been given out.
    given: String,
}

impl Detokenizer {
    /// A detokenizer at the start of a sequence.
    #[must_use]
    pub fn new(tokenizer: &Tokenizer) -> Self {
        Self {
            tokenizer: tokenizer.clone(),
            skip_special_tokens: true,
            window: Vec::new(),
            held_start: 0,
            given: String::new(),
        }
    }

    /// Whether special tokens are left out of the text, as they are by default.
    #[must_use]
    pub fn skip_special_tokens(mut self, skip: bool) -> Self {
        self.skip_special_tokens = skip;
        self
    }

    /// Takes the next id and returns the text that is now complete, if there is any.
    ///
    /// # Errors
    ///
    /// [`Error::Tokenizer`](crate::Error::Tokenizer) if the tokenizer cannot decode the id.
    pub fn push(&mut self, id: u32) -> Result<Option<String>> {
        self.window.push(id);
        let text = self.decode(&self.window)?;
        if text == self.given && self.is_silent(id)? {
            // Forget it, or a long run of such ids would fill the window.
            self.window.pop();
            return Ok(None);
        }
        if text.len() > self.given.len() && !text.ends_with(char::REPLACEMENT_CHARACTER) {
            let piece = self.piece(&text)?;
            self.window.drain(..self.held_start);
            self.held_start = self.window.len();
            self.given = self.decode(&self.window)?;
            return Ok(Some(piece));
        }
        if self.window.len() - self.held_start < MAX_HELD {
            return Ok(None);
        }
        self.flush_malformed(&text)
    }

    /// Returns the text still held back, if there is any; the end of a code point is missing from
    /// it. The next [`push`](Self::push) starts a new sequence.
    ///
    /// # Errors
    ///
    /// [`Error::Tokenizer`](crate::Error::Tokenizer) if the tokenizer cannot decode the ids.
    pub fn finish(&mut self) -> Result<Option<String>> {
        let text = self.decode(&self.window)?;
        let piece = self.piece(&text)?;
        self.window.clear();
        self.held_start = 0;
        self.given.clear();
        Ok(non_empty(piece))
    }

    fn decode(&self, ids: &[u32]) -> Result<String> {
        self.tokenizer.decode(ids, self.skip_special_tokens)
    }

    /// Whether an id never adds text: a special token, or an id outside the vocabulary.
    ///
    /// It is decoded twice in a row because decoders may strip a space at the start of a text.
    fn is_silent(&self, id: u32) -> Result<bool> {
        Ok(self.decode(&[id, id])?.is_empty())
    }

    /// The part of `text`, the text of the window or its start, that has not been given out.
    fn piece(&self, text: &str) -> Result<String> {
        match text.strip_prefix(&self.given) {
            Some(piece) => Ok(piece.to_owned()),
            // The ids held back changed the text before them: see the exception above.
            None => self.decode(&self.window[self.held_start..]),
        }
    }

    /// Gives out ids that do not become text, such as a run of stray continuation bytes.
    ///
    /// A code point may still have begun at the end. So the window is cut at the last place, before
    /// its last id, where the texts of both sides make up the text of the whole: there, no code
    /// point is torn.
    fn flush_malformed(&mut self, text: &str) -> Result<Option<String>> {
        for cut in (self.held_start + 1..self.window.len()).rev() {
            let (head, tail) = self.window.split_at(cut);
            let head = self.decode(head)?;
            if text.strip_prefix(&head) == Some(&self.decode(tail)?) {
                let piece = self.piece(&head)?;
                self.window.drain(..cut);
                self.held_start = 0;
                self.given.clear();
                return Ok(non_empty(piece));
            }
        }
        let piece = self.piece(text)?;
        self.window.clear();
        self.held_start = 0;
        self.given.clear();
        Ok(non_empty(piece))
    }
}

fn non_empty(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

#[cfg(test)]
pub(super) mod tests {
    use std::path::Path;

    use serde_json::{Map, json};

    use super::*;

    fn tiny_coder() -> Tokenizer {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/tiny-coder");
        Tokenizer::from_dir(&dir).unwrap().unwrap()
    }

    /// A tokenizer of the Llama 2 kind: `▁` for a space, stripped at the start, and byte tokens.
    pub fn byte_fallback() -> Tokenizer {
        let mut vocab = Map::new();
        vocab.insert("<unk>".to_owned(), json!(0));
        for byte in 0..=255_u8 {
            vocab.insert(format!("<0x{byte:02X}>"), json!(1 + u32::from(byte)));
        }
        for (id, token) in (257..).zip(["▁", "a", "▁b"]) {
            vocab.insert(token.to_owned(), json!(id));
        }
        let json = json!({
            "version": "1.0",
            "added_tokens": [{"id": 260, "content": "</s>", "single_word": false, "lstrip": false,
                "rstrip": false, "normalized": false, "special": true}],
            "decoder": {"type": "Sequence", "decoders": [
                {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
                {"type": "ByteFallback"}, {"type": "Fuse"},
                {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
            "model": {"type": "BPE", "unk_token": "<unk>", "byte_fallback": true,
                "vocab": vocab, "merges": []},
        });
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("tokenizer.json"), json.to_string()).unwrap();
        Tokenizer::from_dir(dir.path()).unwrap().unwrap()
    }

    /// Pushes all ids and checks the invariant; returns the pieces.
    fn stream(tokenizer: &Tokenizer, ids: &[u32]) -> Vec<String> {
        let mut detokenizer = Detokenizer::new(tokenizer);
        let mut pieces = Vec::new();
        for &id in ids {
            pieces.extend(detokenizer.push(id).unwrap());
            assert!(detokenizer.window.len() < 3 * MAX_HELD);
        }
        pieces.extend(detokenizer.finish().unwrap());
        assert!(pieces.iter().all(|piece| !piece.is_empty()));
        assert_eq!(pieces.concat(), tokenizer.decode(ids, true).unwrap());
        pieces
    }

    #[test]
    fn pieces_make_up_the_text() {
        let tokenizer = tiny_coder();
        for text in [
            "fn main() {\n    let x = vec![1, 2];\n\tprintln!(\"{x:?}\");\r\n}\n",
            "中文字符与代码 混排",
            "🦀👩‍👩‍👧‍👦🏳️‍🌈 done",
            "e\u{301}\u{327}o\u{308} Z\u{335}\u{321}\u{32b}",
            "def f():<|endoftext|>  return 'é'",
            "real replacement \u{FFFD} \u{FFFD}",
            " ",
            "",
        ] {
            let ids = tokenizer.encode(text, false).unwrap();
            let pieces = stream(&tokenizer, &ids);
            if !text.contains(char::REPLACEMENT_CHARACTER) {
                assert!(!pieces.concat().contains(char::REPLACEMENT_CHARACTER));
            }
        }
    }

    #[test]
    fn plain_text_is_not_delayed() {
        let tokenizer = tiny_coder();
        let ids = tokenizer.encode("let total = a + b;", false).unwrap();
        assert_eq!(stream(&tokenizer, &ids).len(), ids.len());
    }

    #[test]
    fn a_truncated_emoji_comes_out_at_the_end() {
        let tokenizer = tiny_coder();
        let ids = tokenizer.encode("ok 🦀", false).unwrap();
        let pieces = stream(&tokenizer, &ids[..ids.len() - 1]);
        assert_eq!(pieces.last().unwrap(), "\u{FFFD}");
        assert!(pieces[..pieces.len() - 1].concat().starts_with("ok"));
    }

    #[test]
    fn special_tokens_and_unknown_ids_are_silent() {
        let tokenizer = tiny_coder();
        let eos = tokenizer.token_to_id("<|endoftext|>").unwrap();
        let crab = tokenizer.encode("🦀", false).unwrap();
        let mut ids = vec![eos; 100];
        for id in crab {
            ids.extend([id, eos, 4_000_000]);
        }
        ids.extend([eos; 100]);
        assert_eq!(stream(&tokenizer, &ids), ["🦀"]);
    }

    #[test]
    fn malformed_bytes_are_bounded_and_do_not_tear_what_follows() {
        let tokenizer = tiny_coder();
        let crab = tokenizer.encode("🦀", false).unwrap();
        let continuation = *crab.last().unwrap();
        for count in 0..40 {
            let mut ids = vec![continuation; count];
            ids.extend(&crab);
            ids.extend([crab[0]; 40]);
            ids.extend(&crab[1..]);
            ids.extend(tokenizer.encode(" end", false).unwrap());
            stream(&tokenizer, &ids);
        }
    }

    #[test]
    fn any_sequence_of_ids_keeps_the_invariant() {
        let tokenizer = tiny_coder();
        let mut state = 1_u32;
        for length in 0..60 {
            let ids: Vec<u32> = (0..length)
                .map(|_| {
                    state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    // Ids below 256 are single bytes: make them frequent.
                    if state >> 31 == 0 {
                        (state >> 16) % 256
                    } else {
                        (state >> 16) % 6144
                    }
                })
                .collect();
            stream(&tokenizer, &ids);
        }
    }

    #[test]
    fn byte_fallback_and_stripped_spaces() {
        let tokenizer = byte_fallback();
        let (space, a, space_b, eos) = (257, 258, 259, 260);
        let byte = |byte: u8| 1 + u32::from(byte);
        let mut bytes: Vec<u32> = "中文字符与代码🦀".bytes().map(byte).collect();
        bytes.push(space_b);
        assert_eq!(stream(&tokenizer, &bytes).len(), 9);
        stream(&tokenizer, &[space_b, space_b, a]);
        stream(&tokenizer, &[space, space, space_b]);
        stream(
            &tokenizer,
            &[eos, space, eos, space_b, eos, eos, space_b, space, space],
        );
        stream(&tokenizer, &[byte(0x80), space_b, byte(0xE4), space_b]);
        stream(&tokenizer, &[&[byte(0x80); 40][..], &[space_b, a]].concat());
    }

    #[test]
    fn byte_fallback_survives_the_exception() {
        let tokenizer = byte_fallback();
        let mut ids: Vec<u32> = "中".bytes().map(|byte| 1 + u32::from(byte)).collect();
        ids.extend([1 + 0xE4, 258]);
        let mut detokenizer = Detokenizer::new(&tokenizer);
        let pieces: String = ids
            .iter()
            .filter_map(|&id| detokenizer.push(id).unwrap())
            .collect();
        assert_eq!(pieces, "中\u{FFFD}a");
    }
}

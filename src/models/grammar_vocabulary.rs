//! The bytes of every token, as the trie that grammars are applied with.

use std::fmt;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use llguidance::panic_utils::catch_unwind;
use llguidance::toktrie::{INVALID_TOKEN, TokEnv, TokRxInfo, TokTrie, TokenizerEnv};
use llguidance::{ParserFactory, api::ParserLimits};
use serde_json::Value;

use super::Tokenizer;
use crate::{Error, Result};

/// The largest vocabulary that the trie can hold, in tokens.
const MAX_VOCAB_SIZE: usize = (1 << 24) - 2;

/// The longest token that a grammar can produce, in bytes. The trie recurses along a token.
const MAX_TOKEN_BYTES: usize = 512;

/// States of the lexer of a grammar, of 1 to 2 kB each; the usual schema has a few hundred.
const MAX_LEXER_STATES: usize = 50_000;

/// The vocabulary of a tokenizer, prepared for grammars.
///
/// It is made once for a model, which takes a second or two and 80 MB for 150 000 tokens, and serves any number
/// of [`Constraint`](crate::inference::Constraint)s. Cloning is cheap and shares it.
///
/// Each token stands for the bytes that it adds to a text. Added tokens, special or not, stand for
/// none: no grammar produces them as text, not even where it asks for their spelling. The same goes
/// for ids without a token, which pad the logits of many models.
///
/// # Example
///
/// ```
/// use metal_candle::ModelLoader;
/// use metal_candle::models::GrammarVocabulary;
///
/// let model = ModelLoader::new().load("assets/tiny-coder")?;
/// let vocab_size = model.config().vocab_size;
/// GrammarVocabulary::new(model.tokenizer()?, model.eos_token_ids(), vocab_size)?;
/// # Ok::<(), metal_candle::Error>(())
/// ```
#[derive(Clone)]
pub struct GrammarVocabulary {
    factory: Arc<ParserFactory>,
    /// The tokens that Lark grammars can ask for by name, in ascending order.
    added: Arc<[u32]>,
}

impl GrammarVocabulary {
    /// Prepares the vocabulary of a tokenizer for logits of `vocab_size` tokens.
    ///
    /// `vocab_size` is that of the model's logits, which may be more or fewer than the tokenizer
    /// has tokens. `eos_token_ids` are the ids that end a text; they are allowed where the grammar
    /// lets the text end.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidOption`] if `vocab_size` is 0 or above 2²⁴ - 2, or an end-of-text id is not
    /// below it; [`Error::Tokenizer`] if the tokens are not pieces of the text, as with a tokenizer
    /// that puts spaces between all of them.
    pub fn new(tokenizer: &Tokenizer, eos_token_ids: &[u32], vocab_size: usize) -> Result<Self> {
        let size = u32::try_from(vocab_size).ok();
        let Some(size) = size.filter(|_| (1..=MAX_VOCAB_SIZE).contains(&vocab_size)) else {
            let expected = format!("a number of tokens from 1 to {MAX_VOCAB_SIZE}");
            return Err(Error::option("vocab_size", vocab_size, expected));
        };
        if let Some(id) = eos_token_ids.iter().find(|&&id| id >= size) {
            let expected = format!("ids below the size of the vocabulary, {size}");
            return Err(Error::option("eos_token_ids", id, expected));
        }
        let bytes = token_bytes(tokenizer, eos_token_ids, vocab_size)?;
        let tokenizer = tokenizer.clone();
        let build = AssertUnwindSafe(|| {
            let eos = eos_token_ids.first().copied().unwrap_or(INVALID_TOKEN);
            let mut trie = TokTrie::from(&TokRxInfo::new(size, eos), &bytes);
            if !eos_token_ids.is_empty() {
                trie = trie.with_eos_tokens(eos_token_ids);
            }
            let environment: TokEnv = Arc::new(Environment { tokenizer, trie });
            let mut factory = ParserFactory::new_simple(&environment)?;
            factory.quiet();
            *factory.limits_mut() = ParserLimits {
                max_lexer_states: MAX_LEXER_STATES,
                verbose_errors: false,
                ..ParserLimits::default()
            };
            let added = (0..size).filter(|&id| environment.tok_trie().is_special_token(id));
            Ok(Self {
                factory: Arc::new(factory),
                added: added.collect(),
            })
        });
        catch_unwind(build).map_err(|error| Error::Tokenizer {
            reason: format!("its vocabulary cannot be used for grammars: {error}"),
        })
    }

    pub(crate) fn factory(&self) -> &ParserFactory {
        &self.factory
    }

    pub(crate) fn added(&self) -> &[u32] {
        &self.added
    }

    pub(crate) fn trie(&self) -> &TokTrie {
        self.factory.tok_env().tok_trie()
    }
}

impl fmt::Debug for GrammarVocabulary {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("GrammarVocabulary")
            .field("vocab_size", &self.trie().vocab_size())
            .field("eos_token_ids", &self.trie().eos_tokens())
            .finish_non_exhaustive()
    }
}

/// What the grammar library asks of a tokenizer.
struct Environment {
    tokenizer: Tokenizer,
    trie: TokTrie,
}

impl Environment {
    /// The tokens of a text inside a longer one.
    ///
    /// Some tokenizers treat the start of a text in their own way, by a space before it. So where
    /// the tokens of the text alone are not its bytes, it is tried after a control character,
    /// whose tokens are then taken off; and where that fails too, as for a text that a normalizer
    /// changes or that spells an added token, the longest tokens are taken one after the other.
    fn tokens_of(&self, text: &str) -> Vec<u32> {
        const LEAD: &str = "\u{2}";
        let encode = |text: &str| self.tokenizer.encode(text, false).unwrap_or_default();
        let spells = |ids: &[u32]| {
            let mut rest = text.as_bytes();
            ids.iter().all(|&id| {
                let token = self.trie.token(id);
                let next = rest.strip_prefix(token).filter(|_| !token.is_empty());
                rest = next.unwrap_or_default();
                next.is_some()
            }) && rest.is_empty()
        };
        let ids = encode(text);
        if spells(&ids) {
            return ids;
        }
        let lead = encode(LEAD);
        let ids = encode(&format!("{LEAD}{text}"));
        match ids.strip_prefix(lead.as_slice()) {
            Some(ids) if spells(ids) => ids.to_vec(),
            _ => self.trie.greedy_tokenize(text.as_bytes()),
        }
    }
}

impl TokenizerEnv for Environment {
    fn tok_trie(&self) -> &TokTrie {
        &self.trie
    }

    fn tokenize_bytes(&self, bytes: &[u8]) -> Vec<u32> {
        self.trie
            .tokenize_with_greedy_fallback(bytes, |text| self.tokens_of(text))
    }
}

/// The bytes of each id below `vocab_size`.
///
/// Added tokens get their spelling behind a byte that no text has, by which Lark grammars can ask
/// for them. End-of-text tokens, ids without a token, and tokens that no text has get no bytes.
fn token_bytes(
    tokenizer: &Tokenizer,
    eos_token_ids: &[u32],
    vocab_size: usize,
) -> Result<Vec<Vec<u8>>> {
    const MARKER: u8 = TokTrie::SPECIAL_TOKEN_MARKER;
    let spelling = Spelling::of(tokenizer)?;
    let added = tokenizer.inner().get_added_tokens_decoder();
    let bytes = (0..).take(vocab_size).map(|id| {
        if eos_token_ids.contains(&id) {
            return Vec::new();
        }
        if let Some(token) = added.get(&id) {
            return [&[MARKER], token.content.as_bytes()].concat();
        }
        let bytes = tokenizer
            .id_to_token(id)
            .map(|token| spelling.bytes(&token));
        bytes
            .filter(|bytes| bytes.len() <= MAX_TOKEN_BYTES && !bytes.contains(&MARKER))
            .unwrap_or_default()
    });
    Ok(bytes.collect())
}

/// How the tokens of a vocabulary spell bytes, read off the decoder of the tokenizer.
#[derive(Debug, Default)]
struct Spelling {
    /// Characters stand for bytes, as in GPT-2.
    byte_level: bool,
    /// Tokens such as `<0xE4>` stand for a byte, as in Llama 2.
    byte_fallback: bool,
    /// Strings in the tokens, and what they stand for: `▁` and a space.
    replacements: Vec<(String, String)>,
}

impl Spelling {
    fn of(tokenizer: &Tokenizer) -> Result<Self> {
        let unusable = |what: &str| Error::Tokenizer {
            reason: format!(
                "grammars need tokens that are pieces of the text, which {what} does not give"
            ),
        };
        let decoder = tokenizer.inner().get_decoder();
        let decoder = decoder.ok_or_else(|| unusable("a tokenizer without decoder"))?;
        let decoder = serde_json::to_value(decoder).map_err(|error| Error::Tokenizer {
            reason: error.to_string(),
        })?;
        let mut spelling = Self::default();
        let mut todo = vec![&decoder];
        while let Some(step) = todo.pop() {
            match step["type"].as_str().unwrap_or_default() {
                "Sequence" => todo.extend(step["decoders"].as_array().into_iter().flatten().rev()),
                "ByteLevel" => spelling.byte_level = true,
                "ByteFallback" => spelling.byte_fallback = true,
                "Metaspace" => spelling.replace(&step["replacement"], " "),
                "Replace" if step["pattern"]["String"].is_string() => {
                    let content = step["content"].as_str().unwrap_or_default();
                    spelling.replace(&step["pattern"]["String"], content);
                }
                // Strips spaces at the start of a whole text; a constrained one continues a text.
                "Fuse" | "Strip" => {}
                other => return Err(unusable(&format!("the decoder `{other}`"))),
            }
        }
        Ok(spelling)
    }

    fn replace(&mut self, pattern: &Value, content: &str) {
        let pattern = pattern.as_str().unwrap_or_default();
        self.replacements
            .push((pattern.to_owned(), content.to_owned()));
    }

    /// The bytes that a token adds to a text.
    fn bytes(&self, token: &str) -> Vec<u8> {
        if self.byte_fallback
            && let Some(byte) = fallback_byte(token)
        {
            return vec![byte];
        }
        let mut text = token.to_owned();
        for (pattern, content) in &self.replacements {
            text = text.replace(pattern, content);
        }
        if self.byte_level {
            // A character outside the alphabet makes the whole token stand for itself.
            let bytes: Option<Vec<u8>> = text.chars().map(byte_of).collect();
            return bytes.unwrap_or_else(|| text.into_bytes());
        }
        text.into_bytes()
    }
}

/// The byte of a token such as `<0xE4>`.
fn fallback_byte(token: &str) -> Option<u8> {
    let digits = token.strip_prefix("<0x")?.strip_suffix('>')?;
    let is_byte = digits.len() == 2 && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    u8::from_str_radix(digits, 16).ok().filter(|_| is_byte)
}

/// The byte that a character of GPT-2's alphabet stands for.
///
/// Bytes of printable characters of Latin-1 stand for themselves. The others are numbered from
/// U+0100 in their order: 0x00 to 0x20, 0x7F to 0xA0, 0xAD.
fn byte_of(character: char) -> Option<u8> {
    let code = u32::from(character);
    let byte = match code {
        0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF => code,
        0x100..=0x120 => code - 0x100,
        0x121..=0x142 => code - 0x121 + 0x7F,
        0x143 => 0xAD,
        _ => return None,
    };
    u8::try_from(byte).ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::inference::{Constraint, Grammar};

    /// A tokenizer with a decoder and a vocabulary, and `<tool>` as an added token that is not
    /// special.
    fn tokenizer(decoder: &Value, normalizer: &Value, tokens: &[&str]) -> Tokenizer {
        let vocab: serde_json::Map<_, _> = (0..)
            .zip(tokens)
            .map(|(id, token)| ((*token).to_owned(), json!(id)))
            .collect();
        let added = json!({"id": tokens.len(), "content": "<tool>", "single_word": false,
            "lstrip": false, "rstrip": false, "normalized": false, "special": false});
        let json = json!({"version": "1.0", "added_tokens": [added], "decoder": decoder,
            "normalizer": normalizer,
            "model": {"type": "BPE", "vocab": vocab, "merges": [], "byte_fallback": true}});
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("tokenizer.json"), json.to_string()).unwrap();
        Tokenizer::from_dir(dir.path()).unwrap().unwrap()
    }

    fn sentence_piece() -> Tokenizer {
        let decoder = json!({"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
            {"type": "ByteFallback"}, {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0}]});
        let normalizer = json!({"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "▁"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]});
        let tokens = [
            "</s>", "<0x02>", "<0xE4>", "▁", "▁a", "a", "b", "<0xZZ>", "<0x+1>",
        ];
        tokenizer(&decoder, &normalizer, &tokens)
    }

    fn bytes(tokenizer: &Tokenizer, eos: &[u32], size: usize) -> Vec<Vec<u8>> {
        let vocabulary = GrammarVocabulary::new(tokenizer, eos, size).unwrap();
        let ids = 0..u32::try_from(size).unwrap();
        ids.map(|id| vocabulary.trie().token(id).to_vec()).collect()
    }

    #[test]
    fn the_alphabet_of_bytes_is_that_of_the_tokenizers_library() {
        let decoder = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true,
            "use_regex": true});
        let library: tokenizers::DecoderWrapper = serde_json::from_value(decoder).unwrap();
        let mut seen = std::collections::HashSet::new();
        for character in (0..0x200).filter_map(char::from_u32) {
            if let Some(byte) = byte_of(character) {
                assert!(seen.insert(byte));
                let text = tokenizers::Decoder::decode(&library, vec![character.to_string()]);
                assert_eq!(text.unwrap(), String::from_utf8_lossy(&[byte]));
            }
        }
        assert_eq!(seen.len(), 256);
    }

    #[test]
    fn tokens_of_bytes() {
        let decoder = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true,
            "use_regex": true});
        let tokens = ["a", "Ġb", "ä½ł", "ä", "Ċ", "中", "ÿ", "<end>"];
        let tokenizer = tokenizer(&decoder, &json!(null), &tokens);
        let expected: [&[u8]; 10] = [
            b"a",
            b" b",
            "你".as_bytes(),
            &[0xE4],
            b"\n",
            "中".as_bytes(),
            b"",
            b"",
            b"\xFF<tool>",
            b"",
        ];
        assert_eq!(bytes(&tokenizer, &[7], 10), expected);
    }

    #[test]
    fn tokens_of_sentence_piece_with_byte_fallback() {
        let expected: [&[u8]; 10] = [
            b"",
            &[2],
            &[0xE4],
            b" ",
            b" a",
            b"a",
            b"b",
            b"<0xZZ>",
            b"<0x+1>",
            b"\xFF<tool>",
        ];
        assert_eq!(bytes(&sentence_piece(), &[0], 10), expected);
        // Fewer logits than tokens.
        assert_eq!(bytes(&sentence_piece(), &[0], 3), expected[..3]);
        let decoder = json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always",
            "split": true});
        let metaspace = tokenizer(&decoder, &json!(null), &["</s>", "▁a", "a▁▁"]);
        assert_eq!(bytes(&metaspace, &[0], 3), [&b""[..], b" a", b"a  "]);
    }

    #[test]
    fn plain_tokens_and_decoders_that_join_by_spaces() {
        let plain = tokenizer(&json!({"type": "Fuse"}), &json!(null), &["a", "größe", "▁"]);
        assert_eq!(
            bytes(&plain, &[], 3),
            ["a".as_bytes(), "größe".as_bytes(), "▁".as_bytes()]
        );
        let word_piece = json!({"type": "WordPiece", "prefix": "##", "cleanup": true});
        for (decoder, word) in [
            (json!(null), "without decoder"),
            (word_piece, "`WordPiece`"),
        ] {
            let tokenizer = tokenizer(&decoder, &json!(null), &["a"]);
            let error = GrammarVocabulary::new(&tokenizer, &[], 1).unwrap_err();
            assert!(matches!(error, Error::Tokenizer { .. }) && error.to_string().contains(word));
        }
    }

    #[test]
    fn a_text_inside_another_has_no_space_before_it() {
        let tokenizer = sentence_piece();
        let vocabulary = GrammarVocabulary::new(&tokenizer, &[0], 10).unwrap();
        let environment = vocabulary.factory().tok_env();
        let tokens = |text: &str| environment.tokenize_bytes(text.as_bytes());
        // The tokenizer itself puts "▁" before the text.
        assert_eq!(tokenizer.encode("ab", false).unwrap(), [3, 5, 6]);
        assert_eq!(tokens("ab"), [5, 6]);
        assert_eq!(tokens(" ab"), [3, 5, 6]);
        assert_eq!(environment.tokenize_bytes(b"a\xE4"), [5, 2]);
    }

    #[test]
    fn the_end_is_allowed_by_all_of_its_ids_or_by_the_text_itself() {
        let tokenizer = tokenizer(
            &json!({"type": "Fuse"}),
            &json!(null),
            &["a", "b", "c", "d"],
        );
        let grammar = Grammar::Regex("a*".to_owned());
        let allowed = |eos: &[u32], grammar: &Grammar| {
            let vocabulary = GrammarVocabulary::new(&tokenizer, eos, 6).unwrap();
            let mut constraint = Constraint::new(&vocabulary, grammar)?;
            let mut logits = [0.0; 6];
            constraint.mask(&mut logits)?;
            Ok::<_, Error>(logits.map(|logit| logit == 0.0))
        };
        let [a, b, c, d] = [true, false, true, true];
        assert_eq!(
            allowed(&[2, 3], &grammar).unwrap(),
            [a, b, c, d, false, false]
        );
        assert_eq!(
            allowed(&[], &grammar).unwrap(),
            [true, false, false, false, false, false]
        );
        // No token begins with "x".
        let error = allowed(&[2], &Grammar::Regex("x".to_owned()))
            .unwrap_err()
            .to_string();
        assert!(error.contains("no token of the vocabulary"), "{error}");
    }

    #[test]
    fn sizes_and_ids_out_of_range_are_errors() {
        let tokenizer = sentence_piece();
        for (eos, size, name) in [
            (0, 0, "vocab_size"),
            (0, 1 << 24, "vocab_size"),
            (9, 9, "eos_token_ids"),
        ] {
            let error = GrammarVocabulary::new(&tokenizer, &[eos], size).unwrap_err();
            assert!(error.to_string().contains(name), "{error}");
        }
    }
}

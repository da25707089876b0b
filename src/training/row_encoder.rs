//! From a line of JSON to a row of token ids.

use std::sync::Arc;

use super::conversation::Conversation;
use super::record::{self, Exchange, Record, RowResult};
use super::{DatasetOptions, LossMask, PreferencePair, Row, Sample};
use crate::models::{Model, Tokenizer};
use crate::{Error, Result};

/// Encodes the rows of a data set for a model.
#[derive(Debug)]
pub(super) struct RowEncoder {
    model: Model,
    tokenizer: Tokenizer,
    /// What ends a text that does not end itself.
    eos_token_id: Option<u32>,
    options: DatasetOptions,
}

/// A row, and whether it had to be cut.
pub(super) type Encoded = (Row, bool);

impl RowEncoder {
    pub(super) fn new(model: &Model, options: &DatasetOptions) -> Result<Self> {
        options.validate()?;
        let tokenizer = model.tokenizer()?.clone();
        let of_model = model.eos_token_ids().first().copied();
        Ok(Self {
            eos_token_id: tokenizer.eos_token_id().or(of_model),
            model: model.clone(),
            tokenizer,
            options: options.clone(),
        })
    }

    /// Encodes a line; `None` if it is blank, and the reason where it cannot be used.
    pub(super) fn encode(&self, line: &[u8], is_first: bool) -> RowResult<Option<Encoded>> {
        let Some(record) = record::parse(line, is_first, &self.options.fields)? else {
            return Ok(None);
        };
        let mask = self.options.mask;
        let mut was_cut = false;
        let mut cut = |mut sample: Sample| {
            was_cut |= sample.truncate(self.options.max_seq_length);
            sample
        };
        let row = match record {
            Record::Text(text) => Row::Sample(Arc::new(cut(self.text(&text)?))),
            Record::Exchange(exchange) => {
                Row::Sample(Arc::new(cut(self.exchange(&exchange, mask)?)))
            }
            Record::Middle {
                prefix,
                suffix,
                middle,
            } => Row::Sample(Arc::new(cut(self.middle(&prefix, &suffix, &middle)?))),
            Record::Preference { chosen, rejected } => {
                // Only the answers are compared, so the prompt is never scored.
                let mask = match mask {
                    LossMask::None => LossMask::Assistant,
                    mask => mask,
                };
                Row::Pair(Arc::new(PreferencePair {
                    chosen: cut(self.exchange(&chosen, mask)?),
                    rejected: cut(self.exchange(&rejected, mask)?),
                }))
            }
        };
        row.check()?;
        Ok(Some((row, was_cut)))
    }

    fn text(&self, text: &str) -> RowResult<Sample> {
        let mut ids = self.tokenizer.encode(text, true).map_err(reason)?;
        self.end(&mut ids);
        Ok(Sample::new(ids, 0))
    }

    fn exchange(&self, exchange: &Exchange, mask: LossMask) -> RowResult<Sample> {
        match exchange {
            Exchange::Text { prompt, answer } => {
                // Apart, so that the boundary between them is the same as in generation.
                let mut ids = self.tokenizer.encode(prompt, true).map_err(reason)?;
                let prompt_len = ids.len();
                ids.extend(self.tokenizer.encode(answer, false).map_err(reason)?);
                self.end(&mut ids);
                Ok(Sample::new(ids, masked(prompt_len, mask)))
            }
            Exchange::Messages {
                messages,
                prompt_len,
                tools,
            } => {
                let template = self.model.chat_template().map_err(reason)?;
                Conversation::new(template, &self.tokenizer, messages, tools.clone())
                    .map_err(reason)?
                    .into_sample(*prompt_len, mask, self.options.max_seq_length)
            }
        }
    }

    fn middle(&self, prefix: &str, suffix: &str, middle: &str) -> RowResult<Sample> {
        let mut ids = self.model.fim_prompt(prefix, suffix).map_err(reason)?;
        let prompt_len = ids.len();
        ids.extend(self.tokenizer.encode_as_text(middle).map_err(reason)?);
        self.end(&mut ids);
        Ok(Sample::new(ids, masked(prompt_len, self.options.mask)))
    }

    /// Appends the end-of-sequence token unless it is there already.
    fn end(&self, ids: &mut Vec<u32>) {
        if ids.last().copied() != self.eos_token_id {
            ids.extend(self.eos_token_id);
        }
    }
}

fn masked(prompt_len: usize, mask: LossMask) -> usize {
    match mask {
        LossMask::None => 0,
        LossMask::Prompt | LossMask::Assistant => prompt_len,
    }
}

#[allow(clippy::needless_pass_by_value, reason = "as `map_err` gives it")]
fn reason(error: Error) -> String {
    error.to_string()
}

#[cfg(test)]
mod tests {
    use super::super::testing::tiny_coder;
    use super::*;
    use serde_json::{Value, json};

    fn encode(row: &Value, options: &Value) -> RowResult<Encoded> {
        let options = DatasetOptions::from_json(&options.to_string()).unwrap();
        let encoder = RowEncoder::new(tiny_coder(), &options).unwrap();
        let row = encoder.encode(row.to_string().as_bytes(), false)?;
        Ok(row.unwrap())
    }

    /// All text of each sample, and what is scored.
    fn texts(row: &Value, options: &Value) -> Vec<(String, String)> {
        let tokenizer = tiny_coder().tokenizer().unwrap();
        let decode = |ids: &[u32]| tokenizer.decode(ids, false).unwrap();
        let (row, _) = encode(row, options).unwrap();
        let text = |sample: &Sample| {
            let scored = sample.scored.iter().cloned();
            let scored = scored.map(|range| decode(&sample.input_ids[range]));
            (decode(&sample.input_ids), scored.collect())
        };
        row.samples().map(text).collect()
    }

    #[test]
    fn each_shape_has_its_text_and_its_targets() {
        let question = json!({"role": "user", "content": "q"});
        let answer = |content: &str| json!({"role": "assistant", "content": content});
        let asked = "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n";
        let both = |text: &str, scored: &str| (text.to_owned(), scored.to_owned());
        let turn = |content: &str| {
            both(
                &format!("{asked}{content}<|im_end|>\n"),
                &format!("{content}<|im_end|>"),
            )
        };
        for (row, expected) in [
            (
                json!({"text": "x = 1"}),
                vec![both("x = 1<|endoftext|>", " = 1<|endoftext|>")],
            ),
            (
                json!({"text": "x = 1<|endoftext|>"}),
                vec![both("x = 1<|endoftext|>", " = 1<|endoftext|>")],
            ),
            (
                json!({"prompt": "fn ma", "completion": "in() {}"}),
                vec![both("fn main() {}<|endoftext|>", "in() {}<|endoftext|>")],
            ),
            (
                json!({"prompt": [question], "completion": [answer("a")]}),
                vec![turn("a")],
            ),
            (
                json!({"messages": [question, answer("a")]}),
                vec![turn("a")],
            ),
            (
                json!({"prefix": "a(", "suffix": "", "middle": "<|fim_pad|>b"}),
                vec![both(
                    "<|fim_prefix|>a(<|fim_suffix|><|fim_middle|><|fim_pad|>b<|endoftext|>",
                    "<|fim_pad|>b<|endoftext|>",
                )],
            ),
            (
                json!({"prompt": "a", "chosen": "b", "rejected": "c d"}),
                vec![
                    both("ab<|endoftext|>", "b<|endoftext|>"),
                    both("ac d<|endoftext|>", "c d<|endoftext|>"),
                ],
            ),
            (
                json!({"prompt": [answer("old"), question], "chosen": [answer("b")],
                    "rejected": [answer("c")]}),
                [turn("b"), turn("c")]
                    .map(|(text, scored)| {
                        let old = "<|im_start|>assistant\nold<|im_end|>\n";
                        (format!("{old}{text}"), scored)
                    })
                    .into(),
            ),
        ] {
            assert_eq!(texts(&row, &json!({})), expected, "{row}");
            assert_eq!(texts(&row, &json!({"mask": "prompt"})), expected, "{row}");
            let unmasked = texts(&row, &json!({"mask": "none"}));
            for ((text, scored), expected) in unmasked.iter().zip(&expected) {
                assert_eq!(*text, expected.0);
                if expected.1.len() == 1 {
                    // All but the first token.
                    assert!(scored.len() > expected.1.len() && text.ends_with(scored));
                }
            }
        }
    }

    #[test]
    fn without_a_mask_the_prompt_is_scored_except_of_preferences() {
        let tokens = |row: &Value, mask: &str| {
            let (row, _) = encode(row, &json!({"mask": mask})).unwrap();
            (row.tokens(), row.target_tokens())
        };
        for row in [
            json!({"prompt": "a b c", "completion": "d"}),
            json!({"prefix": "a", "suffix": "b", "middle": "c"}),
            json!({"messages": [{"role": "user", "content": "a"},
                {"role": "assistant", "content": "b"}]}),
        ] {
            let (count, targets) = tokens(&row, "none");
            assert_eq!(targets, count - 1);
            assert!(tokens(&row, "assistant").1 < targets, "{row}");
        }
        let pair = json!({"prompt": "a b c", "chosen": "d", "rejected": "e"});
        assert_eq!(tokens(&pair, "none"), tokens(&pair, "assistant"));
    }

    #[test]
    fn only_the_last_answer_is_scored_with_the_mask_of_the_prompt() {
        let turns = ["a", "b"].map(|text| {
            [
                json!({"role": "user", "content": text}),
                json!({"role": "assistant", "content": format!("{text}!")}),
            ]
        });
        let row = json!({"messages": turns.concat()});
        let scored = |mask: &str| texts(&row, &json!({"mask": mask}))[0].1.clone();
        assert_eq!(scored("assistant"), "a!<|im_end|>b!<|im_end|>");
        assert_eq!(scored("prompt"), "b!<|im_end|>");
    }

    #[test]
    fn long_rows_lose_their_end() {
        let cut_to = |row: &Value, length: usize| encode(row, &json!({"max_seq_length": length}));
        let text = json!({"text": "a b c d e f g h"});
        let (whole, _) = encode(&text, &json!({})).unwrap();
        let (cut, was_cut) = cut_to(&text, 4).unwrap();
        assert!(was_cut);
        let ids = |row: &Row| row.samples().next().unwrap().input_ids.clone();
        assert_eq!(ids(&cut), ids(&whole)[..4]);
        let long = json!({"prompt": "a b c d e f g h", "completion": "i"});
        assert!(
            cut_to(&long, 4)
                .unwrap_err()
                .starts_with("no token is left")
        );
        // Both answers lose their end, and a pair is one row that was cut.
        let pair = json!({"prompt": "a b", "chosen": "c d e f", "rejected": "g"});
        let (row, was_cut) = cut_to(&pair, 4).unwrap();
        assert_eq!((row.length(), row.tokens(), was_cut), (4, 8, true));
        let reason = cut_to(&pair, 2).unwrap_err();
        assert!(reason.starts_with("`chosen`: no token is left"), "{reason}");
    }

    #[test]
    fn a_model_without_a_template_or_tokens_refuses_the_row() {
        let vocab = json!({"a": 0, "<end>": 1});
        let tokenizer = json!({"version": "1.0", "added_tokens": [],
            "model": {"type": "BPE", "vocab": vocab, "merges": []}});
        let model = crate::models::testing::model_with(&[
            ("tokenizer.json", tokenizer),
            ("generation_config.json", json!({"eos_token_id": [1, 0]})),
        ]);
        let encoder = RowEncoder::new(&model, &DatasetOptions::default()).unwrap();
        let encode = |row: Value| encoder.encode(row.to_string().as_bytes(), false);
        // Without an end of its own the tokenizer takes the model's.
        let (row, _) = encode(json!({"text": "aa"})).unwrap().unwrap();
        assert_eq!(row.samples().next().unwrap().input_ids, [0, 0, 1]);
        let reason = encode(json!({"messages": [{"role": "user", "content": "a"}]})).unwrap_err();
        assert!(reason.contains("expected a chat template"), "{reason}");
        let middle = json!({"prefix": "a", "suffix": "a", "middle": "a"});
        let reason = encode(middle).unwrap_err();
        assert!(reason.contains("none of <|fim_prefix|>"), "{reason}");
        let bare = crate::models::testing::model_with(&[]);
        let error = RowEncoder::new(&bare, &DatasetOptions::default()).unwrap_err();
        assert!(matches!(error, Error::Tokenizer { .. }), "{error}");
    }
}

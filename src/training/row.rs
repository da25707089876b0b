//! A row of a training file: from a line of JSON to a sample.

use serde_json::Value;

use super::{DatasetOptions, Sample};
use crate::models::Tokenizer;

/// The longest line, with its line break, in bytes.
pub(super) const MAX_LINE_BYTES: u64 = 16 * 1024 * 1024;

/// What a row may look like, for error messages.
const ROW_SHAPES: &str = r#"{"text": "..."} or {"prompt": "...", "completion": "..."}"#;

/// The strings of a row.
pub(super) struct Row {
    /// `None` for a row of the `text` shape.
    prompt: Option<String>,
    /// The completion or text.
    completion: String,
}

/// The reason why a row cannot be used; the caller adds file and line.
pub(super) type RowResult<T> = std::result::Result<T, String>;

/// Parses a line, which may end with a line break; `None` if it is blank.
pub(super) fn parse(bytes: &[u8], is_first: bool) -> RowResult<Option<Row>> {
    if bytes.len() as u64 > MAX_LINE_BYTES {
        return Err(format!(
            "the line is longer than {MAX_LINE_BYTES} bytes; split the row"
        ));
    }
    let bytes = match bytes.strip_prefix(b"\xEF\xBB\xBF") {
        Some(rest) if is_first => rest,
        _ => bytes,
    };
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let column = error.valid_up_to() + 1;
        format!("not UTF-8 at column {column}; expected UTF-8 text")
    })?;
    if text.trim().is_empty() {
        return Ok(None);
    }
    let value: Value = serde_json::from_str(text).map_err(|error| {
        // A line break can follow the row, so the position that serde gives may be on line 2.
        let column = if error.line() > 1 {
            text.trim_end().len()
        } else {
            error.column()
        };
        let message = error.to_string();
        let message = message.split(" at line ").next().unwrap_or_default();
        format!("not JSON at column {column}: {message}; expected {ROW_SHAPES}")
    })?;
    parse_row(value).map(Some)
}

fn parse_row(value: Value) -> RowResult<Row> {
    let Value::Object(mut row) = value else {
        let found = type_name(&value);
        return Err(format!("the row is {found}; expected {ROW_SHAPES}"));
    };
    let has = ["text", "prompt", "completion"].map(|key| row.contains_key(key));
    let mut take = |key: &str| match row.remove(key) {
        Some(Value::String(text)) if !text.is_empty() => Ok(text),
        Some(Value::String(_)) => Err(format!("`{key}` is empty; expected text")),
        Some(other) => Err(format!(
            "`{key}` is {}; expected a string",
            type_name(&other)
        )),
        None => Err(format!("`{key}` is missing; expected {ROW_SHAPES}")),
    };
    match has {
        [true, false, false] => Ok(Row {
            prompt: None,
            completion: take("text")?,
        }),
        [false, true, _] | [false, _, true] => Ok(Row {
            prompt: Some(take("prompt")?),
            completion: take("completion")?,
        }),
        [true, ..] => Err(format!(
            "the row has `text` beside `prompt` or `completion`; expected {ROW_SHAPES}"
        )),
        [false, false, false] => {
            let keys = row.keys().take(8).map(|key| format!("`{}`", shorten(key)));
            let keys = keys.collect::<Vec<_>>().join(", ");
            let keys = if keys.is_empty() { "none" } else { &keys };
            Err(format!(
                "the row has the keys {keys}; expected {ROW_SHAPES}"
            ))
        }
    }
}

/// The start of a key, so that a message stays readable.
fn shorten(key: &str) -> String {
    key.chars().take(32).collect()
}

fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

impl Row {
    /// The sample, and whether it had to be cut.
    pub(super) fn encode(
        self,
        tokenizer: &Tokenizer,
        options: &DatasetOptions,
    ) -> RowResult<(Sample, bool)> {
        let encode = |text: &str, add_special_tokens| {
            let ids = tokenizer.encode(text, add_special_tokens);
            ids.map_err(|error| error.to_string())
        };
        let (mut input_ids, prompt_len) = match &self.prompt {
            None => (encode(&self.completion, true)?, 0),
            Some(prompt) => {
                let mut ids = encode(prompt, true)?;
                let prompt_len = ids.len();
                ids.extend(encode(&self.completion, false)?);
                (ids, prompt_len)
            }
        };
        let ends_with_eos =
            input_ids.len() > prompt_len && input_ids.last().copied() == tokenizer.eos_token_id();
        if !ends_with_eos {
            input_ids.extend(tokenizer.eos_token_id());
        }
        let mut sample = Sample::new(input_ids, if options.mask_prompt { prompt_len } else { 0 });
        let was_cut = sample.truncate(options.max_seq_length);
        sample.check()?;
        Ok((sample, was_cut))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Why `line`, not the first of its file, is no row.
    fn reason_of(line: &[u8]) -> String {
        match parse(line, false) {
            Err(reason) => reason,
            Ok(_) => panic!("{} is accepted", String::from_utf8_lossy(line)),
        }
    }

    #[test]
    fn bad_rows_are_told_what_is_wrong() {
        for (row, reason) in [
            ("{\"text\": \"a\"", "not JSON at column 12: EOF"),
            ("{\"text\": \"a\"\r\n", "not JSON at column 12: EOF"),
            ("{\"text\": a}", "not JSON at column 10: expected value"),
            ("{\"text\": \"a\"} {}", "not JSON at column 15: trailing"),
            ("\u{FEFF}{\"text\": \"a\"}", "not JSON at column 1"),
            ("[1]", "the row is an array; expected {\"text\""),
            ("\"a\"", "the row is a string"),
            ("{\"text\": 3}", "`text` is a number; expected a string"),
            ("{\"text\": null}", "`text` is null"),
            ("{\"text\": \"\"}", "`text` is empty"),
            ("{\"prompt\": \"a\"}", "`completion` is missing"),
            ("{\"completion\": \"a\"}", "`prompt` is missing"),
            (
                "{\"prompt\": \"\", \"completion\": \"a\"}",
                "`prompt` is empty",
            ),
            (
                "{\"prompt\": \"a\", \"completion\": []}",
                "`completion` is an array",
            ),
            (
                "{\"text\": \"a\", \"prompt\": \"b\"}",
                "the row has `text` beside",
            ),
            ("{\"messages\": []}", "the row has the keys `messages`"),
            ("{}", "the row has the keys none"),
        ] {
            let found = reason_of(row.as_bytes());
            assert!(found.starts_with(reason), "{row}: {found}");
        }
        let reason = reason_of(b"{\"text\": \"\xFF\"}");
        assert!(reason.starts_with("not UTF-8 at column 11"), "{reason}");
        let deep = "[".repeat(100_000);
        assert!(reason_of(deep.as_bytes()).contains("recursion limit"));
        let long = vec![b' '; usize::try_from(MAX_LINE_BYTES).unwrap() + 1];
        assert!(reason_of(&long).contains("longer than 16777216 bytes"));
    }

    #[test]
    fn blank_lines_are_no_rows() {
        for line in ["\n", " \t\r\n", "\u{FEFF}\n"] {
            assert!(matches!(parse(line.as_bytes(), true), Ok(None)));
        }
    }
}

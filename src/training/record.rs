//! A row of a training file as JSON: its shape and its texts.

use serde_json::{Map, Value};

use super::FieldNames;

/// The longest line, with its line break, in bytes.
pub(super) const MAX_LINE_BYTES: u64 = 16 * 1024 * 1024;

/// The reason why a row cannot be used; the caller adds file and line.
pub(super) type RowResult<T> = Result<T, String>;

/// A row by its shape.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Record {
    Text(String),
    /// A prompt with its completion, or a conversation.
    Exchange(Exchange),
    Middle {
        prefix: String,
        suffix: String,
        middle: String,
    },
    Preference {
        chosen: Exchange,
        rejected: Exchange,
    },
}

/// A prompt and an answer to it.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Exchange {
    Text {
        prompt: String,
        answer: String,
    },
    Messages {
        messages: Vec<Value>,
        /// The number of first messages that are not scored, whoever wrote them.
        prompt_len: usize,
        tools: Option<Value>,
    },
}

/// Parses a line, which may end with a line break; `None` if it is blank.
pub(super) fn parse(
    bytes: &[u8],
    is_first: bool,
    fields: &FieldNames,
) -> RowResult<Option<Record>> {
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
        let shapes = fields.shapes();
        format!("not JSON at column {column}: {message}; expected {shapes}")
    })?;
    let Value::Object(row) = value else {
        let (found, shapes) = (type_name(&value), fields.shapes());
        return Err(format!("the row is {found}; expected {shapes}"));
    };
    RowFields { row, fields }.record().map(Some)
}

/// The keys and values of a row. A value that is `null` counts as absent, since tables of rows of
/// several shapes are often written so.
struct RowFields<'a> {
    row: Map<String, Value>,
    fields: &'a FieldNames,
}

impl RowFields<'_> {
    fn record(mut self) -> RowResult<Record> {
        let fields = self.fields;
        // The keys that each shape alone has; `prompt` belongs to two.
        let shapes = [
            &[&fields.text][..],
            &[&fields.completion],
            &[&fields.messages],
            &[&fields.prefix, &fields.suffix, &fields.middle],
            &[&fields.chosen, &fields.rejected],
        ];
        let found = shapes.map(|keys| keys.iter().find(|key| self.has(key)).copied());
        let prompt = Some(&fields.prompt).filter(|key| self.has(key));
        let several: Vec<_> = found.into_iter().flatten().collect();
        let takes_prompt = found[1].is_some() || found[4].is_some();
        let beside = prompt.filter(|_| !takes_prompt && !several.is_empty());
        if several.len() + usize::from(beside.is_some()) > 1 {
            let keys = several.into_iter().chain(beside);
            let keys: Vec<_> = keys.map(|key| format!("`{key}`")).collect();
            return Err(format!(
                "the row has {} beside each other; expected {}",
                keys.join(" and "),
                fields.shapes()
            ));
        }
        match found {
            [Some(_), ..] => Ok(Record::Text(self.text(&fields.text, false)?)),
            [_, _, Some(_), ..] => Ok(Record::Exchange(Exchange::Messages {
                messages: self.messages(&fields.messages)?,
                prompt_len: 0,
                tools: self.row.remove(&fields.tools),
            })),
            [_, _, _, Some(_), _] => Ok(Record::Middle {
                prefix: self.text(&fields.prefix, true)?,
                suffix: self.text(&fields.suffix, true)?,
                middle: self.text(&fields.middle, false)?,
            }),
            [.., Some(_)] => Ok(Record::Preference {
                chosen: self.exchange(&fields.chosen)?,
                rejected: self.exchange(&fields.rejected)?,
            }),
            [_, Some(_), ..] => Ok(Record::Exchange(self.exchange(&fields.completion)?)),
            _ if prompt.is_some() => Ok(Record::Exchange(self.exchange(&fields.completion)?)),
            _ => Err(self.unknown()),
        }
    }

    fn has(&self, key: &str) -> bool {
        self.row.get(key).is_some_and(|value| !value.is_null())
    }

    /// The prompt with one of its answers: two strings, or two lists of messages.
    fn exchange(&mut self, answer: &str) -> RowResult<Exchange> {
        let prompt = &self.fields.prompt;
        let is_list = |key: &str| matches!(self.row.get(key), Some(Value::Array(_)));
        if !is_list(prompt) && !is_list(answer) {
            return Ok(Exchange::Text {
                prompt: self.text(prompt, false)?,
                answer: self.text(answer, false)?,
            });
        }
        let mut messages = self.messages(prompt)?;
        let prompt_len = messages.len();
        messages.extend(self.messages(answer)?);
        Ok(Exchange::Messages {
            messages,
            prompt_len,
            tools: self.row.get(&self.fields.tools).cloned(),
        })
    }

    fn text(&self, key: &str, may_be_empty: bool) -> RowResult<String> {
        match self.present(key)? {
            Value::String(text) if text.is_empty() && !may_be_empty => {
                Err(format!("`{key}` is empty; expected text"))
            }
            Value::String(text) => Ok(text.clone()),
            other => Err(format!(
                "`{key}` is {}; expected a string",
                type_name(other)
            )),
        }
    }

    fn messages(&self, key: &str) -> RowResult<Vec<Value>> {
        match self.present(key)? {
            Value::Array(messages) if !messages.is_empty() => Ok(messages.clone()),
            Value::Array(_) => Err(format!("`{key}` is empty; expected messages")),
            other => Err(format!(
                "`{key}` is {}; expected a list of messages",
                type_name(other)
            )),
        }
    }

    fn present(&self, key: &str) -> RowResult<&Value> {
        let value = self.row.get(key).filter(|value| !value.is_null());
        value.ok_or_else(|| {
            let found = if self.row.contains_key(key) {
                "null"
            } else {
                "missing"
            };
            format!("`{key}` is {found}; expected {}", self.fields.shapes())
        })
    }

    fn unknown(&self) -> String {
        let keys = self.row.keys().take(8);
        let keys = keys.map(|key| format!("`{}`", shorten(key)));
        let keys = keys.collect::<Vec<_>>().join(", ");
        let keys = if keys.is_empty() { "none" } else { &keys };
        let nulls = if self.row.values().any(Value::is_null) {
            ", of which some are null"
        } else {
            ""
        };
        let shapes = self.fields.shapes();
        format!("the row has the keys {keys}{nulls}; expected {shapes}")
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

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// What `line`, not the first of its file, is.
    fn read(line: &[u8]) -> RowResult<Option<Record>> {
        parse(line, false, &FieldNames::default())
    }

    fn record(row: &Value) -> Record {
        read(row.to_string().as_bytes()).unwrap().unwrap()
    }

    #[test]
    fn rows_are_told_apart_by_their_keys() {
        let text = |text: &str| text.to_owned();
        let user = json!({"role": "user", "content": "q"});
        let answer = |content: &str| json!({"role": "assistant", "content": content});
        let exchange = |answer: &str| Exchange::Text {
            prompt: text("p"),
            answer: text(answer),
        };
        let conversation = |content: &str, prompt_len, tools| Exchange::Messages {
            messages: vec![user.clone(), answer(content)],
            prompt_len,
            tools,
        };
        for (row, expected) in [
            (
                json!({"text": "a", "id": 7, "prompt": null}),
                Record::Text(text("a")),
            ),
            (
                json!({"prompt": "p", "completion": "c"}),
                Record::Exchange(exchange("c")),
            ),
            (
                json!({"prompt": [user], "completion": [answer("c")]}),
                Record::Exchange(conversation("c", 1, None)),
            ),
            (
                json!({"messages": [user, answer("a")], "tools": [{}]}),
                Record::Exchange(conversation("a", 0, Some(json!([{}])))),
            ),
            (
                json!({"prefix": "", "suffix": "", "middle": "m"}),
                Record::Middle {
                    prefix: text(""),
                    suffix: text(""),
                    middle: text("m"),
                },
            ),
            (
                json!({"prompt": "p", "chosen": "c", "rejected": "r"}),
                Record::Preference {
                    chosen: exchange("c"),
                    rejected: exchange("r"),
                },
            ),
            (
                json!({"prompt": [user], "chosen": [answer("c")], "rejected": [answer("r")]}),
                Record::Preference {
                    chosen: conversation("c", 1, None),
                    rejected: conversation("r", 1, None),
                },
            ),
        ] {
            assert_eq!(record(&row), expected, "{row}");
        }
    }

    #[test]
    fn keys_can_have_other_names() {
        let mut fields = FieldNames::default();
        fields.set("prompt", "question").unwrap();
        fields.set("completion", "answer").unwrap();
        let read = |row: Value| parse(row.to_string().as_bytes(), false, &fields);
        let row = json!({"question": "p", "answer": "c", "prompt": "x"});
        assert_eq!(
            read(row).unwrap(),
            Some(Record::Exchange(Exchange::Text {
                prompt: "p".to_owned(),
                answer: "c".to_owned(),
            }))
        );
        let reason = read(json!({"answer": "c"})).unwrap_err();
        assert!(reason.starts_with("`question` is missing"), "{reason}");
        assert!(
            reason.contains("{\"question\", \"answer\"}, {\"messages\""),
            "{reason}"
        );
    }

    #[test]
    fn bad_rows_are_told_what_is_wrong() {
        for (row, reason) in [
            ("{\"text\": \"a\"", "not JSON at column 12: EOF"),
            ("{\"text\": \"a\"\r\n", "not JSON at column 12: EOF"),
            ("{\"text\": a}", "not JSON at column 10: expected value"),
            ("{\"text\": \"a\"} {}", "not JSON at column 15: trailing"),
            ("\u{FEFF}{\"text\": \"a\"}", "not JSON at column 1"),
            ("[1]", "the row is an array; expected one of {\"text\"}"),
            ("\"a\"", "the row is a string"),
            ("{\"text\": 3}", "`text` is a number; expected a string"),
            ("{\"text\": \"\"}", "`text` is empty"),
            (
                "{\"text\": null}",
                "the row has the keys `text`, of which some are null",
            ),
            ("{\"prompt\": \"a\"}", "`completion` is missing"),
            (
                "{\"prompt\": \"a\", \"completion\": null}",
                "`completion` is null",
            ),
            ("{\"completion\": \"a\"}", "`prompt` is missing"),
            (
                "{\"prompt\": \"\", \"completion\": \"a\"}",
                "`prompt` is empty",
            ),
            (
                "{\"prompt\": \"a\", \"completion\": [{}]}",
                "`prompt` is a string; expected a list of messages",
            ),
            (
                "{\"prompt\": \"a\", \"chosen\": \"b\"}",
                "`rejected` is missing",
            ),
            (
                "{\"chosen\": \"a\", \"rejected\": \"b\"}",
                "`prompt` is missing",
            ),
            (
                "{\"prefix\": \"a\", \"middle\": \"b\"}",
                "`suffix` is missing",
            ),
            (
                "{\"prefix\": \"\", \"suffix\": \"\", \"middle\": \"\"}",
                "`middle` is empty",
            ),
            (
                "{\"messages\": []}",
                "`messages` is empty; expected messages",
            ),
            (
                "{\"messages\": \"a\"}",
                "`messages` is a string; expected a list",
            ),
            (
                "{\"text\": \"a\", \"prompt\": \"b\"}",
                "the row has `text` and `prompt` beside each other; expected one of",
            ),
            (
                "{\"messages\": [1], \"prompt\": \"b\"}",
                "the row has `messages` and `prompt` beside",
            ),
            (
                "{\"prompt\": \"a\", \"completion\": \"b\", \"chosen\": \"c\"}",
                "the row has `completion` and `chosen` beside",
            ),
            (
                "{\"txt\": 1}",
                "the row has the keys `txt`; expected one of",
            ),
            ("{}", "the row has the keys none"),
        ] {
            let found = read(row.as_bytes()).unwrap_err();
            assert!(found.starts_with(reason), "{row}: {found}");
        }
        let reason_of = |line: &[u8]| read(line).unwrap_err();
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
            let record = parse(line.as_bytes(), true, &FieldNames::default());
            assert_eq!(record, Ok(None));
        }
    }
}

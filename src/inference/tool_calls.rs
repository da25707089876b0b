//! Tool calls in generated text, as the text comes.

use serde_json::{Map, Value};

const CALL_OPEN: &str = "<tool_call>";
const CALL_CLOSE: &str = "</tool_call>";
const THINK_OPEN: &str = "<think>";
const THINK_CLOSE: &str = "</think>";

/// The longest tool call, in bytes between its tags; a longer one is text.
const MAX_CALL_BYTES: usize = 1 << 20;

/// A call of a tool that the model asks for.
#[derive(Debug, Clone, PartialEq)]
pub struct ToolCall {
    /// The name of the tool.
    pub name: String,
    /// The arguments by name: a JSON object, empty where the model gave none.
    pub arguments: Value,
}

/// A part of generated text.
#[derive(Debug, Clone, PartialEq)]
pub enum Piece {
    /// Text for the user.
    Text(String),
    /// Text inside of `<think>` and `</think>`, where the parser looks for it.
    Reasoning(String),
    /// A whole call of a tool.
    ToolCall(ToolCall),
}

/// Finds tool calls in the format of Qwen and Hermes:
///
/// ```text
/// <tool_call>
/// {"name": "get_weather", "arguments": {"city": "Zürich"}}
/// </tool_call>
/// ```
///
/// Text comes in chunks that may end anywhere, such as those of
/// [`Generator::generate`](super::Generator::generate). What is outside of calls is passed on at once,
/// as far as it cannot be the start of a tag. What is between the tags and is no call, or has more
/// than 1 MiB, comes out as text, tags included: nothing is lost. `arguments` may also be JSON in a
/// string. However a text is cut into chunks, the pieces are the same once neighbouring texts are
/// joined.
///
/// # Example
///
/// ```
/// use metal_candle::inference::{Piece, ToolCallParser};
///
/// let mut parser = ToolCallParser::new();
/// let mut pieces = parser.push("Let me look.<tool_call>{\"name\": \"loo");
/// assert_eq!(pieces, [Piece::Text("Let me look.".to_owned())]);
/// pieces = parser.push("k\", \"arguments\": {\"at\": 3}}</tool_call>");
/// let Piece::ToolCall(call) = &pieces[0] else { unreachable!() };
/// assert_eq!(call.name, "look");
/// assert_eq!(call.arguments["at"], 3);
/// assert!(parser.finish().is_empty());
/// ```
#[derive(Debug, Clone, Default)]
pub struct ToolCallParser {
    find_reasoning: bool,
    first_state: State,
    state: State,
    /// What is not given out yet: the possible start of a tag, or the body of a call so far.
    held: String,
    /// What of it was given out since the chunk came.
    given: usize,
    scan: Scan,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum State {
    #[default]
    Text,
    Reasoning,
    Call,
}

/// How far the body of a call has been read: outside of JSON strings a tag is a tag.
#[derive(Debug, Clone, Copy, Default)]
struct Scan {
    at: usize,
    in_string: bool,
}

/// What the body of a call turns out to be.
enum Body {
    Unfinished,
    /// The closing tag starts here.
    Closed(usize),
    /// No JSON has what stands here.
    Malformed(usize),
    TooLong,
}

impl ToolCallParser {
    /// A parser at the start of a text, which takes `<think>` for text.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Gives text between `<think>` and `</think>` out as [`Piece::Reasoning`], without the tags and
    /// without looking for calls in it.
    #[must_use]
    pub fn with_reasoning(mut self) -> Self {
        self.find_reasoning = true;
        self
    }

    /// As [`with_reasoning`](Self::with_reasoning), but the text starts inside of the reasoning, as
    /// it does where the prompt ends with `<think>`.
    #[must_use]
    pub fn inside_reasoning(mut self) -> Self {
        self.find_reasoning = true;
        self.first_state = State::Reasoning;
        self.state = State::Reasoning;
        self
    }

    /// Takes the next chunk and gives the pieces that are now complete.
    pub fn push(&mut self, text: &str) -> Vec<Piece> {
        self.held.push_str(text);
        let mut pieces = Vec::new();
        while self.step(&mut pieces) {}
        self.held.drain(..self.given);
        self.given = 0;
        pieces
    }

    /// Gives what is still held back; the next chunk starts another text. A call that was not closed
    /// comes out as text.
    pub fn finish(&mut self) -> Vec<Piece> {
        let mut pieces = Vec::new();
        while self.state == State::Call {
            self.give_up(&mut pieces);
            while self.step(&mut pieces) {}
        }
        let kind = if self.state == State::Reasoning {
            Piece::Reasoning
        } else {
            Piece::Text
        };
        put(&mut pieces, kind, &self.held[self.given..]);
        self.held.clear();
        self.given = 0;
        self.state = self.first_state;
        pieces
    }

    /// Takes what it can from the text held; false where more text is needed.
    fn step(&mut self, pieces: &mut Vec<Piece>) -> bool {
        match self.state {
            State::Text if self.find_reasoning => {
                self.pass(pieces, Piece::Text, &[CALL_OPEN, THINK_OPEN])
            }
            State::Text => self.pass(pieces, Piece::Text, &[CALL_OPEN]),
            State::Reasoning => self.pass(pieces, Piece::Reasoning, &[THINK_CLOSE]),
            State::Call => self.read_call(pieces),
        }
    }

    /// Gives text out up to the first of the tags, or up to what may become one.
    fn pass(
        &mut self,
        pieces: &mut Vec<Piece>,
        kind: fn(String) -> Piece,
        tags: &[&'static str],
    ) -> bool {
        let text = &self.held[self.given..];
        let found = text.match_indices('<').find_map(|(at, _)| {
            let rest = &text[at..];
            let tag = |tag: &&&str| rest.starts_with(**tag) || tag.starts_with(rest);
            tags.iter().find(tag).map(|&tag| (at, tag))
        });
        let (end, tag) = found.unwrap_or((text.len(), ""));
        put(pieces, kind, &text[..end]);
        let whole = !tag.is_empty() && text.len() - end >= tag.len();
        self.given += end;
        if whole {
            self.given += tag.len();
            self.scan = Scan::default();
            self.state = match tag {
                CALL_OPEN => State::Call,
                THINK_OPEN => State::Reasoning,
                _ => State::Text,
            };
        }
        whole
    }

    fn read_call(&mut self, pieces: &mut Vec<Piece>) -> bool {
        let body = self.scan_body();
        let text = &self.held[self.given..];
        let end = match body {
            Body::Unfinished => return false,
            Body::TooLong => {
                self.give_up(pieces);
                return true;
            }
            Body::Malformed(end) => end,
            Body::Closed(end) => {
                if let Some(call) = parse(&text[..end]) {
                    pieces.push(Piece::ToolCall(call));
                    self.given += end + CALL_CLOSE.len();
                    self.state = State::Text;
                    return true;
                }
                end + CALL_CLOSE.len()
            }
        };
        put(pieces, Piece::Text, CALL_OPEN);
        put(pieces, Piece::Text, &text[..end]);
        self.given += end;
        self.state = State::Text;
        true
    }

    /// Reads on in the body; it may end anywhere, also inside of a tag or an escape.
    fn scan_body(&mut self) -> Body {
        let text = &self.held[self.given..];
        let bytes = text.as_bytes();
        let Scan { at, in_string } = &mut self.scan;
        while let Some(&byte) = bytes.get(*at) {
            if *at >= MAX_CALL_BYTES {
                return Body::TooLong;
            }
            match (byte, *in_string) {
                (b'\\', true) if *at + 1 == bytes.len() => return Body::Unfinished,
                (b'\\', true) => *at += 1,
                (b'"', _) => *in_string = !*in_string,
                (b'<', false) => {
                    let rest = &text[*at..];
                    if rest.starts_with(CALL_CLOSE) {
                        return Body::Closed(*at);
                    }
                    if CALL_CLOSE.starts_with(rest) {
                        return Body::Unfinished;
                    }
                    return Body::Malformed(*at);
                }
                // Without this, unclosed calls would be read over and over.
                (b'\\', false) => return Body::Malformed(*at),
                _ => {}
            }
            *at += 1;
        }
        Body::Unfinished
    }

    /// The opening tag is text, and what follows it is read as text.
    fn give_up(&mut self, pieces: &mut Vec<Piece>) {
        put(pieces, Piece::Text, CALL_OPEN);
        self.state = State::Text;
    }
}

/// Adds text to the pieces, to the last one where it is of the same kind.
fn put(pieces: &mut Vec<Piece>, kind: fn(String) -> Piece, text: &str) {
    if text.is_empty() {
        return;
    }
    let piece = kind(text.to_owned());
    match (pieces.last_mut(), &piece) {
        (Some(Piece::Text(last)), Piece::Text(text))
        | (Some(Piece::Reasoning(last)), Piece::Reasoning(text)) => last.push_str(text),
        _ => pieces.push(piece),
    }
}

fn parse(body: &str) -> Option<ToolCall> {
    let Ok(Value::Object(mut call)) = serde_json::from_str(body) else {
        return None;
    };
    let Some(Value::String(name)) = call.remove("name") else {
        return None;
    };
    let arguments = match call.remove("arguments") {
        Some(Value::String(text)) => serde_json::from_str(&text).ok()?,
        arguments => arguments.unwrap_or(Value::Null),
    };
    let arguments = match arguments {
        Value::Null => Value::Object(Map::new()),
        Value::Object(_) => arguments,
        _ => return None,
    };
    Some(ToolCall { name, arguments })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::time::Instant;

    /// The pieces of a text that comes in these chunks, neighbours of one kind joined.
    fn parse_chunks<'a>(
        mut parser: ToolCallParser,
        chunks: impl IntoIterator<Item = &'a str>,
    ) -> Vec<Piece> {
        let mut all = Vec::new();
        let mut add = |pieces| {
            for piece in pieces {
                match piece {
                    Piece::Text(text) => put(&mut all, Piece::Text, &text),
                    Piece::Reasoning(text) => put(&mut all, Piece::Reasoning, &text),
                    Piece::ToolCall(_) => all.push(piece),
                }
            }
        };
        for chunk in chunks {
            add(parser.push(chunk));
        }
        add(parser.finish());
        assert!(parser.held.is_empty());
        all
    }

    fn text(text: &str) -> Piece {
        Piece::Text(text.to_owned())
    }

    fn reasoning(text: &str) -> Piece {
        Piece::Reasoning(text.to_owned())
    }

    fn call(name: &str, arguments: Value) -> Piece {
        Piece::ToolCall(ToolCall {
            name: name.to_owned(),
            arguments,
        })
    }

    fn cases() -> Vec<(&'static str, Vec<Piece>)> {
        vec![
            ("", vec![]),
            (
                "plain < text <tool <tool_cal",
                vec![text("plain < text <tool <tool_cal")],
            ),
            (
                "a\n<tool_call>\n{\"name\": \"f\", \"arguments\": {\"x\": \"ü🦀\"}}\n</tool_call>\nb",
                vec![text("a\n"), call("f", json!({"x": "ü🦀"})), text("\nb")],
            ),
            (
                "<tool_call>{\"name\":\"f\",\"arguments\":\"{\\\"x\\\": [1]}\"}</tool_call>\
                 <tool_call>{\"arguments\":{},\"name\":\"g\"}</tool_call>\
                 <tool_call>{\"name\":\"h\",\"arguments\":null}</tool_call>",
                vec![
                    call("f", json!({"x": [1]})),
                    call("g", json!({})),
                    call("h", json!({})),
                ],
            ),
            (
                r#"<tool_call>{"name": "f", "arguments": {"x": "\"</tool_call>\\"}}</tool_call>"#,
                vec![call("f", json!({"x": "\"</tool_call>\\"}))],
            ),
            (
                "<tool_call>{not json}</tool_call> x",
                vec![text("<tool_call>{not json}</tool_call> x")],
            ),
            (
                "<tool_call>[1]</tool_call>",
                vec![text("<tool_call>[1]</tool_call>")],
            ),
            (
                "<tool_call>{\"name\": 1}</tool_call><tool_call>{\"name\": \"f\", \"arguments\": 1}</tool_call>",
                vec![text(
                    "<tool_call>{\"name\": 1}</tool_call><tool_call>{\"name\": \"f\", \"arguments\": 1}</tool_call>",
                )],
            ),
            (
                "<tool_call>{<tool_call>{\"name\": \"f\"}</tool_call>",
                vec![text("<tool_call>{"), call("f", json!({}))],
            ),
            (
                "<tool_call>{\"a<tool_call>{\"name\": \"f\"}</tool_call> b <",
                vec![text("<tool_call>{\"a"), call("f", json!({})), text(" b <")],
            ),
            (
                "<tool_call>{\"name\": \"f\"}",
                vec![text("<tool_call>{\"name\": \"f\"}")],
            ),
            (
                "<tool_call>{\\</tool_call>",
                vec![text("<tool_call>{\\</tool_call>")],
            ),
            ("<tool_call>{\"\\", vec![text("<tool_call>{\"\\")]),
            (
                "</tool_call><<tool_call><",
                vec![text("</tool_call><<tool_call><")],
            ),
        ]
    }

    #[test]
    fn any_splitting_gives_the_same_pieces() {
        for (source, expected) in cases() {
            let cuts = source.char_indices().map(|(at, _)| at);
            let cuts: Vec<_> = cuts.chain([source.len()]).collect();
            let parser = ToolCallParser::new;
            let pieces = parse_chunks(parser(), cuts.windows(2).map(|w| &source[w[0]..w[1]]));
            assert_eq!(pieces, expected, "{source}, char by char");
            for &first in &cuts {
                for &second in cuts.iter().filter(|second| **second >= first) {
                    let chunks = [&source[..first], &source[first..second], &source[second..]];
                    assert_eq!(parse_chunks(parser(), chunks), expected, "{chunks:?}");
                }
            }
        }
    }

    #[test]
    fn reasoning_is_found_where_it_is_looked_for() {
        let call_text = "<tool_call>{\"name\": \"f\"}</tool_call>";
        let source = format!("<think>\nhm {call_text}</thin</think>\n\nyes{call_text}<think>x");
        let expected = [
            reasoning(&format!("\nhm {call_text}</thin")),
            text("\n\nyes"),
            call("f", json!({})),
            reasoning("x"),
        ];
        for size in 1..source.len() {
            let chunks = source.as_bytes().chunks(size);
            let chunks = chunks.map(|chunk| std::str::from_utf8(chunk).unwrap());
            let parser = ToolCallParser::new().with_reasoning();
            assert_eq!(parse_chunks(parser, chunks.clone()), expected);
            let parser = ToolCallParser::new().inside_reasoning();
            let pieces = parse_chunks(parser, std::iter::once("a").chain(chunks));
            assert_eq!(
                pieces[0],
                reasoning(&format!("a<think>\nhm {call_text}</thin"))
            );
            assert_eq!(pieces[1..], expected[1..]);
        }
        let pieces = parse_chunks(ToolCallParser::new(), ["<think>x</think>"]);
        assert_eq!(pieces, [text("<think>x</think>")]);
    }

    #[test]
    fn text_is_passed_on_at_once() {
        let mut parser = ToolCallParser::new();
        assert_eq!(parser.push("let x <"), [text("let x ")]);
        assert_eq!(parser.push("= 3 <tool"), [text("<= 3 ")]);
        assert_eq!(parser.push("s>"), [text("<tools>")]);
    }

    #[test]
    fn a_parser_starts_anew_after_the_end() {
        let mut parser = ToolCallParser::new().inside_reasoning();
        assert_eq!(parser.push("a</think>b"), [reasoning("a"), text("b")]);
        assert!(parser.push("<tool_call>{").is_empty());
        assert_eq!(parser.finish(), [text("<tool_call>{")]);
        assert_eq!(parser.push("c"), [reasoning("c")]);
    }

    #[test]
    fn a_call_is_bounded() {
        let long = "x".repeat(MAX_CALL_BYTES);
        let source = format!(
            "<tool_call>{{\"name\": \"{long}\"}}</tool_call>y<tool_call>{{\"name\": \"f\"}}</tool_call>"
        );
        let expected = [
            text(source.split_inclusive('y').next().unwrap()),
            call("f", json!({})),
        ];
        for size in [1 << 12, 99_991, source.len()] {
            let chunks = source.as_bytes().chunks(size);
            let chunks = chunks.map(|chunk| std::str::from_utf8(chunk).unwrap());
            assert_eq!(parse_chunks(ToolCallParser::new(), chunks), expected);
        }
        let mut parser = ToolCallParser::new();
        parser.push("<tool_call>{\"");
        for _ in 0..300 {
            parser.push(&long[..1 << 13]);
            assert!(parser.held.len() <= MAX_CALL_BYTES + (1 << 13));
        }
    }

    #[test]
    fn the_time_is_linear() {
        let start = Instant::now();
        for unit in [
            "<tool_call>",
            "<tool_call>\"",
            "<tool_call>\\\"",
            "<tool_call>{\"\\\"",
            "<tool_call>{\"a",
            "<think>",
            "<",
            "</tool_call>",
        ] {
            let source = unit.repeat((1 << 20) / unit.len());
            let parser = ToolCallParser::new().with_reasoning();
            let pieces = parse_chunks(parser.clone(), [&source[..]]);
            let chunks = source.as_bytes().chunks(7);
            let chunks = chunks.map(|chunk| std::str::from_utf8(chunk).unwrap());
            assert_eq!(parse_chunks(parser, chunks), pieces, "{unit}");
        }
        assert!(start.elapsed().as_secs_f64() < 10.0);
    }
}

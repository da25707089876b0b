//! Values as Python writes them: `json.dumps` for `tojson`, `str` for what a template prints.
//!
//! The engine has both, but it escapes HTML, writes numbers in its own way, and pays for a text only
//! when it is complete. A list that holds itself many times over is small and its text is not, so
//! here each piece is paid for before it is written.

use minijinja::value::ValueKind;
use minijinja::{Error, ErrorKind, State, Value};
use std::borrow::Cow;

/// Containers inside containers that are written; deeper ones are an error, as they are in Python.
const MAX_DEPTH: usize = 256;

/// The arguments of `json.dumps`, with the defaults of transformers' `tojson`.
#[derive(Debug, Clone)]
pub(super) struct JsonStyle {
    /// What a level is indented with; `None` writes all on one line.
    pub indent: Option<String>,
    pub item_separator: String,
    pub key_separator: String,
    pub sort_keys: bool,
    pub ensure_ascii: bool,
}

/// The JSON text of a value.
pub(super) fn to_json(state: &State, value: &Value, style: &JsonStyle) -> Result<String, Error> {
    let mut writer = Writer::new(state);
    writer.json(value, style, 0)?;
    Ok(writer.text)
}

/// The text of a value when it is printed.
pub(super) fn to_text<'a>(state: &State, value: &'a Value) -> Result<Cow<'a, str>, Error> {
    if let Some(text) = value.as_str() {
        return Ok(Cow::Borrowed(text));
    }
    if value.is_undefined() {
        return Ok(Cow::Borrowed(""));
    }
    let mut writer = Writer::new(state);
    writer.repr(value, 0)?;
    Ok(Cow::Owned(writer.text))
}

/// A number as `repr(float)` gives it: the shortest digits that read back as the same number.
pub(super) fn float(number: f64) -> String {
    if number.is_nan() {
        return "nan".to_owned();
    }
    if number.is_infinite() {
        return if number > 0.0 { "inf" } else { "-inf" }.to_owned();
    }
    let scientific = format!("{number:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or_default();
    if (-4..16).contains(&exponent) {
        let mut text = number.to_string();
        if !text.contains('.') {
            text.push_str(".0");
        }
        return text;
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{digits}e{sign}{:02}", exponent.abs())
}

struct Writer<'s, 't, 'e> {
    state: &'s State<'t, 'e>,
    text: String,
}

impl<'s, 't, 'e> Writer<'s, 't, 'e> {
    fn new(state: &'s State<'t, 'e>) -> Self {
        Self {
            state,
            text: String::new(),
        }
    }

    fn put(&mut self, piece: &str) -> Result<(), Error> {
        // At the price of the engine: a unit for the step and one for 64 bytes.
        self.state.consume_fuel(1 + piece.len() as u64 / 64)?;
        self.text.push_str(piece);
        Ok(())
    }

    fn json(&mut self, value: &Value, style: &JsonStyle, depth: usize) -> Result<(), Error> {
        match value.kind() {
            ValueKind::None => self.put("null"),
            ValueKind::Bool => self.put(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => self.put(&json_number(value)?),
            ValueKind::String => self.put(&json_string(value, style)),
            ValueKind::Seq | ValueKind::Iterable => {
                let mut empty = true;
                self.put("[")?;
                for item in value.try_iter()?.checked() {
                    self.next_item(style, depth, &mut empty)?;
                    self.json(&item?, style, nested(depth)?)?;
                }
                self.end(style, depth, empty, "]")
            }
            ValueKind::Map => {
                let mut pairs = self.pairs(value)?;
                if style.sort_keys {
                    pairs.sort_by(|(a, _), (b, _)| a.cmp(b));
                }
                let mut empty = true;
                self.put("{")?;
                for (key, item) in pairs {
                    self.next_item(style, depth, &mut empty)?;
                    self.put(&json_key(&key, style)?)?;
                    self.put(&style.key_separator)?;
                    self.json(&item, style, nested(depth)?)?;
                }
                self.end(style, depth, empty, "}")
            }
            kind => Err(Error::new(
                ErrorKind::BadSerialization,
                format!("a value of type {kind} has no JSON text"),
            )),
        }
    }

    fn next_item(
        &mut self,
        style: &JsonStyle,
        depth: usize,
        empty: &mut bool,
    ) -> Result<(), Error> {
        if !std::mem::replace(empty, false) {
            self.put(&style.item_separator)?;
        }
        self.new_line(style, depth + 1)
    }

    fn end(
        &mut self,
        style: &JsonStyle,
        depth: usize,
        empty: bool,
        bracket: &str,
    ) -> Result<(), Error> {
        if !empty {
            self.new_line(style, depth)?;
        }
        self.put(bracket)
    }

    fn new_line(&mut self, style: &JsonStyle, depth: usize) -> Result<(), Error> {
        let Some(indent) = &style.indent else {
            return Ok(());
        };
        self.put("\n")?;
        for _ in 0..depth {
            self.put(indent)?;
        }
        Ok(())
    }

    fn repr(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        match value.kind() {
            ValueKind::Number if !value.is_integer() => {
                self.put(&float(f64::try_from(value.clone())?))
            }
            ValueKind::String => self.put(&quoted(value.as_str().unwrap_or_default())),
            ValueKind::Seq | ValueKind::Iterable => {
                let (open, close) = if value.is_tuple() {
                    ("(", ")")
                } else {
                    ("[", "]")
                };
                let mut count = 0;
                self.put(open)?;
                for item in value.try_iter()?.checked() {
                    if count > 0 {
                        self.put(", ")?;
                    }
                    self.repr(&item?, nested(depth)?)?;
                    count += 1;
                }
                if value.is_tuple() && count == 1 {
                    self.put(",")?;
                }
                self.put(close)
            }
            ValueKind::Map => {
                self.put("{")?;
                for (at, (key, item)) in self.pairs(value)?.into_iter().enumerate() {
                    if at > 0 {
                        self.put(", ")?;
                    }
                    self.repr(&key, nested(depth)?)?;
                    self.put(": ")?;
                    self.repr(&item, nested(depth)?)?;
                }
                self.put("}")
            }
            // None, booleans and whole numbers are spelled as in Python already.
            _ => self.put(&value.to_string()),
        }
    }

    /// The entries of a map, paid for.
    fn pairs(&self, value: &Value) -> Result<Vec<(Value, Value)>, Error> {
        let mut pairs = Vec::new();
        for key in value.try_iter()?.checked() {
            self.state.consume_fuel(1)?;
            let key = key?;
            let item = value.get_item(&key)?;
            pairs.push((key, item));
        }
        Ok(pairs)
    }
}

fn nested(depth: usize) -> Result<usize, Error> {
    if depth == MAX_DEPTH {
        return Err(Error::new(
            ErrorKind::InvalidOperation,
            format!("a value is nested more than {MAX_DEPTH} deep"),
        ));
    }
    Ok(depth + 1)
}

fn json_number(value: &Value) -> Result<String, Error> {
    if value.is_integer() {
        return Ok(value.to_string());
    }
    let number = f64::try_from(value.clone())?;
    Ok(match float(number).as_str() {
        "nan" => "NaN".to_owned(),
        "inf" => "Infinity".to_owned(),
        "-inf" => "-Infinity".to_owned(),
        text => text.to_owned(),
    })
}

fn json_key(key: &Value, style: &JsonStyle) -> Result<String, Error> {
    match key.kind() {
        ValueKind::String => Ok(json_string(key, style)),
        ValueKind::None => Ok("\"null\"".to_owned()),
        ValueKind::Bool => Ok(format!("\"{}\"", key.is_true())),
        ValueKind::Number => Ok(format!("\"{}\"", json_number(key)?)),
        kind => Err(Error::new(
            ErrorKind::BadSerialization,
            format!("a key of type {kind} has no JSON text"),
        )),
    }
}

fn json_string(value: &Value, style: &JsonStyle) -> String {
    let text = serde_json::Value::from(value.as_str().unwrap_or_default()).to_string();
    if !style.ensure_ascii {
        return text;
    }
    let mut ascii = String::with_capacity(text.len());
    for character in text.chars() {
        if (' '..='~').contains(&character) {
            ascii.push(character);
        } else {
            for unit in character.encode_utf16(&mut [0; 2]) {
                ascii.push_str("\\u");
                ascii.extend(hexadecimal(u32::from(*unit), 4));
            }
        }
    }
    ascii
}

fn hexadecimal(number: u32, digits: u32) -> impl Iterator<Item = char> {
    (0..digits)
        .rev()
        .filter_map(move |place| char::from_digit(number >> (4 * place) & 0xF, 16))
}

/// A string as `repr` gives it. Characters that Python counts as not printable are escaped; here
/// these are control characters and spaces other than U+0020.
fn quoted(text: &str) -> String {
    let quote = if text.contains('\'') && !text.contains('"') {
        '"'
    } else {
        '\''
    };
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push(quote);
    for character in text.chars() {
        match character {
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            '\\' => quoted.push_str("\\\\"),
            ' ' => quoted.push(' '),
            c if c == quote => quoted.extend(['\\', c]),
            c if c.is_control() || c.is_whitespace() => {
                let code = u32::from(c);
                let (escape, digits) = if code < 0x100 { ("\\x", 2) } else { ("\\u", 4) };
                quoted.push_str(escape);
                quoted.extend(hexadecimal(code, digits));
            }
            c => quoted.push(c),
        }
    }
    quoted.push(quote);
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_are_those_of_python() {
        for (number, text) in [
            (0.0, "0.0"),
            (-0.0, "-0.0"),
            (1.0, "1.0"),
            (0.1, "0.1"),
            (0.0001, "0.0001"),
            (0.00001, "1e-05"),
            (1.5e-7, "1.5e-07"),
            (123_456_789.125, "123456789.125"),
            (1e15, "1000000000000000.0"),
            (1e16, "1e+16"),
            (-2.5e100, "-2.5e+100"),
            (f64::INFINITY, "inf"),
        ] {
            assert_eq!(float(number), text);
        }
    }

    #[test]
    fn strings_are_quoted_as_in_python() {
        for (text, expected) in [
            ("a", "'a'"),
            ("it's", "\"it's\""),
            ("it's \"x\"", "'it\\'s \"x\"'"),
            ("\n\t\\\u{7f}\u{a0}é", "'\\n\\t\\\\\\x7f\\xa0é'"),
        ] {
            assert_eq!(quoted(text), expected);
        }
    }
}

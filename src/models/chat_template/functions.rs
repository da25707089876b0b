//! The functions, filters and methods that transformers and Python have and the engine has not, or has
//! in another way. Each pays for what it makes before it makes it.

#![allow(
    clippy::needless_pass_by_value,
    reason = "arguments of filters are values"
)]

use super::python::{self, JsonStyle};
use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Error, ErrorKind, State, Value};
use minijinja_contrib::pycompat;

/// The longest format of a date, in bytes.
const MAX_DATE_FORMAT_BYTES: usize = 256;

/// `json.dumps`, with the arguments that transformers gives it.
pub(super) fn tojson(
    state: &State,
    value: Value,
    indent: Option<Value>,
    arguments: Kwargs,
) -> Result<String, Error> {
    let indent = match indent {
        Some(indent) => Some(indent),
        None => arguments.get("indent")?,
    };
    let indent = indent.filter(|indent| !indent.is_none());
    let indent = indent.map(margin).transpose()?;
    let separators: Option<Vec<String>> = arguments.get("separators")?;
    let (item_separator, key_separator) = match separators.as_deref() {
        Some([item, key]) => (item.clone(), key.clone()),
        Some(_) => {
            return Err(Error::new(
                ErrorKind::InvalidOperation,
                "tojson: expected two separators",
            ));
        }
        None if indent.is_some() => (",".to_owned(), ": ".to_owned()),
        None => (", ".to_owned(), ": ".to_owned()),
    };
    let style = JsonStyle {
        indent,
        item_separator,
        key_separator,
        sort_keys: arguments.get::<Option<bool>>("sort_keys")?.unwrap_or(false),
        ensure_ascii: arguments
            .get::<Option<bool>>("ensure_ascii")?
            .unwrap_or(false),
    };
    arguments.assert_all_used()?;
    python::to_json(state, &value, &style)
}

/// Indents as Jinja does; the engine's own filter drops a line break at the end.
pub(super) fn indent(
    state: &State,
    text: &str,
    width: Option<Value>,
    first: Option<bool>,
    arguments: Kwargs,
) -> Result<String, Error> {
    let width = match width {
        Some(width) => Some(width),
        None => arguments.get("width")?,
    };
    let first = match first {
        Some(first) => Some(first),
        None => arguments.get("first")?,
    };
    let blank = arguments.get::<Option<bool>>("blank")?.unwrap_or(false);
    arguments.assert_all_used()?;
    let margin = width.map_or_else(|| Ok("    ".to_owned()), margin)?;
    let lines = text.split('\n').count() as u64;
    state.consume_fuel(lines.saturating_mul(1 + margin.len() as u64 / 64))?;
    let mut output = String::new();
    for (at, line) in text.split('\n').enumerate() {
        let wanted = if at == 0 {
            first.unwrap_or(false)
        } else {
            output.push('\n');
            blank || !line.is_empty()
        };
        if wanted {
            output.push_str(&margin);
        }
        output.push_str(line);
    }
    Ok(output)
}

/// The text that a number of spaces, or a text, stands for.
fn margin(width: Value) -> Result<String, Error> {
    Ok(match width.as_str() {
        Some(text) => text.to_owned(),
        None => " ".repeat(usize::from(u8::try_from(width)?)),
    })
}

/// The template refuses the messages.
pub(super) fn raise_exception(message: String) -> Result<Value, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, message))
}

/// The time of the system's zone, in a format of `strftime`.
pub(super) fn strftime_now(format: &str) -> Result<String, Error> {
    if format.len() > MAX_DATE_FORMAT_BYTES {
        return Err(Error::new(
            ErrorKind::InvalidOperation,
            format!("the format of a date is longer than {MAX_DATE_FORMAT_BYTES} bytes"),
        ));
    }
    jiff::fmt::strtime::format(format, &jiff::ZonedDateTime::now())
        .map_err(|error| Error::new(ErrorKind::InvalidOperation, error.to_string()))
}

/// Methods of Python's strings, lists and dictionaries.
pub(super) fn method(
    state: &mut State,
    value: &Value,
    name: &str,
    args: &[Value],
) -> Result<Value, Error> {
    match (value.as_str(), name) {
        (Some(format), "format") => charge_format(state, format, args)?,
        (Some(separator), "join") => return join(state, separator, args),
        _ => {}
    }
    pycompat::unknown_method_callback(state, value, name, args)
}

/// Pays for the longest text that `str.format` can give: widths are numbers in the format, and each
/// field can be any argument.
fn charge_format(state: &State, format: &str, args: &[Value]) -> Result<(), Error> {
    let mut longest = 0;
    for argument in args {
        if argument.is_kwargs() {
            for key in argument.try_iter()? {
                longest = longest.max(scalar_length(&argument.get_item(&key)?)?);
            }
        } else {
            longest = longest.max(scalar_length(argument)?);
        }
    }
    let widest = format
        .split(|c: char| !c.is_ascii_digit())
        .filter(|digits| !digits.is_empty())
        .map(|digits| digits.parse::<u64>().unwrap_or(u64::MAX))
        .max()
        .unwrap_or_default();
    let fields = format.matches('{').count() as u64;
    state.consume_fuel(fields.saturating_mul(widest.saturating_add(longest)) / 64)
}

fn scalar_length(value: &Value) -> Result<u64, Error> {
    match (value.as_str(), value.kind()) {
        (Some(text), _) => Ok(text.len() as u64),
        (None, ValueKind::Bool | ValueKind::None | ValueKind::Number) => Ok(400),
        (None, kind) => Err(Error::new(
            ErrorKind::InvalidOperation,
            format!("str.format of a {kind} is not supported"),
        )),
    }
}

fn join(state: &State, separator: &str, args: &[Value]) -> Result<Value, Error> {
    let (items,): (&Value,) = minijinja::value::from_args(args)?;
    let mut text = String::new();
    for (at, item) in items.try_iter()?.checked().enumerate() {
        let item = item?;
        let Some(item) = item.as_str() else {
            return Err(Error::new(
                ErrorKind::InvalidOperation,
                format!("str.join: item {at} is a {}, not a string", item.kind()),
            ));
        };
        state.consume_fuel(1 + (separator.len() + item.len()) as u64 / 64)?;
        if at > 0 {
            text.push_str(separator);
        }
        text.push_str(item);
    }
    Ok(Value::from(text))
}

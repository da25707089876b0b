//! The keys and values of a GGUF file, by type.

use crate::error::{Error, Result};
use crate::models::gguf::file::GgufFile;
use crate::models::gguf::reader::Reader;

/// The longest list that is collected. No vocabulary is longer.
const MAX_LIST: usize = 1 << 24;

/// The longest string that an error message quotes, in characters.
const MAX_QUOTED_CHARS: usize = 80;

/// The type of a metadata value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ValueType {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    F32,
    Bool,
    String,
    Array,
    U64,
    I64,
    F64,
}

impl ValueType {
    /// The type that files give by this number.
    pub(super) fn from_id(id: u32) -> Option<Self> {
        const TYPES: [ValueType; 13] = [
            ValueType::U8,
            ValueType::I8,
            ValueType::U16,
            ValueType::I16,
            ValueType::U32,
            ValueType::I32,
            ValueType::F32,
            ValueType::Bool,
            ValueType::String,
            ValueType::Array,
            ValueType::U64,
            ValueType::I64,
            ValueType::F64,
        ];
        TYPES.get(usize::try_from(id).ok()?).copied()
    }

    /// The bytes of a number; `None` for what has another length or bytes that make no sense.
    pub(super) fn number_bytes(self) -> Option<u64> {
        match self {
            Self::U8 | Self::I8 => Some(1),
            Self::U16 | Self::I16 => Some(2),
            Self::U32 | Self::I32 | Self::F32 => Some(4),
            Self::U64 | Self::I64 | Self::F64 => Some(8),
            Self::Bool | Self::String | Self::Array => None,
        }
    }
}

/// A metadata value, where it lies in the file.
#[derive(Debug, Clone)]
pub(super) enum Value<'a> {
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    Bool(bool),
    String(&'a str),
    Array(Array<'a>),
}

/// A list of values of one type, which are read one by one.
#[derive(Debug, Clone)]
pub(super) struct Array<'a> {
    pub(super) element: ValueType,
    pub(super) count: usize,
    pub(super) elements: Reader<'a>,
}

impl<'a> Array<'a> {
    /// The elements. They were checked when the list was read.
    fn iter(&self) -> impl Iterator<Item = Value<'a>> + use<'a> {
        let (mut reader, element) = (self.elements.clone(), self.element);
        (0..self.count).map_while(move |_| reader.value(element, "", 0).ok())
    }
}

impl<'a> Value<'a> {
    /// A whole number of either sign, whatever its type.
    fn as_integer(&self) -> Option<i64> {
        match *self {
            Self::Unsigned(number) => i64::try_from(number).ok(),
            Self::Signed(number) => Some(number),
            _ => None,
        }
    }

    fn as_unsigned(&self) -> Option<u64> {
        match *self {
            Self::Unsigned(number) => Some(number),
            Self::Signed(number) => u64::try_from(number).ok(),
            _ => None,
        }
    }

    /// A finite number that is not whole by type.
    fn as_float(&self) -> Option<f64> {
        match *self {
            Self::Float(number) if number.is_finite() => Some(number),
            _ => None,
        }
    }

    fn as_string(&self) -> Option<&'a str> {
        match *self {
            Self::String(text) => Some(text),
            _ => None,
        }
    }

    /// The value as an error message shows it.
    pub(super) fn quote(&self) -> String {
        match self {
            Self::Unsigned(number) => number.to_string(),
            Self::Signed(number) => number.to_string(),
            Self::Float(number) => number.to_string(),
            Self::Bool(value) => value.to_string(),
            Self::String(text) => match text.char_indices().nth(MAX_QUOTED_CHARS) {
                Some((end, _)) => format!("{:?}...", text.get(..end).unwrap_or_default()),
                None => format!("{text:?}"),
            },
            Self::Array(array) => {
                format!(
                    "a list of {} values of type {:?}",
                    array.count, array.element
                )
            }
        }
    }
}

impl GgufFile {
    /// The error that the value of `key` is not what was `expected`.
    pub(super) fn invalid(&self, key: &str, expected: impl Into<String>) -> Error {
        Error::InvalidConfig {
            path: self.path().to_owned(),
            key: key.to_owned(),
            found: self
                .value(key)
                .map_or_else(|| "missing".to_owned(), |value| value.quote()),
            expected: expected.into(),
        }
    }

    /// A string.
    pub(super) fn string(&self, key: &str) -> Result<Option<&str>> {
        self.typed(key, "a string", Value::as_string)
    }

    /// `true` or `false`.
    pub(super) fn bool(&self, key: &str) -> Result<Option<bool>> {
        self.typed(key, "true or false", |value| match value {
            Value::Bool(value) => Some(*value),
            _ => None,
        })
    }

    /// A whole number that is not negative.
    pub(super) fn unsigned(&self, key: &str) -> Result<Option<u64>> {
        self.typed(key, "a whole number from 0 on", Value::as_unsigned)
    }

    /// A whole number, or a list of the same one for each layer.
    pub(super) fn uniform(&self, key: &str) -> Result<Option<u64>> {
        let expected = "a whole number, or the same one for all layers";
        self.typed(key, expected, |value| match value {
            Value::Array(array) => {
                let mut numbers = array.iter().map(|number| number.as_unsigned());
                let first = numbers.next()??;
                numbers.all(|number| number == Some(first)).then_some(first)
            }
            single => single.as_unsigned(),
        })
    }

    /// A token id.
    pub(super) fn token_id(&self, key: &str) -> Result<Option<u32>> {
        self.typed(key, "a token id", |value| {
            u32::try_from(value.as_unsigned()?).ok()
        })
    }

    /// A finite number.
    pub(super) fn float(&self, key: &str) -> Result<Option<f64>> {
        self.typed(key, "a finite floating-point number", Value::as_float)
    }

    /// A list of strings.
    pub(super) fn strings(&self, key: &str) -> Result<Option<Vec<&str>>> {
        self.collected(key, "strings", |value| value.as_string())
    }

    /// A list of whole numbers.
    pub(super) fn integers(&self, key: &str) -> Result<Option<Vec<i64>>> {
        self.collected(key, "whole numbers", |value| value.as_integer())
    }

    /// A list of finite numbers.
    pub(super) fn floats(&self, key: &str) -> Result<Option<Vec<f64>>> {
        self.collected(key, "finite numbers", |value| value.as_float())
    }

    fn collected<'a, T>(
        &'a self,
        key: &str,
        expected: &str,
        convert: impl Fn(Value<'a>) -> Option<T>,
    ) -> Result<Option<Vec<T>>> {
        let expected = format!("a list of at most {MAX_LIST} {expected}");
        self.typed(key, expected, |value| match value {
            Value::Array(array) if array.count <= MAX_LIST => array.iter().map(convert).collect(),
            _ => None,
        })
    }

    fn typed<'a, T>(
        &'a self,
        key: &str,
        expected: impl Into<String>,
        convert: impl FnOnce(&Value<'a>) -> Option<T>,
    ) -> Result<Option<T>> {
        self.value(key)
            .map(|value| convert(&value).ok_or_else(|| self.invalid(key, expected)))
            .transpose()
    }
}

//! Reads numbers, strings and metadata values one after the other, each checked against what is left
//! of the file before it is believed.

use std::path::Path;

use crate::error::{Error, Result};
use crate::models::gguf::metadata::{Array, Value, ValueType};

/// How deep lists of lists may nest. Known files have none.
const MAX_DEPTH: usize = 4;

/// A place in the bytes of a GGUF file.
#[derive(Debug, Clone)]
pub(super) struct Reader<'a> {
    path: &'a Path,
    bytes: &'a [u8],
    position: usize,
}

impl<'a> Reader<'a> {
    /// A reader of `bytes` from `position` on.
    pub(super) fn new(path: &'a Path, bytes: &'a [u8], position: usize) -> Self {
        Self {
            path,
            bytes,
            position,
        }
    }

    /// The byte that is read next.
    pub(super) fn position(&self) -> usize {
        self.position
    }

    /// The next `count` bytes; `what` says in an error message what they are.
    pub(super) fn take(&mut self, count: u64, what: &str) -> Result<&'a [u8]> {
        let rest = self.bytes.get(self.position..).unwrap_or_default();
        let taken = usize::try_from(count)
            .ok()
            .and_then(|count| rest.get(..count))
            .ok_or_else(|| {
                let (at, left) = (self.position, rest.len());
                self.error(format!(
                    "truncated: {what} at byte {at} takes {count} bytes; {left} are left"
                ))
            })?;
        self.position += taken.len();
        Ok(taken)
    }

    fn number<const N: usize>(&mut self, what: &str) -> Result<[u8; N]> {
        let taken = self.take(N as u64, what)?.first_chunk();
        // Always there, because N bytes were taken.
        Ok(taken.copied().unwrap_or([0; N]))
    }

    /// The next four bytes as a number.
    pub(super) fn u32(&mut self, what: &str) -> Result<u32> {
        self.number(what).map(u32::from_le_bytes)
    }

    /// The next eight bytes as a number.
    pub(super) fn u64(&mut self, what: &str) -> Result<u64> {
        self.number(what).map(u64::from_le_bytes)
    }

    /// A string, which is its length and as many bytes of UTF-8.
    pub(super) fn string(&mut self, what: &str) -> Result<&'a str> {
        let length = self.u64(what)?;
        let start = self.position;
        std::str::from_utf8(self.take(length, what)?)
            .map_err(|error| self.error(format!("{what} at byte {start} is not UTF-8: {error}")))
    }

    /// A metadata value: its type, and what that type has.
    pub(super) fn typed_value(&mut self, key: &str) -> Result<Value<'a>> {
        let value_type = self.value_type(key)?;
        self.value(value_type, key, 0)
    }

    /// A metadata value of a known type. Elements of a list are checked here and read where needed.
    pub(super) fn value(
        &mut self,
        value_type: ValueType,
        key: &str,
        depth: usize,
    ) -> Result<Value<'a>> {
        Ok(match value_type {
            ValueType::U8 => Value::Unsigned(u8::from_le_bytes(self.number(key)?).into()),
            ValueType::I8 => Value::Signed(i8::from_le_bytes(self.number(key)?).into()),
            ValueType::U16 => Value::Unsigned(u16::from_le_bytes(self.number(key)?).into()),
            ValueType::I16 => Value::Signed(i16::from_le_bytes(self.number(key)?).into()),
            ValueType::U32 => Value::Unsigned(self.u32(key)?.into()),
            ValueType::I32 => Value::Signed(i32::from_le_bytes(self.number(key)?).into()),
            ValueType::U64 => Value::Unsigned(self.u64(key)?),
            ValueType::I64 => Value::Signed(i64::from_le_bytes(self.number(key)?)),
            ValueType::F32 => Value::Float(shortest(f32::from_le_bytes(self.number(key)?))),
            ValueType::F64 => Value::Float(f64::from_le_bytes(self.number(key)?)),
            ValueType::Bool => Value::Bool(self.bool(key)?),
            ValueType::String => Value::String(self.string(key)?),
            ValueType::Array => Value::Array(self.array(key, depth)?),
        })
    }

    fn bool(&mut self, key: &str) -> Result<bool> {
        match u8::from_le_bytes(self.number(key)?) {
            0 => Ok(false),
            1 => Ok(true),
            other => Err(self.error(format!("`{key}` holds {other}; expected 0 or 1"))),
        }
    }

    fn array(&mut self, key: &str, depth: usize) -> Result<Array<'a>> {
        if depth == MAX_DEPTH {
            return Err(self.error(format!(
                "`{key}` nests deeper than the {MAX_DEPTH} lists that are read"
            )));
        }
        let element = self.value_type(key)?;
        let count = self.u64(key)?;
        let start = self.position;
        if let Some(size) = element.number_bytes() {
            // More than the file has where the product does not fit.
            self.take(count.saturating_mul(size), key)?;
        } else {
            // Each element takes a byte or more, so this ends with the file.
            for _ in 0..count {
                self.value(element, key, depth + 1)?;
            }
        }
        Ok(Array {
            element,
            // At most as many as there are bytes.
            count: usize::try_from(count).unwrap_or(usize::MAX),
            elements: Reader {
                bytes: self.bytes.get(..self.position).unwrap_or_default(),
                position: start,
                path: self.path,
            },
        })
    }

    fn value_type(&mut self, key: &str) -> Result<ValueType> {
        let id = self.u32(key)?;
        ValueType::from_id(id).ok_or_else(|| {
            self.error(format!(
                "`{key}` has the value type {id}; expected one from 0 to 12"
            ))
        })
    }

    /// An error of the file.
    pub(super) fn error(&self, reason: String) -> Error {
        Error::format(self.path, reason)
    }
}

/// The number that is written as this one is: 1e-5 for the single precision number nearest to it.
///
/// Files keep in single precision what configurations have in decimal.
fn shortest(number: f32) -> f64 {
    let decimal = number.to_string().parse();
    decimal.unwrap_or_else(|_| f64::from(number))
}

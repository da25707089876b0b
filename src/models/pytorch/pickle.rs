//! The part of pickle in which a dictionary of tensors is written.
//!
//! Protocol and opcodes are those of Python's `pickletools`. Objects are kept in lists of their own and
//! named by their places, so that a pickle can make cycles but nothing follows them; each opcode adds
//! at most one object, so memory is bounded by the length of the pickle.

use crate::error::{Error, Result};
use candle_core::DType;
use std::collections::{HashMap, HashSet};
use std::path::Path;

/// What may be called or named.
const GLOBALS: &[(&str, Global)] = &[
    ("collections OrderedDict", Global::OrderedDict),
    ("torch._utils _rebuild_tensor_v2", Global::RebuildTensor),
    ("torch._utils _rebuild_parameter", Global::RebuildParameter),
    ("torch FloatStorage", Global::Storage(DType::F32)),
    ("torch HalfStorage", Global::Storage(DType::F16)),
    ("torch BFloat16Storage", Global::Storage(DType::BF16)),
    ("torch DoubleStorage", Global::Storage(DType::F64)),
    ("torch LongStorage", Global::Storage(DType::I64)),
    ("torch IntStorage", Global::Storage(DType::I32)),
    ("torch ShortStorage", Global::Storage(DType::I16)),
    ("torch ByteStorage", Global::Storage(DType::U8)),
];
/// The most dimensions that are believed.
const MAX_DIMS: usize = 8;

/// A tensor as a pickle describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PickledTensor<'a> {
    /// The name of the storage.
    pub storage: &'a str,
    pub dtype: DType,
    /// The first number in the storage.
    pub offset: usize,
    pub shape: Vec<usize>,
    /// In numbers, one for each dimension.
    pub strides: Vec<usize>,
}

/// The tensors of a pickled dictionary, by name.
pub(crate) fn tensors<'a>(
    bytes: &'a [u8],
    path: &'a Path,
) -> Result<Vec<(&'a str, PickledTensor<'a>)>> {
    let mut machine = Machine::new(bytes, path);
    let result = machine.run()?;
    let Value::Dict(place) = result else {
        return Err(machine.invalid(format!("the result is {}", machine.show(result))));
    };
    let mut names = HashSet::new();
    let mut tensors = vec![];
    let pairs = machine.dicts.get(place).map_or(&[][..], Vec::as_slice);
    for &(key, value) in pairs {
        let (Value::Text(name), Value::Tensor(tensor)) = (key, value) else {
            continue;
        };
        if !names.insert(name) {
            return Err(machine.invalid(format!("`{name}` is there twice")));
        }
        if let Some(tensor) = machine.tensors.get(tensor) {
            tensors.push((name, tensor.clone()));
        }
    }
    Ok(tensors)
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Global {
    OrderedDict,
    RebuildTensor,
    RebuildParameter,
    Storage(DType),
}

/// An object, or where it is kept.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Value<'a> {
    None,
    Bool(bool),
    Int(i64),
    Float,
    Text(&'a str),
    Tuple(usize),
    List(usize),
    Dict(usize),
    Global(Global),
    /// Of this name and dtype.
    Storage(&'a str, DType),
    Tensor(usize),
}

struct Machine<'a> {
    path: &'a Path,
    bytes: &'a [u8],
    /// The next opcode or argument.
    at: usize,
    stack: Vec<Value<'a>>,
    /// The heights of the stack that are marked.
    marks: Vec<usize>,
    memo: HashMap<u32, Value<'a>>,
    tuples: Vec<Vec<Value<'a>>>,
    lists: Vec<Vec<Value<'a>>>,
    dicts: Vec<Vec<(Value<'a>, Value<'a>)>>,
    tensors: Vec<PickledTensor<'a>>,
}

impl<'a> Machine<'a> {
    fn new(bytes: &'a [u8], path: &'a Path) -> Self {
        Self {
            path,
            bytes,
            at: 0,
            stack: vec![],
            marks: vec![],
            memo: HashMap::new(),
            tuples: vec![],
            lists: vec![],
            dicts: vec![],
            tensors: vec![],
        }
    }

    fn invalid(&self, reason: impl std::fmt::Display) -> Error {
        let at = self.at;
        let reason = format!(
            "data.pkl, byte {at}: {reason}; expected a dictionary of tensors as torch.save writes it"
        );
        Error::format(self.path, reason)
    }

    /// Runs to the end and gives the result.
    fn run(&mut self) -> Result<Value<'a>> {
        loop {
            let [opcode] = self.take::<1>()?;
            if opcode == b'.' {
                return self.pop();
            }
            self.step(opcode)?;
        }
    }

    fn step(&mut self, opcode: u8) -> Result<()> {
        match opcode {
            // The protocol, and the length of what follows: of no use.
            0x80 => drop(self.take::<1>()?),
            0x95 => drop(self.take::<8>()?),
            b'(' => self.marks.push(self.stack.len()),
            b'0' => drop(self.pop()?),
            b'1' => drop(self.pop_marked()?),
            b')' => self.tuple(vec![]),
            0x85..=0x87 => {
                let len = usize::from(opcode - 0x84);
                let start = self.stack.len().checked_sub(len);
                let start = start.ok_or_else(|| self.invalid("the stack is empty"))?;
                let items = self.stack.split_off(start);
                self.tuple(items);
            }
            b't' => {
                let items = self.pop_marked()?;
                self.tuple(items);
            }
            b']' => {
                self.stack.push(Value::List(self.lists.len()));
                self.lists.push(vec![]);
            }
            b'a' => {
                let item = self.pop()?;
                self.append(vec![item])?;
            }
            b'e' => {
                let items = self.pop_marked()?;
                self.append(items)?;
            }
            b'}' => self.dict(),
            b's' => {
                let value = self.pop()?;
                let key = self.pop()?;
                self.set(&[key, value])?;
            }
            b'u' => {
                let items = self.pop_marked()?;
                self.set(&items)?;
            }
            b'q' => {
                let [key] = self.take()?;
                self.memoize(key.into())?;
            }
            b'r' => {
                let key = u32::from_le_bytes(self.take()?);
                self.memoize(key)?;
            }
            0x94 => {
                let key = u32::try_from(self.memo.len()).unwrap_or(u32::MAX);
                self.memoize(key)?;
            }
            b'h' => {
                let [key] = self.take()?;
                self.recall(key.into())?;
            }
            b'j' => {
                let key = u32::from_le_bytes(self.take()?);
                self.recall(key)?;
            }
            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                self.global(module, name)?;
            }
            0x93 => {
                let (name, module) = (self.pop()?, self.pop()?);
                match (module, name) {
                    (Value::Text(module), Value::Text(name)) => self.global(module, name)?,
                    _ => return Err(self.invalid("a global without a name")),
                }
            }
            b'Q' => self.storage()?,
            b'R' => self.call()?,
            b'b' => self.build()?,
            other => self.constant(other)?,
        }
        Ok(())
    }

    /// Pushes a number, a text, or one of the few objects that have opcodes of their own.
    fn constant(&mut self, opcode: u8) -> Result<()> {
        match opcode {
            b'N' => self.stack.push(Value::None),
            0x88 => self.stack.push(Value::Bool(true)),
            0x89 => self.stack.push(Value::Bool(false)),
            b'J' => {
                let value = i32::from_le_bytes(self.take()?);
                self.stack.push(Value::Int(value.into()));
            }
            b'K' => {
                let [value] = self.take()?;
                self.stack.push(Value::Int(value.into()));
            }
            b'M' => {
                let value = u16::from_le_bytes(self.take()?);
                self.stack.push(Value::Int(value.into()));
            }
            0x8a => self.long()?,
            b'G' => {
                self.take::<8>()?;
                self.stack.push(Value::Float);
            }
            0x8c => {
                let [len] = self.take()?;
                self.text(len.into())?;
            }
            b'X' => {
                let len = u32::from_le_bytes(self.take()?);
                self.text(len.into())?;
            }
            0x8d => {
                let len = u64::from_le_bytes(self.take()?);
                self.text(len)?;
            }
            other => return Err(self.invalid(format!("the opcode {other:#04x}"))),
        }
        Ok(())
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N]> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let found = rest.first_chunk::<N>().copied();
        let found = found.ok_or_else(|| self.invalid("truncated"))?;
        self.at += N;
        Ok(found)
    }

    fn text(&mut self, len: u64) -> Result<()> {
        let end = usize::try_from(len)
            .ok()
            .and_then(|len| self.at.checked_add(len));
        let bytes = end.and_then(|end| self.bytes.get(self.at..end));
        let bytes = bytes.ok_or_else(|| self.invalid("truncated"))?;
        let text =
            std::str::from_utf8(bytes).map_err(|_| self.invalid("text that is not UTF-8"))?;
        self.at += bytes.len();
        self.stack.push(Value::Text(text));
        Ok(())
    }

    /// The text up to the end of the line.
    fn line(&mut self) -> Result<&'a str> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let end = rest.iter().position(|&byte| byte == b'\n');
        let line = end.and_then(|end| std::str::from_utf8(&rest[..end]).ok());
        let line = line.ok_or_else(|| self.invalid("a name that does not end"))?;
        self.at += line.len() + 1;
        Ok(line)
    }

    /// A whole number of up to eight bytes.
    fn long(&mut self) -> Result<()> {
        let [len] = self.take()?;
        if len > 8 {
            return Err(self.invalid(format!("a number of {len} bytes")));
        }
        let mut value = [0u8; 8];
        for byte in value.iter_mut().take(len.into()) {
            [*byte] = self.take()?;
        }
        let unused = 64 - 8 * u32::from(len);
        // The highest byte has the sign.
        let shifted = i64::from_le_bytes(value).checked_shl(unused).unwrap_or(0);
        let value = shifted.checked_shr(unused).unwrap_or(0);
        self.stack.push(Value::Int(value));
        Ok(())
    }

    fn pop(&mut self) -> Result<Value<'a>> {
        // What lies below a mark belongs to another object.
        if self
            .marks
            .last()
            .is_some_and(|&mark| self.stack.len() <= mark)
        {
            return Err(self.invalid("nothing behind a mark"));
        }
        let top = self.stack.pop();
        top.ok_or_else(|| self.invalid("the stack is empty"))
    }

    fn pop_marked(&mut self) -> Result<Vec<Value<'a>>> {
        let mark = self.marks.pop().filter(|&mark| mark <= self.stack.len());
        let mark = mark.ok_or_else(|| self.invalid("no mark"))?;
        Ok(self.stack.split_off(mark))
    }

    fn tuple(&mut self, items: Vec<Value<'a>>) {
        self.stack.push(Value::Tuple(self.tuples.len()));
        self.tuples.push(items);
    }

    fn dict(&mut self) {
        self.stack.push(Value::Dict(self.dicts.len()));
        self.dicts.push(vec![]);
    }

    fn append(&mut self, items: Vec<Value<'a>>) -> Result<()> {
        let list = match self.stack.last() {
            Some(&Value::List(place)) => self.lists.get_mut(place),
            _ => None,
        };
        match list {
            Some(list) => list.extend(items),
            None => return Err(self.invalid("nothing to append to")),
        }
        Ok(())
    }

    /// Sets keys and values, in turn, in the dictionary on top of the stack.
    fn set(&mut self, items: &[Value<'a>]) -> Result<()> {
        let (pairs, rest) = items.as_chunks::<2>();
        let dict = match self.stack.last() {
            Some(&Value::Dict(place)) if rest.is_empty() => self.dicts.get_mut(place),
            _ => None,
        };
        match dict {
            Some(dict) => dict.extend(pairs.iter().map(|&[key, value]| (key, value))),
            None => return Err(self.invalid("nothing to set in")),
        }
        Ok(())
    }

    fn memoize(&mut self, key: u32) -> Result<()> {
        let top = self.stack.last().copied();
        let top = top.ok_or_else(|| self.invalid("the stack is empty"))?;
        self.memo.insert(key, top);
        Ok(())
    }

    fn recall(&mut self, key: u32) -> Result<()> {
        let value = self.memo.get(&key).copied();
        let value = value.ok_or_else(|| self.invalid(format!("no object {key}")))?;
        self.stack.push(value);
        Ok(())
    }

    fn global(&mut self, module: &str, name: &str) -> Result<()> {
        let found = format!("{module} {name}");
        let known = GLOBALS.iter().find(|(known, _)| *known == found);
        let (_, global) = known.ok_or_else(|| Error::Unsupported {
            path: self.path.to_owned(),
            what: "global",
            found: format!("{module}.{name}"),
            supported: GLOBALS
                .iter()
                .map(|(known, _)| known.replace(' ', "."))
                .collect::<Vec<_>>()
                .join(", "),
        })?;
        self.stack.push(Value::Global(*global));
        Ok(())
    }

    fn items(&self, value: Value<'a>) -> &[Value<'a>] {
        match value {
            Value::Tuple(place) => self.tuples.get(place).map_or(&[], Vec::as_slice),
            _ => &[],
        }
    }

    /// `("storage", type, key, device, number of elements)`
    fn storage(&mut self) -> Result<()> {
        let reference = self.pop()?;
        let storage = match self.items(reference) {
            &[
                Value::Text("storage"),
                Value::Global(Global::Storage(dtype)),
                Value::Text(key),
                _,
                Value::Int(_),
            ] => Value::Storage(key, dtype),
            _ => return Err(self.invalid("a reference that is none to a storage")),
        };
        self.stack.push(storage);
        Ok(())
    }

    fn call(&mut self) -> Result<()> {
        let (arguments, function) = (self.pop()?, self.pop()?);
        match (function, self.items(arguments)) {
            (Value::Global(Global::OrderedDict), []) => self.dict(),
            (
                Value::Global(Global::RebuildTensor),
                &[
                    Value::Storage(storage, dtype),
                    Value::Int(offset),
                    shape,
                    strides,
                    ..,
                ],
            ) => {
                let tensor = PickledTensor {
                    storage,
                    dtype,
                    offset: self.size(Value::Int(offset))?,
                    shape: self.sizes(shape)?,
                    strides: self.sizes(strides)?,
                };
                if tensor.shape.len() != tensor.strides.len() {
                    return Err(self.invalid("a tensor with other strides than dimensions"));
                }
                self.stack.push(Value::Tensor(self.tensors.len()));
                self.tensors.push(tensor);
            }
            (Value::Global(Global::RebuildParameter), &[tensor @ Value::Tensor(_), ..]) => {
                self.stack.push(tensor);
            }
            (function, _) => {
                return Err(self.invalid(format!("a call of {}", self.show(function))));
            }
        }
        Ok(())
    }

    /// Attributes, of which those of a dictionary are of no use.
    fn build(&mut self) -> Result<()> {
        self.pop()?;
        match self.stack.last() {
            Some(Value::Dict(_)) => Ok(()),
            _ => Err(self.invalid("attributes of something else than a dictionary")),
        }
    }

    fn size(&self, value: Value<'a>) -> Result<usize> {
        match value {
            Value::Int(size) => usize::try_from(size).ok(),
            _ => None,
        }
        .ok_or_else(|| self.invalid(format!("the size {}", self.show(value))))
    }

    fn sizes(&self, value: Value<'a>) -> Result<Vec<usize>> {
        let items = self.items(value);
        if !matches!(value, Value::Tuple(_)) || items.len() > MAX_DIMS {
            return Err(self.invalid("a tensor without sizes, or with too many"));
        }
        items.iter().map(|&item| self.size(item)).collect()
    }

    fn show(&self, value: Value<'a>) -> String {
        match value {
            Value::Int(value) => value.to_string(),
            Value::Text(text) => format!("`{}`", text.chars().take(80).collect::<String>()),
            Value::Tuple(_) => format!("a tuple of {} objects", self.items(value).len()),
            Value::List(_) => "a list".to_owned(),
            Value::Dict(_) => "a dictionary".to_owned(),
            Value::Tensor(_) => "a tensor".to_owned(),
            other => format!("{other:?}"),
        }
    }
}

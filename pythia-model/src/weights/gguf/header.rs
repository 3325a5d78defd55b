//! [`Header`]: keys and values, and where which tensor lies.

use super::shown;
use crate::weights::unique::most;
use std::collections::HashMap;

/// The fewest bytes that a file has for a tensor, its name and its numbers; it has far fewer keys.
const LEAST: usize = 128;
/// More dimensions than any tensor of a model has.
const MAX_DIMENSIONS: usize = 4;

// Types of values.
const BOOL: u32 = 7;
const TEXT: u32 = 8;
const ARRAY: u32 = 9;

/// A value of a key.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Value<'a> {
    Int(i64),
    Float(f64),
    Bool(bool),
    Text(&'a str),
    /// Elements of one type, one behind the other.
    Array {
        kind: u32,
        length: usize,
        bytes: &'a [u8],
    },
}

/// A tensor.
#[derive(Debug)]
pub(super) struct Info<'a> {
    pub(super) name: &'a str,
    /// Outermost dimension first.
    pub(super) shape: Vec<usize>,
    pub(super) ggml_type: u32,
    /// Where it starts, counted from the start of the data.
    pub(super) offset: usize,
}

/// What a file has before its data.
#[derive(Debug)]
pub(super) struct Header<'a> {
    values: HashMap<&'a str, Value<'a>>,
    pub(super) infos: Vec<Info<'a>>,
    /// Where the data starts.
    pub(super) data: usize,
    /// What each tensor's place is a multiple of.
    pub(super) alignment: usize,
}

impl<'a> Header<'a> {
    pub(super) fn parse(bytes: &'a [u8]) -> Result<Self, String> {
        let mut cursor = Cursor { rest: bytes };
        if cursor.take(4).ok() != Some(b"GGUF") {
            return Err("this is not a GGUF file: it does not start as one".to_owned());
        }
        let version = cursor.u32()?;
        if !(2..=3).contains(&version) {
            return Err(format!("GGUF version {version} is not supported: expected 2 or 3, little-endian"));
        }
        let most = most(bytes.len(), LEAST);
        let [tensors, keys] = [cursor.count(most)?, cursor.count(most)?];
        let mut values = HashMap::new();
        for _ in 0..keys {
            let key = cursor.text()?;
            let kind = cursor.u32()?;
            let value = cursor.value(kind).map_err(|e| format!("the key `{}`: {e}", shown(key)))?;
            if values.insert(key, value).is_some() {
                return Err(format!("the key `{}` occurs twice", shown(key)));
            }
        }
        let mut infos = Vec::new();
        for _ in 0..tensors {
            infos.push(cursor.info()?);
        }
        let alignment = match values.get("general.alignment") {
            None => 32,
            Some(&Value::Int(n)) if (1..=1 << 16).contains(&n) && n.count_ones() == 1 => n as usize,
            Some(_) => return Err("`general.alignment`: expected a power of two up to 65536".to_owned()),
        };
        let data = (bytes.len() - cursor.rest.len()).next_multiple_of(alignment);
        Ok(Self { values, infos, data, alignment })
    }

    pub(super) fn get(&self, key: &str) -> Option<Value<'a>> {
        self.values.get(key).copied()
    }

    /// A number that is above 0 and no larger than that of any model.
    pub(super) fn size(&self, key: &str) -> Option<usize> {
        match self.get(key) {
            Some(Value::Int(n)) => usize::try_from(n).ok().filter(|n| (1..=1 << 24).contains(n)),
            _ => None,
        }
    }

    /// The texts of an array.
    pub(super) fn texts(&self, key: &str) -> Option<Vec<&'a str>> {
        let Some(Value::Array { kind: TEXT, length, bytes }) = self.get(key) else { return None };
        let mut cursor = Cursor { rest: bytes };
        (0..length).map(|_| cursor.text().ok()).collect()
    }

    /// The whole numbers of an array.
    pub(super) fn ints(&self, key: &str) -> Option<Vec<i64>> {
        let Some(Value::Array { kind, length, bytes }) = self.get(key) else { return None };
        let mut cursor = Cursor { rest: bytes };
        let int = |_| match cursor.value(kind) {
            Ok(Value::Int(n)) => Some(n),
            _ => None,
        };
        (0..length).map(int).collect()
    }
}

/// What has not been read yet.
struct Cursor<'a> {
    rest: &'a [u8],
}

impl<'a> Cursor<'a> {
    fn take(&mut self, n: usize) -> Result<&'a [u8], String> {
        let (taken, rest) = self
            .rest
            .split_at_checked(n)
            .ok_or("the header does not end within the file: it is cut short, download it again")?;
        self.rest = rest;
        Ok(taken)
    }

    fn bytes<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let mut bytes = [0; N];
        bytes.copy_from_slice(self.take(N)?);
        Ok(bytes)
    }

    fn u32(&mut self) -> Result<u32, String> {
        Ok(u32::from_le_bytes(self.bytes()?))
    }

    fn usize(&mut self) -> Result<usize, String> {
        let n = u64::from_le_bytes(self.bytes()?);
        usize::try_from(n).map_err(|_| format!("{n} is too large for this machine"))
    }

    fn count(&mut self, most: usize) -> Result<usize, String> {
        let n = self.usize()?;
        if n > most {
            return Err(format!(
                "the header says that it has {n} tensors or keys, expected at most {most} in a file of this length"
            ));
        }
        Ok(n)
    }

    fn text(&mut self) -> Result<&'a str, String> {
        let n = self.usize()?;
        std::str::from_utf8(self.take(n)?).map_err(|_| "expected text in UTF-8".to_owned())
    }

    fn value(&mut self, kind: u32) -> Result<Value<'a>, String> {
        Ok(match kind {
            0 => Value::Int(u8::from_le_bytes(self.bytes()?).into()),
            1 => Value::Int(i8::from_le_bytes(self.bytes()?).into()),
            2 => Value::Int(u16::from_le_bytes(self.bytes()?).into()),
            3 => Value::Int(i16::from_le_bytes(self.bytes()?).into()),
            4 => Value::Int(self.u32()?.into()),
            5 => Value::Int(i32::from_le_bytes(self.bytes()?).into()),
            6 => Value::Float(f32::from_le_bytes(self.bytes()?).into()),
            BOOL => Value::Bool(self.bytes::<1>()? != [0]),
            TEXT => Value::Text(self.text()?),
            ARRAY => self.array()?,
            10 => Value::Int(i64::try_from(u64::from_le_bytes(self.bytes()?)).unwrap_or(i64::MAX)),
            11 => Value::Int(i64::from_le_bytes(self.bytes()?)),
            12 => Value::Float(f64::from_le_bytes(self.bytes()?)),
            other => return Err(format!("the type {other} of a value is unknown")),
        })
    }

    /// An array, whose elements are looked at when they are asked for.
    fn array(&mut self) -> Result<Value<'a>, String> {
        let (kind, length) = (self.u32()?, self.usize()?);
        let before = self.rest;
        let size = match kind {
            0 | 1 | BOOL => 1,
            2 | 3 => 2,
            4..=6 => 4,
            10..=12 => 8,
            TEXT => 0,
            other => return Err(format!("arrays of the type {other} are not supported")),
        };
        if kind == TEXT {
            for _ in 0..length {
                let n = self.usize()?;
                self.take(n)?;
            }
        } else {
            self.take(length.checked_mul(size).ok_or("an array is too long")?)?;
        }
        let bytes = before.get(..before.len() - self.rest.len()).unwrap_or_default();
        Ok(Value::Array { kind, length, bytes })
    }

    fn info(&mut self) -> Result<Info<'a>, String> {
        let name = self.text()?;
        let dimensions = self.u32()? as usize;
        if dimensions > MAX_DIMENSIONS {
            return Err(format!(
                "tensor `{}` has {dimensions} dimensions, expected at most {MAX_DIMENSIONS}",
                shown(name)
            ));
        }
        let mut shape = (0..dimensions).map(|_| self.usize()).collect::<Result<Vec<_>, _>>()?;
        shape.reverse();
        Ok(Info { name, shape, ggml_type: self.u32()?, offset: self.usize()? })
    }
}

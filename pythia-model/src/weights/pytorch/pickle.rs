//! A pickle as data: a parser for the opcodes that state dicts use, which runs nothing.
//!
//! A pickle is a program for a machine with a stack and a memo; where Python would call what it names, this keeps the
//! arguments. Values refer to each other by position, so that neither copies nor depth cost anything, and their number
//! is bounded. <https://github.com/python/cpython/blob/main/Lib/pickletools.py> has every opcode.

use super::shown;
use safetensors::Dtype;

/// The most values that a pickle may have: five thousand tensors have fewer.
const MAX_VALUES: usize = 1 << 17;
/// The bytes that values may take for each of the file, and those that they may take in any. A tensor takes 600, and in
/// the file, with its storage, no less than 300. Vectors have room for twice what is in them.
const MEMORY: usize = 3;
const SMALL: usize = 256 << 10;
/// The most bytes: names apart, a tensor takes about a hundred.
pub(super) const MAX_LENGTH: usize = 16 << 20;
const STOP: u8 = b'.';

/// A value of a pickle.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Value<'a> {
    None,
    Bool(bool),
    Int(i64),
    Str(&'a str),
    Tuple(Run),
    List(usize),
    /// A dict, or a `collections.OrderedDict`.
    Dict(usize),
    /// The type `collections.OrderedDict`.
    OrderedDict,
    /// The function `torch._utils._rebuild_tensor_v2`.
    RebuildTensor,
    /// A type such as `torch.HalfStorage`.
    Storages(Dtype),
    /// A storage, by its persistent id.
    Storage(Run),
    /// What `torch._utils._rebuild_tensor_v2` would make of these arguments.
    Tensor(Run),
}

/// Consecutive values of a [`Pickle`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Run {
    start: u32,
    length: u32,
}

/// A value put into a list or, under a key, into a dict.
struct Put<'a> {
    container: usize,
    key: Value<'a>,
    value: Value<'a>,
}

/// A pickle that has been parsed.
pub(super) struct Pickle<'a> {
    pub(super) root: Value<'a>,
    /// Its bytes, up to where it says that it stops.
    pub(super) length: usize,
    values: Vec<Value<'a>>,
    puts: Vec<Put<'a>>,
}

impl<'a> Pickle<'a> {
    /// The pickle that `bytes` start with, in a file of `file` bytes.
    pub(super) fn parse(bytes: &'a [u8], file: usize) -> Result<Self, String> {
        let bytes = bytes.get(..MAX_LENGTH).unwrap_or(bytes);
        let most = SMALL + MEMORY * file;
        let mut machine = Machine { rest: bytes, most, ..Machine::default() };
        if machine.bytes()? != [0x80, 2] {
            return Err(
                "expected a pickle of protocol 2, found something else: save it with PyTorch's default"
                    .to_owned(),
            );
        }
        let root = loop {
            let at = bytes.len() - machine.rest.len();
            let step = machine.step().map_err(|e| format!("the pickle at its byte {at}: {e}"))?;
            if let Some(root) = step {
                break root;
            }
        };
        let length = bytes.len() - machine.rest.len();
        Ok(Self { root, length, values: machine.values, puts: machine.puts })
    }

    pub(super) fn run(&self, run: Run) -> &[Value<'a>] {
        let start = run.start as usize;
        self.values.get(start..start + run.length as usize).unwrap_or_default()
    }

    /// The keys and values of a dict, in order. What is none has none.
    pub(super) fn dict(&self, dict: Value<'a>) -> impl Iterator<Item = (Value<'a>, Value<'a>)> {
        let of = move |put: &&Put<'a>| dict == Value::Dict(put.container);
        self.puts.iter().filter(of).map(|put| (put.key, put.value))
    }

    /// The values of a list, in order. What is none has none.
    pub(super) fn list(&self, list: Value<'a>) -> impl Iterator<Item = Value<'a>> {
        let of = move |put: &&Put<'a>| list == Value::List(put.container);
        self.puts.iter().filter(of).map(|put| put.value)
    }
}

impl Value<'_> {
    /// What it is, for an error.
    pub(super) fn kind(self) -> String {
        match self {
            Self::None => "None".to_owned(),
            Self::Bool(b) => format!("the bool {b}"),
            Self::Int(n) => format!("the number {n}"),
            Self::Str(text) => format!("the text `{}`", shown(text)),
            Self::Tuple(_) => "a tuple".to_owned(),
            Self::List(_) => "a list".to_owned(),
            Self::Dict(_) => "a dict".to_owned(),
            Self::OrderedDict | Self::RebuildTensor | Self::Storages(_) => "a type or a function".to_owned(),
            Self::Storage(_) => "a storage".to_owned(),
            Self::Tensor(_) => "a tensor".to_owned(),
        }
    }
}

/// The type or the function of this name, if state dicts need it.
fn global(module: &str, name: &str) -> Option<Value<'static>> {
    Some(match (module, name) {
        ("collections", "OrderedDict") => Value::OrderedDict,
        ("torch._utils", "_rebuild_tensor_v2") => Value::RebuildTensor,
        ("torch", name) => Value::Storages(match name.strip_suffix("Storage")? {
            "Float" => Dtype::F32,
            "Half" => Dtype::F16,
            "BFloat16" => Dtype::BF16,
            "Double" => Dtype::F64,
            "Bool" => Dtype::BOOL,
            "Byte" => Dtype::U8,
            "Char" => Dtype::I8,
            "Short" => Dtype::I16,
            "Int" => Dtype::I32,
            "Long" => Dtype::I64,
            _ => return None,
        }),
        _ => return None,
    })
}

#[derive(Default)]
struct Machine<'a> {
    rest: &'a [u8],
    /// The most bytes that all that follows may take.
    most: usize,
    stack: Vec<Value<'a>>,
    /// The heights of the stack that were marked.
    marks: Vec<usize>,
    memo: Vec<Value<'a>>,
    /// How many lists and dicts there are.
    containers: usize,
    /// The elements of tuples.
    values: Vec<Value<'a>>,
    puts: Vec<Put<'a>>,
}

impl<'a> Machine<'a> {
    /// Takes one opcode. The last one gives the value that the pickle stands for.
    fn step(&mut self) -> Result<Option<Value<'a>>, String> {
        let [code] = self.bytes()?;
        match code {
            STOP => return self.pop().map(Some),
            b'(' => self.marks.push(self.stack.len()),
            b'q' | b'r' => self.memorize(code)?,
            0x85..=0x87 => self.tuple(usize::from(code - 0x84))?,
            b't' => {
                let length = self.unmark()?;
                self.tuple(length)?;
            }
            b's' => self.put_into_dict(2)?,
            b'u' => {
                let length = self.unmark()?;
                self.put_into_dict(length)?;
            }
            b'a' => self.append(1)?,
            b'e' => {
                let length = self.unmark()?;
                self.append(length)?;
            }
            b'Q' => {
                let Value::Tuple(id) = self.pop()? else {
                    return Err("expected a tuple as persistent id".to_owned());
                };
                self.stack.push(Value::Storage(id));
            }
            b'R' => self.reduce()?,
            b'b' => self.build()?,
            _ => {
                let value = self.value(code)?;
                self.stack.push(value);
            }
        }
        self.bounded().map(|()| None)
    }

    /// The value of an opcode that needs none from the stack.
    fn value(&mut self, code: u8) -> Result<Value<'a>, String> {
        Ok(match code {
            b'N' => Value::None,
            0x88 => Value::Bool(true),
            0x89 => Value::Bool(false),
            b'K' | b'M' | b'J' | 0x8a => Value::Int(self.integer(code)?),
            b'X' => {
                let length = u32::from_le_bytes(self.bytes()?);
                let text = self.take(length as usize)?;
                Value::Str(std::str::from_utf8(text).map_err(|_| "expected text in UTF-8")?)
            }
            b')' => Value::Tuple(Run { start: 0, length: 0 }),
            b']' => Value::List(self.container()),
            b'}' => Value::Dict(self.container()),
            b'c' => self.global()?,
            b'h' | b'j' => {
                let index = self.index(code)?;
                *self.memo.get(index).ok_or_else(|| format!("nothing was memorized as {index}"))?
            }
            _ => {
                return Err(format!(
                    "the opcode {code:#04x} is none that state dicts use, and nothing was executed: expected the \
                     weights alone, `torch.save(model.state_dict())`"
                ));
            }
        })
    }

    fn bounded(&self) -> Result<(), String> {
        let values = self.stack.len() + self.memo.len() + self.values.len();
        let others = [self.marks.len(), self.puts.len(), self.containers].iter().sum::<usize>();
        let bytes = values * size_of::<Value<'_>>()
            + self.marks.len() * size_of::<usize>()
            + self.puts.len() * size_of::<Put<'_>>();
        if values + others > MAX_VALUES || bytes > self.most {
            let (count, most) = (values + others, self.most);
            return Err(format!(
                "{count} values of {bytes} bytes, expected at most {MAX_VALUES} and {most}: this is not a model's state dict"
            ));
        }
        Ok(())
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], String> {
        let (taken, rest) = self.rest.split_at_checked(length).ok_or_else(|| self.cut())?;
        self.rest = rest;
        Ok(taken)
    }

    fn bytes<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let (taken, rest) = self.rest.split_first_chunk().ok_or_else(|| self.cut())?;
        self.rest = rest;
        Ok(*taken)
    }

    fn cut(&self) -> String {
        let left = self.rest.len();
        format!(
            "a pickle does not end within the {left} bytes that are left (and at most {MAX_LENGTH} in all): the file is cut \
             short, download it again"
        )
    }

    /// A number of 1, 2 or 4 bytes, or of as many as the first byte says.
    fn integer(&mut self, code: u8) -> Result<i64, String> {
        Ok(match code {
            b'K' => u8::from_le_bytes(self.bytes()?).into(),
            b'M' => u16::from_le_bytes(self.bytes()?).into(),
            b'J' => i32::from_le_bytes(self.bytes()?).into(),
            _ => {
                let [length] = self.bytes()?;
                let digits = self.take(length.into())?;
                let sign = if digits.last().is_some_and(|&last| last >= 0x80) { 0xff } else { 0 };
                let mut bytes = [sign; 8];
                let low = bytes
                    .get_mut(..digits.len())
                    .ok_or_else(|| format!("expected a number of at most 8 bytes, found {}", digits.len()))?;
                low.copy_from_slice(digits);
                i64::from_le_bytes(bytes)
            }
        })
    }

    /// The index that memo opcodes have: a byte, or four for the codes `r` and `j`.
    fn index(&mut self, code: u8) -> Result<usize, String> {
        Ok(match code {
            b'q' | b'h' => u8::from_le_bytes(self.bytes()?).into(),
            _ => u32::from_le_bytes(self.bytes()?) as usize,
        })
    }

    /// Memorizes the top of the stack. Picklers count upwards, so no index is far from those before.
    fn memorize(&mut self, code: u8) -> Result<(), String> {
        let index = self.index(code)?;
        let value = self.top()?;
        let next = self.memo.len();
        match self.memo.get_mut(index) {
            Some(place) => *place = value,
            None if index == next => self.memo.push(value),
            None => return Err(format!("expected at most {next} as the memo's index, found {index}")),
        }
        Ok(())
    }

    fn global(&mut self) -> Result<Value<'a>, String> {
        let mut line = || {
            let end = self.rest.iter().position(|&byte| byte == b'\n').ok_or_else(|| self.cut())?;
            let line = self.take(end)?;
            self.bytes::<1>()?;
            std::str::from_utf8(line).map_err(|_| "expected a name in UTF-8".to_owned())
        };
        let (module, name) = (line()?, line()?);
        global(module, name).ok_or_else(|| {
            format!(
                "the global `{}.{}` is none that state dicts use, and nothing was executed: expected \
                 collections.OrderedDict, torch._utils._rebuild_tensor_v2 and the storages of torch",
                shown(module),
                shown(name)
            )
        })
    }

    /// The height below which the stack is out of reach.
    fn floor(&self) -> usize {
        self.marks.last().copied().unwrap_or(0)
    }

    fn top(&self) -> Result<Value<'a>, String> {
        let reachable = self.stack.get(self.floor()..).and_then(<[_]>::last);
        reachable.copied().ok_or_else(|| "the stack is empty".to_owned())
    }

    fn pop(&mut self) -> Result<Value<'a>, String> {
        let value = self.top()?;
        self.stack.pop();
        Ok(value)
    }

    /// Forgets the last mark; gives how many values lie above it.
    fn unmark(&mut self) -> Result<usize, String> {
        let mark = self.marks.pop().ok_or("there is no mark on the stack")?;
        Ok(self.stack.len() - mark)
    }

    /// The top `length` values of the stack, from the lowest on.
    fn pop_many(&mut self, length: usize) -> Result<Vec<Value<'a>>, String> {
        let start = self.stack.len().checked_sub(length).filter(|&start| start >= self.floor());
        start.map(|start| self.stack.split_off(start)).ok_or_else(|| "the stack is empty".to_owned())
    }

    fn tuple(&mut self, length: usize) -> Result<(), String> {
        let elements = self.pop_many(length)?;
        // Both are less than the values there may be.
        let run = Run { start: self.values.len() as u32, length: length as u32 };
        self.values.extend(elements);
        self.stack.push(Value::Tuple(run));
        Ok(())
    }

    fn container(&mut self) -> usize {
        self.containers += 1;
        self.containers
    }

    /// Puts keys and values, `length` together, into the dict below them.
    fn put_into_dict(&mut self, length: usize) -> Result<(), String> {
        let pairs = self.pop_many(length)?;
        let Value::Dict(container) = self.top()? else {
            return Err("expected a dict to put values into".to_owned());
        };
        let (pairs, rest) = pairs.as_chunks();
        if !rest.is_empty() {
            return Err("expected a value for each key".to_owned());
        }
        self.puts.extend(pairs.iter().map(|&[key, value]| Put { container, key, value }));
        Ok(())
    }

    fn append(&mut self, length: usize) -> Result<(), String> {
        let values = self.pop_many(length)?;
        let Value::List(container) = self.top()? else {
            return Err("expected a list to append to".to_owned());
        };
        self.puts.extend(values.into_iter().map(|value| Put { container, key: Value::None, value }));
        Ok(())
    }

    /// Where Python would call a function: an empty dict, or a tensor to be.
    fn reduce(&mut self) -> Result<(), String> {
        let (arguments, function) = (self.pop()?, self.pop()?);
        let result = match (function, arguments) {
            (Value::OrderedDict, Value::Tuple(Run { length: 0, .. })) => Value::Dict(self.container()),
            (Value::RebuildTensor, Value::Tuple(arguments)) => Value::Tensor(arguments),
            _ => {
                return Err(format!(
                    "expected a call that makes a dict or a tensor, found one of {}",
                    function.kind()
                ));
            }
        };
        self.stack.push(result);
        Ok(())
    }

    /// Where Python would set attributes: a state dict has one, the versions of its modules, which nothing here needs.
    fn build(&mut self) -> Result<(), String> {
        let (_, object) = (self.pop()?, self.pop()?);
        if !matches!(object, Value::Dict(_)) {
            return Err(format!("expected attributes of a dict, found those of {}", object.kind()));
        }
        self.stack.push(object);
        Ok(())
    }
}

//! What a pickled state dict says of its tensors.

use super::pickle::{Pickle, Run, Value};
use super::{Entry, shown};
use crate::weights::unique::most;
use safetensors::Dtype;
use std::collections::HashMap;
use std::ops::Range;

/// More dimensions than any tensor of a model has.
const MAX_DIMENSIONS: usize = 8;
/// The fewest bytes that a file has for a tensor, its name and its numbers.
const LEAST: usize = 128;

/// A tensor of a state dict: a part of a storage.
pub(super) struct View<'a> {
    pub(super) name: &'a str,
    pub(super) storage: Storage,
    /// Where it starts, in elements.
    offset: usize,
    shape: Vec<usize>,
    /// From one element to the next in each dimension, in elements.
    strides: Vec<usize>,
}

/// Elements of one type, which several tensors may look into.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Storage {
    pub(super) key: u64,
    dtype: Dtype,
    pub(super) elements: usize,
}

/// Every tensor of a state dict, in its order. The file that it lies in has `length` bytes.
pub(super) fn views<'a>(pickle: &Pickle<'a>, length: usize) -> Result<Vec<View<'a>>, String> {
    if !matches!(pickle.root, Value::Dict(_)) {
        return Err(format!("expected a state dict, found {}", pickle.root.kind()));
    }
    let mut storages = HashMap::new();
    let mut views = Vec::new();
    for (key, value) in pickle.dict(pickle.root) {
        let Value::Str(name) = key else {
            return Err(format!("expected the name of a tensor, found {}", key.kind()));
        };
        let Value::Tensor(arguments) = value else {
            return Err(format!(
                "expected a state dict of tensors, found {} under `{}`: save `model.state_dict()` alone",
                value.kind(),
                shown(name)
            ));
        };
        if views.len() >= most(length, LEAST) {
            return Err(format!(
                "more than {} tensors in a file of {length} bytes are too many",
                views.len()
            ));
        }
        let view = View::of(pickle, name, arguments).map_err(|e| format!("tensor `{}`: {e}", shown(name)))?;
        let Storage { key, .. } = view.storage;
        if *storages.entry(key).or_insert(view.storage) != view.storage {
            return Err(format!(
                "tensor `{}`: its storage {key} has another type or length than another tensor says",
                shown(name)
            ));
        }
        views.push(view);
    }
    Ok(views)
}

impl<'a> View<'a> {
    /// What `torch._utils._rebuild_tensor_v2` would make of its arguments: a storage, an offset, a shape, strides, and
    /// what training needs.
    fn of(pickle: &Pickle<'a>, name: &'a str, arguments: Run) -> Result<Self, String> {
        let [storage, offset, shape, strides, ..] = *pickle.run(arguments) else {
            return Err("expected a storage, an offset, a shape and strides, found less".to_owned());
        };
        let Value::Storage(id) = storage else {
            return Err(format!("expected a storage, found {}", storage.kind()));
        };
        let numbers = |value: Value<'a>| match value {
            Value::Tuple(run) if pickle.run(run).len() <= MAX_DIMENSIONS => {
                pickle.run(run).iter().map(|&n| number(n)).collect()
            }
            Value::Tuple(_) => Err(format!("expected at most {MAX_DIMENSIONS} dimensions, found more")),
            _ => Err(format!("expected a tuple of numbers, found {}", value.kind())),
        };
        let (shape, strides): (Vec<_>, Vec<_>) = (numbers(shape)?, numbers(strides)?);
        if shape.len() != strides.len() {
            return Err(format!("{} dimensions have {} strides", shape.len(), strides.len()));
        }
        Ok(Self { name, storage: Storage::of(pickle, id)?, offset: number(offset)?, shape, strides })
    }

    /// The tensor as a part of the file, in which `storages` lie.
    pub(super) fn place(&self, storages: &HashMap<u64, Range<usize>>) -> Result<Entry, String> {
        let Storage { key, dtype, elements } = self.storage;
        let storage = storages.get(&key).ok_or_else(|| {
            format!("its storage {key} is not in the file: it is incomplete, download it again")
        })?;
        if self.storage.size() != Some(storage.len()) {
            return Err(format!(
                "its storage {key} of {elements} {dtype} does not have the {} bytes that the file has for it",
                storage.len()
            ));
        }
        let count = self.shape.iter().try_fold(1_usize, |n, &d| n.checked_mul(d));
        let end = count.and_then(|count| self.offset.checked_add(count)).filter(|&end| end <= elements);
        let (Some(count), Some(_)) = (count, end) else {
            let (shape, offset) = (&self.shape, self.offset);
            return Err(format!(
                "{shape:?} from element {offset} on does not fit into its storage {key}, which has {elements}"
            ));
        };
        // These products are within the storage's size.
        let size = dtype.bitsize() / 8;
        let start = storage.start + self.offset * size;
        let dtype = if self.is_contiguous() {
            Entry::dtype_of(dtype)
        } else {
            let strides = &self.strides;
            Err(format!(
                "its strides {strides:?} are not those of the shape {:?}: save `tensor.contiguous()`",
                self.shape
            ))
        };
        Ok(Entry { dtype, shape: self.shape.clone(), range: start..start + count * size, packing: None })
    }

    /// Whether the elements lie row by row. How far it is to a second one does not matter where there is none.
    fn is_contiguous(&self) -> bool {
        let mut expected = 1_usize;
        let dimensions = self.shape.iter().zip(&self.strides).rev();
        self.shape.contains(&0)
            || dimensions.into_iter().all(|(&size, &stride)| {
                let fits = size == 1 || stride == expected;
                expected = expected.saturating_mul(size);
                fits
            })
    }
}

impl Storage {
    /// What a persistent id says: `"storage"`, the type, the key, the device it was on, the number of elements; in the
    /// old format also which part of another storage it is, if it is one.
    fn of(pickle: &Pickle<'_>, id: Run) -> Result<Self, String> {
        let (kind, dtype, key, elements) = match *pickle.run(id) {
            [kind, dtype, key, _, elements] | [kind, dtype, key, _, elements, Value::None] => {
                (kind, dtype, key, elements)
            }
            [_, _, _, _, _, _] => {
                return Err("its storage is a part of another, expected a whole one".to_owned());
            }
            _ => return Err("its storage is described in another way than PyTorch does".to_owned()),
        };
        let (Value::Str("storage"), Value::Storages(dtype), Value::Str(key)) = (kind, dtype, key) else {
            return Err("its storage is described in another way than PyTorch does".to_owned());
        };
        let key = storage_key(key).ok_or_else(|| format!("its storage `{}` is not a number", shown(key)))?;
        Ok(Self { key, dtype, elements: number(elements)? })
    }

    /// The number of bytes.
    pub(super) fn size(&self) -> Option<usize> {
        self.elements.checked_mul(self.dtype.bitsize() / 8)
    }
}

/// A storage's key, which is a number in decimal digits: a counter or, in the old format, an address.
pub(super) fn storage_key(text: &str) -> Option<u64> {
    text.parse().ok().filter(|key: &u64| key.to_string() == text)
}

fn number(value: Value<'_>) -> Result<usize, String> {
    match value {
        Value::Int(n) => usize::try_from(n).map_err(|_| format!("expected a size, found {n}")),
        _ => Err(format!("expected a number, found {}", value.kind())),
    }
}

//! Safetensors: a header, checked before anything of it is believed.
//!
//! The file is a `u64` (little-endian), a JSON header of that many bytes, and the tensors' bytes back to back. The
//! `safetensors` crate reads it too, but accepts a name that occurs twice and cannot say which tensor is wrong.

use super::file::{Entry, said, shown};
use super::unique::{Entries, most};
use crate::{Error, Result};
use pythia_tensor::DType;
use safetensors::tensor::{Dtype, Metadata, TensorInfo};
use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use std::collections::HashMap;
use std::path::Path;
use std::{fmt, io};

/// The longest header that the format allows.
const MAX_HEADER: usize = 100_000_000;
/// More dimensions than any tensor of a model has.
const MAX_DIMENSIONS: usize = 8;
/// The fewest bytes that a file has for a tensor, its name and its numbers.
const LEAST: usize = 128;

/// The bytes of a file before its tensors, which follow back to back in the order given. They are padded, so that tensors
/// are aligned if those of larger elements come first.
pub(crate) fn header<'a>(
    tensors: impl IntoIterator<Item = (&'a str, DType, &'a [usize])>,
) -> io::Result<Vec<u8>> {
    let mut end = 0;
    let infos = tensors.into_iter().map(|(name, dtype, shape)| {
        let start = end;
        end += dtype.size() * shape.iter().product::<usize>();
        let info = TensorInfo { dtype: name_of(dtype), shape: shape.to_vec(), data_offsets: (start, end) };
        (name.to_owned(), info)
    });
    let format = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let metadata = Metadata::new(Some(format), infos.collect()).map_err(io::Error::other)?;
    let mut json = serde_json::to_vec(&metadata)?;
    json.resize(json.len().next_multiple_of(8), b' ');
    Ok([&(json.len() as u64).to_le_bytes()[..], &json].concat())
}

/// The type as the format calls it.
fn name_of(dtype: DType) -> Dtype {
    match dtype {
        DType::F16 => Dtype::F16,
        DType::BF16 => Dtype::BF16,
        _ => Dtype::F32,
    }
}

/// The tensors that the header of `bytes` describes, all of them within the bytes.
pub(super) fn parse(path: &Path, bytes: &[u8]) -> Result<HashMap<String, Entry>> {
    let (header, data) = split(path, bytes)?;
    let Header(mut infos) = serde_json::from_slice(header)
        .map_err(|e| Error::file(path, format!("the safetensors header is not valid: {}", said(&e))))?;
    let length = bytes.len() - data;
    if infos.len() > most(bytes.len(), LEAST) {
        let message = format!("{} tensors in a file of {} bytes are too many", infos.len(), bytes.len());
        return Err(Error::file(path, message));
    }
    infos.sort_by_key(|(_, info)| info.offsets);

    // Where the tensors so far end, and the last one's name.
    let (mut end, mut last) = (0, String::new());
    let mut entries = HashMap::with_capacity(infos.len());
    for (name, info) in infos {
        let (start, stop) = info.offsets;
        let fail = |message: String| Err(Error::tensor(path, shown(&name), message));
        if entries.contains_key(&name) {
            return fail("the header names it twice".to_owned());
        }
        if let Err(message) = check_size(&info) {
            return fail(message);
        }
        if start < end {
            return fail(format!(
                "its bytes {start}..{stop} overlap those of `{}`, which end at {end}",
                shown(&last)
            ));
        }
        if start > end {
            return fail(format!(
                "its bytes {start}..{stop} leave a gap after {end}, where the one before ends"
            ));
        }
        if stop > length {
            return fail(format!(
                "its bytes {start}..{stop} lie outside the file, which has {length} bytes of data: \
                 the file is cut short, download it again"
            ));
        }
        end = stop;
        last.clone_from(&name);
        let entry = Entry {
            dtype: Entry::dtype_of(info.dtype),
            shape: info.shape.0,
            range: data + start..data + stop,
            packing: None,
        };
        entries.insert(name, entry);
    }
    if end != length {
        return Err(Error::file(
            path,
            format!("{} bytes follow the last tensor, expected none", length - end),
        ));
    }
    Ok(entries)
}

/// The header, and where the data starts.
fn split<'a>(path: &Path, bytes: &'a [u8]) -> Result<(&'a [u8], usize)> {
    let Some((length, rest)) = bytes.split_first_chunk() else {
        let message =
            format!("a safetensors file has at least 8 bytes, found {}: download it again", bytes.len());
        return Err(Error::file(path, message));
    };
    let length = u64::from_le_bytes(*length);
    let found = usize::try_from(length).ok().filter(|&n| n <= MAX_HEADER).map(|n| (n, rest.get(..n)));
    let Some((n, header)) = found else {
        let message =
            format!("a header of {length} bytes is longer than {MAX_HEADER}: this is not a safetensors file");
        return Err(Error::file(path, message));
    };
    let Some(header) = header else {
        let message = format!(
            "a header of {n} bytes does not fit into the file of {} bytes: it is cut short, download it again",
            bytes.len()
        );
        return Err(Error::file(path, message));
    };
    if header.first() != Some(&b'{') {
        return Err(Error::file(path, "the header does not start with `{`: this is not a safetensors file"));
    }
    Ok((header, 8 + n))
}

/// Whether shape and dtype need exactly the bytes that the offsets give.
fn check_size(info: &Info) -> Result<(), String> {
    let (start, stop) = info.offsets;
    let Some(found) = stop.checked_sub(start) else {
        return Err(format!("it ends at byte {stop}, before it starts at {start}"));
    };
    let (dtype, shape) = (info.dtype, &info.shape.0);
    let bits = shape.iter().try_fold(dtype.bitsize(), |n, &d| n.checked_mul(d));
    match bits {
        None => Err(format!("{dtype} {shape:?} is too large to address")),
        Some(bits) if !bits.is_multiple_of(8) || bits / 8 != found => {
            Err(format!("{dtype} {shape:?} needs {} bytes, found {found}", bits.div_ceil(8)))
        }
        Some(_) => Ok(()),
    }
}

/// What a header says of a tensor.
#[derive(serde::Deserialize)]
struct Info {
    dtype: Dtype,
    shape: Shape,
    #[serde(rename = "data_offsets")]
    offsets: (usize, usize),
}

/// At most [`MAX_DIMENSIONS`] numbers.
struct Shape(Vec<usize>);

impl<'de> Deserialize<'de> for Shape {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Numbers;
        impl<'de> Visitor<'de> for Numbers {
            type Value = Shape;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a shape of at most {MAX_DIMENSIONS} numbers")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Shape, A::Error> {
                let mut shape = Vec::new();
                while let Some(dimension) = seq.next_element()? {
                    if shape.len() == MAX_DIMENSIONS {
                        return Err(de::Error::invalid_length(MAX_DIMENSIONS + 1, &self));
                    }
                    shape.push(dimension);
                }
                Ok(Shape(shape))
            }
        }
        deserializer.deserialize_seq(Numbers)
    }
}

/// The tensors of a header in the order of the file, names that occur twice included.
struct Header(Vec<(String, Info)>);

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(HeaderVisitor)
    }
}

struct HeaderVisitor;

impl<'de> Visitor<'de> for HeaderVisitor {
    type Value = Header;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
        let (mut infos, mut metadata) = (Vec::new(), None);
        while let Some(name) = map.next_key::<String>()? {
            if name == "__metadata__" {
                if metadata.replace(map.next_value::<Entries>()?).is_some() {
                    return Err(de::Error::duplicate_field("__metadata__"));
                }
            } else {
                let info = map.next_value();
                let info =
                    info.map_err(|e| de::Error::custom(format!("tensor `{}`: {}", shown(&name), said(&e))))?;
                infos.push((name, info));
            }
        }
        Ok(Header(infos))
    }
}

//! A writer of what `torch.save` writes, for tests: pickles, zip archives, the older stream. The tests of the whole system
//! have it too.
#![allow(unreachable_pub, missing_docs, reason = "private here, a module of a library there")]

use std::ops::Range;

/// A pickle of the opcodes given.
pub fn pickle(opcodes: &[u8]) -> Vec<u8> {
    [b"\x80\x02", opcodes, b"."].concat()
}

pub fn text(text: &str) -> Vec<u8> {
    [b"X", &(text.len() as u32).to_le_bytes()[..], text.as_bytes()].concat()
}

pub fn int(n: i64) -> Vec<u8> {
    match (u8::try_from(n), i32::try_from(n)) {
        (Ok(n), _) => vec![b'K', n],
        (_, Ok(n)) => [b"J", &n.to_le_bytes()[..]].concat(),
        _ => [b"\x8a\x08", &n.to_le_bytes()[..]].concat(),
    }
}

pub fn tuple(values: &[Vec<u8>]) -> Vec<u8> {
    [b"(", &values.concat()[..], b"t"].concat()
}

pub fn ints(numbers: &[i64]) -> Vec<u8> {
    tuple(&numbers.iter().map(|&n| int(n)).collect::<Vec<_>>())
}

/// A dict with these keys and values.
pub fn dict(pairs: &[(Vec<u8>, Vec<u8>)]) -> Vec<u8> {
    let pairs: Vec<u8> = pairs.iter().flat_map(|(key, value)| [&key[..], value].concat()).collect();
    [b"}(", &pairs[..], b"u"].concat()
}

/// A tensor, to be changed before it is written.
#[derive(Clone)]
pub struct Tensor {
    /// The type of its storage: `Half`.
    pub kind: String,
    pub key: String,
    pub device: String,
    /// How many elements the storage is said to have.
    pub elements: i64,
    pub offset: i64,
    pub shape: Vec<i64>,
    pub strides: Vec<i64>,
    /// What the old format has after that.
    pub view: Option<Vec<u8>>,
}

impl Tensor {
    /// A contiguous one of `f16` with a storage of its own.
    pub fn new(key: usize, shape: &[usize]) -> Self {
        let shape: Vec<i64> = shape.iter().map(|&d| d as i64).collect();
        let strides = (1..=shape.len()).map(|i| shape[i..].iter().product()).collect();
        let elements = shape.iter().product();
        let (kind, key, device) = ("Half".to_owned(), key.to_string(), "cpu".to_owned());
        Self { kind, key, device, elements, offset: 0, shape, strides, view: None }
    }

    pub fn storage(&self) -> Vec<u8> {
        let kind = format!("ctorch\n{}Storage\n", self.kind).into_bytes();
        let mut id = vec![text("storage"), kind, text(&self.key), text(&self.device), int(self.elements)];
        id.extend(self.view.clone());
        [&tuple(&id)[..], b"Q"].concat()
    }

    pub fn write(&self) -> Vec<u8> {
        let hooks = b"ccollections\nOrderedDict\n)R".to_vec();
        let arguments = [
            self.storage(),
            int(self.offset),
            ints(&self.shape),
            ints(&self.strides),
            b"\x89".to_vec(),
            hooks,
        ];
        [b"ctorch._utils\n_rebuild_tensor_v2\n", &tuple(&arguments)[..], b"R"].concat()
    }
}

/// A state dict of these tensors.
pub fn state_dict(tensors: &[(&str, Tensor)]) -> Vec<u8> {
    let pairs: Vec<_> = tensors.iter().map(|(name, tensor)| (text(name), tensor.write())).collect();
    pickle(&dict(&pairs))
}

/// The old format.
pub fn stream(state: &[u8], storages: &[(&str, u64, &[u8])]) -> Vec<u8> {
    let machine = pickle(&dict(&[(text("little_endian"), b"\x88".to_vec())]));
    let keys: Vec<u8> = storages.iter().flat_map(|(key, ..)| text(key)).collect();
    let keys = pickle(&[b"](", &keys[..], b"e"].concat());
    let magic = pickle(b"\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19");
    let mut file = [&magic[..], &pickle(b"M\xe9\x03"), &machine, state, &keys].concat();
    for (_, elements, bytes) in storages {
        file.extend(elements.to_le_bytes());
        file.extend(*bytes);
    }
    file
}

/// A zip archive, and where its parts lie.
#[derive(Clone)]
pub struct Archive {
    pub bytes: Vec<u8>,
    /// The local header of each entry.
    pub locals: Vec<usize>,
    /// The bytes of each entry.
    pub data: Vec<Range<usize>>,
    /// The header in the directory of each entry.
    pub headers: Vec<usize>,
    pub end64: usize,
    pub locator: usize,
    pub end: usize,
}

impl Archive {
    /// An archive of these entries as PyTorch writes it: their bytes at multiples of 64, sizes after them.
    pub fn new(entries: &[(&str, &[u8])]) -> Self {
        Self::aligned(entries, 64)
    }

    pub fn aligned(entries: &[(&str, &[u8])], to: usize) -> Self {
        let (mut bytes, mut locals, mut data, mut headers) = (vec![], vec![], vec![], vec![]);
        for (name, content) in entries {
            let at = bytes.len();
            locals.push(at);
            let extra = (at + 34 + name.len()).next_multiple_of(to) - at - 30 - name.len();
            local_header(&mut bytes, name, extra);
            data.push(bytes.len()..bytes.len() + content.len());
            bytes.extend(*content);
            bytes.extend(b"PK\x07\x08");
            let size = (content.len() as u32).to_le_bytes();
            bytes.extend([crc32(content).to_le_bytes(), size, size].concat());
        }
        let directory = bytes.len();
        for (((name, content), local), _) in entries.iter().zip(&locals).zip(&data) {
            headers.push(bytes.len());
            header(&mut bytes, name, content, *local, &[]);
        }
        let mut archive = Self { bytes, locals, data, headers, end64: 0, locator: 0, end: 0 };
        archive.finish(directory);
        archive
    }

    /// The records after the directory.
    pub fn finish(&mut self, directory: usize) {
        let bytes = &mut self.bytes;
        let (count, size) = (self.headers.len() as u64, (bytes.len() - directory) as u64);
        self.end64 = bytes.len();
        bytes.extend(b"PK\x06\x06");
        bytes.extend(44_u64.to_le_bytes());
        bytes.extend([30, 3, 45, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        bytes.extend([count, count, size, directory as u64].map(u64::to_le_bytes).concat());
        self.locator = bytes.len();
        bytes.extend(b"PK\x06\x07\0\0\0\0");
        bytes.extend((self.end64 as u64).to_le_bytes());
        bytes.extend(1_u32.to_le_bytes());
        self.end = bytes.len();
        bytes.extend(b"PK\x05\x06\0\0\0\0");
        bytes.extend([count as u16; 2].map(u16::to_le_bytes).concat());
        bytes.extend([size as u32, directory as u32].map(u32::to_le_bytes).concat());
        bytes.extend([0, 0]);
    }

    /// The same with other bytes at a place.
    pub fn with(&self, at: usize, bytes: &[u8]) -> Self {
        let mut changed = self.clone();
        changed.bytes[at..at + bytes.len()].copy_from_slice(bytes);
        changed
    }
}

pub fn local_header(bytes: &mut Vec<u8>, name: &str, extra: usize) {
    bytes.extend(b"PK\x03\x04\0\0\x08\x08\0\0\0\0\0\0");
    bytes.extend([0; 12]);
    bytes.extend([name.len() as u16, extra as u16].map(u16::to_le_bytes).concat());
    bytes.extend(name.as_bytes());
    if extra >= 4 {
        bytes.extend(b"FB");
        bytes.extend((extra as u16 - 4).to_le_bytes());
        bytes.extend(vec![b'Z'; extra - 4]);
    }
}

pub fn header(bytes: &mut Vec<u8>, name: &str, content: &[u8], local: usize, extra: &[u8]) {
    bytes.extend(b"PK\x01\x02\0\0\0\0\x08\x08\0\0\0\0\0\0");
    let size = content.len() as u32;
    bytes.extend([crc32(content), size, size].map(u32::to_le_bytes).concat());
    bytes.extend([name.len() as u16, extra.len() as u16].map(u16::to_le_bytes).concat());
    bytes.extend([0; 10]);
    bytes.extend((local as u32).to_le_bytes());
    bytes.extend(name.as_bytes());
    bytes.extend(extra);
}

/// A checkpoint as a zip archive: the pickle, the storages by their keys.
pub fn archive(state: &[u8], storages: &[(&str, &[u8])]) -> Archive {
    let names: Vec<_> = storages.iter().map(|(key, _)| format!("model/data/{key}")).collect();
    let mut entries: Vec<(&str, &[u8])> = vec![("model/data.pkl", state), ("model/byteorder", b"little")];
    entries.extend(names.iter().zip(storages).map(|(name, (_, bytes))| (&name[..], *bytes)));
    entries.push(("model/version", b"3\n"));
    Archive::new(&entries)
}

/// By its definition: the remainder of a division of polynomials over GF(2), bits reversed.
pub fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for bit in bytes.iter().flat_map(|byte| (0..8).map(move |i| byte >> i & 1)) {
        let carry = (crc & 1) as u8 ^ bit;
        crc = (crc >> 1) ^ if carry == 1 { 0xedb8_8320 } else { 0 };
    }
    !crc
}

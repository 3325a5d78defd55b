//! [`Metadata`]: the part of a GGUF file before its tensors.

const U32: u32 = 4;
const I32: u32 = 5;
const F32: u32 = 6;
const BOOL: u32 = 7;
const TEXT: u32 = 8;
const ARRAY: u32 = 9;

/// Keys with their values, and where which tensor lies.
#[derive(Default)]
pub(super) struct Metadata {
    keys: u64,
    values: Vec<u8>,
    tensors: u64,
    infos: Vec<u8>,
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

impl Metadata {
    fn put(&mut self, key: &str, kind: u32, value: &[u8]) {
        self.keys += 1;
        put_text(&mut self.values, key);
        self.values.extend(kind.to_le_bytes());
        self.values.extend(value);
    }

    pub(super) fn u32(&mut self, key: &str, value: u32) {
        self.put(key, U32, &value.to_le_bytes());
    }

    pub(super) fn f32(&mut self, key: &str, value: f32) {
        self.put(key, F32, &value.to_le_bytes());
    }

    pub(super) fn bool(&mut self, key: &str, value: bool) {
        self.put(key, BOOL, &[value.into()]);
    }

    pub(super) fn text(&mut self, key: &str, value: &str) {
        self.put(key, TEXT, &[]);
        put_text(&mut self.values, value);
    }

    pub(super) fn texts(&mut self, key: &str, values: &[String]) {
        self.array(key, TEXT, values.len());
        values.iter().for_each(|text| put_text(&mut self.values, text));
    }

    pub(super) fn i32s(&mut self, key: &str, values: &[i32]) {
        self.array(key, I32, values.len());
        values.iter().for_each(|n| self.values.extend(n.to_le_bytes()));
    }

    fn array(&mut self, key: &str, kind: u32, length: usize) {
        self.put(key, ARRAY, &kind.to_le_bytes());
        self.values.extend((length as u64).to_le_bytes());
    }

    /// A tensor that starts `offset` bytes after the first.
    pub(super) fn tensor(&mut self, name: &str, shape: &[usize], ggml_type: u32, offset: u64) {
        self.tensors += 1;
        put_text(&mut self.infos, name);
        self.infos.extend((shape.len() as u32).to_le_bytes());
        // The innermost dimension comes first.
        shape.iter().rev().for_each(|&n| self.infos.extend((n as u64).to_le_bytes()));
        self.infos.extend(ggml_type.to_le_bytes());
        self.infos.extend(offset.to_le_bytes());
    }

    /// The file up to the first tensor.
    pub(super) fn file(&self, alignment: usize) -> Vec<u8> {
        const VERSION: u32 = 3;
        let counts = [self.tensors, self.keys].map(u64::to_le_bytes);
        let version = VERSION.to_le_bytes();
        let mut file = [b"GGUF", &version[..], counts.as_flattened(), &self.values, &self.infos].concat();
        file.resize(file.len().next_multiple_of(alignment), 0);
        file
    }
}

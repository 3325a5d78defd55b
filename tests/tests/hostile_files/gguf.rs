//! GGUF headers that lie.

use super::Case;
use pythia_tests::tiny;

fn file(bytes: impl Into<Vec<u8>>, says: &str) -> Case {
    Case::new("model.gguf", bytes, says)
}

fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat()
}

/// A header with these keys and tensors, and 64 bytes of data.
fn header(version: u32, tensors: u64, keys: u64, rest: &[&[u8]]) -> Vec<u8> {
    let counts = [tensors.to_le_bytes(), keys.to_le_bytes()].concat();
    let mut bytes = [b"GGUF", &version.to_le_bytes()[..], &counts, &rest.concat()].concat();
    bytes.resize(bytes.len().next_multiple_of(32) + 64, 0);
    bytes
}

/// A key with a `u32`.
fn number(key: &str, value: u32) -> Vec<u8> {
    [&text(key)[..], &4_u32.to_le_bytes(), &value.to_le_bytes()].concat()
}

/// The good file with the `u32` of a key changed.
fn changed(key: &str, value: u32, says: &str) -> Case {
    let mut bytes = tiny::gguf(&tiny::config_json(), None);
    let key = text(key);
    let at = bytes.windows(key.len()).position(|w| w == key).expect("the key") + key.len() + 4;
    bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
    file(bytes, says)
}

/// The good file with a number changed that it has for `output_norm.weight`: its length 8 bytes before its type, its type,
/// or its place 4 bytes behind.
fn vector(behind_type: isize, value: u64, says: &str) -> Case {
    let mut bytes = tiny::gguf(&tiny::config_json(), None);
    let name = text("output_norm.weight");
    let name = bytes.windows(name.len()).position(|w| w == name).expect("the tensor") + name.len();
    // After the number of dimensions and the only one.
    let at = (name + 12).strict_add_signed(behind_type);
    let width = if behind_type == 0 { 4 } else { 8 };
    bytes[at..at + width].copy_from_slice(&value.to_le_bytes()[..width]);
    file(bytes, says)
}

pub(crate) fn cases() -> Vec<Case> {
    let kind = |n: u32| n.to_le_bytes();
    let (a, max) = (text("a"), u64::MAX.to_le_bytes());
    let long = (1_u64 << 60).to_le_bytes();
    let texts = [kind(9), kind(8)].concat();
    let architecture = [text("general.architecture"), kind(8).to_vec()].concat();
    vec![
        file(&b""[..], "the file is empty: download or write it again"),
        file(&b"GGML\0\0\0\0"[..], "this is not a GGUF file: it does not start as one"),
        file(&b"GGUF\x03\0"[..], "the header does not end within the file: it is cut short"),
        file(header(1, 0, 0, &[]), "GGUF version 1 is not supported"),
        file(
            header(3_u32.swap_bytes(), 0, 0, &[]),
            "GGUF version 50331648 is not supported: expected 2 or 3, little-endian",
        ),
        file(header(3, 1 << 63, 0, &[]), "the header says that it has 9223372036854775808 tensors or keys"),
        file(header(3, 0, u64::MAX, &[]), "the header says that it has 18446744073709551615 tensors or keys"),
        file(header(3, 0, 1, &[&long, b"a"]), "the header does not end within the file"),
        file(header(3, 0, 1, &[&a, &kind(8), &long]), "the key `a`: the header does not end within"),
        file(header(3, 0, 1, &[&a, &kind(13)]), "the key `a`: the type 13 of a value is unknown"),
        file(
            header(3, 0, 1, &[&a, &kind(9), &kind(9), &max]),
            "the key `a`: arrays of the type 9 are not supported",
        ),
        file(header(3, 0, 1, &[&a, &kind(9), &kind(12), &max]), "the key `a`: an array is too long"),
        file(header(3, 0, 1, &[&text("b"), &texts, &max]), "the key `b`: the header does not end within"),
        file(header(3, 0, 2, &[&number("a", 1), &number("a", 2)]), "the key `a` occurs twice"),
        file(
            header(3, 0, 1, &[&number("general.alignment", 0)]),
            "`general.alignment`: expected a power of two up to 65536",
        ),
        file(
            header(2, 0, 1, &[&number("general.alignment", 3)]),
            "`general.alignment`: expected a power of two",
        ),
        file(header(3, 0, 1, &[&[1, 0, 0, 0, 0, 0, 0, 0, 0xff]]), "expected text in UTF-8"),
        file(header(3, 1, 0, &[&a, &kind(5)]), "tensor `a` has 5 dimensions, expected at most 4"),
        file(header(3, 0, 0, &[]), "the key `general.architecture` is missing"),
        file(
            header(3, 0, 1, &[&architecture, &text("llama")]),
            "unknown architecture `llama`; supported: gptneox",
        ),
        changed("gptneox.attention.head_count", 0, "the key `gptneox.attention.head_count`: expected a size"),
        changed(
            "gptneox.attention.head_count",
            3,
            "`hidden_size` 8 is not a multiple of `num_attention_heads` 3",
        ),
        changed("gptneox.embedding_length", 1 << 31, "the key `gptneox.embedding_length`: expected a size"),
        changed(
            "gptneox.block_count",
            1025,
            "`num_hidden_layers`: expected a whole number from 1 to 1024, found 1025",
        ),
        changed("gptneox.rope.dimension_count", 3, "of 4 head dimensions is 3: expected an even number"),
        vector(0, 12, "unsupported GGUF type 12; supported: F32"),
        vector(-8, u64::MAX, "[18446744073709551615] at byte"),
        vector(0, 8, "its rows of 8 numbers are no whole blocks of 32"),
        vector(4, 1 << 60, "at byte 1152921504606846976 of the data lies outside the file"),
        vector(4, 0, "it starts at byte 0 of the data, expected "),
        vector(-8, 7, "expected [8] by `hidden_size`, found [7]"),
    ]
}

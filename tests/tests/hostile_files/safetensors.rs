//! Safetensors headers that lie.

use super::Case;
use pythia_tests::tiny::{self, safetensors_of};

fn file(header: &str, says: &str) -> Case {
    Case::new("model.safetensors", safetensors_of(header, &[0; 8]), says)
}

/// One tensor `a` with these properties, before 8 bytes of data.
fn one(info: &str, says: &str) -> Case {
    file(&format!("{{\"a\":{{{info}}}}}"), says)
}

/// Two tensors of two numbers, at these bytes.
fn two(names: [&str; 2], first: &str, second: &str, says: &str) -> Case {
    let [a, b] = names;
    let info = |at: &str| format!("{{\"dtype\":\"F16\",\"shape\":[2],\"data_offsets\":{at}}}");
    file(&format!("{{\"{a}\":{},\"{b}\":{}}}", info(first), info(second)), says)
}

pub(crate) fn cases() -> Vec<Case> {
    let raw = |bytes: &[u8], says: &str| Case::new("model.safetensors", bytes, says);
    let length = |n: u64, says: &str| raw(&[&n.to_le_bytes()[..], b"{}"].concat(), says);
    let empty = |i| format!("\"{i}\":{{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}}");
    let many = (0..5000).map(empty).collect::<Vec<_>>().join(",");
    let cut = tiny::safetensors(&tiny::tensors(&tiny::config()));
    vec![
        raw(b"", "the file is empty: download or write it again"),
        raw(b"1234567", "a safetensors file has at least 8 bytes, found 7"),
        raw(b"version https://git-lfs.github.com/spec/v1\noid", "this is a Git LFS pointer, not the weights"),
        raw(b"PK\x03\x04\0\0\0\0\0\0", "a header of 67324752 bytes does not fit into the file of 10 bytes"),
        length(1 << 63, "a header of 9223372036854775808 bytes is longer than 100000000"),
        length(u64::MAX, "a header of 18446744073709551615 bytes is longer than 100000000"),
        length(3, "a header of 3 bytes does not fit into the file of 10 bytes"),
        raw(&cut[..cut.len() - 1], "lie outside the file, which has"),
        file("[]", "the header does not start with `{`"),
        file("{\"a\":", "the safetensors header is not valid: tensor `a`: EOF while parsing a value"),
        one(&format!("\"x\":{}", "[".repeat(1000)), "tensor `a`: expected value at line 1"),
        one("\"dtype\":\"F7\"", "tensor `a`: unknown variant `F7`"),
        one(&format!("\"dtype\":\"{}\"", "\\n".repeat(100_000)), " ...2`, `F32`, `C64`"),
        one(
            "\"dtype\":\"F16\",\"shape\":[-4],\"data_offsets\":[0,8]",
            "invalid value: integer `-4`, expected usize",
        ),
        one(
            "\"dtype\":\"F16\",\"shape\":[1e3],\"data_offsets\":[0,8]",
            "invalid type: floating point `1000.0`",
        ),
        one(
            "\"dtype\":\"F16\",\"shape\":[1,1,1,1,1,1,1,1,4],\"data_offsets\":[0,8]",
            "a shape of at most 8 numbers",
        ),
        one(
            "\"dtype\":\"F16\",\"shape\":[4294967296,4294967296],\"data_offsets\":[0,8]",
            "is too large to address",
        ),
        one("\"dtype\":\"F16\",\"shape\":[3],\"data_offsets\":[0,8]", "F16 [3] needs 6 bytes, found 8"),
        one(
            "\"dtype\":\"F16\",\"shape\":[4],\"data_offsets\":[8,0]",
            "it ends at byte 0, before it starts at 8",
        ),
        one(
            "\"dtype\":\"F16\",\"shape\":[4],\"data_offsets\":[18446744073709551608,18446744073709551615]",
            "F16 [4] needs 8 bytes, found 7",
        ),
        one(
            "\"dtype\":\"F16\",\"shape\":[5],\"data_offsets\":[0,10]",
            "its bytes 0..10 lie outside the file",
        ),
        one(
            "\"dtype\":\"F16\",\"shape\":[2],\"data_offsets\":[0,4]",
            "4 bytes follow the last tensor, expected none",
        ),
        two(["a", "b"], "[0,4]", "[2,6]", "tensor `b`: its bytes 2..6 overlap those of `a`, which end at 4"),
        two(["a", "b"], "[0,4]", "[0,4]", "tensor `b`: its bytes 0..4 overlap those of `a`, which end at 4"),
        two(["a", "b"], "[4,8]", "[4,8]", "its bytes 4..8 leave a gap after 0"),
        two(["a", "a"], "[0,4]", "[4,8]", "tensor `a`: the header names it twice"),
        two(
            ["\\u001b[2J\\n", "\\u001b[2J\\n"],
            "[0,4]",
            "[4,8]",
            "tensor `\\u{1b}[2J\\n`: the header names it twice",
        ),
        two(
            ["a", "b"],
            "[0,4]",
            "[4,8]",
            "tensor `gpt_neox.embed_in.weight`: missing: the config expects it",
        ),
        file(&format!("{{{many}}}"), "5000 tensors in a file of "),
        file("{\"__metadata__\":{\"a\":\"\",\"a\":\"\"}}", "`a` occurs twice"),
        file("{\"__metadata__\":{\"a\":1}}", "invalid type: integer `1`, expected a string"),
    ]
}

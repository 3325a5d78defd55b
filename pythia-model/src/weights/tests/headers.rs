//! Safetensors headers that lie, are cut off or have random changes.

use super::*;
use proptest::prelude::*;

#[test]
fn headers_that_lie_are_errors() {
    let one = |info: &str| file(&format!("{{\"a\":{info}}}"), &[0; 8]);
    let two = |a: &str, b: &str| {
        let info = |range| format!("{{\"dtype\":\"F16\",\"shape\":[2],\"data_offsets\":{range}}}");
        file(&format!("{{\"a\":{},\"b\":{}}}", info(a), info(b)), &[0; 8])
    };
    let huge = |n: u64| [&n.to_le_bytes()[..], b"{}"].concat();
    for (bytes, expected) in [
        (vec![], "memory: a safetensors file has at least 8 bytes, found 0: download it again"),
        (vec![1; 7], "at least 8 bytes, found 7"),
        (huge(3), "a header of 3 bytes does not fit into the file of 10 bytes: it is cut short"),
        (huge(u64::MAX), "a header of 18446744073709551615 bytes is longer than 100000000: this is not a"),
        (
            b"version https://git-lfs.github.com/spec/v1\n".to_vec(),
            "Git LFS pointer, not the weights: fetch them",
        ),
        (file("", b""), "the header does not start with `{`: this is not a safetensors file"),
        (file(" {}", b""), "the header does not start with `{`"),
        (file("{", b""), "the safetensors header is not valid: EOF while parsing"),
        (
            file("{\"\u{fffd}\":1}", b""),
            "the safetensors header is not valid: tensor `\u{fffd}`: invalid type",
        ),
        (file("{} x", b""), "the safetensors header is not valid: trailing characters"),
        (file("{}", b"1234"), "memory: 4 bytes follow the last tensor, expected none"),
        (file("{\"__metadata__\":{\"a\":1}}", b""), "invalid type: integer `1`, expected a string"),
        (file("{\"__metadata__\":{\"a\":\"\",\"a\":\"\"}}", b""), "`a` occurs twice"),
        (file("{\"__metadata__\":{},\"__metadata__\":{}}", b""), "duplicate field `__metadata__`"),
        (
            one("{\"dtype\":\"F7\",\"shape\":[4],\"data_offsets\":[0,8]}"),
            "tensor `a`: unknown variant `F7`, expected",
        ),
        (one("{\"dtype\":\"F16\",\"shape\":[4]}"), "tensor `a`: missing field `data_offsets`"),
        (
            one("{\"dtype\":\"F16\",\"shape\":[-4],\"data_offsets\":[0,8]}"),
            "tensor `a`: invalid value: integer `-4`",
        ),
        (
            one("{\"dtype\":\"F16\",\"shape\":[3],\"data_offsets\":[0,8]}"),
            "tensor `a`: F16 [3] needs 6 bytes, found 8",
        ),
        (
            one("{\"dtype\":\"F32\",\"shape\":[4],\"data_offsets\":[0,8]}"),
            "tensor `a`: F32 [4] needs 16 bytes, found 8",
        ),
        (
            one("{\"dtype\":\"F4\",\"shape\":[15],\"data_offsets\":[0,8]}"),
            "tensor `a`: F4 [15] needs 8 bytes, found 8",
        ),
        (
            one("{\"dtype\":\"F16\",\"shape\":[4294967296,4294967296],\"data_offsets\":[0,8]}"),
            "tensor `a`: F16 [4294967296, 4294967296] is too large to address",
        ),
        (
            one("{\"dtype\":\"F16\",\"shape\":[4],\"data_offsets\":[8,0]}"),
            "tensor `a`: it ends at byte 0, before it starts at 8",
        ),
        (
            one("{\"dtype\":\"F16\",\"shape\":[5],\"data_offsets\":[0,10]}"),
            "tensor `a`: its bytes 0..10 lie outside the file, which has 8 bytes of data: the file is cut short",
        ),
        (two("[0,4]", "[2,6]"), "memory: tensor `b`: its bytes 2..6 overlap those of `a`, which end at 4"),
        (two("[4,8]", "[4,8]"), "tensor `a`: its bytes 4..8 leave a gap after 0, where the one before ends"),
        (two("[4,8]", "[0,4]"), "`gpt_neox.embed_in.weight`: missing"),
        (
            String::from_utf8(two("[0,4]", "[4,8]")).unwrap().replace("\"b\"", "\"a\"").into_bytes(),
            "memory: tensor `a`: the header names it twice",
        ),
    ] {
        let shown = String::from_utf8_lossy(&bytes).into_owned();
        let message = error_of(bytes);
        assert!(message.starts_with("memory: ") && message.contains(expected), "{shown:?}: {message}");
        assert!(!message.contains('\n'));
    }
}

#[test]
fn a_weight_that_is_no_float_is_an_error_and_a_stray_one_is_not() {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let good = file_of(&config().tensors());
    let header = SafeTensors::read_metadata(&good).unwrap().0;
    let ints = text(&good[8..8 + header]).replacen("\"F16\"", "\"I16\"", 1);
    let message = error_of(file(&ints, &good[8 + header..]));
    assert_eq!(
        message,
        "memory: tensor `gpt_neox.embed_in.weight`: unsupported dtype I16; supported: F32, F16, BF16"
    );

    let n = good.len() - 8 - header;
    let mask = format!(
        "{{\"gpt_neox.layers.0.attention.bias\":{{\"dtype\":\"BOOL\",\"shape\":[3],\"data_offsets\":[{n},{}]}},",
        n + 3
    );
    let with_mask = text(&good[8..8 + header]).replacen('{', &mask, 1);
    let data = [&good[8 + header..], &[1, 1, 1]].concat();
    assert!(open_bytes(file(&with_mask, &data), &config()).unwrap().ignored.is_empty());
}

#[test]
fn a_file_cut_anywhere_is_an_error() {
    let bytes: &'static [u8] = file_of(&config().tensors()).leak();
    assert!(Weights::from_static(bytes, "memory", &config()).is_ok());
    for end in 0..bytes.len() {
        let message = Weights::from_static(&bytes[..end], "memory", &config()).unwrap_err().to_string();
        assert!(message.starts_with("memory: ") && message.contains("download it again"), "{end}: {message}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn changed_headers_are_errors_or_what_the_crate_reads(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), any::<bool>()), 1..4)
    ) {
        let config = config();
        // The last tensors of the model: a header short enough that every byte is hit often.
        let tensors = &config.tensors()[26..];
        let mut bytes = file_of(tensors);
        let header = SafeTensors::read_metadata(&bytes).unwrap().0;
        for (at, byte, digit) in changes {
            let digits: Vec<_> = (8..8 + header).filter(|&i| bytes[i].is_ascii_digit()).collect();
            // Half of the changes turn a digit into another, which leaves the JSON valid.
            if digit {
                bytes[digits[at.index(digits.len())]] = b'0' + byte % 10;
            } else {
                bytes[at.index(8 + header)] = byte;
            }
        }
        let bytes: &'static [u8] = bytes.leak();
        let ours = TensorFile::from_static("memory", bytes);
        let crates = SafeTensors::deserialize(bytes).ok();
        match ours {
            Ok(file) => {
                let crates = crates.expect("what we accept is valid");
                let names: Vec<_> = file.names().map(str::to_owned).collect();
                prop_assert_eq!(names.len(), crates.len());
                for name in names {
                    match file.tensor(&name) {
                        Ok(tensor) => {
                            let tensor = tensor.unwrap();
                            let theirs = crates.tensor(&name).unwrap();
                            prop_assert_eq!((tensor.shape(), tensor.bytes()), (theirs.shape(), theirs.data()));
                        }
                        Err(e) => prop_assert!(e.to_string().contains("unsupported dtype"), "{}", e),
                    }
                }
            }
            Err(e) => prop_assert!(
                crates.is_none() || e.to_string().contains("twice") || e.to_string().contains("start with"), "{}", e
            ),
        }
        // The model is not in this file: whatever the header says, this is an error and not a panic.
        prop_assert!(Weights::from_static(bytes, "memory", &config).is_err());
    }
}

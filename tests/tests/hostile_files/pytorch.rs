//! What calls itself a checkpoint of PyTorch.

use super::Case;
use pythia_tests::tiny;
use pythia_tests::torch_save::{
    Archive, Tensor, archive, crc32, dict, header, int, ints, local_header, pickle, state_dict, stream, text,
};

fn file(bytes: impl Into<Vec<u8>>, says: &str) -> Case {
    Case::new("pytorch_model.bin", bytes, says)
}

/// An archive with this pickle, and the storage `0` of 8 bytes.
fn pickled(pickle: &[u8], says: &str) -> Case {
    file(archive(pickle, &[("0", &[0; 8])]).bytes, says)
}

fn opcodes(opcodes: &[u8], says: &str) -> Case {
    pickled(&pickle(opcodes), says)
}

/// A call of a global with the text `touch /tmp/owned`.
fn call(module: &str, name: &str) -> Case {
    let call = [format!("c{module}\n{name}\n").as_bytes(), &text("touch /tmp/owned"), b"\x85R"].concat();
    opcodes(
        &call,
        &format!("the global `{module}.{name}` is none that state dicts use, and nothing was executed"),
    )
}

pub(crate) fn pickles() -> Vec<Case> {
    let t = Tensor::new(0, &[2, 2]);
    let shaped = |shape: &[i64], strides: &[i64], says: &str| {
        let tensor = Tensor { shape: shape.into(), strides: strides.into(), ..t.clone() };
        pickled(&state_dict(&[("a", tensor)]), says)
    };
    let tensor = |tensor: Tensor, says: &str| pickled(&state_dict(&[("a", tensor)]), says);
    // Where a good call is expected, a tensor whose hook is another.
    let hidden = [b"}".as_slice(), &text("a"), b"ctorch._utils\n_rebuild_tensor_v2\n(cnt\nsystem\n"].concat();
    let many: Vec<_> = (0..5000).flat_map(|i| [text(&i.to_string()), b"h\0".to_vec()].concat()).collect();
    let many = [&t.write()[..], b"q\0}(", &many, b"u"].concat();
    let mut cases = vec![
        call("os", "system"),
        call("builtins", "eval"),
        call("subprocess", "Popen"),
        call("torch", "load"),
        call("torch._utils", "_rebuild_parameter"),
        opcodes(&hidden, "the global `nt.system` is none"),
        opcodes(b"c\xff\n\n", "expected a name in UTF-8"),
        opcodes(&[&text("os")[..], &text("system"), b"\x93"].concat(), "the opcode 0x93 is none"),
        opcodes(
            b"(cos\nsystem\no",
            "the global `os.system` is none that state dicts use, and nothing was executed: exp",
        ),
        opcodes(b"N\x81", "the opcode 0x81 is none"),
        opcodes(b"\x82\x01", "the opcode 0x82 is none"),
        opcodes(b"NNR", "expected a call that makes a dict or a tensor, found one of None"),
        opcodes(&[&t.write()[..], b"}b"].concat(), "expected attributes of a dict, found those of a tensor"),
        pickled(b"\x80\x04}.", "expected a pickle of protocol 2, found something else"),
        opcodes(b"}q\0X\x01\0\0\0ah\0s", "found a dict under `a`: save `model.state_dict()` alone"),
        opcodes(&[b"N", &b"\x85".repeat(5000)[..]].concat(), "expected a state dict, found a tuple"),
        opcodes(
            &(0..100_000_u32).flat_map(|i| [b"Nr", &i.to_le_bytes()[..]].concat()).collect::<Vec<_>>(),
            "expected at most 131072 and ",
        ),
        opcodes(b"Nr\xff\xff\xff\xff", "expected at most 0 as the memo's index, found 4294967295"),
        opcodes(b"j\xfe\xff\xff\xff", "nothing was memorized as 4294967294"),
        opcodes(&[b"\x8a\xff", &[0x7f; 255][..]].concat(), "expected a number of at most 8 bytes, found 255"),
        opcodes(b"X\xff\xff\xff\xffabc", "a pickle does not end within the 4 bytes that are left"),
        opcodes(b"}(X\x01\0\0\0au", "expected a value for each key"),
        opcodes(b"NNNs", "expected a dict to put values into"),
        opcodes(b"t", "there is no mark on the stack"),
        pickled(&[&pickle(b"}")[..], b"cos\nsystem\n"].concat(), "11 bytes follow the pickle, expected none"),
        opcodes(&dict(&[(text("epoch"), int(3))]), "found the number 3 under `epoch`"),
        opcodes(&many, "tensors in a file of "),
        pickled(
            &state_dict(&[("a", t.clone()), ("a", t.clone())]),
            "tensor `a`: the state dict names it twice",
        ),
    ];
    cases.extend([
        tensor(Tensor { elements: 5, ..t.clone() }, "its storage 0 of 5 F16 does not have the 8 bytes"),
        tensor(
            Tensor { elements: i64::MAX, ..t.clone() },
            "its storage 0 of 9223372036854775807 F16 does not have",
        ),
        tensor(Tensor { elements: -4, ..t.clone() }, "expected a size, found -4"),
        tensor(
            Tensor { kind: "Float".into(), ..t.clone() },
            "its storage 0 of 4 F32 does not have the 8 bytes",
        ),
        tensor(Tensor { key: "1".into(), ..t.clone() }, "its storage 1 is not in the file"),
        tensor(
            Tensor { key: "../../etc/passwd".into(), ..t.clone() },
            "its storage `../../etc/passwd` is not a number",
        ),
        tensor(Tensor { offset: 1, ..t.clone() }, "[2, 2] from element 1 on does not fit into its storage 0"),
        tensor(Tensor { offset: -1, ..t.clone() }, "expected a size, found -1"),
        tensor(Tensor { view: Some(ints(&[0, 0, 2])), ..t.clone() }, "its storage is a part of another"),
        shaped(&[-2, -2], &[2, 1], "expected a size, found -2"),
        shaped(
            &[i64::MAX, i64::MAX],
            &[1, 1],
            "[9223372036854775807, 9223372036854775807] from element 0 on",
        ),
        shaped(&[2, 2], &[2], "2 dimensions have 1 strides"),
        shaped(&[1; 9], &[1; 9], "expected at most 8 dimensions, found more"),
    ]);
    cases
}

/// An archive with something changed at a place of the entry `model/data/0`: of its header in the directory, or of the
/// local one.
fn changed(in_directory: bool, at: usize, bytes: &[u8], says: &str) -> Case {
    let zip = archive(&state_dict(&[("a", Tensor::new(0, &[4]))]), &[("0", &[0; 8])]);
    let start = if in_directory { zip.headers[2] } else { zip.locals[2] };
    file(zip.with(start + at, bytes).bytes, says)
}

/// An entry within another's bytes.
fn overlapping() -> Vec<u8> {
    let mut inner = vec![];
    local_header(&mut inner, "m/data/0", 0);
    inner.extend([0; 8]);
    inner.extend([b"PK\x07\x08", &crc32(&[0; 8]).to_le_bytes()[..], &[8, 0, 0, 0, 8, 0, 0, 0]].concat());
    let mut zip = Archive::new(&[("m/data.pkl", &state_dict(&[])), ("m/data/1", &inner)]);
    let (at, directory) = (zip.data[1].start, zip.headers[0]);
    zip.bytes.truncate(zip.end64);
    zip.headers.push(0);
    header(&mut zip.bytes, "m/data/0", &[0; 8], at, &[]);
    zip.finish(directory);
    zip.bytes
}

pub(crate) fn archives() -> Vec<Case> {
    let good = archive(&state_dict(&[("a", Tensor::new(0, &[4]))]), &[("0", &[0; 8])]);
    let state = |name: &str| state_dict(&[(name, Tensor::new(0, &[4]))]);
    // A storage whose name wants to lead out of the archive.
    let named = |entry: &str, tensor: &str| {
        let zip = Archive::new(&[("m/data.pkl", &state(tensor)), (entry, &[0; 8])]);
        file(zip.bytes, &format!("tensor `{tensor}`: its storage 0 is not in the file"))
    };
    let entries = |entries: &[(&str, &[u8])], says: &str| file(Archive::new(entries).bytes, says);
    let (end64, locator, end) = (good.end64, good.locator, good.end);
    let mut left_out = good.clone();
    left_out.bytes.truncate(left_out.headers[3]);
    left_out.headers.pop();
    left_out.finish(good.headers[0]);
    let wide = good.with(end + 4, &[0xff; 16]);
    vec![
        file(&b"\x89HDF\r\n\x1a\n"[..], "it starts neither as a zip archive nor as the older format"),
        file(&b"PK\x03\x04"[..], "there is no zip directory at the end of the file"),
        entries(&[("model/other", b"x")], "does not have exactly one entry `NAME/data.pkl`: this is not"),
        entries(
            &[("a/data.pkl", b""), ("b/data.pkl", b"")],
            "does not have exactly one entry `NAME/data.pkl`",
        ),
        entries(&[("m/data.pkl", &state("a")), ("m/byteorder", b"big")], "byte order `little`, found `big`"),
        entries(
            &[("m/data.pkl", &state("a")), ("m/data/0", &[0; 6])],
            "does not have the 6 bytes that the file has",
        ),
        named("/etc/passwd", "absolute"),
        named("m/data/../0", "dots"),
        named("../data/0", "up"),
        named("C:\\data\\0", "drive"),
        changed(true, 24, &[0xff, 0xff, 0xff, 0x7f], "is compressed (method 0)"),
        changed(true, 10, &[8], "is compressed (method 8), expected to be stored as it is"),
        changed(true, 10, &[93], "is compressed (method 93)"),
        changed(true, 8, &[9], "`model/data/0` is encrypted or lies in another file"),
        changed(true, 34, &[1], "the archive's entry `model/data/0` is encrypted or lies in another file"),
        changed(true, 42, &u32::MAX.to_le_bytes(), "at 4294967295 with 8 bytes lies outside the file's data"),
        changed(
            true,
            20,
            &[0xfe, 0xff, 0xff, 0xff, 0xfe, 0xff, 0xff, 0xff],
            "with 4294967294 bytes lies outside",
        ),
        changed(true, 28, &[0xff, 0xff], "header 2 of 4 in the zip directory is damaged"),
        changed(false, 30, b"no", "has another header at"),
        file(good.with(good.data[2].end, b"XX").bytes, "`model/data/0` has no descriptor at"),
        file(good.with(good.data[0].start + 20, b"?").bytes, "`model/data.pkl` has the checksum"),
        file(overlapping(), "overlaps `m/data/1`, which ends at"),
        file(left_out.bytes, "in the archive, `the zip directory` at"),
        entries(&[("m/data.pkl", &state("a")), ("m/x", b"1"), ("m/x", b"2")], "entry `m/x` occurs twice"),
        file([&good.bytes[..], b"x"].concat(), "no zip directory at the end of the file: it is cut short"),
        file(good.with(locator + 16, &[2]).bytes, "the zip64 record at the end of the file is damaged"),
        file(
            good.with(end64 + 48, &[0xee]).bytes,
            "the zip64 record and the one after it contradict each other",
        ),
        file(
            wide.with(end64 + 24, &[0xff; 16]).bytes,
            "18446744073709551615 headers do not fit into a zip directory",
        ),
        file(wide.with(end64 + 48, &[0xff; 8]).bytes, " at 18446744073709551615 does not end at "),
        file(wide.with(end64 + 16, &[1]).bytes, "the archive is said to be split over several files"),
    ]
}

pub(crate) fn streams() -> Vec<Case> {
    let tensor = Tensor { view: Some(b"N".to_vec()), ..Tensor::new(0, &[4]) };
    let state = state_dict(&[("a", tensor)]);
    let good = stream(&state, &[("0", 4, &[0; 8])]);
    let replaced = |from: &[u8], to: &[u8]| {
        let at = good.windows(from.len()).position(|w| w == from).expect("what is replaced");
        [&good[..at], to, &good[at + from.len()..]].concat()
    };
    let whole = tiny::stream(&tiny::tensors(&tiny::config()));
    vec![
        file(stream(&pickle(b"cposix\nsystem\n"), &[]), "the global `posix.system` is none"),
        file(
            replaced(b"M\xe9\x03", b"M\xea\x03"),
            "expected the version 1001 of PyTorch's old format, found the number 1002",
        ),
        file(replaced(b"\x88u", b"\x89u"), "expected numbers in little-endian order"),
        file(stream(&state, &[]), "tensor `a`: its storage 0 is not in the file: it is incomplete"),
        file(stream(&state, &[("1", 4, &[0; 8])]), "there is a storage `1` that no tensor uses"),
        file(stream(&state, &[("0", 3, &[0; 8])]), "the storage 0 has 3 elements, expected 4"),
        file(stream(&state, &[("0", u64::MAX, &[0; 8])]), "the storage 0 has 18446744073709551615 elements"),
        file(stream(&state, &[("0", 4, &[0; 7])]), "the storage 0 of 4 elements lies outside the file"),
        file(stream(&state, &[("0", 4, &[0; 9])]), "1 bytes follow the last storage, expected none"),
        file(stream(&state, &[("0", 4, &[0; 8]), ("0", 4, &[0; 8])]), "the storage 0 occurs twice"),
        file(&whole[..whole.len() / 2], "a pickle does not end within"),
    ]
}

//! Pickles that want to be executed, contradict themselves or never end: each refused by its own error.

use super::pytorch_files::{file_in_memory, parse};
use super::torch_save::{Tensor, archive, dict, int, ints, pickle, state_dict, stream, text, tuple};

/// The error of an archive with this pickle, and the storage `0` of 8 bytes.
fn refusal(pickle: &[u8]) -> String {
    let message = parse(&archive(pickle, &[("0", &[0; 8])]).bytes).unwrap_err().to_string();
    assert!(message.starts_with("memory: ") && !message.contains('\n'), "{message}");
    message
}

fn refused(opcodes: &[u8], expected: &str) {
    let message = refusal(&pickle(opcodes));
    assert!(message.contains(expected), "{opcodes:?}: {message}");
}

/// A tensor `a` that fits the storage `0`.
fn tensor() -> Tensor {
    Tensor::new(0, &[2, 2])
}

fn refused_tensor(tensor: &Tensor, expected: &str) {
    let message = refusal(&state_dict(&[("a", tensor.clone())]));
    assert!(
        message.starts_with("memory: tensor `a`: ") || message.starts_with("memory: the pickle"),
        "{message}"
    );
    assert!(message.contains(expected), "{message}");
}

#[test]
fn globals_that_no_state_dict_uses_are_refused() {
    for (module, name) in [
        ("os", "system"),
        ("posix", "system"),
        ("builtins", "eval"),
        ("__builtin__", "getattr"),
        ("subprocess", "Popen"),
        ("torch", "load"),
        ("torch", "Storage.x"),
        ("torch", "EvilStorage"),
        ("torch.hub", "load"),
        ("torch._utils", "_rebuild_tensor_v2.__globals__"),
        ("collections", "Counter"),
        ("", ""),
    ] {
        let opcodes = [format!("c{module}\n{name}\n").as_bytes(), &text("echo"), b"\x85R"].concat();
        let expected = format!(
            "the pickle at its byte 2: the global `{module}.{name}` is none that state dicts use, and nothing was \
             executed: expected collections.OrderedDict"
        );
        refused(&opcodes, &expected);
    }
    // Hidden in the arguments of a good tensor, and in the old format.
    let hidden = [b"}".as_slice(), &text("a"), b"ctorch._utils\n_rebuild_tensor_v2\n(cos\nsystem\n"].concat();
    refused(&hidden, "the global `os.system` is none");
    let message = parse(&stream(&pickle(b"cos\nsystem\n"), &[])).unwrap_err().to_string();
    assert!(message.starts_with("memory: the pickle at its byte 2: the global `os.system`"), "{message}");
    refused(b"c\xff\n\n", "expected a name in UTF-8");
    refused(b"cos", "a pickle does not end within the 3 bytes that are left");
    let long = format!("c{}\n\x1b[2J\n", "x".repeat(1000));
    refused(long.as_bytes(), "x....\\u{1b}[2J` is none");
}

#[test]
fn opcodes_that_no_state_dict_uses_are_refused() {
    // All that Python knows beyond ours: instances, attributes, extensions, other numbers, texts and protocols.
    let others =
        b"ioP0FIL2dgGSTUVBpl1\x81\x82\x83\x84\x8b\x8c\x8d\x8e\x8f\x90\x91\x92\x93\x94\x95\x96\x97\x98";
    for &code in others.iter().chain(b"\x00\x7f\x80\xff") {
        let message = refusal(&pickle(&[b'N', code, b'N']));
        let expected = format!(
            "memory: the pickle at its byte 3: the opcode {code:#04x} is none that state dicts use, and nothing was \
             executed: expected the weights alone"
        );
        assert!(message.starts_with(&expected), "{message}");
    }
    let other =
        |pickle: &[u8]| refusal(pickle).contains("expected a pickle of protocol 2, found something else");
    assert!(other(b"\x80\x04}.") && other(b"}.") && other(b"cos\nsystem\n."));
}

#[test]
fn pickles_that_contradict_themselves_are_refused() {
    let empty = "the stack is empty";
    for opcodes in
        [&b""[..], b"\x85", b"N\x86", b"R", b"Q", b"q\0", b"s", b"b", b"(q\0", b"N(\x85", b"}(s", b"}(()us"]
    {
        refused(opcodes, empty);
    }
    for opcodes in [&b"t"[..], b"u", b"e"] {
        refused(opcodes, "there is no mark on the stack");
    }
    for (opcodes, expected) in [
        (&b"h\x05"[..], "nothing was memorized as 5"),
        (b"Nq\x01", "expected at most 0 as the memo's index, found 1"),
        (b"Nr\xff\xff\xff\xff", "expected at most 0 as the memo's index, found 4294967295"),
        (b"j\xff\xff\xff\xff", "nothing was memorized as 4294967295"),
        (b"X\xff\xff\xff\xffabc", "a pickle does not end within the 4 bytes that are left"),
        (b"X\x01\0\0\0\xff", "expected text in UTF-8"),
        (b"\x8a\x091234567890", "expected a number of at most 8 bytes, found 9"),
        (b"\x8a\xff1", "a pickle does not end within the 2 bytes"),
        (b"J123", "a pickle does not end within"),
        (b"NQ", "expected a tuple as persistent id"),
        (b"NNNs", "expected a dict to put values into"),
        (b"](NNu", "expected a dict to put values into"),
        (b"}(Nu", "expected a value for each key"),
        (b"}Na", "expected a list to append to"),
        (b"NNb", "expected attributes of a dict, found those of None"),
        (b"NNR", "expected a call that makes a dict or a tensor, found one of None"),
        (b"ccollections\nOrderedDict\nK\x01\x85R", "found one of a type or a function"),
        (b"ctorch\nHalfStorage\n)R", "expected a call that makes a dict or a tensor, found one of a type"),
        (b"ctorch._utils\n_rebuild_tensor_v2\nNR", "found one of a type or a function"),
    ] {
        refused(opcodes, expected);
    }
    let message = refusal(&[&pickle(b"}")[..], b"123"].concat());
    assert_eq!(message, "memory: 3 bytes follow the pickle, expected none");
}

#[test]
fn what_is_no_state_dict_is_refused() {
    for (opcodes, expected) in [
        (&b"N"[..], "expected a state dict, found None"),
        (b"]", "expected a state dict, found a list"),
        (b")", "expected a state dict, found a tuple"),
        (b"\x88", "expected a state dict, found the bool true"),
        (b"ccollections\nOrderedDict\n", "expected a state dict, found a type or a function"),
        (b"}K\x05Ns", "expected the name of a tensor, found the number 5"),
        (b"}NNs", "expected the name of a tensor, found None"),
    ] {
        refused(opcodes, expected);
    }
    let nested = dict(&[(text("model"), dict(&[(text("a"), tensor().write())]))]);
    refused(
        &nested,
        "expected a state dict of tensors, found a dict under `model`: save `model.state_dict()` alone",
    );
    refused(&dict(&[(text("epoch"), int(3))]), "found the number 3 under `epoch`");
    refused(&dict(&[(text("a"), tensor().storage())]), "found a storage under `a`");
    let twice = state_dict(&[("a", tensor()), ("a", tensor())]);
    assert_eq!(refusal(&twice), "memory: tensor `a`: the state dict names it twice");
}

#[test]
fn tensors_that_do_not_fit_their_storage_are_refused() {
    let t = tensor();
    let shape =
        |shape: &[i64], strides: &[i64]| Tensor { shape: shape.into(), strides: strides.into(), ..t.clone() };
    for (tensor, expected) in [
        (
            Tensor { elements: 5, ..t.clone() },
            "its storage 0 of 5 F16 does not have the 8 bytes that the file has",
        ),
        (Tensor { kind: "Float".into(), ..t.clone() }, "its storage 0 of 4 F32 does not have the 8 bytes"),
        (
            Tensor { elements: i64::MAX, ..t.clone() },
            "its storage 0 of 9223372036854775807 F16 does not have",
        ),
        (
            Tensor { key: "1".into(), ..t.clone() },
            "its storage 1 is not in the file: it is incomplete, download it",
        ),
        (
            Tensor { offset: 1, ..t.clone() },
            "[2, 2] from element 1 on does not fit into its storage 0, which has 4",
        ),
        (Tensor { offset: i64::MAX, ..t.clone() }, "from element 9223372036854775807 on does not fit"),
        (shape(&[2, 3], &[3, 1]), "[2, 3] from element 0 on does not fit into its storage 0, which has 4"),
        (shape(&[i64::MAX, i64::MAX], &[1, 1]), "does not fit into its storage 0"),
        (shape(&[4, i64::MAX, 0], &[1, 1, 1]), "does not fit into its storage 0"),
        (shape(&[-2, -2], &[2, 1]), "expected a size, found -2"),
        (shape(&[2, 2], &[-2, 1]), "expected a size, found -2"),
        (shape(&[2, 2], &[2]), "2 dimensions have 1 strides"),
        (shape(&[1; 9], &[1; 9]), "expected at most 8 dimensions, found more"),
        (Tensor { offset: -1, ..t.clone() }, "expected a size, found -1"),
        (Tensor { elements: -4, ..t.clone() }, "expected a size, found -4"),
        (
            Tensor { key: "../../etc/passwd".into(), ..t.clone() },
            "its storage `../../etc/passwd` is not a number",
        ),
        (Tensor { key: "00".into(), ..t.clone() }, "its storage `00` is not a number"),
        (Tensor { key: "-1".into(), ..t.clone() }, "its storage `-1` is not a number"),
        (Tensor { key: "18446744073709551616".into(), ..t.clone() }, "is not a number"),
        (
            Tensor { view: Some(ints(&[0, 0, 2])), ..t.clone() },
            "its storage is a part of another, expected a whole",
        ),
        (Tensor { kind: "Quint".into(), ..t.clone() }, "the global `torch.QuintStorage` is none"),
    ] {
        refused_tensor(&tensor, expected);
    }
    for (other, expected) in [
        (
            Tensor { elements: 3, ..t.clone() },
            "tensor `b`: its storage 0 has another type or length than another",
        ),
        (
            Tensor { kind: "BFloat16".into(), ..t.clone() },
            "tensor `b`: its storage 0 has another type or length",
        ),
    ] {
        let message = refusal(&state_dict(&[("a", t.clone()), ("b", other)]));
        assert!(message.contains(expected), "{message}");
    }
}

#[test]
fn tensors_that_pytorch_describes_in_another_way_are_refused() {
    let t = tensor();
    let call = |arguments: &[Vec<u8>]| {
        [b"ctorch._utils\n_rebuild_tensor_v2\n", &tuple(arguments)[..], b"R"].concat()
    };
    let id = |values: &[Vec<u8>]| [&tuple(values)[..], b"Q"].concat();
    let (kind, size) = (b"ctorch\nHalfStorage\n".to_vec(), ints(&[2, 2]));
    let with = |storage: Vec<u8>| call(&[storage, int(0), size.clone(), ints(&[2, 1])]);
    let other = "its storage is described in another way than PyTorch does";
    for (tensor, expected) in [
        (call(&[]), "expected a storage, an offset, a shape and strides, found less"),
        (
            call(&[t.storage(), int(0), size.clone()]),
            "expected a storage, an offset, a shape and strides, found less",
        ),
        (with(int(0)), "expected a storage, found the number 0"),
        (with(t.write()), "expected a storage, found a tensor"),
        (call(&[t.storage(), int(0), int(4), int(1)]), "expected a tuple of numbers, found the number 4"),
        (
            call(&[t.storage(), int(0), tuple(&[text("2")]), ints(&[1])]),
            "expected a number, found the text `2`",
        ),
        (call(&[t.storage(), b"N".to_vec(), size.clone(), size.clone()]), "expected a number, found None"),
        (with(id(&[])), other),
        (with(id(&[text("storage"), kind.clone(), text("0"), text("cpu")])), other),
        (with(id(&[text("module"), kind.clone(), text("0"), text("cpu"), int(4)])), other),
        (with(id(&[text("storage"), text("HalfStorage"), text("0"), text("cpu"), int(4)])), other),
        (with(id(&[text("storage"), kind, int(0), text("cpu"), int(4)])), other),
    ] {
        let message = refusal(&pickle(&dict(&[(text("a"), tensor)])));
        assert!(message.starts_with("memory: tensor `a`: ") && message.contains(expected), "{message}");
    }
}

/// Nesting, references to references and endless repetition: cheap to write, and cheap to refuse.
#[test]
fn bombs_are_refused_quickly() {
    // Tuples in tuples, as deep as values are allowed, and deeper.
    let nested = |depth: usize| [&b"N"[..], &b"\x85".repeat(depth)].concat();
    refused(&nested(10_000), "expected a state dict, found a tuple");
    let many = "expected at most 131072 and ";
    refused(&nested(1_000_000), many);
    for endless in [&b"N"[..], b"(", b")", b"}", b"]", b"Nq\0", b"h\0", b"K\x01", b"}}b"] {
        refused(&[b"Nq\0", &endless.repeat(1_000_000)[..]].concat(), many);
    }
    refused(&[b"}", &b"NNs".repeat(1_000_000)[..]].concat(), many);
    // What doubles each time: 2^5000 values, were they copied.
    let doubling = b"(h\0h\0tq\0".repeat(5000);
    refused(&[b"Nq\0", &doubling[..]].concat(), "expected a state dict, found a tuple");
    // One tuple as the shape of many tensors, one long text as the name of many.
    let shape = [&b"("[..], &b"K\x01".repeat(10_000), b"tq\0"].concat();
    let tensor = [b"ctorch._utils\n_rebuild_tensor_v2\n(", &tensor().storage()[..], b"K\0h\0h\0tR"].concat();
    let named: Vec<u8> = (0..5000).flat_map(|i| [&int(i)[..], &tensor].concat()).collect();
    refused(&[&shape[..], b"}(", &named, b"u"].concat(), "expected the name of a tensor, found the number 0");
    let named: Vec<u8> = (0..5000).flat_map(|i| [&text(&i.to_string())[..], &tensor].concat()).collect();
    refused(&[&shape[..], b"}(", &named, b"u"].concat(), "tensor `0`: expected at most 8 dimensions");
    // A pickle that changes one place of the memo for ever.
    let state = pickle(&[b"N", &b"q\0".repeat(9 << 20)[..]].concat());
    let message = parse(&stream(&state, &[])).unwrap_err().to_string();
    assert!(
        message.contains("a pickle does not end within") && message.contains("(and at most 16777216 in all)")
    );
    assert!(refusal(&state).contains("the pickle has 18874372 bytes, expected at most 16777216"));
}

#[test]
fn streams_that_contradict_themselves_are_refused() {
    let t = Tensor { view: Some(b"N".to_vec()), ..tensor() };
    let state = state_dict(&[("a", t.clone())]);
    let good = stream(&state, &[("0", 4, &[0; 8])]);
    assert_eq!(file_in_memory(good.clone()).unwrap().tensor("a").unwrap().unwrap().shape(), [2, 2]);
    let replaced = |from: &[u8], to: &[u8]| {
        let at = good.windows(from.len()).position(|w| w == from).unwrap();
        [&good[..at], to, &good[at + from.len()..]].concat()
    };
    for (bytes, expected) in [
        (
            replaced(b"M\xe9\x03", b"M\xea\x03"),
            "expected the version 1001 of PyTorch's old format, found the number 1002",
        ),
        (replaced(b"M\xe9\x03", b"N"), "expected the version 1001 of PyTorch's old format, found None"),
        (replaced(b"\x88u", b"\x89u"), "expected numbers in little-endian order"),
        (replaced(b"little_endian", b"small_endian!"), "expected numbers in little-endian order"),
        (stream(&state, &[]), "tensor `a`: its storage 0 is not in the file: it is incomplete"),
        (stream(&state, &[("1", 4, &[0; 8])]), "there is a storage `1` that no tensor uses"),
        (stream(&state, &[("0", 3, &[0; 8])]), "the storage 0 has 3 elements, expected 4"),
        (
            stream(&state, &[("0", u64::MAX, &[0; 8])]),
            "the storage 0 has 18446744073709551615 elements, expected 4",
        ),
        (
            stream(&state, &[("0", 4, &[0; 7])]),
            "the storage 0 of 4 elements lies outside the file, of which 7 bytes",
        ),
        (stream(&state, &[("0", 4, &[0; 9])]), "1 bytes follow the last storage, expected none"),
        (stream(&state, &[("0", 4, &[0; 8]), ("0", 4, &[0; 8])]), "the storage 0 occurs twice"),
        (
            good[..good.len() - 12].to_vec(),
            "the storage 0 lies outside the file: it is cut short, download it again",
        ),
        (replaced(b"](X\x01\0\0\x000e", b"](K\0e"), "expected the keys of the storages, found the number 0"),
    ] {
        let message = parse(&bytes).unwrap_err().to_string();
        assert!(message.starts_with("memory: ") && message.contains(expected), "{message}");
    }
}

use super::*;
use proptest::prelude::*;

/// A byte-level tokenizer of the 256 bytes, a few merges and three added tokens: enough for every text.
pub(crate) fn small_tokenizer() -> Tokenizer {
    Tokenizer::from_bytes("small.json", small_json().to_string().as_bytes()).unwrap()
}

fn small_json() -> serde_json::Value {
    let spelling = |byte: u8| (0..=0x143).filter_map(char::from_u32).find(|&c| char_to_byte(c) == Some(byte));
    let mut vocab = serde_json::Map::new();
    let tokens = (0..=255).filter_map(spelling).map(String::from);
    let merged = ["ab", "Ġa", "Ã©", "âĤ", "abab"].map(String::from);
    for (id, token) in tokens.chain(merged).enumerate() {
        vocab.insert(token, (id + 1).into());
    }
    let added = |id: u32, content: &str, special: bool| {
        serde_json::json!({"id": id, "content": content, "special": special, "normalized": !special,
                           "single_word": false, "lstrip": false, "rstrip": false})
    };
    vocab.insert("<|endoftext|>".into(), 0.into());
    serde_json::json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": [added(0, "<|endoftext|>", true), added(262, "    ", false), added(263, "<é ü>", false)],
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true},
        "post_processor": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true},
        "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true},
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                  "end_of_word_suffix": null, "fuse_unk": false, "vocab": vocab,
                  "merges": ["a b", "Ġ a", "Ã ©", "â Ĥ", "ab ab"]},
    })
}

/// A tokenizer from the shared reference data, which may be absent.
fn shared(path: &str) -> Option<Tokenizer> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared").join(path);
    if !path.exists() {
        eprintln!("NOT TESTED: {} is absent", path.display());
        return None;
    }
    Some(Tokenizer::from_file(path).unwrap())
}

const TEXTS: [&str; 9] = [
    "",
    "Hello world",
    " don't  can 't . , !",
    "na\u{ef}ve caf\u{e9} 日本語 🎉👩\u{200d}👩\u{200d}👧",
    "\t\ttabs\r\n\n\n  and   runs    of      spaces                                   \n ",
    "<|endoftext|>between<|endoftext|>",
    "\u{0}\u{7f}\u{a0}\u{ad}\u{2028}\u{feff}",
    "ab abab  ababab",
    "العربية עברית हिन्दी ไทย",
];

fn assert_round_trips(tokenizer: &Tokenizer) {
    for text in TEXTS {
        let ids = tokenizer.encode(text).unwrap();
        assert_eq!(tokenizer.decode(&ids), text);
        assert_eq!(tokenizer.decode(&ids), tokenizer.inner.decode(&ids, false).unwrap());
        let encoding = tokenizer.encode_with_offsets(text).unwrap();
        assert_eq!(encoding.ids, ids);
        assert_eq!((encoding.tokens.len(), encoding.offsets.len()), (ids.len(), ids.len()));
    }
}

#[test]
fn texts_round_trip() {
    assert_round_trips(&small_tokenizer());
}

#[test]
fn a_hand_made_vocabulary_is_encoded_by_its_merges() {
    let t = small_tokenizer();
    assert_eq!(t.vocab_size(), 264);
    // 257 to 261 are the merged tokens.
    assert_eq!(t.encode("abab ac").unwrap(), [261, 258, u32::from(b'c') + 1]);
    assert_eq!(t.encode("é<|endoftext|>    é").unwrap(), [259, 0, 262, 259]);
    assert_eq!(t.encode("e\u{301}").unwrap(), [259]);
    let encoding = t.encode_with_offsets("é ac🎉").unwrap();
    assert_eq!(encoding.tokens, ["Ã©", "Ġa", "c", "ð", "Ł", "İ", "ī"]);
    assert_eq!(encoding.offsets, [(0, 1), (2, 3), (3, 4), (4, 5), (4, 5), (4, 5), (4, 5)]);
}

#[test]
fn single_tokens_show_their_bytes() {
    let t = small_tokenizer();
    assert_eq!(t.token(258).as_deref(), Some(" a"));
    assert_eq!(t.token(259).as_deref(), Some("é"));
    assert_eq!(t.token(260).as_deref(), Some("\\xe2\\x82"));
    assert_eq!(t.token(0).as_deref(), Some("<|endoftext|>"));
    // Added tokens with a space are literal text, not byte spellings.
    assert_eq!((t.token(262).as_deref(), t.token(263).as_deref()), (Some("    "), Some("<é ü>")));
    assert_eq!((t.token(264), t.token_bytes(u32::MAX)), (None, None));
    for byte in 0..=255_u8 {
        assert_eq!(t.token_bytes(u32::from(byte) + 1), Some(&[byte][..]));
    }
    assert_eq!(t.decode(&[259, 50_000, 260, 0]), "é\u{fffd}<|endoftext|>");
}

#[test]
fn truncation_and_padding_in_the_file_are_switched_off() {
    let mut json = small_json();
    json["truncation"] =
        serde_json::json!({"max_length": 2, "strategy": "LongestFirst", "stride": 0, "direction": "Right"});
    json["padding"] = serde_json::json!({"strategy": {"Fixed": 9}, "direction": "Right", "pad_to_multiple_of": null,
                                         "pad_id": 0, "pad_type_id": 0, "pad_token": "<|endoftext|>"});
    let t = Tokenizer::from_bytes("small.json", json.to_string().as_bytes()).unwrap();
    assert_eq!(t.encode("xyz").unwrap().len(), 3);
}

#[test]
fn white_space_that_the_splitter_would_get_wrong_is_refused() {
    let t = small_tokenizer();
    let error = t.encode(&("\n".repeat(900_001) + "x")).unwrap_err().to_string();
    assert!(error.starts_with("the text has more than 900000 bytes of white space in a row"), "{error}");
    let ids = t.encode(&("\n".repeat(900_000) + "ab")).unwrap();
    // The last newline stands alone before a word, hence the whole run has been split off.
    assert_eq!((ids.len(), ids.last()), (900_001, Some(&257)));
    assert!(t.encode(&"\nx".repeat(500_000)).is_ok());
}

fn error_of(json: &[u8]) -> String {
    Tokenizer::from_bytes("dir/tokenizer.json", json).unwrap_err().to_string()
}

#[test]
fn broken_files_are_errors_that_name_the_file() {
    let broken: [&dyn Fn(&mut serde_json::Value); 6] = [
        &|json| json["model"]["merges"] = serde_json::json!(["a nowhere"]),
        &|json| json["model"]["merges"] = serde_json::json!([["a"]]),
        // The crate's builder panics on a merge that is longer than all tokens (huggingface/tokenizers#2198).
        &|json| {
            json["model"]["vocab"] = serde_json::json!({"aa": 0, "bb": 1});
            json["model"]["merges"] = serde_json::json!(["aa bb"]);
        },
        &|json| json["model"]["vocab"]["a"] = (-1).into(),
        &|json| {
            json["normalizer"] =
                serde_json::json!({"type": "Replace", "pattern": {"Regex": "(("}, "content": ""});
        },
        &|json| json["model"] = serde_json::Value::Null,
    ];
    for change in broken {
        let mut json = small_json();
        change(&mut json);
        let message = error_of(json.to_string().as_bytes());
        assert!(message.starts_with("dir/tokenizer.json: not a valid tokenizer.json: "), "{message}");
        assert!(!message.contains('\n'), "{message}");
    }
    for bytes in [&b""[..], b"{}", b"\xff\xfe", b"[[[[", &b"[".repeat(100_000)] {
        assert!(error_of(bytes).starts_with("dir/tokenizer.json: not a valid tokenizer.json: "));
    }
}

/// The crate's builder panics on a token that is shorter than the prefix, and cuts others wherever it ends.
#[test]
fn a_prefix_that_would_cut_characters_is_refused() {
    for prefix in ["##########", "#"] {
        let mut json = small_json();
        json["model"]["continuing_subword_prefix"] = prefix.into();
        let message = error_of(json.to_string().as_bytes());
        assert!(
            message.contains("tokenizer.json: `continuing_subword_prefix`: byte-level tokenizers have none"),
            "{message}"
        );
    }
}

/// Twenty characters that ask for gigabytes, or that are too many in all.
#[test]
fn patterns_that_are_too_large_are_refused_before_they_are_compiled() {
    for (pattern, says) in [
        ("((a{1000}){1000}){1000}".to_owned(), "a pattern of the `normalizer` repeats 1000000000 times"),
        ("a{2,1001}".to_owned(), "a pattern of the `normalizer` repeats 1001 times, expected at most 1000"),
        (
            "\\p{L}".repeat(500),
            "the patterns of the `normalizer` have 2500 characters, expected at most 2000",
        ),
    ] {
        let mut json = small_json();
        let replace = serde_json::json!({"type": "Replace", "pattern": {"Regex": pattern}, "content": ""});
        json["normalizer"] = serde_json::json!({"type": "Sequence", "normalizers": [replace]});
        let message = error_of(json.to_string().as_bytes());
        assert!(message.contains(says), "{message}");
    }
}

#[test]
fn other_kinds_of_tokenizers_and_absent_files_are_refused() {
    let mut json = small_json();
    json["decoder"] = serde_json::Value::Null;
    assert!(error_of(json.to_string().as_bytes()).contains("the `decoder` is not `ByteLevel`"));
    let absent = Tokenizer::from_file("no/such/tokenizer.json").unwrap_err();
    assert!(matches!(&absent, Error::Io { path, .. } if path.ends_with("tokenizer.json")), "{absent}");
}

/// Without reading them: a pipe would block for ever.
#[test]
#[cfg(unix)]
fn huge_files_and_pipes_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let [huge, pipe] = ["huge.json", "pipe.json"].map(|name| dir.path().join(name));
    std::fs::File::create(&huge).unwrap().set_len(MAX_FILE_BYTES + 1).unwrap();
    let made = std::process::Command::new("mkfifo").arg(&pipe).status().unwrap();
    assert!(made.success());
    for (path, expected) in [
        (huge, "huge.json: expected at most 67108864 bytes, found 67108865"),
        (pipe, "pipe.json: expected a regular file, found a device or a pipe"),
    ] {
        let (send, receive) = std::sync::mpsc::channel();
        std::thread::spawn(move || send.send(Tokenizer::from_file(path).err().map(|e| e.to_string())));
        let error = receive.recv_timeout(std::time::Duration::from_secs(20)).unwrap().unwrap();
        assert!(error.ends_with(expected), "{error}");
    }
}

proptest! {
    #[test]
    fn any_ids_decode_as_the_crate_decodes_them(ids in prop::collection::vec(0_u32..270, 0..40)) {
        let t = small_tokenizer();
        prop_assert_eq!(t.decode(&ids), t.inner.decode(&ids, false).unwrap());
    }

    #[test]
    fn any_composed_text_round_trips(text in "[a-zA-Z0-9 \\t\\n\\r!-/:-@🎉日本àéï]{0,40}") {
        let t = small_tokenizer();
        prop_assert_eq!(t.decode(&t.encode(&text).unwrap()), text);
    }

    /// Whatever a damaged file gives, it is a tokenizer or an error.
    #[test]
    fn damaged_files_do_not_panic(at in 0_usize..6000, byte in any::<u8>(), cut in any::<bool>()) {
        let mut json = small_json().to_string().into_bytes();
        let at = at % json.len();
        if cut { json.truncate(at) } else { json[at] = byte }
        match Tokenizer::from_bytes("damaged.json", &json) {
            Ok(t) => { let _ = t.encode("abab é").map(|ids| t.decode(&ids)); }
            Err(e) => prop_assert!(e.to_string().starts_with("damaged.json: "), "{}", e),
        }
    }
}

/// The ids, offsets and texts here are those of transformers 5 (`PreTrainedTokenizerFast`).
#[test]
fn pythia_is_encoded_as_transformers_does() {
    let Some(t) = shared("data/pythia/tokenizer.json") else { return };
    assert_eq!(t.vocab_size(), 50277);
    assert_round_trips(&t);
    assert_eq!(t.encode("<|endoftext|>").unwrap(), [0]);
    assert_eq!(t.encode("Hello world").unwrap(), [12092, 1533]);
    assert_eq!(t.encode("e\u{301}").unwrap(), [860]);
    assert_eq!(t.encode(" don't  can 't . , !").unwrap(), [1053, 626, 50276, 5092, 686, 85, 964, 1157, 2195]);
    assert_eq!(t.encode("a <|endoftext|>\nb").unwrap(), [66, 209, 0, 187, 67]);
    assert_eq!(t.encode(&format!("a{}b", " ".repeat(30))).unwrap(), [66, 50254, 50272, 67]);
    for n in 2..=24 {
        let spaces = " ".repeat(n as usize);
        assert_eq!(t.encode(&spaces).unwrap(), [50278 - n]);
        assert_eq!(t.token(50278 - n), Some(spaces));
    }
    let encoding = t.encode_with_offsets("Hello  wörld 🎉!").unwrap();
    assert_eq!(encoding.ids, [12092, 50276, 88, 6592, 392, 22692, 225, 220, 2]);
    assert_eq!(encoding.tokens, ["Hello", "  ", "w", "Ã¶r", "ld", "ĠðŁ", "İ", "ī", "!"]);
    assert_eq!(
        encoding.offsets,
        [(0, 5), (7, 7), (7, 8), (8, 10), (10, 12), (13, 14), (13, 14), (13, 14), (14, 15)]
    );
    assert_eq!(t.token(22692).as_deref(), Some(" \\xf0\\x9f"));
}

#[test]
fn the_mini_suites_tokenizer_works() {
    let Some(t) = shared("mini-suite/tokenizer.json") else { return };
    assert_eq!(t.vocab_size(), 4096);
    assert_round_trips(&t);
    assert_eq!(t.encode("<|endoftext|>").unwrap(), [0]);
    // This file has no post-processor: a space belongs to its word.
    let encoding = t.encode_with_offsets("é the").unwrap();
    assert_eq!(encoding.tokens.last().map(String::as_str), Some("Ġthe"));
    assert_eq!(encoding.offsets.last(), Some(&(1, 5)));
}

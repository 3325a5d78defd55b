//! The bounded run of the fuzz corpora: every file of `tests/fuzz/corpus`, many seeded changes of each, and floods of
//! what takes few bytes to write and more to keep.

use pythia_tests::fuzz::{Checker, FORMATS, seeds};
use pythia_tests::{peak::Peak, torch_save};
use std::fs;
use std::path::{Path, PathBuf};

#[global_allocator]
static PEAK: Peak = Peak;

fn folder(format: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(format)
}

/// The files of a format's corpus, in the order of their names.
fn corpus(format: &str) -> Vec<Vec<u8>> {
    let folder = folder(format);
    let entries = fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.iter().map(|path| fs::read(path).unwrap()).collect()
}

/// The generator `SplitMix64`.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `n`; 0 if there is none.
    fn below(&mut self, n: usize) -> usize {
        (self.next() as usize).checked_rem(n).unwrap_or(0)
    }
}

/// Changes bytes in one of the ways that break parsers.
fn change(bytes: &mut Vec<u8>, others: &[Vec<u8>], random: &mut Random) {
    let at = random.below(bytes.len());
    let end = at + random.below((bytes.len() - at).min(64));
    match random.below(9) {
        0 => bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= 1 << random.below(8)),
        1 => bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte = random.next() as u8),
        2 => bytes.truncate(at),
        3 => drop(bytes.drain(at..end)),
        4 => {
            let part = bytes[at..end].to_vec();
            bytes.splice(at..at, part);
        }
        5 => {
            let other = &others[random.below(others.len())];
            let from = random.below(other.len());
            bytes.splice(at.., other[from..].iter().copied());
        }
        // A number where a length or an offset may be.
        6 => {
            let near = (bytes.len() as u64).wrapping_add(random.below(9) as u64).wrapping_sub(4);
            let numbers = [0, 1, near, u64::MAX, i64::MAX as u64, 1 << 31, 1 << 32, 1 << 60];
            let number = numbers[random.below(numbers.len())].to_le_bytes();
            let width = [1, 2, 4, 8][random.below(4)];
            bytes.iter_mut().skip(at).zip(&number[..width]).for_each(|(byte, new)| *byte = *new);
        }
        // The same in digits.
        7 => {
            let numbers = ["-1", "0", "1e999", "18446744073709551616", "9223372036854775807", "4294967296"];
            let digit = bytes.iter().skip(at).position(u8::is_ascii_digit).map_or(at, |i| at + i);
            let digits = bytes.iter().skip(digit).take_while(|byte| byte.is_ascii_digit()).count();
            bytes.splice(digit..digit + digits, numbers[random.below(numbers.len())].bytes());
        }
        _ => {
            let words: [&[u8]; 8] =
                [b"{", b"[", b"\"", b"null", b"(", b"\\u0000", b"PK\x01\x02", b"\xff\xff"];
            bytes.splice(at..at, words[random.below(words.len())].iter().copied());
        }
    }
}

/// `times` changed files made of each file of the corpus, read within the bounds. Some must be valid and some refused, or
/// nothing was tested.
fn run(format: &str, times: usize) {
    let (checker, corpus) = (Checker::new(format), corpus(format));
    assert!(!corpus.is_empty(), "{format}: no files");
    let mut found = [0, 0];
    for (file, original) in corpus.iter().enumerate() {
        found[usize::from(checker.check(original).is_ok())] += 1;
        let mut random = Random(file as u64);
        for _ in 0..times {
            let mut bytes = original.clone();
            (0..=random.below(3)).for_each(|_| change(&mut bytes, &corpus, &mut random));
            found[usize::from(checker.check(&bytes).is_ok())] += 1;
        }
    }
    println!("{format}: {} refused, {} valid", found[0], found[1]);
    assert!(found[0] > times / 2 && found[1] > 0, "{format}: {found:?}");
}

macro_rules! runs {
    ($($format:ident: $times:literal,)*) => {$(
        #[test]
        fn $format() {
            run(stringify!($format), $times);
        }
    )*};
}

runs! {
    safetensors: 150, pickle: 150, old: 150, zip: 150, index: 150, config: 250, tokenizer: 20, gguf: 80,
}

#[test]
fn the_seeds_are_valid() {
    for format in FORMATS {
        for seed in seeds(format.name) {
            Checker::new(format.name).check(&seed).unwrap_or_else(|e| panic!("{}: {e}", format.name));
        }
    }
}

/// Writes the seeds of every corpus.
#[test]
#[ignore = "writes tests/fuzz/corpus"]
fn write_the_seeds() {
    for format in FORMATS {
        fs::create_dir_all(folder(format.name)).unwrap();
        for (i, seed) in seeds(format.name).into_iter().enumerate() {
            fs::write(folder(format.name).join(format!("seed-{i}")), seed).unwrap();
        }
    }
}

/// `part` with a number in place of `@`, many times.
fn numbered(part: &str, times: usize) -> String {
    (0..times).map(|i| part.replace('@', &format!("{i:x}"))).collect()
}

fn safetensors_file(header: &str) -> Vec<u8> {
    pythia_tests::tiny::safetensors_of(header, &[])
}

const MANY: usize = 60_000;

#[test]
fn floods_of_safetensors_headers() {
    let checker = Checker::new("safetensors");
    let tensors = numbered(r#""@":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},"#, MANY);
    let metadata = numbered(r#""@":"","#, MANY);
    let shape = "1,".repeat(1_000_000);
    for header in [
        format!(r#"{{{tensors}"z":0}}"#),
        format!(r"{{{}}}", tensors.trim_end_matches(',')),
        format!(r#"{{"__metadata__":{{{}}}}}"#, metadata.trim_end_matches(',')),
        format!(r#"{{"a":{{"dtype":"U8","shape":[{shape}1],"data_offsets":[0,1]}}}}"#),
        format!(r#"{{"a":{{"dtype":"U8","shape":[1],"data_offsets":[{shape}1]}}}}"#),
        format!(r#"{{"{}":{{"dtype":"U9"}}}}"#, "x".repeat(1_000_000)),
        format!(r#"{{"a":{{"dtype":"{}"}}}}"#, "x".repeat(1_000_000)),
    ] {
        let _ = checker.check(&safetensors_file(&header));
    }
}

#[test]
fn floods_of_pickles() {
    let pickle = Checker::new("pickle");
    for part in [&b"N"[..], b"(", b")", b"}", b"]", b"N\x85", b"Nq\0", b"h\0", b"}}b", b"NNNN\x87", b"((("] {
        let _ = pickle.check(&torch_save::pickle(&[b"Nq\0", &part.repeat(500_000)[..]].concat()));
    }
    let dict = |part: &[u8]| torch_save::pickle(&[b"}", &part.repeat(40_000)[..]].concat());
    let memo: Vec<u8> = (0..130_000_u32).flat_map(|i| [b"r", &i.to_le_bytes()[..]].concat()).collect();
    let tuples = [&b"("[..], &b"N".repeat(100_000), b"t"].concat();
    // One tensor under many names.
    let tensor = torch_save::Tensor::new(0, &[4, 8]);
    let names: Vec<u8> =
        (0..40_000).flat_map(|i| [&torch_save::text(&format!("{i:x}"))[..], b"h\0"].concat()).collect();
    let named = [&tensor.write()[..], b"q\0", b"}(", &names, b"u"].concat();
    for bytes in [
        dict(b"NNs"),
        torch_save::pickle(&[b"N", &memo[..]].concat()),
        torch_save::pickle(&tuples),
        torch_save::pickle(&named),
        torch_save::pickle(&[b"X", &500_000_u32.to_le_bytes()[..], &vec![b'x'; 500_000]].concat()),
    ] {
        let _ = pickle.check(&bytes);
        let _ = Checker::new("old").check(&torch_save::stream(&bytes, &[]));
    }
}

#[test]
fn floods_of_zip_entries() {
    let names: Vec<String> = (0..20_000).map(|i| format!("{i:x}")).collect();
    let entries: Vec<(&str, &[u8])> = names.iter().map(|name| (name.as_str(), &b""[..])).collect();
    let zip = torch_save::Archive::aligned(&entries, 1);
    let _ = Checker::new("zip").check(&zip.bytes);
}

#[test]
fn floods_of_json() {
    let (index, config) = (Checker::new("index"), Checker::new("config"));
    let entries = numbered(r#""@":"@","#, MANY);
    for map in [entries.clone(), numbered(r#""@":"a.safetensors","#, MANY)] {
        let _ = index.check(format!(r#"{{"weight_map":{{{}}}}}"#, map.trim_end_matches(',')).as_bytes());
    }
    let ones = "1,".repeat(500_000);
    let lists = "[".repeat(100) + &"[],".repeat(300_000);
    for json in [
        format!("[{ones}1]"),
        format!(r#"{{"x":[{ones}1],"model_type":"gpt_neox"}}"#),
        format!(r#"{{"eos_token_id":[{ones}1],"model_type":"gpt_neox"}}"#),
        format!(r#"{{"architectures":[{ones}1]}}"#),
        format!(r#"{{"rope_scaling":{{{entries}"z":1}}}}"#),
        format!("{{{entries}\"z\":1}}"),
        format!(r#"{{"model_type":"{}"}}"#, "\u{1f600}".repeat(100_000)),
        lists,
    ] {
        let _ = config.check(json.as_bytes());
        let _ = index.check(json.as_bytes());
    }
}

#[test]
fn floods_of_gguf_headers() {
    let gguf = Checker::new("gguf");
    let text = |text: &str| [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat();
    let header = |tensors: usize, keys: usize, rest: Vec<u8>| {
        let counts = [tensors, keys].map(|n| (n as u64).to_le_bytes()).concat();
        [b"GGUF\x03\0\0\0", &counts[..], &rest].concat()
    };
    let many = |part: &dyn Fn(usize) -> Vec<u8>| (0..MANY).flat_map(part).collect::<Vec<u8>>();
    let key = |i: usize| [&text(&format!("{i:x}"))[..], &[0, 0, 0, 0, 1]].concat();
    let tensor =
        |i: usize| [&text(&format!("{i:x}"))[..], &[0, 0, 0, 0], &99_u32.to_le_bytes(), &[0; 8]].concat();
    let _ = gguf.check(&header(0, MANY, many(&key)));
    let _ = gguf.check(&header(MANY, 0, many(&tensor)));
    let array = [&9_u32.to_le_bytes()[..], &8_u32.to_le_bytes(), &(MANY as u64).to_le_bytes()].concat();
    let tokens = many(&|i| text(&format!("{i:x}")));
    let _ = gguf.check(&header(0, 1, [&text("tokenizer.ggml.tokens")[..], &array, &tokens].concat()));
}

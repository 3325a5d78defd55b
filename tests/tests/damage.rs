//! Small files of every format, cut at every byte and with every bit of their headers flipped: refused, or exactly valid.

use pythia_model::{Config, Result, TensorFile, Weights};
use pythia_tests::{temporary, tiny};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

/// The tensors of a file: type and shape, and bytes.
type Tensors = BTreeMap<String, ((String, Vec<usize>), Vec<u8>)>;

/// A good file, and how it is read.
struct Good {
    name: &'static str,
    bytes: Vec<u8>,
    /// What is not numbers.
    header: Vec<usize>,
    /// How many bytes may be missing at the end: those that fill the last block.
    spare: usize,
    read: fn(&Path) -> Result<Tensors>,
}

fn all(file: &TensorFile) -> Result<Tensors> {
    let mut tensors = Tensors::new();
    for name in file.names() {
        let tensor = file.tensor(name)?.expect("a tensor that the file names");
        let kind = (format!("{:?}", tensor.dtype()), tensor.shape().to_vec());
        tensors.insert(name.to_owned(), (kind, tensor.bytes().to_vec()));
    }
    Ok(tensors)
}

/// Runs `change` on a copy of the file for each of `0..count`; `valid` judges what could be read nevertheless.
fn damaged(good: &Good, cases: impl Iterator<Item = Vec<u8>>, valid: impl Fn(usize, &Tensors, &Tensors)) {
    let (dir, since) = (temporary(), Instant::now());
    let path = dir.path().join(good.name);
    fs::write(&path, &good.bytes).unwrap();
    let original = (good.read)(&path).unwrap_or_else(|e| panic!("the good file: {e}"));
    let (mut count, mut refused) = (0, 0);
    for (case, bytes) in cases.enumerate() {
        fs::write(&path, &bytes).unwrap();
        count += 1;
        match (good.read)(&path) {
            Ok(found) => valid(case, &original, &found),
            Err(error) => {
                let message = error.to_string();
                let named = message.starts_with(&format!("{}: ", path.display()));
                assert!(named && !message.contains(char::is_control), "case {case}: {message:?}");
                refused += 1;
            }
        }
    }
    println!("{}: {count} damaged files, {refused} refused, in {:?}", good.name, since.elapsed());
    // Far beyond the milliseconds that each takes, as the machine may pause.
    assert!(refused > 0 && since.elapsed() < Duration::from_millis(200) * count);
}

fn check(good: &Good) {
    let length = good.bytes.len();
    let cut = (0..length).map(|end| good.bytes[..end].to_vec());
    damaged(good, cut, |end, original, found| {
        assert!(end >= length - good.spare && original == found, "cut at {end} of {length}");
    });
    let bits = good.header.iter().flat_map(|&at| (0..8).map(move |bit| (at, bit)));
    let flipped = bits.map(|(at, bit)| {
        let mut bytes = good.bytes.clone();
        bytes[at] ^= 1 << bit;
        bytes
    });
    damaged(good, flipped, |case, original, found| {
        let (at, bit) = (good.header[case / 8], case % 8);
        // Another name, type or shape, but no other numbers under what is as it was.
        for (name, (kind, bytes)) in found {
            let numbers: usize = kind.1.iter().product();
            let size = if kind.0 == "F32" { 4 } else { 2 };
            assert_eq!(bytes.len(), numbers * size, "byte {at}, bit {bit}, {name}");
            if let Some((before, expected)) = original.get(name)
                && before == kind
            {
                assert_eq!(bytes, expected, "byte {at}, bit {bit}, {name}");
            }
        }
        let gone = original.keys().filter(|name| !found.contains_key(*name)).count();
        assert!(gone <= 1 && found.len() == original.len(), "byte {at}, bit {bit}: {gone} tensors gone");
    });
}

#[test]
fn safetensors() {
    let bytes = tiny::safetensors(&tiny::tensors(&tiny::config())[..4]);
    let data = 8 + u64::from_le_bytes(*bytes.first_chunk().unwrap()) as usize;
    check(&Good {
        name: "a.safetensors",
        header: (0..data).collect(),
        bytes,
        spare: 0,
        read: |p| all(&TensorFile::open(p)?),
    });
}

#[test]
fn archives_of_pytorch() {
    let zip = tiny::zip(&tiny::tensors(&tiny::config())[..3]);
    let storages = &zip.data[2..5];
    let header = (0..zip.bytes.len()).filter(|at| !storages.iter().any(|range| range.contains(at))).collect();
    check(&Good {
        name: "a.bin",
        bytes: zip.bytes,
        header,
        spare: 0,
        read: |p| all(&TensorFile::open_pytorch(p)?),
    });
}

#[test]
fn old_files_of_pytorch() {
    let tensors = tiny::tensors(&tiny::config())[..3].to_vec();
    let bytes = tiny::stream(&tensors);
    let data = bytes.len() - tensors.iter().map(|(.., bytes)| 8 + bytes.len()).sum::<usize>();
    check(&Good {
        name: "old.bin",
        header: (0..data + 8).collect(),
        bytes,
        spare: 0,
        read: |p| all(&TensorFile::open_pytorch(p)?),
    });
}

#[test]
fn gguf() {
    let bytes = tiny::gguf(&tiny::config_json(), None);
    let tensors = tiny::tensors(&tiny::config());
    // Vectors are f32 there.
    let size = |shape: &[usize], bytes: &[u8]| bytes.len() * if shape.len() == 1 { 2 } else { 1 };
    let data: usize = tensors.iter().map(|(_, shape, bytes)| size(shape, bytes).next_multiple_of(32)).sum();
    let header = (0..bytes.len() - data).collect();
    check(&Good { name: "a.gguf", bytes, header, spare: 32, read: |p| all(&TensorFile::open_gguf(p)?) });
}

/// The shards that an index names, read as one model.
fn indexed(path: &Path) -> Result<Tensors> {
    let dir = path.parent().unwrap();
    let mut tensors = tiny::tensors(&tiny::config());
    let second = tensors.split_off(9);
    for (name, tensors) in [("a", tensors), ("b", second)] {
        if !dir.join(name).exists() {
            fs::write(dir.join(name), tiny::safetensors(&tensors)).unwrap();
        }
    }
    let weights = Weights::open(dir, &tiny::config())?;
    let found = weights.matrices().map(|(name, tensor)| {
        (name, ((format!("{:?}", tensor.dtype()), tensor.shape().to_vec()), tensor.bytes().to_vec()))
    });
    Ok(found.collect())
}

#[test]
fn indices() {
    let tensors = tiny::tensors(&tiny::config());
    let map = tensors
        .iter()
        .enumerate()
        .map(|(i, (name, ..))| (name.clone(), ["a", "b"][usize::from(i >= 9)].into()));
    let map: serde_json::Map<_, _> = map.collect();
    let bytes = serde_json::json!({ "weight_map": map }).to_string().into_bytes();
    let header = (0..bytes.len()).collect();
    check(&Good { name: "model.safetensors.index.json", bytes, header, spare: 0, read: indexed });
}

/// A config cut anywhere is no config; one with a flipped bit is none, or one whose promises hold.
#[test]
fn configs() {
    let (dir, bytes) = (temporary(), tiny::config_json().to_string().into_bytes());
    let path = dir.path().join("config.json");
    let read = |bytes: &[u8]| {
        fs::write(&path, bytes).unwrap();
        Config::from_file(&path)
    };
    assert_eq!(read(&bytes).unwrap(), tiny::config());
    for end in 0..bytes.len() {
        let message = read(&bytes[..end]).unwrap_err().to_string();
        assert!(message.contains("config.json: expected a JSON object: "), "{end}: {message}");
    }
    let (mut refused, mut valid) = (0, 0);
    for (at, bit) in (0..bytes.len()).flat_map(|at| (0..8).map(move |bit| (at, bit))) {
        let mut changed = bytes.clone();
        changed[at] ^= 1 << bit;
        match read(&changed) {
            Err(error) => {
                assert!(error.to_string().contains("config.json: "), "{error}");
                refused += 1;
            }
            Ok(c) => {
                assert!(
                    c.hidden_size.is_multiple_of(c.num_attention_heads) && c.rotary_dims() <= c.head_dim()
                );
                assert!(
                    c.rotary_dims() >= 2 && c.eos_token_ids.iter().all(|&id| (id as usize) < c.vocab_size)
                );
                valid += 1;
            }
        }
    }
    println!("{refused} refused, {valid} valid");
    assert!(refused > 0 && valid > 0);
}

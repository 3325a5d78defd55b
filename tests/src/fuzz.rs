//! What is done with bytes of unknown origin in each format, and the bounds that must hold for any of them. The fuzz
//! targets in `tests/fuzz` and the tests call the same functions.

use crate::tiny::{self, Named};
use crate::torch_save::{Tensor, archive, state_dict};
use crate::{peak, temporary};
use pythia_model::{Config, Result, TensorFile, Tokenizer, Weights};
use serde_json::json;
use std::cell::Cell;
use std::fs;
use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::sync::Once;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// The most bytes held for one of the input.
const TIMES: usize = 8;
/// The bytes that a small input may take beyond that: messages, paths, tables of a fixed size.
const BESIDE: usize = 1 << 20;
/// The most time.
const LONGEST: Duration = Duration::from_secs(1);

/// A format, and what is done with bytes of it.
#[derive(Debug, Clone, Copy)]
pub struct Format {
    /// What its fuzz target and the folder of its corpus are called.
    pub name: &'static str,
    /// What the file is called.
    file: &'static str,
    /// What is written into the file.
    wrap: fn(&[u8]) -> Vec<u8>,
    /// Reads all there is to read.
    read: fn(&Path) -> Result<()>,
}

/// Every format.
pub const FORMATS: [Format; 8] = [
    Format { name: "safetensors", file: "model.safetensors", wrap: <[u8]>::to_vec, read: safetensors },
    Format { name: "pickle", file: "pytorch_model.bin", wrap: in_archive, read: pytorch },
    Format { name: "old", file: "pytorch_model.bin", wrap: <[u8]>::to_vec, read: pytorch },
    Format { name: "zip", file: "pytorch_model.bin", wrap: <[u8]>::to_vec, read: pytorch },
    Format { name: "index", file: "model.safetensors.index.json", wrap: <[u8]>::to_vec, read: index },
    Format { name: "config", file: "config.json", wrap: <[u8]>::to_vec, read: config },
    Format { name: "tokenizer", file: "tokenizer.json", wrap: <[u8]>::to_vec, read: tokenizer },
    Format { name: "gguf", file: "model.gguf", wrap: <[u8]>::to_vec, read: gguf },
];

/// A format with a folder to write its files to.
#[derive(Debug)]
pub struct Checker {
    format: Format,
    dir: TempDir,
}

impl Checker {
    /// For the format of this name.
    ///
    /// # Panics
    /// If there is no such format or no room for a folder.
    pub fn new(name: &str) -> Self {
        let format = FORMATS.into_iter().find(|format| format.name == name);
        let (format, dir) = (format.unwrap_or_else(|| panic!("no format {name}")), temporary());
        for (shard, tensors) in shards() {
            fs::write(dir.path().join(shard), tiny::safetensors(&tensors)).expect("a temporary file");
        }
        let checker = Self { format, dir };
        // What is made once for the whole process, such as compiled patterns, is no input's.
        let _ = (format.read)(&checker.write(&seeds(name)[0]));
        checker
    }

    fn write(&self, bytes: &[u8]) -> PathBuf {
        let path = self.dir.path().join(self.format.file);
        fs::write(&path, (self.format.wrap)(bytes)).expect("a temporary file");
        path
    }

    /// Whether `bytes` are valid, or the error that refuses them.
    ///
    /// # Errors
    /// If they are refused.
    ///
    /// # Panics
    /// If reading them panics, holds more than eight times their length and 1 MB, or takes more than a second (of three times the best,
    /// where a machine's pause or a crate's table may be the reason); if the error has more than one line, or does not name a file.
    pub fn check(&self, bytes: &[u8]) -> Result<()> {
        let path = self.write(bytes);
        let length = fs::metadata(&path).map_or(0, |m| m.len()) as usize;
        let mut result = Ok(());
        // Pauses of the machine do not count against an input, nor does the table in which the crate `tokenizers` has, for each thread,
        // every tokenizer that was ever used (it takes 1.2 MB more after 28,672): the best of three does.
        let has_table = ["tokenizer", "gguf"].contains(&self.format.name);
        for attempt in 1..=3 {
            let since = Instant::now();
            let (read, held) = peak::of(|| quietly(|| (self.format.read)(&path)));
            let (took, name) = (since.elapsed(), self.format.name);
            result = read.unwrap_or_else(|message| panic!("{name} panicked: {message}"));
            let (small, quick) = (held <= TIMES * length + BESIDE, took <= LONGEST);
            if small && quick {
                break;
            }
            let again = attempt < 3 && (small || has_table);
            assert!(again, "{name}: {held} bytes held and {took:?} for {length} bytes");
        }
        if let Err(error) = &result {
            let message = error.to_string();
            let folder = self.dir.path().to_string_lossy();
            assert!(message.starts_with(&*folder) && !message.contains('\n'), "{message:?}");
            assert!(message.len() < 2000, "an error of {} bytes: {:.300}", message.len(), message);
        }
        result
    }
}

thread_local! {
    /// Whether this thread's panics are not to be printed, which alone can take fifty megabytes.
    static QUIET: Cell<bool> = const { Cell::new(false) };
}

/// The result of `f`, or the message of its panic, which nobody is told. Where a panic is caught and becomes an error, as
/// those of the crate `tokenizers` are, neither is that.
fn quietly<R>(f: impl FnOnce() -> R) -> Result<R, String> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let usual = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if !QUIET.get() {
                usual(info);
            }
        }));
    });
    QUIET.set(true);
    let result = panic::catch_unwind(AssertUnwindSafe(f));
    QUIET.set(false);
    result.map_err(|payload| {
        let text = payload.downcast_ref::<String>().map(String::as_str);
        text.or(payload.downcast_ref::<&str>().copied()).unwrap_or("without a message").to_owned()
    })
}

fn tensors_of(file: &TensorFile) -> Result<()> {
    let mut first = Ok(());
    for name in file.names() {
        first = first.and(file.tensor(name).map(|_| ()));
    }
    first
}

fn safetensors(path: &Path) -> Result<()> {
    tensors_of(&TensorFile::open(path)?)
}

fn pytorch(path: &Path) -> Result<()> {
    tensors_of(&TensorFile::open_pytorch(path)?)
}

/// A pickle as the only one of an archive that has two storages of 64 bytes.
fn in_archive(pickle: &[u8]) -> Vec<u8> {
    archive(pickle, &[("0", &[0x3c; 64]), ("1", &[0x3c; 64])]).bytes
}

/// The model's tensors in two files.
fn shards() -> [(&'static str, Vec<Named>); 2] {
    let mut first = tiny::tensors(&tiny::config());
    let second = first.split_off(first.len() / 2);
    [("a.safetensors", first), ("b.safetensors", second)]
}

fn index(path: &Path) -> Result<()> {
    Weights::open(path.parent().unwrap_or(path), &tiny::config()).map(|_| ())
}

fn config(path: &Path) -> Result<()> {
    let config = Config::from_file(path)?;
    assert!(config.rotary_dims() <= config.head_dim() && config.parameters().total > 0);
    Ok(())
}

fn encode(tokenizer: &Tokenizer) -> Result<()> {
    let ids = tokenizer.encode("abab  a <|endoftext|>\u{e9}\n")?;
    tokenizer.decode(&ids);
    tokenizer.encode_with_offsets("b a").map(|_| ())
}

fn tokenizer(path: &Path) -> Result<()> {
    encode(&Tokenizer::from_file(path)?)
}

fn gguf(path: &Path) -> Result<()> {
    let file = TensorFile::open_gguf(path).and_then(|file| tensors_of(&file));
    let weights = Config::of_model(path).and_then(|config| Weights::open(path, &config)).map(|_| ());
    let tokenizer = Tokenizer::of_model(path).and_then(|found| found.as_ref().map_or(Ok(()), encode));
    file.and(weights).and(tokenizer)
}

/// Small good files of a format, to start from.
///
/// # Panics
/// If there is no such format.
pub fn seeds(name: &str) -> Vec<Vec<u8>> {
    let config = tiny::config();
    let tensors = tiny::tensors(&config);
    let few = || tensors[..2].to_vec();
    match name {
        "safetensors" => vec![tiny::safetensors(&tensors), tiny::safetensors(&few())],
        "pickle" => vec![state_dict(&[("a", Tensor::new(0, &[4, 8])), ("b", Tensor::new(1, &[32]))])],
        "old" => vec![tiny::stream(&tensors), tiny::stream(&few())],
        "zip" => vec![tiny::zip(&tensors).bytes, tiny::zip(&few()).bytes],
        "index" => {
            let places = |(file, tensors): (&'static str, Vec<Named>)| {
                tensors.into_iter().map(move |(name, ..)| (name, json!(file)))
            };
            let map: serde_json::Map<_, _> = shards().into_iter().flat_map(places).collect();
            vec![json!({"metadata": {"total_size": 1}, "weight_map": map}).to_string().into_bytes()]
        }
        "config" => {
            let mut new = tiny::config_json();
            new["rope_parameters"] = json!({"rope_type": "default", "rope_theta": 1e4});
            new["dtype"] = json!("float16");
            vec![tiny::config_json().to_string().into_bytes(), new.to_string().into_bytes()]
        }
        "tokenizer" => vec![tiny::tokenizer().to_string().into_bytes()],
        "gguf" => {
            let tokenizer = tiny::tokenizer().to_string();
            let json = tiny::config_json();
            vec![tiny::gguf(&json, Some(tokenizer.as_bytes())), tiny::gguf(&json, None)]
        }
        other => panic!("no format {other}"),
    }
}

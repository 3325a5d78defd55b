//! Loaders of the reference data that the tests of the whole system compare with.

pub mod fuzz;
pub mod peak;
pub mod tales;
pub mod tiny;
#[path = "../../pythia-model/src/weights/tests/torch_save.rs"]
pub mod torch_save;

use pythia_model::{Size, synth};
use safetensors::{Dtype, SafeTensors};
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

/// The project's own fixtures, which a stranger's checkout has too.
pub fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures")
}

/// A folder of the full reference data beside the checkout, or `None` with a printed notice where it is absent.
pub fn shared(folder: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared").join(folder);
    if path.exists() {
        return Some(path);
    }
    println!("notice: skipped, no {} beside the checkout", path.display());
    None
}

/// The folders in `dir`, sorted by name.
///
/// # Panics
/// If `dir` cannot be read.
pub fn folders(dir: &Path) -> Vec<PathBuf> {
    let entries = dir.read_dir().unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
    let mut folders: Vec<_> = entries.map(|e| e.expect("entry").path()).filter(|p| p.is_dir()).collect();
    folders.sort();
    folders
}

/// An empty folder that is deleted when dropped. It lies in `PYTHIA_TEST_DIR`, if that is set: the largest models need 24 GB.
///
/// # Panics
/// If it cannot be made.
pub fn temporary() -> TempDir {
    let parent = std::env::var_os("PYTHIA_TEST_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
    tempfile::Builder::new().prefix("pythia-test-").tempdir_in(parent).expect("a temporary folder")
}

/// A folder with the synthetic model of the reference data: `synth.py`'s weights with seed 1234. Deleted when dropped.
///
/// # Panics
/// If it cannot be written.
pub fn synthetic(size: &Size) -> TempDir {
    let dir = temporary();
    synth::write(size, &dir, 1234).unwrap_or_else(|e| panic!("{e}"));
    dir
}

/// The Python of the environment variable `PYTHIA_PYTHON` if it has these packages, or `None` with a printed notice.
///
/// # Panics
/// If it is set, but cannot be started.
pub fn python(packages: &[&str]) -> Option<Command> {
    let Some(path) = std::env::var_os("PYTHIA_PYTHON") else {
        println!("notice: skipped, PYTHIA_PYTHON does not name a Python with {}", packages.join(", "));
        return None;
    };
    let imports = format!("import {}", packages.join(", "));
    let output = Command::new(&path).args(["-c", &imports]).output();
    let output = output.unwrap_or_else(|e| panic!("PYTHIA_PYTHON={}: {e}", path.display()));
    if output.status.success() {
        return Some(Command::new(path));
    }
    let error = String::from_utf8_lossy(&output.stderr).lines().last().unwrap_or_default().to_owned();
    println!("notice: skipped, the Python of PYTHIA_PYTHON lacks a package: {error}");
    None
}

/// A file of named tensors that transformers computed.
#[derive(Debug)]
pub struct Reference {
    path: PathBuf,
    bytes: Vec<u8>,
}

impl Reference {
    /// Reads `path`.
    ///
    /// # Panics
    /// If it cannot be read.
    pub fn open(path: impl AsRef<Path>) -> Self {
        let path = path.as_ref().to_owned();
        let bytes = std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        Self { path, bytes }
    }

    /// Whether there is a tensor `name`.
    pub fn has(&self, name: &str) -> bool {
        self.read().tensor(name).is_ok()
    }

    /// The shape and the numbers of an `f32` tensor.
    ///
    /// # Panics
    /// If there is no such tensor.
    pub fn floats(&self, name: &str) -> (Vec<usize>, Vec<f32>) {
        self.numbers(name, Dtype::F32, f32::from_le_bytes)
    }

    /// The shape and the numbers of an `i64` tensor.
    ///
    /// # Panics
    /// If there is no such tensor.
    pub fn integers(&self, name: &str) -> (Vec<usize>, Vec<i64>) {
        self.numbers(name, Dtype::I64, i64::from_le_bytes)
    }

    /// The token ids of an `i64` tensor.
    ///
    /// # Panics
    /// If there is no such tensor, or it holds other numbers.
    pub fn ids(&self, name: &str) -> Vec<u32> {
        self.integers(name).1.into_iter().map(|id| u32::try_from(id).expect("a token id")).collect()
    }

    fn read(&self) -> SafeTensors<'_> {
        SafeTensors::deserialize(&self.bytes).unwrap_or_else(|e| panic!("{}: {e}", self.path.display()))
    }

    fn numbers<const N: usize, T>(
        &self,
        name: &str,
        dtype: Dtype,
        read: fn([u8; N]) -> T,
    ) -> (Vec<usize>, Vec<T>) {
        let file = self.read();
        let tensor = file.tensor(name).unwrap_or_else(|e| panic!("{}: {e}", self.path.display()));
        assert_eq!(tensor.dtype(), dtype, "{name}");
        let numbers = tensor.data().chunks_exact(N).map(|b| read(b.try_into().expect("whole numbers")));
        (tensor.shape().to_vec(), numbers.collect())
    }
}

/// The largest difference of two lists of numbers.
///
/// # Panics
/// If they have different lengths or hold NaN.
pub fn worst(got: &[f32], want: &[f32]) -> f32 {
    assert_eq!(got.len(), want.len());
    let differences = got.iter().zip(want).map(|(a, b)| (a - b).abs());
    differences.fold(0.0, |worst, d| {
        if d <= worst {
            worst
        } else {
            assert!(!d.is_nan(), "NaN");
            d
        }
    })
}

/// The first largest number's place.
///
/// # Panics
/// If there is none.
pub fn argmax(logits: &[f32]) -> u32 {
    let top = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    logits.iter().position(|&l| l == top).expect("a largest number") as u32
}

/// A fingerprint of the bits of some numbers, the 32-bit words in the role of FNV-1a's bytes.
pub fn fingerprint(numbers: &[f32]) -> u64 {
    let offset = 0xCBF2_9CE4_8422_2325;
    numbers.iter().fold(offset, |hash, x| (hash ^ u64::from(x.to_bits())).wrapping_mul(0x0100_0000_01B3))
}

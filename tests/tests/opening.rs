//! A `.bin` is opened as a safetensors file is: about as quickly, and without a second copy of its weights.

use pythia_model::{Config, Size, Weights};
use pythia_tests::{peak, temporary, tiny};
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

#[global_allocator]
static PEAK: peak::Peak = peak::Peak;

/// The tensors of the smallest published size, in both formats. Most of its vocabulary is left out, which makes files
/// quicker to write and nothing slower to open.
fn folders() -> (Config, [tempfile::TempDir; 2]) {
    let mut config = Size::named("14m").unwrap().config();
    config.vocab_size = 2000;
    let (tensors, dirs) = (tiny::tensors(&config), [temporary(), temporary()]);
    fs::write(dirs[0].path().join("model.safetensors"), tiny::safetensors(&tensors)).unwrap();
    fs::write(dirs[1].path().join("pytorch_model.bin"), tiny::zip(&tensors).bytes).unwrap();
    (config, dirs)
}

fn took(dir: &Path, config: &Config) -> Duration {
    let since = Instant::now();
    let weights = Weights::open(dir, config).unwrap();
    let took = since.elapsed();
    assert_eq!(weights.layers.len(), config.num_hidden_layers);
    took
}

#[test]
fn a_bin_opens_in_no_more_than_twice_the_time_of_safetensors() {
    let (config, dirs) = folders();
    // In turns, so that a slower hour of the machine meets both.
    let mut times = [vec![], vec![]];
    for _ in 0..201 {
        dirs.iter().zip(&mut times).for_each(|(dir, times)| times.push(took(dir.path(), &config)));
    }
    let [safetensors, bin] = times.map(|mut times| {
        times.sort();
        times[times.len() / 2]
    });
    let ratio = bin.as_secs_f64() / safetensors.as_secs_f64();
    println!("safetensors {safetensors:?}, .bin {bin:?}, ratio {ratio:.2}");
    assert!(ratio <= 2.0, "{ratio}");
}

#[test]
fn a_bin_is_not_copied() {
    let (config, dirs) = folders();
    let file = fs::metadata(dirs[1].path().join("pytorch_model.bin")).unwrap().len() as usize;
    let [safetensors, bin] = dirs.each_ref().map(|dir| {
        let (weights, peak) = peak::of(|| Weights::open(dir.path(), &config).unwrap());
        for (name, matrix) in weights.matrices() {
            let bytes = matrix.bytes().as_ptr_range();
            assert!(weights.files.len() == 1 && bytes.start < bytes.end, "{name}");
        }
        peak
    });
    println!("{safetensors} bytes at most for safetensors, {bin} for .bin, of {file}");
    // What is widened to f32 are the vectors; 1/20 of the file is far from a copy and far above them.
    assert!(bin <= 2 * safetensors && bin < file / 20, "{bin} of {file}, {safetensors} for safetensors");
}

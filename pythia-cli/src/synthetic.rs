//! Synthetic models: written with something to look at, cleaned up after when interrupted.

use crate::cache_folder::cache_folder;
use crate::interrupt::Writing;
use anyhow::Result;
use indicatif::{ProgressBar, ProgressStyle};
use pythia_model::{Size, synth};
use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The seed of `-m synth:SIZE`.
pub(crate) const SEED: u64 = 1234;

/// Writes a synthetic model into a folder, replacing what is there.
pub(crate) fn write(size: &Size, folder: &Path, seed: u64) -> Result<()> {
    let _writing = Writing::into(folder);
    let spinner = spinner(&format!("writing {} synthetic weights to {}", size.name, folder.display()));
    let written = synth::write(size, folder, seed);
    spinner.finish_and_clear();
    Ok(written?)
}

/// The folder of the synthetic model of this size in the user's cache, written if it is not there.
pub(crate) fn cached(size: &Size) -> Result<PathBuf> {
    let folder = cache_folder("synth")?.join(format!("{}-{SEED}", size.name));
    // The config is written last.
    if !folder.join("config.json").is_file() || !folder.join("model.safetensors").is_file() {
        write(size, &folder, SEED)?;
    }
    Ok(folder)
}

/// A spinner with the time that has passed, on a terminal.
fn spinner(message: &str) -> ProgressBar {
    if !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let spinner = ProgressBar::new_spinner().with_message(message.to_owned());
    if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} ({elapsed})") {
        spinner.set_style(style);
    }
    spinner.enable_steady_tick(Duration::from_millis(120));
    spinner
}

//! The folder where this program keeps what it can make again.

use anyhow::{Context, Result};
use std::env;
use std::path::PathBuf;

/// `pythia-cli/NAME` in the user's cache: `XDG_CACHE_HOME`, or `~/.cache`. It need not exist.
pub(crate) fn cache_folder(name: &str) -> Result<PathBuf> {
    let var = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let cache = var("XDG_CACHE_HOME").or_else(|| env::home_dir().map(|home| home.join(".cache"))).context(
        "there is no home folder for the cache: set XDG_CACHE_HOME to a folder that can be written",
    )?;
    Ok(cache.join("pythia-cli").join(name))
}

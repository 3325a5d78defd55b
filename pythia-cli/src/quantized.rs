//! Models in `int8` and `int4`: where their quantised weights are kept, and what is told of making them.

use crate::bar::Bar;
use crate::cache_folder::cache_folder;
use crate::interrupt::Writing;
use crate::model::Place;
use crate::output::{note, one_line};
use crate::whole_file::into_memory;
use anyhow::{Context, Result};
use pythia_model::quantized::{Check, Kept};
use pythia_model::{Model, Precision};
use pythia_tensor::Team;
use sha2::{Digest, Sha256};
use std::fmt::Write as _;
use std::path::{Component, Path, PathBuf};

/// The model in `precision`, its quantised weights from the cache if they are there, else quantised into it. What the
/// user should know goes to stderr.
pub(crate) fn in_precision(model: Model, place: &Place, precision: Precision, team: &Team) -> Result<Model> {
    if precision.bits().is_none() {
        return Ok(team.enter(|crew| model.with_precision(crew, precision))?);
    }
    let path = match path(place, &model, precision) {
        Ok(path) => path,
        Err(e) => {
            note(&not_kept(&format!("{e:#}")));
            return Ok(team.enter(|crew| model.with_precision(crew, precision))?);
        }
    };
    into_memory([&*path]);
    let (model, kept) = kept(model, precision, (&path, Check::Quick), team)?;
    if let Some(e) = kept.not_written {
        note(&not_kept(&e.to_string()));
    }
    Ok(model)
}

/// The model in `precision` with its quantised weights from the file `path`, which is written if need be.
pub(crate) fn kept(
    model: Model,
    precision: Precision,
    (path, check): (&Path, Check),
    team: &Team,
) -> Result<(Model, Kept)> {
    let _writing = path.parent().map(Writing::into);
    let bar = Bar::new(&format!("quantising to {precision}"), &format!("kept as {}", path.display()));
    let (model, kept) =
        team.enter(|crew| model.with_precision_kept(crew, precision, (path, check), &mut |p| bar.show(p)))?;
    bar.finish();
    if let Some(e) = &kept.unusable {
        let now = if kept.written { "the weights were quantised again" } else { "it is not used" };
        note(&format!("warning: {}; {now}", one_line(&e.to_string())));
    }
    Ok((model, kept))
}

fn not_kept(why: &str) -> String {
    let why = one_line(why);
    format!("warning: {why}; the quantised weights are in memory only, and will be made again next time")
}

/// The file for a model's quantised weights: `~/.cache/pythia-cli/quantized/NAME-HASH.int8`. The hash is that of the
/// path of the weights, symbolic links followed: snapshots of the Hub's cache that share a file share this one, too.
pub(crate) fn path(place: &Place, model: &Model, precision: Precision) -> Result<PathBuf> {
    let name = match (place, model.weights().files.first()) {
        (Place::Folder(folder), Some(file)) => {
            let path = &file.path;
            let real = path.canonicalize().with_context(|| format!("cannot follow {}", path.display()))?;
            let hash = Sha256::digest(real.as_os_str().as_encoded_bytes());
            let mut name = format!("{}-", readable(folder));
            for byte in hash.iter().take(8) {
                write!(name, "{byte:02x}")?;
            }
            name
        }
        _ => "embedded".to_owned(),
    };
    Ok(cache_folder("quantized")?.join(format!("{name}.{precision}")))
}

/// A name that tells people which model it is: that of the folder, or of the model whose snapshot it is.
fn readable(folder: &Path) -> String {
    let parts = folder.components().filter_map(|part| match part {
        Component::Normal(part) => Some(part.to_string_lossy()),
        _ => None,
    });
    let parts: Vec<_> = parts.collect();
    let of_hub = parts.iter().find(|part| part.starts_with("models--"));
    let name = match of_hub {
        Some(id) => id.rsplit("--").next().unwrap_or_default(),
        None => parts.last().map_or("model", |name| name),
    };
    let plain = |c: char| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '-' };
    name.trim_start_matches('.').chars().take(48).map(plain).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_readable_and_plain() {
        for (folder, name) in [
            ("/home/me/models/my model", "my-model"),
            ("/c/hub/models--EleutherAI--pythia-70m-deduped/snapshots/0123", "pythia-70m-deduped"),
            ("..", "model"),
            ("/x/.hidden", "hidden"),
            ("été", "-t-"),
        ] {
            assert_eq!(readable(Path::new(folder)), name);
        }
        assert_eq!(readable(Path::new(&"x".repeat(300))).len(), 48);
    }
}

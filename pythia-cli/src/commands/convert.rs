//! `convert`: writes a model in another format or type.

use crate::args::ModelArgs;
use crate::bar::Bar;
use crate::hub::name::is_gguf;
use crate::interrupt::Writing;
use crate::output::{Out, note, one_line};
use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;
use pythia_model::Precision;
use pythia_model::convert::{self, Encoding, Options, Source, Written};
use pythia_tensor::DType;
use serde::Serialize;
use std::path::{Path, PathBuf, absolute};
use std::time::Instant;

/// Write a model as safetensors or GGUF
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  pythia-cli convert -m 160m ./pythia-160m-bf16 --dtype bf16    a folder for transformers
  pythia-cli convert -m 160m pythia-160m.gguf --dtype q8_0      a file for llama.cpp

Reads whatever other commands read: PyTorch's .bin, GGUF and the layer files of GPT-NeoX too. The folder has weights, config and tokenizer; the \
file has all in one. Tensors that keep their type keep their bits. Either appears whole or not at all. llama.cpp \
computes GELU in its tanh form, so its numbers differ a little from transformers'.")]
pub(crate) struct Args {
    /// The folder to write, or the file, if its name ends in .gguf; it must not exist yet, or be an empty folder
    #[arg(value_name = "OUT")]
    out: PathBuf,
    /// The format [default: gguf if OUT ends in .gguf, else safetensors]
    #[arg(long, value_enum, value_name = "FORMAT")]
    to: Option<Format>,
    /// The type of the weights; the last for GGUF only, whose vectors are always f32 [default: as they are]
    #[arg(long, value_enum, value_name = "TYPE")]
    dtype: Option<StoredType>,
    /// The most bytes of weights in one file of safetensors; a larger model becomes several files and an index
    #[arg(long, value_name = "SIZE", default_value = "5GB", value_parser = size)]
    max_shard_size: u64,
    #[command(flatten)]
    model: ModelArgs,
}

/// What `--dtype` takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum StoredType {
    F16,
    Bf16,
    F32,
    #[value(name = "q8_0")]
    Q8_0,
}

/// What `--to` takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Safetensors,
    Gguf,
}

#[derive(Serialize)]
struct Report<'a> {
    path: &'a Path,
    files: &'a [String],
    /// Of the weights.
    bytes: u64,
    /// The tensors of the model's files that were left out, as it has no use for them.
    ignored: &'a [String],
    seconds: f64,
}

/// `convert`.
pub(crate) fn run(args: &Args, out: &mut Out) -> Result<()> {
    let precision = args.model.precision;
    ensure!(
        precision == Precision::Exact,
        "--precision {precision} says how a model runs, not how it is stored: choose that with --dtype"
    );
    let source = args.model.locate()?.source()?;
    let since = Instant::now();
    let written = write(args, &source)?;
    let seconds = since.elapsed().as_secs_f64();
    let (Written { files, bytes }, ignored) = (written, source.ignored());
    let path = args.out.as_path();
    if args.model.json {
        return out.json(&Report { path, files: &files, bytes, ignored, seconds });
    }
    if let Some(first) = ignored.first() {
        let (n, first) = (ignored.len(), one_line(first));
        note(&format!("warning: left out {n} tensors that the model has no use for, such as {first}"));
    }
    let (path, n, megabytes) = (path.display(), files.len(), bytes as f64 / 1e6);
    let files = if n == 1 { "file" } else { "files" };
    out.text(&format!("{path}: {n} {files}, {megabytes:.1} MB of weights, {seconds:.1} s\n"))
}

fn write(args: &Args, source: &Source) -> Result<Written> {
    // Temporary files lie beside what they become.
    let path = absolute(&args.out).with_context(|| format!("cannot find {}", args.out.display()))?;
    let _writing = path.parent().map(Writing::into);
    let ends = is_gguf(&args.out);
    let to = args.to.unwrap_or(if ends { Format::Gguf } else { Format::Safetensors });
    let out = args.out.display();
    let bar = Bar::new(&format!("converting to {}", to.name()), &format!("into {out}"));
    let mut show = |p| bar.show(p);
    let written = match to {
        Format::Gguf => {
            ensure!(ends, "{out}: the name of a GGUF file ends in .gguf: call it so, or leave --to out");
            convert::to_gguf(source, &path, args.dtype.map(StoredType::encoding), &mut show)
        }
        Format::Safetensors => {
            let dtype = args.dtype.map(|dtype| dtype.plain().context("--dtype q8_0 needs --to gguf"));
            let options = Options { dtype: dtype.transpose()?, max_shard_size: args.max_shard_size };
            convert::to_safetensors(source, &path, &options, &mut show)
        }
    };
    bar.finish();
    Ok(written?)
}

impl Format {
    fn name(self) -> &'static str {
        match self {
            Self::Safetensors => "safetensors",
            Self::Gguf => "GGUF",
        }
    }
}

impl StoredType {
    /// The type, if it is one of single numbers.
    fn plain(self) -> Option<DType> {
        match self {
            Self::F16 => Some(DType::F16),
            Self::Bf16 => Some(DType::BF16),
            Self::F32 => Some(DType::F32),
            Self::Q8_0 => None,
        }
    }

    fn encoding(self) -> Encoding {
        self.plain().map_or(Encoding::Q8_0, Encoding::Plain)
    }
}

/// Bytes in words, as `huggingface_hub` takes them: `5GB`, `200MB`, and `2GiB` in powers of two.
fn size(text: &str) -> Result<u64> {
    const UNITS: [(&str, u64); 8] = [
        ("KIB", 1 << 10),
        ("MIB", 1 << 20),
        ("GIB", 1 << 30),
        ("TIB", 1 << 40),
        ("KB", 1_000),
        ("MB", 1_000_000),
        ("GB", 1_000_000_000),
        ("TB", 1_000_000_000_000),
    ];
    let upper = text.trim().to_ascii_uppercase();
    let unit = UNITS.iter().find_map(|&(unit, bytes)| Some((upper.strip_suffix(unit)?, bytes)));
    let (number, unit) = unit.unwrap_or((upper.strip_suffix('B').unwrap_or(&upper), 1));
    match number.trim().parse::<u64>().ok().and_then(|n| n.checked_mul(unit)) {
        Some(bytes) if bytes > 0 => Ok(bytes),
        _ => bail!("expected a size such as 5GB, 200MB or 2GiB"),
    }
}

#[cfg(test)]
mod tests {
    use super::size;

    #[test]
    fn sizes_are_read_as_people_write_them() {
        for (text, bytes) in
            [("5GB", 5_000_000_000), ("200mb", 200_000_000), ("2 GiB", 2 << 30), ("17", 17), ("17B", 17)]
        {
            assert_eq!(size(text).unwrap(), bytes, "{text}");
        }
        for text in ["", "GB", "0", "-1GB", "5XB", "99999999999TB"] {
            assert!(size(text).is_err(), "{text}");
        }
    }
}

//! `models`: the models of the suite.

use crate::hub::name::renamed;
use crate::memory::available;
use crate::output::{Out, note};
use crate::style::{Paint, Style, column};
use anyhow::{Result, bail};
use pythia_model::Precision;
use pythia_model::suite::{self, Memory, Published};
use serde::Serialize;

/// List the models of the suite, or show one
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: pythia-cli models 410m-deduped

A model is shown with the memory that it needs in each precision: its weights, and the keys and values of a full context \
of 2048 tokens. Batch and tokens are those of its whole training; a - is what is not on record for first versions (v0).")]
pub(crate) struct Args {
    /// The model to show [default: a table of all]
    #[arg(value_name = "NAME")]
    name: Option<String>,
    /// One JSON object a line on stdout, and nothing else there
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Line<'a> {
    name: &'a str,
    id: String,
    parameters: u64,
    non_embedding_parameters: u64,
    layers: usize,
    hidden: usize,
    heads: usize,
    head_dim: usize,
    vocabulary_rows: usize,
    data: &'static str,
    tokens: u64,
    batch_tokens: u64,
    learning_rate: Option<f64>,
    trained_in: Option<String>,
    checkpoints: usize,
    /// If one model is shown.
    #[serde(skip_serializing_if = "Option::is_none")]
    memory: Option<Vec<Need>>,
}

#[derive(Serialize)]
struct Need {
    precision: &'static str,
    weights_bytes: u64,
    cache_bytes: u64,
    /// Whether this machine has as much to give now; None where the system does not say.
    fits: Option<bool>,
}

impl<'a> Line<'a> {
    fn new(model: &'a Published) -> Self {
        let (config, parameters) = (model.size.config(), model.parameters());
        Self {
            name: &model.name,
            id: model.hub_id(),
            parameters: parameters.total,
            non_embedding_parameters: parameters.non_embedding,
            layers: config.num_hidden_layers,
            hidden: config.hidden_size,
            heads: config.num_attention_heads,
            head_dim: config.head_dim(),
            vocabulary_rows: config.vocab_size,
            data: model.data(),
            tokens: model.tokens(),
            batch_tokens: model.batch_tokens(),
            learning_rate: model.learning_rate(),
            trained_in: model.trained_in().map(|dtype| dtype.to_string()),
            checkpoints: model.checkpoints().count(),
            memory: None,
        }
    }
}

/// `models`.
pub(crate) fn run(args: &Args, out: &mut Out) -> Result<()> {
    let style = Style::of(out);
    match &args.name {
        Some(name) => {
            let model = named(name)?;
            let mut line = Line::new(model);
            let needs = needs(model, available());
            if args.json {
                line.memory = Some(needs);
                return out.json(&line);
            }
            out.text(&sheet(style, &line, &needs, available()))?;
            model.all_defects().try_for_each(|defect| {
                let text = format!("known defect: a checkpoint {defect}");
                out.text(&(style.paint(Paint::Bad, &text) + "\n"))
            })
        }
        None if args.json => suite::models().iter().try_for_each(|model| out.json(&Line::new(model))),
        None => out.text(&table(style)),
    }
}

/// The model of the suite with this name. An old one is told on stderr.
pub(crate) fn named(name: &str) -> Result<&'static Published> {
    let Some(model) = suite::find(name) else {
        bail!("`{}` is not a model of the suite: `pythia-cli models` lists them", name.escape_debug());
    };
    if let Some(notice) = renamed(name) {
        note(&notice);
    }
    Ok(model)
}

fn needs(model: &Published, available: Option<u64>) -> Vec<Need> {
    let need = |precision: Precision| {
        let Memory { weights, cache } = model.memory(precision);
        let fits = available.map(|available| weights + cache <= available);
        Need { precision: precision.name(), weights_bytes: weights, cache_bytes: cache, fits }
    };
    Precision::ALL.into_iter().map(need).collect()
}

const HEAD: [&str; 13] = [
    "model",
    "parameters",
    "no embeddings",
    "layers",
    "hidden",
    "heads",
    "head dim",
    "rows",
    "tokens",
    "batch",
    "rate",
    "type",
    "Hub id, data",
];
const WIDTHS: [usize; 13] = [30, 14, 14, 6, 6, 5, 8, 5, 7, 5, 7, 4, 0];

/// A line for each model; runs that differ only by their seed share one.
fn table(style: Style) -> String {
    let family = |model: &Published| model.name.trim_end_matches(|c: char| c.is_ascii_digit()).to_owned();
    let mut lines = vec![style.paint(Paint::Faint, &row(&HEAD.map(str::to_owned)))];
    for models in suite::models().chunk_by(|a, b| family(a) == family(b)) {
        let (Some(first), Some(last)) = (models.first(), models.last()) else { continue };
        let line = Line::new(first);
        let to = last.name.strip_prefix(&family(last)).unwrap_or_default();
        let more = if models.len() > 1 { format!("..{to}") } else { String::new() };
        lines.push(row(&[
            format!("{}{more}", line.name),
            thousands(line.parameters),
            thousands(line.non_embedding_parameters),
            line.layers.to_string(),
            line.hidden.to_string(),
            line.heads.to_string(),
            line.head_dim.to_string(),
            line.vocabulary_rows.to_string(),
            billions(line.tokens),
            format!("{}M", line.batch_tokens >> 20),
            rate(&line),
            or_unknown(line.trained_in.as_deref()),
            format!("{}{more}  {}", line.id, line.data),
        ]));
    }
    lines.concat()
}

fn row(cells: &[String; 13]) -> String {
    let cells = cells.iter().zip(WIDTHS).enumerate().map(|(i, (cell, width))| match i {
        0 | 12 => column(cell, width.max(cell.chars().count())),
        _ => format!("{cell:>width$}"),
    });
    cells.collect::<Vec<_>>().join("  ") + "\n"
}

/// One model: what it is, what it needs, whether that is there.
fn sheet(style: Style, line: &Line<'_>, needs: &[Need], available: Option<u64>) -> String {
    let facts = [
        ("Hub id", line.id.clone()),
        ("parameters", thousands(line.parameters)),
        ("without embeddings", thousands(line.non_embedding_parameters)),
        ("layers", line.layers.to_string()),
        ("hidden", line.hidden.to_string()),
        ("heads", format!("{} of {} dimensions", line.heads, line.head_dim)),
        ("vocabulary rows", line.vocabulary_rows.to_string()),
        ("trained on", line.data.to_owned()),
        ("tokens seen", format!("{}, {} a step", thousands(line.tokens), thousands(line.batch_tokens))),
        ("learning rate", rate(line)),
        ("trained in", or_unknown(line.trained_in.as_deref())),
        ("checkpoints", line.checkpoints.to_string()),
    ];
    let mut lines = vec![style.paint(Paint::Strong, line.name)];
    let fact = |(name, value)| format!("{}  {value}", style.paint(Paint::Faint, &column(name, 18)));
    lines.extend(facts.map(fact));
    lines.push(String::new());
    lines.push(style.paint(Paint::Faint, "precision   weights   context    memory  here"));
    for need in needs {
        let (weights, cache) = (need.weights_bytes, need.cache_bytes);
        let (paint, fits) = match need.fits {
            Some(true) => (Paint::Good, "yes"),
            Some(false) => (Paint::Bad, "no"),
            None => (Paint::Faint, "unknown"),
        };
        let [all, weights, cache] = [weights + cache, weights, cache].map(gigabytes);
        let precision = column(need.precision, 9);
        lines.push(format!("{precision} {weights:>9} {cache:>9} {all:>9}  {}", style.paint(paint, fits)));
    }
    let here = match available {
        Some(bytes) => format!("this machine has {} to give now", gigabytes(bytes)),
        None => "how much memory this machine has is unknown: there is no /proc/meminfo".to_owned(),
    };
    lines.extend([style.paint(Paint::Faint, &here), String::new()]);
    lines.join("\n")
}

fn rate(line: &Line<'_>) -> String {
    or_unknown(line.learning_rate.map(|rate| format!("{rate:e}")).as_deref())
}

fn or_unknown(value: Option<&str>) -> String {
    value.unwrap_or("-").to_owned()
}

fn billions(tokens: u64) -> String {
    format!("{:.1}B", tokens as f64 / 1e9)
}

fn gigabytes(bytes: u64) -> String {
    format!("{:.2} GB", bytes as f64 / 1e9)
}

/// `1,234,567`.
fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped_by_thousands() {
        assert_eq!([0, 999, 1000, 1_234_567].map(thousands), ["0", "999", "1,000", "1,234,567"]);
    }

    #[test]
    fn the_table_has_a_line_for_each_model_and_one_for_its_seeds() {
        let text = table(Style::plain(80));
        let line = |start: &str| {
            let found: Vec<_> = text.lines().filter(|line| line.starts_with(start)).collect();
            assert_eq!(found.len(), 1, "{start}: {text}");
            found[0].to_owned()
        };
        let of_410m = line("410m ");
        for cell in
            ["405,334,016", "302,311,424", " 24 ", " 1024 ", " 16 ", " 64 ", "299.9B", "2M", "3e-4", "f16"]
        {
            assert!(of_410m.contains(cell), "{of_410m}");
        }
        assert!(of_410m.ends_with("EleutherAI/pythia-410m  the Pile"), "{of_410m}");
        assert!(line("410m-seed1..9 ").contains("EleutherAI/pythia-410m-seed1..9"));
        assert!(line("1b ").contains("bf16") && line("160m-v0 ").contains(" 4M        -     -"));
        line("intervention-long-1.4b-deduped ");
    }

    #[test]
    fn a_model_is_shown_with_the_memory_it_needs() {
        let model = suite::find("410m").unwrap();
        let show =
            |available| sheet(Style::plain(80), &Line::new(model), &needs(model, available), available);
        let text = show(Some(1_000_000_000));
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines.contains(&"exact       0.81 GB   0.40 GB   1.21 GB  no"), "{text}");
        assert!(lines.iter().any(|line| line.starts_with("int4 ") && line.ends_with("yes")), "{text}");
        assert!(text.ends_with("this machine has 1.00 GB to give now\n"), "{text}");
        assert_eq!(show(None).matches("unknown").count(), 5);
    }
}

//! What was measured, as a table for people, JSON for programs, Markdown for documents.

use super::limit::{Bound, Peaks};
use super::measure::{Case, Measured, Speed};
use crate::output::{Out, percent};
use crate::style::{Paint, Style};
use anyhow::Result;
use pythia_model::{Model, Precision};
use pythia_tensor::Team;
use serde::Serialize;

/// How it is shown.
#[derive(Debug, Clone, Copy)]
pub(super) enum Format {
    Table(Style),
    Json,
    Markdown,
}

/// A report on its way out.
pub(super) struct Report<'o> {
    pub(super) format: Format,
    pub(super) out: &'o mut Out,
}

#[derive(Serialize)]
struct Line<'a> {
    /// Tokens per second: medians.
    prefill_tok_s: f64,
    decode_tok_s: f64,
    /// Measured: 10^9 operations per second in the precision's arithmetic, a multiply-add being two.
    peak_gflops: f64,
    /// Measured: 10^9 bytes per second.
    read_gb_s: f64,
    /// The part of the limit that is reached.
    prefill_fraction: f64,
    decode_fraction: f64,
    /// Half of what lies between the slowest and the fastest, as a part of the median.
    prefill_spread: f64,
    decode_spread: f64,
    model: &'a str,
    precision: &'a str,
    prompt_tokens: usize,
    new_tokens: usize,
    batch_size: usize,
}

impl Report<'_> {
    /// What everything is measured on.
    pub(super) fn machine(&mut self, team: &Team) -> Result<()> {
        let threads = format!("{} threads, {}", team.threads(), team.isa());
        match self.format {
            Format::Json => Ok(()),
            Format::Table(style) => self.out.text(&(style.paint(Paint::Faint, &threads) + "\n")),
            Format::Markdown => self.out.text(&format!(
                "{threads}\n\n| model | precision | work | tokens/s | ± | of the limit |\n|---|---|---|---:|---:|---|\n"
            )),
        }
    }

    /// The next model.
    pub(super) fn model(&mut self, name: &str, model: &Model) -> Result<()> {
        let Format::Table(style) = self.format else { return Ok(()) };
        let (parameters, dtype) = (model.config().parameters().total, model.weights().embed_in.dtype());
        let precision = model.precision();
        let title = format!("{name}: {:.1} M parameters, {dtype}, {precision}", parameters as f64 / 1e6);
        self.out.text(&format!("\n{}\n", style.paint(Paint::Strong, &title)))
    }

    /// What came out for it.
    pub(super) fn measured(
        &mut self,
        (model, precision): (&str, Precision),
        case: Case,
        measured: &Measured,
    ) -> Result<()> {
        let Measured { peaks, prefill, decode } = measured;
        let Case { batch_size, prompt_tokens, new_tokens, .. } = case;
        let works = [("prefill", prompt_tokens, prefill), ("decode", new_tokens, decode)];
        match self.format {
            Format::Json => self.out.json(&Line {
                prefill_tok_s: prefill.tok_s,
                decode_tok_s: decode.tok_s,
                peak_gflops: peaks.gflops,
                read_gb_s: peaks.read_gb_s,
                prefill_fraction: prefill.fraction,
                decode_fraction: decode.fraction,
                prefill_spread: prefill.spread,
                decode_spread: decode.spread,
                model,
                precision: precision.name(),
                prompt_tokens,
                new_tokens,
                batch_size,
            }),
            Format::Table(style) => works.into_iter().try_for_each(|(name, tokens, speed)| {
                let fraction = style.paint(Paint::Good, &format!("{:>7}", percent(speed.fraction)));
                let (tok_s, spread, limit) = (speed.tok_s, percent(speed.spread), limit(speed, *peaks, precision));
                self.out.text(&format!(
                    "{name:<7} {batch_size:>3} x {tokens:>4} tokens {tok_s:>9.1} tok/s ± {spread:<6} {fraction} of {limit}\n"
                ))
            }),
            Format::Markdown => works.into_iter().try_for_each(|(name, tokens, speed)| {
                let Speed { tok_s, spread, fraction, .. } = *speed;
                let (spread, fraction, limit) = (percent(spread), percent(fraction), limit(speed, *peaks, precision));
                self.out.text(&format!(
                    "| {model} | {precision} | {name} {batch_size} x {tokens} | {tok_s:.1} | {spread} | {fraction} of {limit} |\n"
                ))
            }),
        }
    }
}

fn limit(speed: &Speed, peaks: Peaks, precision: Precision) -> String {
    match speed.bound {
        Bound::Arithmetic => {
            let unit = if precision.bits().is_some() { "Gop/s" } else { "GFLOP/s" };
            format!("{:.0} {unit}", peaks.gflops)
        }
        Bound::Reading => format!("{:.1} GB/s", peaks.read_gb_s),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arithmetic_has_the_unit_of_its_precision() {
        let speed = Speed { tok_s: 1.0, spread: 0.0, fraction: 0.5, bound: Bound::Arithmetic };
        let peaks = Peaks { gflops: 190.4, read_gb_s: 24.06 };
        let shown = |precision| limit(&speed, peaks, precision);
        assert_eq!([Precision::Exact, Precision::Bf16].map(shown), ["190 GFLOP/s"; 2]);
        assert_eq!([Precision::Int8, Precision::Int4].map(shown), ["190 Gop/s"; 2]);
        let reading = Speed { bound: Bound::Reading, ..speed };
        assert_eq!(limit(&reading, peaks, Precision::Int8), "24.1 GB/s");
    }
}

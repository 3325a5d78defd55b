//! What `diff` tells of two models, as JSON and as tables.

use super::{Comparison, Side};
use crate::output::{Out, percent};
use crate::style::{Paint, Style, column, visible};
use anyhow::Result;
use pythia_model::Tokenizer;
use pythia_model::diff::{Predictions, TensorDifference, Uneven, WeightsDifference, most_changed};
use pythia_tensor::Difference;
use serde::Serialize;

/// Two models beside each other, and what is needed to speak of them.
pub(super) struct Pair<'a> {
    pub(super) sides: &'a [Side; 2],
    pub(super) compared: &'a Comparison,
    pub(super) ids: Option<&'a [u32]>,
    pub(super) tokenizer: Option<&'a Tokenizer>,
}

/// Two models in JSON.
#[derive(Serialize)]
pub(super) struct Report<'a> {
    a: &'a str,
    b: &'a str,
    /// None if only predictions are compared.
    weights: Option<WeightsReport<'a>>,
    /// None if only weights are compared.
    predictions: Option<PredictionsReport<'a>>,
}

/// How far apart some weights are. What is not a number, or infinite, is null.
#[derive(Serialize)]
pub(super) struct Apart {
    relative: f64,
    /// None where one of the two is zero.
    cosine: Option<f64>,
    norm_a: f64,
    norm_b: f64,
    largest_change: f32,
}

impl Apart {
    pub(super) fn new(difference: &Difference) -> Self {
        let [norm_a, norm_b] = difference.norms();
        let (relative, cosine) = (difference.relative(), difference.cosine());
        Self { relative, cosine, norm_a, norm_b, largest_change: difference.largest }
    }
}

#[derive(Serialize)]
struct WeightsReport<'a> {
    #[serde(flatten)]
    groups: Groups<'a>,
    tensors: Vec<TensorReport<'a>>,
    /// The rows of embedding and unembedding that changed most.
    tokens: Vec<TokensReport<'a>>,
    /// What the two do not have alike.
    uneven: Vec<UnevenReport<'a>>,
}

/// Weights as a whole, by layer and by kind.
#[derive(Serialize)]
pub(super) struct Groups<'a> {
    all: Apart,
    layers: Vec<LayerReport>,
    kinds: Vec<KindReport<'a>>,
}

impl<'a> Groups<'a> {
    pub(super) fn new(weights: &'a WeightsDifference) -> Self {
        let layer =
            |(layer, difference): (usize, Difference)| LayerReport { layer, apart: Apart::new(&difference) };
        let kind =
            |(kind, difference): (&'a str, Difference)| KindReport { kind, apart: Apart::new(&difference) };
        Self {
            all: Apart::new(&weights.all()),
            layers: weights.layers().into_iter().map(layer).collect(),
            kinds: weights.kinds().into_iter().map(kind).collect(),
        }
    }
}

#[derive(Serialize)]
struct LayerReport {
    layer: usize,
    #[serde(flatten)]
    apart: Apart,
}

#[derive(Serialize)]
struct KindReport<'a> {
    kind: &'a str,
    #[serde(flatten)]
    apart: Apart,
}

#[derive(Serialize)]
struct TensorReport<'a> {
    name: &'a str,
    layer: Option<usize>,
    shape: &'a [usize],
    #[serde(flatten)]
    apart: Apart,
    /// None if nothing changed.
    largest: Option<LargestReport>,
}

#[derive(Serialize)]
struct LargestReport {
    row: usize,
    column: usize,
    a: f32,
    b: f32,
}

#[derive(Serialize)]
struct TokensReport<'a> {
    tensor: &'a str,
    rows: Vec<TokenReport>,
}

#[derive(Serialize)]
struct TokenReport {
    id: usize,
    /// None if no token has this id, or there is no tokenizer.
    token: Option<String>,
    #[serde(flatten)]
    apart: Apart,
}

#[derive(Serialize)]
struct UnevenReport<'a> {
    name: &'a str,
    shape_a: Option<&'a [usize]>,
    shape_b: Option<&'a [usize]>,
    compared_rows: usize,
}

/// What two models predict, in JSON.
#[derive(Serialize)]
pub(super) struct PredictionsReport<'a> {
    /// After how many tokens the next one was predicted.
    tokens: usize,
    vocabulary: usize,
    kl_mean: f64,
    kl_largest: f32,
    /// The number of the token, from 0, after which it is.
    kl_largest_after: usize,
    /// The part of the tokens after which both find the same one most probable.
    agreement: f64,
    /// Of the text.
    logprob_a: f64,
    logprob_b: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    ids: Option<&'a [u32]>,
    /// After each token.
    #[serde(skip_serializing_if = "Option::is_none")]
    kl: Option<&'a [f32]>,
}

impl<'a> PredictionsReport<'a> {
    /// Without what there is for each token.
    pub(super) fn new(predictions: &Predictions) -> Self {
        let (kl_largest_after, kl_largest) = predictions.largest();
        let [logprob_a, logprob_b] = predictions.log_probs;
        Self {
            tokens: predictions.divergences.len(),
            vocabulary: predictions.vocabulary,
            kl_mean: predictions.mean(),
            kl_largest,
            kl_largest_after,
            agreement: predictions.agreement(),
            logprob_a,
            logprob_b,
            ids: None,
            kl: None,
        }
    }

    fn whole(predictions: &'a Predictions, ids: Option<&'a [u32]>) -> Self {
        Self { ids, kl: Some(&predictions.divergences), ..Self::new(predictions) }
    }
}

impl<'a> TensorReport<'a> {
    fn new(tensor: &'a TensorDifference) -> Self {
        let largest = tensor.largest.map(|largest| {
            let [a, b] = largest.values;
            LargestReport { row: largest.row, column: largest.column, a, b }
        });
        let TensorDifference { name, layer, shape, difference, .. } = tensor;
        Self { name, layer: *layer, shape, apart: Apart::new(difference), largest }
    }
}

impl<'a> Pair<'a> {
    pub(super) fn json(&self, top: usize) -> Report<'a> {
        let uneven = |uneven: &'a Uneven| UnevenReport {
            name: &uneven.name,
            shape_a: uneven.shapes[0].as_deref(),
            shape_b: uneven.shapes[1].as_deref(),
            compared_rows: uneven.compared_rows,
        };
        let weights = |weights: &'a WeightsDifference| WeightsReport {
            groups: Groups::new(weights),
            tensors: weights.tensors.iter().map(TensorReport::new).collect(),
            tokens: self.tokens(weights, top),
            uneven: weights.uneven.iter().map(uneven).collect(),
        };
        let [a, b] = self.sides;
        let predictions = |predictions| PredictionsReport::whole(predictions, self.ids);
        Report {
            a: &a.name,
            b: &b.name,
            weights: self.compared.weights.as_ref().map(weights),
            predictions: self.compared.predictions.as_ref().map(predictions),
        }
    }

    fn tokens(&self, weights: &'a WeightsDifference, top: usize) -> Vec<TokensReport<'a>> {
        let row = |rows: &[Difference], id: usize| {
            let token = self.tokenizer.and_then(|t| t.token(u32::try_from(id).ok()?));
            Some(TokenReport { id, token, apart: Apart::new(rows.get(id)?) })
        };
        let table = |(tensor, rows): &'a (String, Vec<Difference>)| {
            let order = most_changed(rows.iter(), top).into_iter();
            TokensReport { tensor, rows: order.filter_map(|id| row(rows, id)).collect() }
        };
        weights.tokens.iter().map(table).collect()
    }

    /// Tables for people.
    pub(super) fn table(&self, top: usize, out: &mut Out) -> Result<()> {
        let style = Style::of(out);
        let [a, b] = self.sides;
        let mut lines = vec![format!("A  {}", a.name), format!("B  {}", b.name)];
        if let Some(weights) = &self.compared.weights {
            lines.extend(self.weights_table(style, weights, top));
        }
        if let Some(predictions) = &self.compared.predictions {
            lines.extend(self.predictions_table(style, predictions));
        }
        out.text(&(lines.join("\n") + "\n"))
    }

    fn weights_table(&self, style: Style, weights: &'a WeightsDifference, top: usize) -> Vec<String> {
        let groups = Groups::new(weights);
        let mut lines = vec![head(style, "weights"), style.paint(Paint::Strong, &row("all", &groups.all))];
        lines.extend(groups.layers.iter().map(|group| row(&format!("layer {}", group.layer), &group.apart)));
        lines.push(head(style, "kind, over all layers"));
        lines.extend(groups.kinds.iter().map(|group| row(group.kind, &group.apart)));
        lines.push(head(style, "tensors that changed most"));
        for tensor in weights.most_changed(top).into_iter().filter(|tensor| tensor.largest.is_some()) {
            let TensorReport { name, apart, largest, .. } = TensorReport::new(tensor);
            lines.push(row(name, &apart));
            lines.extend(largest.map(|l| {
                let text = format!("  most {} to {} at row {}, column {}", l.a, l.b, l.row, l.column);
                style.paint(Paint::Faint, &text)
            }));
        }
        for TokensReport { tensor, rows } in self.tokens(weights, top) {
            lines.push(head(style, &format!("rows of {} that changed most", short(tensor))));
            let name = |row: &TokenReport| {
                format!("{:>6}  {}", row.id, row.token.as_deref().map_or("-".into(), visible))
            };
            lines.extend(rows.iter().map(|token| row(&name(token), &token.apart)));
        }
        if !weights.uneven.is_empty() {
            lines.extend([String::new(), style.paint(Paint::Faint, "not alike in both")]);
        }
        lines.extend(weights.uneven.iter().map(|uneven| style.paint(Paint::Fair, &told(uneven))));
        lines
    }

    fn predictions_table(&self, style: Style, predictions: &Predictions) -> Vec<String> {
        let report = PredictionsReport::new(predictions);
        let after = self.ids.and_then(|ids| ids.get(report.kl_largest_after).copied());
        let token = after
            .map(|id| self.tokenizer.and_then(|t| t.token(id)).map_or(format!("#{id}"), |t| visible(&t)));
        let fact = |name, value: String| format!("{}  {value}", column(name, 36));
        let title = format!("next-token distributions, after {} tokens of the text", report.tokens);
        let mean = style.paint(Paint::Strong, &number(report.kl_mean));
        let place = token
            .map_or_else(String::new, |token| format!(" after token {}, {token}", report.kl_largest_after));
        vec![
            String::new(),
            style.paint(Paint::Faint, &title),
            fact("KL(A‖B), mean", format!("{mean} nats")),
            fact("KL(A‖B), largest", format!("{} nats{place}", number(f64::from(report.kl_largest)))),
            fact("same most probable token", percent(report.agreement)),
            fact("log-probability of the text by A", format!("{:.3}", report.logprob_a)),
            fact("                               by B", format!("{:.3}", report.logprob_b)),
        ]
    }
}

/// What is not alike, in words.
fn told(Uneven { name, shapes, compared_rows }: &Uneven) -> String {
    match shapes {
        [Some(a), Some(b)] if *compared_rows > 0 => {
            format!("{name}: {a:?} in A, {b:?} in B; the first {compared_rows} rows were compared")
        }
        [Some(a), Some(b)] => format!("{name}: {a:?} in A, {b:?} in B"),
        [a, _] => format!("{name}: only in {}", if a.is_some() { "A" } else { "B" }),
    }
}

/// The width of the column of names: the longest of a tensor is `layers.10.attention.query_key_value.weight`.
const NAME: usize = 42;

fn head(style: Style, title: &str) -> String {
    let columns = format!(
        "{}  {:>9} {:>9} {:>9} {:>9} {:>9}",
        column(title, NAME),
        "relative",
        "cosine",
        "‖A‖",
        "‖B‖",
        "change"
    );
    format!("\n{}", style.paint(Paint::Faint, &columns))
}

fn row(name: &str, apart: &Apart) -> String {
    let cosine = apart.cosine.map_or_else(|| "-".to_owned(), |cosine| format!("{cosine:.6}"));
    let [relative, a, b] = [apart.relative, apart.norm_a, apart.norm_b].map(number);
    let change = number(f64::from(apart.largest_change));
    format!("{}  {relative:>9} {cosine:>9} {a:>9} {b:>9} {change:>9}", column(short(name), NAME))
}

/// A tensor's name without what all have.
fn short(name: &str) -> &str {
    name.strip_prefix("gpt_neox.").unwrap_or(name)
}

/// A number in at most nine columns, with four digits or more.
pub(super) fn number(x: f64) -> String {
    match x.abs() {
        0.0 => "0".to_owned(),
        f64::INFINITY => "∞".to_owned(),
        1e-3..1.0 => format!("{x:.5}"),
        1.0..1e4 => format!("{x:.3}"),
        _ => format!("{x:.3e}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_fit_their_columns() {
        let shown =
            [0.0, 1.5e-7, 0.012_345_6, 1.0, 9999.0, 123_456.0, f64::INFINITY, f64::NAN, -0.5].map(number);
        assert_eq!(
            shown,
            ["0", "1.500e-7", "0.01235", "1.000", "9999.000", "1.235e5", "∞", "NaN", "-0.50000"]
        );
        assert!(shown.iter().all(|text| text.chars().count() <= 9));
    }

    #[test]
    fn what_is_zero_in_one_has_no_direction() {
        let zero =
            Difference { squares: [0.0, 4.0], distance_squared: 4.0, largest: 2.0, ..Difference::default() };
        let line = row("x", &Apart::new(&zero));
        assert_eq!(line.split_whitespace().collect::<Vec<_>>(), ["x", "∞", "-", "0", "2.000", "2.000"]);
        let json = serde_json::to_string(&Apart::new(&zero)).unwrap();
        assert_eq!(json, r#"{"relative":null,"cosine":null,"norm_a":0.0,"norm_b":2.0,"largest_change":2.0}"#);
    }

    #[test]
    fn what_is_not_alike_is_said_in_words() {
        let told = |shapes: [Option<&[usize]>; 2], compared_rows| {
            let shapes = shapes.map(|shape| shape.map(<[usize]>::to_vec));
            told(&Uneven { name: "w".into(), shapes, compared_rows })
        };
        assert_eq!(told([Some(&[2]), None], 0), "w: only in A");
        assert_eq!(told([None, Some(&[2])], 0), "w: only in B");
        assert_eq!(
            told([Some(&[2, 3]), Some(&[4, 3])], 2),
            "w: [2, 3] in A, [4, 3] in B; the first 2 rows were compared"
        );
        assert_eq!(told([Some(&[2]), Some(&[4])], 0), "w: [2] in A, [4] in B");
    }
}

//! Values as colours.

use super::{RIGHT, Steps, WIDTH, escaped, name_at, put, value};
use std::fmt::Write as _;

/// Rows of cells, each of what happened between two steps that follow each other.
#[derive(Debug)]
pub(crate) struct Heat {
    pub(crate) title: String,
    /// Rising.
    pub(crate) steps: Vec<u64>,
    /// Names, and a value for each step but the first.
    pub(crate) rows: Vec<(String, Vec<f64>)>,
}

/// From the least to the largest value: light to dark, so that print and any eye can read it.
const COLOURS: [[f64; 3]; 3] = [[236.0, 242.0, 248.0], [84.0, 152.0, 204.0], [8.0, 40.0, 96.0]];

impl Heat {
    /// Rows are as high as a name, unless there are very many.
    pub(super) fn height(&self) -> f64 {
        (15.0 * self.rows.len() as f64).clamp(60.0, 330.0)
    }

    pub(super) fn draw(&self, svg: &mut String, steps: &Steps, top: f64) {
        let range = self.range();
        let row = self.height() / self.rows.len().max(1) as f64;
        put(svg, "<g shape-rendering=\"crispEdges\">");
        // One name in so many rows has room.
        let every = (13.0 / row).ceil() as usize;
        for (r, (name, values)) in self.rows.iter().enumerate() {
            let y = top + r as f64 * row;
            if r.is_multiple_of(every.max(1)) {
                put(svg, &name_at(y + row / 2.0, name));
            }
            for (pair, &v) in self.steps.windows(2).zip(values) {
                let &[from, to] = pair else { continue };
                // Rounded before the width is taken, so that neighbours share an edge.
                let [x, end] = [from, to].map(|step| (10.0 * steps.place(step)).round() / 10.0);
                let told = escaped(&format!("{name}, step {from} to step {to}: {}", value(v)));
                let (width, fill) = (end - x, colour(v, range));
                let place = format!("x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{row:.2}\"");
                if v.is_finite() {
                    put(
                        svg,
                        &format!("<rect class=\"cell\" {place} fill=\"{fill}\"><title>{told}</title></rect>"),
                    );
                }
            }
        }
        put(svg, "</g>");
        put(svg, &legend(range, top - 20.0));
    }

    /// The least and the largest of the values above 0.
    fn range(&self) -> [f64; 2] {
        let usable = self.rows.iter().flat_map(|row| &row.1).filter(|v| v.is_finite() && **v > 0.0);
        let (low, high) = usable.fold((f64::INFINITY, 0.0_f64), |(low, high), &v| (low.min(v), high.max(v)));
        if high > 0.0 { [low, high.max(low * 1.01)] } else { [0.1, 1.0] }
    }
}

/// The colour of a value between two others, by its logarithm; of 0, white.
fn colour(v: f64, [low, high]: [f64; 2]) -> String {
    if v <= 0.0 {
        return "#fff".to_owned();
    }
    let part = ((v.ln() - low.ln()) / (high.ln() - low.ln())).clamp(0.0, 1.0);
    let [light, middle, dark] = COLOURS;
    let (a, b, part) =
        if part < 0.5 { (light, middle, 2.0 * part) } else { (middle, dark, 2.0 * part - 1.0) };
    let mut code = String::from("#");
    for (a, b) in a.into_iter().zip(b) {
        let _ = write!(code, "{:02x}", (a + part * (b - a)).round() as u8);
    }
    code
}

/// The colours in a row that ends at the right edge, with the least and the largest value beside them.
fn legend([low, high]: [f64; 2], y: f64) -> String {
    const BOXES: usize = 24;
    let (width, end) = (6.0, WIDTH - RIGHT - 58.0);
    let start = end - width * BOXES as f64;
    let mut legend = String::from("<g class=\"legend\">");
    for i in 0..BOXES {
        let part = i as f64 / (BOXES - 1) as f64;
        let v = (low.ln() + part * (high.ln() - low.ln())).exp().clamp(low, high);
        let (x, fill) = (start + i as f64 * width, colour(v, [low, high]));
        let _ = write!(legend, "<rect x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"10\" fill=\"{fill}\"/>");
    }
    let (before, after, baseline) = (start - 7.0, end + 7.0, y + 9.0);
    let (low, high) = (value(low), value(high));
    let _ = write!(
        legend,
        "<text x=\"{before}\" y=\"{baseline}\" text-anchor=\"end\">{low}</text>\
         <text x=\"{after}\" y=\"{baseline}\">{high}</text></g>"
    );
    legend
}

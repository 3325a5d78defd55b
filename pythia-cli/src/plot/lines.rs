//! Values as lines.

use super::{Axis, LEFT, RIGHT, Steps, WIDTH, escaped, line, name_at, put, value};
use std::fmt::Write as _;

/// Lines on one logarithmic axis. A value of 0, which that lacks, is a hollow point at its foot.
#[derive(Debug)]
pub(crate) struct Lines {
    pub(crate) title: String,
    pub(crate) series: Vec<Series>,
}

/// One line. Values that are not numbers have no point.
#[derive(Debug)]
pub(crate) struct Series {
    pub(crate) name: String,
    /// Steps, rising, and values.
    pub(crate) points: Vec<(u64, f64)>,
}

/// Lines' colours, which also those who see no red or no green tell apart (Okabe and Ito 2008), and dashes, for print.
const LOOKS: [(&str, &str); 3] = [("#0072b2", "none"), ("#d55e00", "7 3"), ("#007a5a", "2 3")];

impl Lines {
    pub(super) const HEIGHT: f64 = 230.0;

    pub(super) fn steps(&self) -> impl Iterator<Item = u64> {
        self.series.iter().flat_map(|series| series.points.iter().map(|point| point.0))
    }

    pub(super) fn draw(&self, svg: &mut String, steps: &Steps, top: f64) {
        let (foot, right) = (top + Self::HEIGHT, WIDTH - RIGHT);
        let values = self.axis(top);
        for tick in values.ticks() {
            let y = values.place(tick);
            put(svg, &line([LEFT, y, right, y], "#e3e3e3"));
            put(svg, &name_at(y, &value(tick)));
        }
        for (x, _) in steps.ticks() {
            put(svg, &line([x, top, x, foot], "#eee"));
        }
        for (series, look) in self.series.iter().zip(LOOKS.into_iter().cycle()) {
            put(svg, &series.draw(look, steps, &values, foot));
        }
        put(svg, &self.legend(right, top - 15.0));
    }

    /// The axis of values, with a little room at either end. What is not above 0 has no place on it.
    fn axis(&self, top: f64) -> Axis {
        let values = self.series.iter().flat_map(|series| series.points.iter().map(|point| point.1));
        let usable = values.filter(|value| value.is_finite() && *value > 0.0);
        let (low, high) = usable.fold((f64::INFINITY, 0.0_f64), |(low, high), v| (low.min(v), high.max(v)));
        let (low, high) = if high > 0.0 { (low, high) } else { (0.1, 1.0) };
        // At least a factor of four, so that what hardly changes looks so.
        let room = (2.0 / (high / low).sqrt()).max(1.15);
        Axis { low: low / room, high: high * room, from: top + Self::HEIGHT, to: top }
    }

    /// Names beside their lines' looks, in a row that ends at `right`.
    fn legend(&self, right: f64, y: f64) -> String {
        let width = |series: &Series| 38.0 + 7.0 * series.name.chars().count() as f64;
        let mut x = right - self.series.iter().map(width).sum::<f64>() + 8.0;
        let mut legend = String::from("<g class=\"legend\">");
        for (series, (colour, dash)) in self.series.iter().zip(LOOKS.into_iter().cycle()) {
            let (to, text, baseline) = (x + 22.0, x + 28.0, y + 4.0);
            let name = escaped(&series.name);
            let _ = write!(
                legend,
                "<line x1=\"{x:.1}\" y1=\"{y}\" x2=\"{to:.1}\" y2=\"{y}\" stroke=\"{colour}\" stroke-width=\"2\" stroke-dasharray=\"{dash}\"/>\
                 <text x=\"{text:.1}\" y=\"{baseline}\">{name}</text>"
            );
            x += width(series);
        }
        legend + "</g>"
    }
}

impl Series {
    /// The line through all points above 0, and a point for each number.
    fn draw(&self, (colour, dash): (&str, &str), steps: &Steps, values: &Axis, foot: f64) -> String {
        let (mut path, mut points, mut pen) = (String::new(), String::new(), "M");
        for &(step, v) in self.points.iter().filter(|point| point.1.is_finite()) {
            let x = steps.place(step);
            let (y, fill) = if v > 0.0 { (values.place(v), colour) } else { (foot, "#fff") };
            if v > 0.0 {
                let _ = write!(path, "{pen}{x:.1} {y:.1}");
                pen = "L";
            }
            let told = escaped(&format!("{}, step {step}: {}", self.name, value(v)));
            let _ = writeln!(
                points,
                "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"2.7\" fill=\"{fill}\" stroke=\"{colour}\"><title>{told}</title></circle>"
            );
        }
        format!(
            "<g class=\"series\"><path d=\"{path}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.8\" \
             stroke-linejoin=\"round\" stroke-dasharray=\"{dash}\"/>\n{points}</g>"
        )
    }
}

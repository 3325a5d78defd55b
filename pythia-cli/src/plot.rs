//! Lines over the steps of a training, as SVG.

use std::fmt::Write as _;

/// Panels one above the other that share an axis of steps.
#[derive(Debug)]
pub(crate) struct Plot {
    pub(crate) title: String,
    pub(crate) panels: Vec<Panel>,
}

/// What one axis of values measures.
#[derive(Debug)]
pub(crate) struct Panel {
    pub(crate) title: String,
    pub(crate) series: Vec<Series>,
}

/// One line. Values that are not numbers leave a gap.
#[derive(Debug)]
pub(crate) struct Series {
    pub(crate) name: String,
    /// Steps, rising, and values.
    pub(crate) points: Vec<(u64, f64)>,
}

const WIDTH: f64 = 900.0;
/// Of a panel's axes, and of what lies above each for its title and legend.
const HEIGHT: f64 = 230.0;
const ABOVE: f64 = 52.0;
const LEFT: f64 = 74.0;
const RIGHT: f64 = 28.0;
/// Above the first panel and below the last.
const TOP: f64 = 34.0;
const BOTTOM: f64 = 58.0;

/// Lines' colours, which also those who see no red or no green tell apart (Okabe and Ito 2008), and dashes, for print.
const LOOKS: [(&str, &str); 3] = [("#0072b2", "none"), ("#d55e00", "7 3"), ("#007a5a", "2 3")];

/// A logarithmic axis from `low` to `high`, both above 0.
#[derive(Debug, Clone, Copy)]
struct Axis {
    low: f64,
    high: f64,
    /// Where they are drawn.
    from: f64,
    to: f64,
}

impl Axis {
    fn place(&self, value: f64) -> f64 {
        let part = (value.ln() - self.low.ln()) / (self.high.ln() - self.low.ln());
        self.from + part * (self.to - self.from)
    }

    /// The powers of ten on it; where they are few, 2 and 5 times them, too; where they are many, not all.
    fn ticks(&self) -> Vec<f64> {
        let (first, last) = (self.low.log10().floor() as i32, self.high.log10().ceil() as i32);
        let decades = self.high.log10() - self.low.log10();
        let (every, parts): (_, &[f64]) = match decades {
            ..2.5 => (1, &[1.0, 2.0, 5.0]),
            ..7.0 => (1, &[1.0]),
            _ => ((decades / 5.0).ceil() as usize, &[1.0]),
        };
        let powers = (first..=last).step_by(every).map(|power| 10_f64.powi(power));
        let ticks = powers.flat_map(|power| parts.iter().map(move |part| part * power));
        let slack = 1e-9;
        ticks.filter(|tick| (self.low * (1.0 - slack)..=self.high * (1.0 + slack)).contains(tick)).collect()
    }
}

/// The steps' axis: logarithmic, with a place of its own for step 0.
#[derive(Debug)]
struct Steps {
    axis: Axis,
    zero: Option<f64>,
}

impl Steps {
    fn of(panels: &[Panel]) -> Self {
        let steps =
            || panels.iter().flat_map(|panel| &panel.series).flat_map(|s| s.points.iter().map(|p| p.0));
        let low = steps().filter(|&step| step > 0).min().unwrap_or(1) as f64;
        let high = (steps().max().unwrap_or(1) as f64).max(2.0 * low);
        let zero = steps().any(|step| step == 0).then_some(LEFT + 14.0);
        let from = zero.map_or(LEFT + 14.0, |zero| zero + 56.0);
        Self { axis: Axis { low, high, from, to: WIDTH - RIGHT - 14.0 }, zero }
    }

    fn place(&self, step: u64) -> f64 {
        match self.zero {
            Some(zero) if step == 0 => zero,
            _ => self.axis.place(step as f64),
        }
    }
}

impl Plot {
    /// The plot as an SVG document. A value of 0, which a logarithmic axis lacks, is a hollow point at its foot.
    pub(crate) fn svg(&self) -> String {
        let height = TOP + self.panels.len() as f64 * (ABOVE + HEIGHT) + BOTTOM;
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" viewBox=\"0 0 {WIDTH} {height}\" \
             font-family=\"system-ui, 'DejaVu Sans', Helvetica, Arial, sans-serif\" font-size=\"12\" fill=\"#222\">\n\
             <title>{title}</title>\n<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n\
             <text x=\"{LEFT}\" y=\"30\" font-size=\"17\" font-weight=\"600\">{title}</text>\n",
            title = escaped(&self.title)
        );
        let steps = Steps::of(&self.panels);
        for (i, panel) in self.panels.iter().enumerate() {
            let top = TOP + i as f64 * (ABOVE + HEIGHT) + ABOVE;
            panel.draw(&mut svg, &steps, top, i + 1 == self.panels.len());
        }
        svg.push_str("</svg>\n");
        svg
    }
}

impl Panel {
    fn draw(&self, svg: &mut String, steps: &Steps, top: f64, last: bool) {
        let (foot, right) = (top + HEIGHT, WIDTH - RIGHT);
        let values = self.axis(top);
        let mut put = |element: String| {
            svg.push_str(&element);
            svg.push('\n');
        };
        put(format!(
            "<text x=\"{LEFT}\" y=\"{}\" font-weight=\"600\">{}</text>",
            top - 11.0,
            escaped(&self.title)
        ));
        for tick in values.ticks() {
            let y = values.place(tick);
            put(line([LEFT, y, right, y], "#e3e3e3"));
            let (x, y) = (LEFT - 8.0, y + 4.0);
            put(format!(
                "<text x=\"{x}\" y=\"{y:.1}\" text-anchor=\"end\" fill=\"#555\">{}</text>",
                value(tick)
            ));
        }
        let zero = steps.zero.map(|x| (x, "0".to_owned()));
        let ticks = steps.axis.ticks().into_iter().map(|tick| (steps.axis.place(tick), count(tick)));
        for (x, name) in zero.into_iter().chain(ticks) {
            put(line([x, top, x, foot], "#eee"));
            if last {
                let y = foot + 19.0;
                put(format!(
                    "<text x=\"{x:.1}\" y=\"{y}\" text-anchor=\"middle\" fill=\"#555\">{name}</text>"
                ));
            }
        }
        put(line([LEFT, foot, right, foot], "#777"));
        put(line([LEFT, top, LEFT, foot], "#777"));
        if last {
            let (x, y) = (f64::midpoint(LEFT, right), foot + 42.0);
            put(format!(
                "<text x=\"{x}\" y=\"{y}\" text-anchor=\"middle\">training step (logarithmic)</text>"
            ));
        }
        for (series, look) in self.series.iter().zip(LOOKS.into_iter().cycle()) {
            put(series.draw(look, steps, &values, foot));
        }
        put(self.legend(right, top - 15.0));
    }

    /// The axis of values, with a little room at either end. What is not above 0 has no place on it.
    fn axis(&self, top: f64) -> Axis {
        let values = self.series.iter().flat_map(|series| series.points.iter().map(|point| point.1));
        let usable = values.filter(|value| value.is_finite() && *value > 0.0);
        let (low, high) = usable.fold((f64::INFINITY, 0.0_f64), |(low, high), v| (low.min(v), high.max(v)));
        let (low, high) = if high > 0.0 { (low, high) } else { (0.1, 1.0) };
        // At least a factor of four, so that what hardly changes looks so.
        let room = (2.0 / (high / low).sqrt()).max(1.15);
        Axis { low: low / room, high: high * room, from: top + HEIGHT, to: top }
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
            let _ = write!(path, "{pen}{x:.1} {y:.1}");
            pen = "L";
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

fn line([x1, y1, x2, y2]: [f64; 4], colour: &str) -> String {
    format!("<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" stroke=\"{colour}\"/>")
}

/// A value for an axis: three digits, powers of ten where it would be long.
fn value(v: f64) -> String {
    if v != 0.0 && !(1e-3..1e5).contains(&v.abs()) {
        let text = format!("{v:.1e}");
        return text.replace(".0e", "e");
    }
    let decimals = if v == 0.0 { 0 } else { (2 - v.abs().log10().floor() as i32).max(0) as usize };
    let text = format!("{v:.decimals$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

/// Steps, short: `143k`.
fn count(steps: f64) -> String {
    if steps >= 1e6 {
        format!("{}M", steps / 1e6)
    } else if steps >= 1e3 {
        format!("{}k", steps / 1e3)
    } else {
        steps.to_string()
    }
}

/// Text as XML has it: nothing in it is markup, and characters that XML forbids are replaced.
fn escaped(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\t' => out.push(' '),
            c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn axis(low: f64, high: f64) -> Axis {
        Axis { low, high, from: 0.0, to: 1.0 }
    }

    #[test]
    fn ticks_are_round_and_neither_few_nor_many() {
        assert_eq!(axis(0.15, 3.0).ticks(), [0.2, 0.5, 1.0, 2.0]);
        assert_eq!(axis(1.0, 143_000.0).ticks(), [1.0, 10.0, 100.0, 1e3, 1e4, 1e5]);
        for (low, high) in [(1.0, 4.0), (1e-9, 1e9), (3e-5, 0.2), (0.9, 3.7)] {
            let ticks = axis(low, high).ticks();
            assert!((2..=9).contains(&ticks.len()), "{low} {high}: {ticks:?}");
        }
    }

    #[test]
    fn places_are_logarithmic() {
        let axis = axis(0.01, 100.0);
        assert!(
            [(0.01, 0.0), (1.0, 0.5), (100.0, 1.0)].iter().all(|&(v, at)| (axis.place(v) - at).abs() < 1e-12)
        );
    }

    #[test]
    fn numbers_of_axes_are_short() {
        assert_eq!(
            [0.0, 0.5, 20.0, 1e-5, 0.123_456, 2e7].map(value),
            ["0", "0.5", "20", "1e-5", "0.123", "2e7"]
        );
        assert_eq!([1.0, 500.0, 1e3, 143e3].map(count), ["1", "500", "1k", "143k"]);
    }

    #[test]
    fn text_cannot_be_markup() {
        assert_eq!(escaped("<a b=\"&\">\u{1b}é"), "&lt;a b=&quot;&amp;&quot;&gt;\u{fffd}é");
    }

    #[test]
    fn what_is_zero_or_no_number_has_no_place_on_the_axis() {
        let series = |points: &[(u64, f64)]| Series { name: "s".into(), points: points.to_vec() };
        let panel = |points| Panel { title: "p".into(), series: vec![series(points)] };
        let plot = |points| Plot { title: "t".into(), panels: vec![panel(points)] }.svg();
        let svg = plot(&[(0, 0.0), (1, 0.5), (2, f64::NAN), (4, f64::INFINITY), (8, 0.25)]);
        assert_eq!((svg.matches("<circle").count(), svg.matches("fill=\"#fff\" stroke").count()), (3, 1));
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        for points in [&[][..], &[(0, 0.0)], &[(5, 1.0)], &[(5, f64::NAN)], &[(0, 1e-300), (1, 1e300)]] {
            let svg = plot(points);
            assert!(!svg.contains("NaN") && !svg.contains("inf"), "{points:?}: {svg}");
        }
    }
}

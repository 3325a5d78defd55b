//! Values over the steps of a training, as SVG.

mod heat;
mod lines;

pub(crate) use heat::Heat;
pub(crate) use lines::{Lines, Series};

/// Panels one above the other that share an axis of steps.
#[derive(Debug)]
pub(crate) struct Plot {
    pub(crate) title: String,
    pub(crate) panels: Vec<Panel>,
}

/// One of them.
#[derive(Debug)]
pub(crate) enum Panel {
    /// Values as lines.
    Lines(Lines),
    /// Values as colours.
    Heat(Heat),
}

const WIDTH: f64 = 900.0;
/// Above each panel, for its title and legend.
const ABOVE: f64 = 52.0;
const LEFT: f64 = 84.0;
const RIGHT: f64 = 28.0;
/// Above the first panel and below the last.
const TOP: f64 = 34.0;
const BOTTOM: f64 = 58.0;

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
        let steps = || panels.iter().flat_map(Panel::steps);
        let low = steps().filter(|&step| step > 0).min().unwrap_or(1) as f64;
        let high = (steps().max().unwrap_or(1) as f64).max(2.0 * low);
        let zero = steps().any(|step| step == 0).then_some(LEFT + 14.0);
        let from = zero.map_or(LEFT + 14.0, |zero| zero + 56.0);
        Self { axis: Axis { low, high, from, to: WIDTH - RIGHT - 14.0 }, zero }
    }

    /// Places with names: 0 and the powers of ten.
    fn ticks(&self) -> Vec<(f64, String)> {
        let zero = self.zero.map(|x| (x, "0".to_owned()));
        let ticks = self.axis.ticks().into_iter().map(|tick| (self.axis.place(tick), count(tick)));
        zero.into_iter().chain(ticks).collect()
    }

    /// The names of the ticks and of the axis, below the last panel.
    fn name(&self, svg: &mut String, foot: f64) {
        for (x, name) in self.ticks() {
            let y = foot + 19.0;
            put(
                svg,
                &format!("<text x=\"{x:.1}\" y=\"{y}\" text-anchor=\"middle\" fill=\"#555\">{name}</text>"),
            );
        }
        let (x, y) = (f64::midpoint(LEFT, WIDTH - RIGHT), foot + 42.0);
        put(
            svg,
            &format!("<text x=\"{x}\" y=\"{y}\" text-anchor=\"middle\">training step (logarithmic)</text>"),
        );
    }

    fn place(&self, step: u64) -> f64 {
        match self.zero {
            Some(zero) if step == 0 => zero,
            _ => self.axis.place(step as f64),
        }
    }
}

impl Plot {
    /// The plot as an SVG document.
    pub(crate) fn svg(&self) -> String {
        let panels = self.panels.iter().map(|panel| ABOVE + panel.height()).sum::<f64>();
        let height = TOP + panels + BOTTOM;
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" viewBox=\"0 0 {WIDTH} {height}\" \
             font-family=\"system-ui, 'DejaVu Sans', Helvetica, Arial, sans-serif\" font-size=\"12\" fill=\"#222\">\n\
             <title>{title}</title>\n<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n\
             <text x=\"{LEFT}\" y=\"30\" font-size=\"17\" font-weight=\"600\">{title}</text>\n",
            title = escaped(&self.title)
        );
        let steps = Steps::of(&self.panels);
        let mut top = TOP;
        for panel in &self.panels {
            top += ABOVE;
            panel.draw(&mut svg, &steps, top);
            top += panel.height();
        }
        steps.name(&mut svg, top);
        svg.push_str("</svg>\n");
        svg
    }
}

impl Panel {
    fn height(&self) -> f64 {
        match self {
            Self::Lines(_) => Lines::HEIGHT,
            Self::Heat(heat) => heat.height(),
        }
    }

    fn steps(&self) -> Vec<u64> {
        match self {
            Self::Lines(lines) => lines.steps().collect(),
            Self::Heat(heat) => heat.steps.clone(),
        }
    }

    /// Title, content and the lines of both axes, below `top`.
    fn draw(&self, svg: &mut String, steps: &Steps, top: f64) {
        let (foot, right, baseline) = (top + self.height(), WIDTH - RIGHT, top - 11.0);
        let title = match self {
            Self::Lines(lines) => &lines.title,
            Self::Heat(heat) => &heat.title,
        };
        put(
            svg,
            &format!("<text x=\"{LEFT}\" y=\"{baseline}\" font-weight=\"600\">{}</text>", escaped(title)),
        );
        match self {
            Self::Lines(lines) => lines.draw(svg, steps, top),
            Self::Heat(heat) => heat.draw(svg, steps, top),
        }
        put(svg, &line([LEFT, foot, right, foot], "#777"));
        put(svg, &line([LEFT, top, LEFT, foot], "#777"));
    }
}

/// Adds an element.
fn put(svg: &mut String, element: &str) {
    svg.push_str(element);
    svg.push('\n');
}

/// The name of a tick of the axis of values, whose place is `y`.
fn name_at(y: f64, name: &str) -> String {
    let (x, y) = (LEFT - 8.0, y + 4.0);
    format!("<text x=\"{x}\" y=\"{y:.1}\" text-anchor=\"end\" fill=\"#555\">{}</text>", escaped(name))
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
        let panel = |points| Panel::Lines(Lines { title: "p".into(), series: vec![series(points)] });
        let plot = |points| Plot { title: "t".into(), panels: vec![panel(points)] }.svg();
        let svg = plot(&[(0, 0.0), (1, 0.5), (2, f64::NAN), (4, f64::INFINITY), (8, 0.25)]);
        assert_eq!((svg.matches("<circle").count(), svg.matches("fill=\"#fff\" stroke").count()), (3, 1));
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        for points in [&[][..], &[(0, 0.0)], &[(5, 1.0)], &[(5, f64::NAN)], &[(0, 1e-300), (1, 1e300)]] {
            let svg = plot(points);
            assert!(!svg.contains("NaN") && !svg.contains("inf"), "{points:?}: {svg}");
        }
    }
    #[test]
    fn colours_are_of_what_lies_between_two_steps() {
        let heat = |values: &[f64]| Heat {
            title: "h".into(),
            steps: vec![0, 1, 10],
            rows: vec![("a".into(), values.to_vec()), ("b".into(), vec![0.1, 0.01])],
        };
        let plot = |values| Plot { title: "t".into(), panels: vec![Panel::Heat(heat(values))] }.svg();
        let svg = plot(&[0.1, 0.0]);
        assert_eq!(svg.matches("<rect class=\"cell\"").count(), 4);
        assert!(
            svg.contains("a, step 1 to step 10: 0<") && svg.contains("b, step 0 to step 1: 0.1<"),
            "{svg}"
        );
        for values in [&[f64::NAN, f64::INFINITY][..], &[0.0, 0.0], &[1e-300, 1e300]] {
            let svg = plot(values);
            assert!(!svg.contains("NaN") && !svg.contains("inf"), "{values:?}: {svg}");
        }
    }
}

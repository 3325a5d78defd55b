//! How tables look: colours on a terminal, tokens with their spaces to be seen, bars, the width there is.

use crate::output::Out;
use std::env;

/// Colours, or none.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Style {
    colours: bool,
    /// Columns of the terminal.
    pub(crate) width: usize,
}

/// What a piece of a table is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Paint {
    /// Beside the point.
    Faint,
    /// The point.
    Strong,
    /// A bar, or what the model expected.
    Good,
    /// Somewhat surprising.
    Fair,
    /// What the model did not expect.
    Bad,
}

impl Style {
    /// For what is written to `out`: colours on a terminal, unless `NO_COLOR` (<https://no-color.org>) or a `TERM` that is
    /// `dumb` forbids them; the width that `COLUMNS` says, or 80.
    pub(crate) fn of(out: &Out) -> Self {
        let set = |name| env::var_os(name).is_some_and(|value| !value.is_empty());
        let dumb = env::var_os("TERM").is_some_and(|term| term == "dumb");
        let columns = env::var("COLUMNS").ok().and_then(|c| c.parse().ok()).unwrap_or(80);
        Self { colours: out.is_terminal() && !set("NO_COLOR") && !dumb, width: columns.clamp(54, 200) }
    }

    /// Without colours.
    #[cfg(test)]
    pub(crate) fn plain(width: usize) -> Self {
        Self { colours: false, width }
    }

    pub(crate) fn paint(self, paint: Paint, text: &str) -> String {
        let code = match paint {
            Paint::Faint => "2",
            Paint::Strong => "1",
            Paint::Good => "32",
            Paint::Fair => "33",
            Paint::Bad => "31",
        };
        if self.colours && !text.is_empty() { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// A bar of `fraction` times `cells` cells, in eighths; the thinnest if it is nothing but not zero.
pub(crate) fn bar(fraction: f64, cells: usize) -> String {
    const EIGHTHS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];
    let eighths = (fraction.clamp(0.0, 1.0) * 8.0 * cells as f64).round() as usize;
    let eighths = if fraction > 0.0 { eighths.max(1) } else { eighths };
    format!("{}{}", "█".repeat(eighths / 8), EIGHTHS[eighths % 8])
}

/// A token's text for a table: a space is `·`, and what cannot be seen is escaped as in Rust (`\n`).
pub(crate) fn visible(token: &str) -> String {
    let mut shown = String::new();
    for c in token.chars() {
        match c {
            ' ' => shown.push('·'),
            // Bytes that are no characters arrive escaped; a quote needs no escape here.
            '\\' | '\'' | '"' => shown.push(c),
            '·' => shown.push_str("\\u{b7}"),
            _ => shown.extend(c.escape_debug()),
        }
    }
    shown
}

/// `text` in a column of `width`, cut with `…` if it is longer.
pub(crate) fn column(text: &str, width: usize) -> String {
    let length = text.chars().count();
    if length > width {
        let cut: String = text.chars().take(width.saturating_sub(1)).collect();
        return format!("{cut}…");
    }
    format!("{text}{}", " ".repeat(width - length))
}

/// The end of `text`, at most `width` columns with the `…` before it.
pub(crate) fn end_of(text: &str, width: usize) -> String {
    let length = text.chars().count();
    if length <= width {
        return text.to_owned();
    }
    format!("…{}", text.chars().skip(length + 1 - width).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_grow_by_eighths_and_never_vanish() {
        assert_eq!(bar(1.0, 3), "███");
        assert_eq!(bar(0.5, 3), "█▌");
        assert_eq!((bar(1e-9, 3), bar(0.0, 3), bar(f64::NAN, 3)), ("▏".into(), String::new(), String::new()));
        assert_eq!(bar(7.0, 2), "██");
    }

    #[test]
    fn spaces_and_control_characters_can_be_seen() {
        assert_eq!(visible("  mat"), "··mat");
        assert_eq!(visible("\n\t\u{1b}\"é\\xe2"), "\\n\\t\\u{1b}\"é\\xe2");
        assert_eq!(visible("·"), "\\u{b7}");
    }

    #[test]
    fn columns_are_filled_or_cut() {
        assert_eq!(column("éa", 4), "éa  ");
        assert_eq!(column("abcdef", 4), "abc…");
        assert_eq!(end_of("abcdef", 4), "…def");
        assert_eq!(end_of("abcd", 4), "abcd");
    }

    #[test]
    fn without_a_terminal_there_are_no_colours() {
        let plain = Style { colours: false, width: 80 };
        assert_eq!(plain.paint(Paint::Bad, "x"), "x");
        assert_eq!(Style { colours: true, width: 80 }.paint(Paint::Bad, "x"), "\x1b[31mx\x1b[0m");
    }
}

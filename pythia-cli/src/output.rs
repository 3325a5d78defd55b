//! What goes to stdout and stderr.

use anyhow::{Context, Result};
use serde::Serialize;
use std::fmt;
use std::io::{self, ErrorKind, IsTerminal, Write};

/// stdout. Nobody reading it any more is the error [`Closed`].
pub(crate) struct Out {
    sink: Box<dyn Write>,
    terminal: bool,
}

/// The error of writing to a pipe that nobody reads: `pythia-cli run ... | head -1`.
#[derive(Debug)]
pub(crate) struct Closed;

impl fmt::Display for Closed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("nobody reads the output")
    }
}

impl std::error::Error for Closed {}

impl Default for Out {
    fn default() -> Self {
        let stdout = io::stdout();
        Self { terminal: stdout.is_terminal(), sink: Box::new(stdout) }
    }
}

impl Out {
    /// For tests: what is written goes to `sink`.
    #[cfg(test)]
    pub(crate) fn to(sink: impl Write + 'static) -> Self {
        Self { sink: Box::new(sink), terminal: false }
    }

    /// Whether a person is looking.
    pub(crate) fn is_terminal(&self) -> bool {
        self.terminal
    }

    /// Writes `text` so that it is seen now.
    pub(crate) fn text(&mut self, text: &str) -> Result<()> {
        let written = self.sink.write_all(text.as_bytes()).and_then(|()| self.sink.flush());
        match written {
            Err(e) if e.kind() == ErrorKind::BrokenPipe => Err(Closed.into()),
            other => other.context("cannot write to stdout"),
        }
    }

    /// Writes a line with one JSON object.
    pub(crate) fn json(&mut self, object: &impl Serialize) -> Result<()> {
        let mut line = serde_json::to_string(object).context("cannot write as JSON")?;
        line.push('\n');
        self.text(&line)
    }
}

/// Writes a line to stderr. There is nowhere to report it if that fails.
pub(crate) fn note(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// `text` on one line and fit for a terminal.
pub(crate) fn one_line(text: &str) -> String {
    let words: Vec<&str> = text.split(['\n', '\r']).map(str::trim).filter(|line| !line.is_empty()).collect();
    words.join(" ").chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// `12.3 %` for 0.123.
pub(crate) fn percent(fraction: f64) -> String {
    if fraction > 0.0 && fraction < 0.0005 {
        "<0.1 %".to_owned()
    } else {
        format!("{:.1} %", 100.0 * fraction)
    }
}

/// A comma between ids, so that they can be given to `--ids` again.
pub(crate) fn joined(ids: &[u32]) -> String {
    ids.iter().map(u32::to_string).collect::<Vec<_>>().join(",")
}

/// `a, b and c`; of many, the first and how many more.
pub(crate) fn list<S: AsRef<str>>(names: &[S]) -> String {
    const SHOWN: usize = 6;
    let names: Vec<&str> = names.iter().map(AsRef::as_ref).collect();
    match &names[..] {
        [] => String::new(),
        [one] => (*one).to_owned(),
        [first @ .., last] if first.len() <= SHOWN => format!("{} and {last}", first.join(", ")),
        [first @ .., _] => {
            let shown: Vec<&str> = first.iter().take(SHOWN).copied().collect();
            format!("{} and {} more", shown.join(", "), names.len() - shown.len())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_probabilities_are_not_shown_as_zero() {
        assert_eq!([0.0, 1e-9, 0.000_51, 1.0].map(percent), ["0.0 %", "<0.1 %", "0.1 %", "100.0 %"]);
    }

    #[test]
    fn many_names_are_cut() {
        let names: Vec<String> = (0..9).map(|i| format!("step{i}")).collect();
        assert_eq!(
            [1, 2, 3].map(|n| list(&names[..n])),
            ["step0", "step0 and step1", "step0, step1 and step2"]
        );
        assert_eq!(list(&names[..7]), "step0, step1, step2, step3, step4, step5 and step6");
        assert_eq!(list(&names), "step0, step1, step2, step3, step4, step5 and 3 more");
    }

    #[test]
    fn errors_fit_on_one_line_of_a_terminal() {
        assert_eq!(one_line("a\n  b\r\n\nc \u{1b}[31m"), "a b c \u{fffd}[31m");
    }
}

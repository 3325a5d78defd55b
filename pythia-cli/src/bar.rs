//! [`Bar`]: how far something large is.

use crate::output::note;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use pythia_model::quantized::Progress;
use std::io::{self, IsTerminal};

/// A bar on a terminal; elsewhere a line, if it takes a while. Nothing is shown before there is something to do.
pub(crate) struct Bar {
    shown: ProgressBar,
    doing: String,
    place: Option<String>,
}

/// Below this many bytes there is no line.
const LARGE: u64 = 64 << 20;

impl Bar {
    /// What is done, and where the result lies: `quantising to int8`, `kept as FILE`.
    pub(crate) fn new(doing: &str, place: &str) -> Self {
        Self { place: Some(place.to_owned()), ..Self::without_line(doing) }
    }

    /// What is not worth a line where no one watches.
    pub(crate) fn without_line(doing: &str) -> Self {
        Self { shown: ProgressBar::hidden(), doing: doing.to_owned(), place: None }
    }

    pub(crate) fn show(&self, Progress { done, total }: Progress) {
        let Self { shown: bar, doing, place } = self;
        if done == 0 && io::stderr().is_terminal() {
            let template = "{msg} {wide_bar} {bytes}/{total_bytes} eta {eta}";
            bar.set_style(
                ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()),
            );
            bar.set_message(doing.clone());
            bar.set_length(total);
            bar.set_draw_target(ProgressDrawTarget::stderr());
        } else if let Some(place) = place
            && done == 0
            && total >= LARGE
        {
            note(&format!("{doing}: {:.0} MB, {place}", total as f64 / 1e6));
        }
        bar.set_position(done);
    }

    pub(crate) fn finish(&self) {
        self.shown.finish_and_clear();
    }
}

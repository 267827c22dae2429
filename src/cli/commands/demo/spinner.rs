//! A spinner for work without a percentage.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use crate::cli::output::{BARS, duration, has_terminal, note};

pub(super) struct Spinner {
    bar: Option<ProgressBar>,
    text: String,
    since: Instant,
}

impl Spinner {
    pub(super) fn new(text: &str) -> Self {
        let bar = has_terminal().then(|| {
            let style = ProgressStyle::with_template("{spinner} {msg}");
            let bar = BARS.add(ProgressBar::new_spinner());
            bar.set_style(style.expect("a template of known fields"));
            bar.set_message(text.to_owned());
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        });
        Self {
            bar,
            text: text.to_owned(),
            since: Instant::now(),
        }
    }

    pub(super) fn done(mut self) {
        self.clear();
        note(format_args!(
            "{}: {}",
            self.text,
            duration(self.since.elapsed())
        ));
    }

    fn clear(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
            BARS.remove(&bar);
        }
    }
}

impl Drop for Spinner {
    fn drop(&mut self) {
        self.clear();
    }
}

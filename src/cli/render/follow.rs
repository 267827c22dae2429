//! Shows the progress of a batch until its end: a bar on a terminal, lines elsewhere, or JSON.

use std::{
    collections::BTreeSet,
    future::Future,
    pin::pin,
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressStyle};
use tokio::time::MissedTickBehavior;

use crate::{
    base::error::text::words,
    cli::{
        output::{self, BARS, count, duration, note, number, per_second},
        render::{
            batch_view::{BatchView, age},
            monotonic::MonotonicCounts,
            next_command,
            sentences::{self, NOT_KEPT, because, phase, phase_because},
            speed::Pace,
        },
        shell::Program,
    },
    engine::client::{BatchHandle, ProgressError, ResultError},
    page::size::percent_text,
    progress::{
        Progress,
        parts::StageState,
        phase::{HeldBy, Phase},
        report::BatchReport,
    },
};

/// The form in which progress is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Style {
    Bar,
    Lines,
    Json,
}

impl Style {
    pub(crate) fn new(json: bool) -> Self {
        match json {
            true => Self::Json,
            false if output::has_terminal() => Self::Bar,
            false => Self::Lines,
        }
    }

    /// Returns the interval between two looks. Each look costs the controller one query.
    fn look_every(self) -> Duration {
        match self {
            Self::Bar => Duration::from_millis(250),
            Self::Lines | Self::Json => Duration::from_secs(1),
        }
    }
}

/// The length of the bar.
const PERMILLE: u64 = 1_000;
/// The interval between two lines. A change of phase is printed at once.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// The way in which following ended.
#[derive(Debug)]
pub(crate) enum Followed {
    /// The batch has a report.
    Ended(Box<BatchReport>),
    /// The batch has ended without a report, or the server does not know.
    Lost(ResultError),
    /// `stop` resolved, or standard output is closed.
    Detached,
}

/// Shows progress until the batch ends or `stop` resolves. `no_worker` is the text while no worker answers.
pub(crate) async fn follow(
    handle: &BatchHandle,
    style: Style,
    no_worker: &str,
    program: &Program,
    stop: impl Future<Output = ()>,
) -> Followed {
    let mut view = View::new(style);
    let mut ticks = tokio::time::interval(style.look_every());
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut result = pin!(handle.result());
    let mut stop = pin!(stop);
    let followed = loop {
        let look = async {
            ticks.tick().await;
            handle.look().await.map(|seen| {
                let next = next_command::after(&seen, program);
                (seen.told(), next)
            })
        };
        tokio::select! {
            biased;
            result = &mut result => match result {
                Ok(report) => break Followed::Ended(Box::new(report)),
                Err(error) => break Followed::Lost(error),
            },
            () = &mut stop => break Followed::Detached,
            look = look => match look {
                Ok((Ok(progress), next)) => {
                    if !view.show(&progress, next) {
                        break Followed::Detached;
                    }
                }
                Ok((Err(ProgressError::NoWorker { .. }), next)) => {
                    view.trouble(no_worker);
                    view.tell_next(next);
                }
                // `result` reports a permanent error.
                Ok((Err(error), _)) | Err(error) => view.trouble(&words(&error)),
            },
        }
    };
    if let Followed::Ended(report) = &followed {
        view.last(report);
    }
    view.close();
    followed
}

/// The state whose change is printed at once.
type Step = (Phase, Option<(u32, StageState)>);

fn step(p: &Progress) -> Step {
    let stage = p.stage.as_ref();
    (p.phase, stage.map(|stage| (stage.number, stage.state)))
}

struct View {
    style: Style,
    bar: Option<ProgressBar>,
    pace: Pace,
    steady: MonotonicCounts,
    last_line: Option<Instant>,
    last_step: Option<Step>,
    last_trouble: Option<Instant>,
    /// The last command that was suggested.
    next: Option<String>,
    warned: BTreeSet<String>,
    /// True once the view has printed that the batch keeps no dead letters, or found that it keeps them.
    told_what_is_lost: bool,
}

impl View {
    fn new(style: Style) -> Self {
        let bar = (style == Style::Bar).then(|| {
            let bar = BARS.add(ProgressBar::new_spinner().with_style(spinner()));
            bar.set_message("waiting for a worker");
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        });
        Self {
            style,
            bar,
            pace: Pace::new(),
            steady: MonotonicCounts::default(),
            last_line: None,
            last_step: None,
            last_trouble: None,
            next: None,
            warned: BTreeSet::new(),
            told_what_is_lost: style == Style::Json,
        }
    }

    /// Shows one look. `false` if standard output is closed.
    fn show(&mut self, look: &Progress, next: Option<String>) -> bool {
        self.pace.record(look);
        let (progress, again) = self.steady.show(look);
        self.last_trouble = None;
        for warning in &progress.warnings {
            if self.style != Style::Json && self.warned.insert(warning.clone()) {
                note(format_args!("warning: {warning}"));
            }
        }
        self.tell_what_is_lost(&progress);
        let due = self.last_line.is_none_or(|at| at.elapsed() >= LINE_EVERY)
            || self.last_step != Some(step(&progress));
        self.last_step = Some(step(&progress));
        match (self.style, &self.bar) {
            (Style::Json, _) => return output::json(&BatchView::running(progress, next)),
            (_, Some(bar)) => {
                let mut message = describe(&progress, &self.pace, again);
                match progress.percent() {
                    Some(percent) => {
                        bar.set_style(percent_bar());
                        bar.set_length(PERMILLE);
                        bar.set_position((percent * 10.0) as u64);
                        message = format!("{}  {message}", percent_text(percent));
                    }
                    // The estimate has been exceeded.
                    None => bar.set_style(spinner()),
                }
                bar.set_message(message);
            }
            (_, None) if due => {
                let time = self.steady.time(age(&progress));
                self.line(&progress, time, again);
            }
            (_, None) => {}
        }
        if due {
            self.last_line = Some(Instant::now());
            self.tell_next(next);
        }
        true
    }

    /// Suggests the command that helps with what holds the batch, unless the last suggestion was the same.
    fn tell_next(&mut self, next: Option<String>) {
        if let Some(next) = next
            .as_ref()
            .filter(|next| self.next.as_ref() != Some(next))
        {
            note(format_args!("next: `{next}`"));
        }
        self.next = next;
    }

    /// Warns once, at the start, that failures are lost.
    fn tell_what_is_lost(&mut self, progress: &Progress) {
        if !self.told_what_is_lost
            && let Some(keeps) = progress.keeps_dead_letters
        {
            self.told_what_is_lost = true;
            if !keeps && progress.redrive_of.is_none() {
                note(format_args!(
                    "processor \"{}\" keeps no dead letters: {NOT_KEPT}",
                    progress.processor
                ));
            }
        }
    }

    fn line(&self, progress: &Progress, time: Duration, again: u64) {
        let time = duration(time);
        let percent = match progress.percent() {
            Some(percent) => format!("{}, ", percent_text(percent)),
            None => String::new(),
        };
        note(format_args!(
            "[{time}] {percent}{}",
            describe(progress, &self.pace, again)
        ));
    }

    /// Prints the final state, so that a short batch leaves a trace too.
    fn last(&mut self, report: &BatchReport) {
        self.tell_what_is_lost(&report.progress);
        if self.style == Style::Lines {
            self.pace.record(&report.progress);
            let time = self.steady.time(report.duration());
            self.line(&report.progress, time, 0);
        }
    }

    /// Reports trouble once, and every 30 s while it lasts.
    fn trouble(&mut self, text: &str) {
        match &self.bar {
            Some(bar) => bar.set_message(output::one_line(text)),
            None if self
                .last_trouble
                .is_none_or(|at| at.elapsed() >= 6 * LINE_EVERY) =>
            {
                self.last_trouble = Some(Instant::now());
                note(text);
            }
            None => {}
        }
    }

    fn close(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
            BARS.remove(bar);
        }
    }
}

fn spinner() -> ProgressStyle {
    ProgressStyle::with_template("{spinner} {wide_msg}").expect("a template of known fields")
}

fn percent_bar() -> ProgressStyle {
    ProgressStyle::with_template("{bar:24.cyan/dim} {wide_msg}")
        .expect("a template of known fields")
        .progress_chars("━╸─")
}

/// Returns whether an operator may have to act on the cause that holds the batch.
fn is_wrong(p: &Progress) -> bool {
    use HeldBy::{NoWorker, Pages, Retries, Workers};
    let wrong = [NoWorker, Pages, Retries, Workers];
    p.held_by.is_some_and(|by| wrong.contains(&by))
}

fn describe(p: &Progress, pace: &Pace, again: u64) -> String {
    let mut parts = vec![match sentences::total_items(p) {
        Some(total) => format!("{} of {total}", number(p.items.total())),
        None => format!(
            "{} in {}",
            count(p.items.total(), "item"),
            count(p.pages_completed, "page")
        ),
    }];
    if matches!(p.phase, Phase::Running | Phase::Ended)
        && let Some(rate) = pace.items_per_second()
    {
        parts.push(format!("{} items/s", per_second(rate)));
    }
    if p.phase == Phase::Running
        && let Some(left) = pace.time_left(p).filter(|left| !left.is_zero())
    {
        parts.push(format!("{} left", duration(left)));
    }
    if again > 0 {
        parts.push(sentences::again(again));
    }
    if p.pages_in_flight > 0 {
        parts.push(format!("{} in flight", p.pages_in_flight));
    }
    parts.extend(sentences::troubles(p));
    match (p.phase, because(p)) {
        (Phase::Running, Some(why)) if is_wrong(p) => parts.push(why),
        (Phase::Running, _) => {}
        // An operator may have to act.
        (Phase::Preparing | Phase::Held | Phase::Blocked, Some(why)) => {
            parts.push(phase_because(p, &why));
        }
        _ => parts.push(phase(p)),
    }
    // Some reasons come from operators.
    output::one_line(&parts.join(", "))
}

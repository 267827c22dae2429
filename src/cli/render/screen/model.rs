//! The state of the screen, and the meaning of each key. Pure: time is an argument.

use std::time::Duration;

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use super::samples::Samples;
use crate::{
    base::time::Timestamp,
    batch::MAX_PARALLELISM,
    cli::render::{
        monotonic::MonotonicCounts,
        speed::{Limit, Pace},
    },
    progress::{
        Progress,
        phase::{HeldBy, Phase},
    },
};

/// The time for which the answer to a key is shown.
const NOTICE_FOR: Duration = Duration::from_secs(6);
/// The time for which a log line is shown.
const WARNING_FOR: Duration = Duration::from_secs(30);

/// Now, on two clocks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment {
    /// The time since the screen was opened.
    pub elapsed: Duration,
    /// The wall clock, for comparison with times of the batch.
    pub wall: Timestamp,
}

/// A request to the batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Request {
    Pause,
    Resume,
    Parallelism(u32),
}

impl Request {
    /// Returns the text while the request is under way.
    pub(super) fn asking(self) -> String {
        match self {
            Self::Pause => "pausing ...".to_owned(),
            Self::Resume => "resuming ...".to_owned(),
            Self::Parallelism(pages) => format!("setting max parallelism to {pages} ..."),
        }
    }

    fn done(self) -> String {
        match self {
            Self::Pause => "paused: no new pages, running ones are finished".to_owned(),
            Self::Resume => "the batch continues".to_owned(),
            Self::Parallelism(pages) => format!("max parallelism is {pages}"),
        }
    }

    fn failed(self, error: &str) -> String {
        match self {
            Self::Pause => format!("pause: {error}"),
            Self::Resume => format!("resume: {error}"),
            Self::Parallelism(pages) => format!("max parallelism {pages}: {error}"),
        }
    }
}

/// The action of a key.
#[derive(Clone, Copy, Debug)]
enum Intent {
    Leave,
    Back,
    Help,
    TogglePause,
    Parallelism(fn(u32) -> u32),
}

fn intent(key: KeyEvent) -> Option<Intent> {
    if key.kind == KeyEventKind::Release {
        return None;
    }
    let control = key.modifiers.contains(KeyModifiers::CONTROL);
    Some(match key.code {
        KeyCode::Char('c') if control => Intent::Leave,
        _ if control || key.modifiers.contains(KeyModifiers::ALT) => return None,
        KeyCode::Char('q') => Intent::Leave,
        KeyCode::Esc => Intent::Back,
        KeyCode::Char('?' | 'h') => Intent::Help,
        KeyCode::Char('p') => Intent::TogglePause,
        // = is + without shift.
        KeyCode::Char('+' | '=') => Intent::Parallelism(|pages| pages.saturating_add(1)),
        KeyCode::Char('-') => Intent::Parallelism(|pages| pages.saturating_sub(1)),
        KeyCode::Char('>') => Intent::Parallelism(|pages| pages.saturating_mul(2).max(1)),
        // Only a step by one stops the batch.
        KeyCode::Char('<') => Intent::Parallelism(|pages| (pages / 2).max(pages.min(1))),
        _ => return None,
    })
}

/// The effect of a key on the screen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pressed {
    Stay,
    Leave,
}

/// A line about an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Notice {
    pub text: String,
    pub is_error: bool,
    until: Duration,
}

/// The state of the screen.
#[derive(Debug)]
pub(super) struct Model {
    pub batch_id: String,
    pub colors: bool,
    pub progress: Option<Progress>,
    /// The reason why the progress is old or unknown.
    pub trouble: Option<String>,
    pub pace: Pace,
    steady: MonotonicCounts,
    /// The number of items that are being processed again.
    pub again: u64,
    pub samples: Samples,
    pub help: bool,
    notice: Option<Notice>,
    warning: Option<(String, Duration)>,
    under_way: Option<Request>,
    /// The next request; a later key replaces an earlier one.
    wanted_pause: Option<Request>,
    wanted_parallelism: Option<u32>,
    /// The time of the last answer. A look that began before it may show the state from before the request.
    answered_at: Duration,
    /// The answer to a pause or resume, until a look shows it.
    paused_since: Option<bool>,
}

impl Model {
    pub(super) fn new(batch_id: &str, colors: bool) -> Self {
        Self {
            batch_id: batch_id.to_owned(),
            colors,
            progress: None,
            trouble: None,
            pace: Pace::new(),
            steady: MonotonicCounts::default(),
            again: 0,
            samples: Samples::default(),
            help: false,
            notice: None,
            warning: None,
            under_way: None,
            wanted_pause: None,
            wanted_parallelism: None,
            answered_at: Duration::ZERO,
            paused_since: None,
        }
    }
}

/// # Input
impl Model {
    /// Takes in a look that began at `began`, counted from the opening of the screen.
    pub(super) fn look(&mut self, mut progress: Progress, began: Duration, now: Moment) {
        let at = now.elapsed.as_millis() as u64;
        self.pace
            .add(at, progress.items.total(), Limit::of(&progress));
        self.samples.add(at, self.pace.items_per_second());
        (progress, self.again) = self.steady.show(&progress);
        self.trouble = None;
        match &self.progress {
            Some(known) if began < self.answered_at => {
                progress.max_parallelism = known.max_parallelism;
            }
            _ => self.paused_since = None,
        }
        self.progress = Some(progress);
    }

    /// Takes in a look that failed.
    pub(super) fn trouble(&mut self, text: &str) {
        self.trouble = Some(text.to_owned());
    }

    /// Takes in the latest log line.
    pub(super) fn warn(&mut self, line: Option<String>, now: Moment) {
        let known = self.warning.as_ref().map(|(line, _)| line);
        if let Some(line) = line
            && known != Some(&line)
        {
            self.warning = Some((line, now.elapsed + WARNING_FOR));
        }
    }

    pub(super) fn press(&mut self, key: KeyEvent, now: Moment) -> Pressed {
        match intent(key) {
            Some(Intent::Leave) => return Pressed::Leave,
            Some(Intent::Back) if !self.help => return Pressed::Leave,
            Some(Intent::Back) => self.help = false,
            Some(Intent::Help) => self.help = !self.help,
            Some(Intent::TogglePause) => self.toggle_pause(now),
            Some(Intent::Parallelism(change)) => self.change_parallelism(change, now),
            None => {}
        }
        Pressed::Stay
    }

    fn toggle_pause(&mut self, now: Moment) {
        let Some(progress) = &self.progress else {
            return self.say("no worker has answered yet", true, now);
        };
        let asked = match (self.wanted_pause, self.under_way) {
            (Some(request), _) | (None, Some(request @ (Request::Pause | Request::Resume))) => {
                Some(request == Request::Pause)
            }
            _ => self.paused_since,
        };
        let request = match asked.unwrap_or_else(|| is_paused(progress)) {
            true => Request::Resume,
            false => Request::Pause,
        };
        self.wanted_pause = Some(request);
    }

    fn change_parallelism(&mut self, change: fn(u32) -> u32, now: Moment) {
        let under_way = match self.under_way {
            Some(Request::Parallelism(pages)) => Some(pages),
            _ => None,
        };
        let known = self.progress.as_ref().map(|p| p.max_parallelism);
        let Some(from) = self.wanted_parallelism.or(under_way).or(known) else {
            return self.say("no worker has answered yet", true, now);
        };
        let to = change(from).min(MAX_PARALLELISM);
        if to == from {
            self.say(format!("max parallelism stays {from}"), false, now);
        } else {
            self.wanted_parallelism = Some(to);
        }
    }

    /// Returns the next request, unless one is under way.
    pub(super) fn next_request(&mut self) -> Option<Request> {
        if self.under_way.is_some() {
            return None;
        }
        self.under_way = self
            .wanted_pause
            .take()
            .or_else(|| self.wanted_parallelism.take().map(Request::Parallelism));
        self.under_way
    }

    /// Takes in the answer to the request that was under way.
    pub(super) fn answered(
        &mut self,
        request: Request,
        answer: Result<Option<String>, String>,
        now: Moment,
    ) {
        self.under_way = None;
        match answer {
            Ok(None) => {}
            // The server keeps the request, so nothing has changed yet.
            Ok(Some(kept)) => return self.say(kept, true, now),
            Err(error) => return self.say(request.failed(&error), true, now),
        }
        self.answered_at = now.elapsed;
        match (request, &mut self.progress) {
            (Request::Parallelism(pages), Some(progress)) => progress.max_parallelism = pages,
            (Request::Parallelism(_), None) => {}
            (Request::Pause | Request::Resume, _) => {
                self.paused_since = Some(request == Request::Pause);
            }
        }
        self.say(request.done(), false, now);
    }

    fn say(&mut self, text: impl Into<String>, is_error: bool, now: Moment) {
        self.notice = Some(Notice {
            text: text.into(),
            is_error,
            until: now.elapsed + NOTICE_FOR,
        });
    }
}

/// # Output
impl Model {
    pub(super) fn under_way(&self) -> Option<Request> {
        self.under_way
    }

    /// Returns the answer to the last key, for some seconds.
    pub(super) fn notice(&self, now: Moment) -> Option<&Notice> {
        let notice = self.notice.as_ref();
        notice.filter(|notice| now.elapsed < notice.until)
    }

    /// Returns the latest log line, for a while.
    pub(super) fn warning(&self, now: Moment) -> Option<&str> {
        let warning = self.warning.as_ref();
        let warning = warning.filter(|(_, until)| now.elapsed < *until);
        warning.map(|(line, _)| line.as_str())
    }

    /// Returns whether the pause key would resume the batch.
    pub(super) fn is_paused(&self) -> bool {
        let known = || self.progress.as_ref().is_some_and(is_paused);
        self.paused_since.unwrap_or_else(known)
    }
}

/// Returns whether an operator paused the batch or the batch paused itself. A limit of 0 or a closed window only looks
/// like a pause.
fn is_paused(p: &Progress) -> bool {
    let still = matches!(p.phase, Phase::Pausing | Phase::Paused);
    p.pause.is_some() || (still && p.held_by == Some(HeldBy::Pause))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        cli::render::sentences::tests::{at, progress},
        progress::PauseNote,
    };

    fn moment(seconds: u64) -> Moment {
        Moment {
            elapsed: Duration::from_secs(seconds),
            wall: at(60 + seconds),
        }
    }

    fn key(c: char) -> KeyEvent {
        KeyEvent::new(KeyCode::Char(c), KeyModifiers::NONE)
    }

    fn watching() -> Model {
        let mut model = Model::new("prices-2026", true);
        model.look(progress(), Duration::ZERO, moment(1));
        model
    }

    fn press(model: &mut Model, keys: &str) {
        for c in keys.chars() {
            assert_eq!(model.press(key(c), moment(2)), Pressed::Stay, "{c}");
        }
    }

    #[test]
    fn leaving_keys_leave_and_escape_closes_the_help_first() {
        let leaves = |key| watching().press(key, moment(2)) == Pressed::Leave;
        let control = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
        let escape = KeyEvent::new(KeyCode::Esc, KeyModifiers::NONE);
        assert!(leaves(key('q')) && leaves(control) && leaves(escape));
        assert!(!leaves(key('c')) && !leaves(key('x')));
        let mut model = watching();
        press(&mut model, "?");
        assert!(model.help);
        assert_eq!(model.press(escape, moment(2)), Pressed::Stay);
        assert!(!model.help);
    }

    #[test]
    fn a_key_that_is_let_go_means_nothing() {
        let mut up = key('q');
        up.kind = KeyEventKind::Release;
        assert_eq!(watching().press(up, moment(2)), Pressed::Stay);
    }

    #[test]
    fn keys_change_the_limit_within_what_is_allowed() {
        for (keys, limit, asked) in [
            ("+", 32, Some(33)),
            ("=", 32, Some(33)),
            ("-", 32, Some(31)),
            (">", 32, Some(64)),
            ("<", 32, Some(16)),
            ("<", 1, None),
            ("-", 1, Some(0)),
            ("-", 0, None),
            (">", 0, Some(1)),
            ("<", 0, None),
            (">", 300, Some(500)),
            ("+", 500, None),
            ("++>-", 2, Some(7)),
        ] {
            let mut model = watching();
            model.progress.as_mut().unwrap().max_parallelism = limit;
            press(&mut model, keys);
            let asked = asked.map(Request::Parallelism);
            assert_eq!(model.next_request(), asked, "{keys} at {limit}");
            let told = model.notice(moment(2)).is_some();
            assert_eq!(told, asked.is_none(), "{keys} at {limit}");
        }
    }

    #[test]
    fn one_request_is_under_way_at_a_time_and_later_keys_are_taken_together() {
        let mut model = watching();
        press(&mut model, "+");
        assert_eq!(model.next_request(), Some(Request::Parallelism(33)));
        press(&mut model, "+++");
        assert_eq!(model.next_request(), None);
        model.answered(Request::Parallelism(33), Ok(None), moment(3));
        assert_eq!(model.next_request(), Some(Request::Parallelism(36)));
    }

    #[test]
    fn a_look_that_began_before_the_answer_does_not_undo_it() {
        let mut model = watching();
        press(&mut model, "+p");
        assert_eq!(model.next_request(), Some(Request::Pause));
        model.answered(Request::Pause, Ok(None), moment(3));
        assert_eq!(model.next_request(), Some(Request::Parallelism(33)));
        model.answered(Request::Parallelism(33), Ok(None), moment(4));
        model.look(progress(), Duration::from_secs(2), moment(5));
        assert!(model.is_paused());
        press(&mut model, "+p");
        assert_eq!(model.next_request(), Some(Request::Resume));
        model.answered(Request::Resume, Ok(None), moment(6));
        assert_eq!(model.next_request(), Some(Request::Parallelism(34)));
        // A later look is always right.
        model.look(progress(), Duration::from_secs(7), moment(8));
        assert_eq!(model.progress.as_ref().unwrap().max_parallelism, 32);
    }

    #[test]
    fn answers_and_errors_are_shown_for_some_seconds() {
        let mut model = watching();
        press(&mut model, "p");
        let request = model.next_request().unwrap();
        assert_eq!(model.under_way(), Some(Request::Pause));
        model.answered(request, Err("no worker answered".to_owned()), moment(3));
        let notice = model.notice(moment(4)).unwrap();
        assert!(notice.is_error);
        assert_eq!(notice.text, "pause: no worker answered");
        assert_eq!(model.notice(moment(30)), None);
        assert!(!model.is_paused());
    }

    #[test]
    fn only_a_batch_that_was_paused_is_resumed() {
        let paused = Progress {
            phase: Phase::Paused,
            held_by: Some(HeldBy::Pause),
            ..progress()
        };
        assert!(is_paused(&paused));
        assert!(!is_paused(&progress()));
        let limit = Progress {
            held_by: Some(HeldBy::Parallelism),
            ..paused.clone()
        };
        assert!(!is_paused(&limit));
        let window = Progress {
            held_by: Some(HeldBy::Window),
            ..paused
        };
        assert!(!is_paused(&window));
        let both = Progress {
            pause: Some(PauseNote {
                who: None,
                why: None,
                at: at(0),
                until: None,
            }),
            ..window
        };
        assert!(is_paused(&both));
    }

    #[test]
    fn before_the_first_look_a_key_asks_for_nothing() {
        let mut model = Model::new("b", false);
        press(&mut model, "p+-<>");
        assert_eq!(model.next_request(), None);
        assert!(model.notice(moment(2)).unwrap().is_error);
    }

    #[test]
    fn a_log_line_is_shown_once_for_a_while() {
        let mut model = watching();
        model.warn(Some("slow disk".to_owned()), moment(1));
        model.warn(Some("slow disk".to_owned()), moment(29));
        assert_eq!(model.warning(moment(30)), Some("slow disk"));
        assert_eq!(model.warning(moment(31)), None);
    }
}

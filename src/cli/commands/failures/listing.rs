//! The failures of a batch, as JSON and as text.

use std::fmt::Write as _;

use serde::Serialize;

use crate::{
    base::time::Timestamp,
    cli::{
        dead_letters::letters::LettersOfError,
        output::{self, count, duration, note, number, one_line, time},
        render::next_command::redrive_hint,
        shell::Program,
    },
    page::token::PageToken,
    processor::store::dead_letter::DeadLetter,
    progress::failures::{FailedItem, PageFailure},
};

/// The failures of a batch. Its JSON is documented in `docs/cli.md`. `None` stands for unknown.
#[derive(Debug, Serialize)]
pub(super) struct Failures {
    pub(super) schema: u32,
    pub(super) batch_id: String,
    pub(super) processor: Option<String>,
    pub(super) redrive_of: Option<String>,
    pub(super) failing: Option<Vec<PageFailure>>,
    pub(super) failed_pages: Option<Vec<PageFailure>>,
    pub(super) failed_items: Option<Vec<FailedItem>>,
    /// The counts of all dead letters by error.
    pub(super) errors: Option<Vec<LettersOfError>>,
    pub(super) dead_letters: Option<Vec<DeadLetter>>,
    pub(super) more: bool,
    #[serde(skip)]
    pub(super) letters: u64,
    /// The current time, or the end of the batch.
    #[serde(skip)]
    pub(super) now: Timestamp,
}

impl Failures {
    pub(super) fn tell(&self, program: &Program) {
        let text = self.text();
        let id = &self.batch_id;
        if text.is_empty() {
            note(format_args!("batch \"{id}\" has no failures to show"));
        } else {
            output::result(text);
        }
        if let Some(redrive_of) = &self.redrive_of {
            note(format_args!(
                "it redrives \"{redrive_of}\"; `{}` lists the dead letters that are still open",
                program.of_batch("failures", redrive_of)
            ));
        }
        if self.more {
            note(match self.dead_letters {
                Some(_) => "these are the first dead letters by key; --limit shows more of them",
                None => "there are more; a batch describes only the first of them",
            });
        }
        if self
            .dead_letters
            .as_ref()
            .is_some_and(|letters| !letters.is_empty())
        {
            note(redrive_hint(id, self.processor.as_deref(), program));
        }
    }

    /// Returns the whole text. Nothing is shortened, because people look up keys in it.
    fn text(&self) -> String {
        let mut list = List::default();
        let failing = self.failing.as_deref().unwrap_or_default();
        list.title("failing", failing.len() as u64);
        for page in failing {
            let PageFailure {
                state,
                attempts,
                first_at,
                gives_up_at,
                ..
            } = page;
            let place = place(page.start.as_ref(), page.end.as_ref());
            let since = duration(self.now.since(*first_at));
            let attempts = count(u64::from(*attempts), "attempt");
            let end = gives_up_at.map(|at| format!(", gives up at {}", time(at)));
            let end = end.unwrap_or_default();
            list.head(format_args!(
                "{place}: {state} for {since}, {attempts}{end}"
            ));
            list.error(&page.error_type, &page.message);
        }
        let pages = self.failed_pages.as_deref().unwrap_or_default();
        list.title("pages given up", pages.len() as u64);
        for page in pages {
            let place = place(page.start.as_ref(), page.end.as_ref());
            let attempts = count(u64::from(page.attempts), "attempt");
            list.head(format_args!("{place}: {attempts}, {}", time(page.last_at)));
            list.error(&page.error_type, &page.message);
        }
        let items = self.failed_items.as_deref().unwrap_or_default();
        list.title("items given up", items.len() as u64);
        for item in items {
            list.head(&item.key);
            list.error(&item.error_type, &item.message);
        }
        list.title("dead letters", self.letters);
        for of_error in self.errors.as_deref().unwrap_or_default() {
            let LettersOfError {
                error_type,
                count,
                message,
            } = of_error;
            let count = number(*count);
            list.head(format_args!("{count} {error_type}, the first: {message}"));
        }
        let letters = self.dead_letters.as_deref().unwrap_or_default();
        for letter in letters {
            let what = match &letter.key {
                Some(key) => key.clone(),
                None => place(letter.start.as_ref(), letter.end.as_ref()),
            };
            let attempts = count(u64::from(letter.attempts), "attempt");
            list.head(format_args!("{what}: {attempts}, {}", time(letter.last_at)));
            list.error(&letter.error_type, &letter.message);
            if let Some(record) = &letter.record {
                list.error("record", record);
            }
        }
        list.text
    }
}

/// Returns the place of a page.
fn place(start: Option<&PageToken>, end: Option<&PageToken>) -> String {
    match (start.map(PageToken::as_str), end.map(PageToken::as_str)) {
        (None, None) => "the first page".to_owned(),
        (None, Some(end)) => format!("everything up to {end}"),
        (Some(start), None) => format!("the page after {start}"),
        (Some(start), Some(end)) => format!("after {start} up to {end}"),
    }
}

#[derive(Default)]
struct List {
    text: String,
}

impl List {
    fn title(&mut self, title: &str, n: u64) {
        if n > 0 {
            self.line("", format_args!("{title}: {}", number(n)));
        }
    }

    fn head(&mut self, text: impl std::fmt::Display) {
        self.line("  ", text);
    }

    fn error(&mut self, error_type: &str, message: &str) {
        self.line("      ", format_args!("{error_type}: {message}"));
    }

    /// Adds a line. Keys and messages come from the data, so they are escaped.
    fn line(&mut self, indent: &str, text: impl std::fmt::Display) {
        if !self.text.is_empty() {
            self.text.push('\n');
        }
        let _ = write!(self.text, "{indent}{}", one_line(&text.to_string()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{cli::render::batch_view::SCHEMA, progress::failures::FailureState};

    fn token(cursor: i64) -> Option<PageToken> {
        PageToken::encode(&cursor).ok()
    }

    fn page(state: FailureState) -> PageFailure {
        PageFailure {
            stride: 0,
            start: token(1_200),
            end: None,
            error_type: "Busy".to_owned(),
            message: "the database is locked".to_owned(),
            attempts: 12,
            first_at: Timestamp(1_000),
            last_at: Timestamp(50_000),
            gives_up_at: (state == FailureState::Stuck).then_some(Timestamp(900_000)),
            state,
        }
    }

    fn letter(key: Option<&str>) -> DeadLetter {
        DeadLetter {
            id: "1".to_owned(),
            batch_id: "b".to_owned(),
            batch_run: "r".to_owned(),
            processor: "p".to_owned(),
            stride: 0,
            start: None,
            end: token(7),
            key: key.map(str::to_owned),
            error_type: "Broken".to_owned(),
            message: "two\nlines \u{1b}[2J".to_owned(),
            attempts: 1,
            first_at: Timestamp(0),
            last_at: Timestamp(0),
            record: None,
        }
    }

    #[test]
    fn every_failure_is_told_in_full_and_cannot_steer_the_terminal() {
        let long = "k".repeat(300);
        let failures = Failures {
            schema: SCHEMA,
            batch_id: "b".to_owned(),
            processor: None,
            redrive_of: None,
            failing: Some(vec![page(FailureState::Stuck)]),
            failed_pages: None,
            failed_items: None,
            errors: Some(vec![LettersOfError {
                error_type: "Broken".to_owned(),
                count: 2,
                message: "two\nlines".to_owned(),
            }]),
            dead_letters: Some(vec![letter(Some(&long)), letter(None)]),
            letters: 2,
            more: false,
            now: Timestamp(193_000),
        };
        let expected = format!(
            "failing: 1
  the page after 1200: stuck for 3m 12s, 12 attempts, gives up at 1970-01-01T00:15:00Z
      Busy: the database is locked
dead letters: 2
  2 Broken, the first: two\\nlines
  {long}: 1 attempt, 1970-01-01T00:00:00Z
      Broken: two\\nlines \\u{{1b}}[2J
  everything up to 7: 1 attempt, 1970-01-01T00:00:00Z
      Broken: two\\nlines \\u{{1b}}[2J"
        );
        assert_eq!(failures.text(), expected);
    }
}

//! `failures`: the pages that fail, the pages and items that were given up, and the dead letters.

use std::{fmt::Write as _, future::Future};

use clap::Args;
use serde::Serialize;
use serde_json::Value;

use crate::{
    base::{error::PageError, time::Timestamp},
    batch::{letter_filter::LetterFilter, validate::validate_id},
    cli::{
        args::{
            failure_filter::{FilterArgs, means_item, means_page},
            temporal_server::ConnectionArgs,
        },
        commands::{redrive::args_of, start::json_or_file},
        exit::{CliError, CliResult, Exit},
        processors::{Processors, STORE_TIMEOUT},
        render::{
            batch_view::{Look, SCHEMA},
            letters::{Letters, LettersOfError},
            output::{self, count, duration, note, number, one_line, time},
            repair::{Broken, check_store},
        },
        shell::Program,
    },
    engine::client::{BatchClient, BatchHandle, ProgressError, RedriveError},
    page::token::PageToken,
    processor::store::dead_letter::{DeadLetter, DeadLetters},
    progress::{
        Progress,
        failures::{FailedItem, FailureState, PageFailure},
    },
    stride::registry::Refused,
};

#[derive(Args, Debug)]
pub(crate) struct FailuresArgs {
    /// The batch
    #[arg(value_name = "ID")]
    batch_id: String,

    #[command(flatten)]
    filter: FilterArgs,

    /// The processor, for a batch that the server has forgotten
    #[arg(long, value_name = "PROCESSOR")]
    processor: Option<String>,

    /// The arguments of the processor as JSON, or @FILE [default: those that the batch had]
    #[arg(long, value_name = "JSON|@FILE", value_parser = json_or_file, allow_hyphen_values = true)]
    args: Option<Value>,

    /// Most dead letters to show
    #[arg(
        long,
        default_value_t = 100,
        value_name = "N",
        value_parser = clap::value_parser!(u32).range(1..)
    )]
    limit: u32,

    /// Print one JSON object
    #[arg(long)]
    json: bool,

    #[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql"))]
    #[command(flatten)]
    pub(crate) database: crate::cli::args::databases::DatabaseArgs,
}

/// What failed. Its JSON is documented in `docs/cli.md`; `None` is what could not be found out.
#[derive(Debug, Serialize)]
struct Failures {
    schema: u32,
    batch_id: String,
    processor: Option<String>,
    redrive_of: Option<String>,
    failing: Option<Vec<PageFailure>>,
    failed_pages: Option<Vec<PageFailure>>,
    failed_items: Option<Vec<FailedItem>>,
    /// All dead letters, by error.
    errors: Option<Vec<LettersOfError>>,
    dead_letters: Option<Vec<DeadLetter>>,
    more: bool,
    #[serde(skip)]
    letters: u64,
    /// Now, or when the batch ended.
    #[serde(skip)]
    now: Timestamp,
}

impl FailuresArgs {
    pub(crate) async fn run(
        &self,
        connection: &ConnectionArgs,
        processors: &Processors,
        program: &Program,
    ) -> CliResult {
        validate_id(&self.batch_id)?;
        // Everything that can be checked without a server is checked first.
        self.filter(self.processor.as_deref(), processors)?;
        let connected = connection.connect().await?;
        let around = (processors, program);
        let failures = self.find(&connected.client, around).await?;
        if self.json {
            output::json(&failures);
        } else {
            failures.tell(program);
        }
        connected.close().await?;
        Ok(Exit::Done)
    }

    async fn find(
        &self,
        client: &BatchClient,
        around: (&Processors, &Program),
    ) -> CliResult<Failures> {
        let handle = client.handle(&self.batch_id)?;
        match handle.state().await {
            Ok(_) => self.remembered(client, &handle, around).await,
            Err(ProgressError::NotFound { .. }) => self.forgotten(around.0).await,
            Err(error) => Err(error.into()),
        }
    }

    async fn remembered(
        &self,
        client: &BatchClient,
        handle: &BatchHandle,
        (processors, program): (&Processors, &Program),
    ) -> CliResult<Failures> {
        let look = Look::at(handle, program).await?;
        if let Some(trouble) = look.trouble() {
            note(format_args!("its pages are unknown: {trouble}"));
        }
        let source = client.redrive_of(LetterFilter::of(handle.id())).await;
        let (known, redrive_of) = match look.progress() {
            Some(p) => (Some(p.processor.clone()), p.redrive_of.clone()),
            None => match &source {
                Ok(batch) => (Some(batch.processor().to_owned()), None),
                Err(RedriveError::OfRedrive { redrive_of, .. }) => (None, Some(redrive_of.clone())),
                Err(_) => (None, None),
            },
        };
        let args = match (&self.args, &source) {
            (Some(given), _) => given.clone(),
            (None, Ok(batch)) => args_of(batch)?,
            (None, Err(_)) => Value::Null,
        };
        let processor = agree(handle.id(), known, self.processor.as_deref())?;
        let filter = self.filter(processor.as_deref(), processors)?;
        let letters = match &processor {
            // A redrive has none of its own.
            Some(name) if redrive_of.is_none() => match processors.letters(name, &args).await {
                Ok(store) => match self.letters(&*store, &filter).await {
                    Ok(letters) => {
                        if let (0, Some(progress)) = (letters.total, look.progress()) {
                            let args = &args;
                            check_store(&*store, Broken { progress, args }, processors).await?;
                        }
                        Some(letters)
                    }
                    Err(error) => {
                        note(CliError::from(error));
                        None
                    }
                },
                Err(why) => {
                    note(format_args!("no dead letters are shown: {why}"));
                    None
                }
            },
            _ => None,
        };
        let mut failures = self.failures(&filter, look.progress(), letters, look.now());
        failures.processor = processor;
        failures.redrive_of = redrive_of;
        Ok(failures)
    }

    /// A batch of which only its store can know.
    async fn forgotten(&self, processors: &Processors) -> CliResult<Failures> {
        let id = &self.batch_id;
        let Some(name) = &self.processor else {
            return Err(no_such_batch(id));
        };
        let args = processors.check(name, self.args.clone(), None);
        let args = args.map(|(args, _)| args);
        // What is wrong with them counts only where nothing else is.
        let args = args.or_else(|refused| match refused {
            Refused::UnknownProcessor { .. } => Ok(Value::Null),
            refused => Err(refused),
        })?;
        let store = processors.letters(name, &args).await.map_err(|why| {
            CliError::failure(format_args!(
                "the server remembers no batch \"{id}\", and its dead letters cannot be looked at: {why}"
            ))
        })?;
        let report = known_to(&*store, id, name).await?;
        note(format_args!(
            "the server does not remember batch \"{id}\"; this is what its processor keeps"
        ));
        let filter = self.filter(Some(name), processors)?;
        let letters = self.letters(&*store, &filter).await?;
        let progress = report.as_ref().map(|report| &report.progress);
        let now = report.as_ref().map_or_else(now, |report| report.ended_at);
        let mut failures = self.failures(&filter, progress, Some(letters), now);
        failures.processor = Some(name.clone());
        Ok(failures)
    }

    fn filter(&self, processor: Option<&str>, processors: &Processors) -> CliResult<LetterFilter> {
        self.filter.of(&self.batch_id, processor, processors)
    }

    async fn letters(
        &self,
        store: &dyn DeadLetters,
        filter: &LetterFilter,
    ) -> Result<Letters, StoreError> {
        Letters::of(store, filter, self.limit as usize).await
    }

    fn failures(
        &self,
        filter: &LetterFilter,
        progress: Option<&Progress>,
        letters: Option<Letters>,
        now: Timestamp,
    ) -> Failures {
        let pages = |pages: &[PageFailure]| -> Vec<_> {
            let meant = pages.iter().filter(|page| means_page(filter, page));
            meant.cloned().collect()
        };
        // What is a dead letter is in the store, or has been redriven.
        let stored = letters.is_some();
        let mut failed_pages = progress.map(|p| pages(&p.failed));
        let mut failed_items = progress.map(|p| {
            let meant = p
                .failed_items
                .iter()
                .filter(|item| means_item(filter, item));
            meant.cloned().collect::<Vec<_>>()
        });
        if stored {
            let given_up = |page: &PageFailure| page.state != FailureState::DeadLetter;
            failed_pages = failed_pages.map(|pages| pages.into_iter().filter(given_up).collect());
            failed_items
                .iter_mut()
                .for_each(|items| items.retain(|item| !item.dead_letter));
        }
        let more = match &letters {
            Some(letters) => letters.total > letters.first.len() as u64,
            None => progress.is_some_and(|p| {
                p.pages_failed > p.failed.len() as u64
                    || p.items.failed > p.failed_items.len() as u64
            }),
        };
        Failures {
            schema: SCHEMA,
            batch_id: self.batch_id.clone(),
            processor: None,
            redrive_of: None,
            failing: progress.map(|p| pages(&p.failing)),
            failed_pages,
            failed_items,
            errors: letters.as_ref().map(|letters| letters.errors.clone()),
            letters: letters.as_ref().map_or(0, |letters| letters.total),
            dead_letters: letters.map(|letters| letters.first),
            more,
            now,
        }
    }
}

fn now() -> Timestamp {
    std::time::SystemTime::now().into()
}

/// The processor that the server knows, or else the one that the user named.
pub(crate) fn agree(
    batch_id: &str,
    known: Option<String>,
    given: Option<&str>,
) -> CliResult<Option<String>> {
    match (known, given) {
        (Some(known), Some(given)) if known != given => Err(CliError::usage(format_args!(
            "batch \"{batch_id}\" is one of processor \"{known}\", not of \"{given}\""
        ))),
        (Some(known), _) => Ok(Some(known)),
        (None, given) => Ok(given.map(str::to_owned)),
    }
}

/// The server does not know it, and nobody said whom else to ask.
pub(crate) fn no_such_batch(batch_id: &str) -> CliError {
    CliError::failure(format_args!(
        "there is no batch \"{batch_id}\" (see `list`)"
    ))
    .hint("if the server has forgotten it, name its processor with --processor: that may keep its dead letters")
}

/// Checks that a store knows a batch, and gives its latest report.
pub(crate) async fn known_to(
    store: &dyn DeadLetters,
    batch_id: &str,
    processor: &str,
) -> CliResult<Option<crate::progress::report::BatchReport>> {
    let report = in_time(store.reports(batch_id)).await?.into_iter().next();
    let of_batch = LetterFilter::of(batch_id);
    if report.is_none() && in_time(store.list(&of_batch, None, 1)).await?.is_empty() {
        return Err(CliError::failure(format_args!(
            "there is no batch \"{batch_id}\": neither the server nor processor \"{processor}\" knows it"
        )));
    }
    Ok(report)
}

/// A store of dead letters did not answer.
#[derive(Debug)]
pub(crate) struct StoreError(String);

impl From<StoreError> for CliError {
    fn from(error: StoreError) -> Self {
        Self::failure(format_args!("the dead letters cannot be read: {}", error.0))
    }
}

/// Waits for a store, but not for ever.
pub(crate) async fn in_time<T>(
    answer: impl Future<Output = Result<T, PageError>>,
) -> Result<T, StoreError> {
    match tokio::time::timeout(STORE_TIMEOUT, answer).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(StoreError(format!(
            "{}: {}",
            error.error_type(),
            error.message()
        ))),
        Err(_) => Err(StoreError(format!("no answer within {STORE_TIMEOUT:?}"))),
    }
}

/// The next step where dead letters are left.
pub(crate) fn redrive_hint(batch_id: &str, processor: Option<&str>, program: &Program) -> String {
    let redrive = program.of_batch("redrive", batch_id);
    let hint = format!("`{redrive}` tries the dead letters again");
    match processor {
        Some("sql-import") => format!(
            "{hint}, as their records stand in the file; a record whose corrected copy was imported would come twice"
        ),
        _ => hint,
    }
}

impl Failures {
    fn tell(&self, program: &Program) {
        let text = self.text();
        let id = &self.batch_id;
        if text.is_empty() {
            note(format_args!("batch \"{id}\" has no failures to show"));
        } else {
            output::result(text);
        }
        if let Some(redrive_of) = &self.redrive_of {
            note(format_args!(
                "it redrives \"{redrive_of}\"; `{}` lists the dead letters that are left",
                program.of_batch("failures", redrive_of)
            ));
        }
        if self.more {
            note(match self.dead_letters {
                Some(_) => {
                    "these are the first dead letters by their keys; --limit shows more of them"
                }
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

    /// Nothing is shortened here: this is where people look a key up.
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

/// Where a page is.
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

    /// Keys and messages come from the data, so they may hold anything.
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

    #[test]
    fn the_processor_that_is_known_cannot_be_contradicted() {
        let known = || Some("p".to_owned());
        assert_eq!(agree("b", known(), None).unwrap(), known());
        assert_eq!(agree("b", known(), Some("p")).unwrap(), known());
        assert_eq!(agree("b", None, Some("p")).unwrap(), known());
        assert_eq!(agree("b", None, None).unwrap(), None);
        let error = agree("b", known(), Some("q")).unwrap_err();
        assert_eq!(error.exit(), Exit::Usage);
    }
}

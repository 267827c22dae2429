//! Why a page failed: the error type that user code returns and that the engine acts on.

#[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql"))]
pub(crate) mod of_database;
#[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql"))]
pub(crate) mod redaction;
pub(crate) mod text;

use std::{error::Error as StdError, fmt, time::Duration};

use serde::{Deserialize, Serialize};

use crate::base::error::text::words;

/// Maximum length of an error message that is kept in a history, in characters.
pub(crate) const MAX_MESSAGE_CHARS: usize = 200;

/// The likely cause of an error: the page, the circumstances, or unknown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Blame {
    /// The circumstances: an outage, a lock, or code that does not fit the batch. Time or a deployment cures
    /// it.
    #[default]
    Moment,
    /// The cause is unknown. The error counts against the page if other pages succeed in the meantime.
    Unknown,
    /// The data of the page.
    Page,
}

/// A page could not be fetched or processed.
///
/// The engine treats it according to how it was built:
///
/// | built with | the page is |
/// |---|---|
/// | `?` on any [`std::error::Error`], [`PageError::retryable`] | tried again after the backoff of its [`RetryPolicy`](crate::settings::RetryPolicy) |
/// | [`PageError::retry_after`] | tried again after exactly that delay |
/// | [`PageError::environment`] | tried again without using up an attempt, however often: the page is not to blame |
/// | [`PageError::non_retryable`] | given up at once and listed among the failures |
///
/// `?` on an error of `sqlx`, or on one that has such an error as its cause, depends on the answer of the
/// database:
///
/// | the database says | type | the page is |
/// |---|---|---|
/// | a row violates a constraint, or an expression fails on it | `UniqueViolation`, `ForeignKeyViolation`, `NotNullViolation`, `CheckViolation`, `ExclusionViolation`, `InvalidData` | bisected at once, until the row is alone |
/// | another session held the rows, or the statement took too long | `Deadlock`, `LockTimeout`, `SerializationFailure`, `StatementTimeout`, `OutOfMemory` | tried again |
/// | a trigger or a function of the user raises an error | `RaisedException` | bisected at once, until the row is alone |
/// | it rejects the statement for another reason | `DatabaseError`, `UnreadableValue` | tried three times, then bisected |
/// | nothing, or that it is stopping or starting | `ConnectionLost` | tried again |
/// | nothing: no connection of the pool was free in time | `PoolTimedOut` | treated as [`environment`](PageError::environment) |
/// | that it accepts no writes | `ReadOnlyDatabase` | treated as `environment` |
/// | that the statement, the schema or a grant is wrong | `SqlStatement` | treated as `environment`, because every page is affected |
///
/// In [`RetryMode::AtMostOnce`](crate::settings::RetryMode::AtMostOnce) the engine never tries a page again once
/// its `process` has returned an error of any kind.
///
/// `docs/errors.md` lists the codes of each type. It also says what happens when the same page keeps failing
/// while others finish.
///
/// Row values that the database puts into a message are removed from it. Messages of the processor itself go
/// through [`PageProcessor::redact`](crate::PageProcessor::redact).
///
/// An error whose type name is in the [`non_retryable_types`](crate::ProcessorSettings::non_retryable_types) of
/// the processor is non-retryable, unless it was built with [`PageError::environment`].
///
/// Like `anyhow::Error`, `PageError` does not implement [`std::error::Error`], so that `?` can convert every other
/// error into it.
///
/// ```
/// use temporal_batch::PageError;
///
/// fn parse(s: &str) -> Result<i64, PageError> {
///     Ok(s.parse()?) // retryable; its type is "ParseIntError"
/// }
/// assert_eq!(parse("x").unwrap_err().error_type(), "ParseIntError");
///
/// let gone = PageError::non_retryable("TableDropped", "relation \"users\" does not exist");
/// assert!(!gone.is_retryable());
/// ```
pub struct PageError {
    error_type: String,
    message: String,
    retry: Retry,
    blame: Blame,
    /// The record that failed alone, for its dead letter.
    record: Option<Box<str>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Retry {
    Backoff,
    After(Duration),
    /// The page is tried again after the backoff, and uses up no attempt.
    Environment,
    Never,
}

/// # Construct
impl PageError {
    /// Creates a failure that another attempt may avoid. Its type is `"Retryable"` unless
    /// [`with_type`](Self::with_type) sets another.
    pub fn retryable(message: impl fmt::Display) -> Self {
        Self::new("Retryable", message, Retry::Backoff)
    }

    /// Creates a failure that specifies its own waiting time, such as an HTTP `Retry-After`. Its type is
    /// `"RetryAfter"`.
    pub fn retry_after(delay: Duration, message: impl fmt::Display) -> Self {
        Self::new("RetryAfter", message, Retry::After(delay))
    }

    /// Creates a failure of the environment of the worker: nothing about the page is wrong, and other pages would fail in
    /// the same way. Examples are a mount that is missing, a license server that is down, or code that does not fit
    /// the batch. Its type is `"Environment"` unless [`with_type`](Self::with_type) sets another.
    ///
    /// - The page uses up no attempt, so it is never given up and never gets a dead letter for this failure. Its
    ///   items do not count as failed, and neither does the page for the batch's [`Tolerance`](crate::settings::Tolerance).
    /// - It is tried again after the backoff of its [`RetryPolicy`](crate::settings::RetryPolicy), which grows to
    ///   [`max_interval`](crate::settings::RetryPolicy::max_interval), on any worker that has the processor. After about seven
    ///   days of this the batch fails, and can be continued. With [extended retries](crate::settings::ExtendedRetries) that
    ///   have no limit, it waits forever.
    /// - The failure is listed among the failing pages with 0 attempts. While no stride of the batch can advance, the
    ///   phase is [`Blocked`](crate::progress::Phase::Blocked), and the status shows this error as the reason.
    /// - In [`RetryMode::AtMostOnce`](crate::settings::RetryMode::AtMostOnce) all this holds only for `fetch`: once `process`
    ///   has begun, the page is given up, whatever its error.
    /// - Before the first page, [`prepare`](crate::PageProcessor::prepare) is tried again until it succeeds.
    /// - [`try_item`](crate::PageContext::try_item) tries the item as often as after any other error. Return the
    ///   error from `process` instead of reporting the item as failed; [`is_environment`](Self::is_environment) tells
    ///   such errors apart.
    pub fn environment(message: impl fmt::Display) -> Self {
        Self::new("Environment", message, Retry::Environment)
    }

    /// Creates a failure that no further attempt can cure.
    pub fn non_retryable(error_type: impl Into<String>, message: impl fmt::Display) -> Self {
        Self::new(error_type, message, Retry::Never)
    }

    /// Sets the type of the failure, which listings show and
    /// [`non_retryable_types`](crate::ProcessorSettings::non_retryable_types) matches.
    #[must_use]
    pub fn with_type(mut self, error_type: impl Into<String>) -> Self {
        self.error_type = error_type.into();
        self
    }

    fn new(error_type: impl Into<String>, message: impl fmt::Display, retry: Retry) -> Self {
        Self {
            error_type: error_type.into(),
            message: message.to_string(),
            retry,
            blame: Blame::default(),
            record: None,
        }
    }

    pub(crate) fn blaming(mut self, blame: Blame) -> Self {
        self.blame = blame;
        self
    }

    /// Attaches the page's one record, for its dead letter. The record must not be in the message, because
    /// messages are logged and stored in histories.
    #[cfg_attr(
        not(all(
            feature = "files",
            any(feature = "sqlite", feature = "postgres", feature = "mysql")
        )),
        allow(dead_code, reason = "for `SqlImport`")
    )]
    pub(crate) fn with_record(mut self, record: String) -> Self {
        self.record = Some(record.into());
        self
    }

    pub(crate) fn record(&self) -> Option<&str> {
        self.record.as_deref()
    }

    /// Replaces the message with a redacted one.
    pub(crate) fn redacted(self, redact: impl FnOnce(String) -> String) -> Self {
        Self {
            message: redact(self.message),
            ..self
        }
    }

    pub(crate) fn panicked(panic: &(dyn std::any::Any + Send)) -> Self {
        let message = panic
            .downcast_ref::<&str>()
            .map(|s| (*s).to_owned())
            .or_else(|| panic.downcast_ref::<String>().cloned())
            .unwrap_or_else(|| "a value that is not a string".to_owned());
        Self::new("Panic", format_args!("panicked: {message}"), Retry::Backoff)
            .blaming(Blame::Unknown)
    }
}

/// # Inspect
impl PageError {
    /// Returns the name of the kind of failure.
    pub fn error_type(&self) -> &str {
        &self.error_type
    }

    /// Returns the full message, including causes. Histories and listings keep its first 200 characters.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Returns whether another attempt may succeed.
    pub fn is_retryable(&self) -> bool {
        self.retry != Retry::Never
    }

    /// Returns whether the environment is at fault, and not the page. See [`environment`](Self::environment).
    pub fn is_environment(&self) -> bool {
        self.retry == Retry::Environment
    }

    /// Returns whether no further attempt is made, given the [non-retryable
    /// types](crate::ProcessorSettings::non_retryable_types) of a processor.
    pub(crate) fn is_final(&self, non_retryable_types: &[String]) -> bool {
        let listed = || non_retryable_types.contains(&self.error_type);
        match self.retry {
            Retry::Never => true,
            Retry::Environment => false,
            Retry::Backoff | Retry::After(_) => listed(),
        }
    }

    pub(crate) fn blame(&self) -> Blame {
        self.blame
    }

    /// Returns the waiting time that the failure itself specified.
    pub fn delay(&self) -> Option<Duration> {
        match self.retry {
            Retry::After(delay) => Some(delay),
            Retry::Backoff | Retry::Environment | Retry::Never => None,
        }
    }
}

/// Returns whether an error says nothing about what was written: the environment is at fault, the database cannot be reached
/// or has another session wait, or the sink named the time at which it takes more.
#[cfg(feature = "temporal")]
pub fn is_of_the_moment(error: &PageError) -> bool {
    #[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql"))]
    let passes = error.blame == Blame::Moment && of_database::passes(&error.error_type);
    #[cfg(not(any(feature = "sqlite", feature = "postgres", feature = "mysql")))]
    let passes = false;
    passes || matches!(error.retry, Retry::Environment | Retry::After(_))
}

impl fmt::Debug for PageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for PageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.error_type, self.message)
    }
}

/// Lets `?` convert it wherever any error is accepted, such as in the function that builds a processor.
impl From<PageError> for Box<dyn StdError + Send + Sync> {
    fn from(error: PageError) -> Self {
        error.to_string().into()
    }
}

impl<E: StdError + 'static> From<E> for PageError {
    fn from(error: E) -> Self {
        let message = words(&error);
        #[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql"))]
        if let Some(of_database) = crate::base::error::of_database::page_error(&error, &message) {
            return of_database;
        }
        let error_type = short_type_name(std::any::type_name::<E>());
        match is_of_a_value(&error) {
            true => {
                Self::new(error_type, without_quoted(&message), Retry::Backoff).blaming(Blame::Page)
            }
            false => Self::new(error_type, message, Retry::Backoff).blaming(Blame::Unknown),
        }
    }
}

/// Returns whether the error itself says that a value cannot be parsed. Errors that merely have such a cause
/// are not included: their origin may be anything, such as the answer of a service that is down.
fn is_of_a_value(error: &(dyn StdError + 'static)) -> bool {
    let of_json = error.downcast_ref::<serde_json::Error>();
    of_json.is_some_and(|error| !error.is_io())
        || error.is::<std::num::ParseIntError>()
        || error.is::<std::num::ParseFloatError>()
        || error.is::<std::num::TryFromIntError>()
        || error.is::<std::str::Utf8Error>()
        || error.is::<std::string::FromUtf8Error>()
}

/// Replaces quoted text, which may be a value, by `…`.
pub(crate) fn without_quoted(message: &str) -> String {
    let mut left = String::with_capacity(message.len());
    let mut rest = message;
    while let Some(start) = rest.find(['"', '\'', '`']) {
        let (before, quoted) = rest.split_at(start);
        let quote = &quoted[..1];
        // An apostrophe inside a word does not open a quotation.
        let inside = quote == "'" && before.ends_with(char::is_alphanumeric);
        left.push_str(before);
        rest = &quoted[1..];
        left.push_str(quote);
        if inside {
            continue;
        }
        // Skips to the last quote of this kind, because a value may contain quotes. A quote that is never
        // closed was truncated.
        left.push('…');
        match rest.rfind(quote) {
            Some(end) => rest = &rest[end..][1..],
            None => return left,
        }
        left.push_str(quote);
    }
    left.push_str(rest);
    left
}

/// Shortens `core::num::error::ParseIntError` to `ParseIntError`. A bare `Error` keeps its crate, as in
/// `sqlx_core::Error`.
fn short_type_name(full: &str) -> String {
    let path = full.split('<').next().unwrap_or(full);
    let last = path.rsplit("::").next().unwrap_or(path);
    match path.split("::").next() {
        Some(krate) if last == "Error" && krate != last => format!("{krate}::{last}"),
        _ => last.to_owned(),
    }
}

/// Cuts a text to `max` characters and marks the cut.
pub(crate) fn truncate(text: &str, max: usize) -> String {
    if text.chars().count() <= max {
        return text.to_owned();
    }
    let mut cut: String = text.chars().take(max.saturating_sub(1)).collect();
    cut.push('…');
    cut
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bare_error_type_keeps_its_crate() {
        assert_eq!(
            short_type_name("sqlx_core::error::Error"),
            "sqlx_core::Error"
        );
        assert_eq!(
            short_type_name("core::num::error::ParseIntError"),
            "ParseIntError"
        );
        assert_eq!(short_type_name("my::Wrapper<a::B>"), "Wrapper");
    }

    #[test]
    fn truncation_counts_characters_and_marks_the_cut() {
        assert_eq!(truncate("äöü", 3), "äöü");
        assert_eq!(truncate("äöüß", 3), "äö…");
    }

    #[test]
    fn a_fault_of_the_environment_is_tried_again_whatever_its_type() {
        let types = ["Gone".to_owned()];
        for (error, is_final, is_environment) in [
            (PageError::retryable("x"), false, false),
            (PageError::retryable("x").with_type("Gone"), true, false),
            (PageError::non_retryable("Lost", "x"), true, false),
            (PageError::environment("x"), false, true),
            (PageError::environment("x").with_type("Gone"), false, true),
        ] {
            let error = error.redacted(|message| message + "y").blaming(Blame::Page);
            assert_eq!(error.is_final(&types), is_final, "{error}");
            assert_eq!(error.is_environment(), is_environment, "{error}");
        }
    }

    #[test]
    fn causes_are_part_of_the_message_once() {
        #[derive(Debug, thiserror::Error)]
        #[error("outer")]
        struct Outer(#[source] std::num::ParseIntError);
        let cause = "x".parse::<i32>().unwrap_err();
        let error = PageError::from(Outer(cause));
        assert_eq!(error.message(), "outer: invalid digit found in string");
        assert_eq!(error.error_type(), "Outer");
    }
}

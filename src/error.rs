//! Why a page failed: the error values of user code and of the page contract.

use std::{error::Error as StdError, fmt, time::Duration};

/// Longest error message that is kept in a history, in characters.
pub(crate) const MAX_MESSAGE_CHARS: usize = 200;

/// A page could not be fetched or processed.
///
/// What the engine does with it:
///
/// | built with | the page is |
/// |---|---|
/// | `?` on any [`std::error::Error`], [`PageError::retryable`] | tried again after the backoff of its [`RetryPolicy`](crate::RetryPolicy) |
/// | [`PageError::retry_after`] | tried again after exactly that delay |
/// | [`PageError::non_retryable`] | given up at once and listed among the failures |
///
/// What `?` makes of an error of `sqlx`, or of one that has it as its cause, depends on what the database
/// said:
///
/// | the database says | type | the page is |
/// |---|---|---|
/// | a row breaks a rule, or an expression fails on it | `UniqueViolation`, `ForeignKeyViolation`, `NotNullViolation`, `CheckViolation`, `ExclusionViolation`, `InvalidData` | given up at once: bisected where the processor keeps dead letters |
/// | somebody else had the rows, or it took too long | `Deadlock`, `LockTimeout`, `SerializationFailure`, `StatementTimeout` | tried again |
/// | nothing, or that it stops or starts | `ConnectionLost` | tried again |
/// | nothing: no connection of the pool was free in time | `PoolTimedOut` | tried again, and has lost no attempt |
/// | that it takes no writes | `ReadOnlyDatabase` | tried again, and has lost no attempt |
/// | that the statement, the schema or a grant is wrong | `SqlStatement` | tried again, and has lost no attempt: it concerns every page |
///
/// In [`RetryMode::AtMostOnce`](crate::RetryMode::AtMostOnce) a page is not tried again, whatever its `process` returned.
///
/// Values of rows are left out of the message, where the database puts them into it.
///
/// An error whose type name is among the
/// [`non_retryable_types`](crate::ProcessorSettings::non_retryable_types) of the processor is treated as
/// non-retryable however it was built.
///
/// Like `anyhow::Error` it does not implement [`std::error::Error`] itself, so that `?` can convert every
/// other error into it.
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
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Retry {
    Backoff,
    After(Duration),
    Never,
}

/// # Construct
impl PageError {
    /// A failure that another attempt may not meet. Its type is `"Retryable"`;
    /// see [`with_type`](Self::with_type).
    pub fn retryable(message: impl fmt::Display) -> Self {
        Self::new("Retryable", message, Retry::Backoff)
    }

    /// A failure that comes with its own waiting time, such as an HTTP `Retry-After`.
    /// Its type is `"RetryAfter"`.
    pub fn retry_after(delay: Duration, message: impl fmt::Display) -> Self {
        Self::new("RetryAfter", message, Retry::After(delay))
    }

    /// A failure that no other attempt will cure.
    pub fn non_retryable(error_type: impl Into<String>, message: impl fmt::Display) -> Self {
        Self::new(error_type, message, Retry::Never)
    }

    /// Names the type of the failure, as shown in listings and matched by
    /// [`non_retryable_types`](crate::ProcessorSettings::non_retryable_types).
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
        }
    }

    pub(crate) fn panicked(panic: &(dyn std::any::Any + Send)) -> Self {
        let message = panic
            .downcast_ref::<&str>()
            .map(|s| (*s).to_owned())
            .or_else(|| panic.downcast_ref::<String>().cloned())
            .unwrap_or_else(|| "a value that is not a string".to_owned());
        Self::new("Panic", format_args!("panicked: {message}"), Retry::Backoff)
    }
}

/// # Inspect
impl PageError {
    /// The name of the kind of failure.
    pub fn error_type(&self) -> &str {
        &self.error_type
    }

    /// The whole message, causes included. Histories and listings keep its first 200 characters.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Whether another attempt may succeed.
    pub fn is_retryable(&self) -> bool {
        self.retry != Retry::Never
    }

    /// The waiting time that the failure itself asked for.
    pub fn delay(&self) -> Option<Duration> {
        match self.retry {
            Retry::After(delay) => Some(delay),
            Retry::Backoff | Retry::Never => None,
        }
    }
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

/// So that `?` takes it where any error will do, as in the function that builds a processor.
impl From<PageError> for Box<dyn StdError + Send + Sync> {
    fn from(error: PageError) -> Self {
        error.to_string().into()
    }
}

impl<E: StdError + 'static> From<E> for PageError {
    fn from(error: E) -> Self {
        let message = message_of(&error);
        #[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql"))]
        if let Some(of_database) = crate::sql::page_error(&error, &message) {
            return of_database;
        }
        Self::new(
            short_type_name(std::any::type_name::<E>()),
            message,
            Retry::Backoff,
        )
    }
}

/// What an error says, and what its causes say.
fn message_of(error: &dyn StdError) -> String {
    let mut message = error.to_string();
    let mut cause = error.source();
    while let Some(source) = cause {
        let text = source.to_string();
        // Many libraries repeat their source in their own message.
        if !message.contains(&text) {
            message.push_str(": ");
            message.push_str(&text);
        }
        cause = source.source();
    }
    message
}

/// `core::num::error::ParseIntError` becomes `ParseIntError`; a bare `Error` keeps its crate, as in
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

//! Errors as text for people: what failed and why, without the internals of libraries.
//!
//! Every error that reaches a person is formatted here: on the command line, in the reasons of failed pages, in
//! logs. A library's own text often contains its type names (`tonic::transport::Error(..)`), a fixed prefix, or
//! a position in a text that the person did not write.

use std::error::Error;

#[cfg(feature = "temporal")]
use temporalio_client::{
    errors::{WorkflowGetResultError, WorkflowInteractionError},
    tonic::Status,
};

/// Joins the messages of an error and of its causes, each once.
pub fn words(error: &(dyn Error + 'static)) -> String {
    let said = said(error);
    match (said.text, said.cause) {
        (Text::Own(text), None) => text,
        (Text::Own(text), Some(cause)) => joined(text, &words(cause)),
        (Text::Nothing, Some(cause)) => words(cause),
        (Text::Nothing, None) => "the connection failed".to_owned(),
        (Text::Theirs, cause) => with_causes(tidy(error.to_string()), cause),
    }
}

/// Appends the messages of the causes to a message. A cause whose text the message already contains is reworded
/// in place.
pub(crate) fn with_causes(text: String, cause: Option<&(dyn Error + 'static)>) -> String {
    let Some(cause) = cause else {
        return text;
    };
    let (raw, told) = (cause.to_string(), words(cause));
    match text.rfind(&raw).filter(|_| !raw.is_empty()) {
        Some(at) => format!("{}{told}{}", &text[..at], &text[at + raw.len()..]),
        None => joined(text, &told),
    }
}

fn joined(text: String, cause: &str) -> String {
    match text.contains(cause) {
        true => text,
        false => format!("{text}: {cause}"),
    }
}

/// Cleans up the debug text of a status, which some SDK errors contain. That text ends with the internals of
/// its source.
fn tidy(text: String) -> String {
    let Some((before, status)) = text.split_once("code: '") else {
        return text;
    };
    let Some((code, rest)) = status.split_once('\'') else {
        return text;
    };
    let rest = rest.split(", source: ").next().unwrap_or_default();
    let message = rest.strip_prefix(", message: \"");
    let message = message.and_then(|message| message.strip_suffix('"'));
    let message = message.map(|message| message.replace("\\\"", "\""));
    let said = match message {
        Some(message) if is_of_a_transport(&message) => NO_SERVER.to_owned(),
        Some(message) => message,
        None => code.to_owned(),
    };
    format!("{before}{said}")
}

const NO_SERVER: &str = "no connection to the Temporal server";

/// The message of one error without its causes.
enum Text {
    /// A message in this crate's words.
    Own(String),
    /// An empty message: the cause is more informative.
    Nothing,
    /// The message of the error itself.
    Theirs,
}

struct Said<'a> {
    text: Text,
    cause: Option<&'a (dyn Error + 'static)>,
}

fn said<'a>(error: &'a (dyn Error + 'static)) -> Said<'a> {
    #[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql"))]
    if let Some(error) = error.downcast_ref::<sqlx::Error>() {
        return of_sqlx(error);
    }
    #[cfg(feature = "temporal")]
    if let Some(said) = of_temporal(error) {
        return said;
    }
    if let Some(error) = error.downcast_ref::<std::io::Error>() {
        return of_io(error);
    }
    if let Some(error) = error.downcast_ref::<serde_json::Error>() {
        return own(without_place(error));
    }
    let cause = error.source();
    let text = match cause {
        Some(_) if is_of_a_transport(&error.to_string()) => Text::Nothing,
        _ => Text::Theirs,
    };
    Said { text, cause }
}

fn own(text: impl Into<String>) -> Said<'static> {
    Said {
        text: Text::Own(text.into()),
        cause: None,
    }
}

/// Returns whether a text is only the name of a transport layer.
fn is_of_a_transport(text: &str) -> bool {
    const LAYERS: [&str; 6] = [
        "transport error",
        "tcp connect error",
        "error trying to connect",
        "connection error",
        "http2 error",
        "dns error",
    ];
    LAYERS.contains(&text) || text.starts_with("client error (")
}

/// Removes the error number from texts such as `Connection refused (os error 111)`.
fn of_io(error: &std::io::Error) -> Said<'_> {
    if let Some(inner) = error.get_ref() {
        let raw = inner.to_string();
        // An empty text means that the error was built from its kind alone.
        let cause: &(dyn Error + 'static) = inner;
        return match raw.is_empty() {
            true => own(error.kind().to_string()),
            false => own(words(cause)),
        };
    }
    let text = error.to_string();
    own(match text.rfind(" (os error ") {
        Some(at) => text[..at].to_owned(),
        None => text,
    })
}

/// Removes the position from errors in JSON of one line. A program produced that JSON, so its reader cannot
/// look up a column.
fn without_place(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let place = format!(" at line {} column {}", error.line(), error.column());
    match text.strip_suffix(&place) {
        Some(text) if error.line() <= 1 => text.to_owned(),
        _ => text,
    }
}

#[cfg(feature = "temporal")]
fn of_temporal<'a>(error: &'a (dyn Error + 'static)) -> Option<Said<'a>> {
    use temporalio_client::tonic::transport;

    if error.is::<transport::Error>() {
        return Some(Said {
            text: Text::Nothing,
            cause: error.source(),
        });
    }
    let status = crate::base::error::text::status_of(error)?;
    let message = status.message();
    Some(match status.source() {
        // A status with a source was created by the client, and its message repeats the source.
        Some(source) => Said {
            text: Text::Own(NO_SERVER.to_owned()),
            cause: Some(source),
        },
        None if message.is_empty() => own(status.code().description()),
        None => own(message),
    })
}

#[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql"))]
fn of_sqlx(error: &sqlx::Error) -> Said<'_> {
    use sqlx::Error as E;

    let text = match error {
        E::Database(error) => return own(of_database(&**error)),
        E::Protocol(what) => {
            return own(format!("unexpected answer from the database: {what}"));
        }
        E::PoolClosed | E::WorkerCrashed => return own("the connection to the database is closed"),
        E::RowNotFound => return own("the database returned no row where one is expected"),
        E::Io(_) => "the connection to the database failed".to_owned(),
        E::Tls(_) => "no TLS connection to the database".to_owned(),
        E::ColumnDecode { index, .. } => format!("column {index} cannot be read"),
        E::Decode(_) => "a value of the database cannot be read".to_owned(),
        E::Encode(_) => "a value cannot be sent to the database".to_owned(),
        E::Configuration(_) => "the settings of the database connection are invalid".to_owned(),
        _ => {
            return Said {
                text: Text::Theirs,
                cause: error.source(),
            };
        }
    };
    Said {
        text: Text::Own(text),
        cause: error.source(),
    }
}

/// Returns the message of a database. `sqlx` appends the line of PostgreSQL's source code that raised the
/// error, which reads like a line of the statement.
#[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql"))]
fn of_database(error: &dyn sqlx::error::DatabaseError) -> String {
    #[cfg(feature = "mysql")]
    if error
        .try_downcast_ref::<sqlx::mysql::MySqlDatabaseError>()
        .is_some()
    {
        // MySQL's manual is organised by error number, so the number stays in the text.
        return error.to_string();
    }
    error.message().to_owned()
}

/// Returns the server's answer, which some SDK errors do not include in their text.
#[cfg(feature = "temporal")]
pub(crate) fn status_of<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a Status> {
    if let Some(WorkflowInteractionError::Rpc(status)) = error.downcast_ref() {
        return Some(status);
    }
    if let Some(WorkflowGetResultError::Rpc(status)) = error.downcast_ref() {
        return Some(status);
    }
    error.downcast_ref()
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{text}")]
    struct Layer {
        text: &'static str,
        source: Option<Box<dyn Error + Send + Sync>>,
    }

    fn layer(text: &'static str, source: impl Error + Send + Sync + 'static) -> Layer {
        let source = Some(source.into());
        Layer { text, source }
    }

    /// Asserts that a message contains no library internals.
    pub(crate) fn assert_no_insides(text: &str) {
        for inside in [
            "tonic::",
            "hyper",
            "Os {",
            "os error",
            "error returned from database",
            "error occurred while",
            "transport error",
            "tcp connect",
            "metadata:",
            "source:",
            " at line ",
        ] {
            assert!(!text.contains(inside), "{inside} in {text}");
        }
    }

    #[test]
    fn causes_are_told_once() {
        let refused = || io::Error::from(io::ErrorKind::ConnectionRefused);
        let error = layer("cannot list", layer("no answer", refused()));
        assert_eq!(words(&error), "cannot list: no answer: connection refused");
        let repeats = layer("no answer: connection refused", refused());
        assert_eq!(words(&repeats), "no answer: connection refused");
    }

    #[test]
    fn numbers_of_the_system_and_places_in_one_line_of_json_are_left_out() {
        let missing = io::Error::from_raw_os_error(2);
        assert_eq!(
            words(&layer("cannot read x", missing)),
            "cannot read x: No such file or directory"
        );
        let json = serde_json::from_str::<u32>("\"x\"").unwrap_err();
        let told = words(&json);
        assert_eq!(told, "invalid type: string \"x\", expected u32");
        let lines = serde_json::from_str::<Vec<u32>>("[\n\"x\"]").unwrap_err();
        assert!(
            words(&lines).ends_with("at line 2 column 3"),
            "a person can look there"
        );
    }

    #[test]
    fn the_text_of_a_status_is_told_without_its_source() {
        for (text, told) in [
            (
                "Server error: code: 'The service is currently unavailable', message: \"tcp connect error\", source: \
                 tonic::transport::Error(Transport, hyper::Error(Connect, Os { code: 111 }))",
                "Server error: no connection to the Temporal server",
            ),
            (
                "code: 'Some entity that we attempted to create already exists', message: \"it is \\\"b\\\"\"",
                "it is \"b\"",
            ),
            (
                "code: 'The operation was cancelled'",
                "The operation was cancelled",
            ),
            ("code: 'left open", "code: 'left open"),
            ("as it is", "as it is"),
        ] {
            assert_eq!(tidy(text.to_owned()), told);
        }
    }

    #[cfg(feature = "temporal")]
    #[tokio::test]
    async fn a_server_that_is_not_there_is_told_without_the_layers_in_between() {
        use temporalio_client::{
            errors::WorkflowInteractionError,
            tonic::{Status, transport::Endpoint},
        };

        // Nothing listens on a port that was just given back.
        let port = std::net::TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let endpoint = Endpoint::from_shared(format!("http://127.0.0.1:{port}")).unwrap();
        let error = endpoint.connect().await.unwrap_err();
        assert!(format!("{error:?}").contains("tonic::transport::Error"));
        let told = words(&error);
        assert_eq!(told, "Connection refused");
        let status = Status::from_error(error.into());
        assert!(
            status.to_string().contains("tonic::transport::Error"),
            "{status}"
        );
        let server = "no connection to the Temporal server: Connection refused";
        let status_told = words(&status);
        assert_eq!(status_told, server);
        let rpc = WorkflowInteractionError::Rpc(status);
        let told = words(&layer("the server did not answer", rpc));
        assert_no_insides(&told);
        assert_eq!(told, format!("the server did not answer: {server}"));
        let answer = Status::permission_denied("Request unauthorized.");
        assert_eq!(words(&answer), "Request unauthorized.");
        assert_eq!(
            words(&Status::unavailable("")),
            "The service is currently unavailable"
        );
    }

    #[cfg(feature = "sqlite")]
    #[tokio::test]
    async fn what_a_database_says_is_told_as_it_says_it() {
        use sqlx::Row as _;

        let pool = sqlx::SqlitePool::connect("sqlite::memory:").await.unwrap();
        let error = sqlx::query("SELECT * FROM absent").fetch_all(&pool).await;
        let error = error.unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("error returned from database")
        );
        assert_eq!(words(&error), "no such table: absent");
        let row = sqlx::query("SELECT 'x' AS n")
            .fetch_one(&pool)
            .await
            .unwrap();
        let told = words(&row.try_get::<i64, _>("n").unwrap_err());
        assert_no_insides(&told);
        assert!(told.starts_with("column \"n\" cannot be read: "), "{told}");
        pool.close().await;
    }
}

//! The meaning of a database error: whether it says something about the page, about every page, or about the moment.
//! The codes are listed in `docs/errors.md`, and a test compares the list with this file.

use std::{error::Error as StdError, io::ErrorKind};

use sqlx::error::DatabaseError;

use super::redaction::without_values;
use crate::base::error::{Blame, PageError};

/// The cause of a failure. `docs/errors.md` lists the codes of each class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// The server cannot be reached, is stopping or starting, is out of space, or takes no more connections. Time
    /// cures it.
    Unavailable,
    /// The pool had no free connection in time. Nothing was sent.
    NoConnection,
    /// The connection broke while it was in use: the server went away, or a message was larger than the server
    /// accepts.
    Broken,
    /// Another session held the rows. Another attempt may succeed.
    Conflict,
    /// The statement took too long, or needed more memory than there is.
    Limit,
    /// The server accepts no writes, like a replica that is about to become the primary.
    ReadOnly,
    /// Rows violate a rule of the table, or make an expression fail. No other attempt cures it, and the
    /// other rows could be processed without them.
    Records,
    /// The statement, the schema or a grant is wrong. That concerns every page, and only a change there cures it.
    Statement,
    /// A trigger or a function of the user raised an error. The author of the rule has refused the rows, so no other attempt
    /// cures it.
    Raised,
    /// The server refused the page for a reason that is not listed.
    Refused,
    /// An error of unknown class.
    Unknown,
}

impl Class {
    fn blame(self) -> Blame {
        match self {
            Self::Unavailable | Self::NoConnection | Self::Conflict | Self::ReadOnly => {
                Blame::Moment
            }
            Self::Broken | Self::Limit | Self::Statement | Self::Unknown => Blame::Unknown,
            Self::Records | Self::Raised | Self::Refused => Blame::Page,
        }
    }

    /// Returns whether every page would fail in the same way.
    fn is_environment(self) -> bool {
        matches!(self, Self::NoConnection | Self::ReadOnly | Self::Statement)
    }
}

/// A class and the name under which it is listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    pub class: Class,
    pub error_type: &'static str,
}

const fn failure(class: Class, error_type: &'static str) -> Failure {
    Failure { class, error_type }
}

const CONNECTION_LOST: Failure = failure(Class::Unavailable, "ConnectionLost");
const BROKEN: Failure = failure(Class::Broken, "ConnectionLost");
const POOL_TIMED_OUT: Failure = failure(Class::NoConnection, "PoolTimedOut");
const NO_ROOM: Failure = failure(Class::Unavailable, "NoRoom");
const LOCK_TIMEOUT: Failure = failure(Class::Conflict, "LockTimeout");
const SERIALIZATION: Failure = failure(Class::Conflict, "SerializationFailure");
const STATEMENT_TIMEOUT: Failure = failure(Class::Limit, "StatementTimeout");
const OUT_OF_MEMORY: Failure = failure(Class::Limit, "OutOfMemory");
const READ_ONLY: Failure = failure(Class::ReadOnly, "ReadOnlyDatabase");
const UNIQUE: Failure = failure(Class::Records, "UniqueViolation");
const FOREIGN_KEY: Failure = failure(Class::Records, "ForeignKeyViolation");
const NOT_NULL: Failure = failure(Class::Records, "NotNullViolation");
const CHECK: Failure = failure(Class::Records, "CheckViolation");
const INVALID_DATA: Failure = failure(Class::Records, "InvalidData");
const STATEMENT: Failure = failure(Class::Statement, "SqlStatement");
const RAISED: Failure = failure(Class::Raised, "RaisedException");
const REFUSED: Failure = failure(Class::Refused, "DatabaseError");
const UNREADABLE: Failure = failure(Class::Refused, "UnreadableValue");
const UNKNOWN: Failure = failure(Class::Unknown, "sqlx::Error");
#[cfg(any(feature = "postgres", feature = "mysql"))]
const DEADLOCK: Failure = failure(Class::Conflict, "Deadlock");

/// Returns whether errors of a type are those of a moment, as long as they blame nothing else.
#[cfg(feature = "temporal")]
pub(crate) fn passes(error_type: &str) -> bool {
    let of_the_moment = [
        CONNECTION_LOST,
        POOL_TIMED_OUT,
        NO_ROOM,
        LOCK_TIMEOUT,
        SERIALIZATION,
        READ_ONLY,
    ];
    let mut types = of_the_moment.iter().map(|failure| failure.error_type);
    error_type == "Deadlock" || types.any(|of_the_moment| of_the_moment == error_type)
}

/// Returns the class and the error type of an error of `sqlx`.
pub(crate) fn classify(error: &sqlx::Error) -> Failure {
    match error {
        sqlx::Error::Database(error) => of_database(&**error),
        sqlx::Error::Io(error) => of_io(error.kind()),
        sqlx::Error::Protocol(_) => BROKEN,
        sqlx::Error::Tls(_) | sqlx::Error::PoolClosed | sqlx::Error::WorkerCrashed => {
            CONNECTION_LOST
        }
        sqlx::Error::PoolTimedOut => POOL_TIMED_OUT,
        sqlx::Error::TypeNotFound { .. }
        | sqlx::Error::ColumnNotFound(_)
        | sqlx::Error::ColumnIndexOutOfBounds { .. } => STATEMENT,
        sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_) | sqlx::Error::Encode(_) => {
            UNREADABLE
        }
        _ => UNKNOWN,
    }
}

/// Classifies an I/O error: an error of the environment if the session could not connect, since it has then sent
/// nothing.
fn of_io(kind: ErrorKind) -> Failure {
    match kind {
        ErrorKind::ConnectionReset
        | ErrorKind::ConnectionAborted
        | ErrorKind::BrokenPipe
        | ErrorKind::UnexpectedEof => BROKEN,
        _ => CONNECTION_LOST,
    }
}

/// Returns the page error for an error that is one of `sqlx`, or has one among its causes. `message` is its text with
/// all its causes. `None` if the class is unknown.
pub(crate) fn page_error(error: &(dyn StdError + 'static), message: &str) -> Option<PageError> {
    let mut cause = error;
    let error = loop {
        match cause.downcast_ref::<sqlx::Error>() {
            Some(error) => break error,
            None => cause = cause.source()?,
        }
    };
    let failure = classify(error);
    let message = without_values(error, failure.class, message);
    let page = match failure.class {
        Class::Unknown => return None,
        Class::Records | Class::Raised => PageError::non_retryable(failure.error_type, message),
        class if class.is_environment() => {
            PageError::environment(message).with_type(failure.error_type)
        }
        _ => PageError::retryable(message).with_type(failure.error_type),
    };
    Some(page.blaming(failure.class.blame()))
}

fn of_database(error: &dyn DatabaseError) -> Failure {
    #[cfg(feature = "postgres")]
    if let Some(error) = error.try_downcast_ref::<sqlx::postgres::PgDatabaseError>() {
        let failure = of_postgres(error.code(), error.routine());
        // A function may raise an error with any code. A listed code says what its author means.
        return match (failure == REFUSED, error.routine()) {
            (true, Some("exec_stmt_raise")) => RAISED,
            _ => failure,
        };
    }
    #[cfg(feature = "mysql")]
    if let Some(error) = error.try_downcast_ref::<sqlx::mysql::MySqlDatabaseError>() {
        return of_mysql(
            error.number(),
            error.code().unwrap_or_default(),
            error.message(),
        );
    }
    #[cfg(feature = "sqlite")]
    if let Some(error) = error.try_downcast_ref::<sqlx::sqlite::SqliteError>() {
        let code = DatabaseError::code(error).and_then(|code| code.parse().ok());
        return code.map_or(REFUSED, |code| {
            of_sqlite(code, DatabaseError::message(error))
        });
    }
    let _ = error;
    REFUSED
}

/// Returns the class by SQLSTATE. `routine` is the function of the server that found the error.
#[cfg(feature = "postgres")]
fn of_postgres(code: &str, routine: Option<&str>) -> Failure {
    match code {
        // Exceptions from the class that the first two digits name.
        "42501" if routine == Some("ExecWithCheckOptions") => CHECK,
        "25P03" | "25P04" | "53300" | "HV00N" => CONNECTION_LOST,
        "25006" => READ_ONLY,
        "40002" => failure(Class::Records, "ConstraintViolation"),
        "40003" => CONNECTION_LOST,
        "40P01" => DEADLOCK,
        "53200" | "54001" => OUT_OF_MEMORY,
        "55006" | "55P03" => LOCK_TIMEOUT,
        "55P04" => SERIALIZATION,
        "57014" => STATEMENT_TIMEOUT,
        "57P04" => STATEMENT,
        // For example a row that is too long for an index.
        "54000" => INVALID_DATA,
        _ => match code.get(..2).unwrap_or_default() {
            // A CASE without a matching branch, or an XML query that a row provides.
            "10" | "20" => INVALID_DATA,
            "53" => NO_ROOM,
            "55" => STATEMENT,
            "57" => CONNECTION_LOST,
            "72" => SERIALIZATION,
            "F0" => CONNECTION_LOST,
            "P0" => RAISED,
            _ => of_sqlstate(code),
        },
    }
}

/// Returns the classes of the SQL standard that PostgreSQL and MySQL share.
#[cfg(any(feature = "postgres", feature = "mysql"))]
fn of_sqlstate(code: &str) -> Failure {
    match code {
        "23502" => return NOT_NULL,
        "23503" | "23001" => return FOREIGN_KEY,
        "23505" => return UNIQUE,
        "23514" => return CHECK,
        "23P01" => return failure(Class::Records, "ExclusionViolation"),
        _ => {}
    }
    match code.get(..2).unwrap_or_default() {
        "08" => CONNECTION_LOST,
        "21" | "22" | "23" => INVALID_DATA,
        // A row that one statement changed twice.
        "27" => failure(Class::Records, "TriggeredDataChange"),
        // The CHECK OPTION of a view.
        "44" => CHECK,
        "40" => SERIALIZATION,
        // Raised by SIGNAL and similar statements.
        "45" => RAISED,
        // Unsupported features, denied access, missing objects.
        "03" | "0A" | "0B" | "0L" | "0P" | "24" | "26" | "28" | "2B" | "2D" | "34" | "3B"
        | "3D" | "3F" | "42" | "54" => STATEMENT,
        _ => REFUSED,
    }
}

/// Returns the class by error number, since a SQLSTATE is only a rough category in MySQL.
#[cfg(feature = "mysql")]
fn of_mysql(number: u16, state: &str, message: &str) -> Failure {
    match number {
        // Too many connections or errors, shutdown, network, killed, idle for too long, no cluster.
        1040
        | 1042
        | 1043
        | 1047
        | 1053
        | 1077..=1080
        | 1129
        | 1152
        | 1154..=1161
        | 1184
        | 1203
        | 1226
        | 1927
        | 3169
        | 4031 => CONNECTION_LOST,
        // No space on disk, in a table, for a thread or for a prepared statement.
        1021 | 1023 | 1026 | 1114 | 1135 | 1461 => NO_ROOM,
        1037 | 1038 | 1041 | 1119 | 1436 => OUT_OF_MEMORY,
        1213 => DEADLOCK,
        1205 | 1206 | 1689 | 3572 => LOCK_TIMEOUT,
        // Killed by hand, or by a time limit.
        1317 | 1969 | 3024 => STATEMENT_TIMEOUT,
        // Changed since it was read, or since it was prepared.
        1020 | 1412 | 1615 | 3101 => SERIALIZATION,
        // Several server options share this number.
        1290 if message.contains("read") => READ_ONLY,
        1792 | 1836 | 1874 => READ_ONLY,
        1022 | 1062 | 1169 | 1586 | 1859 => UNIQUE,
        1216 | 1217 | 1451 | 1452 => FOREIGN_KEY,
        1048 | 1263 => NOT_NULL,
        3819 => CHECK,
        // The number has another meaning in MySQL.
        4025 if state == "23000" => CHECK,
        // Division, ranges, dates, characters, JSON, length of a row and of a message.
        1118
        | 1139
        | 1153
        | 1242
        | 1264
        | 1265
        | 1292
        | 1300
        | 1301
        | 1365..=1367
        | 1406
        | 1411
        | 1416
        | 1441
        | 1525
        | 1690
        | 3140..=3158
        | 4037..=4040 => INVALID_DATA,
        1136 | 1193 | 1290 | 1364 | 1665 => STATEMENT,
        1643 | 1644 => RAISED,
        _ => of_sqlstate(state),
    }
}

/// Returns the class by extended result code.
#[cfg(feature = "sqlite")]
fn of_sqlite(code: i32, message: &str) -> Failure {
    match code {
        275 => return CHECK,
        787 => return FOREIGN_KEY,
        1299 => return NOT_NULL,
        1555 | 2067 | 2579 => return UNIQUE,
        // The message of a trigger is whatever its author wrote.
        1811 => return RAISED,
        _ => {}
    }
    // The lowest byte of an extended code is the primary code.
    match code & 0xff {
        4 | 15 | 17 => SERIALIZATION,
        5 | 6 => LOCK_TIMEOUT,
        7 => OUT_OF_MEMORY,
        8 => READ_ONLY,
        9 => STATEMENT_TIMEOUT,
        10 | 13 | 22 => NO_ROOM,
        14 => CONNECTION_LOST,
        18..=20 => INVALID_DATA,
        3 | 12 | 21 | 23 | 25 => STATEMENT,
        1 => {
            let of_records = ["integer overflow", "malformed JSON"];
            let of_statement = [
                "no such ",
                "syntax error",
                "incomplete input",
                "unrecognized token",
                "no column named",
                "ambiguous column name",
                "wrong number of arguments",
                "misuse of aggregate",
                "no query solution",
                "values for ",
                " columns but ",
            ];
            if of_records.iter().any(|part| message.contains(part)) {
                INVALID_DATA
            } else if of_statement.iter().any(|part| message.contains(part)) {
                STATEMENT
            } else {
                REFUSED
            }
        }
        _ => REFUSED,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the tables of `docs/errors.md` under a heading: codes and classes.
    fn documented(heading: &str) -> Vec<(String, Class)> {
        let text = include_str!("../../../docs/errors.md");
        let (_, text) = text.split_once(&format!("## {heading}\n")).expect(heading);
        let text = text.split("\n## ").next().unwrap_or_default();
        let rows = text.lines().filter_map(|line| {
            let mut cells = line.strip_prefix("| ")?.split(" | ");
            let (codes, kind) = (cells.next()?, cells.next()?);
            Some((codes, kind_named(kind)?))
        });
        rows.flat_map(|(codes, class)| {
            let codes = codes.split(", ").map(|code| code.trim_matches('`'));
            codes.map(move |code| (code.to_owned(), class))
        })
        .collect()
    }

    fn kind_named(kind: &str) -> Option<Class> {
        Some(match kind {
            "unavailable" => Class::Unavailable,
            "conflict" => Class::Conflict,
            "limit" => Class::Limit,
            "read-only" => Class::ReadOnly,
            "record" => Class::Records,
            "statement" => Class::Statement,
            "raised" => Class::Raised,
            "refused" => Class::Refused,
            _ => return None,
        })
    }

    /// Returns the class of the longest documented prefix.
    #[cfg(any(feature = "postgres", feature = "mysql"))]
    fn by_prefix(table: &[(String, Class)], code: &str) -> Class {
        let known = table.iter().filter(|(prefix, _)| code.starts_with(prefix));
        let longest = known.max_by_key(|(prefix, _)| prefix.len());
        longest.map_or(Class::Refused, |(_, class)| *class)
    }

    /// Returns every class of SQLSTATE, with the subclasses that servers use.
    #[cfg(any(feature = "postgres", feature = "mysql"))]
    fn sqlstates() -> impl Iterator<Item = String> {
        let signs = || ('0'..='9').chain('A'..='Z');
        let classes = signs().flat_map(move |a| signs().map(move |b| format!("{a}{b}")));
        let subclasses = signs().flat_map(move |a| signs().map(move |b| format!("{a}0{b}")));
        let subclasses: Vec<_> = subclasses
            .chain(["501", "502", "503", "505", "514"].map(String::from))
            .collect();
        classes.flat_map(move |class| {
            let of_class = subclasses.clone().into_iter();
            of_class.map(move |subclass| format!("{class}{subclass}"))
        })
    }

    #[cfg(feature = "postgres")]
    #[test]
    fn each_sqlstate_of_postgresql_is_classified_as_documented() {
        let table = documented("SQLSTATE");
        assert!(table.len() > 40, "{table:?}");
        for code in sqlstates().chain(table.iter().map(|(code, _)| format!("{code:0<5}"))) {
            let expected = by_prefix(&table, &code);
            assert_eq!(of_postgres(&code, None).class, expected, "{code}");
        }
        let by_row_security = of_postgres("42501", Some("ExecWithCheckOptions"));
        assert_eq!(by_row_security.class, Class::Records);
        for nonsense in ["", "4", "nonsense", "ÄÖ"] {
            assert_eq!(of_postgres(nonsense, None), REFUSED);
        }
    }

    #[cfg(feature = "mysql")]
    #[test]
    fn each_number_of_mysql_is_classified_as_documented() {
        let mut of_states = documented("SQLSTATE");
        // The first table only; the second one describes PostgreSQL.
        let of_postgres = of_states.iter().position(|(code, _)| code == "10");
        of_states.truncate(of_postgres.expect("there are two tables"));
        let ranges = documented("Numbers of MySQL and MariaDB");
        let ranges: Vec<(u16, u16, Class)> = ranges
            .iter()
            .map(|(range, class)| {
                let (first, last) = range.split_once('-').unwrap_or((range, range));
                (first.parse().unwrap(), last.parse().unwrap(), *class)
            })
            .collect();
        let states: Vec<_> = sqlstates().filter(|state| state.ends_with("000")).collect();
        for number in 0..6_000 {
            let named = ranges
                .iter()
                .find(|(first, last, _)| (first..=last).contains(&&number));
            for state in &states {
                let expected = match named {
                    Some((_, _, class)) => *class,
                    None if number == 4025 && state == "23000" => Class::Records,
                    None => by_prefix(&of_states, state),
                };
                let found = of_mysql(number, state, "a message").class;
                assert_eq!(found, expected, "{number} {state}");
            }
        }
        let failover = "The MariaDB server is running with the --read-only option";
        assert_eq!(of_mysql(1290, "HY000", failover), READ_ONLY);
    }

    #[cfg(feature = "sqlite")]
    #[test]
    fn each_result_code_of_sqlite_is_classified_as_documented() {
        let table = documented("Result codes of SQLite");
        for code in 1..=8_191 {
            let of = |code: i32| table.iter().find(|(known, _)| *known == code.to_string());
            let expected = of(code).or_else(|| of(code & 0xff));
            let expected = expected.map_or(Class::Refused, |(_, class)| *class);
            assert_eq!(of_sqlite(code, "a message").class, expected, "{code}");
        }
        let by_message = [
            ("integer overflow", Class::Records),
            ("malformed JSON", Class::Records),
            ("no such table: t", Class::Statement),
            ("near \"SELEC\": syntax error", Class::Statement),
            ("table t has no column named x", Class::Statement),
        ];
        for (message, class) in by_message {
            assert_eq!(of_sqlite(1, message).class, class, "{message}");
        }
    }

    #[test]
    fn errors_without_a_database_behind_them() {
        assert_eq!(classify(&sqlx::Error::PoolTimedOut), POOL_TIMED_OUT);
        let io = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
        assert_eq!(classify(&sqlx::Error::Io(io)), CONNECTION_LOST);
        let io = std::io::Error::from(std::io::ErrorKind::BrokenPipe);
        assert_eq!(classify(&sqlx::Error::Io(io)), BROKEN);
        let column = sqlx::Error::ColumnNotFound("x".to_owned());
        assert_eq!(classify(&column), STATEMENT);
        assert_eq!(classify(&sqlx::Error::RowNotFound), UNKNOWN);
        let decode = sqlx::Error::Decode("bad value \"s3cret\"".into());
        let error = PageError::from(decode);
        assert_eq!(error.blame(), Blame::Page);
        assert!(!error.message().contains("s3cret"), "{error}");
    }

    #[test]
    fn a_cause_counts_as_the_error_itself() {
        #[derive(Debug, thiserror::Error)]
        #[error("users cannot be read")]
        struct Wrapped(#[source] sqlx::Error);
        let error = PageError::from(Wrapped(sqlx::Error::PoolTimedOut));
        assert_eq!(error.error_type(), "PoolTimedOut");
        assert!(error.is_environment());
        assert!(
            error
                .message()
                .starts_with("users cannot be read: pool timed out")
        );
        let error = PageError::from(Wrapped(sqlx::Error::RowNotFound));
        assert_eq!(error.error_type(), "Wrapped");
        assert!(!error.is_environment());
    }
}

//! What an error of a database says: about the page, about everybody's pages, or about the moment.

use std::{borrow::Cow, error::Error as StdError};

use sqlx::error::DatabaseError;

use crate::error::PageError;

/// Whose fault a failure is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// The server cannot be reached, stops, starts, or takes no more connections. Time cures it.
    Connection,
    /// Somebody else had the rows, or it took too long. Another attempt may cure it.
    Conflict,
    /// The server takes no writes, as a replica does while it is about to become the primary.
    ReadOnly,
    /// Some of the rows break a rule of the table, or an expression. No other attempt cures it, and the
    /// others could go on without them.
    Records,
    /// The statement, the schema or a grant: concerns every page, and is cured by whoever changes that.
    Statement,
    /// Nothing that is known.
    Other,
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

const CONNECTION_LOST: Failure = failure(Class::Connection, "ConnectionLost");
const POOL_TIMED_OUT: Failure = failure(Class::Connection, "PoolTimedOut");
const LOCK_TIMEOUT: Failure = failure(Class::Conflict, "LockTimeout");
const READ_ONLY: Failure = failure(Class::ReadOnly, "ReadOnlyDatabase");
const UNIQUE: Failure = failure(Class::Records, "UniqueViolation");
const FOREIGN_KEY: Failure = failure(Class::Records, "ForeignKeyViolation");
const NOT_NULL: Failure = failure(Class::Records, "NotNullViolation");
const CHECK: Failure = failure(Class::Records, "CheckViolation");
const INVALID_DATA: Failure = failure(Class::Records, "InvalidData");
const STATEMENT: Failure = failure(Class::Statement, "SqlStatement");
const OTHER: Failure = failure(Class::Other, "sqlx::Error");
#[cfg(any(feature = "postgres", feature = "mysql"))]
const DEADLOCK: Failure = failure(Class::Conflict, "Deadlock");
#[cfg(any(feature = "postgres", feature = "mysql", feature = "sqlite"))]
const STATEMENT_TIMEOUT: Failure = failure(Class::Conflict, "StatementTimeout");
#[cfg(any(feature = "postgres", feature = "mysql"))]
const SERIALIZATION: Failure = failure(Class::Conflict, "SerializationFailure");

/// What an error of `sqlx` says.
pub(crate) fn classify(error: &sqlx::Error) -> Failure {
    match error {
        sqlx::Error::Database(error) => of_database(&**error),
        sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed => CONNECTION_LOST,
        sqlx::Error::PoolTimedOut => POOL_TIMED_OUT,
        sqlx::Error::TypeNotFound { .. }
        | sqlx::Error::ColumnNotFound(_)
        | sqlx::Error::ColumnIndexOutOfBounds { .. } => STATEMENT,
        // Decoding among them: the code may be wrong for all rows, or one row for the code.
        _ => OTHER,
    }
}

/// The error of a page whose cause is, or has among its causes, one of a database; `message` is what it
/// says with its causes. `None`: nothing is known about it.
pub(crate) fn page_error(error: &(dyn StdError + 'static), message: &str) -> Option<PageError> {
    let mut cause = error;
    let error = loop {
        match cause.downcast_ref::<sqlx::Error>() {
            Some(error) => break error,
            None => cause = cause.source()?,
        }
    };
    let failure = classify(error);
    let message = without_values(error, message);
    match failure.class {
        Class::Other => None,
        Class::Records => Some(PageError::non_retryable(failure.error_type, message)),
        _ => Some(PageError::retryable(message).with_type(failure.error_type)),
    }
}

fn of_database(error: &dyn DatabaseError) -> Failure {
    #[cfg(feature = "postgres")]
    if let Some(error) = error.try_downcast_ref::<sqlx::postgres::PgDatabaseError>() {
        return of_postgres(error.code(), error.routine());
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
        return code.map_or(OTHER, |code| of_sqlite(code, DatabaseError::message(error)));
    }
    let _ = error;
    OTHER
}

/// By SQLSTATE; `routine` is the function of the server that found the error.
#[cfg(feature = "postgres")]
fn of_postgres(code: &str, routine: Option<&str>) -> Failure {
    match code {
        // Not of the class that they are in.
        "42501" if routine == Some("ExecWithCheckOptions") => CHECK,
        "25P03" | "25P04" | "53300" | "57P01" | "57P02" | "57P03" | "57P05" => CONNECTION_LOST,
        "25006" => READ_ONLY,
        "40P01" => DEADLOCK,
        "55P03" => LOCK_TIMEOUT,
        "57014" => STATEMENT_TIMEOUT,
        "57P04" => STATEMENT,
        // A row too long for an index, say.
        "54000" => INVALID_DATA,
        _ => of_sqlstate(code),
    }
}

/// What the standard says, and both PostgreSQL and MySQL keep to.
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
        // A check of a view.
        "44" => CHECK,
        "40" => SERIALIZATION,
        // What is not supported, who may not come in, what is not there.
        "0A" | "28" | "3D" | "3F" | "42" | "54" => STATEMENT,
        _ => OTHER,
    }
}

/// By number: to MySQL a SQLSTATE is only a rough category.
#[cfg(feature = "mysql")]
fn of_mysql(number: u16, state: &str, message: &str) -> Failure {
    match number {
        // Too many connections or errors, shutdown, network, killed, silent for too long, no cluster.
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
        1213 => DEADLOCK,
        1205 | 1206 | 3572 => LOCK_TIMEOUT,
        // Killed by hand, or by a time limit.
        1317 | 1969 | 3024 => STATEMENT_TIMEOUT,
        1020 | 1412 | 3101 => SERIALIZATION,
        // Several options share a number.
        1290 if message.contains("read") => READ_ONLY,
        1792 | 1836 | 1874 => READ_ONLY,
        1022 | 1062 | 1169 | 1586 | 1859 => UNIQUE,
        1216 | 1217 | 1451 | 1452 => FOREIGN_KEY,
        1048 | 1263 => NOT_NULL,
        3819 => CHECK,
        // Of MySQL it is something else.
        4025 if state == "23000" => CHECK,
        // Division, ranges, dates, characters, JSON, length of a row and of a message.
        1118
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
        _ => of_sqlstate(state),
    }
}

/// By extended result code.
#[cfg(feature = "sqlite")]
fn of_sqlite(code: i32, message: &str) -> Failure {
    match code {
        275 => return CHECK,
        787 => return FOREIGN_KEY,
        1299 => return NOT_NULL,
        1555 | 2067 | 2579 => return UNIQUE,
        // What a trigger raises is the word of whoever wrote it.
        1811 => return OTHER,
        _ => {}
    }
    // The lowest byte is what the extended code is a case of.
    match code & 0xff {
        5 | 6 => LOCK_TIMEOUT,
        8 => READ_ONLY,
        9 => STATEMENT_TIMEOUT,
        14 => CONNECTION_LOST,
        18..=20 => INVALID_DATA,
        23 | 25 => STATEMENT,
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
                OTHER
            }
        }
        _ => OTHER,
    }
}

/// The message without the values that the server has put into its own. A history keeps messages, but no
/// records.
fn without_values<'a>(error: &sqlx::Error, message: &'a str) -> Cow<'a, str> {
    let Some(error) = error.as_database_error() else {
        return Cow::Borrowed(message);
    };
    let said = error.message();
    let message = without_line(error, said, message);
    match redacted(error, said) {
        Some(redacted) if redacted != said => Cow::Owned(message.replace(said, &redacted)),
        _ => message,
    }
}

/// `sqlx` adds at which line of its own sources PostgreSQL has found the error, which reads as if it were one
/// of the statement.
fn without_line<'a>(error: &dyn DatabaseError, said: &str, message: &'a str) -> Cow<'a, str> {
    #[cfg(feature = "postgres")]
    if let Some(error) = error.try_downcast_ref::<sqlx::postgres::PgDatabaseError>()
        && let Some(line) = error.line()
    {
        return Cow::Owned(message.replace(&format!("{said} at line {line}"), said));
    }
    let _ = (error, said);
    Cow::Borrowed(message)
}

/// `None`: the message names tables, columns and constraints only.
fn redacted(error: &dyn DatabaseError, said: &str) -> Option<String> {
    #[cfg(feature = "postgres")]
    if let Some(error) = error.try_downcast_ref::<sqlx::postgres::PgDatabaseError>() {
        return error
            .code()
            .starts_with("22")
            .then(|| postgres_values(said));
    }
    #[cfg(feature = "mysql")]
    if let Some(error) = error.try_downcast_ref::<sqlx::mysql::MySqlDatabaseError>() {
        let names_only = [
            1048, 1153, 1216, 1217, 1264, 1265, 1364, 1406, 1451, 1452, 3819, 4025,
        ];
        let state = error.code().unwrap_or_default();
        let class = of_mysql(error.number(), state, said).class;
        let values = class == Class::Records && !names_only.contains(&error.number());
        return values.then(|| mysql_values(said));
    }
    let _ = (error, said);
    None
}

/// `invalid input syntax for type integer: "seven"`: a value may have quotes of its own.
#[cfg(feature = "postgres")]
fn postgres_values(said: &str) -> String {
    between(said, '"', said.rfind('"'))
}

/// `Duplicate entry 'x' for key 'y'`, `Incorrect integer value: 'x' for column 'y' at row 1`.
#[cfg(feature = "mysql")]
fn mysql_values(said: &str) -> String {
    let ends = ["' for key ", "' for column ", "' for function "];
    let end = ends.iter().filter_map(|end| said.rfind(end)).max();
    between(said, '\'', end.or_else(|| said.rfind('\'')))
}

/// Leaves out what stands between the first quote and the one at `end`.
#[cfg(any(feature = "postgres", feature = "mysql"))]
fn between(said: &str, quote: char, end: Option<usize>) -> String {
    match (said.find(quote), end) {
        (Some(start), Some(end)) if start < end => {
            format!("{}{quote}…{}", &said[..start], &said[end..])
        }
        _ => said.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(feature = "postgres")]
    #[test]
    fn sqlstates_of_postgresql() {
        let expected = [
            (Class::Connection, "08006 57P01 57P03 53300 25P03"),
            (Class::Conflict, "40001 40P01 55P03 57014"),
            (Class::ReadOnly, "25006"),
            (
                Class::Records,
                "22012 22001 23505 23503 23502 23514 23P01 44000 21000 54000",
            ),
            (
                Class::Statement,
                "42P01 42703 42601 42501 3D000 28P01 0A000 54011",
            ),
            (Class::Other, "XX000 P0001 25P02 53100 nonsense 4"),
        ];
        for (class, codes) in expected {
            for code in codes.split(' ') {
                assert_eq!(of_postgres(code, None).class, class, "{code}");
            }
        }
        let by_row_security = of_postgres("42501", Some("ExecWithCheckOptions"));
        assert_eq!(by_row_security.class, Class::Records);
    }

    #[cfg(feature = "mysql")]
    #[test]
    fn numbers_of_mysql() {
        let expected = [
            (
                Class::Connection,
                "1040 08004,1053 08S01,1927 70100,4031 HY000,9999 08S01",
            ),
            (
                Class::Conflict,
                "1213 40001,1205 HY000,1969 70100,3024 HY000,3572 HY000",
            ),
            (Class::ReadOnly, "1836 HY000,1792 25006"),
            (
                Class::Records,
                "1062 23000,1048 23000,1264 22003,1366 22007,1406 22001,1365 22012",
            ),
            (
                Class::Records,
                "1452 23000,4025 23000,3819 HY000,1690 22003,9999 22032",
            ),
            (
                Class::Statement,
                "1064 42000,1146 42S02,1054 42S22,1142 42000,1045 28000,1136 21S01",
            ),
            (Class::Statement, "1364 HY000,1290 HY000"),
            (Class::Other, "1105 HY000,4025 HY000,9999 "),
        ];
        for (class, errors) in expected {
            for error in errors.split(',') {
                let (number, state) = error.split_once(' ').unwrap();
                let found = of_mysql(number.parse().unwrap(), state, "an option prevents it");
                assert_eq!(found.class, class, "{error}");
            }
        }
        let failover = "The MariaDB server is running with the --read-only option";
        assert_eq!(of_mysql(1290, "HY000", failover), READ_ONLY);
    }

    #[cfg(feature = "sqlite")]
    #[test]
    fn codes_of_sqlite() {
        let expected = [
            (5, "database is locked", Class::Conflict),
            (517, "database is locked", Class::Conflict),
            (8, "attempt to write a readonly database", Class::ReadOnly),
            (
                1032,
                "attempt to write a readonly database",
                Class::ReadOnly,
            ),
            (14, "unable to open database file", Class::Connection),
            (2067, "UNIQUE constraint failed: t.x", Class::Records),
            (
                3091,
                "cannot store TEXT value in INT column t.x",
                Class::Records,
            ),
            (18, "string or blob too big", Class::Records),
            (20, "datatype mismatch", Class::Records),
            (1, "integer overflow", Class::Records),
            (1, "no such table: t", Class::Statement),
            (1, "near \"SELEC\": syntax error", Class::Statement),
            (1, "table t has no column named x", Class::Statement),
            (1811, "not today", Class::Other),
            (1, "anything else", Class::Other),
            (13, "database or disk is full", Class::Other),
        ];
        for (code, message, class) in expected {
            assert_eq!(of_sqlite(code, message).class, class, "{code} {message}");
        }
    }

    #[cfg(feature = "mysql")]
    #[test]
    fn values_of_mysql_are_left_out_and_names_kept() {
        let kept = [
            (
                "Duplicate entry 'x' for key 'email'",
                "Duplicate entry '…' for key 'email'",
            ),
            (
                "Duplicate entry 'it's' for key 'no' for key 'email'",
                "Duplicate entry '…' for key 'email'",
            ),
            (
                "Incorrect integer value: 'x' for column `d`.`t`.`c` at row 1",
                "Incorrect integer value: '…' for column `d`.`t`.`c` at row 1",
            ),
            (
                "Truncated incorrect DOUBLE value: 'x'y'",
                "Truncated incorrect DOUBLE value: '…'",
            ),
            ("Division by 0", "Division by 0"),
        ];
        for (said, expected) in kept {
            assert_eq!(mysql_values(said), expected);
        }
    }

    #[cfg(feature = "postgres")]
    #[test]
    fn values_of_postgresql_are_left_out() {
        let kept = [
            (
                "invalid input syntax for type integer: \"a\"b\"",
                "invalid input syntax for type integer: \"…\"",
            ),
            (
                "value \"99\" is out of range for type smallint",
                "value \"…\" is out of range for type smallint",
            ),
            ("division by zero", "division by zero"),
        ];
        for (said, expected) in kept {
            assert_eq!(postgres_values(said), expected);
        }
    }

    #[cfg(any(feature = "postgres", feature = "mysql"))]
    proptest::proptest! {
        #[test]
        fn no_value_stays_in_a_message(value in "[^\"]*x[^\"]*") {
            let value = value.replace('x', "SECRET");
            #[cfg(feature = "mysql")]
            for end in ["' for key 'k'", "' for column 'c' at row 1", "'"] {
                let said = format!("Some value: '{value}{end}");
                proptest::prop_assert!(!mysql_values(&said).contains("SECRET"));
            }
            #[cfg(feature = "postgres")]
            {
                let said = format!("some value: \"{value}\" of type t");
                proptest::prop_assert!(!postgres_values(&said).contains("SECRET"));
            }
        }
    }

    #[test]
    fn errors_without_a_database_behind_them() {
        assert_eq!(classify(&sqlx::Error::PoolTimedOut), POOL_TIMED_OUT);
        let io = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
        assert_eq!(classify(&sqlx::Error::Io(io)), CONNECTION_LOST);
        let column = sqlx::Error::ColumnNotFound("x".to_owned());
        assert_eq!(classify(&column), STATEMENT);
        assert_eq!(classify(&sqlx::Error::RowNotFound), OTHER);
    }

    #[test]
    fn a_cause_counts_as_the_error_itself() {
        #[derive(Debug, thiserror::Error)]
        #[error("users cannot be read")]
        struct Wrapped(#[source] sqlx::Error);
        let error = PageError::from(Wrapped(sqlx::Error::PoolTimedOut));
        assert_eq!(error.error_type(), "PoolTimedOut");
        assert!(
            error
                .message()
                .starts_with("users cannot be read: pool timed out")
        );
        let error = PageError::from(Wrapped(sqlx::Error::RowNotFound));
        assert_eq!(error.error_type(), "Wrapped");
    }
}

//! Messages of databases without the values that are in them.

use sqlx::error::DatabaseError;

use super::of_database::Class;
use crate::base::error::without_quoted;

/// Returns the message of an error without the values that the server has put into it. Histories keep messages, and
/// must not keep records.
pub(super) fn without_values(error: &sqlx::Error, class: Class, message: &str) -> String {
    match error {
        sqlx::Error::Database(error) => {
            let said = error.message();
            let redacted = redacted(&**error, class, said);
            let message = message.replace(said, &redacted);
            match place(&**error, class) {
                Some(place) => format!("{message} ({place})"),
                None => message,
            }
        }
        sqlx::Error::ColumnDecode { source, .. }
        | sqlx::Error::Decode(source)
        | sqlx::Error::Encode(source) => {
            let said = source.to_string();
            message.replace(&said, &without_quoted(&said))
        }
        _ => message.to_owned(),
    }
}

/// Returns the place where the server found an error whose own text says little.
fn place(error: &dyn DatabaseError, class: Class) -> Option<String> {
    #[cfg(feature = "postgres")]
    if let Some(error) = error.try_downcast_ref::<sqlx::postgres::PgDatabaseError>()
        && matches!(class, Class::Raised | Class::Refused)
    {
        let names = [
            ("schema", error.schema()),
            ("table", error.table()),
            ("column", error.column()),
            ("type", error.data_type()),
            ("constraint", error.constraint()),
        ];
        let names = names.into_iter();
        let names = names.filter_map(|(what, name)| Some(format!("{what} {}", name?)));
        let function = error.r#where().and_then(|place| place.lines().next());
        // Other lines, such as those of `COPY`, may hold values.
        let function = function.filter(|place| place.starts_with("PL/pgSQL function "));
        let place = [format!("SQLSTATE {}", error.code())].into_iter();
        let place: Vec<_> = place
            .chain(names)
            .chain(function.map(ToOwned::to_owned))
            .collect();
        return Some(place.join(", "));
    }
    let _ = (error, class);
    None
}

fn redacted(error: &dyn DatabaseError, class: Class, said: &str) -> String {
    if matches!(class, Class::Raised | Class::Refused) {
        return words(said);
    }
    #[cfg(feature = "postgres")]
    if let Some(error) = error.try_downcast_ref::<sqlx::postgres::PgDatabaseError>() {
        // A function may raise any text with any code.
        if error.routine() == Some("exec_stmt_raise") {
            return words(said);
        }
        return match error.code().get(..2).unwrap_or_default() {
            "22" => without_bytes(&postgres_values(said)),
            // A name that is not in the text of the statement comes from a row.
            "42" if error.position().is_none() && error.code() != "42501" => without_quoted(said),
            _ => said.to_owned(),
        };
    }
    #[cfg(feature = "mysql")]
    if let Some(error) = error.try_downcast_ref::<sqlx::mysql::MySqlDatabaseError>()
        && class == Class::Records
    {
        return without_mysql_values(error.number(), said);
    }
    let _ = error;
    said.to_owned()
}

/// Returns the words of a text by an unknown author, with `…` in place of everything that may be a value: parts in
/// quotes or after a colon, and everything that is not all lower case.
fn words(said: &str) -> String {
    let said = without_quoted(said);
    let mut words: Vec<String> = Vec::new();
    let mut names_a_value = false;
    for (position, word) in said.split_whitespace().enumerate() {
        let bare = word.trim_matches(|c: char| ".,:;!?()[]{}<>".contains(c));
        let small = |c: char| c.is_lowercase() || "-'…\"`".contains(c);
        let first = |c: char| position == 0 && c.is_alphabetic();
        let is_word = !names_a_value && bare.chars().all(|c| small(c) || first(c));
        names_a_value = word.ends_with([':', '=']);
        match is_word {
            true => words.push(word.to_owned()),
            false => {
                let tail = word.trim_end_matches(|c: char| ".,:;!?".contains(c));
                let tail = &word[tail.len()..];
                match words.last_mut() {
                    Some(last) if last == "…" => last.push_str(tail),
                    Some(_) | None => words.push(format!("…{tail}")),
                }
            }
        }
    }
    words.join(" ")
}

/// Removes the bytes from messages such as `invalid byte sequence for encoding "UTF8": 0xe4 0x73`.
#[cfg(feature = "postgres")]
fn without_bytes(said: &str) -> String {
    let hidden = |word: &str| match word.strip_prefix("0x") {
        Some(_) => "0x…".to_owned(),
        None => word.to_owned(),
    };
    said.split(' ').map(hidden).collect::<Vec<_>>().join(" ")
}

/// Removes the values from messages such as `invalid input syntax for type integer: "seven"`. A value may have quotes
/// of its own.
#[cfg(feature = "postgres")]
fn postgres_values(said: &str) -> String {
    between(said, '"', said.rfind('"'))
}

/// Returns a message of MySQL about a record, without the values of the record.
#[cfg(feature = "mysql")]
pub(crate) fn without_mysql_values(number: u16, said: &str) -> String {
    // The quotes in these messages hold names only.
    const NAMES_ONLY: [u16; 12] = [
        1048, 1153, 1216, 1217, 1264, 1265, 1364, 1406, 1451, 1452, 3819, 4025,
    ];
    match NAMES_ONLY.contains(&number) {
        true => said.to_owned(),
        false => mysql_values(said),
    }
}

/// Removes the values from messages such as `Duplicate entry 'x' for key 'y'` and `Incorrect integer value: 'x' for
/// column 'y' at row 1`.
#[cfg(feature = "mysql")]
fn mysql_values(said: &str) -> String {
    let ends = ["' for key ", "' for column ", "' for function "];
    let end = ends.iter().filter_map(|end| said.rfind(end)).max();
    between(said, '\'', end.or_else(|| said.rfind('\'')))
}

/// Replaces the part between the first quote and the one at `end`.
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

    #[test]
    fn of_a_text_of_any_author_only_words_stay() {
        let kept = [
            ("row 7 is locked, card 4111-1111", "row … is locked, card …"),
            ("Row 7: locked by Bob Smith.", "Row …: … by …."),
            ("user ann@example.org has it", "user … has it"),
            (
                "value \"it\"s mine\" is not allowed",
                "value \"…\" is not allowed",
            ),
            ("code=gold, don't", "…, don't"),
            ("", ""),
        ];
        for (said, expected) in kept {
            assert_eq!(words(said), expected);
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
}

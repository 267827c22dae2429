//! The values that a column takes without changing them. Pure.

use super::{ColumnKind, Syntax, Value};
use crate::cell::Cell;

/// The values of a column, by its type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// Whole numbers, and booleans where the database has no type for them.
    Integer {
        flags: bool,
        bits: Option<u32>,
    },
    /// Numbers with this many digits after the point; `None` for any number of digits.
    Decimal {
        scale: Option<i64>,
    },
    /// Floating-point numbers, of 32 bits if they are `single`.
    Number {
        single: bool,
    },
    /// The numbers of SQLite's `NUMERIC`: whole numbers of 64 bits, or floating-point numbers of as many.
    Numeric,
    /// Booleans.
    Flag,
    /// Texts of this many characters.
    Text {
        most: Option<usize>,
    },
    /// The members of an `ENUM` of MySQL, where a text of digits may mean a position.
    Member(Vec<String>),
    Json,
    Bytes,
    /// Values that the database may change in silence, such as points in time, which it rounds.
    Other,
}

/// The number of digits that a whole number may have once its exponent is written out.
const MOST_DIGITS: i64 = 1_000;

impl Form {
    pub fn of(syntax: Syntax, type_name: &str, kind: ColumnKind) -> Self {
        match kind {
            ColumnKind::Json => return Self::Json,
            ColumnKind::Bytes => return Self::Bytes,
            ColumnKind::Plain | ColumnKind::Bits | ColumnKind::Year => {}
        }
        let lower = type_name.to_ascii_lowercase();
        if syntax == Syntax::Sqlite {
            return of_sqlite(&lower);
        }
        if lower.ends_with("[]") {
            return Self::Other;
        }
        let (word, sizes) = parts(&lower);
        let flags = syntax == Syntax::MySql;
        let most = sizes.first().and_then(|size| usize::try_from(*size).ok());
        match word {
            "smallint" | "integer" | "bigint" | "tinyint" | "mediumint" | "int" | "bit"
            | "year"
                if syntax == Syntax::MySql || word != "bit" =>
            {
                Self::Integer { flags, bits: None }
            }
            "numeric" | "decimal" => Self::Decimal {
                scale: match sizes.as_slice() {
                    [] => None,
                    [_] => Some(0),
                    [_, scale, ..] => Some(*scale),
                },
            },
            "real" | "float" if sizes.is_empty() => Self::Number { single: true },
            "double precision" | "double" if sizes.is_empty() => Self::Number { single: false },
            "boolean" => Self::Flag,
            "character varying" | "varchar" | "character" | "char" => Self::Text { most },
            "text" | "tinytext" | "mediumtext" | "longtext" => Self::Text { most: None },
            "enum" if flags => Self::Member(members(type_name)),
            _ => Self::Other,
        }
    }

    pub fn is_text(&self) -> bool {
        matches!(self, Self::Text { .. })
    }

    /// Returns the value as it is written.
    pub fn fitting(&self, json: &str) -> Result<Cell, String> {
        if *self == Self::Json {
            return Ok(match json {
                "null" => Cell::Null,
                json => Cell::Json(json.to_owned()),
            });
        }
        let cell = Cell::of_any_json(json).map_err(str::to_owned)?;
        match (self, cell) {
            (_, Cell::Null) => Ok(Cell::Null),
            (Self::Integer { flags: true, .. }, Cell::Flag(flag)) => {
                Ok(Cell::Number(u8::from(flag).to_string()))
            }
            (Self::Integer { bits, .. }, cell) => whole(cell, *bits),
            (Self::Decimal { scale }, cell) => {
                let (text, number) = number(cell)?;
                match scale {
                    Some(scale) if number.lowest() < -scale => Err(format!(
                        "it holds {scale} digits after the point, and would round the number"
                    )),
                    _ => Ok(Cell::Number(text)),
                }
            }
            (Self::Number { single }, cell) => kept(number(cell)?, *single),
            (Self::Numeric, cell) => {
                let number = number(cell)?;
                let whole = number.1.written_out();
                match whole.filter(|whole| whole.parse::<i64>().is_ok()) {
                    Some(whole) => Ok(Cell::Number(whole)),
                    None => kept(number, false),
                }
            }
            (Self::Flag, Cell::Flag(flag)) => Ok(Cell::Flag(flag)),
            (Self::Flag, Cell::Number(number)) if number == "0" || number == "1" => {
                Ok(Cell::Flag(number == "1"))
            }
            (Self::Flag, Cell::Text(text)) if text == "true" || text == "false" => {
                Ok(Cell::Flag(text == "true"))
            }
            (Self::Flag, _) => Err("it holds true and false, and the value is neither".to_owned()),
            (Self::Text { most }, cell) => {
                let text = text(cell);
                let length = text.chars().count();
                match most {
                    Some(most) if length > *most => Err(format!(
                        "it holds {most} characters, and the value has {length}"
                    )),
                    _ => Ok(Cell::Text(text)),
                }
            }
            (Self::Member(members), cell) => {
                let text = text(cell);
                let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
                match digits && !members.contains(&text) {
                    true => Err("the number is not one of its members".to_owned()),
                    false => Ok(Cell::Text(text)),
                }
            }
            (Self::Json | Self::Bytes | Self::Other, cell) => Ok(cell),
        }
    }

    /// Returns the value for a placeholder.
    pub fn value(&self, syntax: Syntax, cell: &Cell) -> Value {
        let text = match cell {
            Cell::Null => return Value::Text(None),
            Cell::Flag(flag) if syntax == Syntax::MySql => return i64::from(*flag).into(),
            Cell::Number(number) if syntax == Syntax::MySql => {
                if let Ok(whole) = number.parse::<i64>() {
                    return whole.into();
                }
                number.clone()
            }
            cell => text(cell.clone()),
        };
        text.as_str().into()
    }
}

fn text(cell: Cell) -> String {
    match cell {
        Cell::Text(text) | Cell::Number(text) | Cell::Json(text) => text,
        Cell::Flag(flag) => flag.to_string(),
        // A JSON value is none of these.
        Cell::Null | Cell::Bytes(_) | Cell::BrokenText(_) => String::new(),
    }
}

/// Applies the rules by which SQLite finds the affinity of a declared type, in their order.
fn of_sqlite(declared: &str) -> Form {
    let has = |parts: &[&str]| parts.iter().any(|part| declared.contains(part));
    if has(&["int"]) {
        Form::Integer {
            flags: true,
            bits: Some(64),
        }
    } else if has(&["char", "clob", "text"]) {
        Form::Text { most: None }
    } else if has(&["blob"]) {
        Form::Bytes
    } else if has(&["real", "floa", "doub"]) {
        Form::Number { single: false }
    } else if has(&["bool"]) {
        Form::Flag
    } else if has(&["numeric", "decimal"]) {
        Form::Numeric
    } else {
        Form::Other
    }
}

/// Splits `decimal(10,2) unsigned` into `decimal` and its sizes.
fn parts(type_name: &str) -> (&str, Vec<i64>) {
    let Some((word, rest)) = type_name.split_once('(') else {
        let plain = type_name.trim_end_matches(" unsigned");
        return (plain, Vec::new());
    };
    let sizes = rest.split(')').next().unwrap_or_default().split(',');
    (
        word,
        sizes.filter_map(|size| size.trim().parse().ok()).collect(),
    )
}

/// Returns the members of `enum('a','it''s')`.
fn members(type_name: &str) -> Vec<String> {
    let Some((_, list)) = type_name.split_once("('") else {
        return Vec::new();
    };
    let list = list.strip_suffix("')").unwrap_or(list);
    list.split("','").map(|m| m.replace("''", "'")).collect()
}

/// A number, as digits and the power of ten of the last of them.
#[derive(PartialEq)]
struct Digits {
    negative: bool,
    /// The digits without zeros at either end; empty for zero.
    digits: String,
    exponent: i64,
}

impl Digits {
    fn of(text: &str) -> Option<Self> {
        let (negative, rest) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let (mantissa, exponent) = match rest.split_once(['e', 'E']) {
            Some((mantissa, exponent)) => (mantissa, exponent.parse::<i32>().ok()?),
            None => (rest, 0),
        };
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let of_digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
        if whole.is_empty() || !of_digits(whole) || !of_digits(fraction) {
            return None;
        }
        let all = format!("{whole}{fraction}");
        let exponent = i64::from(exponent) - fraction.len() as i64;
        let shorter = all.trim_end_matches('0');
        let exponent = exponent + (all.len() - shorter.len()) as i64;
        Some(Self {
            negative,
            digits: shorter.trim_start_matches('0').to_owned(),
            exponent,
        })
    }

    /// Returns whether a floating-point number shows the same digits.
    fn is_kept(&self, text: &str, single: bool) -> bool {
        let shown = match single {
            true => text.parse::<f32>().map(|number| number.to_string()),
            false => text.parse::<f64>().map(|number| number.to_string()),
        };
        let kept = shown.ok().and_then(|shown| Self::of(&shown));
        kept.is_some_and(|kept| {
            let zero = kept.digits.is_empty() && self.digits.is_empty();
            zero || kept == *self
        })
    }

    /// Returns the power of ten of the last digit.
    fn lowest(&self) -> i64 {
        if self.digits.is_empty() {
            0
        } else {
            self.exponent
        }
    }

    /// Writes a whole number without a fraction and an exponent.
    fn written_out(&self) -> Option<String> {
        if self.digits.is_empty() {
            return Some("0".to_owned());
        }
        let zeros = usize::try_from(self.exponent).ok()?;
        if self.exponent > MOST_DIGITS {
            return None;
        }
        let sign = if self.negative { "-" } else { "" };
        Some(format!("{sign}{}{}", self.digits, "0".repeat(zeros)))
    }
}

fn number(cell: Cell) -> Result<(String, Digits), String> {
    let text = match cell {
        Cell::Number(text) | Cell::Text(text) => text,
        _ => return Err("it holds numbers, and the value is none".to_owned()),
    };
    match Digits::of(&text) {
        Some(digits) => Ok((text, digits)),
        None => Err("it holds numbers, and the text is none".to_owned()),
    }
}

/// Returns a number that a floating-point column keeps.
fn kept((text, digits): (String, Digits), single: bool) -> Result<Cell, String> {
    match digits.is_kept(&text, single) {
        true => Ok(Cell::Number(text)),
        false => Err("it would round the number".to_owned()),
    }
}

fn whole(cell: Cell, bits: Option<u32>) -> Result<Cell, String> {
    let (_, digits) = number(cell)?;
    let Some(whole) = digits.written_out() else {
        return Err("it holds whole numbers, and the value is none".to_owned());
    };
    match bits {
        Some(64) if whole.parse::<i64>().is_err() => {
            Err("it holds whole numbers of 64 bits, and the value is longer".to_owned())
        }
        _ => Ok(Cell::Number(whole)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn form(syntax: Syntax, type_name: &str) -> Form {
        Form::of(syntax, type_name, ColumnKind::Plain)
    }

    #[track_caller]
    fn fits(form: &Form, json: &str, written: &str) {
        let cell = form
            .fitting(json)
            .unwrap_or_else(|why| panic!("{json}: {why}"));
        assert_eq!(text(cell), written, "{form:?} {json}");
    }

    #[track_caller]
    fn refused(form: &Form, json: &str, why: &str) {
        let refused = form.fitting(json).expect_err(json);
        assert!(refused.contains(why), "{form:?} {json}: {refused}");
    }

    #[test]
    fn a_value_that_a_column_would_change_does_not_fit() {
        use Syntax::{MySql, Postgres, Sqlite};
        let int = form(Postgres, "integer");
        for (json, written) in [
            ("7", "7"),
            ("7.0", "7"),
            ("1.5e3", "1500"),
            ("\"-7\"", "-7"),
        ] {
            fits(&int, json, written);
        }
        refused(&int, "1.5", "whole");
        refused(&int, "1e2000", "whole");
        refused(&int, "true", "numbers");
        refused(&int, "\"seven\"", "numbers");
        refused(&int, "[7]", "numbers");
        fits(&form(MySql, "tinyint(1)"), "true", "1");
        refused(&form(MySql, "int(11) unsigned"), "2.5", "whole");
        let money = form(MySql, "decimal(10,2) unsigned");
        fits(&money, "1.5000", "1.5000");
        refused(&money, "1.505", "round");
        refused(&form(Postgres, "numeric(5)"), "0.1", "round");
        fits(
            &form(Postgres, "numeric"),
            "1.00000000000000000001",
            "1.00000000000000000001",
        );
        refused(&form(Postgres, "numeric(2,-3)"), "1200", "round");
        let short = form(Postgres, "character varying(2)");
        fits(&short, "\"éé\"", "éé");
        refused(&short, "\"abc\"", "2 characters");
        fits(&form(Postgres, "text"), "{\"a\": 1}", "{\"a\": 1}");
        refused(&form(Postgres, "boolean"), "2", "true and false");
        let kind = form(MySql, "enum('a','it''s','2')");
        fits(&kind, "\"it's\"", "it's");
        fits(&kind, "2", "2");
        refused(&kind, "1", "members");
        let number = form(Sqlite, "BIGINT");
        refused(&number, "9223372036854775808", "64 bits");
        refused(&number, "\"x\"", "numbers");
        fits(&form(Sqlite, "VARCHAR(2)"), "\"long\"", "long");
        refused(&form(Sqlite, "REAL"), "\"x\"", "numbers");
        let real = form(Postgres, "real");
        for json in ["0.1", "16777216", "-2.50", "0.0", "1e10"] {
            fits(&real, json, json);
        }
        for json in ["16777217", "0.123456789", "1e400"] {
            refused(&real, json, "round");
        }
        let double = form(MySql, "double");
        fits(&double, "0.123456789", "0.123456789");
        refused(&double, "9007199254740993", "round");
        let numeric = form(Sqlite, "NUMERIC(10,2)");
        fits(&numeric, "9223372036854775807", "9223372036854775807");
        fits(&numeric, "0.1", "0.1");
        refused(&numeric, "12345678901234567890", "round");
        for (syntax, other) in [
            (Postgres, "timestamp with time zone"),
            (Postgres, "a_domain"),
            (MySql, "set('a','b')"),
            (MySql, "datetime(0)"),
            (MySql, "float(10,2)"),
            (Sqlite, "DATETIME"),
            (Sqlite, "STRING"),
            (Sqlite, ""),
        ] {
            assert_eq!(form(syntax, other), Form::Other, "{other}");
        }
        assert_eq!(form(Sqlite, "BLOB"), Form::Bytes);
        for any in ["integer", "boolean", "character varying(2)", "date"] {
            assert_eq!(form(Postgres, any).fitting("null"), Ok(Cell::Null));
        }
    }

    #[test]
    fn a_column_of_json_gets_the_value_as_it_is_and_null_only_as_null() {
        let json = Form::of(Syntax::Postgres, "jsonb", ColumnKind::Json);
        fits(&json, "\"a\"", "\"a\"");
        fits(&json, "{\"a\": 1.50}", "{\"a\": 1.50}");
        assert_eq!(json.fitting("null"), Ok(Cell::Null));
        assert_eq!(
            json.fitting("\"null\""),
            Ok(Cell::Json("\"null\"".to_owned()))
        );
    }
}

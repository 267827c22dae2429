//! A value between a table and a file, without loss in either direction.
//!
//! ```text
//!   table --read--> Cell --write_json, csv--> file --of_json, of_csv--> Cell --bind--> table
//!                          by its Encoding              by the same
//! ```

mod encoding;
pub(crate) mod json_object;

use std::borrow::Cow;

use serde::de::IgnoredAny;

pub use encoding::{EncodedColumn, Encoding};

/// A value of a row. Numbers and JSON are texts, as the database or the file writes them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cell {
    Null,
    Text(String),
    /// A number, `NaN`, `Infinity` or `-Infinity`.
    Number(String),
    Flag(bool),
    Json(String),
    Bytes(Vec<u8>),
    /// An SQLite text that is not UTF-8.
    BrokenText(Vec<u8>),
}

/// The reason why a value of a file cannot be read. It does not show the value.
pub(crate) type Unreadable = &'static str;

const NO_HEX: Unreadable = "its bytes are not written as hexadecimal digits";

/// # Writing
impl Cell {
    /// Adds the value as JSON.
    pub fn write_json(&self, encoding: Encoding, to: &mut Vec<u8>) {
        let stored = matches!(encoding, Encoding::Stored | Encoding::StoredText);
        match self {
            Self::Null => to.extend_from_slice(b"null"),
            Self::Flag(flag) => to.extend_from_slice(if *flag { b"true" } else { b"false" }),
            Self::Number(number) if is_json_number(number) => {
                to.extend_from_slice(number.as_bytes());
            }
            Self::Json(json) if is_plain(json) => to.extend_from_slice(json.as_bytes()),
            Self::Text(text) => write_string(text, to),
            Self::Number(number) if !stored => write_string(number, to),
            Self::Bytes(bytes) if !stored => write_string(&prefixed_hex(bytes), to),
            Self::Number(_) | Self::Json(_) | Self::Bytes(_) | Self::BrokenText(_) => {
                to.extend_from_slice(self.tagged().as_bytes());
            }
        }
    }

    /// Returns the field in CSV; `None` is NULL.
    pub fn csv(&self, encoding: Encoding) -> Option<Cow<'_, str>> {
        let looks_tagged = |text: &str| text.starts_with("{\"$");
        let tagged = match (encoding, self) {
            (Encoding::Stored, Self::Text(text)) => looks_tagged(text) || is_json_number(text),
            (Encoding::StoredText, Self::Text(text)) => looks_tagged(text),
            (Encoding::Stored, Self::Number(number)) => !is_json_number(number),
            (Encoding::StoredText, Self::Number(_))
            | (Encoding::Stored | Encoding::StoredText, Self::Bytes(_))
            | (_, Self::BrokenText(_)) => true,
            _ => false,
        };
        if tagged {
            return Some(self.tagged().into());
        }
        Some(match self {
            Self::Null => return None,
            Self::Text(text) | Self::Number(text) | Self::Json(text) => text.into(),
            Self::Flag(flag) => if *flag { "true" } else { "false" }.into(),
            Self::Bytes(bytes) | Self::BrokenText(bytes) => prefixed_hex(bytes).into(),
        })
    }

    /// Adds an object that names the kind of its value.
    fn tagged(&self) -> String {
        let (tag, text) = match self {
            Self::Null => ("$json", Cow::Borrowed("null")),
            Self::Flag(flag) => ("$json", flag.to_string().into()),
            Self::Text(text) => ("$text", text.into()),
            Self::Number(number) => ("$number", number.into()),
            Self::Json(json) => ("$json", json.into()),
            Self::Bytes(bytes) => ("$blob", hex::encode(bytes).into()),
            Self::BrokenText(bytes) => ("$text_hex", hex::encode(bytes).into()),
        };
        let mut tagged = format!("{{\"{tag}\":").into_bytes();
        write_string(&text, &mut tagged);
        tagged.push(b'}');
        String::from_utf8(tagged).expect("JSON is UTF-8")
    }
}

/// # Reading
impl Cell {
    /// Reads a JSON value that was written with this encoding.
    pub fn of_json(json: &str, encoding: Encoding) -> Result<Self, Unreadable> {
        match (encoding, json.as_bytes().first()) {
            (_, Some(b'n')) => return Ok(Self::Null),
            (Encoding::Json, _) => {
                return match tagged_value(json) {
                    Some((tag, text)) if tag == "$json" => Ok(Self::Json(text)),
                    _ => Ok(Self::Json(json.to_owned())),
                };
            }
            (Encoding::Stored | Encoding::StoredText, Some(b'{')) => {
                return Self::of_tagged(json);
            }
            _ => {}
        }
        Ok(match (encoding, Self::of_any_json(json)?) {
            (Encoding::Hex, Self::Text(text)) => Self::Bytes(bytes_of_hex(&text)?),
            (Encoding::Hex, _) => return Err(NO_HEX),
            (Encoding::Number, Self::Text(text)) => Self::Number(text),
            (_, cell) => cell,
        })
    }

    /// Reads a JSON value of unknown form. Lists and objects become their text.
    pub fn of_any_json(json: &str) -> Result<Self, Unreadable> {
        Ok(match json.as_bytes().first() {
            Some(b'n') => Self::Null,
            Some(b't') => Self::Flag(true),
            Some(b'f') => Self::Flag(false),
            Some(b'"') => {
                let text: Result<String, _> = serde_json::from_str(json);
                Self::Text(text.map_err(|_| "it is not valid Unicode text")?)
            }
            Some(b'{' | b'[') => Self::Text(json.to_owned()),
            _ => Self::Number(json.to_owned()),
        })
    }

    /// Reads a CSV field that was written with this encoding, and is not NULL.
    pub fn of_csv(text: &str, encoding: Encoding) -> Result<Self, Unreadable> {
        Ok(match encoding {
            Encoding::Hex => Self::Bytes(bytes_of_hex(text)?),
            Encoding::Json => Self::Json(text.to_owned()),
            Encoding::Boolean if text == "true" => Self::Flag(true),
            Encoding::Boolean if text == "false" => Self::Flag(false),
            Encoding::Number => Self::Number(text.to_owned()),
            Encoding::Stored if is_json_number(text) => Self::Number(text.to_owned()),
            Encoding::Stored | Encoding::StoredText if text.starts_with("{\"$") => {
                Self::of_tagged(text)?
            }
            _ => Self::Text(text.to_owned()),
        })
    }

    fn of_tagged(json: &str) -> Result<Self, Unreadable> {
        let unknown = "it is not a value that an export writes";
        let (tag, text) = tagged_value(json).ok_or(unknown)?;
        Ok(match tag.as_str() {
            "$text" => Self::Text(text),
            "$number" => Self::Number(text),
            "$json" => Self::Json(text),
            "$blob" => Self::Bytes(bytes_of_hex(&text)?),
            "$text_hex" => Self::BrokenText(bytes_of_hex(&text)?),
            _ => return Err(unknown),
        })
    }

    /// Returns the approximate number of bytes.
    pub fn size(&self) -> usize {
        match self {
            Self::Null | Self::Flag(_) => 1,
            Self::Text(text) | Self::Number(text) | Self::Json(text) => text.len(),
            Self::Bytes(bytes) | Self::BrokenText(bytes) => bytes.len(),
        }
    }
}

/// Adds an object with these fields.
pub(crate) fn write_object<'a>(
    fields: impl Iterator<Item = (&'a str, &'a Cell, Encoding)>,
    to: &mut Vec<u8>,
) {
    to.push(b'{');
    for (at, (name, cell, encoding)) in fields.enumerate() {
        if at > 0 {
            to.push(b',');
        }
        write_string(name, to);
        to.push(b':');
        cell.write_json(encoding, to);
    }
    to.push(b'}');
}

/// Reads hexadecimal digits, with or without a leading `\x`.
pub(crate) fn bytes_of_hex(text: &str) -> Result<Vec<u8>, Unreadable> {
    hex::decode(text.strip_prefix("\\x").unwrap_or(text)).map_err(|_| NO_HEX)
}

/// Returns bytes in the form of PostgreSQL.
pub(crate) fn prefixed_hex(bytes: &[u8]) -> String {
    format!("\\x{}", hex::encode(bytes))
}

fn write_string(text: &str, to: &mut Vec<u8>) {
    serde_json::to_writer(to, text).expect("a text has a JSON form");
}

fn is_json_number(text: &str) -> bool {
    text.starts_with(|first: char| first == '-' || first.is_ascii_digit())
        && !text.ends_with(|last: char| last.is_ascii_whitespace())
        && is_json(text)
}

fn is_json(text: &str) -> bool {
    serde_json::from_str::<IgnoredAny>(text).is_ok()
}

/// Returns whether JSON can be embedded in a line and is read back unchanged.
fn is_plain(json: &str) -> bool {
    json != "null"
        && json.trim_ascii().len() == json.len()
        && !json.contains(['\n', '\r'])
        && is_json(json)
        && tagged_value(json).is_none()
}

/// Returns the only field of an object, if its name begins with `$` and its value is a text.
fn tagged_value(json: &str) -> Option<(String, String)> {
    // Most objects need no further look.
    let name = json.strip_prefix('{')?.trim_ascii_start();
    if !name.starts_with("\"$") && !name.starts_with("\"\\") {
        return None;
    }
    let fields = json_object::fields(json).ok()?;
    let [(name, value)] = fields.as_slice() else {
        return None;
    };
    let text = serde_json::from_str(value).ok()?;
    name.starts_with('$').then(|| (name.clone(), text))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn json_of(cell: &Cell, encoding: Encoding) -> String {
        let mut json = Vec::new();
        cell.write_json(encoding, &mut json);
        String::from_utf8(json).unwrap()
    }

    #[track_caller]
    fn comes_back(cell: &Cell, encoding: Encoding) {
        let json = json_of(cell, encoding);
        assert!(!json.contains('\n'), "{json}");
        let line = format!("{{\"a\": {json} ,\"b\":1}}");
        let fields = json_object::fields(&line).unwrap();
        assert_eq!(
            Cell::of_json(fields[0].1, encoding).as_ref(),
            Ok(cell),
            "{json}"
        );
        match cell.csv(encoding) {
            None => assert_eq!(cell, &Cell::Null),
            Some(text) => assert_eq!(Cell::of_csv(&text, encoding).as_ref(), Ok(cell), "{text}"),
        }
    }

    #[test]
    fn values_have_the_forms_that_are_documented() {
        let text = |text: &str| Cell::Text(text.to_owned());
        let number = |text: &str| Cell::Number(text.to_owned());
        let json = |text: &str| Cell::Json(text.to_owned());
        for (cell, encoding, in_json, in_csv) in [
            (text("a\"b"), Encoding::Text, r#""a\"b""#, "a\"b"),
            (number("1.50"), Encoding::Number, "1.50", "1.50"),
            (number("NaN"), Encoding::Number, "\"NaN\"", "NaN"),
            (number("0042"), Encoding::Number, "\"0042\"", "0042"),
            (Cell::Flag(true), Encoding::Boolean, "true", "true"),
            (json("1e400"), Encoding::Json, "1e400", "1e400"),
            (json("\"x\""), Encoding::Json, "\"x\"", "\"x\""),
            (json("null"), Encoding::Json, r#"{"$json":"null"}"#, "null"),
            (json("[\n]"), Encoding::Json, r#"{"$json":"[\n]"}"#, "[\n]"),
            (json(" 1"), Encoding::Json, r#"{"$json":" 1"}"#, " 1"),
            (
                json(r#"{"$json":"1"}"#),
                Encoding::Json,
                r#"{"$json":"{\"$json\":\"1\"}"}"#,
                r#"{"$json":"1"}"#,
            ),
            (
                Cell::Bytes(vec![0, 255]),
                Encoding::Hex,
                r#""\\x00ff""#,
                "\\x00ff",
            ),
            (number("5"), Encoding::Stored, "5", "5"),
            (text("5"), Encoding::Stored, "\"5\"", r#"{"$text":"5"}"#),
            (text("5"), Encoding::StoredText, "\"5\"", "5"),
            (
                Cell::Bytes(vec![0, 255]),
                Encoding::StoredText,
                r#"{"$blob":"00ff"}"#,
                r#"{"$blob":"00ff"}"#,
            ),
            (
                number("-Infinity"),
                Encoding::Stored,
                r#"{"$number":"-Infinity"}"#,
                r#"{"$number":"-Infinity"}"#,
            ),
        ] {
            assert_eq!(json_of(&cell, encoding), in_json);
            assert_eq!(cell.csv(encoding).unwrap(), in_csv);
            comes_back(&cell, encoding);
        }
        comes_back(&Cell::Null, Encoding::Json);
    }

    #[test]
    fn what_an_export_does_not_write_is_told() {
        assert!(Cell::of_json("\"\\\\x0\"", Encoding::Hex).is_err());
        assert!(Cell::of_json("7", Encoding::Hex).is_err());
        assert!(Cell::of_csv("\\xzz", Encoding::Hex).is_err());
        assert!(Cell::of_json(r#"{"$new":"7"}"#, Encoding::Stored).is_err());
        assert!(Cell::of_csv(r#"{"$blob":"0"}"#, Encoding::StoredText).is_err());
    }

    fn json_text() -> impl Strategy<Value = String> {
        let leaf = prop_oneof![
            "-?(0|[1-9][0-9]{0,30})(\\.[0-9]{1,9})?([eE][+-]?[0-9]{1,4})?",
            Just("null".to_owned()),
            "\\PC{0,8}|\\$json|[\\n\\r\\t\"\\\\]{1,3}"
                .prop_map(|text| serde_json::to_string(&text).unwrap()),
            Just("\"\\ud800\"".to_owned()),
        ];
        let space = "[ \\n\\r\\t]{0,2}";
        leaf.prop_recursive(3, 12, 3, move |inner| {
            prop_oneof![
                (space, proptest::collection::vec(inner.clone(), 0..3))
                    .prop_map(|(space, list)| format!("[{}{space}]", list.join(","))),
                (
                    space,
                    proptest::collection::vec(("\\$json|\\$text|a|\\\\u0024json", inner), 0..3)
                )
                    .prop_map(|(space, fields)| {
                        let fields = fields.iter().map(|(n, v)| format!("\"{n}\":{space}{v}"));
                        format!("{{{}}}", fields.collect::<Vec<_>>().join(","))
                    }),
            ]
        })
    }

    fn cells(encoding: Encoding) -> BoxedStrategy<Cell> {
        let text = prop_oneof![
            "\\PC{0,8}",
            "[\\n\\r\",\\\\{}$]{0,4}",
            "-?[0-9]{1,20}(\\.[0-9])?",
            r#"\{"\$(text|blob|json)":"(00)?"\}"#,
        ]
        .prop_map(Cell::Text);
        let bytes = proptest::collection::vec(any::<u8>(), 0..6);
        let number = prop_oneof![
            any::<i64>().prop_map(|n| n.to_string()),
            any::<f64>().prop_map(|n| match n.is_finite() {
                true => format!("{n:?}"),
                false => "Infinity".to_owned(),
            }),
        ]
        .prop_map(Cell::Number);
        let known = match encoding {
            Encoding::Text => text.boxed(),
            Encoding::Number => number.boxed(),
            Encoding::Boolean => any::<bool>().prop_map(Cell::Flag).boxed(),
            Encoding::Json => json_text().prop_map(Cell::Json).boxed(),
            Encoding::Hex => bytes.prop_map(Cell::Bytes).boxed(),
            Encoding::Stored | Encoding::StoredText => prop_oneof![
                text,
                number,
                bytes.clone().prop_map(Cell::Bytes),
                bytes.prop_map(Cell::BrokenText),
            ]
            .boxed(),
        };
        prop_oneof![1 => Just(Cell::Null), 9 => known].boxed()
    }

    fn encoded() -> impl Strategy<Value = (Encoding, Cell)> {
        proptest::sample::select(vec![
            Encoding::Text,
            Encoding::Number,
            Encoding::Boolean,
            Encoding::Json,
            Encoding::Hex,
            Encoding::Stored,
            Encoding::StoredText,
        ])
        .prop_flat_map(|encoding| (Just(encoding), cells(encoding)))
    }

    proptest! {
        #[test]
        fn every_value_comes_back((encoding, cell) in encoded()) {
            comes_back(&cell, encoding);
        }
    }
}

//! A record on its way into a table.

use super::{
    args::Assigned,
    json_object::{self, NoObject},
};
use crate::files::{BadRecord, Fields};

/// A value of a row. Numbers and texts are as the file writes them: the database converts them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Cell {
    Null,
    Text(String),
    Number(String),
    Flag(bool),
}

/// The values of a row, one for each column that is filled. Public only because it is the item of a processor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImportRow(pub(super) Vec<Cell>);

/// Where in a CSV record the columns are found.
pub(super) fn places(plan: &[Assigned], names: &csv::StringRecord) -> Result<Vec<usize>, String> {
    let place = |assigned: &Assigned| {
        let place = names.iter().position(|name| name == assigned.field);
        place.ok_or_else(|| assigned.field.clone())
    };
    plan.iter().map(place).collect()
}

pub(super) fn of_csv(
    fields: Fields<'_>,
    places: &[usize],
    null: &str,
) -> Result<ImportRow, BadRecord> {
    let record = crate::files::strings(fields)?;
    let cell = |place: &usize| match record.get(*place) {
        Some(text) if text == null => Ok(Cell::Null),
        Some(text) => Ok(Cell::Text(text.to_owned())),
        None => Err(BadRecord::new(
            "WrongColumnCount",
            format!("there is no column {}", place + 1),
        )),
    };
    places
        .iter()
        .map(cell)
        .collect::<Result<_, _>>()
        .map(ImportRow)
}

/// `only`: fields without a place are left out.
pub(super) fn of_json(line: &[u8], plan: &[Assigned], only: bool) -> Result<ImportRow, BadRecord> {
    let line = std::str::from_utf8(line)
        .map_err(|_| BadRecord::new("InvalidUtf8", "the line is not UTF-8"))?;
    let fields = fields_of(line)?;
    let mut cells = vec![Cell::Null; plan.len()];
    for (name, text) in fields {
        match plan.iter().position(|assigned| assigned.field == name) {
            Some(place) => cells[place] = cell(text)?,
            None if only => {}
            None => {
                return Err(BadRecord {
                    detail: Some(format!("unknown field {name:?}")),
                    ..BadRecord::new(
                        "UnknownField",
                        "it has a field that has no column; name the columns",
                    )
                });
            }
        }
    }
    Ok(ImportRow(cells))
}

pub(super) fn fields_of(line: &str) -> Result<Vec<json_object::Field<'_>>, BadRecord> {
    json_object::fields(line).map_err(|error| match error {
        NoObject::Invalid => BadRecord::new("InvalidJson", "no JSON"),
        NoObject::Other => BadRecord::new("NoObject", "JSON, but no object"),
        NoObject::Twice(name) => BadRecord {
            detail: Some(format!("field {name:?} comes twice")),
            ..BadRecord::new("InvalidJson", "a field comes twice")
        },
    })
}

fn cell(text: &str) -> Result<Cell, BadRecord> {
    Ok(match text.as_bytes().first() {
        Some(b'n') => Cell::Null,
        Some(b't') => Cell::Flag(true),
        Some(b'f') => Cell::Flag(false),
        Some(b'"') => {
            let text: Result<String, _> = serde_json::from_str(text);
            Cell::Text(text.map_err(|_| BadRecord::new("InvalidJson", "no JSON"))?)
        }
        Some(b'{' | b'[') => Cell::Text(text.to_owned()),
        _ => Cell::Number(text.to_owned()),
    })
}

/// Adds a row in the text format of PostgreSQL's `COPY`.
pub(super) fn copy_line(row: &ImportRow, to: &mut Vec<u8>) {
    for (number, cell) in row.0.iter().enumerate() {
        if number > 0 {
            to.push(b'\t');
        }
        match cell {
            Cell::Null => to.extend_from_slice(b"\\N"),
            Cell::Flag(flag) => to.push(if *flag { b't' } else { b'f' }),
            Cell::Text(text) | Cell::Number(text) => {
                for byte in text.bytes() {
                    let mark = match byte {
                        b'\\' => b'\\',
                        b'\t' => b't',
                        b'\n' => b'n',
                        b'\r' => b'r',
                        _ => {
                            to.push(byte);
                            continue;
                        }
                    };
                    to.extend_from_slice(&[b'\\', mark]);
                }
            }
        }
    }
    to.push(b'\n');
}

impl Cell {
    /// Bytes, about.
    pub fn size(&self) -> usize {
        match self {
            Self::Null | Self::Flag(_) => 1,
            Self::Text(text) | Self::Number(text) => text.len(),
        }
    }

    /// As a text that the database converts.
    pub fn into_text(self) -> Option<String> {
        match self {
            Self::Null => None,
            Self::Text(text) | Self::Number(text) => Some(text),
            Self::Flag(flag) => Some(flag.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan() -> Vec<Assigned> {
        ["a", "b"]
            .map(|name| Assigned {
                field: name.to_owned(),
                column: name.to_owned(),
                type_name: "text".to_owned(),
            })
            .to_vec()
    }

    #[test]
    fn json_values_keep_their_kind_and_every_digit() {
        let row = |line: &str| of_json(line.as_bytes(), &plan(), false).unwrap().0;
        let text = |text: &str| Cell::Text(text.to_owned());
        let number = |text: &str| Cell::Number(text.to_owned());
        assert_eq!(row(r#"{"b": "x\ny"}"#), [Cell::Null, text("x\ny")]);
        assert_eq!(
            row(r#"{"a": 0.10000000000000000000001, "b": [1, {}]}"#),
            [number("0.10000000000000000000001"), text("[1, {}]")]
        );
        assert_eq!(
            row(r#"{"a": true, "b": null}"#),
            [Cell::Flag(true), Cell::Null]
        );
    }

    #[test]
    fn a_field_without_a_place_is_a_bad_record_unless_columns_are_named() {
        let line = br#"{"a": 1, "secret": 2}"#;
        let bad = of_json(line, &plan(), false).unwrap_err();
        assert_eq!(bad.error_type(), "UnknownField");
        assert!(!bad.message().contains("secret"));
        assert!(of_json(line, &plan(), true).is_ok());
    }

    #[test]
    fn copy_escapes_what_would_end_a_field_or_a_row() {
        let row = ImportRow(vec![
            Cell::Text("a\tb\nc\rd\\N".to_owned()),
            Cell::Null,
            Cell::Text(String::new()),
            Cell::Flag(true),
        ]);
        let mut line = Vec::new();
        copy_line(&row, &mut line);
        assert_eq!(line, b"a\\tb\\nc\\rd\\\\N\t\\N\t\tt\n");
    }
}

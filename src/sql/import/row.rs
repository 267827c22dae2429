//! A record on its way into a table.

use base64::{Engine as _, engine::general_purpose::STANDARD};

use super::args::{Assigned, BytesForm, ColumnKind};
use crate::{
    cell::{
        Cell, bytes_of_hex,
        json_object::{self, NoObject},
        prefixed_hex,
    },
    files::{BadRecord, Fields},
};

/// The values of a row, one for each filled column. Public only because it is the item of a processor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImportRow(pub(super) Vec<Cell>);

/// The reading of values without a manifest, and of NULL.
#[derive(Clone, Debug)]
pub(super) struct Reading {
    pub plan: Vec<Assigned>,
    pub bytes: Option<BytesForm>,
    /// The text for NULL in CSV.
    pub null: String,
    /// True if a quoted CSV field is never NULL.
    pub quoted_is_text: bool,
    /// True if a text need not be UTF-8.
    pub any_text: bool,
}

/// Returns the positions of the columns in a CSV record.
pub(super) fn places(plan: &[Assigned], names: &csv::StringRecord) -> Result<Vec<usize>, String> {
    let place = |assigned: &Assigned| {
        let place = names.iter().position(|name| name == assigned.field);
        place.ok_or_else(|| assigned.field.clone())
    };
    plan.iter().map(place).collect()
}

impl Reading {
    /// Finds the columns by the `names` in the file.
    pub fn of_csv(
        &self,
        fields: Fields<'_>,
        names: &csv::StringRecord,
        places: &[usize],
    ) -> Result<ImportRow, BadRecord> {
        let record = crate::files::strings(fields).map_err(|bad| named(bad, names))?;
        let quoted = match self.quoted_is_text {
            true => fields.quoted(),
            false => Vec::new(),
        };
        let is_null =
            |text: &str, place: usize| text == self.null && quoted.get(place) != Some(&true);
        let cell = |(assigned, place): (&Assigned, &usize)| match record.get(*place) {
            Some(text) if is_null(text, *place) => Ok(Cell::Null),
            Some(text) => {
                let cell = match assigned.encoding {
                    Some(encoding) => Cell::of_csv(text, encoding),
                    None => self.in_column(assigned, Cell::Text(text.to_owned())),
                };
                self.checked(assigned, cell, text)
            }
            None => Err(BadRecord::new(
                "WrongColumnCount",
                format!("there is no column {}", place + 1),
            )),
        };
        let cells = self.plan.iter().zip(places).map(cell);
        cells.collect::<Result<_, _>>().map(ImportRow)
    }

    /// Reads a JSON object. `dropped` tells whether a field without a place is skipped.
    pub fn of_json(
        &self,
        line: &[u8],
        dropped: impl Fn(&str) -> bool,
    ) -> Result<ImportRow, BadRecord> {
        let line = std::str::from_utf8(line)
            .map_err(|_| BadRecord::new("InvalidUtf8", "the line is not UTF-8"))?;
        let fields = fields_of(line)?;
        let mut cells = vec![Cell::Null; self.plan.len()];
        for (name, json) in fields {
            let place = self.plan.iter().position(|assigned| assigned.field == name);
            match place {
                Some(place) => {
                    let assigned = &self.plan[place];
                    let cell = match (assigned.encoding, assigned.kind) {
                        (Some(encoding), _) => Cell::of_json(json, encoding),
                        (None, ColumnKind::Json) if json != "null" => {
                            Ok(Cell::Json(json.to_owned()))
                        }
                        (None, _) => {
                            Cell::of_any_json(json).and_then(|cell| self.in_column(assigned, cell))
                        }
                    };
                    cells[place] = self.checked(assigned, cell, json)?;
                }
                None if dropped(&name) => {}
                None => {
                    let bad = BadRecord {
                        detail: Some(format!("unknown field \"{name}\"")),
                        ..BadRecord::new(
                            "UnknownField",
                            "it has a field that has no column; name the columns",
                        )
                    };
                    return Err(bad.in_column(&name, Some(json.to_owned())));
                }
            }
        }
        Ok(ImportRow(cells))
    }

    /// Returns the cell of a value in a column of bytes.
    fn in_column(&self, assigned: &Assigned, cell: Cell) -> Result<Cell, &'static str> {
        let (ColumnKind::Bytes, Some(form)) = (assigned.kind, self.bytes) else {
            return Ok(cell);
        };
        match (form, cell) {
            (_, Cell::Null) => Ok(Cell::Null),
            (BytesForm::Text, Cell::Text(text)) => Ok(Cell::Bytes(text.into_bytes())),
            (BytesForm::Hex, Cell::Text(text)) => bytes_of_hex(&text).map(Cell::Bytes),
            (BytesForm::Base64, Cell::Text(text)) => {
                let bytes = STANDARD.decode(text);
                bytes
                    .map(Cell::Bytes)
                    .map_err(|_| "its bytes are not written as Base64")
            }
            _ => Err("it holds bytes, but the value is not a text"),
        }
    }

    fn checked(
        &self,
        assigned: &Assigned,
        cell: Result<Cell, &'static str>,
        value: &str,
    ) -> Result<Cell, BadRecord> {
        let checked = match cell {
            Ok(Cell::BrokenText(bytes)) if assigned.kind == ColumnKind::Bytes && !self.any_text => {
                Ok(Cell::Bytes(bytes))
            }
            Ok(Cell::BrokenText(_)) if !self.any_text => Err("the text is not UTF-8"),
            cell => cell,
        };
        checked.map_err(|why| {
            let message = format!("column `{}`: {why}", assigned.column);
            BadRecord::new("RecordNotReadable", message)
                .in_column(&assigned.column, Some(value.to_owned()))
        })
    }
}

/// Gives a column that is known by its number its name.
fn named(bad: BadRecord, names: &csv::StringRecord) -> BadRecord {
    let number: Option<usize> = bad.column().and_then(|number| number.parse().ok());
    let Some(name) = number.and_then(|number| names.get(number.checked_sub(1)?)) else {
        return bad;
    };
    let message = format!("column `{name}` is not UTF-8");
    bad.renamed(name, message)
}

/// Names the byte at which a line stops being JSON, without showing any of the line.
fn invalid(line: &str) -> BadRecord {
    let error = serde_json::from_str::<serde::de::IgnoredAny>(line).err();
    let place = error.map(|error| format!("invalid JSON from byte {} on", error.column()));
    BadRecord::new(
        "InvalidJson",
        place.unwrap_or_else(|| "invalid JSON".to_owned()),
    )
}

pub(super) fn fields_of(line: &str) -> Result<Vec<json_object::Field<'_>>, BadRecord> {
    json_object::fields(line).map_err(|error| match error {
        NoObject::Invalid => invalid(line),
        NoObject::Other => BadRecord::new("NoObject", "JSON, but not an object"),
        NoObject::Twice(name) => BadRecord {
            detail: Some(format!("field \"{name}\" occurs twice")),
            ..BadRecord::new("InvalidJson", "a field occurs twice")
        }
        .in_column(&name, None),
    })
}

/// Returns a value for people.
pub(super) fn shown(cell: &Cell) -> String {
    into_text(cell.clone()).unwrap_or_else(|| "NULL".to_owned())
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
            Cell::Bytes(bytes) | Cell::BrokenText(bytes) => escaped(&prefixed_hex(bytes), to),
            Cell::Text(text) | Cell::Number(text) | Cell::Json(text) => escaped(text, to),
        }
    }
    to.push(b'\n');
}

fn escaped(text: &str, to: &mut Vec<u8>) {
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

/// Returns the value as a text that the database converts; bytes as PostgreSQL writes them.
pub(super) fn into_text(cell: Cell) -> Option<String> {
    match cell {
        Cell::Null => None,
        Cell::Text(text) | Cell::Number(text) | Cell::Json(text) => Some(text),
        Cell::Flag(flag) => Some(flag.to_string()),
        Cell::Bytes(bytes) | Cell::BrokenText(bytes) => Some(prefixed_hex(&bytes)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(kind: ColumnKind, bytes: Option<BytesForm>) -> Reading {
        let column = |name: &str, kind| Assigned {
            field: name.to_owned(),
            column: name.to_owned(),
            type_name: "text".to_owned(),
            kind,
            encoding: None,
        };
        Reading {
            plan: vec![column("a", kind), column("b", ColumnKind::Plain)],
            bytes,
            null: String::new(),
            quoted_is_text: false,
            any_text: false,
        }
    }

    fn read(reading: &Reading, line: &str) -> Result<Vec<Cell>, BadRecord> {
        reading.of_json(line.as_bytes(), |_| false).map(|row| row.0)
    }

    #[test]
    fn json_values_keep_their_kind_and_every_digit() {
        let plain = reading(ColumnKind::Plain, None);
        let row = |line: &str| read(&plain, line).unwrap();
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
    fn a_column_of_json_gets_the_value_as_it_is() {
        let json = reading(ColumnKind::Json, None);
        for value in [
            "\"null\"",
            "\"true\"",
            "\"{}\"",
            "1e400",
            "true",
            "{\"x\":1,\"x\":2}",
        ] {
            let row = read(&json, &format!("{{\"a\": {value}}}")).unwrap();
            assert_eq!(row[0], Cell::Json(value.to_owned()));
        }
        assert_eq!(read(&json, "{\"a\":null}").unwrap()[0], Cell::Null);
    }

    #[test]
    fn bytes_are_read_in_the_form_that_is_named() {
        let bytes = |form, text: &str| {
            let line = serde_json::json!({"a": text}).to_string();
            Some(read(&reading(ColumnKind::Bytes, Some(form)), &line).ok()?[0].clone())
        };
        let expected = || Some(Cell::Bytes(vec![0xde, 0xad]));
        assert_eq!(bytes(BytesForm::Hex, "dead"), expected());
        assert_eq!(bytes(BytesForm::Hex, "\\xDEAD"), expected());
        assert_eq!(bytes(BytesForm::Base64, "3q0="), expected());
        assert_eq!(
            bytes(BytesForm::Text, "ab"),
            Some(Cell::Bytes(b"ab".to_vec()))
        );
        for (form, wrong) in [(BytesForm::Hex, "dea"), (BytesForm::Base64, "3q0")] {
            assert_eq!(bytes(form, wrong), None);
        }
        let number = reading(ColumnKind::Bytes, Some(BytesForm::Text));
        let bad = read(&number, "{\"a\":7}").unwrap_err();
        assert!(bad.message().contains("column `a`"), "{bad}");
    }

    #[test]
    fn a_field_without_a_place_is_a_bad_record_unless_columns_are_named() {
        let line = r#"{"a": 1, "secret": 2}"#;
        let plain = reading(ColumnKind::Plain, None);
        let bad = read(&plain, line).unwrap_err();
        assert_eq!(bad.error_type(), "UnknownField");
        assert!(!bad.message().contains("secret"));
        assert!(plain.of_json(line.as_bytes(), |_| true).is_ok());
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

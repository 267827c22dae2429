//! The format of the records in the parts of a result.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use crate::{
    base::error::PageError,
    cell::{
        Cell, Encoding,
        json_object::{self, Field, NoObject},
        write_object,
    },
};

/// The format in which a [`PartSink`](crate::files::PartSink) writes records.
///
/// | | JSON Lines | CSV |
/// |---|---|---|
/// | a record | one JSON object a line | one line of fields, quoted where needed |
/// | line end | LF | LF |
/// | names | in every record | in the header of every part; once in a concatenation |
/// | no value | `null` | nothing: `1,,3` |
/// | the empty text | `""` | `""`, in quotes, which is how it differs from no value |
/// | numbers, true, false | as JSON | the same text |
/// | lists, objects | as JSON | as JSON text |
///
/// ```
/// use temporal_batch::files::PartFormat;
///
/// let format = PartFormat::csv(["id", "name"]).null("NULL");
/// assert_eq!(format.extension(), "csv");
/// assert_eq!(PartFormat::json_lines().extension(), "jsonl");
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartFormat(Kind);

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "format", rename_all = "lowercase")]
enum Kind {
    JsonL {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        columns: Option<Vec<String>>,
    },
    Csv {
        columns: Vec<String>,
        #[serde(default, skip_serializing_if = "String::is_empty")]
        null: String,
    },
}

/// # Construct
impl PartFormat {
    /// Writes one JSON object a line, with the fields of the record, in the record's order.
    pub fn json_lines() -> Self {
        Self(Kind::JsonL { columns: None })
    }

    /// Writes one JSON object a line, with these fields in this order.
    pub fn json_lines_of(columns: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self(Kind::JsonL {
            columns: Some(columns.into_iter().map(Into::into).collect()),
        })
    }

    /// Writes comma-separated values in these columns, with a header.
    pub fn csv(columns: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self(Kind::Csv {
            columns: columns.into_iter().map(Into::into).collect(),
            null: String::new(),
        })
    }

    /// Sets the text for no value in CSV, in place of an empty field. An equal text as a value is written in quotes.
    #[must_use]
    pub fn null(mut self, text: impl Into<String>) -> Self {
        if let Kind::Csv { null, .. } = &mut self.0 {
            *null = text.into();
        }
        self
    }
}

/// # Inspect
impl PartFormat {
    /// Returns the file extension.
    pub fn extension(&self) -> &'static str {
        match &self.0 {
            Kind::JsonL { .. } => "jsonl",
            Kind::Csv { .. } => "csv",
        }
    }

    /// Returns the beginning of every part.
    pub(crate) fn header(&self) -> Vec<u8> {
        let mut line = Vec::new();
        if let Kind::Csv { columns, null } = &self.0 {
            let names = columns.iter().map(|name| Some(name.as_str()));
            write_fields(names, null, &mut line);
        }
        line
    }

    /// Returns the text for no value in CSV.
    #[allow(dead_code, reason = "for an import, which needs a database")]
    pub(crate) fn null_text(&self) -> Option<&str> {
        match &self.0 {
            Kind::JsonL { .. } => None,
            Kind::Csv { null, .. } => Some(null),
        }
    }

    pub(crate) fn is_csv(&self) -> bool {
        matches!(self.0, Kind::Csv { .. })
    }

    /// Adds the line of a record.
    ///
    /// # Errors
    /// Non-retryable: the record is not an object, or has fields without a column.
    pub(crate) fn write(&self, record: &impl Serialize, to: &mut Vec<u8>) -> Result<(), PageError> {
        match &self.0 {
            Kind::JsonL { columns: None } => {
                let start = to.len();
                serde_json::to_writer(&mut *to, record).map_err(|e| not_writable(&e))?;
                if to.get(start) != Some(&b'{') {
                    return Err(not_writable(&"it is not an object"));
                }
            }
            Kind::JsonL {
                columns: Some(columns),
            } => {
                let record = to_json(record)?;
                to.push(b'{');
                for (at, (name, value)) in in_order(&record, columns)?.into_iter().enumerate() {
                    if at > 0 {
                        to.push(b',');
                    }
                    serde_json::to_writer(&mut *to, name).map_err(|e| not_writable(&e))?;
                    to.push(b':');
                    to.extend_from_slice(value.unwrap_or("null").as_bytes());
                }
                to.push(b'}');
            }
            Kind::Csv { columns, null } => {
                let record = to_json(record)?;
                let fields = in_order(&record, columns)?.into_iter();
                let fields: Result<Vec<_>, _> = fields.map(|(_, value)| field(value)).collect();
                return write_line(&fields?, null, to);
            }
        }
        to.push(b'\n');
        Ok(())
    }

    /// Adds the line of a row of a table, whose values are those of the columns.
    ///
    /// # Errors
    /// Those of [`write`](Self::write).
    pub(crate) fn write_cells(
        &self,
        cells: &[Cell],
        encodings: &[Encoding],
        to: &mut Vec<u8>,
    ) -> Result<(), PageError> {
        let values = cells.iter().zip(encodings.iter().copied());
        match &self.0 {
            Kind::JsonL { columns } => {
                let names = columns.iter().flatten().map(String::as_str);
                write_object(
                    names.zip(values).map(|(name, (cell, e))| (name, cell, e)),
                    to,
                );
                to.push(b'\n');
                Ok(())
            }
            Kind::Csv { null, .. } => {
                let fields: Vec<_> = values.map(|(cell, e)| cell.csv(e)).collect();
                write_line(&fields, null, to)
            }
        }
    }
}

fn not_writable(why: &dyn std::fmt::Display) -> PageError {
    PageError::non_retryable(
        "RecordNotWritable",
        format_args!("a record cannot be written: {why}"),
    )
}

fn to_json(record: &impl Serialize) -> Result<String, PageError> {
    serde_json::to_string(record).map_err(|e| not_writable(&e))
}

/// Returns the values of a record as JSON, in the order of the columns.
fn in_order<'a>(
    record: &'a str,
    columns: &'a [String],
) -> Result<Vec<(&'a str, Option<&'a str>)>, PageError> {
    let fields = json_object::fields(record).map_err(|error| match error {
        NoObject::Twice(name) => not_writable(&format_args!("it has two fields \"{name}\"")),
        NoObject::Other | NoObject::Invalid => not_writable(&"it is not an object"),
    })?;
    if let Some((name, _)) = fields.iter().find(|(name, _)| !columns.contains(name)) {
        return Err(not_writable(&format_args!(
            "it has a field \"{name}\", and the columns are {}",
            columns.join(", ")
        )));
    }
    let value = |name: &'a String| {
        let found = fields.iter().find(|(known, _): &&Field<'_>| known == name);
        (name.as_str(), found.map(|(_, value)| *value))
    };
    Ok(columns.iter().map(value).collect())
}

/// Returns a JSON value as the text of a field; `None` for no value.
fn field(json: Option<&str>) -> Result<Option<Cow<'_, str>>, PageError> {
    Ok(match json {
        None | Some("null") => None,
        Some(text) if text.starts_with('"') => {
            let text: String = serde_json::from_str(text).map_err(|e| not_writable(&e))?;
            Some(text.into())
        }
        Some(json) => Some(json.into()),
    })
}

fn write_line(
    fields: &[Option<Cow<'_, str>>],
    null: &str,
    to: &mut Vec<u8>,
) -> Result<(), PageError> {
    if matches!(fields, [None]) && null.is_empty() {
        return Err(not_writable(
            &"in CSV with one column, a record without a value would be an empty line, which readers skip; say \
              what should stand there instead",
        ));
    }
    write_fields(fields.iter().map(Option::as_deref), null, to);
    Ok(())
}

/// Writes one line. The `csv` crate quotes either all fields or only those that need it; here an empty text is quoted,
/// too, to distinguish it from no value.
fn write_fields<'a>(fields: impl Iterator<Item = Option<&'a str>>, null: &str, to: &mut Vec<u8>) {
    for (i, field) in fields.enumerate() {
        if i > 0 {
            to.push(b',');
        }
        match field {
            None => to.extend_from_slice(null.as_bytes()),
            Some(text) if must_be_quoted(text, null) => {
                to.push(b'"');
                to.extend_from_slice(text.replace('"', "\"\"").as_bytes());
                to.push(b'"');
            }
            Some(text) => to.extend_from_slice(text.as_bytes()),
        }
    }
    to.push(b'\n');
}

fn must_be_quoted(text: &str, null: &str) -> bool {
    // PostgreSQL takes `\.` for the end of its input.
    text.is_empty() || text == null || text == "\\." || text.contains([',', '"', '\n', '\r'])
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Map, Value, json, value::RawValue};

    fn written(format: &PartFormat, records: &[Value]) -> String {
        let mut to = format.header();
        for record in records {
            format.write(record, &mut to).unwrap();
        }
        String::from_utf8(to).unwrap()
    }

    #[test]
    fn no_value_and_the_empty_text_differ() {
        let records = [
            json!({"a": 1, "b": null}),
            json!({"a": "", "b": "x,y"}),
            json!({"b": "she said \"no\"\n"}),
            json!({"a": true, "b": {"c": [1.5]}}),
            json!({"a": "NULL", "b": 9_007_199_254_740_993_i64}),
        ];
        let csv = PartFormat::csv(["a", "b"]);
        assert_eq!(
            written(&csv, &records),
            "a,b\n1,\n\"\",\"x,y\"\n,\"she said \"\"no\"\"\n\"\ntrue,\"{\"\"c\"\":[1.5]}\"\n\
             NULL,9007199254740993\n"
        );
        assert_eq!(
            written(&csv.null("NULL"), &records[3..]),
            "a,b\ntrue,\"{\"\"c\"\":[1.5]}\"\n\"NULL\",9007199254740993\n"
        );
        let lines = PartFormat::json_lines_of(["b", "a"]);
        assert_eq!(
            written(&lines, &records[1..3]),
            "{\"b\":\"x,y\",\"a\":\"\"}\n{\"b\":\"she said \\\"no\\\"\\n\",\"a\":null}\n"
        );
    }

    #[test]
    fn numbers_keep_every_digit() {
        #[derive(Serialize)]
        struct Record<'a> {
            n: &'a RawValue,
            x: f32,
        }
        let long = r#"[12345678901234567890.123456789,1e400,{"a":1,"a":2}]"#;
        let n = serde_json::from_str(long).unwrap();
        let mut written = Vec::new();
        let record = Record { n, x: 0.1 };
        let lines = PartFormat::json_lines_of(["x", "n"]);
        lines.write(&record, &mut written).unwrap();
        PartFormat::csv(["x", "n"])
            .write(&record, &mut written)
            .unwrap();
        let in_csv = long.replace('"', "\"\"");
        assert_eq!(
            String::from_utf8(written).unwrap(),
            format!("{{\"x\":0.1,\"n\":{long}}}\n0.1,\"{in_csv}\"\n")
        );
    }

    #[test]
    fn a_field_without_a_column_is_not_lost() {
        let format = PartFormat::csv(["a"]);
        let error = |record: Value| {
            let error = format.write(&record, &mut Vec::new()).unwrap_err();
            assert!(!error.is_retryable());
            error.message().to_owned()
        };
        assert!(error(json!({"a": 1, "x": 2})).contains("\"x\""));
        assert!(error(json!([1])).contains("not an object"));
        assert!(error(json!({"a": null})).contains("empty line"));
        assert_eq!(written(&format.clone().null("-"), &[json!({})]), "a\n-\n");
        let lines = PartFormat::json_lines();
        assert!(lines.write(&7, &mut Vec::new()).is_err());
    }

    proptest::proptest! {
        #[test]
        fn any_text_comes_back(texts in proptest::collection::vec(".{0,12}", 2..6)) {
            let columns: Vec<String> = (0..texts.len()).map(|i| format!("c{i}")).collect();
            let record: Map<String, Value> = columns.iter().cloned().zip(texts.iter().map(|t| json!(t))).collect();
            let text = written(&PartFormat::csv(columns), &[Value::Object(record)]);
            let mut reader = csv::Reader::from_reader(text.as_bytes());
            let read = reader.records().next().unwrap().unwrap();
            proptest::prop_assert_eq!(read.iter().collect::<Vec<_>>(), texts);
        }
    }
}

//! How records are written into the parts of a result.

use serde::{Deserialize, Serialize, ser::SerializeMap};
use serde_json::{Map, Value};

use crate::error::PageError;

/// How a [`PartSink`](super::PartSink) writes records.
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
    /// One JSON object a line, with the fields that a record has, in its order.
    pub fn json_lines() -> Self {
        Self(Kind::JsonL { columns: None })
    }

    /// One JSON object a line, with these fields in this order, whatever the order in the record.
    pub fn json_lines_of(columns: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self(Kind::JsonL {
            columns: Some(columns.into_iter().map(Into::into).collect()),
        })
    }

    /// Comma-separated values in these columns, with a header.
    pub fn csv(columns: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self(Kind::Csv {
            columns: columns.into_iter().map(Into::into).collect(),
            null: String::new(),
        })
    }

    /// What stands for no value in CSV, instead of nothing. The same text as a value is written in quotes.
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
    /// The end of the names of files in it.
    pub fn extension(&self) -> &'static str {
        match &self.0 {
            Kind::JsonL { .. } => "jsonl",
            Kind::Csv { .. } => "csv",
        }
    }

    /// What every part begins with.
    pub(super) fn header(&self) -> Vec<u8> {
        let mut line = Vec::new();
        if let Kind::Csv { columns, null } = &self.0 {
            let names = columns.iter().map(|name| Some(name.as_str()));
            write_fields(names, null, &mut line);
        }
        line
    }

    pub(super) fn is_csv(&self) -> bool {
        matches!(self.0, Kind::Csv { .. })
    }

    /// Adds the line of a record.
    ///
    /// # Errors
    /// Non-retryable: the record is no object, or has fields for which there is no column.
    pub(super) fn write(&self, record: &impl Serialize, to: &mut Vec<u8>) -> Result<(), PageError> {
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
                let record = object(record, columns)?;
                let ordered = Ordered(columns, &record);
                serde_json::to_writer(&mut *to, &ordered).map_err(|e| not_writable(&e))?;
            }
            Kind::Csv { columns, null } => {
                let record = object(record, columns)?;
                let fields: Vec<_> = columns.iter().map(|name| field(record.get(name))).collect();
                if let [None] = fields[..]
                    && null.is_empty()
                {
                    return Err(not_writable(
                        &"in CSV with one column, a record without a value would be an empty line, which \
                          readers skip; say what should stand there instead",
                    ));
                }
                write_fields(fields.iter().map(Option::as_deref), null, to);
                return Ok(());
            }
        }
        to.push(b'\n');
        Ok(())
    }
}

fn not_writable(why: &dyn std::fmt::Display) -> PageError {
    PageError::non_retryable(
        "RecordNotWritable",
        format_args!("a record cannot be written: {why}"),
    )
}

fn object(record: &impl Serialize, columns: &[String]) -> Result<Map<String, Value>, PageError> {
    let record = serde_json::to_value(record).map_err(|e| not_writable(&e))?;
    let Value::Object(record) = record else {
        return Err(not_writable(&"it is not an object"));
    };
    match record.keys().find(|name| !columns.contains(name)) {
        Some(name) => Err(not_writable(&format_args!(
            "it has a field \"{name}\", and the columns are {}",
            columns.join(", ")
        ))),
        None => Ok(record),
    }
}

/// The fields of a record in the order of the columns.
struct Ordered<'a>(&'a [String], &'a Map<String, Value>);

impl Serialize for Ordered<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for name in self.0 {
            map.serialize_entry(name, self.1.get(name).unwrap_or(&Value::Null))?;
        }
        map.end()
    }
}

/// A value as the text of a field; `None`: there is none.
fn field(value: Option<&Value>) -> Option<String> {
    match value {
        None | Some(Value::Null) => None,
        Some(Value::String(text)) => Some(text.clone()),
        Some(value) => Some(value.to_string()),
    }
}

/// One line. The `csv` crate quotes either all fields or those that have to be; here the quotes of an empty
/// text say that it is one.
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
    use serde_json::json;

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

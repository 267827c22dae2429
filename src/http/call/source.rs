//! The records of a call: those of a file, or the rows of a table.

use serde::{Deserialize, Serialize};

#[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql"))]
use crate::sql::{HighWaterMark, Key, TableSpec};
use crate::{
    base::error::PageError,
    cell::json_object::{self, NoObject},
    files::{BadRecord, CsvSource, FilePosition, FileRecord, JsonLinesSource, strings},
    http::template::{Datum, Fields},
    page::{Next, Page, range::PageRange, size::Size},
};

/// The records of a batch of [`HttpCall`](super::processor::HttpCall).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum CallSource {
    /// A CSV file with column names. Every value is a text, or NULL.
    Csv(CsvSource),
    /// A JSON Lines file with an object on each line. Numbers keep every digit.
    JsonLines(JsonLinesSource),
    /// The rows of a table, as [`Table::records`](crate::sql::Table::records) shows them.
    #[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql"))]
    Table {
        /// The name of a connection of the worker.
        connection: String,
        /// The rows.
        table: TableSpec,
        /// The end of the batch in a growing table.
        #[serde(default)]
        high_water_mark: HighWaterMark,
    },
}

impl From<CsvSource> for CallSource {
    fn from(source: CsvSource) -> Self {
        Self::Csv(source)
    }
}

impl From<JsonLinesSource> for CallSource {
    fn from(source: JsonLinesSource) -> Self {
        Self::JsonLines(source)
    }
}

/// The position of a record in its file or table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
#[non_exhaustive]
pub enum CallCursor {
    /// A position in a file.
    File(FilePosition),
    /// The key of a row.
    #[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql"))]
    Row(Key),
}

/// A record to call for. Public only because it is the item of a processor.
#[derive(Debug)]
pub struct CallItem {
    pub(super) cursor: CallCursor,
    pub(super) content: Result<Fields, Box<Unreadable>>,
}

/// A record that cannot be read.
#[derive(Debug)]
pub(super) struct Unreadable {
    pub error_type: String,
    pub message: String,
    pub kept: String,
}

fn file_range(range: &PageRange<CallCursor>) -> Result<PageRange<FilePosition>, PageError> {
    let position = |cursor: Option<&CallCursor>| -> Result<Option<FilePosition>, PageError> {
        match cursor {
            None => Ok(None),
            Some(CallCursor::File(position)) => Ok(Some(*position)),
            #[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql"))]
            Some(CallCursor::Row(_)) => Err(PageError::environment(
                "the cursor is not a position in a file",
            )
            .with_type("CursorNotReadable")),
        }
    };
    Ok(PageRange::new(
        position(range.start())?,
        position(range.end())?,
    ))
}

impl CallSource {
    /// Returns a page of the file; `None` for a table.
    pub(super) async fn file_page(
        &self,
        null: &str,
        range: &PageRange<CallCursor>,
        limit: usize,
    ) -> Result<Option<Page<CallCursor, CallItem>>, PageError> {
        let page = match self {
            Self::Csv(source) => {
                let null = null.to_owned();
                let read = move |names: Option<&csv::StringRecord>,
                                 fields: crate::files::Fields<'_>| {
                    let record = strings(fields)?;
                    let names = names.into_iter().flatten();
                    let pairs = names.zip(&record);
                    Ok(pairs
                        .map(|(name, text)| (name.to_owned(), of_csv(text, &null)))
                        .collect())
                };
                source.page_with(&file_range(range)?, limit, read).await?
            }
            Self::JsonLines(source) => {
                source
                    .page_with(&file_range(range)?, limit, of_line)
                    .await?
            }
            #[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql"))]
            Self::Table { .. } => return Ok(None),
        };
        of_file(page).map(Some)
    }

    pub(super) async fn skip_in_file(
        &self,
        range: &PageRange<CallCursor>,
        records: u64,
    ) -> Result<Option<CallCursor>, PageError> {
        let found = match self {
            Self::Csv(source) => source.skip(&file_range(range)?, records).await?,
            Self::JsonLines(source) => source.skip(&file_range(range)?, records).await?,
            #[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql"))]
            Self::Table { .. } => None,
        };
        Ok(found.map(CallCursor::File))
    }

    pub(super) async fn prepare_file(self) -> Result<Self, PageError> {
        Ok(match self {
            Self::Csv(source) => Self::Csv(source.prepare().await?),
            Self::JsonLines(source) => Self::JsonLines(source.prepare().await?),
            #[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql"))]
            table @ Self::Table { .. } => table,
        })
    }

    pub(super) async fn file_size(&self) -> Result<Size, PageError> {
        match self {
            Self::Csv(source) => source.size().await,
            Self::JsonLines(source) => source.size().await,
            #[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql"))]
            Self::Table { .. } => Ok(Size::from_hint(None)),
        }
    }
}

/// Gives the items of a page of a file the cursors of all sources.
fn of_file(
    page: Page<FilePosition, FileRecord<Fields>>,
) -> Result<Page<CallCursor, CallItem>, PageError> {
    let ends = *page.next() == Next::End;
    let (records, _) = page.into_parts();
    let items = records.into_iter().map(|record| {
        let cursor = CallCursor::File(record.position());
        let (number, bytes) = (record.number(), record.bytes());
        let content = record.into_content().map_err(|bad| {
            Box::new(Unreadable {
                error_type: bad.error_type.to_string(),
                message: format!("record {number}: {}", bad.message),
                kept: bad.kept(number, bytes).into_json(),
            })
        });
        CallItem { cursor, content }
    });
    let page = Page::sorted(items.collect(), |item: &CallItem| item.cursor.clone())?;
    Ok(if ends { page.last() } else { page })
}

fn of_csv(text: &str, null: &str) -> Datum {
    match text == null {
        true => Datum::Null,
        false => Datum::Text(text.to_owned()),
    }
}

fn of_line(line: &[u8]) -> Result<Fields, BadRecord> {
    let line = std::str::from_utf8(line)
        .map_err(|_| BadRecord::new("InvalidUtf8", "the line is not UTF-8"))?;
    of_object(line)
}

/// Reads the fields of a JSON object.
pub(super) fn of_object(json: &str) -> Result<Fields, BadRecord> {
    let fields = json_object::fields(json).map_err(|error| match error {
        NoObject::Invalid => BadRecord::new("InvalidJson", "the line is not JSON"),
        NoObject::Other => BadRecord::new("NoObject", "JSON, but not an object"),
        NoObject::Twice(_) => BadRecord::new("InvalidJson", "a field occurs twice"),
    })?;
    let datum = |(name, json): (String, &str)| match Datum::of_json(json) {
        Ok(datum) => Ok((name, datum)),
        Err(why) => Err(BadRecord::new("InvalidJson", format!("a text {why}"))),
    };
    fields.into_iter().map(datum).collect()
}

impl CallItem {
    /// Returns the fields, or the reason why the record cannot be read.
    #[cfg_attr(not(feature = "cli"), allow(dead_code, reason = "for the command"))]
    pub(crate) fn fields(&self) -> Result<&Fields, String> {
        let content = self.content.as_ref();
        content.map_err(|unreadable| unreadable.message.clone())
    }
}

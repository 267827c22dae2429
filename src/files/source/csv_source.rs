//! A CSV file as a source.

use std::{borrow::Cow, path::PathBuf};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    base::{error::PageError, text::count},
    files::{
        BadRecord, CsvFormat, FilePosition, FileRecord, Header, SourceFile,
        error::FileError,
        source::{
            csv_scanner::{CsvScanner, Fields},
            excerpt::Excerpt,
            paging::{self, Opened, ScannedFile, blocking, too_large, with_file},
            scan::{Input, Scan as _, input, input_of},
            source_file::OpenFile,
        },
    },
    page::{Page, range::PageRange, size::Size},
    processor::{PageProcessor, SkipAhead, context::PageContext},
};

/// A CSV file as the source of a batch; part of the batch's arguments, or all of them.
///
/// Call [`prepare`](Self::prepare) in [`PageProcessor::prepare`], [`fetch`](Self::fetch) in `fetch`,
/// [`skip_ahead`](Self::skip_ahead) in `skip_ahead`, and [`size_hint`](Self::size_hint) in `size_hint`. See
/// [`files`](crate::files) for an example.
///
/// ```
/// use temporal_batch::files::{CsvSource, Header};
///
/// let source = CsvSource::new("users.csv").delimiter(';').header(Header::None);
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CsvSource {
    /// The file.
    pub file: SourceFile,
    /// The format of the file.
    #[serde(default)]
    pub format: CsvFormat,
}

/// # Construct
impl CsvSource {
    /// Creates a source from the file at a path, with a header, commas and double quotes.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            file: SourceFile::new(path),
            format: CsvFormat::default(),
        }
    }

    /// Sets the format of the file.
    #[must_use]
    pub fn format(mut self, format: CsvFormat) -> Self {
        self.format = format;
        self
    }

    /// Sets the source of the column names, which is the first record by default.
    #[must_use]
    pub fn header(mut self, header: Header) -> Self {
        self.format.header = header;
        self
    }

    /// Sets the character between two fields, which is a comma by default.
    #[must_use]
    pub fn delimiter(mut self, delimiter: char) -> Self {
        self.format.delimiter = delimiter;
        self
    }

    /// Lets the file grow while the batch runs; see [`SourceFile::may_grow`].
    #[must_use]
    pub fn may_grow(mut self) -> Self {
        self.file.may_grow = true;
        self
    }

    /// Decompresses a gzip file into a folder first; see [`SourceFile::spool`].
    #[must_use]
    pub fn spool(mut self, folder: impl Into<PathBuf>) -> Self {
        self.file.spool = Some(folder.into());
        self
    }
}

/// # Read
impl CsvSource {
    /// Looks at the file and takes its fingerprint, so that every later page reads exactly this file. A gzip file is
    /// decompressed, if there is a [spool](Self::spool).
    ///
    /// # Errors
    /// Non-retryable: `InvalidCsvFormat`, `BadHeader`, `CompressedFile`, `Utf16File`, `NotAFile`. Retryable:
    /// `FileNotHere`, `FileNotReadable`, `FileChanged` (if it was prepared before), `FileNotSpooled`.
    pub async fn prepare(mut self) -> Result<Self, PageError> {
        blocking(move || {
            self.check()?;
            self.file = self.file.prepared().map_err(FileError::into_page_error)?;
            self.open().map_err(FileError::into_page_error)?;
            Ok(self)
        })
        .await
    }

    /// Returns the page in the range of `ctx`. A record that cannot become a `T` is an item with the
    /// [reason](FileRecord::or_fail).
    ///
    /// `T` is a struct with fields named like the columns, or a tuple or `Vec<String>` if there are no names.
    ///
    /// # Errors
    /// Those of [`prepare`](Self::prepare); all of them concern the whole file.
    pub async fn fetch<P, T>(
        &self,
        ctx: &PageContext<P>,
    ) -> Result<Page<FilePosition, FileRecord<T>>, PageError>
    where
        P: PageProcessor<Cursor = FilePosition>,
        T: DeserializeOwned + Send + 'static,
    {
        self.page(ctx.range(), ctx.page_size()).await
    }

    /// Reads at most `limit` records of a range, for use without a processor.
    ///
    /// # Errors
    /// Those of [`fetch`](Self::fetch).
    pub async fn page<T>(
        &self,
        range: &PageRange<FilePosition>,
        limit: usize,
    ) -> Result<Page<FilePosition, FileRecord<T>>, PageError>
    where
        T: DeserializeOwned + Send + 'static,
    {
        self.page_with(range, limit, |names, fields| typed(fields, names))
            .await
    }

    /// Like [`page`](Self::page), with raw fields. `content` gets the names of the columns, if there are any.
    pub(crate) async fn page_with<T, F>(
        &self,
        range: &PageRange<FilePosition>,
        limit: usize,
        mut content: F,
    ) -> Result<Page<FilePosition, FileRecord<T>>, PageError>
    where
        T: Send + 'static,
        F: FnMut(Option<&csv::StringRecord>, Fields<'_>) -> Result<T, BadRecord> + Send + 'static,
    {
        paging::page(self, range, limit, move |source, head, scanner, extent| {
            scanner.check_quotes()?;
            if extent.too_large {
                return Err(too_large(source.format.max_record_bytes));
            }
            let fields = scanner.fields();
            source.check_columns(head, fields.len())?;
            content(head.names.as_ref(), fields)
        })
        .await
    }

    /// Returns the start of the page that is `pages` pages further on. The records in between are scanned, which costs
    /// about as much as reading them, since a quoted field may hold line ends. Over a whole batch, every record is
    /// scanned once for this.
    ///
    /// # Errors
    /// Those of [`fetch`](Self::fetch).
    pub async fn skip_ahead<P>(
        &self,
        ctx: &PageContext<P>,
        pages: u32,
    ) -> Result<SkipAhead<FilePosition>, PageError>
    where
        P: PageProcessor<Cursor = FilePosition>,
    {
        let records = u64::from(pages) * ctx.page_size() as u64;
        let found = self.skip(ctx.range(), records).await?;
        Ok(found.map_or(SkipAhead::PastEnd, SkipAhead::To))
    }

    /// Returns the end of the record that is `records` records after the start of the range; `None` if the range has
    /// fewer. For use without a processor.
    ///
    /// # Errors
    /// Those of [`fetch`](Self::fetch).
    pub async fn skip(
        &self,
        range: &PageRange<FilePosition>,
        records: u64,
    ) -> Result<Option<FilePosition>, PageError> {
        paging::skip(self, range, records).await
    }

    /// Returns the number in [`size`](Self::size), exact or estimated.
    ///
    /// # Errors
    /// Those of [`fetch`](Self::fetch).
    pub async fn size_hint(&self) -> Result<Option<u64>, PageError> {
        self.size().await.map(Size::items)
    }

    /// Returns the number of records: exact for a small file, which is read, and otherwise estimated from the length of
    /// the first records.
    ///
    /// # Errors
    /// Those of [`fetch`](Self::fetch).
    pub async fn size(&self) -> Result<Size, PageError> {
        paging::size(self).await
    }

    /// Returns the names of the columns; `None` without a header.
    ///
    /// # Errors
    /// Those of [`prepare`](Self::prepare).
    pub async fn columns(&self) -> Result<Option<Vec<String>>, PageError> {
        with_file(self, |_, opened| {
            let names = opened.head.names.as_ref();
            Ok(names.map(|names| names.iter().map(str::to_owned).collect()))
        })
        .await
    }
}

/// # Copy
impl CsvSource {
    /// Returns a copy of some of the records.
    #[allow(dead_code, reason = "for `import`, which needs a database")]
    pub(crate) fn excerpt(&self) -> Result<Excerpt, FileError> {
        let opened = self.open()?;
        Ok(Excerpt::new(opened.file, opened.data))
    }
}

/// The facts about the columns from the beginning of a file.
#[derive(Default)]
pub(crate) struct Columns {
    names: Option<csv::StringRecord>,
    /// The number of columns of every record; `None` in an empty file.
    number: Option<usize>,
}

/// The size of the buffer for the header, enough for most.
const HEADER_BUFFER: usize = 4 * 1024;

impl ScannedFile for CsvSource {
    type Scanner = CsvScanner<Input>;
    type Head = Columns;

    fn check(&self) -> Result<(), PageError> {
        let checked = self.format.validate();
        checked.map_err(|e| PageError::non_retryable("InvalidCsvFormat", e))
    }

    fn open(&self) -> Result<Opened<Columns>, FileError> {
        let file = self.file.open()?;
        let mut opened = Opened {
            data: file.text,
            head: Columns::default(),
            file,
        };
        let (file, head) = (&opened.file, &mut opened.head);
        if let Header::Names(names) = &self.format.header {
            head.number = Some(names.len());
            head.names = Some(names.iter().collect());
            return Ok(opened);
        }
        let first = input_of(file, file.text, HEADER_BUFFER);
        let mut scanner = CsvScanner::new(first, &self.format, file.text);
        let first = scanner.advance().map_err(|e| file.not_readable(e))?;
        let Some(first) = first else {
            return Ok(opened);
        };
        let header = self.format.header == Header::FirstRecord;
        let sound = match first.too_large {
            true => Err(too_large(self.format.max_record_bytes)),
            false => scanner.check_quotes(),
        };
        if let Err(bad) = sound {
            return match header {
                true => Err(file.bad_header(bad.message)),
                false => Ok(opened),
            };
        }
        head.number = Some(scanner.fields().len());
        if header {
            let names = strings(scanner.fields()).map_err(|bad| file.bad_header(bad.message));
            head.names = Some(names?);
            opened.data = first.end;
        }
        Ok(opened)
    }

    fn scanner(&self, file: &OpenFile, offset: u64) -> CsvScanner<Input> {
        CsvScanner::new(input(file, offset), &self.format, offset)
    }

    fn reader(&self, file: &OpenFile, offset: u64) -> CsvScanner<Input> {
        self.scanner(file, offset).keep_raw()
    }
}

impl CsvSource {
    fn check_columns(&self, columns: &Columns, number: usize) -> Result<(), BadRecord> {
        match columns.number {
            Some(expected) if expected != number && !self.format.flexible => Err(BadRecord::new(
                "WrongColumnCount",
                format!("{} instead of {expected}", count(number as u64, "column")),
            )),
            _ => Ok(()),
        }
    }
}

/// Returns the fields as text.
pub(crate) fn strings(fields: Fields<'_>) -> Result<csv::StringRecord, BadRecord> {
    let (output, _) = fields.parts();
    let mut record = csv::ByteRecord::with_capacity(output.len(), fields.len());
    record.extend(fields.iter());
    csv::StringRecord::from_byte_record(record).map_err(|error| {
        let field = error.utf8_error().field();
        let value = fields.iter().nth(field).map(String::from_utf8_lossy);
        let column = (field + 1).to_string();
        BadRecord::new("InvalidUtf8", format!("column {column} is not UTF-8"))
            .in_column(&column, value.map(Cow::into_owned))
    })
}

fn typed<T: DeserializeOwned>(
    fields: Fields<'_>,
    names: Option<&csv::StringRecord>,
) -> Result<T, BadRecord> {
    let record = strings(fields)?;
    record.deserialize(names).map_err(|error| {
        let column = match error.kind() {
            csv::ErrorKind::Deserialize { err, .. } => err.field(),
            _ => None,
        };
        let column = column.map(|field| {
            let field = usize::try_from(field).unwrap_or(usize::MAX);
            match names.and_then(|names| names.get(field)) {
                Some(name) => format!("column `{name}`"),
                None => format!("column {}", field.saturating_add(1)),
            }
        });
        BadRecord::not_readable(error.to_string(), column)
    })
}

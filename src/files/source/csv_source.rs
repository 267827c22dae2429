//! A CSV file as a source.

use std::{borrow::Cow, path::PathBuf};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    base::error::PageError,
    files::{
        BadRecord, CsvFormat, FilePosition, FileRecord, Header, SourceFile,
        error::FileError,
        source::{
            csv_scanner::{CsvScanner, Fields},
            excerpt::Excerpt,
            reading::{self, Bounds, Extent, Input, Scan, input, input_of},
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
/// [the module](super) for an example.
///
/// ```
/// use temporal_batch::files::{CsvSource, Header};
///
/// let source = CsvSource::new("users.csv").delimiter(';').header(Header::None);
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CsvSource {
    /// Which file.
    pub file: SourceFile,
    /// How it is written.
    #[serde(default)]
    pub format: CsvFormat,
}

/// # Construct
impl CsvSource {
    /// The file at a path, with a header, commas and double quotes.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            file: SourceFile::new(path),
            format: CsvFormat::default(),
        }
    }

    /// How it is written.
    #[must_use]
    pub fn format(mut self, format: CsvFormat) -> Self {
        self.format = format;
        self
    }

    /// Where the names of the columns come from: the first record, unless told.
    #[must_use]
    pub fn header(mut self, header: Header) -> Self {
        self.format.header = header;
        self
    }

    /// What stands between two fields: a comma, unless told.
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
    /// Looks at the file, and fixes which one it is, so that every later page reads exactly that one. A gzip
    /// file is decompressed, where a [spool](Self::spool) is named.
    ///
    /// # Errors
    /// Non-retryable: `InvalidCsvFormat`, `BadHeader`, `CompressedFile`, `Utf16File`, `NotAFile`. Retryable:
    /// `FileNotHere`, `FileNotReadable`, `FileChanged` (it had been prepared before), `FileNotSpooled`.
    pub async fn prepare(mut self) -> Result<Self, PageError> {
        blocking(move || {
            self.check_format()?;
            self.file = self.file.prepared().map_err(FileError::into_page_error)?;
            self.look().map_err(FileError::into_page_error)?;
            Ok(self)
        })
        .await
    }

    /// The page in the range of `ctx`. A record that is no `T` is an item that [says why
    /// not](FileRecord::or_fail).
    ///
    /// `T` is a struct with fields named like the columns, or a tuple or `Vec<String>` where there are no
    /// names.
    ///
    /// # Errors
    /// As of [`prepare`](Self::prepare); all of them concern the whole file.
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

    /// At most `limit` records of a range, for use without a processor.
    ///
    /// # Errors
    /// As of [`fetch`](Self::fetch).
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

    /// The same with fields as they are. `content` gets the names of the columns, if there are some.
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
        let (source, range) = (self.clone(), range.clone());
        let records = blocking(move || {
            source.check_format()?;
            let mut read = || {
                let look = source.look()?;
                let bounds = Bounds::of(&range, look.data);
                let scanner = source.scanner(&look.file, bounds.start.offset);
                let mut scanner = scanner.keep_raw();
                let of = |scanner: &CsvScanner<Input>, extent: Extent| {
                    scanner.check_quotes()?;
                    if extent.too_large {
                        return Err(too_large(source.format.max_record_bytes));
                    }
                    let fields = scanner.fields();
                    source.check_columns(&look, fields.len())?;
                    content(look.names.as_ref(), fields)
                };
                reading::read(&look.file, &mut scanner, &bounds, limit, of)
            };
            read().map_err(FileError::into_page_error)
        })
        .await?;
        page_of(records)
    }

    /// Where the page `pages` pages further on starts. The records in between are scanned, which costs about
    /// as much as it takes to read them: a quoted field may hold what looks like the end of a record. Over a
    /// whole batch every record is scanned once for this.
    ///
    /// # Errors
    /// As of [`fetch`](Self::fetch).
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

    /// Where the record `records` records after the start of the range ends; `None` where the range has
    /// fewer. For use without a processor.
    ///
    /// # Errors
    /// As of [`fetch`](Self::fetch).
    pub async fn skip(
        &self,
        range: &PageRange<FilePosition>,
        records: u64,
    ) -> Result<Option<FilePosition>, PageError> {
        let (source, range) = (self.clone(), range.clone());
        blocking(move || {
            source.check_format()?;
            let skip = || {
                let look = source.look()?;
                let bounds = Bounds::of(&range, look.data);
                let mut scanner = source.scanner(&look.file, bounds.start.offset);
                reading::skip(&look.file, &mut scanner, &bounds, records)
            };
            skip().map_err(FileError::into_page_error)
        })
        .await
    }

    /// The number in [`size`](Self::size), exact or not.
    ///
    /// # Errors
    /// As of [`fetch`](Self::fetch).
    pub async fn size_hint(&self) -> Result<Option<u64>, PageError> {
        self.size().await.map(Size::items)
    }

    /// How many records there are: exactly in a small file, which is read; in a larger one as many as the length of
    /// the first ones suggests.
    ///
    /// # Errors
    /// As of [`fetch`](Self::fetch).
    pub async fn size(&self) -> Result<Size, PageError> {
        let source = self.clone();
        blocking(move || {
            source.check_format()?;
            let guess = || {
                let look = source.look()?;
                let mut scanner = source.scanner(&look.file, look.data);
                reading::guess_count(&look.file, &mut scanner, look.data)
            };
            guess().map_err(FileError::into_page_error)
        })
        .await
    }

    /// The names of the columns; `None` without a header.
    ///
    /// # Errors
    /// As of [`prepare`](Self::prepare).
    pub async fn columns(&self) -> Result<Option<Vec<String>>, PageError> {
        let source = self.clone();
        blocking(move || {
            source.check_format()?;
            let look = source.look().map_err(FileError::into_page_error)?;
            let names = look.names.as_ref();
            Ok(names.map(|names| names.iter().map(str::to_owned).collect()))
        })
        .await
    }
}

/// # Copy
impl CsvSource {
    /// For a file of some of its records.
    #[allow(dead_code, reason = "for `import`, which needs a database")]
    pub(crate) fn excerpt(&self) -> Result<Excerpt, FileError> {
        let look = self.look()?;
        Ok(Excerpt::new(look.file, look.data))
    }
}

/// What the beginning of a file says of the rest.
struct Look {
    file: OpenFile,
    names: Option<csv::StringRecord>,
    /// Columns that every record has; `None` in an empty file.
    columns: Option<usize>,
    /// Where the first record begins.
    data: u64,
}

/// Enough for most headers.
const HEADER_BUFFER: usize = 4 * 1024;

impl CsvSource {
    fn check_format(&self) -> Result<(), PageError> {
        let checked = self.format.validate();
        checked.map_err(|e| PageError::non_retryable("InvalidCsvFormat", e))
    }

    fn look(&self) -> Result<Look, FileError> {
        let file = self.file.open()?;
        let first = input_of(&file, file.text, HEADER_BUFFER);
        let mut scanner = CsvScanner::new(first, &self.format, file.text);
        let mut look = Look {
            names: None,
            columns: None,
            data: file.text,
            file,
        };
        if let Header::Names(names) = &self.format.header {
            look.columns = Some(names.len());
            look.names = Some(names.iter().collect());
            return Ok(look);
        }
        let first = scanner.advance();
        let Some(first) = first.map_err(|e| look.file.not_readable(e))? else {
            return Ok(look);
        };
        let header = self.format.header == Header::FirstRecord;
        let sound = match first.too_large {
            true => Err(too_large(self.format.max_record_bytes)),
            false => scanner.check_quotes(),
        };
        if let Err(bad) = sound {
            return match header {
                true => Err(look.file.bad_header(bad.message)),
                false => Ok(look),
            };
        }
        look.columns = Some(scanner.fields().len());
        if header {
            let names = strings(scanner.fields()).map_err(|bad| look.file.bad_header(bad.message));
            look.names = Some(names?);
            look.data = first.end;
        }
        Ok(look)
    }

    fn scanner(&self, file: &OpenFile, offset: u64) -> CsvScanner<Input> {
        CsvScanner::new(input(file, offset), &self.format, offset)
    }

    fn check_columns(&self, look: &Look, columns: usize) -> Result<(), BadRecord> {
        match look.columns {
            Some(expected) if expected != columns && !self.format.flexible => Err(BadRecord::new(
                "WrongColumnCount",
                format!("{columns} columns instead of {expected}"),
            )),
            _ => Ok(()),
        }
    }
}

/// File work, on a thread where it may wait for a disk.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, PageError> + Send + 'static,
) -> Result<T, PageError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(error) => Err(error.into()),
        },
    }
}

pub(crate) fn page_of<T>(
    read: reading::Records<T>,
) -> Result<Page<FilePosition, FileRecord<T>>, PageError> {
    let page = Page::keyset(read.records, |record| record.end)?;
    Ok(if read.at_end { page.last() } else { page })
}

pub(crate) fn too_large(most: u64) -> BadRecord {
    BadRecord::new("RecordTooLarge", format!("longer than {most} bytes"))
}

/// The fields as text.
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

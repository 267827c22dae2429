//! A JSON Lines file as a source.

use std::{
    io::{self, BufRead, Read},
    path::PathBuf,
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    base::error::PageError,
    files::{
        BadRecord, FilePosition, FileRecord, SourceFile,
        error::FileError,
        source::{
            csv_format::MAX_RECORD_BYTES,
            csv_source::{blocking, page_of, too_large},
            excerpt::Excerpt,
            reading::{self, Bounds, Extent, Input, Scan, input},
            source_file::OpenFile,
        },
    },
    page::{Page, range::PageRange, size::Size},
    processor::{PageProcessor, SkipAhead, context::PageContext},
};

/// A JSON Lines file (one JSON value a line) as the source of a batch; part of the batch's arguments, or all
/// of them. Lines end with LF or CR LF; those with nothing but white space are skipped.
///
/// It is used like [`CsvSource`](crate::files::CsvSource).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JsonLinesSource {
    /// Which file.
    pub file: SourceFile,
    /// Most bytes of a line, 16 MiB unless told. A longer one is a failed record.
    #[serde(default = "max_record_bytes")]
    pub max_record_bytes: u64,
}

fn max_record_bytes() -> u64 {
    MAX_RECORD_BYTES
}

/// # Construct
impl JsonLinesSource {
    /// The file at a path.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            file: SourceFile::new(path),
            max_record_bytes: MAX_RECORD_BYTES,
        }
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
impl JsonLinesSource {
    /// Looks at the file, and fixes which one it is, so that every later page reads exactly that one. A gzip
    /// file is decompressed, where a [spool](Self::spool) is named.
    ///
    /// # Errors
    /// Non-retryable: `CompressedFile`, `Utf16File`, `NotAFile`. Retryable: `FileNotHere`, `FileNotReadable`,
    /// `FileChanged` (it had been prepared before), `FileNotSpooled`.
    pub async fn prepare(mut self) -> Result<Self, PageError> {
        blocking(move || {
            self.file = self.file.prepared().map_err(FileError::into_page_error)?;
            Ok(self)
        })
        .await
    }

    /// The page in the range of `ctx`. A line that is no `T` is an item that [says why
    /// not](FileRecord::or_fail).
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
        self.page_with(range, limit, typed).await
    }

    /// The same with what `content` makes of a line.
    pub(crate) async fn page_with<T, F>(
        &self,
        range: &PageRange<FilePosition>,
        limit: usize,
        mut content: F,
    ) -> Result<Page<FilePosition, FileRecord<T>>, PageError>
    where
        T: Send + 'static,
        F: FnMut(&[u8]) -> Result<T, BadRecord> + Send + 'static,
    {
        let (source, range) = (self.clone(), range.clone());
        let records = blocking(move || {
            let mut read = || {
                let file = source.file.open()?;
                let bounds = Bounds::of(&range, file.text);
                let mut scanner = source.scanner(&file, bounds.start.offset);
                let of = |scanner: &LineScanner<Input>, extent: Extent| {
                    if extent.too_large {
                        return Err(too_large(source.max_record_bytes));
                    }
                    content(&scanner.line)
                };
                reading::read(&file, &mut scanner, &bounds, limit, of)
            };
            read().map_err(FileError::into_page_error)
        })
        .await?;
        page_of(records)
    }

    /// Where the page `pages` pages further on starts. The lines in between are read but not parsed; over a
    /// whole batch every line is read once for this.
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
            let skip = || {
                let file = source.file.open()?;
                let bounds = Bounds::of(&range, file.text);
                let mut scanner = source.scanner(&file, bounds.start.offset);
                reading::skip(&file, &mut scanner, &bounds, records)
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
            let guess = || {
                let file = source.file.open()?;
                let mut scanner = source.scanner(&file, file.text);
                reading::guess_count(&file, &mut scanner, file.text)
            };
            guess().map_err(FileError::into_page_error)
        })
        .await
    }

    /// For a file of some of its lines.
    #[allow(dead_code, reason = "for `import`, which needs a database")]
    pub(crate) fn excerpt(&self) -> Result<Excerpt, FileError> {
        let file = self.file.open()?;
        let data = file.text;
        Ok(Excerpt::new(file, data))
    }

    fn scanner(&self, file: &OpenFile, offset: u64) -> LineScanner<Input> {
        LineScanner {
            input: input(file, offset),
            max_record_bytes: self.max_record_bytes.clamp(1, 1 << 30),
            offset,
            line: Vec::new(),
        }
    }
}

fn typed<T: DeserializeOwned>(line: &[u8]) -> Result<T, BadRecord> {
    // Otherwise it would be an error of the JSON.
    let line = std::str::from_utf8(line).map_err(|error| {
        let byte = error.valid_up_to() + 1;
        BadRecord::new(
            "InvalidUtf8",
            format!("byte {byte} of the line is not UTF-8"),
        )
    })?;
    serde_json::from_str(line).map_err(|error| {
        let place = format!("column {}", error.column());
        if error.is_data() {
            return BadRecord::not_readable(error.to_string(), Some(place));
        }
        BadRecord::new("InvalidJson", format!("{place}: no JSON"))
    })
}

/// Goes from line to line.
struct LineScanner<R> {
    input: R,
    max_record_bytes: u64,
    offset: u64,
    line: Vec<u8>,
}

impl<R: BufRead> Scan for LineScanner<R> {
    fn advance(&mut self) -> io::Result<Option<Extent>> {
        loop {
            self.line.clear();
            let start = self.offset;
            let mut most = self.input.by_ref().take(self.max_record_bytes + 1);
            let read = most.read_until(b'\n', &mut self.line)?;
            if read == 0 {
                return Ok(None);
            }
            self.offset += read as u64;
            let mut terminated = self.line.last() == Some(&b'\n');
            let too_large = !terminated && read as u64 > self.max_record_bytes;
            if too_large {
                self.line.clear();
                let rest = rest_of_line(&mut self.input)?;
                self.offset += rest.bytes;
                terminated = rest.terminated;
            } else if self.line.trim_ascii().is_empty() {
                continue;
            }
            return Ok(Some(Extent {
                start,
                end: self.offset,
                terminated,
                too_large,
            }));
        }
    }

    fn offset(&self) -> u64 {
        self.offset
    }
}

struct Rest {
    bytes: u64,
    terminated: bool,
}

/// Skips to the next line.
fn rest_of_line<R: BufRead>(input: &mut R) -> io::Result<Rest> {
    let mut bytes = 0;
    loop {
        let buffer = input.fill_buf()?;
        if buffer.is_empty() {
            return Ok(Rest {
                bytes,
                terminated: false,
            });
        }
        let end = buffer.iter().position(|b| *b == b'\n');
        let used = end.map_or(buffer.len(), |end| end + 1);
        input.consume(used);
        bytes += used as u64;
        if end.is_some() {
            return Ok(Rest {
                bytes,
                terminated: true,
            });
        }
    }
}

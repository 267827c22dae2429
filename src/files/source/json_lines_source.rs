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
            excerpt::Excerpt,
            paging::{self, Opened, ScannedFile, blocking, too_large},
            scan::{Extent, Input, Scan, input},
            source_file::OpenFile,
        },
    },
    page::{Page, range::PageRange, size::Size},
    processor::{PageProcessor, SkipAhead, context::PageContext},
};

/// A JSON Lines file (one JSON value a line) as the source of a batch; part of the batch's arguments, or all
/// of them. Lines end with LF or CR LF; those with nothing but white space are skipped.
///
/// The source is used like [`CsvSource`](crate::files::CsvSource).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JsonLinesSource {
    /// The file.
    pub file: SourceFile,
    /// The longest line, in bytes: 16 MiB by default. A longer one is a failed record.
    #[serde(default = "max_record_bytes")]
    pub max_record_bytes: u64,
}

fn max_record_bytes() -> u64 {
    MAX_RECORD_BYTES
}

/// # Construct
impl JsonLinesSource {
    /// Creates a source from the file at a path.
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
    /// Looks at the file and takes its fingerprint, so that every later page reads exactly this file. A gzip file is
    /// decompressed, if there is a [spool](Self::spool).
    ///
    /// # Errors
    /// Non-retryable: `CompressedFile`, `Utf16File`, `NotAFile`. Retryable: `FileNotHere`, `FileNotReadable`,
    /// `FileChanged` (if it was prepared before), `FileNotSpooled`.
    pub async fn prepare(mut self) -> Result<Self, PageError> {
        blocking(move || {
            self.file = self.file.prepared().map_err(FileError::into_page_error)?;
            Ok(self)
        })
        .await
    }

    /// Returns the page in the range of `ctx`. A line that cannot become a `T` is an item with the
    /// [reason](FileRecord::or_fail).
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
        self.page_with(range, limit, typed).await
    }

    /// Like [`page`](Self::page), with raw lines.
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
        paging::page(
            self,
            range,
            limit,
            move |source, (), scanner, extent| match extent.too_large {
                true => Err(too_large(source.max_record_bytes)),
                false => content(&scanner.line),
            },
        )
        .await
    }

    /// Returns the start of the page that is `pages` pages further on. The lines in between are read but not parsed.
    /// Over a whole batch, every line is read once for this.
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

    /// Returns a copy of some of the lines.
    #[allow(dead_code, reason = "for `import`, which needs a database")]
    pub(crate) fn excerpt(&self) -> Result<Excerpt, FileError> {
        let opened = self.open()?;
        Ok(Excerpt::new(opened.file, opened.data))
    }
}

impl ScannedFile for JsonLinesSource {
    type Scanner = LineScanner<Input>;
    type Head = ();

    fn open(&self) -> Result<Opened<()>, FileError> {
        let file = self.file.open()?;
        Ok(Opened {
            data: file.text,
            head: (),
            file,
        })
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
    // Checked first, since serde would report invalid JSON.
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
        BadRecord::new("InvalidJson", format!("{place}: invalid JSON"))
    })
}

/// The scanner for lines.
pub(crate) struct LineScanner<R> {
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

/// Skips the rest of the line.
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

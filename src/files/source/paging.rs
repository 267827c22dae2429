//! Pages, jumps and sizes of a file with records of any form.

use super::{
    scan::{self, Bounds, Extent, Scan},
    source_file::OpenFile,
};
use crate::{
    base::error::PageError,
    files::{BadRecord, FilePosition, FileRecord, error::FileError},
    page::{Page, range::PageRange, size::Size},
};

/// A file whose records a [`Scan`] finds.
pub(crate) trait ScannedFile: Clone + Send + 'static {
    type Scanner: Scan;
    /// The facts about the records from the beginning of the file, such as the names of columns.
    type Head;

    /// Checks the description of the file before the file is opened.
    fn check(&self) -> Result<(), PageError> {
        Ok(())
    }

    fn open(&self) -> Result<Opened<Self::Head>, FileError>;

    /// Creates a scanner that begins at an offset.
    fn scanner(&self, file: &OpenFile, offset: u64) -> Self::Scanner;

    /// Like [`scanner`](Self::scanner), where the content of the records is needed, too.
    fn reader(&self, file: &OpenFile, offset: u64) -> Self::Scanner {
        self.scanner(file, offset)
    }
}

/// A file that is open, and its beginning.
pub(crate) struct Opened<H> {
    pub file: OpenFile,
    /// The offset of the first record.
    pub data: u64,
    pub head: H,
}

/// Works with the opened file of a source, on a thread that may wait for a disk.
pub(crate) async fn with_file<S: ScannedFile, T: Send + 'static>(
    source: &S,
    work: impl FnOnce(&S, &Opened<S::Head>) -> Result<T, FileError> + Send + 'static,
) -> Result<T, PageError> {
    let source = source.clone();
    blocking(move || {
        source.check()?;
        let worked = source.open().and_then(|opened| work(&source, &opened));
        worked.map_err(FileError::into_page_error)
    })
    .await
}

/// Reads at most `limit` records of a range. `content` makes an item of the scanner's latest record.
pub(crate) async fn page<S, T, F>(
    source: &S,
    range: &PageRange<FilePosition>,
    limit: usize,
    mut content: F,
) -> Result<Page<FilePosition, FileRecord<T>>, PageError>
where
    S: ScannedFile,
    T: Send + 'static,
    F: FnMut(&S, &S::Head, &S::Scanner, Extent) -> Result<T, BadRecord> + Send + 'static,
{
    let range = range.clone();
    let read = with_file(source, move |source, Opened { file, data, head }| {
        let bounds = Bounds::of(&range, *data);
        let mut scanner = source.reader(file, bounds.start.offset);
        scan::read(file, &mut scanner, &bounds, limit, |scanner, extent| {
            content(source, head, scanner, extent)
        })
    })
    .await?;
    let page = Page::keyset(read.records, |record| record.end)?;
    Ok(if read.at_end { page.last() } else { page })
}

/// Returns the end of the record that is `records` records after the start of the range; `None` where the range has
/// fewer.
pub(crate) async fn skip<S: ScannedFile>(
    source: &S,
    range: &PageRange<FilePosition>,
    records: u64,
) -> Result<Option<FilePosition>, PageError> {
    let range = range.clone();
    with_file(source, move |source, Opened { file, data, .. }| {
        let bounds = Bounds::of(&range, *data);
        let mut scanner = source.scanner(file, bounds.start.offset);
        scan::skip(file, &mut scanner, &bounds, records)
    })
    .await
}

/// Returns the number of records: exact for a small file, and otherwise estimated from the length of the first ones.
pub(crate) async fn size<S: ScannedFile>(source: &S) -> Result<Size, PageError> {
    with_file(source, |source, Opened { file, data, .. }| {
        let mut scanner = source.scanner(file, *data);
        scan::guess_count(file, &mut scanner, *data)
    })
    .await
}

/// Runs file work on a thread that may wait for a disk.
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

pub(crate) fn too_large(most: u64) -> BadRecord {
    BadRecord::new("RecordTooLarge", format!("longer than {most} bytes"))
}

//! Files for tests, and the records that a plain reader finds in them.

use std::path::PathBuf;

use tempfile::TempDir;
use temporal_batch::{
    Next, Page, PageError, PageRange,
    files::{CsvSource, FilePosition, FileRecord, JsonLinesSource},
};

/// A file that is deleted after the test.
pub struct Written {
    pub path: PathBuf,
    _folder: TempDir,
}

pub fn written(content: &[u8]) -> Written {
    named("data", content)
}

pub fn named(name: &str, content: &[u8]) -> Written {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    std::fs::write(&path, content).unwrap();
    Written {
        path,
        _folder: folder,
    }
}

/// A record that was read: its content, or the type of its error.
pub type Found<T> = Result<T, String>;

/// The common operations of both kinds of files.
pub trait Source {
    type Record: Clone + PartialEq + std::fmt::Debug;

    async fn page(
        &self,
        range: &PageRange<FilePosition>,
        limit: usize,
    ) -> Result<Page<FilePosition, FileRecord<Self::Record>>, PageError>;

    async fn skip(
        &self,
        range: &PageRange<FilePosition>,
        records: u64,
    ) -> Result<Option<FilePosition>, PageError>;
}

impl Source for CsvSource {
    type Record = Vec<String>;

    async fn page(
        &self,
        range: &PageRange<FilePosition>,
        limit: usize,
    ) -> Result<Page<FilePosition, FileRecord<Vec<String>>>, PageError> {
        CsvSource::page(self, range, limit).await
    }

    async fn skip(
        &self,
        range: &PageRange<FilePosition>,
        records: u64,
    ) -> Result<Option<FilePosition>, PageError> {
        CsvSource::skip(self, range, records).await
    }
}

impl Source for JsonLinesSource {
    type Record = serde_json::Value;

    async fn page(
        &self,
        range: &PageRange<FilePosition>,
        limit: usize,
    ) -> Result<Page<FilePosition, FileRecord<serde_json::Value>>, PageError> {
        JsonLinesSource::page(self, range, limit).await
    }

    async fn skip(
        &self,
        range: &PageRange<FilePosition>,
        records: u64,
    ) -> Result<Option<FilePosition>, PageError> {
        JsonLinesSource::skip(self, range, records).await
    }
}

/// Every record from a position on, read in pages whose sizes repeat `limits`.
pub async fn all<S: Source>(
    source: &S,
    range: PageRange<FilePosition>,
    limits: &[usize],
) -> Vec<FileRecord<S::Record>> {
    let mut start = range.start().copied();
    let mut records = Vec::new();
    for limit in limits.iter().cycle() {
        let range = PageRange::new(start, range.end().copied());
        let page = source.page(&range, *limit).await.unwrap();
        assert!(page.items().len() <= *limit);
        records.extend(page.items().iter().cloned());
        match page.next() {
            Next::At(next) => start = Some(*next),
            Next::End => break,
        }
        if range.end() == start.as_ref() {
            break;
        }
    }
    records
}

pub fn found<T: Clone>(records: &[FileRecord<T>]) -> Vec<Found<T>> {
    let content = |record: &FileRecord<T>| match record.content() {
        Ok(content) => Ok(content.clone()),
        Err(bad) => Err(bad.error_type().to_owned()),
    };
    records.iter().map(content).collect()
}

pub fn everything() -> PageRange<FilePosition> {
    PageRange::new(None, None)
}

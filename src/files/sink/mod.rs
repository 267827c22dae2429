//! Files as the result of a batch.
//!
//! | file | contents |
//! |---|---|
//! | `mod.rs` | [`PartSink`] |
//! | `part_format.rs` | the format of the records |
//! | `directory.rs` | the directory of the parts |
//! | `part_chain.rs` | the parts that make up the whole |
//! | `finish.rs`, `concatenate.rs` | a finished result from parts, and one file from all parts |
//! | `so_far.rs` | the records that are there while others are missing |
//! | `whole_file.rs`, `writable.rs` | files that appear as a whole, and directories to write into |
//! | `error.rs` | [`SinkError`] |

pub(crate) mod concatenate;
pub(crate) mod directory;
pub(crate) mod error;
pub(crate) mod finish;
pub(crate) mod part_chain;
pub(crate) mod part_format;
mod so_far;
pub(crate) mod whole_file;
pub(crate) mod writable;

use std::{
    io::{self, Write},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use flate2::{Compression, write::GzEncoder};
use serde::Serialize;

use crate::{
    base::error::PageError,
    cell::{Cell, EncodedColumn},
    page::{Page, token::PageToken},
    processor::{
        PageProcessor,
        check_context::CheckContext,
        context::PageContext,
        store::dead_letter::{DeadLetter, stable_id},
    },
    progress::check::Check,
};
use directory::{Owner, RangeNote, SinkDirectory};
use error::SinkError;
use finish::{Finishing, NotFinished, part_extension};
use part_chain::Link;
use part_format::PartFormat;

/// Writes the results of a batch into a directory: one file, a part, for each page, and after the last page a
/// [`Manifest`](super::Manifest).
///
/// # Order of calls
///
/// 1. `fetch` passes every page that it is about to return to [`fetched`](Self::fetched). The first call claims the
///    directory for the batch run.
/// 2. `process` gives the records of the page to [`write`](Self::write), once, as the last thing that it
///    does. The records need not be as many as the items.
/// 3. `check` returns the result of [`finish`](Self::finish). The batch must be [checked at its
///    end](crate::Batch::check_at_end). After the last page `finish` makes sure that the parts cover all of the data
///    without a gap, names them in the order of the data, and writes the manifest.
///
/// ```
/// use async_trait::async_trait;
/// use serde::Serialize;
/// use temporal_batch::files::{PartFormat, PartSink};
/// use temporal_batch::{
///     progress::Check, CheckContext, Page, PageContext, PageError, PageProcessor, PageReport,
/// };
///
/// #[derive(Serialize)]
/// struct Square {
///     n: u32,
///     square: u32,
/// }
///
/// /// Writes the squares of the numbers from 1 to 100.
/// struct Squares(PartSink);
///
/// #[async_trait]
/// impl PageProcessor for Squares {
///     const NAME: &'static str = "squares";
///     type Args = ();
///     type Cursor = u32;
///     type Item = u32;
///
///     async fn fetch(&self, ctx: &PageContext<Self>) -> Result<Page<u32, u32>, PageError> {
///         let first = ctx.range().start().map_or(1, |last| last + 1);
///         let last = ctx.range().end().copied().unwrap_or(100);
///         let page = Page::keyset((first..=last).take(ctx.page_size()).collect(), |n| *n)?;
///         self.0.fetched(ctx, &page).await?;
///         Ok(page)
///     }
///
///     async fn process(&self, ctx: &PageContext<Self>, items: Vec<u32>) -> Result<PageReport, PageError> {
///         let squares: Vec<_> = items.iter().map(|n| Square { n: *n, square: n * n }).collect();
///         self.0.write(ctx, &squares).await?;
///         Ok(PageReport::all_processed())
///     }
///
///     async fn check(&self, ctx: &CheckContext<Self>) -> Result<Option<Check>, PageError> {
///         self.0.finish(ctx).await
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let directory = tempfile::tempdir().unwrap();
/// let sink = PartSink::new(directory.path().join("squares"), PartFormat::csv(["n", "square"]));
/// let run = temporal_batch::testing::run_page(&Squares(sink), (), None).await.unwrap();
/// assert_eq!(run.counts.processed, 100);
/// # }
/// ```
///
/// # Guarantees
///
/// The name of a part follows from its range, and the part gets its name once it is on the disk. A retried page writes
/// the same file again. An incomplete file is never visible, even if a process or the machine is lost.
///
/// Attempts at the same records may cut them into different pages, and a late attempt may write after the result is
/// finished. So parts overlap while the batch runs. At its end, an unbroken chain of parts from the beginning to the
/// end of the data is chosen, which has each record once. If there are several such chains, the one that was written
/// last is chosen. The other parts are removed, and counted in the manifest. A part with its final name is never
/// written again.
///
/// # The directory
///
/// The directory must be new or empty, and reachable by all workers of the batch under the same path. It belongs to
/// one batch run. Any other batch run, including a rerun, is refused until the directory is removed. While the batch
/// runs, the parts are in `.temporal-batch` in it. A manifest in it means that the result is complete.
///
/// # Records that fail
///
/// A page without a part is a gap, so a batch with failed pages has no manifest. A record that cannot be written must
/// be an error of its page. With [dead letters](PageProcessor::dead_letters) the page is then split, the other
/// records get their parts, and the record gets its own when it is redriven; the command `verify` writes the manifest
/// afterwards. Do not report it with [`PageReport::fail`](crate::PageReport::fail): the part of its page would then
/// be complete without it, and the record could not be added later.
///
/// # Errors of all methods
///
/// | type | retryable | what is wrong |
/// |---|---|---|
/// | `DiskFull` | yes, and the page loses no attempt | the disk, or the quota of the user, is full; the message says how much is free and where |
/// | `PermissionDenied`, `FileError` | yes | the file system refuses; no part of the page was written |
/// | `NoDirectory` | no | the parent of the directory is missing; only the last directory of a path is created |
/// | `DirectoryTaken`, `DirectoryNotEmpty`, `DirectoryFinished` | no | the directory does not belong to this batch run |
/// | `RecordNotWritable` | no | a record does not fit the format |
/// | `PartUnreadable` | no | another program wrote into the directory |
#[derive(Clone, Debug)]
pub struct PartSink {
    directory: SinkDirectory,
    format: PartFormat,
    gzip: bool,
    concatenate: Option<PathBuf>,
    start: Option<PageToken>,
    encodings: Vec<EncodedColumn>,
}

/// # Construct
impl PartSink {
    /// Creates a sink without compression that writes into this directory, which is created.
    pub fn new(directory: impl Into<PathBuf>, format: PartFormat) -> Self {
        Self {
            directory: SinkDirectory::new(directory.into()),
            format,
            gzip: false,
            concatenate: None,
            start: None,
            encodings: Vec::new(),
        }
    }

    /// Sets the entry of the manifest about the columns of a table, whose rows are [written
    /// unchanged](Self::write_cells).
    #[allow(dead_code, reason = "for an export, which needs a database")]
    pub(crate) fn encodings(mut self, columns: Vec<EncodedColumn>) -> Self {
        self.encodings = columns;
        self
    }

    /// Compresses every part, and the concatenation.
    #[must_use]
    pub fn gzip(mut self, gzip: bool) -> Self {
        self.gzip = gzip;
        self
    }

    /// Writes all records into this file, too, before the manifest. A file of that name is replaced.
    #[must_use]
    pub fn concatenate(mut self, file: impl Into<PathBuf>) -> Self {
        self.concatenate = Some(file.into());
        self
    }

    /// Sets the beginning of the data, for a batch with a [first cursor](crate::Batch).
    ///
    /// # Errors
    /// The value is not a cursor; see [`PageToken::encode`].
    pub fn begins_after<C: Serialize>(mut self, cursor: &C) -> Result<Self, PageError> {
        self.start = Some(PageToken::encode(cursor)?);
        Ok(self)
    }
}

/// # Write
impl PartSink {
    /// Takes note of a page that `fetch` returns. A file is written only if the page is empty or the last one.
    ///
    /// # Errors
    /// See [the type](Self).
    pub async fn fetched<P: PageProcessor>(
        &self,
        ctx: &PageContext<P>,
        page: &Page<P::Cursor, P::Item>,
    ) -> Result<(), PageError> {
        let open = ctx.range().end().is_none();
        let after = if page.items().is_empty() {
            Some(ctx.range().start())
        } else {
            // If items have no cursors, the range of the last part itself ends with the data.
            let ends = open && page.next_token()?.is_none();
            page.last_key().filter(|_| ends).map(Some)
        };
        let nothing = match after {
            None => None,
            Some(after) => {
                let start = after.map(PageToken::encode).transpose()?;
                let end = ctx.range().end().map(PageToken::encode).transpose()?;
                let note = note(ctx, start, end);
                Some((name(ctx, &note), note))
            }
        };
        let (directory, owner) = (self.directory.clone(), owner(ctx));
        blocking(move || {
            directory.claim(&owner)?;
            match nothing {
                Some((name, note)) => directory.put_empty(&name, &note),
                None => Ok(()),
            }
        })
        .await
    }

    /// Writes the part of the current page. When it returns, the part is on the disk.
    ///
    /// # Errors
    /// See [the type](Self). Outside of `process` the error is non-retryable, of type `NotInProcess`.
    pub async fn write<P: PageProcessor, R: Serialize>(
        &self,
        ctx: &PageContext<P>,
        records: &[R],
    ) -> Result<(), PageError> {
        let add = |record: &R, to: &mut Vec<u8>| self.format.write(record, to);
        self.write_each(ctx, records, None, add).await
    }

    /// Writes a part for the records between two cursors of the current page. The rest of the page is written by
    /// further calls, or remains a gap until it is redriven.
    #[cfg_attr(
        not(feature = "http"),
        allow(dead_code, reason = "for calls of an API")
    )]
    pub(crate) async fn write_between<P: PageProcessor, R: Serialize>(
        &self,
        ctx: &PageContext<P>,
        range: (Option<PageToken>, Option<PageToken>),
        records: &[R],
    ) -> Result<(), PageError> {
        let add = |record: &R, to: &mut Vec<u8>| self.format.write(record, to);
        self.write_each(ctx, records, Some(range), add).await
    }

    /// Like [`write`](Self::write), with rows of a table.
    #[allow(dead_code, reason = "for an export, which needs a database")]
    pub(crate) async fn write_cells<P: PageProcessor>(
        &self,
        ctx: &PageContext<P>,
        rows: &[Vec<Cell>],
    ) -> Result<(), PageError> {
        let encodings: Vec<_> = self.encodings.iter().map(|c| c.encoding).collect();
        let add = |row: &Vec<Cell>, to: &mut Vec<u8>| self.format.write_cells(row, &encodings, to);
        self.write_each(ctx, rows, None, add).await
    }

    async fn write_each<P: PageProcessor, R>(
        &self,
        ctx: &PageContext<P>,
        records: &[R],
        range: Option<(Option<PageToken>, Option<PageToken>)>,
        add: impl Fn(&R, &mut Vec<u8>) -> Result<(), PageError>,
    ) -> Result<(), PageError> {
        let Some(page) = &ctx.page else {
            return Err(PageError::non_retryable(
                "NotInProcess",
                "PartSink::write was called outside of process; fetch only reads",
            ));
        };
        let (start, end) = range.unwrap_or_else(|| (page.start.clone(), page.end.clone()));
        let note = note(ctx, start, end);
        let name = name(ctx, &note);
        let mut lines = self.format.header();
        for record in records {
            add(record, &mut lines)?;
        }
        let (directory, owner) = (self.directory.clone(), owner(ctx));
        let extension = part_extension(&self.format, self.gzip);
        let gzip = self.gzip;
        blocking(move || {
            directory.claim(&owner)?;
            directory.put_part(&name, &extension, &note, |to| write_lines(&lines, gzip, to))
        })
        .await
    }

    /// Finishes the result after the last page, or verifies a finished one. Returns `None` between stages. Missing
    /// parts fail the check.
    ///
    /// # Errors
    /// See [the type](Self).
    pub async fn finish<P: PageProcessor>(
        &self,
        ctx: &CheckContext<P>,
    ) -> Result<Option<Check>, PageError> {
        self.finish_without(ctx, &[]).await
    }

    /// Like [`finish`](Self::finish). While records of these dead letters are missing, all others are put into one file,
    /// `so-far` with the extension of the parts, which is removed when the result is finished.
    pub(crate) async fn finish_without<P: PageProcessor>(
        &self,
        ctx: &CheckContext<P>,
        letters: &[DeadLetter],
    ) -> Result<Option<Check>, PageError> {
        if ctx.covered_to().is_some() {
            return Ok(None);
        }
        let missing = letters.iter().map(|letter| Link {
            start: letter.start.clone(),
            end: letter.end.clone(),
            stride: letter.stride,
            // A record that was redriven meanwhile comes before its letter.
            written: 0,
            alone: true,
        });
        let finishing = Finishing {
            directory: self.directory.clone(),
            format: self.format.clone(),
            gzip: self.gzip,
            concatenate: self.concatenate.clone(),
            start: self.start.clone(),
            encodings: self.encodings.clone(),
            owner: Owner {
                batch_id: ctx.batch_id().to_owned(),
                batch_run: ctx.batch_run().to_owned(),
            },
            missing: missing.collect(),
        };
        let stop = StopWhenDropped(Arc::new(AtomicBool::new(false)));
        let told = Arc::clone(&stop.0);
        let finish = tokio::task::spawn_blocking(move || finishing.run(&told));
        let finished = tokio::select! {
            finished = finish => joined(finished)?,
            () = ctx.cancelled() => Err(NotFinished::Stopped),
        };
        match finished {
            Ok(check) => Ok(Some(check)),
            Err(NotFinished::Error(error)) => Err(error.into_page_error()),
            #[cfg(test)]
            Err(NotFinished::Crashed) => unreachable!("nothing crashes here"),
            Err(NotFinished::Stopped) => {
                Err(PageError::retryable("the check was cancelled").with_type("Cancelled"))
            }
        }
    }
}

/// A flag that tells a thread to stop, since a thread cannot be dropped.
struct StopWhenDropped(Arc<AtomicBool>);

impl Drop for StopWhenDropped {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn owner<P: PageProcessor>(ctx: &PageContext<P>) -> Owner {
    Owner {
        batch_id: ctx.batch_id().to_owned(),
        batch_run: ctx.batch_run().to_owned(),
    }
}

fn note<P: PageProcessor>(
    ctx: &PageContext<P>,
    start: Option<PageToken>,
    end: Option<PageToken>,
) -> RangeNote {
    RangeNote {
        start,
        end,
        stride: ctx.stride(),
        alone: ctx.alone,
    }
}

/// Returns the name of a part, which is the same for the same range of the same batch run in every attempt.
fn name<P: PageProcessor>(ctx: &PageContext<P>, note: &RangeNote) -> String {
    let range = serde_json::json!([ctx.batch_run(), note.start, note.end, note.alone]);
    format!("{:08}-{}", note.stride, stable_id(&range))
}

fn write_lines(lines: &[u8], gzip: bool, to: &mut dyn Write) -> io::Result<()> {
    if !gzip {
        return to.write_all(lines);
    }
    // Without a time stamp, so that the same records make the same bytes.
    let mut encoder = GzEncoder::new(to, Compression::default());
    encoder.write_all(lines)?;
    encoder.finish()?;
    Ok(())
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, SinkError> + Send + 'static,
) -> Result<T, PageError> {
    let worked = joined(tokio::task::spawn_blocking(work).await)?;
    worked.map_err(SinkError::into_page_error)
}

fn joined<T>(joined: Result<T, tokio::task::JoinError>) -> Result<T, PageError> {
    joined.map_err(|error| match error.try_into_panic() {
        Ok(panic) => PageError::panicked(&*panic),
        Err(error) => error.into(),
    })
}

#[cfg(test)]
mod tests;

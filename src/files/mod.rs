//! Files of records: CSV and JSON Lines as sources of a batch, and files as its result.
//!
//! A [`CsvSource`] or a [`JsonLinesSource`] is part of the arguments of a batch: it names a file and its format. Its
//! pages begin at byte offsets, so that a page at the end of a file costs as much as one at its beginning.
//!
//! ```
//! use async_trait::async_trait;
//! use serde::{Deserialize, Serialize};
//! use temporal_batch::files::{CsvSource, FilePosition, FileRecord};
//! use temporal_batch::{Page, PageContext, PageError, PageProcessor, PageReport, SkipAhead};
//!
//! #[derive(Deserialize)]
//! struct User {
//!     id: u64,
//!     email: String,
//! }
//!
//! struct Invite; // with a client of the API
//!
//! #[async_trait]
//! impl PageProcessor for Invite {
//!     const NAME: &'static str = "invite";
//!     type Args = CsvSource;
//!     type Cursor = FilePosition;
//!     type Item = FileRecord<User>;
//!
//!     // Fixes which file it is, so that a change is noticed.
//!     async fn prepare(&self, source: CsvSource) -> Result<CsvSource, PageError> {
//!         source.prepare().await
//!     }
//!
//!     async fn fetch(&self, ctx: &PageContext<Self>) -> Result<Page<FilePosition, FileRecord<User>>, PageError> {
//!         ctx.args().fetch(ctx).await
//!     }
//!
//!     async fn process(&self, ctx: &PageContext<Self>, users: Vec<FileRecord<User>>) -> Result<PageReport, PageError> {
//!         let mut report = PageReport::all_processed();
//!         for (position, record) in users.into_iter().enumerate() {
//!             // A record that is not a `User` is given up, and the page continues.
//!             let Some(user) = record.or_fail(position, &mut report) else { continue };
//!             // By this key the API knows what it has done already.
//!             let key = ctx.item_key(user.id);
//!             println!("POST /invitations {} {key}", user.email);
//!         }
//!         Ok(report)
//!     }
//!
//!     async fn skip_ahead(&self, ctx: &PageContext<Self>, pages: u32) -> Result<SkipAhead<FilePosition>, PageError> {
//!         ctx.args().skip_ahead(ctx, pages).await
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let file = tempfile::NamedTempFile::new()?;
//! std::fs::write(file.path(), "id,email\n1,ann@example.org\nx,bob@example.org\n")?;
//!
//! let run = temporal_batch::testing::run_page(&Invite, CsvSource::new(file.path()), None).await;
//! let counts = run.map_err(|e| e.to_string())?.counts;
//! assert_eq!((counts.processed, counts.failed), (1, 1));
//! # Ok(())
//! # }
//! ```

mod compression;
mod error;
mod manifest;
mod sink;
pub(crate) mod source;

pub use manifest::{BadPart, Manifest, ManifestFile, ManifestPart};
pub use sink::{PartSink, concatenate::concatenate, error::SinkError, part_format::PartFormat};
pub use source::{
    bad_record::BadRecord,
    csv_format::{CsvFormat, Header, InvalidCsvFormat},
    csv_source::CsvSource,
    fingerprint::Fingerprint,
    json_lines_source::JsonLinesSource,
    position::FilePosition,
    record::FileRecord,
    source_file::SourceFile,
};

pub use crate::cell::{EncodedColumn, Encoding};

#[cfg(feature = "cli")]
#[allow(unused_imports, reason = "for `export`, which needs a database")]
pub(crate) use {
    compression::text_from,
    sink::{
        directory::{SinkState, sink_state},
        writable::{check_writable, check_writable_file, try_file},
    },
    source::spool::remove_copies,
};
#[allow(unused_imports, reason = "for `import`, which needs a database")]
pub(crate) use {
    error::FileError,
    source::{
        csv_scanner::Fields,
        csv_source::strings,
        excerpt::{CopyError, Excerpt},
        record::{KeptRecord, shown_lines},
    },
};

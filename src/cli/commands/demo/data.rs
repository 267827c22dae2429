//! The database of the demo, as the program supplies it.

use std::path::Path;

use async_trait::async_trait;

use crate::{
    batch::Batch,
    stride::registry::{RegisterError, Registry},
};

pub(super) type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The database that the demo migrates.
#[async_trait]
pub trait Demo: Send + Sync + 'static {
    /// Makes a new database with `rows` rows. The share `fail_rate` of the attempts at its pages fails on purpose.
    async fn create(
        &self,
        database: &Path,
        rows: u64,
        fail_rate: f64,
    ) -> Result<Box<dyn DemoData>, BoxError>;
}

/// A database that was made for the demo.
#[async_trait]
pub trait DemoData: Send + Sync {
    /// Registers the processor that migrates the database.
    ///
    /// # Errors
    /// See [`Registry::register`].
    fn register(&self, registry: &mut Registry) -> Result<(), RegisterError>;

    /// Returns the batch without its limits.
    fn batch(&self) -> Batch;

    /// Checks every row.
    async fn verify(&self) -> Result<DemoVerdict, BoxError>;

    /// Closes the database; the file stays.
    async fn close(&self);

    /// Returns the command that shows the database at `path`.
    fn how_to_look(&self, path: &Path) -> String;
}

/// The result of the check of every row.
#[derive(Clone, Debug, Default)]
pub struct DemoVerdict {
    /// The number of correct rows.
    pub right: u64,
    /// The number of rows that were not migrated.
    pub unmigrated: u64,
    /// The number of all other rows.
    pub wrong: u64,
    /// Descriptions of the first rows that are not correct.
    pub examples: Vec<String>,
}

impl DemoVerdict {
    pub(super) fn is_right(&self) -> bool {
        self.unmigrated == 0 && self.wrong == 0
    }
}

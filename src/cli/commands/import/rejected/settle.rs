//! Settles the dead letters of a batch once the file of its rejected records has been corrected and imported.

use std::{path::Path, sync::Arc};

use super::{LETTERS, Owner, beside};
use crate::{
    base::error::PageError,
    batch::letter_filter::LetterFilter,
    cli::{
        dead_letters::letters::each,
        exit::{CliError, CliResult},
        output::{count, note, number},
    },
    jsonl_store::JsonlDeadLetters,
    processor::store::dead_letter::{DeadLetter, DeadLetters},
    progress::ItemCounts,
    sql::Database,
};

/// The largest number of files, each with the rejected records of the one before.
const MOST_FILES: usize = 100;

/// A file whose records are all in the table.
pub(in super::super) struct Corrected<'a> {
    pub file: &'a Path,
    /// The full name of the table.
    pub table: &'a str,
    /// The number of records in the file.
    pub records: u64,
    /// True if records that are missing in the file were left out on purpose.
    pub fewer_are_all: bool,
}

/// A batch whose dead letters stay open, because the file has fewer records than the batch rejected.
pub(in super::super) struct StaysOpen {
    batch_id: String,
    rejected: u64,
    records: u64,
}

impl StaysOpen {
    /// Prints why the letters stay open, and the command that settles them.
    pub fn tell(&self, settle: &str) {
        let Self {
            batch_id,
            rejected,
            records,
        } = self;
        note(format_args!(
            "the dead letters of batch \"{batch_id}\" stay open: it rejected {}, and the corrected file has {}",
            count(*rejected, "record"),
            number(*records)
        ));
        note(format_args!(
            "next: `{settle}`, if the records that are missing were left out on purpose"
        ));
    }
}

impl Corrected<'_> {
    /// Settles the dead letters of the batch that wrote the file. If that batch had imported the rejected records of an
    /// earlier one, and nothing of it is open any more, the letters of the earlier batch are settled, too. A file that no
    /// import wrote settles nothing.
    pub async fn settle(&self, database: &Database) -> CliResult<Option<StaysOpen>> {
        let (mut file, mut records) = (self.file.to_owned(), self.records);
        for _ in 0..MOST_FILES {
            // The file may have been made by hand, with anything beside it.
            let Ok(Some(owner)) = Owner::of(&Owner::path_beside(&file)) else {
                break;
            };
            if owner
                .table
                .as_deref()
                .is_some_and(|table| table != self.table)
            {
                break;
            }
            let stores = self.stores(database, &file).await?;
            let open = open(&stores, &owner).await?;
            if records < owner.records && !self.fewer_are_all {
                return Ok((!open.is_empty()).then_some(StaysOpen {
                    batch_id: owner.batch_id,
                    rejected: owner.records,
                    records,
                }));
            }
            let settled = take_out(&stores, open).await.map_err(|error| {
                CliError::failure(format_args!(
                    "the dead letters of batch \"{}\" are not settled: {}",
                    owner.batch_id,
                    error.message()
                ))
                .hint("the same command settles them, and imports nothing twice")
            })?;
            if settled > 0 {
                note(format_args!(
                    "settled {} of batch \"{}\", whose rejected records are imported now",
                    count(settled, "dead letter"),
                    owner.batch_id
                ));
            }
            (file, records) = (owner.file, owner.file_records);
        }
        Ok(None)
    }

    /// Returns the stores that the batch may have used: the ledger, or the file of a batch without one.
    async fn stores(
        &self,
        database: &Database,
        file: &Path,
    ) -> CliResult<Vec<Arc<dyn DeadLetters>>> {
        let mut stores: Vec<Arc<dyn DeadLetters>> = Vec::new();
        let has_ledger = database.has_ledger_tables().await;
        if has_ledger.map_err(|e| CliError::failure(e.message()))? {
            stores.push(database.ledger());
        }
        let letters = beside(file, LETTERS);
        if letters.exists() {
            stores.push(Arc::new(JsonlDeadLetters::new(letters)));
        }
        Ok(stores)
    }
}

/// Returns the open letters of the batch run that wrote the file, with the numbers of their stores.
async fn open(
    stores: &[Arc<dyn DeadLetters>],
    owner: &Owner,
) -> CliResult<Vec<(usize, DeadLetter)>> {
    let mut open = Vec::new();
    for (number, store) in stores.iter().enumerate() {
        let keep = |letter: DeadLetter| {
            if letter.batch_run == owner.batch_run {
                open.push((number, letter));
            }
        };
        each(&**store, &LetterFilter::of(&owner.batch_id), keep).await?;
    }
    Ok(open)
}

/// Removes letters as a redrive does, so that they count as settled. Returns how many were removed.
async fn take_out(
    stores: &[Arc<dyn DeadLetters>],
    letters: Vec<(usize, DeadLetter)>,
) -> Result<u64, PageError> {
    let mut settled = 0;
    for (store, letter) in letters {
        if let Some(mut transaction) = stores[store].take(&letter).await? {
            transaction.record(&ItemCounts::default(), &[]).await?;
            transaction.commit().await?;
            settled += 1;
        }
    }
    Ok(settled)
}

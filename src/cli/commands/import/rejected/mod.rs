//! The file of the records that an import could not put into the table. It has the format of the imported file, so that
//! it can be corrected and imported.
//!
//! Its content follows from the dead letters of the batch, each of which is kept exactly once even if workers are lost.
//! The file is written as a whole when the batch is over. If the command is killed before, repeating it writes the
//! file.

mod errors_file;
mod settle;
mod write;

use std::{
    fs,
    io::{self, ErrorKind},
    path::{Path, PathBuf},
};

use super::reading::plain_name;
use crate::{
    base::disk::{directory_of, with_free_space},
    cli::{
        exit::{CliError, CliResult},
        output::{count, note},
    },
    files::{FileError, try_file},
};
use errors_file::{Owner, beside};
pub(super) use settle::Corrected;

/// An import that rejected records.
pub(super) struct Import<'a> {
    pub batch_id: &'a str,
    pub batch_run: &'a str,
    /// The full name of the table.
    pub table: &'a str,
    /// The number of records in the file.
    pub records: u64,
}

/// The suffix of the file with the dead letters of a batch without a ledger.
const LETTERS: &str = ".letters.jsonl";

/// The file for rejected records.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct RejectedFile {
    pub path: PathBuf,
    pub masked: bool,
}

/// The records that were written, now or by an earlier command.
pub(super) struct Written {
    pub records: u64,
    /// True if the file was edited since it was written, so that it stays.
    stays: bool,
    /// The first records, for people.
    told: Vec<String>,
}

impl RejectedFile {
    /// Creates a file beside the imported file, or in the working directory if that place is not writable.
    pub fn beside(file: &Path, masked: bool) -> Self {
        let name = plain_name(file);
        let rejected = match name.rsplit_once('.') {
            Some((stem, extension)) if !stem.is_empty() => format!("{stem}.rejected.{extension}"),
            _ => format!("{name}.rejected"),
        };
        let beside = file.with_file_name(&rejected);
        let path = match probe(&beside) {
            Ok(()) => beside,
            Err(_) => std::path::absolute(&rejected).unwrap_or(beside),
        };
        Self { path, masked }
    }

    fn errors(&self) -> PathBuf {
        Owner::path_beside(&self.path)
    }

    /// Returns the file for the dead letters of a batch without a ledger.
    pub fn letters(&self) -> PathBuf {
        beside(&self.path, LETTERS)
    }

    /// Checks at the start that the records can be written at the end.
    pub fn check(&self, input: &Path, batch_id: &str, rerun: bool) -> CliResult<()> {
        const REMEDY: &str = "--rejected names another file, and --rejected none writes none";
        let path = self.path.display();
        let refused = |what: String| Err(CliError::usage(what).hint(REMEDY));
        if same_file(&self.path, input) {
            return refused(format!(
                "the rejected records cannot go to {path}, which is the file that is imported"
            ));
        }
        if let Err(error) = probe(&self.path) {
            return refused(format!(
                "the rejected records cannot be written to {path}: {error}"
            ));
        }
        let owner = match Owner::of(&self.errors()) {
            Ok(owner) => owner,
            Err(error) => {
                let errors = self.errors();
                return refused(format!(
                    "{} is not a file of rejected records: {error}",
                    errors.display()
                ));
            }
        };
        if !self.path.exists() {
            return Ok(());
        }
        match owner {
            Some(owner) if owner.batch_id == batch_id && !rerun => Ok(()),
            Some(Owner {
                batch_id,
                batch_run,
                ..
            }) => refused(format!(
                "{path} holds the rejected records of batch \"{batch_id}\" (batch run {batch_run}); import them, or \
                 move the file away"
            )),
            None => refused(format!(
                "{path} exists already, and is not a file of rejected records"
            )),
        }
    }

    fn unwritten(&self, error: &io::Error) -> CliError {
        CliError::failure(format_args!(
            "the rejected records cannot be written to {}: {}",
            self.path.display(),
            with_free_space(error, &self.path)
        ))
        .hint(
            "the batch has kept them: the same command writes the file, and imports nothing twice",
        )
    }

    fn unread(&self, error: &FileError) -> CliError {
        CliError::failure(format_args!(
            "the rejected records cannot be copied to {}: {error}",
            self.path.display()
        ))
        .hint("the batch has kept them: the same command writes the file once the file that was imported is back")
    }

    /// Prints the rejected records and the next step.
    pub fn tell(&self, written: &Written, next: &str) {
        for line in &written.told {
            note(line);
        }
        let more = written.records - written.told.len() as u64;
        if more > 0 {
            note(format_args!("and {} more", count(more, "record")));
        }
        let records = count(written.records, "record");
        let (path, errors) = (shown(&self.path), shown(&self.errors()));
        if written.stays {
            note(format_args!(
                "{path} was changed since the {records} were written to it, so it stays as it is; --rejected and the \
                 name of another file writes them again"
            ));
            note(format_args!(
                "next: `{next}`, which also settles the dead letters of this batch"
            ));
            return;
        }
        note(format_args!(
            "{:<11}{records} in {path}; {errors} says why",
            "rejected"
        ));
        note(format_args!("next: correct {path}, then `{next}`"));
    }
}

/// Returns a path relative to the working directory, if it is inside.
pub(super) fn shown(path: &Path) -> String {
    let here = std::env::current_dir().ok();
    let relative = here.and_then(|here| path.strip_prefix(here).ok().map(Path::to_owned));
    relative.as_deref().unwrap_or(path).display().to_string()
}

/// Tries whether a file can be written at a path.
fn probe(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Err(ErrorKind::IsADirectory.into());
    }
    let directory = directory_of(path);
    if !fs::metadata(directory)?.is_dir() {
        return Err(ErrorKind::NotADirectory.into());
    }
    try_file(directory)
}

fn same_file(one: &Path, other: &Path) -> bool {
    match (fs::canonicalize(one), fs::canonicalize(other)) {
        (Ok(one), Ok(other)) => one == other,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_named_after_the_one_that_is_imported() {
        let folder = tempfile::tempdir().unwrap();
        for (file, rejected) in [
            ("users.csv", "users.rejected.csv"),
            ("users.jsonl.gz", "users.rejected.jsonl"),
            ("users", "users.rejected"),
            (".users", ".users.rejected"),
        ] {
            let named = RejectedFile::beside(&folder.path().join(file), false);
            assert_eq!(named.path, folder.path().join(rejected));
        }
        // Where nothing can be written: a file is no directory.
        let plain = folder.path().join("plain");
        fs::write(&plain, "").unwrap();
        let named = RejectedFile::beside(&plain.join("users.csv"), false);
        assert_eq!(
            named.path,
            std::env::current_dir().unwrap().join("users.rejected.csv")
        );
    }
}

//! Writes the file of rejected records and the file of reasons, each as a whole.

use std::{
    fs::File,
    io::{self, BufRead as _, BufReader, BufWriter, ErrorKind, Write},
    path::Path,
};

use sha2::{Digest as _, Sha256};
use tempfile::NamedTempFile;

use super::{
    Import, RejectedFile, Written,
    errors_file::{Owner, Reason},
};
use crate::{
    base::disk::directory_of,
    batch::letter_filter::LetterFilter,
    cli::{
        dead_letters::letters::each,
        exit::{CliError, CliResult},
        output,
    },
    files::{CopyError, FilePosition, KeptRecord, shown_lines},
    page::token::PageToken,
    processor::store::dead_letter::{DeadLetter, DeadLetters},
    sql::ImportFile,
};

/// The number of rejected records that are printed.
const TOLD: usize = 10;
/// The parts of a dead letter that concern the imported file.
struct Rejected {
    from: Option<u64>,
    to: Option<u64>,
    error_type: String,
    message: String,
    kept: KeptRecord,
}

impl Rejected {
    fn of(letter: DeadLetter) -> Self {
        let offset = |token: &Option<PageToken>| {
            let position = token.as_ref()?.decode::<FilePosition>().ok()?;
            Some(position.offset)
        };
        let kept = letter.record.as_deref().map(serde_json::from_str);
        Self {
            from: offset(&letter.start),
            to: offset(&letter.end),
            error_type: letter.error_type,
            message: letter.message,
            kept: kept.and_then(Result::ok).unwrap_or_default(),
        }
    }
}

/// The state of the path that the file is written to.
enum Place {
    Free,
    /// Taken by a file of this batch run, with its hash.
    Ours(String),
    /// Taken by a file of this batch run that was edited since.
    Changed,
}

impl RejectedFile {
    /// Writes the dead letters of a batch run. `None` if the batch run has no dead letters.
    pub(in super::super) async fn write(
        &self,
        letters: &dyn DeadLetters,
        source: &ImportFile,
        import: &Import<'_>,
    ) -> CliResult<Option<Written>> {
        let Import {
            batch_id,
            batch_run,
            ..
        } = *import;
        let mut rejected = Vec::new();
        let keep = |letter: DeadLetter| {
            if letter.batch_run == batch_run {
                rejected.push(Rejected::of(letter));
            }
        };
        each(letters, &LetterFilter::of(batch_id), keep).await?;
        if rejected.is_empty() {
            return Ok(None);
        }
        let owner = Owner {
            batch_id: batch_id.to_owned(),
            batch_run: batch_run.to_owned(),
            file: source.source().original().to_owned(),
            records: 0,
            table: Some(import.table.to_owned()),
            file_records: import.records,
            sha256: String::new(),
            replaces: None,
        };
        let (file, source) = (self.clone(), source.clone());
        let writing = tokio::task::spawn_blocking(move || file.put(rejected, &source, owner));
        let written = writing
            .await
            .map_err(|e| CliError::caused("the rejected records cannot be written", &e))?;
        written.map(Some)
    }

    fn put(
        &self,
        mut rejected: Vec<Rejected>,
        source: &ImportFile,
        mut owner: Owner,
    ) -> CliResult<Written> {
        rejected.sort_by_key(|rejected| (rejected.from, rejected.to));
        let excerpt = match source {
            ImportFile::Csv(source) => source.excerpt(),
            ImportFile::JsonLines(source) => source.excerpt(),
        };
        let excerpt = excerpt.map_err(|error| self.unread(&error))?;
        let failed = |error| self.unwritten(&error);
        let directory = directory_of(&self.path);
        let (mut records, mut errors) = (
            PartialFile::new(directory).map_err(failed)?,
            PartialFile::new(directory).map_err(failed)?,
        );
        let mut hash = Sha256::new();
        let mut told = Vec::new();
        let mut whys = Vec::new();
        {
            let mut write = |bytes: &[u8]| {
                hash.update(bytes);
                records.0.write_all(bytes)
            };
            let failed = |error| match error {
                CopyError::Source(error) => self.unread(&error),
                CopyError::Target(error) => self.unwritten(&error),
            };
            let mut line = 1 + excerpt.copy_header(&mut write).map_err(failed)?;
            let mut end = 0;
            for letter in &rejected {
                // No byte is copied twice, even if letters overlap.
                let from = letter.from.map_or(end, |from| from.max(end));
                if letter.to.is_some_and(|to| to <= from) {
                    continue;
                }
                let copied = excerpt
                    .copy(Some(from), letter.to, &mut write)
                    .map_err(failed)?;
                end = letter.to.unwrap_or(u64::MAX);
                let place = format!("{}, {}", source.source().name(), shown_lines(&copied.lines));
                let value = letter.kept.value.as_deref().filter(|_| !self.masked);
                let why = Reason {
                    line,
                    file: &owner.file,
                    source_lines: (*copied.lines.start(), *copied.lines.end()),
                    column: letter.kept.column.as_deref(),
                    value,
                    error_type: &letter.error_type,
                    message: &letter.message,
                };
                let why = serde_json::to_string(&why).map_err(|e| self.unwritten(&e.into()))?;
                whys.push(why);
                line += copied.line_ends;
                if told.len() < TOLD {
                    told.push(one_line(&place, &letter.message, value));
                }
            }
        }
        owner.records = whys.len() as u64;
        owner.sha256 = hex::encode(hash.finalize());
        let mut written = Written {
            records: owner.records,
            stays: true,
            told,
        };
        match self.place(&owner)? {
            Place::Changed => return Ok(written),
            Place::Free => {}
            Place::Ours(hash) => owner.replaces = Some(hash),
        }
        let first = serde_json::to_string(&owner).map_err(|e| self.unwritten(&e.into()))?;
        for line in std::iter::once(&first).chain(&whys) {
            writeln!(errors.0, "{line}").map_err(failed)?;
        }
        // The file of reasons names the owner of the other file, so it is written first.
        errors.put_at(&self.errors()).map_err(failed)?;
        records.put_at(&self.path).map_err(failed)?;
        written.stays = false;
        Ok(written)
    }

    /// Checks whether the file may be written: it may replace a file that this batch run wrote and that is unchanged.
    fn place(&self, new: &Owner) -> CliResult<Place> {
        let there = match File::open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Place::Free),
            Err(error) => return Err(self.unwritten(&error)),
        };
        let hash = hash_of(there).map_err(|error| self.unwritten(&error))?;
        let stays = |why: &str| {
            let message = format!("{} {why}, so it stays as it is", self.path.display());
            Err(CliError::failure(message).hint(
                "the same command with --rejected and the name of another file writes the rejected records there; \
                 nothing is imported twice",
            ))
        };
        match Owner::of(&self.errors()) {
            Ok(Some(owner))
                if owner.batch_id != new.batch_id || owner.batch_run != new.batch_run =>
            {
                stays("holds the rejected records of another batch run")
            }
            Ok(Some(owner)) => {
                let known = [
                    Some(&owner.sha256),
                    owner.replaces.as_ref(),
                    Some(&new.sha256),
                ];
                Ok(match known.contains(&Some(&hash)) {
                    true => Place::Ours(hash),
                    false => Place::Changed,
                })
            }
            Ok(None) | Err(_) => stays("is not a file of rejected records"),
        }
    }
}

/// Formats the error of a record: `users.csv, line 8, record 7, column `age`: not a number; the value is "seven"`.
fn one_line(place: &str, message: &str, value: Option<&str>) -> String {
    let message = match message.starts_with(place) {
        true => message.to_owned(),
        false => format!("{place}: {message}"),
    };
    match value {
        Some(value) => format!("{message}; the value is \"{}\"", output::one_line(value)),
        None => message,
    }
}

fn hash_of(file: File) -> io::Result<String> {
    let mut hash = Sha256::new();
    let mut input = BufReader::with_capacity(64 * 1024, file);
    loop {
        let read = input.fill_buf()?;
        if read.is_empty() {
            return Ok(hex::encode(hash.finalize()));
        }
        hash.update(read);
        let read = read.len();
        input.consume(read);
    }
}

/// A file that is not complete yet. Only its user can read it, because it contains records.
struct PartialFile(BufWriter<NamedTempFile>);

impl PartialFile {
    fn new(directory: &Path) -> io::Result<Self> {
        let file = tempfile::Builder::new()
            .prefix(".rejected-")
            .tempfile_in(directory)?;
        Ok(Self(BufWriter::with_capacity(64 * 1024, file)))
    }

    fn put_at(self, path: &Path) -> io::Result<()> {
        let file = self
            .0
            .into_inner()
            .map_err(io::IntoInnerError::into_error)?;
        file.as_file().sync_all()?;
        file.persist(path)?;
        match cfg!(unix) {
            true => File::open(directory_of(path))?.sync_all(),
            false => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_told_once_and_a_value_in_quotes() {
        let placed = "users.csv, line 8, record 7, column `age`: wrong";
        assert_eq!(
            one_line("users.csv, line 8", placed, Some("a\nb")),
            format!("{placed}; the value is \"a\\nb\"")
        );
        let elsewhere = one_line("users.csv, line 8", "a foreign key", None);
        assert_eq!(elsewhere, "users.csv, line 8: a foreign key");
    }
}

//! The file of the records that an import could not put into the table: of the same form as the file that they come
//! from, so that it can be corrected and imported.
//!
//! Its content follows from the dead letters of the batch, which are kept once each whatever becomes of workers. So it is
//! written when the batch is over, as a whole, and a command that was killed writes it when it is repeated.

use std::{
    fs::{self, File},
    io::{self, BufRead as _, BufReader, BufWriter, ErrorKind, Write},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tempfile::NamedTempFile;

use super::plain_name;
use crate::{
    base::disk::{directory_of, with_free_space},
    batch::letter_filter::LetterFilter,
    cli::{
        exit::{CliError, CliResult},
        render::{
            letters::each,
            output::{count, note},
        },
    },
    files::{CopyError, FileError, FilePosition, KeptRecord, shown_lines, try_file},
    page::token::PageToken,
    processor::store::dead_letter::{DeadLetter, DeadLetters},
    sql::ImportFile,
};

/// Rejected records that are told on the terminal.
const TOLD: usize = 10;
/// The file that says why has the name of the file of records, with this added.
const ERRORS: &str = ".errors.jsonl";

/// The file that rejected records go to.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct RejectedFile {
    pub path: PathBuf,
    pub masked: bool,
}

/// The first line of the file of errors: whose records they are.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Owner {
    batch_id: String,
    batch_run: String,
    file: PathBuf,
    records: u64,
    /// The hash of the file of records, as `sha256sum` shows it.
    sha256: String,
    /// The hash of the file that this one takes the place of, in case only one of the two could be written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    replaces: Option<String>,
}

/// Every other line: why a record is in the file.
#[derive(Clone, Debug, Serialize)]
struct Why<'a> {
    /// The line of the rejected file that it begins on.
    line: u64,
    /// The file that the record comes from.
    file: &'a Path,
    source_lines: (u64, u64),
    #[serde(skip_serializing_if = "Option::is_none")]
    column: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<&'a str>,
    error_type: &'a str,
    message: &'a str,
}

/// A dead letter, as far as it is about a place in the file.
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

/// Files that are where the file goes.
enum Place {
    Free,
    /// A file of this batch run, with its hash.
    Ours(String),
    /// One that was corrected meanwhile.
    Changed,
}

/// The records that were written, or were before.
pub(super) struct Written {
    pub records: u64,
    /// The file that is there was changed since it was written, so it stays.
    stays: bool,
    /// The first of them, for people.
    told: Vec<String>,
}

impl RejectedFile {
    /// Beside the file that is imported, or where that cannot be written to, in the working directory.
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
        self.with(ERRORS)
    }

    fn with(&self, suffix: &str) -> PathBuf {
        let mut name = self.path.clone().into_os_string();
        name.push(suffix);
        name.into()
    }

    /// The file of the dead letters, if the database keeps none.
    pub fn letters(&self) -> PathBuf {
        self.with(".letters.jsonl")
    }

    /// Sees to it at the start that the records can be written at the end.
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
                "{path} is there already, and is no file of rejected records"
            )),
        }
    }

    /// Writes the records that are dead letters of a batch run. `None`: there are none.
    pub async fn write(
        &self,
        letters: &dyn DeadLetters,
        source: &ImportFile,
        batch_id: &str,
        batch_run: &str,
    ) -> CliResult<Option<Written>> {
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
            Half::new(directory).map_err(failed)?,
            Half::new(directory).map_err(failed)?,
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
                // No byte comes twice, whatever the letters say.
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
                let why = Why {
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
        // The file of errors says whose the other one is, so it comes first.
        errors.put_at(&self.errors()).map_err(failed)?;
        records.put_at(&self.path).map_err(failed)?;
        written.stays = false;
        Ok(written)
    }

    /// Whether the file may be put there: it takes the place of one that this batch run has put there, if that is as it
    /// was then.
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
            Ok(None) | Err(_) => stays("is no file of rejected records"),
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

    /// Tells what was rejected, and what to do about it.
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
                "next: `{next}`, unless that file is imported already; the dead letters of this batch stay open either way"
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

/// `users.csv, line 8, record 7, column `age`: not a number; the value is "seven"`.
fn one_line(place: &str, message: &str, value: Option<&str>) -> String {
    let message = match message.starts_with(place) {
        true => message.to_owned(),
        false => format!("{place}: {message}"),
    };
    match value {
        Some(value) => format!("{message}; the value is {value:?}"),
        None => message,
    }
}

/// Relative to the working directory, where it is in there.
pub(super) fn shown(path: &Path) -> String {
    let here = std::env::current_dir().ok();
    let relative = here.and_then(|here| path.strip_prefix(here).ok().map(Path::to_owned));
    relative.as_deref().unwrap_or(path).display().to_string()
}

impl Owner {
    /// The owner that the file of errors names; `None` where there is no such file.
    fn of(errors: &Path) -> io::Result<Option<Self>> {
        let file = match File::open(errors) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut line = String::new();
        BufReader::new(io::Read::take(file, 64 * 1024)).read_line(&mut line)?;
        serde_json::from_str(&line).map(Some).map_err(Into::into)
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

/// A file that is not whole yet. Its user alone can read it, since records are in it.
struct Half(BufWriter<NamedTempFile>);

impl Half {
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

/// Whether a file can be put there.
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

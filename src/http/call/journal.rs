//! The answers of a page that is not finished, so that a page that runs again repeats only the calls in flight.

use std::{
    collections::HashMap,
    fs::{File, OpenOptions},
    io::{self, Write},
    path::Path,
    sync::{Mutex, PoisonError},
};

use serde::{Deserialize, Serialize};

use crate::{
    base::error::PageError,
    processor::{PageProcessor, context::PageContext, store::dead_letter::stable_id},
};

/// The journal of one page: one line for each record that has its answer.
pub(super) struct Journal {
    file: Mutex<File>,
    /// The outcomes by the key of their record, each with the hash of the record.
    known: HashMap<String, (String, Outcome)>,
}

/// The outcome of a record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Outcome {
    /// The line to write.
    pub line: String,
    /// The error type of a call that was given up, whose line has the fallback values.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instead: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct Entry {
    key: String,
    /// The hash of the record that the call was for.
    record: String,
    #[serde(flatten)]
    outcome: Outcome,
}

impl Journal {
    /// Opens the journal of the page that is being processed. It begins where the page begins, so that an attempt that
    /// cuts the page elsewhere finds it, too.
    pub fn of<P: PageProcessor>(folder: &Path, ctx: &PageContext<P>) -> Result<Self, PageError> {
        let start = ctx.page.as_ref().and_then(|page| page.start.clone());
        let page = serde_json::json!([ctx.partition(), start]);
        let own = folder.join(ctx.batch_run());
        Self::open(&own, &stable_id(&page)).map_err(|error| {
            PageError::environment(format_args!(
                "the answers of the page cannot be kept in {}: {error}",
                folder.display()
            ))
            .with_type("JournalNotWritable")
        })
    }

    fn open(folder: &Path, name: &str) -> io::Result<Self> {
        std::fs::create_dir_all(folder)?;
        let path = folder.join(format!("{name}.jsonl"));
        let text = match std::fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error),
        };
        let whole = text
            .iter()
            .rposition(|b| *b == b'\n')
            .map_or(0, |end| end + 1);
        let entries = text[..whole].split(|b| *b == b'\n');
        let entries = entries.filter_map(|line| serde_json::from_slice::<Entry>(line).ok());
        let known = entries
            .map(|entry| (entry.key, (entry.record, entry.outcome)))
            .collect();
        let file = OpenOptions::new().create(true).append(true).open(&path)?;
        // A process that was killed may have left half of a line.
        file.set_len(whole as u64)?;
        Ok(Self {
            file: Mutex::new(file),
            known,
        })
    }

    /// Returns the outcome of a record in an earlier attempt. A record that was changed since has none.
    pub fn known(&self, key: &str, record: &str) -> Option<&Outcome> {
        let (of, outcome) = self.known.get(key)?;
        (of == record).then_some(outcome)
    }

    /// Adds the outcome of a record.
    pub fn add(&self, key: &str, record: &str, outcome: &Outcome) -> io::Result<()> {
        self.append(Entry {
            key: key.to_owned(),
            record: record.to_owned(),
            outcome: outcome.clone(),
        })
    }

    /// Forgets the outcome of a record, so that the next attempt calls again.
    #[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql"))]
    pub fn drop_answer(&self, key: &str) -> io::Result<()> {
        // No record has this hash.
        self.append(Entry {
            key: key.to_owned(),
            record: String::new(),
            outcome: Outcome {
                line: String::new(),
                instead: None,
            },
        })
    }

    fn append(&self, entry: Entry) -> io::Result<()> {
        let mut line = serde_json::to_vec(&entry)?;
        line.push(b'\n');
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        file.write_all(&line)
    }

    /// Removes the journals of a batch run. They are kept until its end: a page that was finished runs again if the
    /// worker is lost before the page is in a heartbeat or in a commit, and must find its answers then.
    pub fn forget(folder: &Path, batch_run: &str) -> io::Result<()> {
        match std::fs::remove_dir_all(folder.join(batch_run)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => {
                // Other batch runs may have theirs in the folder.
                let _ = std::fs::remove_dir(folder);
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(line: &str) -> Outcome {
        Outcome {
            line: line.to_owned(),
            instead: None,
        }
    }

    #[test]
    fn answers_are_found_again_and_half_a_line_is_not_one() {
        let folder = tempfile::tempdir().unwrap();
        let journal = Journal::open(folder.path(), "page").unwrap();
        journal.add("a", "r", &outcome("1")).unwrap();
        journal.add("b", "r", &outcome("2")).unwrap();
        let path = folder.path().join("page.jsonl");
        let mut half = OpenOptions::new().append(true).open(&path).unwrap();
        half.write_all(b"{\"key\":\"c\",\"line\":\"").unwrap();
        let again = Journal::open(folder.path(), "page").unwrap();
        assert_eq!(again.known("b", "r"), Some(&outcome("2")));
        assert_eq!(again.known("b", "changed"), None);
        assert_eq!(again.known("c", "r"), None);
        again.add("d", "r", &outcome("4")).unwrap();
        again.drop_answer("b").unwrap();
        let third = Journal::open(folder.path(), "page").unwrap();
        assert_eq!(third.known("a", "r"), Some(&outcome("1")));
        assert_eq!(third.known("b", "r"), None);
        assert_eq!(third.known("d", "r"), Some(&outcome("4")));
        drop(third);
        Journal::forget(folder.path(), "other run").unwrap();
        assert!(path.exists());
    }
}

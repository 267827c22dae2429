//! The answers of a page that is not finished, so that a page that runs again repeats only the calls in flight.

use std::{
    collections::HashMap,
    fs::{File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use serde::{Deserialize, Serialize};

use crate::{
    base::error::PageError,
    processor::{PageProcessor, context::PageContext, store::dead_letter::stable_id},
};

/// The journal of one page: one line for each record that has its answer.
pub(super) struct Journal {
    path: PathBuf,
    file: Mutex<File>,
    known: HashMap<String, Outcome>,
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
    #[serde(flatten)]
    outcome: Outcome,
}

impl Journal {
    /// Opens the journal of the page that is being processed. It begins where the page begins, so that an attempt that
    /// cuts the page elsewhere finds it, too.
    pub fn of<P: PageProcessor>(folder: &Path, ctx: &PageContext<P>) -> Result<Self, PageError> {
        let start = ctx.page.as_ref().and_then(|page| page.start.clone());
        let page = serde_json::json!([ctx.batch_run(), ctx.partition(), start]);
        Self::open(folder, &stable_id(&page)).map_err(|error| {
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
        let known = entries.map(|entry| (entry.key, entry.outcome)).collect();
        let file = OpenOptions::new().create(true).append(true).open(&path)?;
        // A process that was killed may have left half of a line.
        file.set_len(whole as u64)?;
        Ok(Self {
            path,
            file: Mutex::new(file),
            known,
        })
    }

    /// Returns the outcome of a record in an earlier attempt.
    pub fn known(&self, key: &str) -> Option<&Outcome> {
        self.known.get(key)
    }

    /// Adds the outcome of a record.
    pub fn add(&self, key: &str, outcome: &Outcome) -> io::Result<()> {
        let entry = Entry {
            key: key.to_owned(),
            outcome: outcome.clone(),
        };
        let mut line = serde_json::to_vec(&entry)?;
        line.push(b'\n');
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        file.write_all(&line)
    }

    /// Removes the journal of a page that is finished. One that stays does no harm.
    pub fn remove(self) {
        let _ = std::fs::remove_file(&self.path);
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
        journal.add("a", &outcome("1")).unwrap();
        journal.add("b", &outcome("2")).unwrap();
        let path = folder.path().join("page.jsonl");
        let mut half = OpenOptions::new().append(true).open(&path).unwrap();
        half.write_all(b"{\"key\":\"c\",\"line\":\"").unwrap();
        let again = Journal::open(folder.path(), "page").unwrap();
        assert_eq!(again.known("b"), Some(&outcome("2")));
        assert_eq!(again.known("c"), None);
        again.add("d", &outcome("4")).unwrap();
        let third = Journal::open(folder.path(), "page").unwrap();
        assert_eq!(third.known("a"), Some(&outcome("1")));
        assert_eq!(third.known("d"), Some(&outcome("4")));
        third.remove();
        assert!(!path.exists());
    }
}

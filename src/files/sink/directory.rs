//! The directory of the parts.
//!
//! ```text
//! users/                         what is asked for
//!   part-00000001.csv            in the order of the pages, from the moment when all of them are there
//!   part-00000002.csv
//!   manifest.json                last
//!   so-far.csv                   the records that are there, while others of a finished batch are missing
//!   .temporal-batch/             while the batch runs
//!     owner.json                 which batch run this directory belongs to
//!     00000001-5d0c….csv         a part: its stride, and what follows from its range
//!     00000001-5d0c….range       its range
//!     00000002-93be….empty       a range in which there was nothing
//!     plan/plan.json             which of the parts count, once that is decided
//! ```
//!
//! Every file appears by the rename of a complete file that is on the disk. The directory of the batch run and its
//! plan appear by the rename of a directory that is not empty. Such a rename fails if the target exists, so the first
//! one counts.

use std::{
    fs,
    io::{self, ErrorKind, Write},
    path::{Path, PathBuf},
    time::UNIX_EPOCH,
};

use serde::{Deserialize, Serialize};

#[cfg(unix)]
use super::whole_file::mode;
use super::{
    whole_file::{HALF, read_json, sync_directory, write_file, write_json},
    writable::create_directory,
};
use crate::{
    files::{
        manifest::{MANIFEST, Manifest},
        sink::{error::SinkError, part_chain::Link},
    },
    page::token::PageToken,
};

const WORKING: &str = ".temporal-batch";
const OWNER: &str = "owner.json";
const PLAN: &str = "plan";
const RANGE: &str = "range";
const EMPTY: &str = "empty";

/// The batch run that the parts belong to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Owner {
    pub batch_id: String,
    pub batch_run: String,
}

/// The content of a `.range` or `.empty` file.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct RangeNote {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<PageToken>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<PageToken>,
    pub stride: u64,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub alone: bool,
}

/// A part, or a range without records.
#[derive(Debug)]
pub(crate) struct Found {
    pub link: Link,
    /// The file of the part; `None` for a range without records.
    pub file: Option<String>,
}

/// The choice of the parts that count. Once written, it does not change.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Plan {
    pub parts: Vec<PlannedPart>,
    /// The number of files by attempts that do not count.
    #[serde(default)]
    pub orphans: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct PlannedPart {
    /// The name of the file while the batch runs.
    pub from: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<PageToken>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<PageToken>,
}

/// The state of a directory, for a batch that would write into it.
#[derive(Debug)]
pub(crate) enum SinkState {
    /// The directory is new, or empty.
    Free,
    /// A batch run writes into the directory, or did not finish.
    Unfinished(Owner),
    Finished(Manifest),
}

/// Looks at a directory without changing it.
///
/// # Errors
/// The directory has other files in it.
pub(crate) fn sink_state(directory: &Path) -> Result<SinkState, SinkError> {
    SinkDirectory::new(directory.to_path_buf()).state()
}

#[derive(Clone, Debug)]
pub(crate) struct SinkDirectory {
    root: PathBuf,
}

impl SinkDirectory {
    pub fn new(root: PathBuf) -> Self {
        Self { root }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// Returns the path of a part while the batch runs.
    pub fn part(&self, name: &str) -> PathBuf {
        self.working().join(name)
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    fn working(&self) -> PathBuf {
        self.root.join(WORKING)
    }

    fn owner(&self) -> Result<Option<Owner>, SinkError> {
        read_json(&self.working().join(OWNER))
    }

    /// Returns the manifest, if the result is finished.
    pub fn manifest(&self) -> Result<Option<Manifest>, SinkError> {
        read_json(&self.root.join(MANIFEST))
    }

    fn state(&self) -> Result<SinkState, SinkError> {
        if let Some(manifest) = self.manifest()? {
            return Ok(SinkState::Finished(manifest));
        }
        if let Some(owner) = self.owner()? {
            return Ok(SinkState::Unfinished(owner));
        }
        self.check_empty()?;
        Ok(SinkState::Free)
    }

    fn check_empty(&self) -> Result<(), SinkError> {
        let root = &self.root;
        let entries = match fs::read_dir(root) {
            Ok(entries) => entries,
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
            Err(e) => return Err(SinkError::io("read the directory", root)(e)),
        };
        for entry in entries {
            let entry = entry.map_err(SinkError::io("read the directory", root))?;
            let found = entry.file_name().to_string_lossy().into_owned();
            if !found.starts_with(WORKING) {
                return Err(SinkError::NotEmpty {
                    directory: root.clone(),
                    found,
                });
            }
        }
        Ok(())
    }

    /// Claims the directory for a batch run.
    pub fn claim(&self, by: &Owner) -> Result<(), SinkError> {
        if self.working().is_symlink() {
            return Err(SinkError::NotEmpty {
                directory: self.root.clone(),
                found: format!("a symbolic link {WORKING}"),
            });
        }
        if self.is_claimed(by)? {
            return Ok(());
        }
        let root = &self.root;
        create_directory(root)?;
        if let Err(not_empty) = self.check_empty() {
            // The directory may have been claimed and finished in between.
            return match self.is_claimed(by)? {
                true => Ok(()),
                false => Err(not_empty),
            };
        }
        let claimed = self.rename_new(WORKING, |new| write_json(new, OWNER, by))?;
        if claimed || self.is_claimed(by)? {
            return Ok(());
        }
        let missing =
            SinkError::io("find", &self.working().join(OWNER))(ErrorKind::NotFound.into());
        Err(missing)
    }

    /// Returns whether the directory belongs to this batch run.
    ///
    /// # Errors
    /// The directory belongs to another batch run, or is finished.
    pub fn is_claimed(&self, by: &Owner) -> Result<bool, SinkError> {
        if let Some(manifest) = self.manifest()? {
            return Err(SinkError::Finished {
                directory: self.root.clone(),
                batch_id: manifest.batch_id,
                batch_run: manifest.batch_run,
            });
        }
        match self.owner()? {
            Some(owner) if owner.batch_run != by.batch_run => Err(SinkError::Taken {
                directory: self.root.clone(),
                batch_id: owner.batch_id,
                batch_run: owner.batch_run,
            }),
            owner => Ok(owner.is_some()),
        }
    }

    /// Writes a part under its name, and replaces an earlier one of the same range.
    pub fn put_part(
        &self,
        name: &str,
        extension: &str,
        note: &RangeNote,
        write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> Result<(), SinkError> {
        let working = self.working();
        let range = format!("{name}.{RANGE}");
        // The name determines the content, so an existing note is the same.
        if !working.join(&range).exists() {
            write_json(&working, &range, note)?;
        }
        write_file(&working, &format!("{name}.{extension}"), write)?;
        sync_directory(&working)
    }

    /// Notes that a range has no records.
    pub fn put_empty(&self, name: &str, note: &RangeNote) -> Result<(), SinkError> {
        let working = self.working();
        write_json(&working, &format!("{name}.{EMPTY}"), note)?;
        sync_directory(&working)
    }

    /// Returns all complete parts, by any attempt.
    pub fn parts(&self, extension: &str) -> Result<Vec<Found>, SinkError> {
        let working = self.working();
        let mut found = Vec::new();
        let entries = match fs::read_dir(&working) {
            Ok(entries) => entries,
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(found),
            Err(e) => return Err(SinkError::io("read the directory", &working)(e)),
        };
        for entry in entries {
            let entry = entry.map_err(SinkError::io("read the directory", &working))?;
            let note_path = entry.path();
            let Some(kind) = note_path.extension().filter(|e| *e == RANGE || *e == EMPTY) else {
                continue;
            };
            let data = (kind == RANGE).then(|| note_path.with_extension(extension));
            let dated = data.as_ref().unwrap_or(&note_path);
            let written = match fs::metadata(dated).and_then(|m| m.modified()) {
                Ok(time) => time
                    .duration_since(UNIX_EPOCH)
                    .unwrap_or_default()
                    .as_nanos(),
                // The note of a part that was never completed.
                Err(e) if e.kind() == ErrorKind::NotFound => continue,
                Err(e) => return Err(SinkError::io("look at", dated)(e)),
            };
            let Some(note) = read_json::<RangeNote>(&note_path)? else {
                continue;
            };
            found.push(Found {
                link: Link {
                    start: note.start,
                    end: note.end,
                    stride: note.stride,
                    written,
                    alone: note.alone,
                },
                file: data.and_then(|d| Some(d.file_name()?.to_string_lossy().into_owned())),
            });
        }
        Ok(found)
    }

    pub fn plan(&self) -> Result<Option<Plan>, SinkError> {
        read_json(&self.working().join(PLAN).join("plan.json"))
    }

    /// Stores the plan, unless there is one, and returns the one that counts.
    pub fn put_plan(&self, plan: &Plan) -> Result<Plan, SinkError> {
        let name = format!("{WORKING}/{PLAN}");
        self.rename_new(&name, |new| write_json(new, "plan.json", plan))?;
        let path = self.working().join(PLAN);
        let missing = SinkError::io("find the plan in", &path);
        self.plan()?
            .ok_or_else(|| missing(ErrorKind::NotFound.into()))
    }

    /// Gives a part its final name. If the name is taken, it is taken by the same part, and the file of a later
    /// attempt is not needed.
    pub fn publish(&self, from: &str, to: &str) -> Result<(), SinkError> {
        let (source, target) = (self.working().join(from), self.root.join(to));
        let there = || {
            target
                .try_exists()
                .map_err(SinkError::io("look for", &target))
        };
        match fs::hard_link(&source, &target) {
            Ok(()) => {
                // The rest is removed with the directory.
                let _ = fs::remove_file(&source);
                Ok(())
            }
            Err(e) if e.kind() == ErrorKind::AlreadyExists => Ok(()),
            Err(_) if there()? => Ok(()),
            // Some file systems have no hard links.
            Err(_) => match fs::rename(&source, &target) {
                Err(_) if there()? => Ok(()),
                renamed => renamed.map_err(SinkError::io("publish the part", &source)),
            },
        }
    }

    /// Syncs the directory after the last part is published.
    pub fn sync(&self) -> Result<(), SinkError> {
        sync_directory(&self.root)
    }

    pub fn put_manifest(&self, manifest: &Manifest) -> Result<(), SinkError> {
        write_json(&self.root, MANIFEST, manifest)?;
        self.sync()
    }

    /// Removes everything but the result.
    pub fn clear(&self) -> Result<(), SinkError> {
        let working = self.working();
        match fs::remove_dir_all(&working) {
            Err(e) if e.kind() != ErrorKind::NotFound => {
                return Err(SinkError::io("remove the directory", &working)(e));
            }
            _ => {}
        }
        self.clear_halves();
        Ok(())
    }

    /// Removes files that a lost process began to write beside the result. They do no harm, so failures are ignored.
    fn clear_halves(&self) {
        let Ok(entries) = fs::read_dir(&self.root) else {
            return;
        };
        let claim = format!("{WORKING}-");
        for entry in entries.flatten() {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if name.starts_with(&claim) {
                let _ = fs::remove_dir_all(entry.path());
            } else if name.starts_with(HALF) {
                let _ = fs::remove_file(entry.path());
            }
        }
    }

    /// Creates a directory with content. Returns `false` if a directory of that name exists.
    fn rename_new(
        &self,
        name: &str,
        fill: impl FnOnce(&Path) -> Result<(), SinkError>,
    ) -> Result<bool, SinkError> {
        let target = self.root.join(name);
        let parent = target.parent().unwrap_or(&self.root);
        let prefix = format!("{WORKING}-");
        let mut builder = tempfile::Builder::new();
        builder.prefix(&prefix);
        #[cfg(unix)]
        builder.permissions(mode(0o777));
        let new = builder
            .tempdir_in(parent)
            .map_err(SinkError::io("create a directory in", parent))?;
        fill(new.path())?;
        sync_directory(new.path())?;
        match fs::rename(new.path(), &target) {
            Ok(()) => {
                // The directory has another name now, so there is nothing to remove.
                let _ = new.keep();
                sync_directory(parent)?;
                Ok(true)
            }
            Err(_) if target.exists() => Ok(false),
            Err(e) => Err(SinkError::io("create the directory", &target)(e)),
        }
    }
}

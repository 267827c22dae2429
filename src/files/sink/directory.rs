//! The directory that parts are written into.
//!
//! ```text
//! users/                         what is asked for
//!   part-00000001.csv            in the order of the pages, from the moment when all of them are there
//!   part-00000002.csv
//!   manifest.json                last
//!   .temporal-batch/             while the batch runs
//!     owner.json                 which batch run this directory belongs to
//!     00000001-5d0c….csv         a part: its stride, and what follows from its range
//!     00000001-5d0c….range       its range
//!     00000002-93be….empty       a range in which there was nothing
//!     plan/plan.json             which of the parts count, once that is decided
//! ```
//!
//! Every file comes into being by a rename of a finished one that is on the disk. The directory of the batch run and
//! its plan come by the rename of a directory that is not empty, which fails where there is one already: so
//! the first one counts.

use std::{
    fs::{self, File},
    io::{self, BufWriter, ErrorKind, Write},
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tempfile::NamedTempFile;

use crate::{
    base::disk::directory_of,
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
/// The beginning of the name of a file that is not whole yet.
const HALF: &str = ".tmp-";

/// Whose parts they are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Owner {
    pub batch_id: String,
    pub batch_run: String,
}

/// What a `.range` or `.empty` file says.
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

/// A part that is there, or a range in which there was nothing.
#[derive(Debug)]
pub(crate) struct Found {
    pub link: Link,
    /// `None`: nothing was in the range.
    pub file: Option<String>,
}

/// Which parts count. Once it is there, it is not changed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Plan {
    pub parts: Vec<PlannedPart>,
    /// Files of attempts that did not count.
    #[serde(default)]
    pub orphans: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct PlannedPart {
    /// The name of the file while the batch ran.
    pub from: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<PageToken>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<PageToken>,
}

/// What a directory is to a batch that would write into it.
#[derive(Debug)]
pub(crate) enum Standing {
    /// New, or empty.
    Free,
    /// A batch run writes into it, or did not finish.
    Unfinished(Owner),
    Finished(Manifest),
}

/// Looks at a directory, and changes nothing.
///
/// # Errors
/// There are other files in it.
pub(crate) fn standing(directory: &Path) -> Result<Standing, SinkError> {
    SinkDirectory::new(directory.to_path_buf()).standing()
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

    pub fn root(&self) -> &Path {
        &self.root
    }

    fn working(&self) -> PathBuf {
        self.root.join(WORKING)
    }

    fn owner(&self) -> Result<Option<Owner>, SinkError> {
        read_json(&self.working().join(OWNER))
    }

    /// The manifest, if it is finished.
    pub fn manifest(&self) -> Result<Option<Manifest>, SinkError> {
        read_json(&self.root.join(MANIFEST))
    }

    fn standing(&self) -> Result<Standing, SinkError> {
        if let Some(manifest) = self.manifest()? {
            return Ok(Standing::Finished(manifest));
        }
        if let Some(owner) = self.owner()? {
            return Ok(Standing::Unfinished(owner));
        }
        self.check_empty()?;
        Ok(Standing::Free)
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

    /// Sees to it that the directory is this batch run's.
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
            // It may have been claimed and finished in between.
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

    /// Whether it is this batch run's already.
    ///
    /// # Errors
    /// It is another's, or finished.
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

    /// Writes a part under its name, over an earlier one of the same range.
    pub fn put_part(
        &self,
        name: &str,
        extension: &str,
        note: &RangeNote,
        write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> Result<(), SinkError> {
        let working = self.working();
        let range = format!("{name}.{RANGE}");
        // The name says it all: whoever wrote it wrote the same.
        if !working.join(&range).exists() {
            write_json(&working, &range, note)?;
        }
        write_file(&working, &format!("{name}.{extension}"), write)?;
        sync_directory(&working)
    }

    /// Notes that there was nothing in a range.
    pub fn put_empty(&self, name: &str, note: &RangeNote) -> Result<(), SinkError> {
        let working = self.working();
        write_json(&working, &format!("{name}.{EMPTY}"), note)?;
        sync_directory(&working)
    }

    /// Every part that is whole, whoever wrote it.
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
                // The note of a part that was never finished.
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

    /// Decides which parts count, unless that is decided.
    pub fn put_plan(&self, plan: &Plan) -> Result<Plan, SinkError> {
        let name = format!("{WORKING}/{PLAN}");
        self.rename_new(&name, |new| write_json(new, "plan.json", plan))?;
        let path = self.working().join(PLAN);
        let missing = SinkError::io("find the plan in", &path);
        self.plan()?
            .ok_or_else(|| missing(ErrorKind::NotFound.into()))
    }

    /// Gives a part its last name. Where that is taken it is by the same part, and what an attempt wrote
    /// since is not wanted.
    pub fn publish(&self, from: &str, to: &str) -> Result<(), SinkError> {
        let (source, target) = (self.working().join(from), self.root.join(to));
        let there = || {
            target
                .try_exists()
                .map_err(SinkError::io("look for", &target))
        };
        match fs::hard_link(&source, &target) {
            Ok(()) => {
                // What is left goes with the directory.
                let _ = fs::remove_file(&source);
                Ok(())
            }
            Err(e) if e.kind() == ErrorKind::AlreadyExists => Ok(()),
            Err(_) if there()? => Ok(()),
            // Not every file system has links.
            Err(_) => match fs::rename(&source, &target) {
                Err(_) if there()? => Ok(()),
                renamed => renamed.map_err(SinkError::io("publish the part", &source)),
            },
        }
    }

    /// After the last part is published.
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

    /// Removes what a process that was lost had begun to write beside the result. It harms nobody, so what
    /// cannot be removed stays.
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

    /// Makes a directory with something in it, unless there is one of that name: then the answer is no.
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
                // It has another name now, so there is nothing to remove.
                let _ = new.keep();
                sync_directory(parent)?;
                Ok(true)
            }
            Err(_) if target.exists() => Ok(false),
            Err(e) => Err(SinkError::io("create the directory", &target)(e)),
        }
    }
}

/// Makes a directory, unless it is there. It lasts once the one around it is on the disk.
///
/// # Errors
/// The directory around it is missing. With a mistake in the path, directories would be made that no reader looks for.
fn create_directory(path: &Path) -> Result<(), SinkError> {
    if path.is_dir() {
        return Ok(());
    }
    let around = existing_parent(path)?;
    match fs::create_dir(path) {
        Ok(()) => sync_directory(around),
        // Another attempt has made it.
        Err(e) if e.kind() == ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        Err(e) => Err(SinkError::io("create the directory", path)(e)),
    }
}

/// The directory around a path.
fn existing_parent(path: &Path) -> Result<&Path, SinkError> {
    let around = directory_of(path);
    let failed = SinkError::io("create anything in", around);
    match fs::metadata(around) {
        Ok(found) if found.is_dir() => Ok(around),
        Ok(_) => Err(failed(ErrorKind::NotADirectory.into())),
        Err(e) if e.kind() == ErrorKind::NotFound => Err(SinkError::NoParent {
            directory: path.to_path_buf(),
            parent: around.to_path_buf(),
        }),
        Err(e) => Err(failed(e)),
    }
}

/// Sees to it that files can be written into a directory, or that it can be made. Leaves nothing behind.
///
/// # Errors
/// The path is no directory, the directory or the one around it cannot be written to, or the disk has no room.
#[cfg(feature = "cli")]
pub(crate) fn check_writable(directory: &Path) -> Result<(), SinkError> {
    match fs::metadata(directory) {
        Ok(found) if found.is_dir() => {
            try_file(directory).map_err(SinkError::io("write into", directory))
        }
        Ok(_) => Err(SinkError::io("write into", directory)(
            ErrorKind::NotADirectory.into(),
        )),
        Err(e) if e.kind() == ErrorKind::NotFound => {
            let around = existing_parent(directory)?;
            let tried = tempfile::Builder::new().prefix(HALF).tempdir_in(around);
            tried.map_err(SinkError::io("create a directory in", around))?;
            try_file(around).map_err(SinkError::io("write into", around))
        }
        Err(e) => Err(SinkError::io("look at", directory)(e)),
    }
}

/// Sees to it that a file of this path can be written.
#[cfg(feature = "cli")]
pub(crate) fn check_writable_file(file: &Path) -> Result<(), SinkError> {
    let around = existing_parent(file)?;
    try_file(around).map_err(SinkError::io("write into", around))
}

/// Writes a file into a directory, and removes it.
#[cfg(feature = "cli")]
pub(crate) fn try_file(directory: &Path) -> io::Result<()> {
    let file = tempfile::Builder::new().prefix(HALF).tempfile_in(directory);
    let mut file = file?;
    // A disk without room takes the name of a file, and nothing that is in it.
    file.write_all(&[0; 4_096])?;
    file.as_file().sync_all()
}

#[cfg(unix)]
fn mode(bits: u32) -> fs::Permissions {
    std::os::unix::fs::PermissionsExt::from_mode(bits)
}

pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, SinkError> {
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(e) => return Err(SinkError::io("read", path)(e)),
    };
    let read = serde_json::from_slice(&text).map_err(|e| SinkError::Unreadable {
        path: path.to_path_buf(),
        message: e.to_string(),
    })?;
    Ok(Some(read))
}

pub(crate) fn write_json(
    directory: &Path,
    name: &str,
    value: &impl Serialize,
) -> Result<(), SinkError> {
    write_file(directory, name, |to| {
        serde_json::to_writer_pretty(&mut *to, value)?;
        to.write_all(b"\n")
    })
}

/// Writes a file that is there as a whole or not at all. It lasts once its directory is synced.
pub(crate) fn write_file<T>(
    directory: &Path,
    name: &str,
    write: impl FnOnce(&mut dyn Write) -> io::Result<T>,
) -> Result<T, SinkError> {
    let target = directory.join(name);
    let mut builder = tempfile::Builder::new();
    builder.prefix(HALF);
    // As any other program would create it.
    #[cfg(unix)]
    builder.permissions(mode(0o666));
    let failed = SinkError::io("write", &target);
    let written = (|| -> io::Result<(T, NamedTempFile)> {
        let mut file = builder.tempfile_in(directory)?;
        let mut buffer = BufWriter::with_capacity(64 * 1_024, file.as_file_mut());
        let written = write(&mut buffer)?;
        buffer.flush()?;
        drop(buffer);
        // File systems date by ticks of milliseconds, in which a page can be written twice.
        let _ = file.as_file().set_modified(SystemTime::now());
        file.as_file().sync_all()?;
        Ok((written, file))
    })();
    let (written, file) = written.map_err(failed)?;
    file.persist(&target)
        .map_err(|e| SinkError::io("write", &target)(e.error))?;
    Ok(written)
}

/// A rename lasts once its directory is on the disk.
pub(crate) fn sync_directory(path: &Path) -> Result<(), SinkError> {
    if cfg!(unix) {
        let synced = File::open(path).and_then(|directory| directory.sync_all());
        synced.map_err(SinkError::io("sync the directory", path))?;
    }
    Ok(())
}

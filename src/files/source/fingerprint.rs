//! The identity of a file, to notice changes.

use std::{
    fs::{File, Metadata},
    io::{self, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};

/// The number of bytes at either end of a file that are hashed.
const SAMPLE: u64 = 64 * 1024;
/// The number of files whose hashes this process remembers.
const MOST_REMEMBERED: usize = 32;

/// The state of a file when its batch began: its size, the time of its last change, and a hash of its first and last
/// 64 KiB.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fingerprint {
    /// The size in bytes. Later bytes are not read.
    pub size: u64,
    /// The time of the last change, in milliseconds since 1970.
    #[serde(default)]
    pub modified_ms: u64,
    /// A hash of both ends.
    pub ends: String,
}

impl Fingerprint {
    /// Returns the fingerprint of an open file.
    pub(crate) fn of(path: &Path, file: &File) -> io::Result<Self> {
        let metadata = file.metadata()?;
        Ok(Self {
            size: metadata.len(),
            modified_ms: modified_ms(&metadata),
            ends: ends(path, file, &metadata, metadata.len())?,
        })
    }

    /// Returns the difference between the fingerprint and an open file.
    pub(crate) fn difference(
        &self,
        path: &Path,
        file: &File,
        may_grow: bool,
    ) -> io::Result<Option<&'static str>> {
        let metadata = file.metadata()?;
        let same_size = match may_grow {
            true => metadata.len() >= self.size,
            false => metadata.len() == self.size,
        };
        if !same_size {
            return Ok(Some(match metadata.len() < self.size {
                true => "it is smaller now",
                false => "it is larger now",
            }));
        }
        if !may_grow && modified_ms(&metadata) != self.modified_ms {
            return Ok(Some("it has been written to since"));
        }
        let same = ends(path, file, &metadata, self.size)? == self.ends;
        Ok((!same).then_some("its content differs"))
    }
}

fn modified_ms(metadata: &Metadata) -> u64 {
    let since = |time: SystemTime| time.duration_since(UNIX_EPOCH).ok();
    let modified = metadata.modified().ok().and_then(since);
    modified.map_or(0, |time| u64::try_from(time.as_millis()).unwrap_or(0))
}

/// The properties by which the file system identifies an unchanged file.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Identity {
    path: PathBuf,
    size: u64,
    modified: Option<SystemTime>,
    #[cfg(unix)]
    inode: (u64, u64, i64, i64),
}

impl Identity {
    pub fn of(path: &Path, metadata: &Metadata) -> Self {
        #[cfg(unix)]
        use std::os::unix::fs::MetadataExt as _;
        Self {
            path: path.to_owned(),
            size: metadata.len(),
            modified: metadata.modified().ok(),
            #[cfg(unix)]
            inode: (
                metadata.dev(),
                metadata.ino(),
                metadata.ctime(),
                metadata.ctime_nsec(),
            ),
        }
    }
}

/// The known hashes, the latest last. Hashing both ends for every page would cost as much as a page.
static REMEMBERED: Mutex<Vec<(Identity, u64, String)>> = Mutex::new(Vec::new());

/// Returns the hash of both ends of the first `size` bytes.
fn ends(path: &Path, mut file: &File, metadata: &Metadata, size: u64) -> io::Result<String> {
    let identity = Identity::of(path, metadata);
    let remembered = || REMEMBERED.lock().unwrap_or_else(PoisonError::into_inner);
    let known = remembered()
        .iter()
        .find(|(known, of, _)| *known == identity && *of == size)
        .map(|(_, _, ends)| ends.clone());
    if let Some(known) = known {
        return Ok(known);
    }
    let mut bytes = Vec::new();
    for from in [0, size.saturating_sub(SAMPLE)] {
        file.seek(SeekFrom::Start(from))?;
        file.take(SAMPLE.min(size - from)).read_to_end(&mut bytes)?;
    }
    let namespace = uuid::Uuid::from_u128(0x6f0c_92d1_5b7e_4c33_a1f4_08e9_4d27_bb60);
    let ends = uuid::Uuid::new_v5(&namespace, &bytes).to_string();
    let mut remembered = remembered();
    if remembered.len() >= MOST_REMEMBERED {
        remembered.remove(0);
    }
    remembered.push((identity, size, ends.clone()));
    Ok(ends)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn difference(fingerprint: &Fingerprint, path: &Path, may_grow: bool) -> Option<&'static str> {
        let file = File::open(path).unwrap();
        fingerprint.difference(path, &file, may_grow).unwrap()
    }

    #[test]
    fn a_file_that_is_left_alone_is_the_same_and_every_change_is_seen() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("data");
        let long = vec![b'x'; 200_000];
        std::fs::write(&path, &long).unwrap();
        let before = Fingerprint::of(&path, &File::open(&path).unwrap()).unwrap();
        assert_eq!(difference(&before, &path, false), None);
        assert_eq!(difference(&before, &path, true), None);

        let mut file = std::fs::OpenOptions::new()
            .append(true)
            .open(&path)
            .unwrap();
        file.write_all(b"more").unwrap();
        assert_eq!(difference(&before, &path, false), Some("it is larger now"));
        assert_eq!(difference(&before, &path, true), None);

        let mut other = long.clone();
        other[199_999] = b'y';
        std::fs::write(&path, &other).unwrap();
        let modified = File::open(&path).unwrap();
        modified
            .set_modified(UNIX_EPOCH + std::time::Duration::from_millis(before.modified_ms))
            .unwrap();
        let changed = Some("its content differs");
        assert_eq!(difference(&before, &path, false), changed);
        assert_eq!(difference(&before, &path, true), changed);

        std::fs::write(&path, &long[..10]).unwrap();
        let smaller = Some("it is smaller now");
        assert_eq!(difference(&before, &path, true), smaller);
    }

    #[test]
    fn a_change_in_the_middle_shows_in_the_time() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("data");
        std::fs::write(&path, vec![b'x'; 200_000]).unwrap();
        let before = Fingerprint::of(&path, &File::open(&path).unwrap()).unwrap();
        let file = File::options().write(true).open(&path).unwrap();
        let later = UNIX_EPOCH + std::time::Duration::from_millis(before.modified_ms + 1);
        file.set_modified(later).unwrap();
        let seen = difference(&before, &path, false);
        assert_eq!(seen, Some("it has been written to since"));
    }
}

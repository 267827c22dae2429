//! Directories of files, and errors of a full disk.

use std::{
    fs,
    io::{self, ErrorKind},
    path::Path,
};

use crate::base::error::text::words;

/// Returns the directory that holds the file at this path.
pub(crate) fn directory_of(path: &Path) -> &Path {
    let around = path.parent();
    let around = around.filter(|around| !around.as_os_str().is_empty());
    around.unwrap_or(Path::new("."))
}

/// Returns whether an error says that the disk or the user's quota is full.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded
    )
}

/// Formats an error with the system's own message. For a full disk, the text also says how much is free and
/// where.
pub(crate) fn with_free_space(error: &io::Error, path: &Path) -> String {
    match free(path).filter(|_| is_full(error)) {
        Some((free, size, place)) => format!(
            "not enough disk: {} of {} are free at {} ({})",
            bytes(free),
            bytes(size),
            place.display(),
            words(error)
        ),
        None => words(error),
    }
}

/// Returns the free bytes for this user, the size in bytes, and the directory that was asked about. The path
/// itself need not exist yet: its nearest existing directory is used.
#[cfg(unix)]
fn free(path: &Path) -> Option<(u64, u64, &Path)> {
    let there = path
        .ancestors()
        .map(|place| match place.as_os_str().is_empty() {
            true => Path::new("."),
            false => place,
        })
        .find(|place| fs::metadata(place).is_ok_and(|found| found.is_dir()))?;
    let found = rustix::fs::statvfs(there).ok()?;
    let of = |blocks: u64| blocks.saturating_mul(found.f_frsize);
    Some((of(found.f_bavail), of(found.f_blocks), there))
}

#[cfg(not(unix))]
fn free(_: &Path) -> Option<(u64, u64, &Path)> {
    let _ = fs::metadata;
    None
}

fn bytes(count: u64) -> String {
    let units = ["bytes", "KiB", "MiB", "GiB", "TiB"];
    let (mut whole, mut rest, mut unit) = (count, 0, 0);
    while whole >= 1_024 && unit + 1 < units.len() {
        (whole, rest, unit) = (whole / 1_024, whole % 1_024, unit + 1);
    }
    match rest * 10 / 1_024 {
        0 => format!("{whole} {}", units[unit]),
        tenth => format!("{whole}.{tenth} {}", units[unit]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_told_in_units_that_people_read() {
        for (count, told) in [
            (0, "0 bytes"),
            (1_023, "1023 bytes"),
            (1_024, "1 KiB"),
            (1_536, "1.5 KiB"),
            (64 * 1_024 * 1_024 * 1_024, "64 GiB"),
        ] {
            assert_eq!(bytes(count), told);
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_full_disk_is_told_with_what_is_free_and_where() {
        let folder = tempfile::tempdir().unwrap();
        let full = io::Error::from(ErrorKind::StorageFull);
        let told = with_free_space(&full, &folder.path().join("new/file"));
        let place = format!("are free at {} (", folder.path().display());
        assert!(
            told.starts_with("not enough disk: ") && told.contains(&place),
            "{told}"
        );
        let other = io::Error::from(ErrorKind::PermissionDenied);
        assert_eq!(with_free_space(&other, folder.path()), other.to_string());
    }
}

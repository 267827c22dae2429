//! The common part of the throwaway servers: a server that a test starts, and that ends with the test process however
//! that ends.
//!
//! ```text
//!   test process ──stdin (a pipe that only it holds)──▶ sh ──▶ the server's own programs
//!                ◀─stdout: one line for each command───
//! ```
//!
//! The shell runs one command after the other. When the pipe closes, which the operating system does for a killed
//! process too, the shell stops the server and removes the folder.

use std::{
    ffi::OsStr,
    io::{BufRead, BufReader, Read, Write},
    net::TcpListener,
    os::unix::{
        fs::{MetadataExt, chown},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{ChildStdin, ChildStdout, Command, Stdio},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
};

/// A running server: its folder, its port on 127.0.0.1 and the shell that controls it.
#[derive(Debug)]
pub struct Throwaway {
    folder: PathBuf,
    port: u16,
    shell: Mutex<Shell>,
    databases: AtomicU32,
}

/// The shell. The server lives as long as the shell's standard input is open.
#[derive(Debug)]
struct Shell {
    commands: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Shell {
    /// Runs one command. Returns `false` if it failed.
    fn run(&mut self, command: &str) -> bool {
        let commands = self.commands.as_mut().expect("only drop takes the input");
        writeln!(commands, "{command}").expect("the shell runs as long as its input is open");
        self.answer()
    }

    fn answer(&mut self) -> bool {
        let mut answer = String::new();
        self.answers.read_line(&mut answer).unwrap();
        answer.trim_end().ends_with(" 0")
    }
}

impl Throwaway {
    /// Runs a script with its folder as the first argument, then `arguments`. The script creates the data of the server
    /// and answers `init 0`; then it reads `start PORT` and `stop HOW`, and answers each with the command and its exit
    /// status. It logs to `shell.log` and `server.log`.
    ///
    /// Database servers refuse to run as root: `user` runs them then, or else `nobody`.
    pub fn launch(system: &str, user: &str, script: &str, arguments: &[&OsStr]) -> Self {
        static SERVERS: AtomicU32 = AtomicU32::new(0);
        let number = SERVERS.fetch_add(1, Ordering::Relaxed);
        let name = format!("temporal-batch-{system}-{}-{number}", std::process::id());
        let folder = std::env::temp_dir().join(&name);
        // A folder may be left from a machine that was killed, whose process id is in use again.
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir(&folder).unwrap();

        let mut shell = Command::new("sh");
        shell
            .arg("-c")
            .arg(script)
            .arg(name)
            .arg(&folder)
            .args(arguments)
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .process_group(0);
        if std::fs::metadata(&folder).unwrap().uid() == 0 {
            let (uid, gid) = ids_of(user)
                .or_else(|| ids_of("nobody"))
                .unwrap_or_else(|| panic!("there is no user `{user}` and no `nobody`"));
            chown(&folder, Some(uid), Some(gid)).unwrap();
            shell.uid(uid).gid(gid);
        }
        let mut child = shell.spawn().unwrap();
        let mut shell = Shell {
            commands: child.stdin.take(),
            answers: BufReader::new(child.stdout.take().unwrap()),
        };
        // Waiting keeps the shell from staying a zombie of a long-lived process.
        std::thread::spawn(move || child.wait());

        let made = shell.answer();
        assert!(made, "no {system}: {}", text_of(&folder, "shell.log"));
        // Another process may take the port between its choice and its use.
        let port = (0..5).find_map(|_| {
            let port = free_port();
            shell.run(&format!("start {port}")).then_some(port)
        });
        let port = port.unwrap_or_else(|| panic!("no start: {}", text_of(&folder, "server.log")));
        Self {
            folder,
            port,
            shell: Mutex::new(shell),
            databases: AtomicU32::new(0),
        }
    }

    /// A unique name for the database of one test.
    pub fn database_name(&self, test: &str) -> String {
        let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '_' };
        let test: String = test.chars().take(40).map(plain).collect();
        let number = self.databases.fetch_add(1, Ordering::Relaxed);
        format!("{test}_{number}").to_ascii_lowercase()
    }

    /// Stops the server.
    pub fn stop(&self, how: Stop) {
        let how = match how {
            Stop::Fast => "fast",
            Stop::Immediate => "immediate",
        };
        let stopped = self.run(&format!("stop {how}"));
        assert!(stopped, "no stop: {}", text_of(&self.folder, "shell.log"));
    }

    /// Starts the server again, on the same port.
    pub fn start(&self) {
        let started = self.run(&format!("start {}", self.port));
        assert!(started, "no start: {}", text_of(&self.folder, "server.log"));
    }

    /// Stops the server and starts it again, on the same port. Blocks for about a second.
    pub fn restart(&self, how: Stop) {
        self.stop(how);
        self.start();
    }

    /// The port of the server on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The folder with all files of the server.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    fn run(&self, command: &str) -> bool {
        let mut shell = self.shell.lock().unwrap_or_else(PoisonError::into_inner);
        shell.run(command)
    }
}

impl Drop for Throwaway {
    /// Waits until the server is stopped and the folder is gone. A shared server is never dropped; its pipe closes with
    /// the end of the process.
    fn drop(&mut self) {
        let shell = self.shell.get_mut();
        let shell = shell.unwrap_or_else(PoisonError::into_inner);
        shell.commands = None;
        let _ = shell.answers.read_to_string(&mut String::new());
    }
}

/// The way in which a server is stopped.
#[derive(Clone, Copy, Debug)]
pub enum Stop {
    /// Clients are disconnected, and all data is written.
    Fast,
    /// The server stops as in a crash: the next start recovers from its log.
    Immediate,
}

/// Prints that a test did not run, on a line that `.ci/run` counts.
#[expect(
    clippy::explicit_write,
    reason = "the harness captures the output of macros"
)]
pub fn skip(system: &str, package: &str) {
    let skipped = format!("SKIPPED: {system} is not installed (Debian package `{package}`)");
    writeln!(std::io::stderr(), "{skipped}").unwrap();
}

fn text_of(folder: &Path, file: &str) -> String {
    std::fs::read_to_string(folder.join(file)).unwrap_or_default()
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

fn ids_of(user: &str) -> Option<(u32, u32)> {
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap();
    let line = passwd
        .lines()
        .find(|line| line.split(':').next() == Some(user))?;
    let mut ids = line.split(':').skip(2).map(str::parse);
    Some((ids.next()?.ok()?, ids.next()?.ok()?))
}

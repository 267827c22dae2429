//! A server that a test starts and that is gone with the test process, whatever ends it: what the throwaway
//! servers have in common.
//!
//! ```text
//!   test process ──stdin (a pipe that only it holds)──▶ sh ──▶ the server's own programs
//!                ◀─stdout: one line for each command───
//! ```
//!
//! The shell does one thing after the other. When the pipe closes, which the operating system does for a
//! killed process too, it stops the server and removes the folder.

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

/// A running server: its folder, its port on 127.0.0.1 and the shell that steers it.
#[derive(Debug)]
pub struct Throwaway {
    folder: PathBuf,
    port: u16,
    shell: Mutex<Shell>,
    databases: AtomicU32,
}

/// While its standard input is open, the server lives.
#[derive(Debug)]
struct Shell {
    commands: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Shell {
    /// Runs one command; `false` if it failed.
    fn run(&mut self, command: &str) -> bool {
        let commands = self.commands.as_mut().expect("taken by drop only");
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
    /// Runs a script with its folder as the first argument, then `arguments`. It makes what the server
    /// needs and answers `init 0`; then it reads `start PORT` and `stop HOW`, and answers each with the
    /// command and its exit status. It logs to `shell.log` and `server.log`.
    ///
    /// Database servers refuse to run as root: then it is `user` who runs them, or else `nobody`.
    pub fn launch(system: &str, user: &str, script: &str, arguments: &[&OsStr]) -> Self {
        static SERVERS: AtomicU32 = AtomicU32::new(0);
        let number = SERVERS.fetch_add(1, Ordering::Relaxed);
        let name = format!("temporal-batch-{system}-{}-{number}", std::process::id());
        let folder = std::env::temp_dir().join(&name);
        // One that a killed machine left behind, whose process id came up again.
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
                .unwrap_or_else(|| panic!("there is a user `{user}` or `nobody`"));
            chown(&folder, Some(uid), Some(gid)).unwrap();
            shell.uid(uid).gid(gid);
        }
        let mut child = shell.spawn().unwrap();
        let mut shell = Shell {
            commands: child.stdin.take(),
            answers: BufReader::new(child.stdout.take().unwrap()),
        };
        // Nothing waits for it, so it would stay a zombie of a long-lived process.
        std::thread::spawn(move || child.wait());

        let made = shell.answer();
        assert!(made, "no {system}: {}", text_of(&folder, "shell.log"));
        // Between the choice of a port and its use somebody else may take it.
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

    /// A name for the database of one test, that no other has.
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

    /// Starts it again, on the same port.
    pub fn start(&self) {
        let started = self.run(&format!("start {}", self.port));
        assert!(started, "no start: {}", text_of(&self.folder, "server.log"));
    }

    /// Stops the server and starts it again, on the same port. Blocks for about a second.
    pub fn restart(&self, how: Stop) {
        self.stop(how);
        self.start();
    }

    /// Where it listens, on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Everything of the server is in here.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    fn run(&self, command: &str) -> bool {
        let mut shell = self.shell.lock().unwrap_or_else(PoisonError::into_inner);
        shell.run(command)
    }
}

impl Drop for Throwaway {
    /// Waits until the server is stopped and the folder is gone. A shared server is never dropped; the end
    /// of the process closes its pipe.
    fn drop(&mut self) {
        let shell = self.shell.get_mut();
        let shell = shell.unwrap_or_else(PoisonError::into_inner);
        shell.commands = None;
        let _ = shell.answers.read_to_string(&mut String::new());
    }
}

/// How a server is stopped.
#[derive(Clone, Copy, Debug)]
pub enum Stop {
    /// Clients are disconnected, everything is written.
    Fast,
    /// As a crash would: the next start recovers from the log.
    Immediate,
}

/// Tells whoever counts that a test did not run.
#[expect(
    clippy::explicit_write,
    reason = "the harness would keep what a macro prints to itself"
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

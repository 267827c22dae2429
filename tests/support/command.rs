//! The built command as its users run it.

use std::{
    borrow::BorrowMut,
    io::Read,
    path::Path,
    process::{Child, ChildStdin, Command, Stdio},
    sync::{Arc, Mutex},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use super::dev_server::server_address;

/// Longest wait for anything that a command does; what takes longer hangs.
pub const LIMIT: Duration = Duration::from_secs(120);

/// Longest wait for a build.
pub const BUILD_LIMIT: Duration = Duration::from_secs(1_200);

/// The command, as Cargo has built it for the tests.
pub fn binary() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_temporal-batch"))
}

/// A command that knows of no server.
pub fn offline(args: &[&str]) -> Command {
    of_binary(binary(), args)
}

/// A command that talks to the server of the tests.
pub fn online(args: &[&str]) -> Command {
    let mut command = offline(args);
    command.env("TEMPORAL_ADDRESS", server_address());
    command
}

/// Another program that talks to no server.
pub fn of_binary(binary: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(binary);
    without_settings(&mut command);
    command
        .env("TEMPORAL_CONFIG_FILE", "/dev/null")
        .stdin(Stdio::null())
        .args(args);
    command
}

/// A line as a shell takes it, which finds the command by its name and talks to the server of the tests.
pub fn of_shell(line: &str) -> Command {
    of_shell_in(binary().parent().unwrap(), line)
}

/// The same with the programs in another folder.
pub fn of_shell_in(programs: &Path, line: &str) -> Command {
    let mut path = vec![programs.to_owned()];
    let others = std::env::var_os("PATH").unwrap_or_default();
    path.extend(std::env::split_paths(&others));
    let mut command = of_binary(Path::new("sh"), &["-c", line]);
    command
        .env("PATH", std::env::join_paths(path).unwrap())
        .env("TEMPORAL_ADDRESS", server_address());
    command
}

/// Takes away the settings of the user who runs the tests, and what Cargo tells its tests: that would make another Cargo
/// build dependencies again.
pub fn without_settings(command: &mut Command) {
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        // The place of the Temporal CLI stays known.
        let kept = matches!(&*text, "TEMPORAL_CLI_PATH" | "TEMPORAL_BATCH_CACHE_DIR");
        let kinds = [
            "TEMPORAL_",
            "PG",
            "CARGO_PKG_",
            "CARGO_MANIFEST_",
            "CARGO_BIN_EXE_",
        ];
        let names = [
            "RUST_LOG",
            "DATABASE_URL",
            "THROTTLE_DATABASE_URL",
            "MYSQL_PWD",
            "PRODUCTS_DB",
            "USERS_DB",
            "ORDERS_DB",
            "FIX_EMAILS_LENIENT",
        ];
        if !kept && (kinds.iter().any(|kind| text.starts_with(kind)) || names.contains(&&*text)) {
            command.env_remove(&name);
        }
    }
}

/// How a command ended.
#[derive(Clone, Debug)]
pub struct Ended {
    /// `None`: by a signal.
    pub status: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Ended {
    #[track_caller]
    pub fn exits_with(self, code: i32) -> Self {
        assert_eq!(self.status, Some(code), "{}\n{}", self.out, self.err);
        self
    }

    /// The last line of its output.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        let last = self.out.lines().last();
        let last = last.unwrap_or_else(|| panic!("no output: {}", self.err));
        serde_json::from_str(last).unwrap()
    }

    /// Asserts that it did nothing and said why, with these parts.
    #[track_caller]
    pub fn refused(&self, code: i32, parts: &[&str]) {
        let message = &self.err;
        assert_eq!(self.status, Some(code), "{message}");
        for part in parts {
            assert!(message.contains(part), "{part:?} is missing in {message}");
        }
        assert_eq!(self.out, "");
    }
}

/// Runs a command to its end.
#[track_caller]
pub fn run(command: impl BorrowMut<Command>) -> Ended {
    start(command).ended()
}

/// The same in a test with a runtime, whose other tasks go on.
pub async fn run_aside(command: impl BorrowMut<Command>) -> Ended {
    start(command).ended_aside().await
}

/// Starts a command whose output is kept.
#[track_caller]
pub fn start(mut command: impl BorrowMut<Command>) -> Running {
    let mut child = spawn(command.borrow_mut());
    Running {
        out: Stream::of(child.stdout.take().unwrap()),
        err: Stream::of(child.stderr.take().unwrap()),
        child,
    }
}

/// Starts a command whose standard output is closed from the start.
pub fn start_unread(mut command: impl BorrowMut<Command>) -> Running {
    let mut child = spawn(command.borrow_mut());
    drop(child.stdout.take());
    Running {
        out: Stream::of(std::io::empty()),
        err: Stream::of(child.stderr.take().unwrap()),
        child,
    }
}

fn spawn(command: &mut Command) -> Child {
    let command = command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().unwrap()
}

/// A process that does not outlive its test.
pub struct Running {
    child: Child,
    pub out: Stream,
    pub err: Stream,
}

impl Running {
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has said so far on standard error.
    pub fn said(&self) -> String {
        self.err.so_far()
    }

    /// Waits until it has said something.
    #[track_caller]
    pub fn says(&self, part: &str) {
        self.err.says(part);
    }

    /// What a test types, where the command was given a pipe.
    pub fn stdin(&mut self) -> ChildStdin {
        self.child.stdin.take().unwrap()
    }

    pub fn signal(&self, name: &str) {
        let kill = format!("kill -{name} {}", self.pid());
        let killed = Command::new("sh").args(["-c", &kill]).status().unwrap();
        assert!(killed.success());
    }

    /// As `kill -9` does.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Whether it has ended, and what it has said until then is all.
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
            && [&self.out, &self.err]
                .iter()
                .all(|stream| stream.has_ended())
    }

    /// Waits for its end.
    #[track_caller]
    pub fn ended(self) -> Ended {
        self.ended_within(LIMIT)
    }

    /// The same for a command that may take longer, as a build does, or that has to be quicker.
    #[track_caller]
    pub fn ended_within(mut self, limit: Duration) -> Ended {
        let deadline = Instant::now() + limit;
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            let said = || self.said();
            assert!(Instant::now() < deadline, "it does not end: {}", said());
            thread::sleep(Duration::from_millis(10));
        };
        Ended {
            status: status.code(),
            out: self.out.all(),
            err: self.err.all(),
        }
    }

    /// The same in a test with a runtime, whose other tasks go on.
    pub async fn ended_aside(self) -> Ended {
        tokio::task::spawn_blocking(|| self.ended()).await.unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a process writes, as it comes.
pub struct Stream {
    bytes: Arc<Mutex<Vec<u8>>>,
    reader: Option<JoinHandle<()>>,
    /// Bytes that [`line`](Self::line) has passed.
    passed: Mutex<usize>,
}

impl Stream {
    fn of(mut from: impl Read + Send + 'static) -> Self {
        let bytes = Arc::new(Mutex::new(Vec::new()));
        let all = Arc::clone(&bytes);
        let reader = thread::spawn(move || {
            let mut buffer = vec![0; 64 * 1024];
            while let Ok(read @ 1..) = from.read(&mut buffer) {
                all.lock().unwrap().extend_from_slice(&buffer[..read]);
            }
        });
        Self {
            bytes,
            reader: Some(reader),
            passed: Mutex::new(0),
        }
    }

    pub fn so_far(&self) -> String {
        String::from_utf8_lossy(&self.bytes.lock().unwrap()).into_owned()
    }

    /// Waits until it holds `part`.
    #[track_caller]
    pub fn says(&self, part: &str) {
        self.waits(part, |said| said.contains(part).then_some(()));
    }

    /// Waits for a line that holds `part`, after the line of the call before.
    #[track_caller]
    pub fn line(&self, part: &str) -> String {
        let mut passed = self.passed.lock().unwrap();
        self.waits(part, |said| {
            let rest = &said[*passed..];
            let mut lines = rest
                .split_inclusive('\n')
                .filter(|line| line.ends_with('\n'));
            let line = lines.find(|line| line.contains(part))?;
            *passed += line.as_ptr() as usize - rest.as_ptr() as usize + line.len();
            Some(line.trim_end().to_owned())
        })
    }

    fn has_ended(&self) -> bool {
        self.reader.as_ref().is_none_or(JoinHandle::is_finished)
    }

    #[track_caller]
    fn waits<T>(&self, what: &str, mut found: impl FnMut(&str) -> Option<T>) -> T {
        let deadline = Instant::now() + LIMIT;
        loop {
            // Looked at before: the end of a process comes after its last word.
            let ended = self.has_ended();
            let said = self.so_far();
            if let Some(found) = found(&said) {
                return found;
            }
            assert!(
                !ended && Instant::now() < deadline,
                "it never says {what:?}: {said}"
            );
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Everything, once its process has ended.
    fn all(&mut self) -> String {
        if let Some(reader) = self.reader.take() {
            reader.join().unwrap();
        }
        self.so_far()
    }
}

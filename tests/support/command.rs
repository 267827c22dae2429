//! The built command, run as users run it.

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

/// The longest wait for a command. A command that takes longer hangs.
pub const LIMIT: Duration = Duration::from_secs(120);

/// The longest wait for a build.
pub const BUILD_LIMIT: Duration = Duration::from_secs(1_200);

/// The path of the command that Cargo has built for the tests.
pub fn binary() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_temporal-batch"))
}

/// A command without a server.
pub fn offline(args: &[&str]) -> Command {
    of_binary(binary(), args)
}

/// A command that is connected to the server of the tests.
pub fn online(args: &[&str]) -> Command {
    let mut command = offline(args);
    command.env("TEMPORAL_ADDRESS", server_address());
    command
}

/// Another program without a server.
pub fn of_binary(binary: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(binary);
    without_settings(&mut command);
    command
        .env("TEMPORAL_CONFIG_FILE", "/dev/null")
        .stdin(Stdio::null())
        .args(args);
    command
}

/// A line for a shell, which finds the command by its name and is connected to the server of the tests.
pub fn of_shell(line: &str) -> Command {
    of_shell_in(binary().parent().unwrap(), line)
}

/// A line for a shell, which finds the programs in another folder.
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

/// Removes the settings of the user who runs the tests, and the variables that Cargo sets for tests: these would make
/// another Cargo build dependencies again.
pub fn without_settings(command: &mut Command) {
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        // The path of the Temporal CLI is kept.
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

/// The result of a command that has ended.
#[derive(Clone, Debug)]
pub struct Ended {
    /// The exit status. `None` if a signal ended the command.
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

    /// The last line of the output, as JSON.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        let last = self.out.lines().last();
        let last = last.unwrap_or_else(|| panic!("no output: {}", self.err));
        serde_json::from_str(last).unwrap()
    }

    /// Asserts that the command did nothing and said why, with these parts.
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

/// Runs a command to its end in a test with a runtime, whose other tasks continue.
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

/// Starts a command whose standard output is closed from the beginning.
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

/// A process that ends with its test.
pub struct Running {
    child: Child,
    pub out: Stream,
    pub err: Stream,
}

impl Running {
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The standard error of the process so far.
    pub fn said(&self) -> String {
        self.err.so_far()
    }

    /// Waits until the process has written this to standard error.
    #[track_caller]
    pub fn says(&self, part: &str) {
        self.err.says(part);
    }

    /// The standard input of a command that was given a pipe.
    pub fn stdin(&mut self) -> ChildStdin {
        self.child.stdin.take().unwrap()
    }

    pub fn signal(&self, name: &str) {
        let kill = format!("kill -{name} {}", self.pid());
        let killed = Command::new("sh").args(["-c", &kill]).status().unwrap();
        assert!(killed.success());
    }

    /// Kills the process as `kill -9` does.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Returns whether the process has ended. If so, its output is complete.
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
            && [&self.out, &self.err]
                .iter()
                .all(|stream| stream.has_ended())
    }

    /// Waits for the end of the process.
    #[track_caller]
    pub fn ended(self) -> Ended {
        self.ended_within(LIMIT)
    }

    /// Waits for the end of a command with a longer or shorter limit, for example of a build.
    #[track_caller]
    pub fn ended_within(mut self, limit: Duration) -> Ended {
        let deadline = Instant::now() + limit;
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            let said = || self.said();
            assert!(Instant::now() < deadline, "still running: {}", said());
            thread::sleep(Duration::from_millis(10));
        };
        Ended {
            status: status.code(),
            out: self.out.all(),
            err: self.err.all(),
        }
    }

    /// Waits for the end in a test with a runtime, whose other tasks continue.
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

/// The output of a process, while it is written.
pub struct Stream {
    bytes: Arc<Mutex<Vec<u8>>>,
    reader: Option<JoinHandle<()>>,
    /// The bytes before the line that [`line`](Self::line) returned last.
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

    /// Waits until the output contains `part`.
    #[track_caller]
    pub fn says(&self, part: &str) {
        self.waits(part, |said| said.contains(part).then_some(()));
    }

    /// Waits for a line that contains `part`, after the line of the previous call.
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
            // The end is checked first: the last output of a process is written before its end.
            let ended = self.has_ended();
            let said = self.so_far();
            if let Some(found) = found(&said) {
                return found;
            }
            assert!(
                !ended && Instant::now() < deadline,
                "the output never has {what:?}: {said}"
            );
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// The whole output, once the process has ended.
    fn all(&mut self) -> String {
        if let Some(reader) = self.reader.take() {
            reader.join().unwrap();
        }
        self.so_far()
    }
}

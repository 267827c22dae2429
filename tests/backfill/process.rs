//! The stock binary, beside the tests.

use std::{
    io::{BufRead as _, BufReader, Read as _},
    process::{Child, ChildStdout, Command, Stdio},
    sync::{Arc, LazyLock, Mutex},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use temporal_batch::dev_server::{DevServer, DevServerOptions};

/// Longest wait for anything; what takes longer hangs.
pub const LIMIT: Duration = Duration::from_secs(120);

/// One server for all tests that do not need one of their own, which ends with this process.
static SERVER: LazyLock<DevServer> = LazyLock::new(|| {
    // The tests are in a runtime of their own, in which no other can wait.
    let started = thread::spawn(|| {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(DevServerOptions::new().start()).unwrap()
    });
    started.join().unwrap()
});

/// The address of that server.
pub fn server_address() -> String {
    SERVER.address()
}

/// A command that talks to the server of the tests, without the settings of whoever runs them.
pub fn online(args: &[&str]) -> Command {
    let mut command = offline(args);
    command.env("TEMPORAL_ADDRESS", SERVER.address());
    command
}

/// A line as a shell takes it, which finds the program by its name.
pub fn of_shell(line: &str) -> Command {
    let binary = std::path::Path::new(env!("CARGO_BIN_EXE_temporal-batch"));
    let mut path = vec![binary.parent().unwrap().to_owned()];
    let others = std::env::var_os("PATH").unwrap_or_default();
    path.extend(std::env::split_paths(&others));
    let mut command = clean(Command::new("sh"));
    command
        .env("PATH", std::env::join_paths(path).unwrap())
        .env("TEMPORAL_ADDRESS", SERVER.address())
        .args(["-c", line]);
    command
}

/// A command that knows of no server.
pub fn offline(args: &[&str]) -> Command {
    let mut command = clean(Command::new(env!("CARGO_BIN_EXE_temporal-batch")));
    command.args(args);
    command
}

/// Without the settings of the user who runs the tests.
fn clean(mut command: Command) -> Command {
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy().into_owned();
        // Where the Temporal CLI is found stays known.
        let kept = matches!(
            name.as_str(),
            "TEMPORAL_CLI_PATH" | "TEMPORAL_BATCH_CACHE_DIR"
        );
        let others = name.starts_with("TEMPORAL_") || name.starts_with("PG");
        if !kept && (others || name == "RUST_LOG" || name == "DATABASE_URL") {
            command.env_remove(name);
        }
    }
    command
        .env("TEMPORAL_CONFIG_FILE", "/dev/null")
        .stdin(Stdio::null());
    command
}

/// How a command ended.
#[derive(Debug)]
pub struct Ended {
    pub status: Option<i32>,
    pub out: String,
    pub err: String,
}

/// A process that does not outlive its test.
pub struct Running {
    child: Child,
    err: Arc<Mutex<String>>,
    reading: Option<(JoinHandle<()>, ChildStdout)>,
}

pub fn start(mut command: Command) -> Running {
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let err = Arc::new(Mutex::new(String::new()));
    let (said, from) = (Arc::clone(&err), child.stderr.take().unwrap());
    let reader = thread::spawn(move || {
        for line in BufReader::new(from).lines().map_while(Result::ok) {
            let mut said = said.lock().unwrap();
            said.push_str(&line);
            said.push('\n');
        }
    });
    let out = child.stdout.take().unwrap();
    Running {
        child,
        err,
        reading: Some((reader, out)),
    }
}

/// Runs a command to its end.
pub fn run(command: Command) -> Ended {
    start(command).ended()
}

impl Running {
    /// Waits until it has said something.
    pub fn says(&self, part: &str) {
        let deadline = Instant::now() + LIMIT;
        loop {
            let said = self.said().err;
            if said.contains(part) {
                return;
            }
            assert!(Instant::now() < deadline, "it never says {part:?}: {said}");
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Its output so far.
    pub fn said(&self) -> Ended {
        let err = self.err.lock().unwrap().clone();
        Ended {
            status: None,
            out: String::new(),
            err,
        }
    }

    pub fn signal(&self, name: &str) {
        let kill = format!("kill -{name} {}", self.child.id());
        let killed = Command::new("sh").args(["-c", &kill]).status().unwrap();
        assert!(killed.success());
    }

    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub fn ended(mut self) -> Ended {
        let (reader, mut out) = self.reading.take().unwrap();
        let out = thread::spawn(move || {
            let mut text = String::new();
            out.read_to_string(&mut text).unwrap();
            text
        });
        let deadline = Instant::now() + LIMIT;
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            let said = self.err.lock().unwrap().clone();
            assert!(Instant::now() < deadline, "it does not end: {said}");
            thread::sleep(Duration::from_millis(10));
        };
        let out = out.join().unwrap();
        reader.join().unwrap();
        let err = self.err.lock().unwrap().clone();
        Ended {
            status: status.code(),
            out,
            err,
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

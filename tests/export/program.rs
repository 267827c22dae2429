//! The program as its users run it.

use std::{
    io::Read,
    process::{Child, Command, ExitStatus, Stdio},
    sync::LazyLock,
    thread,
    time::{Duration, Instant},
};

use temporal_batch::dev_server::{DevServer, DevServerOptions};

/// Longest wait for anything; what takes longer hangs.
pub const LIMIT: Duration = Duration::from_secs(120);

/// One server for all tests, which ends with this process.
static SERVER: LazyLock<DevServer> = LazyLock::new(|| {
    // A runtime cannot be started in one.
    let start = thread::spawn(|| {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let server = runtime.block_on(DevServerOptions::new().start()).unwrap();
        // What watches it lives in the runtime.
        std::mem::forget(runtime);
        server
    });
    start.join().unwrap()
});

/// What a command said.
#[derive(Debug)]
pub struct Said {
    pub status: ExitStatus,
    pub out: String,
    pub err: String,
}

impl Said {
    #[track_caller]
    pub fn exits_with(self, code: i32) -> Self {
        assert_eq!(self.status.code(), Some(code), "{}\n{}", self.out, self.err);
        self
    }
}

/// A running command, which does not outlive its test.
pub struct Running {
    pub child: Child,
    readers: Option<[thread::JoinHandle<String>; 2]>,
}

/// The program with the database in its environment.
pub fn command(url: &str, args: &[&str]) -> Command {
    with_server(
        Command::new(env!("CARGO_BIN_EXE_temporal-batch")),
        url,
        args,
    )
}

pub fn with_server(mut command: Command, url: &str, args: &[&str]) -> Command {
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        let kept = ["TEMPORAL_CLI_PATH", "TEMPORAL_BATCH_CACHE_DIR"].contains(&&*text);
        if !kept && (text.starts_with("TEMPORAL_") || text == "RUST_LOG") {
            command.env_remove(&name);
        }
    }
    command
        .env("TEMPORAL_CONFIG_FILE", "/dev/null")
        .env("TEMPORAL_ADDRESS", SERVER.address())
        .env("DATABASE_URL", url)
        .args(args);
    command
}

pub fn start(mut command: Command) -> Running {
    let child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = child.unwrap();
    let (mut out, mut err) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
    let readers = [
        thread::spawn(move || read_all(&mut out)),
        thread::spawn(move || read_all(&mut err)),
    ];
    Running {
        child,
        readers: Some(readers),
    }
}

/// Runs a command to its end.
pub fn run(url: &str, args: &[&str]) -> Said {
    start(command(url, args)).ends()
}

fn read_all(from: &mut impl Read) -> String {
    let mut bytes = Vec::new();
    from.read_to_end(&mut bytes).unwrap();
    String::from_utf8_lossy(&bytes).into_owned()
}

impl Running {
    pub fn ends(mut self) -> Said {
        let deadline = Instant::now() + LIMIT;
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(Instant::now() < deadline, "the command does not end");
            thread::sleep(Duration::from_millis(20));
        };
        let [out, err] = self.readers.take().unwrap();
        Said {
            status,
            out: out.join().unwrap(),
            err: err.join().unwrap(),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits until something is so.
#[track_caller]
pub fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + LIMIT;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "{what}: it does not come");
        thread::sleep(Duration::from_millis(20));
    }
}

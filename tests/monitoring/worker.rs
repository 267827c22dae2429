//! The stock binary as a worker, with a dev server and a database for all tests of this process.

use std::{
    io::{BufRead as _, BufReader, Read, Write as _},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::{LazyLock, mpsc},
    thread,
    time::{Duration, Instant},
};

use temporal_batch::dev_server::{DevServer, DevServerOptions};

/// Longest wait for anything; what takes longer hangs.
pub const LIMIT: Duration = Duration::from_secs(60);

static SERVER: LazyLock<DevServer> = LazyLock::new(|| {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(DevServerOptions::new().start()).unwrap()
});

fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_temporal-batch"));
    // The settings of whoever runs the tests are not the worker's. Where the Temporal CLI is found is.
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy().into_owned();
        let kept = matches!(
            name.as_str(),
            "TEMPORAL_CLI_PATH" | "TEMPORAL_BATCH_CACHE_DIR"
        );
        if !kept && (name.starts_with("TEMPORAL_") || name == "RUST_LOG") {
            command.env_remove(name);
        }
    }
    command
        .env("TEMPORAL_CONFIG_FILE", "/dev/null")
        .stdin(Stdio::null())
        .args(args);
    command
}

/// Runs a command of the stock binary to its end; it has to succeed.
pub fn run(args: &[&str]) -> Output {
    let mut command = command(args);
    let output = command
        .env("TEMPORAL_ADDRESS", SERVER.address())
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{args:?}: {told}");
    output
}

/// A new database of products in `folder`.
pub fn products(folder: &Path, rows: u32) -> PathBuf {
    let path = folder.join("products.db");
    let (rows, database) = (rows.to_string(), path.to_str().unwrap());
    let made = command(&["demo", "--json", "--rows", &rows, "--database", database]).output();
    let made = made.unwrap();
    let told = String::from_utf8_lossy(&made.stderr);
    assert!(made.status.success(), "{told}");
    path
}

/// A process that does not outlive its test.
pub struct Process(pub Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A worker of `inflate-prices` on a queue of its own.
pub struct Worker {
    _process: Process,
    lines: mpsc::Receiver<String>,
    /// Where its metrics are.
    pub metrics: String,
}

impl Worker {
    /// Waits until it polls.
    pub fn start(queue: &str, database: &Path, extra: &[&str]) -> Self {
        let mut command = command(&["worker", "--task-queue", queue]);
        let child = command
            .args(["--metrics-address", "127.0.0.1:0"])
            .args(extra)
            .env("TEMPORAL_ADDRESS", SERVER.address())
            .env("PRODUCTS_DB", database)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn();
        let mut child = child.unwrap();
        let lines = lines_of(child.stderr.take().unwrap());
        let mut worker = Self {
            _process: Process(child),
            lines,
            metrics: String::new(),
        };
        let at = worker.line("metrics at http://");
        let address = at.trim_start_matches("metrics at http://");
        worker.metrics = address.trim_end_matches("/metrics").to_owned();
        worker.line("worker polls task queue");
        worker
    }

    /// Waits for a line on standard error that holds `part`.
    pub fn line(&self, part: &str) -> String {
        let mut seen = Vec::new();
        loop {
            match self.lines.recv_timeout(LIMIT) {
                Ok(line) if line.contains(part) => return line,
                Ok(line) => seen.push(line),
                Err(_) => panic!("no line with {part:?} in {seen:#?}"),
            }
        }
    }
}

fn lines_of(from: impl Read + Send + 'static) -> mpsc::Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(from).lines().map_while(Result::ok) {
            let _ = sender.send(line);
        }
    });
    receiver
}

/// Asks until `found` has an answer; what was asked for is named if it never has.
#[track_caller]
pub fn eventually<T>(what: &str, mut found: impl FnMut() -> Result<T, String>) -> T {
    let deadline = Instant::now() + LIMIT;
    loop {
        match found() {
            Ok(answer) => return answer,
            Err(last) => assert!(Instant::now() < deadline, "{what}: {last}"),
        }
        thread::sleep(Duration::from_millis(200));
    }
}

/// Status and body of a request.
pub fn request(
    address: &str,
    method: &str,
    path: &str,
    body: &str,
) -> std::io::Result<(u16, String)> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(LIMIT))?;
    // The old protocol has no chunks to be put together.
    write!(
        stream,
        "{method} {path} HTTP/1.0\r\nHost: {address}\r\nContent-Type: application/x-www-form-urlencoded\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let broken = || std::io::Error::other(format!("no answer of HTTP: {answer:?}"));
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(broken)?;
    let status = head.split(' ').nth(1).and_then(|s| s.parse().ok());
    Ok((status.ok_or_else(broken)?, body.to_owned()))
}

pub fn get(address: &str, path: &str) -> (u16, String) {
    request(address, "GET", path, "").unwrap()
}

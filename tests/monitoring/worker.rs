//! The stock binary as a worker, with a dev server and a database for all tests of this process.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    path::{Path, PathBuf},
};

use crate::support::command::{self, LIMIT, Running, offline, online, start};

/// Runs a command of the stock binary to its end, and asserts that it succeeds.
#[track_caller]
pub fn run(args: &[&str]) {
    command::run(online(args)).exits_with(0);
}

/// Creates a database of products in `folder`.
pub fn products(folder: &Path, rows: u32) -> PathBuf {
    let path = folder.join("products.db");
    let (rows, database) = (rows.to_string(), path.to_str().unwrap());
    let demo = offline(&["demo", "--json", "--rows", &rows, "--database", database]);
    command::run(demo).exits_with(0);
    path
}

/// A worker of `inflate-prices` on its own queue.
pub struct Worker {
    process: Running,
    /// The address of its metrics.
    pub metrics: String,
}

impl Worker {
    /// Starts the worker, and waits until it polls.
    pub fn start(queue: &str, database: &Path, extra: &[&str]) -> Self {
        let metrics = ["--metrics-address", "127.0.0.1:0"];
        let worker = ["worker", "--task-queue", queue];
        let mut command = online(&[&worker[..], &metrics, extra].concat());
        let process = start(command.env("PRODUCTS_DB", database));
        let at = process.err.line("metrics at http://");
        let address = at.trim_start_matches("metrics at http://");
        let metrics = address.trim_end_matches("/metrics").to_owned();
        process.err.line("worker polls task queue");
        Self { process, metrics }
    }

    /// Waits for a line on standard error that contains `part`.
    pub fn line(&self, part: &str) -> String {
        self.process.err.line(part)
    }
}

/// The status and body of a response.
pub fn request(
    address: &str,
    method: &str,
    path: &str,
    body: &str,
) -> std::io::Result<(u16, String)> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(LIMIT))?;
    // HTTP/1.0 has no chunks that would have to be joined.
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

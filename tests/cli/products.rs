//! Workers of the stock binary on a database of products, and looks at their batches.

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::LazyLock,
};

use serde_json::Value;

use crate::support::{
    command::{Ended, Running, binary, of_shell_in, offline, online, run, start},
    wait_for_ok,
};

/// A small database for all workers: raising prices a second time changes nothing.
pub static DATABASE: LazyLock<PathBuf> = LazyLock::new(|| {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cli");
    // Files that an earlier run of the tests left.
    let _ = std::fs::remove_dir_all(&directory);
    std::fs::create_dir_all(&directory).unwrap();
    let path = directory.join("products.db");
    let demo = [
        "demo",
        "--rows",
        "5000",
        "--json",
        "--database",
        text(&path),
    ];
    run(offline(&demo)).exits_with(0);
    path
});

pub fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A worker of the stock binary on its own queue.
pub struct Worker {
    pub process: Running,
}

impl Worker {
    pub fn on(queue: &str, extra: &[&str]) -> Self {
        let mut command = online(&["worker", "--task-queue", queue]);
        Self::run(command.args(extra).env("PRODUCTS_DB", &*DATABASE))
    }

    pub fn run(command: &mut Command) -> Self {
        let process = start(command);
        Self { process }
    }

    pub fn ready(self) -> Self {
        self.process.err.line("worker polls task queue");
        self
    }
}

/// The line that a program has printed between backticks and that begins with these words, as a shell runs it. The
/// shell finds the program by its name.
pub fn printed(binary: &Path, name: &str, said: &Ended, words: &str) -> Command {
    let begins = format!("{name} {words}");
    let line = said.err.split('`').find(|part| part.starts_with(&begins));
    let line = line.unwrap_or_else(|| panic!("{begins}: {}", said.err));
    let programs = Path::new(env!("CARGO_TARGET_TMPDIR")).join("bin");
    std::fs::create_dir_all(&programs).unwrap();
    // Several tests create the same link.
    let _ = std::os::unix::fs::symlink(binary, programs.join(name));
    of_shell_in(&programs, line)
}

/// Runs such a line of the stock binary.
pub fn as_printed(said: &Ended, words: &str) -> Ended {
    run(printed(binary(), "temporal-batch", said, words))
}

pub fn look(id: &str) -> Value {
    run(online(&["status", id, "--json"])).json()
}

/// Reads the status until it is as wanted. Each look is answered by the controller.
#[track_caller]
pub fn look_until(id: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    wait_for_ok("the batch is as it should be", || {
        let look = look(id);
        if wanted(&look) {
            Ok(look)
        } else {
            Err(look.to_string())
        }
    })
}

/// Passes a database file to `work`, and returns it.
pub fn with_sqlite<T>(database: &Path, work: impl AsyncFnOnce(sqlx::SqlitePool) -> T) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.unwrap().block_on(async {
        let options = sqlx::sqlite::SqliteConnectOptions::new().filename(database);
        let pool = sqlx::SqlitePool::connect_with(options).await.unwrap();
        let done = work(pool.clone()).await;
        pool.close().await;
        done
    })
}

//! The command line as its users meet it: the stock binary, its output and its exit status.

use std::{
    io::{BufRead, BufReader, Read, Write},
    path::{Path, PathBuf},
    process::{Child, ChildStderr, ChildStdout, Command, Output, Stdio},
    sync::{LazyLock, mpsc},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;
use temporal_batch::dev_server::{DevServer, DevServerOptions};

/// Longest wait for anything; what takes longer hangs.
const LIMIT: Duration = Duration::from_secs(60);

/// One server for all tests, which ends with this process.
static SERVER: LazyLock<DevServer> = LazyLock::new(|| {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(DevServerOptions::new().start()).unwrap()
});

/// One small database for all workers: raising prices twice changes nothing.
static DATABASE: LazyLock<PathBuf> = LazyLock::new(|| {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cli");
    // What an earlier run of the tests left.
    let _ = std::fs::remove_dir_all(&directory);
    std::fs::create_dir_all(&directory).unwrap();
    let path = directory.join("products.db");
    let made = offline(&[
        "demo",
        "--rows",
        "5000",
        "--json",
        "--database",
        text(&path),
    ]);
    assert_eq!(status(&made), 0, "{}", stderr(&made));
    path
});

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn command(args: &[&str]) -> Command {
    command_of(Path::new(env!("CARGO_BIN_EXE_temporal-batch")), args)
}

/// A binary without the settings of whoever runs the tests.
fn command_of(binary: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(binary);
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy().into_owned();
        // Where the Temporal CLI is found stays known.
        let kept = matches!(
            name.as_str(),
            "TEMPORAL_CLI_PATH" | "TEMPORAL_BATCH_CACHE_DIR"
        );
        let ours = ["RUST_LOG", "PRODUCTS_DB", "USERS_DB", "FIX_EMAILS_LENIENT"];
        if !kept && (name.starts_with("TEMPORAL_") || ours.contains(&name.as_str())) {
            command.env_remove(name);
        }
    }
    command.env("TEMPORAL_CONFIG_FILE", "/dev/null").args(args);
    command
}

/// The line that a program has printed between backticks and that begins with these words, as a shell takes it that finds
/// the program by its name.
fn printed(binary: &Path, name: &str, said: &Output, words: &str) -> Command {
    let begins = format!("{name} {words}");
    let said = stderr(said);
    let line = said.split('`').find(|part| part.starts_with(&begins));
    let line = line.unwrap_or_else(|| panic!("{begins}: {said}"));
    let bin = Path::new(env!("CARGO_TARGET_TMPDIR")).join("bin");
    std::fs::create_dir_all(&bin).unwrap();
    // Several tests make the same one.
    let _ = std::os::unix::fs::symlink(binary, bin.join(name));
    let mut command = command_of(Path::new("sh"), &["-c", line]);
    let path = std::env::var("PATH").unwrap();
    command
        .env("PATH", format!("{}:{path}", bin.display()))
        .env("TEMPORAL_ADDRESS", SERVER.address());
    command
}

/// Runs it.
fn stock_as_printed(said: &Output, words: &str) -> Output {
    let binary = Path::new(env!("CARGO_BIN_EXE_temporal-batch"));
    finish(&mut printed(binary, "temporal-batch", said, words))
}

/// A command that needs no server.
fn offline(args: &[&str]) -> Output {
    finish(command(args).stdin(Stdio::null()))
}

/// A command that talks to the server of the tests.
fn online(args: &[&str]) -> Output {
    finish(command(args).env("TEMPORAL_ADDRESS", SERVER.address()))
}

fn finish(command: &mut Command) -> Output {
    let child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut running = Running {
        child: child.unwrap(),
    };
    let (mut out, mut err) = (
        running.child.stdout.take().unwrap(),
        running.child.stderr.take().unwrap(),
    );
    let err = thread::spawn(move || read_all(&mut err));
    let out = thread::spawn(move || read_all(&mut out));
    let status = running.wait();
    Output {
        status,
        stdout: out.join().unwrap(),
        stderr: err.join().unwrap(),
    }
}

fn read_all(from: &mut impl Read) -> Vec<u8> {
    let mut bytes = Vec::new();
    from.read_to_end(&mut bytes).unwrap();
    bytes
}

/// A process that does not outlive its test.
struct Running {
    child: Child,
}

impl Running {
    fn wait(&mut self) -> std::process::ExitStatus {
        let deadline = Instant::now() + LIMIT;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "the command does not end");
            thread::sleep(Duration::from_millis(10));
        }
    }

    fn interrupt(&self) {
        let kill = format!("kill -INT {}", self.child.id());
        assert!(
            Command::new("sh")
                .args(["-c", &kill])
                .status()
                .unwrap()
                .success()
        );
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The lines of a running process, as they come.
struct Lines(mpsc::Receiver<String>);

impl Lines {
    fn of(from: impl Read + Send + 'static) -> Self {
        let (sender, receiver) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(from).lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        Self(receiver)
    }

    /// Waits for a line that holds `part`.
    fn until(&self, part: &str) -> String {
        let mut seen = Vec::new();
        loop {
            match self.0.recv_timeout(LIMIT) {
                Ok(line) if line.contains(part) => return line,
                Ok(line) => seen.push(line),
                Err(_) => panic!("no line with {part:?} in {seen:#?}"),
            }
        }
    }
}

fn spawn(command: &mut Command) -> (Running, ChildStdout, ChildStderr) {
    let child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = child.unwrap();
    let (out, err) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
    (Running { child }, out, err)
}

/// A worker of the stock binary on a queue of its own.
struct Worker {
    process: Running,
    lines: Lines,
}

impl Worker {
    fn on(queue: &str, extra: &[&str]) -> Self {
        let mut command = command(&["worker", "--task-queue", queue]);
        Self::run(command.args(extra).env("PRODUCTS_DB", &*DATABASE))
    }

    fn run(command: &mut Command) -> Self {
        let (process, _, err) = spawn(command.env("TEMPORAL_ADDRESS", SERVER.address()));
        let lines = Lines::of(err);
        Self { process, lines }
    }

    fn ready(self) -> Self {
        self.lines.until("worker polls task queue");
        self
    }
}

fn status(output: &Output) -> i32 {
    output.status.code().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn json(output: &Output) -> Value {
    let text = stdout(output);
    let last = text
        .lines()
        .last()
        .unwrap_or_else(|| panic!("no output: {}", stderr(output)));
    serde_json::from_str(last).unwrap()
}

fn look(id: &str) -> Value {
    json(&online(&["status", id, "--json"]))
}

/// Looks until the batch is as it should be; each look is an answer of the controller.
fn look_until(id: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    let deadline = Instant::now() + LIMIT;
    loop {
        let look = look(id);
        if wanted(&look) {
            return look;
        }
        assert!(Instant::now() < deadline, "never as it should be: {look}");
    }
}

#[track_caller]
fn refused(output: &Output, code: i32, parts: &[&str]) {
    let message = stderr(output);
    assert_eq!(status(output), code, "{message}");
    assert!(message.starts_with("error: "), "{message}");
    let errors = message.lines().filter(|line| line.starts_with("error: "));
    assert_eq!(errors.count(), 1, "{message}");
    for part in parts {
        assert!(message.contains(part), "{part:?} is missing in: {message}");
    }
    assert_eq!(stdout(output), "");
}

// ---------------------------------------------------------------------------------------- bad usage

#[test]
fn an_unknown_processor_is_refused_with_those_that_are_known() {
    let output = offline(&["start", "nope"]);
    refused(
        &output,
        2,
        &["\"nope\" is not registered", "inflate-prices"],
    );
}

#[test]
fn settings_out_of_range_are_refused_with_what_is_allowed() {
    for (flag, value, allowed) in [
        ("--page-size", "0", "from 1 to 1000000"),
        ("--max-parallelism", "501", "from 0 to 500"),
        ("--stride", "0", "from 1 to 10000"),
        ("--rate", "-1", "more than 0"),
        ("--rate", "0", "more than 0"),
        ("--pages-per-run", "0", "must be from 1"),
        ("--batch-id", "a b", "without white space"),
        ("--deadline", "0s", "must be from 1s"),
        ("--deadline", "soon", "such as 90s"),
        ("--tolerate-items", "few", "a share such as 1.5%"),
        ("--tolerate-items", "-1", "a share such as 1.5%"),
        ("--tolerate-pages", "101%", "from 0 to 100"),
        ("--tolerate-consecutive", "0", "at least 1"),
        ("--on-exceeded", "stop", "--tolerate-items"),
        ("--track-every", "1m", "--track"),
        ("--on-failure", "mail", "registered are: none"),
        ("--track", "mail", "registered are: none"),
        ("--on-completion", "mail", "registered are: none"),
        ("--lock", "a b", "1 to 200 characters"),
        ("--weight", "0", "from 0.001 to 1000"),
    ] {
        let output = offline(&["start", "inflate-prices", flag, value]);
        refused(&output, 2, &[allowed]);
    }
    for flag in ["--attach", "--continue"] {
        let output = offline(&["start", "inflate-prices", flag]);
        refused(&output, 2, &["--batch-id"]);
    }
    let both = ["--batch-id", "any", "--continue", "--rerun"];
    let output = offline(&[&["start", "inflate-prices"], &both[..]].concat());
    refused(&output, 2, &["--continue", "--rerun"]);
    // No server is there: nothing can have been sent.
    for (args, allowed) in [
        (
            &["set", "any", "--max-parallelism", "501"][..],
            "from 0 to 500",
        ),
        (&["set", "any", "--rate", "0"], "more than 0"),
        (&["set", "any", "--rate", "fast"], "or none"),
        (&["set", "any", "--page-rate", "-1"], "more than 0"),
        (&["set", "any", "--page-pause", "2h"], "to 1h"),
        (&["set", "any"], "at least one setting"),
        (&["pause", "any", "--for", "0s"], "from 1s"),
        (&["pause", "any", "--until", "tomorrow"], "Europe/Berlin"),
        (
            &["pause", "any", "--until", "2020-01-01 00:00"],
            "over already",
        ),
    ] {
        refused(&offline(args), 2, &[allowed]);
    }
    for command in ["failures", "redrive"] {
        let time = "2026-01-01T00:00:00Z";
        for (since, until) in [("1h", "2h"), (time, time)] {
            let output = offline(&[command, "any", "--since", since, "--until", until]);
            refused(&output, 2, &["--since has to be before --until"]);
        }
    }
    let both = ["--until", "2030-01-01 00:00", "--for", "1h"];
    let output = offline(&[&["pause", "any"], &both[..]].concat());
    refused(&output, 2, &["--until", "--for"]);
}

#[test]
fn arguments_and_cursors_that_do_not_fit_are_refused() {
    let start = |flag, value| offline(&["start", "inflate-prices", flag, value]);
    refused(
        &start("--args", r#"{"percent":"ten"}"#),
        2,
        &["do not fit", "expected u32"],
    );
    refused(&start("--args", "{percent"), 2, &["not JSON"]);
    refused(
        &start("--args", "@no-such-file"),
        2,
        &["cannot read no-such-file"],
    );
    refused(
        &start("--first-cursor", "\"a\""),
        2,
        &["first cursor", "expected i64"],
    );
}

#[test]
fn a_field_that_is_not_known_is_refused_with_the_one_that_was_meant() {
    let start = |processor, args| offline(&["start", processor, "--args", args]);
    for (processor, args, meant) in [
        ("inflate-prices", r#"{"percnt": 10}"#, "percent"),
        (
            "sql-backfill",
            r#"{"table": "t", "key": ["id"], "set": [{"column": "a", "expression": "1"}], "were": "id < 3"}"#,
            "where",
        ),
        (
            "sql-backfill",
            r#"{"table": "t", "key": ["id"], "set": [{"column": "a", "expresion": "1"}]}"#,
            "expression",
        ),
        (
            "sql-export",
            r#"{"table": "t", "key": ["id"], "to": "x", "filtr": "id < 3"}"#,
            "filter",
        ),
        (
            "sql-export",
            r#"{"table": "t", "key": ["id"], "too": "x"}"#,
            "to",
        ),
        (
            "sql-import",
            r#"{"table": "t", "file": {"csv": {"file": {"path": "x"}}}, "nul": ""}"#,
            "null",
        ),
        (
            "sql-import",
            r#"{"table": "t", "file": {"csv": {"file": {"path": "x"}, "format": {"delimeter": ";"}}}}"#,
            "delimiter",
        ),
        (
            "sql-import",
            r#"{"table": "t", "file": {"csv": {"file": {"path": "x", "spol": "y"}}}}"#,
            "spool",
        ),
    ] {
        let meant = format!("did you mean `{meant}`?");
        refused(&start(processor, args), 2, &["unknown field", &meant]);
    }
}

#[test]
fn what_was_given_neither_steers_the_terminal_nor_fills_it() {
    let long = format!("\u{1b}[2J\u{9b}31m\r{}", "x".repeat(100_000));
    let json = format!(
        r#"{{"{long}": 1}}"#,
        long = long.replace(['\u{1b}', '\r'], "")
    );
    for args in [
        vec!["start", &long],
        vec!["start", "inflate-prices", "--args", &long],
        vec!["start", "inflate-prices", "--args", &json],
        vec!["start", "inflate-prices", "--page-size", &long],
        vec!["start", "inflate-prices", "--batch-id", &long],
        vec!["status", &long],
        vec![&long],
        vec![
            "import",
            &long,
            "--table",
            "t",
            "--database-url",
            "sqlite::memory:",
        ],
        vec!["--config-file", &long, "list"],
    ] {
        let output = offline(&args);
        let text = stderr(&output);
        assert_ne!(status(&output), 0, "{args:.60?}");
        assert!(text.len() < 5_000, "{} bytes for {args:.60?}", text.len());
        let steers = |c: char| c.is_control() && c != '\n';
        assert!(!text.contains(steers), "{text:?}");
    }
}

#[test]
fn files_without_an_end_are_refused() {
    let config = |path| finish(command(&["list"]).env("TEMPORAL_CONFIG_FILE", path));
    refused(&config("/dev/zero"), 2, &["larger than 4 MiB"]);
    refused(
        &offline(&["list", "--config-file", "/dev/zero"]),
        2,
        &["larger than 4 MiB"],
    );
    let args = offline(&["start", "inflate-prices", "--args", "@/dev/zero"]);
    refused(&args, 2, &["larger than 4 MiB"]);
    let statements = offline(&[
        "backfill",
        "--database-url",
        "sqlite::memory:",
        "--table",
        "t",
        "--key",
        "id",
        "--statement-file",
        "/dev/zero",
    ]);
    refused(&statements, 2, &["larger than 4 MiB"]);
    let tls = offline(&["list", "--tls", "--tls-ca-path", "/dev/zero"]);
    refused(&tls, 2, &["/dev/zero"]);
    let mut password = command(&["backfill", "--table", "t", "--set", "a = 1"]);
    password
        .env("DATABASE_URL", "postgres://localhost/t")
        .env("PGPASSFILE", "/dev/zero");
    refused(&finish(&mut password), 2, &["PGPASSFILE"]);
}

#[test]
fn a_statement_of_two_thousand_columns_is_not_repeated_whole() {
    let folder = tempfile::tempdir().unwrap();
    let database = folder.path().join("wide.db");
    std::fs::write(&database, "").unwrap();
    let columns: Vec<_> = (1..2_000).map(|n| format!("c{n} INTEGER")).collect();
    let create = format!(
        "CREATE TABLE t (id INTEGER PRIMARY KEY, {})",
        columns.join(", ")
    );
    with_pool(&database, async |pool| {
        sqlx::query(sqlx::AssertSqlSafe(create))
            .execute(&pool)
            .await
            .unwrap();
    });
    let sets: Vec<_> = (1..2_000).map(|n| format!("c{n} = {n}")).collect();
    let url = format!("sqlite:{}", text(&database));
    let output = offline(&[
        "backfill",
        "--database-url",
        &url,
        "--table",
        "t",
        "--set",
        &sets.join(", "),
    ]);
    let told = stderr(&output);
    assert!(told.len() < 3_000, "{} bytes: {told}", told.len());
}

#[test]
fn a_misspelt_command_or_flag_is_refused() {
    for args in [
        &["frobnicate"][..],
        &["status"],
        &["set", "any"],
        &["worker", "--nope"],
    ] {
        refused(&offline(args), 2, &["--help"]);
    }
}

#[test]
fn values_that_mean_nothing_are_refused_with_what_is_allowed() {
    for (args, parts) in [
        (&["list", "--limit", "0"][..], &["--limit", "1.."][..]),
        (&["list", "--limit", "-1"], &["--limit", "1.."]),
        (&["failures", "b", "--limit", "0"], &["--limit", "1.."]),
        (
            &["list", "--log-level", "lots"],
            &["`lots` is no level", "error, warn, info, debug, trace"],
        ),
        (
            &["list", "--log-level", "warn,lots"],
            &["`lots` is no level"],
        ),
        (&["failures", "b", "--error-type", ""], &["--error-type"]),
    ] {
        refused(&offline(args), 2, parts);
    }
    let mut listed = command(&["list"]);
    let listed = finish(
        listed
            .env("TEMPORAL_ADDRESS", SERVER.address())
            .env("RUST_LOG", "lots"),
    );
    assert_eq!(status(&listed), 0, "{}", stderr(&listed));
    assert!(
        stderr(&listed).contains("`lots` in RUST_LOG is no level"),
        "{}",
        stderr(&listed)
    );
}

#[test]
fn addresses_that_are_none_are_refused() {
    refused(
        &offline(&["list", "--address", "no address"]),
        2,
        &["host:port"],
    );
    let metrics = offline(&["worker", "--metrics-address", "here"]);
    refused(&metrics, 2, &["127.0.0.1:9464"]);
    let elsewhere = offline(&["list", "--dev", "--address", "temporal.invalid:7233"]);
    assert_ne!(status(&elsewhere), 0);
}

#[test]
fn a_command_with_its_own_server_takes_no_address() {
    for args in [
        &["demo", "--address", "x:1"][..],
        &["--address", "x:1", "demo"],
        &["dev-server", "--dev"],
    ] {
        refused(&offline(args), 2, &["leave it out"]);
    }
}

// ------------------------------------------------------------------------------------ what is missing

#[test]
fn an_unreachable_server_is_told_within_ten_seconds() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = listener.local_addr().unwrap().to_string();
    for address in ["127.0.0.1:1", &silent] {
        let since = Instant::now();
        let output = offline(&["start", "inflate-prices", "--address", address]);
        refused(&output, 1, &[address, "dev-server"]);
        assert!(since.elapsed() < Duration::from_secs(10));
    }
}

#[test]
fn a_missing_database_is_told_before_anything_is_started() {
    let mut command = command(&["worker", "--address", "127.0.0.1:1"]);
    let output = finish(command.env("PRODUCTS_DB", "no-such.db"));
    refused(&output, 1, &["no-such.db", "PRODUCTS_DB"]);
    assert!(!Path::new("no-such.db").exists());
}

#[test]
fn ports_in_use_are_named() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (port, address) = (address.port().to_string(), address.to_string());

    refused(
        &offline(&["dev-server", "--port", &port]),
        1,
        &[&port, "already in use"],
    );
    let mut worker = command(&["worker", "--metrics-address", &address]);
    let output = finish(worker.env("PRODUCTS_DB", &*DATABASE));
    refused(&output, 1, &[&address, "in use"]);
    let demo = offline(&["demo", "--metrics-address", &address]);
    refused(&demo, 1, &[&address, "in use"]);
}

#[test]
fn an_unknown_batch_is_told() {
    for args in [
        &["status", "nobody"][..],
        &["watch", "nobody"],
        &["pause", "nobody"],
        &["resume", "nobody"],
        &["set", "nobody", "--max-parallelism", "1"],
        &["cancel", "nobody"],
        &["recover", "nobody"],
        &["failures", "nobody"],
        &["redrive", "nobody"],
    ] {
        refused(&online(args), 1, &["there is no batch \"nobody\""]);
    }
}

// ------------------------------------------------------------------------------------- with a worker

#[test]
fn a_batch_is_started_and_followed_to_its_end() {
    let _worker = Worker::on("follow", &[]).ready();
    let id = ["--task-queue", "follow", "--batch-id", "followed"];
    let start = |extra: &[&str]| {
        online(
            &[
                &["start", "inflate-prices", "--page-size", "500"],
                &id[..],
                extra,
            ]
            .concat(),
        )
    };

    let output = start(&["--args", r#"{"percent":10}"#]);
    assert_eq!(status(&output), 0, "{}", stderr(&output));
    assert!(
        stdout(&output).contains("state        completed"),
        "{}",
        stdout(&output)
    );
    assert!(
        stderr(&output).contains("5,000 of 5,000 items"),
        "{}",
        stderr(&output)
    );

    refused(
        &start(&[]),
        1,
        &["has ended already (completed)", "--rerun"],
    );

    let output = start(&["--rerun", "--json"]);
    assert_eq!(status(&output), 0, "{}", stderr(&output));
    let last = json(&output);
    assert_eq!(last["outcome"], "completed");
    assert_eq!(last["percent"], 100.0);
    assert_eq!(last["progress"]["pages_completed"], 10);

    // Watching what has ended tells how it ended.
    let output = online(&["watch", "followed", "--json"]);
    assert_eq!(status(&output), 0);
    assert_eq!(json(&output), last);
    refused(
        &online(&["cancel", "followed"]),
        1,
        &["not running any more (completed)"],
    );
}

#[test]
fn a_running_batch_can_be_looked_at_and_steered() {
    let _worker = Worker::on("steer", &[]).ready();
    let args = [
        "start",
        "inflate-prices",
        "--task-queue",
        "steer",
        "--batch-id",
        "steered",
        "--page-size",
        "50",
        "--rate",
        "100",
        "--detach",
    ];
    let output = online(&args);
    assert_eq!(status(&output), 0, "{}", stderr(&output));
    assert_eq!(stdout(&output), "steered\n");
    refused(&online(&args), 1, &["running already", "watch steered"]);

    let output = online(&["pause", "steered", "--reason", "lunch"]);
    assert_eq!(status(&output), 0, "{}", stderr(&output));
    assert_eq!(stdout(&output).lines().count(), 1);
    let paused = look_until("steered", |look| look["progress"]["phase"] == "paused");
    assert_eq!(paused["state"], "running");
    assert_eq!(paused["progress"]["pause_reason"], "lunch");
    let table = stdout(&online(&["status", "steered"]));
    assert!(
        table.starts_with("state        paus") && table.contains("paused (lunch)"),
        "{table}"
    );
    for row in [
        "\nparallelism  0 of 10 in flight",
        "\nrate         100 items/s at most",
    ] {
        assert!(table.contains(row), "{row:?} is not in {table}");
    }

    let output = online(&["pause", "steered", "--reason", "lunch", "--wait"]);
    assert_eq!(status(&output), 0, "{}", stderr(&output));
    let told = stdout(&output);
    assert!(told.contains("is paused, after"), "{told}");
    let output = online(&["set", "steered", "--max-parallelism", "3"]);
    assert_eq!(status(&output), 0, "{}", stderr(&output));
    let told = stdout(&output);
    assert!(
        told.contains("max parallelism 3, page size 50, stride 1, rate 100 items/s"),
        "{told}"
    );
    assert_eq!(status(&online(&["resume", "steered"])), 0);
    look_until("steered", |look| look["progress"]["phase"] == "running");
    assert_eq!(look("steered")["progress"]["max_parallelism"], 3);

    let listed = json(&online(&["list", "--json", "--limit", "1000"]));
    let batches = listed["batches"].as_array().unwrap();
    let listed = batches
        .iter()
        .find(|batch| batch["batch_id"] == "steered")
        .unwrap();
    assert_eq!(listed["state"], "running");
    assert_eq!(listed["processor"], "inflate-prices");
    assert!(stdout(&online(&["list"])).starts_with("BATCH"));

    // No terminal here, so both are lines.
    for args in [&["watch", "steered"][..], &["watch", "steered", "--plain"]] {
        let mut watch = command(args);
        let (mut watch, _, err) = spawn(watch.env("TEMPORAL_ADDRESS", SERVER.address()));
        let lines = Lines::of(err);
        let line = lines.until("] ");
        assert!(line.starts_with('[') && !line.contains('\u{1b}'), "{line}");
        watch.interrupt();
        assert_eq!(watch.wait().code(), Some(130));
        lines.until("batch \"steered\" goes on");
    }
    assert_eq!(look("steered")["state"], "running");

    let output = online(&["cancel", "steered", "--reason", "enough", "--wait"]);
    assert_eq!(status(&output), 0, "{}", stderr(&output));
    assert!(stdout(&output).contains("cancelled"), "{}", stdout(&output));
    assert_eq!(status(&online(&["watch", "steered"])), 4);
    refused(
        &online(&["pause", "steered"]),
        1,
        &["not running any more (cancelled)"],
    );
}

/// A recovery begins again where the run of the controller began. What was shown stays shown.
#[test]
fn shown_counts_do_not_go_back_when_a_batch_is_recovered() {
    let _worker = Worker::on("backwards", &[]).ready();
    let output = online(&[
        "start",
        "inflate-prices",
        "--task-queue",
        "backwards",
        "--batch-id",
        "backwards",
        "--page-size",
        "50",
        "--rate",
        "400",
        "--detach",
    ]);
    assert_eq!(status(&output), 0, "{}", stderr(&output));
    let done = |look: &Value| look["progress"]["items"]["processed"].as_u64().unwrap_or(0);
    look_until("backwards", |look| done(look) >= 1_000);
    let mut watch = command(&["watch", "backwards", "--json"]);
    let (mut watch, out, _err) = spawn(watch.env("TEMPORAL_ADDRESS", SERVER.address()));
    let lines = Lines::of(out);
    let mut shown = 0;
    let mut see = |line: &str| {
        let look: Value = serde_json::from_str(line).unwrap();
        let items = done(&look);
        assert!(items >= shown, "{items} after {shown}: {line}");
        let percent = look["percent"].as_f64().unwrap();
        assert_eq!(percent >= 100.0, look["state"] == "completed", "{line}");
        shown = items;
        look["state"] == "completed"
    };
    see(&lines.until("\"schema\""));
    let before = done(&look("backwards"));
    let output = online(&["recover", "backwards", "--force"]);
    assert_eq!(status(&output), 0, "{}", stderr(&output));
    // The batch itself is further back.
    look_until("backwards", |look| done(look) < before);
    while !see(&lines.until("\"schema\"")) {}
    assert_eq!(watch.wait().code(), Some(0));
}

/// A command on a terminal of its own, made by script(1) of util-linux, which every Linux has.
#[cfg(target_os = "linux")]
fn on_a_terminal(args: &[&str]) -> Command {
    let binary = env!("CARGO_BIN_EXE_temporal-batch");
    let line = format!("stty rows 30 cols 100; exec '{binary}' {}", args.join(" "));
    let mut command = command_of(Path::new("script"), &["-qec", &line, "/dev/null"]);
    command
        .env("TERM", "xterm")
        .env("TEMPORAL_ADDRESS", SERVER.address())
        .stdin(Stdio::piped());
    command
}

#[cfg(target_os = "linux")]
#[test]
fn on_a_terminal_watch_is_a_screen_whose_keys_steer_and_that_leaves_no_trace() {
    const ENTER: &str = "\u{1b}[?1049h";
    const LEAVE: &str = "\u{1b}[?1049l";
    let mut watch = on_a_terminal(&["watch", "on-screen"]);
    let _worker = Worker::on("screen", &[]).ready();
    let started = online(&[
        "start",
        "inflate-prices",
        "--task-queue",
        "screen",
        "--batch-id",
        "on-screen",
        "--page-size",
        "50",
        "--rate",
        "100",
        "--max-parallelism",
        "2",
        "--detach",
    ]);
    assert_eq!(status(&started), 0, "{}", stderr(&started));

    let (mut watch, mut out, _err) = spawn(&mut watch);
    let mut keys = watch.child.stdin.take().unwrap();
    let (sender, drawn) = mpsc::channel();
    let read = thread::spawn(move || {
        let mut all = Vec::new();
        let mut chunk = [0; 4_096];
        while let Ok(n @ 1..) = out.read(&mut chunk) {
            all.extend_from_slice(&chunk[..n]);
            // The first look is on the screen, so keys have something to change.
            if String::from_utf8_lossy(&all).contains("items/s, last") {
                let _ = sender.send(());
            }
        }
        String::from_utf8_lossy(&all).into_owned()
    });
    drawn.recv_timeout(LIMIT).expect("the screen is drawn");
    keys.write_all(b"+").unwrap();
    look_until("on-screen", |look| look["progress"]["max_parallelism"] == 3);
    keys.write_all(b"p").unwrap();
    let paused = look_until("on-screen", |look| look["progress"]["phase"] == "paused");
    assert_eq!(paused["progress"]["pause_reason"], "from watch");
    keys.write_all(b"q").unwrap();
    assert_eq!(watch.wait().code(), Some(130));

    let all = read.join().unwrap();
    let (_, screen) = all.split_once(ENTER).expect("a screen is entered");
    let (screen, after) = screen.split_once(LEAVE).expect("and left");
    assert!(!screen.contains("goes on:"), "{screen}");
    assert!(after.contains("batch \"on-screen\" goes on"), "{after}");
    assert_eq!(status(&online(&["cancel", "on-screen", "--wait"])), 0);
}

#[test]
fn a_batch_stopped_at_its_deadline_goes_on_where_it_stood() {
    let _worker = Worker::on("deadline", &[]).ready();
    let start = |extra: &[&str]| {
        let args = ["start", "inflate-prices", "--task-queue", "deadline"];
        let id = ["--batch-id", "late", "--page-size", "50", "--json"];
        online(&[&args[..], &id, extra].concat())
    };
    let stopped = start(&["--rate", "100", "--deadline", "1s"]);
    assert_eq!(status(&stopped), 4, "{}", stderr(&stopped));
    let stopped = json(&stopped);
    assert_eq!(stopped["outcome"], "stopped");
    assert!(stopped["progress"]["deadline"].is_u64(), "{stopped}");

    refused(
        &start(&[]),
        1,
        &["has ended already (failed)", "--continue"],
    );
    let other = ["--continue", "--args", r#"{"percent":7}"#];
    refused(&start(&other), 1, &["its arguments were different"]);

    let done = start(&["--continue", "--attach"]);
    assert_eq!(status(&done), 0, "{}", stderr(&done));
    let done = json(&done);
    assert_eq!(
        done["progress"]["batch_run"],
        stopped["progress"]["batch_run"]
    );
    assert_eq!(done["progress"]["pages_completed"], 100);
    assert_eq!(done["progress"]["deadline"], Value::Null);
    refused(&start(&["--continue"]), 1, &["it is completed"]);

    let audit = json(&online(&["status", "late", "--audit", "--json"]));
    assert_eq!(audit["schema"], 1);
    assert_eq!(audit["audit_older"], 0);
    let actions = audit["audit"].as_array().unwrap().iter();
    let actions: Vec<_> = actions.map(|entry| &entry["action"]).collect();
    assert_eq!(actions, ["start", "stop", "continue"]);
    let table = stdout(&online(&["status", "late", "--audit"]));
    assert!(table.starts_with("AT "), "{table}");
    assert_eq!(table.lines().count(), 4, "{table}");
    assert!(table.contains("the batch itself"), "{table}");
}

#[test]
fn a_second_start_attaches_to_the_batch_that_runs() {
    let _worker = Worker::on("attach", &[]).ready();
    let start = |extra: &[&str]| {
        let args = ["start", "inflate-prices", "--task-queue", "attach"];
        let id = ["--batch-id", "shared", "--max-parallelism", "0", "--json"];
        online(&[&args[..], &id, extra].concat())
    };
    let first = start(&["--detach", "--attach"]);
    assert_eq!(status(&first), 0, "{}", stderr(&first));
    refused(&start(&["--detach"]), 1, &["running already", "--attach"]);
    let second = start(&["--detach", "--attach", "--rate", "7"]);
    assert_eq!(status(&second), 0, "{}", stderr(&second));
    let left = "without --rate 7; `temporal-batch set shared --rate 7` applies that";
    assert!(stderr(&second).contains(left), "{}", stderr(&second));
    assert!(!stderr(&first).contains("warning: "), "{}", stderr(&first));
    let run = |output: &Output| json(output)["progress"]["batch_run"].clone();
    assert_eq!(run(&first), run(&second));
    let other = ["--attach", "--args", r#"{"percent":7}"#];
    refused(&start(&other), 1, &["its arguments are different"]);
    let running = start(&["--detach"]);

    for args in [
        &["recover", "shared", "--reason", "to try it"][..],
        &["resume", "shared", "--reason", "go"],
        &[
            "set",
            "shared",
            "--max-parallelism",
            "2",
            "--reason",
            "night",
        ],
    ] {
        let steered = online(args);
        assert_eq!(status(&steered), 0, "{}", stderr(&steered));
    }
    let printed = stock_as_printed(&running, "watch");
    assert_eq!(status(&printed), 0, "{}", stderr(&printed));
    let over = start(&["--detach"]);
    let printed = stock_as_printed(&over, "status");
    assert_eq!(status(&printed), 0, "{}", stderr(&printed));
    assert!(
        stdout(&printed).contains("completed"),
        "{}",
        stdout(&printed)
    );
    let watched = online(&["watch", "shared", "--json"]);
    assert_eq!(status(&watched), 0, "{}", stderr(&watched));
    assert_eq!(run(&first), run(&watched));
    let audit = json(&online(&["status", "shared", "--audit", "--json"]));
    for (entry, action, why) in [
        (0, "start", None),
        (1, "recover", Some("to try it")),
        (2, "resume", Some("go")),
        (3, "set max_parallelism to 2", Some("night")),
    ] {
        assert_eq!(audit["audit"][entry]["action"], action, "{audit}");
        assert_eq!(audit["audit"][entry]["why"].as_str(), why, "{audit}");
    }
}

/// What a newer version has written cannot be replayed by this one.
#[test]
fn a_batch_that_no_worker_can_go_on_with_is_told_with_what_helps() {
    use temporal_batch::{BatchClient, ConnectOptions};
    use temporalio_client::{UntypedWorkflow, WorkflowStartOptions};
    use temporalio_common::data_converters::{PayloadConverter, RawValue};
    let _worker = Worker::on("newer", &[]).ready();
    let start = async {
        let options = ConnectOptions::new()
            .address(SERVER.address())
            .disable_env(true)
            .disable_config_file(true);
        let client = BatchClient::connect(&options).await.unwrap();
        let input = serde_json::json!({
            "version": 99,
            "batch_run": "by-hand",
            "spec": {
                "batch_id": "newer", "processor": "inflate-prices", "args": null,
                "page_size": 5, "max_parallelism": 0, "stride": 1,
            },
        });
        let input = RawValue::from_value(&input, &PayloadConverter::default());
        let controller = UntypedWorkflow::new("temporal-batch.controller");
        let options = WorkflowStartOptions::new("newer", "newer").build();
        let started = client.temporal().start_workflow(controller, input, options);
        started.await.unwrap();
    };
    // First: the server of the tests sets itself up with a runtime of its own.
    LazyLock::force(&SERVER);
    tokio::runtime::Runtime::new().unwrap().block_on(start);
    let deadline = Instant::now() + LIMIT;
    let told = loop {
        let output = online(&["status", "newer"]);
        assert_eq!(status(&output), 0, "{}", stderr(&output));
        assert!(stdout(&output).contains("running"), "{}", stdout(&output));
        let told = stderr(&output);
        if told.contains("has failed") {
            break told;
        }
        assert!(Instant::now() < deadline, "never told: {told}");
    };
    assert!(told.contains("deploy code"), "{told}");
    assert!(told.contains("`recover`"), "{told}");
    refused(
        &online(&["pause", "newer"]),
        1,
        &["has failed", "`recover`"],
    );
    assert_eq!(status(&online(&["recover", "newer"])), 0);
}

/// A processor whose pages fail, and who is told.
mod hooked {
    use std::sync::{Arc, Mutex};

    use async_trait::async_trait;
    use temporal_batch::{
        BatchReport, CompletionHook, FailureHandler, FailureNotice, HookResult, Page, PageContext,
        PageError, PageProcessor, PageReport, Progress, Tracker,
    };

    pub struct Poison;

    #[async_trait]
    impl PageProcessor for Poison {
        const NAME: &'static str = "poison";
        type Args = ();
        type Cursor = u64;
        type Item = u64;

        async fn fetch(&self, ctx: &PageContext<Self>) -> Result<Page<u64, u64>, PageError> {
            let start = ctx.range().start().copied().unwrap_or(0);
            let items: Vec<_> = (start + 1..=100).take(10).collect();
            Page::keyset(items, |item| *item)
        }

        async fn process(
            &self,
            _: &PageContext<Self>,
            _: Vec<u64>,
        ) -> Result<PageReport, PageError> {
            Err(PageError::non_retryable("Poison", "it is poisoned"))
        }
    }

    /// Who was told what.
    #[derive(Clone, Default)]
    pub struct Told(Arc<Mutex<Vec<String>>>);

    impl Told {
        fn note(&self, what: impl Into<String>) -> HookResult {
            self.0.lock().unwrap().push(what.into());
            Ok(())
        }

        pub fn has(&self, what: &str) -> bool {
            self.0.lock().unwrap().iter().any(|told| told == what)
        }
    }

    #[async_trait]
    impl FailureHandler for Told {
        const NAME: &'static str = "told";

        async fn on_failure(&self, _: &FailureNotice) -> HookResult {
            self.note("failure")
        }
    }

    #[async_trait]
    impl Tracker for Told {
        const NAME: &'static str = "told";

        async fn track(&self, _: &Progress) -> HookResult {
            self.note("progress")
        }
    }

    #[async_trait]
    impl CompletionHook for Told {
        const NAME: &'static str = "told";

        async fn completed(&self, _: &BatchReport) -> HookResult {
            self.note("completed")
        }

        async fn failed(&self, report: &BatchReport) -> HookResult {
            self.note(report.outcome.to_string())
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_has_its_own_hooks_and_stops_at_what_is_not_tolerated() {
    use hooked::{Poison, Told};
    use temporal_batch::cli::App;
    let address = tokio::task::spawn_blocking(|| SERVER.address())
        .await
        .unwrap();
    let told = Told::default();
    let run = |args: &[&str]| {
        let app = App::new("hooked")
            .processor(|| async { Ok::<_, std::convert::Infallible>(Poison) })
            .failure_handler(told.clone())
            .tracker(told.clone())
            .completion_hook(told.clone());
        let connection = ["--address", &address, "--config-file", "/dev/null"];
        let queue = ["--task-queue", "hooked"];
        let args = [&["hooked"], args, &queue, &connection].concat();
        let args: Vec<_> = args.into_iter().map(str::to_owned).collect();
        async move { format!("{:?}", app.run_from(args).await) }
    };
    let code = |code: u8| format!("{:?}", std::process::ExitCode::from(code));
    let unknown = run(&["start", "poison", "--on-failure", "nobody"]);
    assert_eq!(unknown.await, code(2));

    let limits = [
        "--page-size",
        "10",
        "--tolerate-pages",
        "2",
        "--on-exceeded",
        "stop",
    ];
    let hooks = [
        "--on-failure",
        "told",
        "--track",
        "told",
        "--on-completion",
        "told",
    ];
    let ended = run(&[&["start", "poison"], &limits[..], &hooks].concat());
    let ended = tokio::select! {
        ended = ended => ended,
        worker = run(&["worker"]) => panic!("the worker ended: {worker}"),
        () = tokio::time::sleep(LIMIT) => panic!("it does not end"),
    };
    assert_eq!(ended, code(4));
    for what in ["failure", "progress", "stopped"] {
        assert!(told.has(what), "{what}");
    }
}

/// A processor over the numbers to 100 whose check finds what it is told to.
mod checking {
    use std::sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    };

    use async_trait::async_trait;
    use temporal_batch::{
        Check, CheckContext, FailedRange, Page, PageContext, PageError, PageProcessor, PageReport,
    };

    #[derive(Clone, Default)]
    pub struct Careful {
        pub wrong: Arc<AtomicBool>,
    }

    #[async_trait]
    impl PageProcessor for Careful {
        const NAME: &'static str = "careful";
        type Args = ();
        type Cursor = u64;
        type Item = u64;

        async fn fetch(&self, ctx: &PageContext<Self>) -> Result<Page<u64, u64>, PageError> {
            let start = ctx.range().start().copied().unwrap_or(0);
            let items: Vec<_> = (start + 1..=100).take(ctx.page_size()).collect();
            Page::keyset(items, |item| *item)
        }

        async fn process(
            &self,
            _: &PageContext<Self>,
            _: Vec<u64>,
        ) -> Result<PageReport, PageError> {
            Ok(PageReport::all_processed())
        }

        async fn check(&self, ctx: &CheckContext<Self>) -> Result<Option<Check>, PageError> {
            let to = ctx.covered_to().copied().unwrap_or(100);
            let mut check = Check::default();
            match self.wrong.load(Ordering::SeqCst) {
                false => check.passes(to),
                true => check.fails(FailedRange {
                    start: None,
                    end: None,
                    items: 3,
                    message: "three are wrong".to_owned(),
                }),
            }
            Ok(Some(check))
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_is_approved_stage_by_stage_and_verified_afterwards() {
    use std::sync::atomic::Ordering;
    use temporal_batch::cli::App;
    let address = tokio::task::spawn_blocking(|| SERVER.address())
        .await
        .unwrap();
    let careful = checking::Careful::default();
    let run = |args: &[&str]| {
        let processor = careful.clone();
        let app = App::new("careful").processor(move || {
            let processor = processor.clone();
            async move { Ok::<_, std::convert::Infallible>(processor) }
        });
        let connection = ["--address", &address, "--config-file", "/dev/null"];
        let args = [&["careful"], args, &connection].concat();
        let args: Vec<_> = args.into_iter().map(str::to_owned).collect();
        // Too many of them for the stack of a test.
        Box::pin(async move { format!("{:?}", app.run_from(args).await) })
    };
    let code = |code: u8| format!("{:?}", std::process::ExitCode::from(code));
    let queue = ["--task-queue", "careful"];
    let id = "careful-1";
    let steps = async {
        let start = [
            "start",
            "careful",
            "--batch-id",
            id,
            "--stages",
            "7rows,20",
            "--approve",
        ];
        let detached = run(&[&start[..], &queue, &["--detach"]].concat()).await;
        assert_eq!(detached, code(0));
        for stage in [1, 2] {
            let waits = move || {
                look_until(id, |look| {
                    let at = &look["progress"]["stage"];
                    at["number"] == stage && at["state"] == "waiting_for_approval"
                })
            };
            let look = tokio::task::spawn_blocking(waits).await.unwrap();
            let mark = [7, 20][stage - 1];
            assert_eq!(look["progress"]["items"]["processed"], mark);
            assert_eq!(look["progress"]["check"]["found"]["items"], mark);
            // It holds so far, but it is not complete.
            assert_eq!(run(&["verify", id]).await, code(0));
            assert_eq!(run(&["ensure-complete", id]).await, code(1));
            assert_eq!(
                run(&["approve", id, "--reason", "looked at it"]).await,
                code(0)
            );
        }
        let ensured = run(&["ensure-complete", id, "--wait", "--timeout", "30s"]).await;
        assert_eq!(ensured, code(0));
        assert_eq!(run(&["approve", id]).await, code(1), "it has ended");
        careful.wrong.store(true, Ordering::SeqCst);
        assert_eq!(run(&["verify", id, "--json"]).await, code(3));
        assert_eq!(
            run(&["ensure-complete", id]).await,
            code(0),
            "it held at its end"
        );
        assert_eq!(run(&["ensure-complete", id, "--check-now"]).await, code(3));
        let wrong = ["start", "careful", "--batch-id", "careful-2", "--check"];
        assert_eq!(run(&[&wrong[..], &queue].concat()).await, code(3));
        assert_eq!(run(&["ensure-complete", "careful-2"]).await, code(3));
        assert_eq!(run(&["ensure-complete", "careful-none"]).await, code(1));
    };
    tokio::select! {
        () = steps => {}
        worker = run(&["worker", "--task-queue", "careful"]) => panic!("the worker ended: {worker}"),
        () = tokio::time::sleep(LIMIT) => panic!("it does not end"),
    }
}

#[test]
fn status_json_has_the_documented_fields() {
    let _worker = Worker::on("fields", &[]).ready();
    let id = ["--task-queue", "fields", "--batch-id", "fields"];
    let output = online(&[&["start", "inflate-prices"], &id[..]].concat());
    assert_eq!(status(&output), 0, "{}", stderr(&output));
    let look = look("fields");
    assert_eq!(look["schema"], 1);

    let documented = include_str!("../docs/cli.md");
    let documented = documented.split("## JSON").nth(1).unwrap();
    for object in [&look, &look["progress"]] {
        for field in object.as_object().unwrap().keys() {
            assert!(
                documented.contains(&format!("`{field}`")),
                "{field} is not documented"
            );
        }
    }
}

#[test]
fn a_listing_tells_the_start_of_a_batch_that_was_handed_over_and_how_it_ended() {
    let _worker = Worker::on("listed", &[]).ready();
    let batch = ["--task-queue", "listed", "--batch-id", "listed"];
    let how = ["--page-size", "100", "--pages-per-run", "10"];
    let output = online(&[&["start", "inflate-prices"], &batch[..], &how].concat());
    assert_eq!(status(&output), 0, "{}", stderr(&output));
    let progress = look("listed")["progress"].clone();
    assert!(progress["runs"].as_u64().unwrap() > 1, "{progress}");
    let deadline = Instant::now() + LIMIT;
    // An end is listed a moment later.
    let listed = loop {
        let all = json(&online(&["list", "--json", "--limit", "1000"]));
        let batches = all["batches"].as_array().unwrap();
        let mut listed = batches.iter().filter(|batch| batch["batch_id"] == "listed");
        let listed = listed.next().cloned().unwrap_or_default();
        if listed["state"] == "completed" {
            break listed;
        }
        assert!(Instant::now() < deadline, "it does not end: {listed}");
    };
    assert_eq!(listed["started_at"], progress["started_at"]);
    assert_eq!(listed["outcome"], "completed");
}

#[test]
fn without_a_worker_the_state_is_still_known() {
    const WORKER: &str = "next: `temporal-batch worker --task-queue unpolled`";
    let args = [
        "--task-queue",
        "unpolled",
        "--batch-id",
        "alone",
        "--detach",
    ];
    let output = online(&[&["start", "inflate-prices"], &args[..]].concat());
    assert_eq!(status(&output), 0);
    let told = stderr(&output);
    assert!(
        told.contains("no worker answers on task queue \"unpolled\""),
        "{told}"
    );

    let output = online(&["status", "alone", "--json"]);
    assert_eq!(status(&output), 0);
    assert!(stderr(&output).contains("no worker answered"));
    let look = json(&output);
    assert_eq!(look["state"], "running");
    assert_eq!(look["progress"], Value::Null);

    for args in [
        &["pause", "alone", "--for", "1h"][..],
        &["set", "alone", "--max-parallelism", "3"],
        &["resume", "alone"],
    ] {
        let output = online(args);
        assert_eq!(status(&output), 0, "{}", stderr(&output));
        assert_eq!(
            stdout(&output),
            "batch \"alone\": no worker is polling task queue \"unpolled\": the request is kept and \
             takes effect when one is back\n"
        );
        assert!(stderr(&output).contains(WORKER), "{}", stderr(&output));
    }

    let output = online(&["cancel", "alone"]);
    assert_eq!(status(&output), 0);
    let kept =
        "batch \"alone\": the cancellation is kept, and waits for a worker that ends the batch\n";
    assert_eq!(stdout(&output), kept);
    assert!(stderr(&output).contains(WORKER), "{}", stderr(&output));
    let output = online(&["status", "alone"]);
    let told = stdout(&output);
    for part in [
        "\ncancelled    requested at ",
        "\nnext         `temporal-batch worker ",
    ] {
        assert!(told.contains(part), "{part}: {told}");
    }
}

fn scrape(address: &str) -> String {
    let mut stream = std::net::TcpStream::connect(address).unwrap();
    write!(stream, "GET /metrics HTTP/1.0\r\nHost: {address}\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (_, body) = answer.split_once("\r\n\r\n").unwrap();
    body.to_owned()
}

/// Prometheus' own opinion, where its tool is installed.
#[expect(
    clippy::explicit_write,
    reason = "the harness would keep what a macro prints to itself"
)]
fn promtool_accepts(metrics: &str) {
    let promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let Ok(mut promtool) = promtool else {
        let skipped = "SKIPPED: promtool is not installed (Debian package `prometheus`)";
        writeln!(std::io::stderr(), "{skipped}").unwrap();
        return;
    };
    promtool
        .stdin
        .take()
        .unwrap()
        .write_all(metrics.as_bytes())
        .unwrap();
    let output = promtool.wait_with_output().unwrap();
    assert!(
        output.status.success(),
        "{}{}",
        stdout(&output),
        stderr(&output)
    );
}

#[test]
fn a_worker_serves_metrics_and_drains_when_it_is_told_to_stop() {
    let mut worker = Worker::on("drain", &["--metrics-address", "127.0.0.1:0"]);
    let line = worker.lines.until("metrics at http://127.0.0.1:");
    assert!(line.ends_with("/metrics"), "{line}");
    let polls = "worker polls task queue \"drain\" for: inflate-prices";
    worker.lines.until(polls);

    let args = [
        "start",
        "inflate-prices",
        "--task-queue",
        "drain",
        "--page-size",
        "500",
    ];
    assert_eq!(status(&online(&args)), 0);
    let address = line
        .trim_start_matches("metrics at http://")
        .trim_end_matches("/metrics");
    let metrics = scrape(address);
    for sample in [
        "temporal_batch_pages_total{outcome=\"completed\",processor=\"inflate-prices\"} 10",
        "temporal_batch_pages_in_flight{processor=\"inflate-prices\"} 0",
        "temporal_batch_page_duration_seconds_count{processor=\"inflate-prices\"} 10",
        // The SDK's own stand beside them.
        "temporal_workflow_completed_total",
    ] {
        assert!(metrics.contains(sample), "{sample} is not in\n{metrics}");
    }
    promtool_accepts(&metrics);

    worker.process.interrupt();
    worker.lines.until("draining");
    assert_eq!(worker.process.wait().code(), Some(0));
}

// -------------------------------------------------------------------------------------------- failures

/// The sample `fix_emails`. Cargo builds the stock binary for the tests, but no example.
static FIX_EMAILS: LazyLock<PathBuf> = LazyLock::new(|| {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let build = [
        "build",
        "--example",
        "fix_emails",
        "--message-format=json",
        "--target-dir",
    ];
    let mut cargo = Command::new(cargo);
    // What cargo tells its tests would make it build dependencies anew.
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        let told = ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_EXE_"];
        if told.iter().any(|prefix| text.starts_with(prefix)) {
            cargo.env_remove(name);
        }
    }
    let built = cargo
        .args(build)
        .arg(target)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(built.status.success(), "{}", stderr(&built));
    let messages = stdout(&built);
    let messages = messages
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap());
    let mut executable =
        messages.filter_map(|message| message["executable"].as_str().map(PathBuf::from));
    executable.next_back().unwrap()
});

/// Users of 2,000, whose address only the lenient code understands.
const SPELLED_OUT: usize = 8;

/// A table of users of its own, and the sample that works on it.
struct Emails {
    folder: tempfile::TempDir,
    queue: &'static str,
}

impl Emails {
    fn on(queue: &'static str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self { folder, queue }
    }

    fn database(&self) -> PathBuf {
        self.folder.path().join("users.db")
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = command_of(&FIX_EMAILS, args);
        command
            .env("USERS_DB", self.database())
            .env("TEMPORAL_ADDRESS", SERVER.address());
        command
    }

    fn run(&self, args: &[&str]) -> Output {
        finish(&mut self.command(args))
    }

    fn as_printed(&self, said: &Output, words: &str) -> Output {
        let mut command = printed(&FIX_EMAILS, "fix-emails", said, words);
        finish(command.env("USERS_DB", self.database()))
    }

    fn worker(&self, lenient: bool) -> Worker {
        let mut command = self.command(&["worker", "--task-queue", self.queue]);
        if lenient {
            command.env("FIX_EMAILS_LENIENT", "1");
        }
        Worker::run(&mut command).ready()
    }

    fn start(&self, id: &str, extra: &[&str]) -> Output {
        let start = ["start", "fix-emails", "--batch-id", id, "--task-queue"];
        self.run(&[&start[..], &[self.queue, "--page-size", "100"], extra].concat())
    }

    fn failures(&self, id: &str, extra: &[&str]) -> Value {
        let output = self.run(&[&["failures", id, "--json"], extra].concat());
        assert_eq!(status(&output), 0, "{}", stderr(&output));
        json(&output)
    }

    fn letters(&self, id: &str, extra: &[&str]) -> Vec<Value> {
        let failures = self.failures(id, extra);
        failures["dead_letters"].as_array().unwrap().clone()
    }

    fn sql<T>(&self, statement: &'static str) -> Option<T>
    where
        T: Send + Unpin + sqlx::Type<sqlx::Sqlite> + for<'r> sqlx::Decode<'r, sqlx::Sqlite>,
        (T,): for<'r> sqlx::FromRow<'r, sqlx::sqlite::SqliteRow>,
    {
        with_pool(&self.database(), async |pool| {
            let query = sqlx::query_scalar(statement);
            query.fetch_optional(&pool).await.unwrap()
        })
    }

    /// Every address is right, and was written once.
    fn assert_fixed(&self) {
        let right = self.sql::<i64>(
            "SELECT count(*) FROM users WHERE fixes = 1 AND email = 'user' || id || '@example.org'",
        );
        assert_eq!(right, Some(2_000));
    }
}

fn with_pool<T>(database: &Path, work: impl AsyncFnOnce(sqlx::SqlitePool) -> T) -> T {
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

#[test]
fn dead_letters_are_listed_and_redriven_until_none_is_left() {
    let emails = Emails::on("letters");
    let strict = emails.worker(false);
    let output = emails.start("letters", &[]);
    assert_eq!(status(&output), 3, "{}", stderr(&output));
    let hint = "`fix-emails failures letters` lists what failed";
    assert!(stderr(&output).contains(hint), "{}", stderr(&output));

    let failures = emails.failures("letters", &[]);
    assert_eq!(failures["processor"], "fix-emails");
    assert_eq!(failures["more"], false);
    for empty in ["failing", "failed_pages", "failed_items"] {
        assert_eq!(failures[empty], Value::Array(Vec::new()), "{empty}");
    }
    let letters = failures["dead_letters"].as_array().unwrap();
    let keys: Vec<_> = letters.iter().map(|l| l["key"].as_str().unwrap()).collect();
    let spelled_out = ["250", "500", "750", "1000", "1250", "1500", "1750", "2000"];
    assert_eq!(keys, spelled_out);
    let errors = failures["errors"].as_array().unwrap();
    assert_eq!(errors.len(), 1);
    assert_eq!(errors[0]["error_type"], "NotAnAddress");
    assert_eq!(errors[0]["count"], SPELLED_OUT);
    for letter in letters {
        assert_eq!(letter["error_type"], "NotAnAddress");
        let record = format!("user{} at example dot org", letter["key"].as_str().unwrap());
        assert_eq!(letter["record"], record);
    }
    let documented = include_str!("../docs/cli.md");
    let documented = documented.split("## failures").nth(1).unwrap();
    let documented = documented.split("\n## ").next().unwrap();
    for object in [&failures, &letters[0], &errors[0]] {
        for field in object.as_object().unwrap().keys() {
            assert!(
                documented.contains(&format!("`{field}`")),
                "{field} is not documented"
            );
        }
    }
    let output = emails.run(&["failures", "letters"]);
    let text = stdout(&output);
    assert!(
        text.starts_with("dead letters: 8\n  8 NotAnAddress, the first: "),
        "{text}"
    );
    let record = "      record: user250 at example dot org";
    assert!(text.lines().any(|line| line == record), "{text}");
    let redrives = "`fix-emails redrive letters` tries the dead letters again";
    assert!(stderr(&output).contains(redrives), "{}", stderr(&output));

    for (filter, n) in [
        (["--error-type", "NotAnAddress"], SPELLED_OUT),
        (["--error-type", "Other"], 0),
        (["--since", "1h"], SPELLED_OUT),
        (["--until", "1h"], 0),
        (["--page", " 249 "], 1),
        (["--limit", "3"], 3),
    ] {
        assert_eq!(emails.letters("letters", &filter).len(), n, "{filter:?}");
    }
    assert_eq!(emails.failures("letters", &["--limit", "3"])["more"], true);
    let bad_cursor = emails.run(&["failures", "letters", "--page", "\"a\""]);
    refused(&bad_cursor, 2, &["does not fit", "expected i64"]);

    for (said, words) in [
        (&emails.run(&["status", "letters"]), "failures"),
        (&output, "redrive"),
    ] {
        let printed = emails.as_printed(said, words);
        let expected = if words == "redrive" { 3 } else { 0 };
        assert_eq!(status(&printed), expected, "{}", stderr(&printed));
        assert!(
            !stderr(&printed).contains("error: "),
            "{}",
            stderr(&printed)
        );
    }
    let output = emails.run(&["redrive", "letters", "--error-type", "Other"]);
    assert_eq!(status(&output), 0, "{}", stderr(&output));
    assert!(stderr(&output).contains("nothing to redrive"));
    assert_eq!(stdout(&output), "");

    // The same code fails again, as it did when the line was run that was printed.
    let output = emails.run(&["redrive", "letters"]);
    assert_eq!(status(&output), 3, "{}", stderr(&output));
    assert!(stderr(&output).contains(hint), "{}", stderr(&output));
    let letters = emails.letters("letters", &[]);
    assert_eq!(letters.len(), SPELLED_OUT);
    assert!(letters.iter().all(|letter| letter["attempts"] == 3));

    let Worker { mut process, .. } = strict;
    process.interrupt();
    assert_eq!(process.wait().code(), Some(0));
    // One command, without any worker.
    let args = [
        "redrive",
        "letters",
        "--batch-id",
        "letters-again",
        "--json",
    ];
    let mut lenient = emails.command(&args);
    let output = finish(lenient.env("FIX_EMAILS_LENIENT", "1"));
    assert_eq!(status(&output), 0, "{}", stderr(&output));
    let last = json(&output);
    assert_eq!(last["progress"]["redrive_of"], "letters");
    assert_eq!(last["progress"]["items"]["processed"], SPELLED_OUT);

    let output = emails.run(&["failures", "letters"]);
    assert_eq!(status(&output), 0);
    assert_eq!(stdout(&output), "");
    assert!(stderr(&output).contains("no failures to show"));
    emails.assert_fixed();

    let listed = json(&online(&["list", "--json", "--limit", "1000"]));
    let mut batches = listed["batches"].as_array().unwrap().iter();
    let redrive = batches.find(|batch| batch["batch_id"] == "letters-again");
    assert_eq!(redrive.unwrap()["redrive_of"], "letters");
    let output = emails.run(&["failures", "letters-again"]);
    assert!(
        stderr(&output).contains("it redrives \"letters\""),
        "{}",
        stderr(&output)
    );
    let left = emails.as_printed(&output, "failures letters");
    assert_eq!(status(&left), 0, "{}", stderr(&left));
    assert!(stderr(&left).contains("no failures to show"));
    refused(
        &emails.run(&["redrive", "letters-again"]),
        2,
        &["redrives \"letters\""],
    );
}

#[test]
fn dead_letters_of_a_batch_that_the_server_forgot_are_found_through_their_processor() {
    let emails = Emails::on("forgotten");
    let strict = emails.worker(false);
    let output = emails.start("remembered", &["--json"]);
    assert_eq!(status(&output), 3, "{}", stderr(&output));
    // As if the batch had had another id: what the server knows of it has nothing to do with it any more.
    emails.sql::<i64>("UPDATE temporal_batch_dead_letter SET batch_id = 'forgotten'");
    let mut report = json(&output);
    report["progress"]["batch_id"] = "reported".into();
    let report: temporal_batch::BatchReport = serde_json::from_value(report).unwrap();
    with_pool(&emails.database(), async |pool| {
        use temporal_batch::DeadLetters as _;
        let ledger = temporal_batch::SqlLedger::new(pool);
        ledger.keep_report(&report).await.unwrap();
    });

    for asked in ["failures", "redrive"] {
        let hint = "hint: if the server has forgotten it, name its processor with --processor";
        let output = emails.run(&[asked, "forgotten"]);
        refused(&output, 1, &["there is no batch \"forgotten\"", hint]);
        let output = emails.run(&[asked, "nobody", "--processor", "fix-emails"]);
        refused(&output, 1, &["neither the server nor processor"]);
        let output = emails.run(&[asked, "remembered", "--processor", "other"]);
        refused(&output, 2, &["is one of processor \"fix-emails\""]);
    }
    let elsewhere = online(&["failures", "forgotten", "--processor", "fix-emails"]);
    refused(&elsewhere, 1, &["has no processor \"fix-emails\""]);

    let processor = ["--processor", "fix-emails"];
    let letters = emails.letters("forgotten", &processor);
    assert_eq!(letters.len(), SPELLED_OUT);
    let reported = emails.failures("reported", &processor);
    assert_eq!(reported["dead_letters"], Value::Array(Vec::new()));
    assert_eq!(reported["failing"], Value::Array(Vec::new()));

    let Worker { mut process, .. } = strict;
    process.interrupt();
    assert_eq!(process.wait().code(), Some(0));
    let _lenient = emails.worker(true);
    let redrive = ["redrive", "forgotten", "--task-queue", emails.queue];
    let output = emails.run(&[&redrive[..], &processor].concat());
    assert_eq!(status(&output), 0, "{}", stderr(&output));
    assert!(emails.letters("remembered", &[]).is_empty());
    emails.assert_fixed();
}

#[test]
fn pages_that_keep_failing_are_shown_with_since_when() {
    let emails = Emails::on("failing");
    let _worker = emails.worker(false);
    emails.sql::<i64>("ALTER TABLE users RENAME email TO address");
    let output = emails.start("failing", &["--detach"]);
    assert_eq!(status(&output), 0, "{}", stderr(&output));
    look_until("failing", |look| {
        look["progress"]["failing"] != Value::Array(Vec::new())
    });

    let output = emails.run(&["status", "failing"]);
    let line = stdout(&output);
    let line = line
        .lines()
        .find(|line| line.starts_with("failing "))
        .unwrap();
    for part in [
        "first page, retrying for ",
        "attempt",
        "no such column: email",
    ] {
        assert!(line.contains(part), "{part} is not in {line}");
    }
    let hint = "`fix-emails failures failing` lists what failed";
    assert!(stderr(&output).contains(hint), "{}", stderr(&output));

    let failures = emails.failures("failing", &[]);
    let failing = failures["failing"].as_array().unwrap();
    assert_eq!(failing.len(), 1);
    assert_eq!(failing[0]["state"], "retrying");
    let text = stdout(&emails.run(&["failures", "failing"]));
    assert!(
        text.starts_with("failing: 1\n  the first page: retrying for "),
        "{text}"
    );

    // What was missing is back, and the batch goes on by itself.
    emails.sql::<i64>("ALTER TABLE users RENAME address TO email");
    assert_eq!(status(&emails.run(&["watch", "failing"])), 3);
    assert_eq!(emails.letters("failing", &[]).len(), SPELLED_OUT);
}

#[test]
fn what_a_program_cannot_look_into_is_said() {
    let _worker = Worker::on("no-letters", &[]).ready();
    let id = ["--task-queue", "no-letters", "--batch-id", "no-letters"];
    let output = online(&[&["start", "inflate-prices"], &id[..]].concat());
    assert_eq!(status(&output), 0, "{}", stderr(&output));
    // The start tells what will not be kept, and so does a look while something may fail.
    let not_kept = "the batch lists the first 20 items and the first 50 pages";
    assert_eq!(
        stderr(&output).matches(not_kept).count(),
        1,
        "{}",
        stderr(&output)
    );
    let looked = stdout(&online(&["status", "no-letters"]));
    assert!(!looked.contains(not_kept), "{looked}");
    let slow = [
        "--task-queue",
        "no-letters",
        "--batch-id",
        "slow-letters",
        "--page-pause",
        "1m",
    ];
    let slow = online(&[&["start", "inflate-prices", "--detach"], &slow[..]].concat());
    assert_eq!(status(&slow), 0, "{}", stderr(&slow));
    let looked = stdout(&online(&["status", "slow-letters"]));
    assert!(looked.contains(not_kept), "{looked}");
    assert_eq!(status(&online(&["cancel", "slow-letters", "--wait"])), 0);
    let progress = &json(&online(&["status", "no-letters", "--json"]))["progress"];
    assert_eq!(progress["keeps_dead_letters"], false);
    let ask = |asked, database: &Path| {
        let mut command = command(&[asked, "no-letters"]);
        command.args((asked == "failures").then_some("--json"));
        let command = command.env("TEMPORAL_ADDRESS", SERVER.address());
        finish(command.env("PRODUCTS_DB", database))
    };
    for (database, why) in [
        (&*DATABASE, "processor \"inflate-prices\" keeps none"),
        (
            &PathBuf::from("no-such.db"),
            "cannot start: there is no products database",
        ),
    ] {
        let output = ask("failures", database);
        assert_eq!(status(&output), 0, "{}", stderr(&output));
        assert!(stderr(&output).contains(why), "{}", stderr(&output));
        let failures = json(&output);
        assert_eq!(failures["dead_letters"], Value::Null);
        assert_eq!(failures["failing"], Value::Array(Vec::new()));
        // Refused here, or else by the worker.
        let output = ask("redrive", database);
        assert_eq!(status(&output), 2, "{}", stderr(&output));
        assert!(
            stderr(&output).contains("keeps no dead letters"),
            "{}",
            stderr(&output)
        );
    }
}

// --------------------------------------------------------------------------------------------- servers

#[test]
fn the_demo_checks_every_row_and_leaves_nothing_behind() {
    let directory = tempfile::tempdir().unwrap();
    let args = [
        "demo",
        "--rows",
        "3000",
        "--page-size",
        "100",
        "--fail-rate",
        "0.3",
        "--json",
    ];
    let output = finish(command(&args).env("TMPDIR", directory.path()));
    assert_eq!(status(&output), 0, "{}", stderr(&output));
    let summary = json(&output);
    assert_eq!(summary["schema"], 1);
    assert_eq!(summary["outcome"], "completed");
    assert_eq!(summary["rows_right"], 3000);
    assert_eq!(summary["pages"], 30);
    assert!(summary["retries"].as_u64().unwrap() > 0, "{summary}");
    for field in summary.as_object().unwrap().keys() {
        let documented = include_str!("../docs/cli.md");
        assert!(
            documented.contains(&format!("`{field}`")),
            "{field} is not documented"
        );
    }
    let left = std::fs::read_dir(directory.path()).unwrap().count();
    assert_eq!(left, 0);
    let address = summary["address"].as_str().unwrap();
    assert!(
        std::net::TcpStream::connect(address).is_err(),
        "the server still runs"
    );
}

#[test]
fn an_interrupted_demo_leaves_nothing_behind() {
    let directory = tempfile::tempdir().unwrap();
    let mut demo = command(&[
        "demo",
        "--rows",
        "50000",
        "--page-size",
        "10",
        "--stride",
        "1",
    ]);
    let (mut demo, _, err) = spawn(demo.env("TMPDIR", directory.path()));
    let lines = Lines::of(err);
    lines.until("Temporal UI");
    lines.until("items");
    demo.interrupt();
    assert_eq!(demo.wait().code(), Some(130));
    lines.until("nothing is left behind");
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
}

#[test]
fn a_database_that_is_there_is_not_overwritten_by_the_demo() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("precious.db");
    std::fs::write(&path, "precious").unwrap();
    refused(
        &offline(&["demo", "--database", text(&path)]),
        1,
        &["exists already"],
    );
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
}

#[test]
fn the_dev_server_says_where_it_is_and_ends_with_its_owner() {
    let (mut server, out, _err) = spawn(&mut command(&["dev-server", "--port", "0", "--headless"]));
    let line = Lines::of(out).until("Temporal dev server at ");
    let address = line.rsplit(' ').next().unwrap().to_owned();
    let listed = offline(&["list", "--address", &address]);
    assert_eq!(status(&listed), 0, "{}", stderr(&listed));
    server.interrupt();
    assert_eq!(server.wait().code(), Some(0));
    assert!(
        std::net::TcpStream::connect(&address).is_err(),
        "the server still runs"
    );
}

/// Runs a command line as it was printed, with a directory for what is kept of dev servers.
fn as_printed(line: &str, state: &Path) -> Output {
    let words: Vec<_> = line.split('#').next().unwrap().split_whitespace().collect();
    assert_eq!(words[0], "temporal-batch", "{line}");
    // The environment of a user of another server.
    let elsewhere = [
        ("TEMPORAL_ADDRESS", "127.0.0.1:9"),
        ("TEMPORAL_NAMESPACE", "elsewhere"),
        ("TEMPORAL_API_KEY", "key"),
    ];
    let mut command = command(&words[1..]);
    finish(command.envs(elsewhere).env("XDG_STATE_HOME", state))
}

#[test]
fn a_demo_that_is_kept_tells_other_terminals_its_address() {
    let state = tempfile::tempdir().unwrap();
    let mut demo = command(&["demo", "--rows", "2000", "--keep"]);
    let (mut demo, out, err) = spawn(demo.env("XDG_STATE_HOME", state.path()));
    let (out, err) = (Lines::of(out), Lines::of(err));
    let next = out.until("--address");
    err.until("stay until Ctrl-C");
    let output = as_printed(next.trim(), state.path());
    assert_eq!(status(&output), 0, "{}", stderr(&output));
    let table = stdout(&output);
    assert!(table.starts_with("state        completed"), "{table}");
    assert!(table.contains("(100.0 %)"), "{table}");
    let link = table
        .lines()
        .find(|line| line.starts_with("web UI"))
        .unwrap();
    assert!(link.contains("/namespaces/default/workflows/"), "{link}");
    demo.interrupt();
    demo.wait();
    let left: Vec<_> = std::fs::read_dir(state.path().join("temporal-batch"))
        .unwrap()
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn a_web_page_is_linked_to_where_it_is_known() {
    let mut first = command(&[
        "start",
        "inflate-prices",
        "--task-queue",
        "no-worker-links",
        "--batch-id",
        "linked",
        "--detach",
        "--json",
    ]);
    first.env("TEMPORAL_ADDRESS", SERVER.address());
    let started = json(&finish(
        first.env("TEMPORAL_UI_ADDRESS", "https://temporal.example.com/"),
    ));
    assert_eq!(
        started["ui_url"],
        "https://temporal.example.com/namespaces/default/workflows/linked"
    );
    let flag = ["status", "linked", "--ui-address", "localhost:8080"];
    let table = stdout(&online(&flag));
    assert!(
        table.contains("\nweb UI       http://localhost:8080/namespaces/default/workflows/linked"),
        "{table}"
    );
    assert_eq!(
        look("linked")["ui_url"],
        Value::Null,
        "the server of the tests has no page"
    );
    refused(
        &offline(&["status", "linked", "--ui-address", "ftp://x"]),
        2,
        &["--ui-address", "http://localhost:8233"],
    );
    let mut wrong = command(&["status", "linked"]);
    let wrong = finish(
        wrong
            .env("TEMPORAL_ADDRESS", SERVER.address())
            .env("TEMPORAL_UI_ADDRESS", "a b"),
    );
    refused(&wrong, 2, &["TEMPORAL_UI_ADDRESS", "http://localhost:8233"]);
}

#[test]
fn an_operator_is_named_by_the_system_where_no_variable_does() {
    let output = online(&[
        "start",
        "inflate-prices",
        "--task-queue",
        "no-worker-names",
        "--batch-id",
        "named",
        "--detach",
    ]);
    assert_eq!(status(&output), 0, "{}", stderr(&output));
    let mut pause = command(&["pause", "named", "--reason", "who"]);
    let pause = pause.env("TEMPORAL_ADDRESS", SERVER.address());
    let paused = finish(
        pause
            .env_remove("USER")
            .env_remove("LOGNAME")
            .env_remove("USERNAME"),
    );
    assert_eq!(status(&paused), 0, "{}", stderr(&paused));
    let _worker = Worker::on("no-worker-names", &[]).ready();
    let audited = look_until("named", |look| {
        look["progress"]["audit"]
            .as_array()
            .is_some_and(|audit| !audit.is_empty())
    });
    let user = stdout(&Command::new("id").arg("-un").output().unwrap());
    let who = audited["progress"]["audit"][0]["who"].as_str().unwrap();
    assert_eq!(who.split('@').next(), Some(user.trim()), "{who}");
}

/// Parts that no message may hold.
#[track_caller]
fn assert_no_insides(message: &str) {
    for inside in [
        "tonic",
        "hyper",
        "Os {",
        "os error",
        "error returned from database",
        "error occurred while",
        "transport error",
        "tcp connect",
        "source:",
    ] {
        assert!(!message.contains(inside), "{inside:?} in {message}");
    }
}

#[test]
fn messages_hold_no_insides_of_libraries() {
    let directory = tempfile::tempdir().unwrap();
    let missing = directory.path().join("missing.csv");
    let no_database = directory.path().join("text.db");
    std::fs::write(
        &no_database,
        "this is no database, whatever its name says".repeat(100),
    )
    .unwrap();
    let url = format!("sqlite:{}", text(&no_database));
    let closed = "127.0.0.1:1";
    let table = ["backfill", "--table", "t", "--set", "x = 1"];
    let backfill = |url| [&table[..], &["--database-url", url]].concat();
    for args in [
        &["list", "--address", closed][..],
        &["status", "b", "--address", closed],
        &["list", "--address", closed, "--tls"],
        &["list", "--address", closed, "--config-file", text(&missing)],
        &["start", "inflate-prices", "--args", "@/nowhere/args.json"],
        &[
            "import",
            text(&missing),
            "--table",
            "t",
            "--database-url",
            &url,
        ],
        &[
            "export",
            "--table",
            "t",
            "--to",
            text(&missing),
            "--database-url",
            &url,
        ],
        &backfill(&url),
        &backfill("postgres://u@127.0.0.1:1/d"),
        &backfill("mysql://u@127.0.0.1:1/d"),
        &["schema", "apply", "--database-url", &url],
    ] {
        let output = offline(args);
        assert_ne!(status(&output), 0, "{args:?}");
        let message = stderr(&output);
        assert!(message.contains("error: "), "{args:?}: {message}");
        assert_no_insides(&message);
    }
}

#[test]
fn dev_starts_a_server_and_keeps_its_state() {
    let state = tempfile::tempdir().unwrap();
    let address = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().to_string()
    };
    let dev = |args: &[&str]| {
        let connection = ["--dev", "--address", &address];
        let mut command = command(&[args, &connection].concat());
        finish(
            command
                .env("XDG_STATE_HOME", state.path())
                .env("XDG_DATA_HOME", state.path()),
        )
    };
    let id = ["--batch-id", "kept", "--max-parallelism", "0", "--detach"];
    let started = dev(&[&["start", "inflate-prices"], &id[..]].concat());
    assert_eq!(status(&started), 0, "{}", stderr(&started));
    assert!(
        stderr(&started).contains(text(state.path())),
        "{}",
        stderr(&started)
    );
    // Arguments and page tokens are in it.
    #[cfg(unix)]
    for (path, mode) in std::iter::once((state.path().join("temporal-batch"), 0o700)).chain(
        std::fs::read_dir(state.path().join("temporal-batch"))
            .unwrap()
            .map(|entry| (entry.unwrap().path(), 0o600)),
    ) {
        use std::os::unix::fs::PermissionsExt as _;
        let found = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(found & 0o777, mode, "{}", path.display());
    }
    let listed = dev(&["list", "--json"]);
    assert_eq!(
        json(&listed)["batches"][0]["batch_id"],
        "kept",
        "{}",
        stderr(&listed)
    );
}

// ------------------------------------------------------------------------------------------------ help

#[test]
fn every_command_that_is_documented_has_help() {
    let documented = include_str!("../docs/cli.md");
    let examples = documented
        .lines()
        .filter_map(|line| line.trim().strip_prefix("temporal-batch "));
    let mut commands: Vec<_> = examples
        .filter_map(|rest| rest.split(' ').next())
        .map(str::to_owned)
        .collect();
    commands.sort();
    commands.dedup();
    assert!(commands.len() >= 13, "{commands:?}");
    for name in commands.iter() {
        let output = offline(&[name, "--help"]);
        assert_eq!(status(&output), 0, "{name}");
        let help = stdout(&output);
        for flag in help
            .split_whitespace()
            .filter(|word| word.starts_with("--"))
        {
            let flag = flag.trim_matches(|c: char| !c.is_ascii_alphanumeric() && c != '-');
            let flag = flag.split(['[', '=']).next().unwrap();
            let known = documented.contains(&format!("`{flag}")) || flag == "--help";
            assert!(known, "{flag} of {name} is not documented");
        }
    }
}

/// The words that begin the lines of a list in a help, or the links in the first column of a table.
fn commands_of_help(help: &str) -> Vec<String> {
    let list = help.split("\nCommands:\n").nth(1).unwrap();
    let list = list.split("\n\n").next().unwrap();
    let mut commands: Vec<_> = list
        .lines()
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "))
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| *name != "help")
        .map(str::to_owned)
        .collect();
    commands.sort();
    commands
}

#[test]
fn the_table_of_commands_is_complete() {
    let documented = include_str!("../docs/cli.md");
    let table = documented.split("| command | does |").nth(1).unwrap();
    let table = table.split("\n\n").next().unwrap();
    let names = table.split("[`").skip(1);
    let mut names: Vec<_> = names
        .filter_map(|rest| rest.split('`').next())
        .map(str::to_owned)
        .collect();
    names.sort();
    let help = stdout(&offline(&["--help"]));
    assert_eq!(names, commands_of_help(&help));
    for name in &names {
        let anchors = [
            format!("\n## `{name}`"),
            format!("\n### `{name}`"),
            format!("`{name}`"),
        ];
        assert!(
            anchors.iter().any(|anchor| documented.contains(anchor)),
            "{name}"
        );
    }
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let (mut help, out, _err) = spawn(&mut command(&["--help"]));
    drop(out);
    assert_eq!(help.wait().code(), Some(0));
    let mut list = command(&["list", "--json"]);
    let (mut list, out, err) = spawn(list.env("TEMPORAL_ADDRESS", SERVER.address()));
    drop(out);
    assert_eq!(list.wait().code(), Some(0));
    let told = String::from_utf8(read_all(&mut { err })).unwrap();
    assert_eq!(told, "");
}

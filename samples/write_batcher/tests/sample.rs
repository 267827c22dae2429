//! The sample as its readers run it, by its output.

use std::{
    path::Path,
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use temporal_batch::dev_server::{DevServer, DevServerOptions};

const PATIENCE: Duration = Duration::from_secs(180);

fn write_batcher(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_write-batcher"));
    command.args(args).env_remove("TEMPORAL_ADDRESS");
    command
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Runs a command to its end. Its output is short enough for a pipe.
fn run(args: &[&str]) -> Output {
    let mut command = write_batcher(args);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let began = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if began.elapsed() > PATIENCE {
            child.kill().unwrap();
            let output = child.wait_with_output().unwrap();
            panic!("{args:?} did not end within {PATIENCE:?}: {output:?}");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    child.wait_with_output().unwrap()
}

/// A process that is killed with its value.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A server, and a folder with the database.
struct Shop {
    server: DevServer,
    folder: tempfile::TempDir,
}

impl Shop {
    async fn open() -> Self {
        Self {
            server: DevServerOptions::new().start().await.unwrap(),
            folder: tempfile::tempdir().unwrap(),
        }
    }

    fn args(&self, args: &[&str]) -> Vec<String> {
        let mut all: Vec<_> = args.iter().map(|arg| (*arg).to_owned()).collect();
        let db = self.folder.path().join("orders.db");
        all.extend(["--address".to_owned(), self.server.address()]);
        all.extend(["--db".to_owned(), db.to_str().unwrap().to_owned()]);
        all
    }

    fn start(&self, args: &[&str]) -> Running {
        let args = self.args(args);
        let args: Vec<_> = args.iter().map(String::as_str).collect();
        let child = write_batcher(&args)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn();
        Running(child.unwrap())
    }

    fn run(&self, args: &[&str]) -> Output {
        let args = self.args(args);
        let args: Vec<_> = args.iter().map(String::as_str).collect();
        run(&args)
    }

    /// Runs a command until its output shows something.
    fn shows(&self, args: &[&str], what: &str) {
        let began = Instant::now();
        loop {
            let output = self.run(args);
            if text(&output.stdout).contains(what) {
                return;
            }
            assert!(began.elapsed() < PATIENCE, "never {what}: {output:?}");
        }
    }
}

/// The output without the blocks of the batcher, and the ids of each block. A batch that is split is several blocks.
fn without_blocks(output: &str) -> (String, Vec<Vec<String>>) {
    let (mut rest, mut blocks, mut within) = (String::new(), Vec::new(), false);
    for line in output.lines() {
        if line == "BATCH WRITE" {
            within = true;
            blocks.push(Vec::new());
        } else if let Some(total) = line.strip_prefix("  total ").filter(|_| within) {
            within = false;
            let block: &Vec<String> = blocks.last().unwrap();
            assert_eq!(total, block.len().to_string());
        } else if within {
            let (number, order) = line.trim_start().split_once(". ").unwrap();
            let block: &mut Vec<String> = blocks.last_mut().unwrap();
            block.push(order.split(' ').next().unwrap().to_owned());
            assert_eq!(number, block.len().to_string());
        } else {
            rest += line;
            rest.push('\n');
        }
    }
    (rest, blocks)
}

/// Returns whether a line of the report of a redrive differs from run to run.
fn varies(line: &str) -> bool {
    const FIELDS: [&str; 10] = [
        "batch ",
        "throughput ",
        "parallelism ",
        "page size ",
        "stride ",
        "finished to ",
        "started ",
        "time ",
        "runs ",
        "pages ",
    ];
    FIELDS.iter().any(|field| line.starts_with(field))
}

#[test]
fn the_demo_shows_what_the_readme_says() {
    let output = run(&["demo", "--seed", "1"]);
    let (rest, blocks) = without_blocks(&text(&output.stdout));
    let lasting = rest.lines().filter(|line| !varies(line));
    let lasting: Vec<_> = lasting.collect();
    let golden: Vec<_> = include_str!("demo.out").lines().collect();
    assert_eq!(lasting, golden, "{}", text(&output.stderr));
    assert!(output.status.success());
    assert_eq!(blocks[0].len(), 50, "the first fifty are one write");
    let mut all: Vec<_> = blocks.concat();
    all.sort_unstable();
    all.dedup();
    assert_eq!(
        all.len(),
        99,
        "the refused order is redriven by another command"
    );
}

#[test]
fn the_number_of_workflows_has_a_default_and_a_lower_limit() {
    let help = run(&["start-requesters", "--help"]);
    let help = text(&help.stdout);
    let workflows = help.split("--workflows").nth(1).unwrap();
    assert!(
        workflows
            .split("--")
            .next()
            .unwrap()
            .contains("[default: 5]"),
        "{help}"
    );
    for refused in [
        ["--workflows", "0"],
        ["--workflows", "-1"],
        ["--workflows", "x"],
    ] {
        let output = run(&[&["start-requesters"][..], &refused].concat());
        assert_eq!(output.status.code(), Some(2));
        let said = text(&output.stderr);
        assert!(said.contains("--workflows"), "{said}");
    }
    let output = run(&["start-requesters", "--workflows", "2", "--poison", "3"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("--poison 3 is more than --workflows 2"));
    let output = run(&["start-requesters", "--shards", "0"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("allowed is 1 to 256"));
}

#[tokio::test(flavor = "multi_thread")]
async fn start_batcher_attaches_to_one_that_runs_and_ctrl_c_leaves_it() {
    let shop = Shop::open().await;
    let mut first = shop.start(&["start-batcher"]);
    // Once it is seen to run, the first command has started it.
    shop.shows(
        &["start-batcher", "--no-watch"],
        "already running; attached",
    );
    let pid = first.0.id().to_string();
    let interrupt = Command::new("kill")
        .args(["-s", "INT", &pid])
        .status()
        .unwrap();
    assert!(interrupt.success() && first.0.wait().unwrap().success());
    let again = shop.run(&["start-batcher", "--no-watch"]);
    assert!(text(&again.stdout).contains("already running"), "{again:?}");
}

/// Each service can be deployed and stopped alone: what was submitted waits for the other one.
#[tokio::test(flavor = "multi_thread")]
async fn requests_survive_the_end_of_either_service() {
    let shop = Shop::open().await;
    let flags = ["--max-wait", "3600", "--max-batch", "12"];
    let main_worker = shop.start(&["main-worker"]);
    let batcher_worker = shop.start(&["batcher-worker"]);
    let args = [
        &["start-requesters", "--workflows", "5", "--seed", "7"][..],
        &flags,
    ]
    .concat();
    let waiting = [
        &["start-requesters", "--workflows", "7", "--seed", "6"][..],
        &flags,
    ]
    .concat();
    let requesters = shop.start(&waiting);
    shop.shows(&["stats"], "\"pending\": 7");
    // Five more fill the batch. The batcher's service goes; the other one still polls, and its workflows wait.
    drop(batcher_worker);
    drop(requesters);
    drop(main_worker);
    let _batcher_worker = shop.start(&["batcher-worker"]);
    shop.shows(&["stats"], "\"pending\": 7");
    let _main_worker = shop.start(&["main-worker"]);
    let output = shop.run(&args);
    assert!(
        text(&output.stdout).contains("exactly once: 5 ids, 5 rows OK"),
        "{output:?}"
    );
    assert!(output.status.success());
    let ended = shop.run(&["shutdown"]);
    assert!(
        text(&ended.stdout).contains("ended; 12 orders written"),
        "{ended:?}"
    );
}

#[test]
fn every_command_of_the_readme_exists() {
    let readme = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md"));
    let readme = readme.unwrap();
    let start = "cargo run -p write-batcher -- ";
    let commands: Vec<_> = readme
        .lines()
        .filter_map(|line| line.trim().strip_prefix(start))
        .collect();
    assert!(commands.len() >= 7, "{commands:?}");
    for command in commands {
        let mut args: Vec<_> = command.split(' ').collect();
        args.push("--help");
        let output = run(&args);
        assert!(
            output.status.success(),
            "{command}: {}",
            text(&output.stderr)
        );
    }
}

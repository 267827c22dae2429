//! The sample, run as its README says.

use std::{
    collections::BTreeSet,
    io::Read as _,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use temporal_batch::dev_server::DevServerOptions;

const LIMIT: Duration = Duration::from_secs(120);

struct Ended {
    ok: bool,
    out: String,
    err: String,
}

fn command(address: &str, folder: &tempfile::TempDir, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_child-fanout"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("TEMPORAL_") {
            command.env_remove(name);
        }
    }
    command
        .env("TEMPORAL_CONFIG_FILE", "/dev/null")
        .env("TEMPORAL_ADDRESS", address)
        .env("TMPDIR", folder.path())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .args(args);
    command
}

/// Runs the sample. One that hangs is killed, and the test fails with what it has printed.
fn run(address: &str, args: &[&str]) -> Ended {
    let folder = tempfile::tempdir().unwrap();
    let mut child = command(address, &folder, args).spawn().unwrap();
    let mut outputs = [
        Box::new(child.stdout.take().unwrap()) as Box<dyn std::io::Read + Send>,
        Box::new(child.stderr.take().unwrap()),
    ]
    .map(|mut output| {
        Some(std::thread::spawn(move || {
            let mut text = String::new();
            output.read_to_string(&mut text).unwrap();
            text
        }))
    });
    let began = Instant::now();
    let status = loop {
        match child.try_wait().unwrap() {
            Some(status) => break Some(status),
            None if began.elapsed() > LIMIT => {
                child.kill().unwrap();
                child.wait().unwrap();
                break None;
            }
            None => std::thread::sleep(Duration::from_millis(50)),
        }
    };
    let [out, err] = [0, 1].map(|i| outputs[i].take().unwrap().join().unwrap());
    let status = status.unwrap_or_else(|| panic!("it never ended:\n{out}\n{err}"));
    Ended {
        ok: status.success(),
        out,
        err,
    }
}

/// The line without numbers that differ from run to run.
fn shape(line: &str) -> String {
    if line.starts_with("wall time") {
        return "wall time".to_owned();
    }
    match line.find("\"completed_at\":\"") {
        Some(at) => {
            let at = at + "\"completed_at\":\"".len();
            let end = at + line[at..].find('"').unwrap();
            format!("{}TIME{}", &line[..at], &line[end..])
        }
        None => line.to_owned(),
    }
}

/// The lines as a set, without those about progress: children run side by side, so their order differs.
fn lines(text: &str) -> BTreeSet<String> {
    let lines = text
        .lines()
        .filter(|line| !line.is_empty() && !is_progress(line));
    lines.map(shape).collect()
}

fn is_progress(line: &str) -> bool {
    line.starts_with("Current progress")
}

/// Asserts that update and query tell the same, and returns the number of lines about progress.
fn progress_lines(text: &str) -> usize {
    let mut count = 0;
    for line in text.lines().filter(|line| is_progress(line)) {
        let digit = |c: char| if c.is_ascii_digit() { '9' } else { c };
        let shape: String = line.chars().map(digit).collect();
        assert_eq!(shape, "Current progress: 9/9 (update) = 9/9 (query)");
        count += 1;
    }
    count
}

/// The output that the README shows for a command.
fn shown(after: &str) -> &'static str {
    const README: &str = include_str!("../README.md");
    let at = README
        .find(after)
        .unwrap_or_else(|| panic!("the README has no {after}"));
    let block = README[at..].split("```text\n").nth(1).unwrap();
    block.split("```").next().unwrap()
}

/// The parts of the two batches, each from its banner on.
fn batches(text: &str) -> [String; 2] {
    let at = text.find("=== BATCH-001: joins all children ===");
    let next = text.find("=== BATCH-002: children report by signal ===");
    let (Some(at), Some(next)) = (at, next) else {
        panic!("a banner is missing:\n{text}");
    };
    assert!(at < next, "the banners are in another order:\n{text}");
    [&text[at..next], &text[next..]].map(str::to_owned)
}

/// Checks the lines of a batch whose five orders are done, whatever the README shows, and their order outside the parallel
/// part.
fn tells_its_story(batch: &str, id: &str) {
    let lines: Vec<_> = batch.lines().filter(|line| !line.is_empty()).collect();
    let at = |wanted: &str| {
        let found = lines.iter().position(|line| line.starts_with(wanted));
        found.unwrap_or_else(|| panic!("{id} has no line \"{wanted}\":\n{batch}"))
    };
    let mut before = vec![at("Starting child workflows...")];
    before.extend((1..=5).map(|n| at(&format!("Started child workflow {id}/item/ITEM-00{n}"))));
    let received = (1..=5).map(|n| at(&format!("Received completion for item ITEM-00{n}")));
    let aggregating = at(&format!("Aggregating 5 results for batch: {id}"));
    let after = [
        aggregating,
        at("5 ok, 0 failed"),
        at(&format!("Batch result: {{\"batch_id\":\"{id}\"")),
        at("wall time"),
        at("verify: 5 shipments as ordered, in order, none twice  OK"),
    ];
    assert!(before.is_sorted() && after.is_sorted(), "{batch}");
    assert!(
        received.into_iter().all(|line| line < aggregating),
        "{batch}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_demo_prints_what_its_readme_shows_and_verifies_its_data() {
    let server = DevServerOptions::new().start().await.unwrap();
    let address = server.address();
    let demo = tokio::task::spawn_blocking(move || {
        // Without a command, with one, and again with the same ids.
        let mut progress = 0;
        for args in [&[][..], &["demo", "--seed", "1"][..]] {
            let ended = run(&address, args);
            assert!(ended.ok, "{}\n{}", ended.out, ended.err);
            let shown = batches(shown("cargo run -p child-fanout\n"));
            let printed = batches(&ended.out);
            for (id, printed, shown) in [
                ("BATCH-001", &printed[0], &shown[0]),
                ("BATCH-002", &printed[1], &shown[1]),
            ] {
                assert_eq!(lines(printed), lines(shown), "{}", ended.out);
                tells_its_story(printed, id);
            }
            progress += progress_lines(&ended.out);
        }
        assert!(progress > 0, "no progress was shown");
        let args = ["demo", "--fail", "ITEM-004"];
        let ended = run(&address, &args);
        assert!(ended.ok, "{}\n{}", ended.out, ended.err);
        assert_eq!(
            ended
                .out
                .matches("4 ok, 1 failed: ITEM-004 (CardDeclined)")
                .count(),
            2,
            "{}",
            ended.out
        );

        let args = [
            "demo",
            "--fail",
            "ITEM-004",
            "--policy",
            "fail-fast",
            "--items",
            "30",
            "--window",
            "8",
        ];
        let ended = run(&address, &args);
        assert!(ended.ok, "{}\n{}", ended.out, ended.err);
        assert_eq!(
            ended
                .out
                .matches("Batch failed: item ITEM-004: CardDeclined")
                .count(),
            2,
            "{}",
            ended.out
        );

        let ended = run(&address, &["demo", "--fail", "ITEM-006"]);
        assert!(
            !ended.ok && ended.err.contains("there is no item ITEM-006"),
            "{}",
            ended.err
        );
    });
    demo.await.unwrap();
    drop(server);
}

#[tokio::test(flavor = "multi_thread")]
async fn worker_and_start_are_two_programs() {
    let server = DevServerOptions::new().start().await.unwrap();
    let address = server.address();
    let both = tokio::task::spawn_blocking(move || {
        let folder = tempfile::tempdir().unwrap();
        let mut worker = command(&address, &folder, &["worker"]);
        let mut worker = worker
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let out = folder.path().join("child-fanout");
        let args = [
            "start",
            "--id",
            "BATCH-007",
            "--mode",
            "signals",
            "--items",
            "7",
            "--out",
            out.to_str().unwrap(),
        ];
        let ended = run(&address, &args);
        worker.kill().unwrap();
        worker.wait().unwrap();
        assert!(ended.ok, "{}\n{}", ended.out, ended.err);
        assert!(
            ended.out.contains("verify: 7 shipments as ordered"),
            "{}",
            ended.out
        );
    });
    both.await.unwrap();
    drop(server);
}

#[test]
fn without_a_server_the_sample_says_what_it_needs() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap().to_string();
    drop(free);
    let began = Instant::now();
    let ended = run(&address, &[]);
    assert!(!ended.ok);
    assert!(
        ended.err.contains("no Temporal server can be reached"),
        "{}",
        ended.err
    );
    assert!(
        ended.err.contains("temporal server start-dev"),
        "{}",
        ended.err
    );
    // The promise is 10 s; a hang would last longer.
    assert!(
        began.elapsed() < Duration::from_secs(10),
        "{:?}",
        began.elapsed()
    );
}

#[test]
fn the_readme_names_the_only_thing_that_has_to_run() {
    let needs = include_str!("../README.md");
    let needs = needs.split("## Run it").nth(1).unwrap();
    let needs = needs.split("In a second terminal:").next().unwrap();
    assert_eq!(needs.matches("    ").count(), 1, "{needs}");
    assert!(needs.contains("    temporal server start-dev\n"), "{needs}");
}

/// The address comes from the environment in every test of this file.
#[tokio::test(flavor = "multi_thread")]
async fn the_namespace_comes_from_the_environment() {
    let server = DevServerOptions::new().start().await.unwrap();
    let address = server.address();
    let asked = tokio::task::spawn_blocking(move || {
        let folder = tempfile::tempdir().unwrap();
        let mut start = command(&address, &folder, &["start"]);
        let ended = start
            .env("TEMPORAL_NAMESPACE", "not-there")
            .output()
            .unwrap();
        let error = String::from_utf8(ended.stderr).unwrap();
        assert!(!ended.status.success(), "{error}");
        assert!(error.contains("not-there"), "{error}");
    });
    asked.await.unwrap();
    drop(server);
}

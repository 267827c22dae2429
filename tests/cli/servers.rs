//! `demo`, `dev-server` and `--dev`: servers that a command starts itself.

use std::path::Path;

use crate::{
    products::text,
    support::command::{Ended, offline, run, start},
};

#[test]
fn the_demo_checks_every_row_and_leaves_no_files_or_processes() {
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
    let output = run(offline(&args).env("TMPDIR", directory.path()));
    assert_eq!(output.status, Some(0), "{}", output.err);
    let summary = output.json();
    assert_eq!(summary["schema"], 1);
    assert_eq!(summary["outcome"], "completed");
    assert_eq!(summary["rows_right"], 3000);
    assert_eq!(summary["pages"], 30);
    assert!(summary["retries"].as_u64().unwrap() > 0, "{summary}");
    for field in summary.as_object().unwrap().keys() {
        let documented = include_str!("../../docs/cli.md");
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
        "the server is still running"
    );
}

#[test]
fn an_interrupted_demo_leaves_no_files_or_processes() {
    let directory = tempfile::tempdir().unwrap();
    let mut demo = offline(&[
        "demo",
        "--rows",
        "50000",
        "--page-size",
        "10",
        "--stride",
        "1",
    ]);
    let demo = start(demo.env("TMPDIR", directory.path()));
    demo.err.line("Temporal UI");
    demo.err.line("items");
    demo.signal("INT");
    let ended = demo.ended().exits_with(130);
    assert!(
        ended.err.contains("nothing is left behind"),
        "{}",
        ended.err
    );
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
}

#[test]
fn an_existing_database_is_not_overwritten_by_the_demo() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("precious.db");
    std::fs::write(&path, "precious").unwrap();
    run(offline(&["demo", "--database", text(&path)])).refused(1, &["exists already"]);
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
}

#[test]
fn the_dev_server_prints_its_address_and_ends_with_its_owner() {
    let server = start(offline(&["dev-server", "--port", "0", "--headless"]));
    let line = server.out.line("Temporal dev server at ");
    let address = line.rsplit(' ').next().unwrap().to_owned();
    let listed = run(offline(&["list", "--address", &address]));
    assert_eq!(listed.status, Some(0), "{}", listed.err);
    server.signal("INT");
    assert_eq!(server.ended().status, Some(0));
    assert!(
        std::net::TcpStream::connect(&address).is_err(),
        "the server is still running"
    );
}

/// Runs a command line as it was printed, with a directory for the data of dev servers.
fn as_printed(line: &str, state: &Path) -> Ended {
    let words: Vec<_> = line.split('#').next().unwrap().split_whitespace().collect();
    assert_eq!(words[0], "temporal-batch", "{line}");
    // The environment names the server of another user.
    let elsewhere = [
        ("TEMPORAL_ADDRESS", "127.0.0.1:9"),
        ("TEMPORAL_NAMESPACE", "elsewhere"),
        ("TEMPORAL_API_KEY", "key"),
    ];
    let mut command = offline(&words[1..]);
    run(command.envs(elsewhere).env("XDG_STATE_HOME", state))
}

#[test]
fn a_kept_demo_prints_the_commands_for_other_terminals() {
    let state = tempfile::tempdir().unwrap();
    let mut demo = offline(&["demo", "--rows", "2000", "--keep"]);
    let demo = start(demo.env("XDG_STATE_HOME", state.path()));
    let next = demo.out.line("--address");
    demo.err.line("stay until Ctrl-C");
    let output = as_printed(next.trim(), state.path());
    assert_eq!(output.status, Some(0), "{}", output.err);
    let table = &output.out;
    assert!(table.starts_with("state        completed"), "{table}");
    assert!(table.contains("(100.0 %)"), "{table}");
    let link = table
        .lines()
        .find(|line| line.starts_with("web UI"))
        .unwrap();
    assert!(link.contains("/namespaces/default/workflows/"), "{link}");
    demo.signal("INT");
    demo.ended();
    let left: Vec<_> = std::fs::read_dir(state.path().join("temporal-batch"))
        .unwrap()
        .collect();
    assert!(left.is_empty(), "{left:?}");
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
        let mut command = offline(&[args, &connection].concat());
        run(command
            .env("XDG_STATE_HOME", state.path())
            .env("XDG_DATA_HOME", state.path()))
    };
    let id = ["--batch-id", "kept", "--max-parallelism", "0", "--detach"];
    let started = dev(&[&["start", "inflate-prices"], &id[..]].concat());
    assert_eq!(started.status, Some(0), "{}", started.err);
    assert!(started.err.contains(text(state.path())), "{}", started.err);
    // The directory has arguments and page tokens.
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
        listed.json()["batches"][0]["batch_id"],
        "kept",
        "{}",
        listed.err
    );
}

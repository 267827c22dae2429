//! Input that is refused: the message, the allowed values, and the exit status.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use crate::{
    products::{DATABASE, text, with_sqlite},
    support::{
        command::{offline, online, run},
        server_address,
    },
};

#[test]
fn an_unknown_processor_is_refused_with_the_known_ones() {
    let output = run(offline(&["start", "nope"]));
    output.refused(2, &["\"nope\" is not registered", "inflate-prices"]);
}

#[test]
fn settings_out_of_range_are_refused_with_the_allowed_values() {
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
        let output = run(offline(&["start", "inflate-prices", flag, value]));
        output.refused(2, &[allowed]);
    }
    for flag in ["--attach", "--continue"] {
        let output = run(offline(&["start", "inflate-prices", flag]));
        output.refused(2, &["--batch-id"]);
    }
    let both = ["--batch-id", "any", "--continue", "--rerun"];
    let output = run(offline(&[&["start", "inflate-prices"], &both[..]].concat()));
    output.refused(2, &["--continue", "--rerun"]);
    // There is no server, so nothing can have been sent.
    for (args, allowed) in [
        (
            &["set", "any", "--max-parallelism", "501"][..],
            "from 0 to 500",
        ),
        (&["set", "any", "--rate", "0"], "more than 0"),
        (&["set", "any", "--rate", "fast"], "or none"),
        (&["set", "any", "--page-rate", "-1"], "more than 0"),
        (&["set", "any", "--page-pause", "2h"], "to 1h"),
        (&["set", "any"], "name at least one"),
        (&["pause", "any", "--for", "0s"], "from 1s"),
        (&["pause", "any", "--until", "tomorrow"], "Europe/Berlin"),
        (
            &["pause", "any", "--until", "2020-01-01 00:00"],
            "already be over",
        ),
    ] {
        run(offline(args)).refused(2, &[allowed]);
    }
    for command in ["failures", "redrive"] {
        let time = "2026-01-01T00:00:00Z";
        for (since, until) in [("1h", "2h"), (time, time)] {
            let output = run(offline(&[
                command, "any", "--since", since, "--until", until,
            ]));
            output.refused(2, &["--since has to be before --until"]);
        }
    }
    let both = ["--until", "2030-01-01 00:00", "--for", "1h"];
    let output = run(offline(&[&["pause", "any"], &both[..]].concat()));
    output.refused(2, &["--until", "--for"]);
}

#[test]
fn arguments_and_cursors_that_do_not_fit_are_refused() {
    let start = |flag, value| run(offline(&["start", "inflate-prices", flag, value]));
    start("--args", r#"{"percent":"ten"}"#).refused(2, &["do not fit", "expected u32"]);
    start("--args", "{percent").refused(2, &["not JSON"]);
    start("--args", "@no-such-file").refused(2, &["cannot read no-such-file"]);
    start("--first-cursor", "\"a\"").refused(2, &["first cursor", "expected i64"]);
}

#[test]
fn an_unknown_field_is_refused_with_a_suggestion() {
    let start = |processor, args| run(offline(&["start", processor, "--args", args]));
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
        start(processor, args).refused(2, &["unknown field", &meant]);
    }
}

#[test]
fn echoed_input_neither_controls_the_terminal_nor_fills_it() {
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
        let output = run(offline(&args));
        let text = &output.err;
        assert_ne!(output.status, Some(0), "{args:.60?}");
        assert!(text.len() < 5_000, "{} bytes for {args:.60?}", text.len());
        let steers = |c: char| c.is_control() && c != '\n';
        assert!(!text.contains(steers), "{text:?}");
    }
}

#[test]
fn files_without_an_end_are_refused() {
    let config = |path| run(offline(&["list"]).env("TEMPORAL_CONFIG_FILE", path));
    config("/dev/zero").refused(2, &["larger than 4 MiB"]);
    run(offline(&["list", "--config-file", "/dev/zero"])).refused(2, &["larger than 4 MiB"]);
    let args = run(offline(&[
        "start",
        "inflate-prices",
        "--args",
        "@/dev/zero",
    ]));
    args.refused(2, &["larger than 4 MiB"]);
    let statements = run(offline(&[
        "backfill",
        "--database-url",
        "sqlite::memory:",
        "--table",
        "t",
        "--key",
        "id",
        "--statement-file",
        "/dev/zero",
    ]));
    statements.refused(2, &["larger than 4 MiB"]);
    let tls = run(offline(&["list", "--tls", "--tls-ca-path", "/dev/zero"]));
    tls.refused(2, &["/dev/zero"]);
    let mut password = offline(&["backfill", "--table", "t", "--set", "a = 1"]);
    password
        .env("DATABASE_URL", "postgres://localhost/t")
        .env("PGPASSFILE", "/dev/zero");
    run(password).refused(2, &["PGPASSFILE"]);
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
    with_sqlite(&database, async |pool| {
        sqlx::query(sqlx::AssertSqlSafe(create))
            .execute(&pool)
            .await
            .unwrap();
    });
    let sets: Vec<_> = (1..2_000).map(|n| format!("c{n} = {n}")).collect();
    let url = format!("sqlite:{}", text(&database));
    let output = run(offline(&[
        "backfill",
        "--database-url",
        &url,
        "--table",
        "t",
        "--set",
        &sets.join(", "),
    ]));
    let told = &output.err;
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
        run(offline(args)).refused(2, &["--help"]);
    }
}

#[test]
fn meaningless_values_are_refused_with_the_allowed_ones() {
    for (args, parts) in [
        (&["list", "--limit", "0"][..], &["--limit", "1.."][..]),
        (&["list", "--limit", "-1"], &["--limit", "1.."]),
        (&["failures", "b", "--limit", "0"], &["--limit", "1.."]),
        (
            &["list", "--log-level", "lots"],
            &["`lots` is not a level", "error, warn, info, debug, trace"],
        ),
        (
            &["list", "--log-level", "warn,lots"],
            &["`lots` is not a level"],
        ),
        (&["failures", "b", "--error-type", ""], &["--error-type"]),
    ] {
        run(offline(args)).refused(2, parts);
    }
    let mut listed = offline(&["list"]);
    let listed = run(listed
        .env("TEMPORAL_ADDRESS", server_address())
        .env("RUST_LOG", "lots"));
    assert_eq!(listed.status, Some(0), "{}", listed.err);
    assert!(
        listed.err.contains("`lots` in RUST_LOG is not a level"),
        "{}",
        listed.err
    );
}

#[test]
fn invalid_addresses_are_refused() {
    run(offline(&["list", "--address", "no address"])).refused(2, &["host:port"]);
    let metrics = run(offline(&["worker", "--metrics-address", "here"]));
    metrics.refused(2, &["127.0.0.1:9464"]);
    let elsewhere = run(offline(&[
        "list",
        "--dev",
        "--address",
        "temporal.invalid:7233",
    ]));
    assert_ne!(elsewhere.status, Some(0));
}

#[test]
fn a_command_with_its_own_server_takes_no_address() {
    for args in [
        &["demo", "--address", "x:1"][..],
        &["--address", "x:1", "demo"],
        &["dev-server", "--dev"],
    ] {
        run(offline(args)).refused(2, &["leave it out"]);
    }
}

#[test]
fn an_unreachable_server_is_reported_within_ten_seconds() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = listener.local_addr().unwrap().to_string();
    for address in ["127.0.0.1:1", &silent] {
        let since = Instant::now();
        let output = run(offline(&["start", "inflate-prices", "--address", address]));
        output.refused(1, &[address, "dev-server"]);
        assert!(since.elapsed() < Duration::from_secs(10));
    }
}

#[test]
fn a_missing_database_is_reported_before_the_batch_is_started() {
    let mut command = offline(&["worker", "--address", "127.0.0.1:1"]);
    let output = run(command.env("PRODUCTS_DB", "no-such.db"));
    output.refused(1, &["no-such.db", "PRODUCTS_DB"]);
    assert!(!Path::new("no-such.db").exists());
}

#[test]
fn ports_in_use_are_named() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (port, address) = (address.port().to_string(), address.to_string());

    run(offline(&["dev-server", "--port", &port])).refused(1, &[&port, "already in use"]);
    let mut worker = offline(&["worker", "--metrics-address", &address]);
    let output = run(worker.env("PRODUCTS_DB", &*DATABASE));
    output.refused(1, &[&address, "in use"]);
    let demo = run(offline(&["demo", "--metrics-address", &address]));
    demo.refused(1, &[&address, "in use"]);
}

#[test]
fn an_unknown_batch_is_reported() {
    for args in [
        &["status", "no-such-batch"][..],
        &["watch", "no-such-batch"],
        &["pause", "no-such-batch"],
        &["resume", "no-such-batch"],
        &["set", "no-such-batch", "--max-parallelism", "1"],
        &["cancel", "no-such-batch"],
        &["recover", "no-such-batch"],
        &["failures", "no-such-batch"],
        &["redrive", "no-such-batch"],
        &["verify", "no-such-batch"],
        &["ensure-complete", "no-such-batch"],
    ] {
        let ended = run(online(args));
        ended.refused(1, &["there is no batch \"no-such-batch\""]);
        // A hint names only flags that the command has.
        let help = run(offline(&[args[0], "--help"])).out;
        let advised = ended.err.contains("--processor");
        assert!(!advised || help.contains("--processor"), "{}", ended.err);
    }
}

/// Asserts that a message has no text of the libraries below.
#[track_caller]
fn assert_no_internals(message: &str) {
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
fn messages_have_no_internals_of_libraries() {
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
        let output = run(offline(args));
        assert_ne!(output.status, Some(0), "{args:?}");
        let message = &output.err;
        assert!(message.contains("error: "), "{args:?}: {message}");
        assert_no_internals(message);
    }
}

#[test]
fn a_file_that_is_named_and_cannot_be_read_or_written_is_bad_usage() {
    let directory = tempfile::tempdir().unwrap();
    let inside = |name: &str| directory.path().join(name);
    let (missing, file, database) = (inside("missing.csv"), inside("a.csv"), inside("a.db"));
    std::fs::write(&file, "id\n1\n").unwrap();
    std::fs::write(&database, "").unwrap();
    let url = format!("sqlite:{}", text(&database));
    let import = |file: &str, flags: &[&str]| {
        let import = ["import", file, "--table", "t", "--database-url", &url];
        [&import[..], flags].concat().join("\n")
    };
    for args in [
        import(text(&missing), &[]),
        import(text(directory.path()), &[]),
        import("", &[]),
        import(text(&file), &["--manifest", text(&missing)]),
        import(text(&file), &["--rejected", text(&missing.join("r.csv"))]),
    ] {
        let args: Vec<_> = args.split('\n').collect();
        let output = run(offline(&args));
        assert_eq!(output.status, Some(2), "{args:?}: {}", output.err);
    }
}

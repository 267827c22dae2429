//! The command `call`, as its users run it.

use std::{
    collections::{BTreeMap, HashSet},
    fmt::Write as _,
    path::PathBuf,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use serde_json::Value;
use tempfile::TempDir;

use crate::support::{
    command::{Ended, offline, online, run_aside, start},
    eventually,
    mock_api::{MockApi, Reply},
};

/// The folder of a test.
struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    /// A file of users with the ids from 1.
    fn users(&self, count: u64) -> PathBuf {
        let mut text = "id,email\n".to_owned();
        for id in 1..=count {
            writeln!(text, "{id},\"u{id}@example.org\"").unwrap();
        }
        self.write("users.csv", &text)
    }

    /// A database with three users, and its URL.
    async fn shop(&self) -> (sqlx::SqlitePool, String) {
        let database = self.0.path().join("shop.db");
        let url = format!("sqlite:{}", database.display());
        let options = sqlx::sqlite::SqliteConnectOptions::new()
            .filename(&database)
            .create_if_missing(true);
        let pool = sqlx::SqlitePool::connect_with(options).await.unwrap();
        for statement in [
            "CREATE TABLE users (id INTEGER NOT NULL PRIMARY KEY, name TEXT)",
            "INSERT INTO users VALUES (1, 'a\"b'), (2, NULL), (3, 'c')",
        ] {
            sqlx::query(statement).execute(&pool).await.unwrap();
        }
        (pool, url)
    }

    /// A call in this folder.
    fn call(&self, mut command: Command, flags: &[&str]) -> Command {
        command.current_dir(self.0.path()).arg("call").args(flags);
        command
    }

    /// The lines of the answers, by the id of their records.
    fn answers(&self) -> BTreeMap<u64, Value> {
        let out = self.0.path().join("out");
        let manifest = std::fs::read_to_string(out.join("manifest.json")).unwrap();
        let manifest: Value = serde_json::from_str(&manifest).unwrap();
        let mut answers = BTreeMap::new();
        for part in manifest["parts"].as_array().unwrap() {
            let file = part["file"].as_str().unwrap_or_else(|| panic!("{part}"));
            for line in std::fs::read_to_string(out.join(file)).unwrap().lines() {
                let line: Value = serde_json::from_str(line).unwrap();
                let record = line.get("record").unwrap_or(&line);
                let id = record["id"].as_str().unwrap().parse().unwrap();
                assert!(answers.insert(id, line).is_none(), "two lines for {id}");
            }
        }
        answers
    }
}

/// An API that knows the regions of users.
async fn regions() -> MockApi {
    MockApi::start(|call| {
        let id = call.path.rsplit('/').next().unwrap();
        Reply::of(200, format!("{{\"region\": \"R{id}\", \"n\": 1.50}}"))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn every_record_of_a_file_has_its_answer() {
    let (api, folder) = (regions().await, Folder::new());
    folder.users(50);
    folder.write("body.json", r#"{"mail": "{email}", "n": "{id:number}"}"#);
    let url = format!("{}/u/{{id}}", api.url);
    let flags = [
        "--from",
        "users.csv",
        "--url",
        &url,
        "--body-template",
        "body.json",
        "--header",
        "Authorization: Bearer ${CALL_TOKEN}",
        "--out",
        "out",
        "--page-size",
        "10",
    ];
    let mut command = folder.call(online(&[]), &flags);
    command.env("CALL_TOKEN", "s3cret");
    let ended = run_aside(command).await.exits_with(0);
    assert!(!ended.err.contains("s3cret") && !ended.out.contains("s3cret"));
    let answers = folder.answers();
    assert_eq!(answers.len(), 50);
    assert_eq!(answers[&7]["body"]["region"], "R7");
    assert_eq!(answers[&7]["record"]["email"], "u7@example.org");
    let calls = api.calls();
    assert_eq!(calls.len(), 50);
    let seven = calls.iter().find(|call| call.path == "/u/7").unwrap();
    assert_eq!(
        (seven.method.as_str(), seven.body.as_str()),
        ("POST", r#"{"mail": "u7@example.org", "n": 7}"#)
    );
    assert_eq!(seven.header("authorization"), "Bearer s3cret");
    let keys: HashSet<_> = calls
        .iter()
        .map(|call| call.header("idempotency-key"))
        .collect();
    assert_eq!(keys.len(), 50);
    assert!(!folder.0.path().join("out.answers").exists());
    // The same command means the same batch, which is done.
    let mut again = folder.call(online(&[]), &flags);
    again.env("CALL_TOKEN", "s3cret");
    run_aside(again).await.exits_with(0);
    assert_eq!(api.calls().len(), 50);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_record_is_listed_with_its_answer_and_redriven_into_its_place() {
    let repaired = Arc::new(AtomicBool::new(false));
    let healthy = Arc::clone(&repaired);
    let api = MockApi::start(move |call| {
        let id: u64 = call.path.rsplit('/').next().unwrap().parse().unwrap();
        match id.is_multiple_of(10) && !healthy.load(Ordering::SeqCst) {
            true => Reply::of(422, "no such region"),
            false => Reply::of(200, "{}"),
        }
    })
    .await;
    let folder = Folder::new();
    folder.users(50);
    let url = format!("{}/u/{{id}}", api.url);
    let flags = [
        "--from",
        "users.csv",
        "--url",
        &url,
        "--out",
        "out",
        "--page-size",
        "20",
        "--batch-id",
    ];
    let id = format!("call-{}", uuid::Uuid::new_v4());
    let flags = [&flags[..], &[&id]].concat();
    let ended = run_aside(folder.call(online(&[]), &flags))
        .await
        .exits_with(3);
    assert!(ended.err.contains("redrive"), "{}", ended.err);
    let letters = std::fs::read_to_string(folder.0.path().join("out.failed.jsonl")).unwrap();
    assert_eq!(letters.lines().count(), 5);
    assert!(
        letters.contains("no such region") && letters.contains("Http422"),
        "{letters}"
    );
    assert!(!folder.0.path().join("out/manifest.json").exists());
    // The other answers can be used at once.
    let so_far = folder.0.path().join("out/so-far.jsonl");
    let text = std::fs::read_to_string(&so_far).unwrap();
    let line = |line: &str| serde_json::from_str::<Value>(line).unwrap()["record"]["id"].clone();
    let ids: Vec<_> = text.lines().map(line).collect();
    let there: Vec<_> = (1..=50_u64)
        .filter(|id| !id.is_multiple_of(10))
        .map(|id| Value::from(id.to_string()))
        .collect();
    assert_eq!(ids, there);
    assert!(ended.err.contains("5 records are missing"), "{}", ended.err);
    let mut failures = online(&["failures", &id]);
    let listed = run_aside(failures.current_dir(folder.0.path()))
        .await
        .exits_with(0);
    assert!(listed.out.contains("Http422"), "{}", listed.out);
    let keys = |path: &str| -> Vec<String> {
        let calls = api.calls();
        let of_path = calls.iter().filter(|call| call.path == path);
        of_path
            .map(|call| call.header("idempotency-key").to_owned())
            .collect()
    };
    repaired.store(true, Ordering::SeqCst);
    let mut redrive = online(&["redrive", &id]);
    run_aside(redrive.current_dir(folder.0.path()))
        .await
        .exits_with(0);
    let of_ten = keys("/u/10");
    assert_eq!(of_ten.len(), 2);
    assert_eq!(of_ten[0], of_ten[1], "a redrive has the key of the record");
    assert_eq!(keys("/u/11").len(), 1, "others are not called again");
    let mut verify = online(&["verify", &id]);
    run_aside(verify.current_dir(folder.0.path()))
        .await
        .exits_with(0);
    assert_eq!(folder.answers().len(), 50);
    assert!(!so_far.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn fields_come_from_the_answer_or_the_fallback_and_add_up() {
    let api = MockApi::start(|call| {
        let id: u64 = call.path.rsplit('/').next().unwrap().parse().unwrap();
        match id % 7 {
            0 => Reply::of(404, "unknown"),
            _ => Reply::of(200, format!("{{\"geo\": {{\"region\": \"R{id}\"}}}}")),
        }
    })
    .await;
    let folder = Folder::new();
    folder.users(50);
    let url = format!("{}/u/{{id}}", api.url);
    let flags = [
        "--from",
        "users.csv",
        "--url",
        &url,
        "--out",
        "out",
        "--set",
        "region = {body.geo.region}",
        "--set",
        "enriched = true",
        "--fallback",
        "region = \"UNKNOWN\"",
        "--fallback",
        "enriched = false",
        "--json",
    ];
    let ended = run_aside(folder.call(online(&[]), &flags))
        .await
        .exits_with(0);
    let answers = folder.answers();
    let enriched = answers
        .values()
        .filter(|line| line["enriched"] == true)
        .count();
    let unknown = answers
        .values()
        .filter(|line| line["region"] == "UNKNOWN")
        .count();
    assert_eq!((answers.len(), enriched, unknown), (50, 43, 7));
    let report = ended.json();
    assert!(
        report.to_string().contains("fallback after Http404"),
        "{report}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_command_repeats_at_most_the_calls_in_flight_with_the_same_keys() {
    const IN_FLIGHT: usize = 4;
    let api = MockApi::start(|_| Reply::of(200, "{}").after(Duration::from_millis(40))).await;
    let folder = Folder::new();
    folder.users(200);
    let url = format!("{}/u/{{id}}", api.url);
    let concurrency = IN_FLIGHT.to_string();
    let flags = [
        "--from",
        "users.csv",
        "--url",
        &url,
        "--out",
        "out",
        "--page-size",
        "200",
        "--max-parallelism",
        "1",
        "--concurrency",
        &concurrency,
        "--rate",
        "60",
    ];
    let mut running = start(folder.call(online(&[]), &flags));
    eventually("some records of the page are answered", || async {
        (api.calls().len() >= 60).then_some(())
    })
    .await;
    running.kill();
    run_aside(folder.call(online(&[]), &flags))
        .await
        .exits_with(0);
    assert_eq!(folder.answers().len(), 200);
    let mut by_path: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for call in api.calls() {
        let key = call.header("idempotency-key").to_owned();
        by_path.entry(call.path).or_default().push(key);
    }
    assert_eq!(by_path.len(), 200);
    let repeated: Vec<_> = by_path.values().filter(|keys| keys.len() > 1).collect();
    assert!(
        repeated.len() <= IN_FLIGHT,
        "{} were repeated",
        repeated.len()
    );
    for keys in repeated {
        assert_eq!((keys.len(), &keys[0]), (2, &keys[1]));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_that_were_finished_before_a_kill_are_not_called_for_again() {
    const IN_FLIGHT: usize = 4;
    let api = MockApi::start(|_| Reply::of(200, "{}").after(Duration::from_millis(20))).await;
    let folder = Folder::new();
    folder.users(120);
    let url = format!("{}/u/{{id}}", api.url);
    let concurrency = IN_FLIGHT.to_string();
    // A heartbeat is sent every few seconds, so many of these pages are in none when the command is killed.
    let flags = [
        "--from",
        "users.csv",
        "--url",
        &url,
        "--out",
        "out",
        "--page-size",
        "5",
        "--stride",
        "24",
        "--max-parallelism",
        "1",
        "--concurrency",
        &concurrency,
    ];
    let mut running = start(folder.call(online(&[]), &flags));
    eventually("some pages are answered", || async {
        (api.calls().len() >= 40).then_some(())
    })
    .await;
    running.kill();
    run_aside(folder.call(online(&[]), &flags))
        .await
        .exits_with(0);
    assert_eq!(folder.answers().len(), 120);
    let mut times: BTreeMap<String, usize> = BTreeMap::new();
    for call in api.calls() {
        *times.entry(call.path).or_default() += 1;
    }
    let repeated = times.values().filter(|times| **times > 1).count();
    assert!(repeated <= IN_FLIGHT, "{repeated} were repeated");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_sends_nothing_and_a_try_sends_as_many_as_it_says() {
    let (api, folder) = (regions().await, Folder::new());
    folder.users(20);
    let url = format!("{}/u/{{id}}", api.url);
    let flags = [
        "--from",
        "users.csv",
        "--url",
        &url,
        "--out",
        "out",
        "--header",
        "X-Token: ${CALL_TOKEN}",
    ];
    let dry = |more: &[&str]| {
        let mut command = folder.call(offline(&[]), &[&flags[..], more].concat());
        command.env("CALL_TOKEN", "s3cret");
        command
    };
    let shown = run_aside(dry(&["--dry-run"])).await.exits_with(0);
    assert_eq!(api.calls().len(), 0);
    for part in ["/u/1\n", "/u/3\n", "x-token: <CALL_TOKEN>"] {
        assert!(shown.out.contains(part), "{part}: {}", shown.out);
    }
    assert!(!shown.out.contains("s3cret"));
    let tried = run_aside(dry(&["--try", "2"])).await.exits_with(0);
    assert_eq!(api.calls().len(), 2);
    assert!(tried.out.contains("\"region\": \"R2\""), "{}", tried.out);
    assert!(!folder.0.path().join("out").exists());
}

async fn refused(folder: &Folder, flags: &[&str], parts: &[&str]) {
    let ended: Ended = run_aside(folder.call(offline(&[]), flags)).await;
    ended.refused(2, parts);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_kept_is_refused_at_the_door() {
    let folder = Folder::new();
    folder.users(3);
    folder.write("bad.json", "{\"a\": {email}}");
    std::fs::write(folder.0.path().join("latin.json"), b"{\"a\": \"\xe9\"}").unwrap();
    let base = ["--from", "users.csv", "--out", "out", "--dry-run"];
    let url = ["--url", "https://api.example.org/u/{id}"];
    for (flags, parts) in [
        (vec!["--url", "https://{id}.example.org/"], vec!["host"]),
        (
            vec!["--url", "https://api.example.org/{nix}"],
            vec!["\"nix\"", "id, email"],
        ),
        (
            vec!["--url", "https://a:b@example.org/{id}"],
            vec!["header"],
        ),
        (
            [&url[..], &["--header", "Authorization: Bearer abc"]].concat(),
            vec!["${NAME}"],
        ),
        (
            [&url[..], &["--header", "X-A: ${NOT_SET_ANYWHERE}"]].concat(),
            vec!["NOT_SET_ANYWHERE"],
        ),
        (
            [&url[..], &["--header", "X-A: a\nb: c"]].concat(),
            vec!["ASCII"],
        ),
        (
            [&url[..], &["--body-template", "bad.json"]].concat(),
            vec!["line 1, column 8"],
        ),
        (
            [&url[..], &["--body-template", "latin.json"]].concat(),
            vec!["UTF-8"],
        ),
        (
            [&url[..], &["--set", "a = UNKNOWN"]].concat(),
            vec!["quotes"],
        ),
        ([&url[..], &["--method", "get"]].concat(), vec!["method"]),
        (
            [&url[..], &["--concurrency", "0"]].concat(),
            vec!["1 to 1000"],
        ),
        (
            [&url[..], &["--table", "t"]].concat(),
            vec!["cannot be used with"],
        ),
    ] {
        refused(&folder, &[&base[..], &flags].concat(), &parts).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_over_plain_http_to_another_machine_are_warned_of() {
    let folder = Folder::new();
    folder.users(1);
    let flags = [
        "--from",
        "users.csv",
        "--out",
        "out",
        "--dry-run",
        "--url",
        "http://api.example.org/{id}",
        "--header",
        "X-Token: ${CALL_TOKEN}",
    ];
    let mut command = folder.call(offline(&[]), &flags);
    command.env("CALL_TOKEN", "s3cret");
    let shown = run_aside(command).await.exits_with(0);
    assert!(
        shown.err.contains("warning") && shown.err.contains("https"),
        "{}",
        shown.err
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_go_back_into_the_table() {
    let (api, folder) = (regions().await, Folder::new());
    let (pool, url) = folder.shop().await;
    let called = format!("{}/u/{{id}}", api.url);
    let flags = [
        "--table",
        "users",
        "--url",
        &called,
        "--out",
        "out",
        "--set",
        "name = {body.region}",
        "--concatenate",
        "all.jsonl",
    ];
    let mut command = folder.call(online(&[]), &flags);
    run_aside(command.env("DATABASE_URL", &url))
        .await
        .exits_with(0);
    let flags = [
        "import",
        "all.jsonl",
        "--table",
        "users",
        "--on-conflict",
        "update:id",
        "--columns",
        "id,name",
        "--create-ledger-tables",
    ];
    let mut import = online(&flags);
    let import = import
        .current_dir(folder.0.path())
        .env("DATABASE_URL", &url);
    run_aside(import).await.exits_with(0);
    let names = sqlx::query_scalar("SELECT name FROM users ORDER BY id");
    let names: Vec<String> = names.fetch_all(&pool).await.unwrap();
    assert_eq!(names, ["R1", "R2", "R3"]);
    // A file that exists is not overwritten.
    let flags = [
        "--table",
        "users",
        "--url",
        &called,
        "--out",
        "new",
        "--concatenate",
        "all.jsonl",
    ];
    let mut again = folder.call(offline(&[]), &flags);
    let again = run_aside(again.env("DATABASE_URL", &url)).await;
    again.refused(2, &["all.jsonl exists already"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_rows_of_a_table_are_called_for_with_their_types() {
    let (api, folder) = (regions().await, Folder::new());
    let (_pool, url) = folder.shop().await;
    folder.write("body.json", r#"{"id": "{id}", "name": "{name}"}"#);
    let called = format!("{}/u/{{id}}", api.url);
    let flags = [
        "--table",
        "users",
        "--url",
        &called,
        "--out",
        "out",
        "--body-template",
        "body.json",
    ];
    let mut command = folder.call(online(&[]), &flags);
    command.env("DATABASE_URL", url);
    run_aside(command).await.exits_with(0);
    let mut bodies: Vec<_> = api.calls().into_iter().map(|call| call.body).collect();
    bodies.sort();
    assert_eq!(
        bodies,
        [
            r#"{"id": 1, "name": "a\"b"}"#,
            r#"{"id": 2, "name": null}"#,
            r#"{"id": 3, "name": "c"}"#
        ]
    );
}

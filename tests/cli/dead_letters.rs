//! Dead letters and failing pages: listed, shown and redriven.

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::LazyLock,
};

use serde_json::Value;

use crate::{
    products::{DATABASE, Worker, look_until, printed, with_sqlite},
    support::{
        command::{BUILD_LIMIT, Ended, of_binary, offline, online, run, start, without_settings},
        server_address,
    },
};

/// The program of the sample `fix_emails`. Cargo builds the stock binary for the tests, but no examples.
static FIX_EMAILS: LazyLock<PathBuf> = LazyLock::new(|| {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut cargo = Command::new(cargo);
    without_settings(&mut cargo);
    cargo
        .args([
            "build",
            "--example",
            "fix_emails",
            "--message-format=json",
            "--target-dir",
        ])
        .arg(target)
        .current_dir(env!("CARGO_MANIFEST_DIR"));
    let built = start(cargo).ended_within(BUILD_LIMIT).exits_with(0);
    let messages = built.out.lines();
    let messages = messages.map(|line| serde_json::from_str::<Value>(line).unwrap());
    let mut executable =
        messages.filter_map(|message| message["executable"].as_str().map(PathBuf::from));
    executable.next_back().unwrap()
});

/// The number of the 2,000 users whose address only the lenient code understands.
const SPELLED_OUT: usize = 8;

/// A table of users, and the sample that works on it.
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
        let mut command = of_binary(&FIX_EMAILS, args);
        command
            .env("USERS_DB", self.database())
            .env("TEMPORAL_ADDRESS", server_address());
        command
    }

    fn run(&self, args: &[&str]) -> Ended {
        run(self.command(args))
    }

    fn as_printed(&self, said: &Ended, words: &str) -> Ended {
        let mut command = printed(&FIX_EMAILS, "fix-emails", said, words);
        run(command.env("USERS_DB", self.database()))
    }

    fn worker(&self, lenient: bool) -> Worker {
        let mut command = self.command(&["worker", "--task-queue", self.queue]);
        if lenient {
            command.env("FIX_EMAILS_LENIENT", "1");
        }
        Worker::run(&mut command).ready()
    }

    fn start(&self, id: &str, extra: &[&str]) -> Ended {
        let start = ["start", "fix-emails", "--batch-id", id, "--task-queue"];
        self.run(&[&start[..], &[self.queue, "--page-size", "100"], extra].concat())
    }

    fn failures(&self, id: &str, extra: &[&str]) -> Value {
        let output = self.run(&[&["failures", id, "--json"], extra].concat());
        assert_eq!(output.status, Some(0), "{}", output.err);
        output.json()
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
        with_sqlite(&self.database(), async |pool| {
            let query = sqlx::query_scalar(statement);
            query.fetch_optional(&pool).await.unwrap()
        })
    }

    /// Asserts that every address is correct and was written once.
    fn assert_fixed(&self) {
        let right = self.sql::<i64>(
            "SELECT count(*) FROM users WHERE fixes = 1 AND email = 'user' || id || '@example.org'",
        );
        assert_eq!(right, Some(2_000));
    }
}

#[test]
fn dead_letters_are_listed_and_redriven_until_all_are_settled() {
    let emails = Emails::on("letters");
    let strict = emails.worker(false);
    let output = emails.start("letters", &[]);
    assert_eq!(output.status, Some(3), "{}", output.err);
    let hint = "`fix-emails failures letters` lists what failed";
    assert!(output.err.contains(hint), "{}", output.err);

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
    let documented = include_str!("../../docs/cli.md");
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
    let text = &output.out;
    assert!(
        text.starts_with("dead letters: 8\n  8 NotAnAddress, the first: "),
        "{text}"
    );
    let record = "      record: user250 at example dot org";
    assert!(text.lines().any(|line| line == record), "{text}");
    let redrives = "`fix-emails redrive letters` tries the dead letters again";
    assert!(output.err.contains(redrives), "{}", output.err);

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
    bad_cursor.refused(2, &["does not fit", "expected i64"]);

    for (said, words) in [
        (&emails.run(&["status", "letters"]), "failures"),
        (&output, "redrive"),
    ] {
        let printed = emails.as_printed(said, words);
        let expected = if words == "redrive" { 3 } else { 0 };
        assert_eq!(printed.status, Some(expected), "{}", printed.err);
        assert!(!printed.err.contains("error: "), "{}", printed.err);
    }
    let output = emails.run(&["redrive", "letters", "--error-type", "Other"]);
    assert_eq!(output.status, Some(0), "{}", output.err);
    assert!(output.err.contains("nothing to redrive"));
    assert_eq!(output.out, "");

    // The same code fails again, here with the printed command.
    let output = emails.run(&["redrive", "letters"]);
    assert_eq!(output.status, Some(3), "{}", output.err);
    assert!(output.err.contains(hint), "{}", output.err);
    let letters = emails.letters("letters", &[]);
    assert_eq!(letters.len(), SPELLED_OUT);
    assert!(letters.iter().all(|letter| letter["attempts"] == 3));

    let Worker { process } = strict;
    process.signal("INT");
    assert_eq!(process.ended().status, Some(0));
    // One command is enough, without another worker.
    let args = [
        "redrive",
        "letters",
        "--batch-id",
        "letters-again",
        "--json",
    ];
    let mut lenient = emails.command(&args);
    let output = run(lenient.env("FIX_EMAILS_LENIENT", "1"));
    assert_eq!(output.status, Some(0), "{}", output.err);
    let last = output.json();
    assert_eq!(last["progress"]["redrive_of"], "letters");
    assert_eq!(last["progress"]["items"]["processed"], SPELLED_OUT);

    let output = emails.run(&["failures", "letters"]);
    assert_eq!(output.status, Some(0));
    assert_eq!(output.out, "");
    assert!(output.err.contains("no failures to show"));
    emails.assert_fixed();

    let listed = run(online(&["list", "--json", "--limit", "1000"])).json();
    let mut batches = listed["batches"].as_array().unwrap().iter();
    let redrive = batches.find(|batch| batch["batch_id"] == "letters-again");
    assert_eq!(redrive.unwrap()["redrive_of"], "letters");
    let output = emails.run(&["failures", "letters-again"]);
    assert!(
        output.err.contains("it redrives \"letters\""),
        "{}",
        output.err
    );
    let left = emails.as_printed(&output, "failures letters");
    assert_eq!(left.status, Some(0), "{}", left.err);
    assert!(left.err.contains("no failures to show"));
    emails
        .run(&["redrive", "letters-again"])
        .refused(2, &["redrives \"letters\""]);
}

#[test]
fn dead_letters_of_a_forgotten_batch_are_found_through_their_processor() {
    let emails = Emails::on("forgotten");
    let strict = emails.worker(false);
    let output = emails.start("remembered", &["--json"]);
    assert_eq!(output.status, Some(3), "{}", output.err);
    // The batch gets another id here, so that the server no longer knows the one in its dead letters.
    emails.sql::<i64>("UPDATE temporal_batch_dead_letter SET batch_id = 'forgotten'");
    let mut report = output.json();
    report["progress"]["batch_id"] = "reported".into();
    let report: temporal_batch::BatchReport = serde_json::from_value(report).unwrap();
    with_sqlite(&emails.database(), async |pool| {
        use temporal_batch::store::DeadLetters as _;
        let ledger = temporal_batch::sql::SqlLedger::new(pool);
        ledger.keep_report(&report).await.unwrap();
    });

    for asked in ["failures", "redrive"] {
        let hint = "hint: if the server has forgotten it, name its processor with --processor";
        let output = emails.run(&[asked, "forgotten"]);
        output.refused(1, &["there is no batch \"forgotten\"", hint]);
        let output = emails.run(&[asked, "nobody", "--processor", "fix-emails"]);
        output.refused(1, &["neither the server nor processor"]);
        let output = emails.run(&[asked, "remembered", "--processor", "other"]);
        output.refused(2, &["is one of processor \"fix-emails\""]);
    }
    let elsewhere = run(online(&[
        "failures",
        "forgotten",
        "--processor",
        "fix-emails",
    ]));
    elsewhere.refused(1, &["has no processor \"fix-emails\""]);

    let processor = ["--processor", "fix-emails"];
    let letters = emails.letters("forgotten", &processor);
    assert_eq!(letters.len(), SPELLED_OUT);
    let reported = emails.failures("reported", &processor);
    assert_eq!(reported["dead_letters"], Value::Array(Vec::new()));
    assert_eq!(reported["failing"], Value::Array(Vec::new()));

    let Worker { process } = strict;
    process.signal("INT");
    assert_eq!(process.ended().status, Some(0));
    let _lenient = emails.worker(true);
    let redrive = ["redrive", "forgotten", "--task-queue", emails.queue];
    let output = emails.run(&[&redrive[..], &processor].concat());
    assert_eq!(output.status, Some(0), "{}", output.err);
    assert!(emails.letters("remembered", &[]).is_empty());
    emails.assert_fixed();
}

#[test]
fn failing_pages_are_shown_with_the_time_since_their_first_failure() {
    let emails = Emails::on("failing");
    let _worker = emails.worker(false);
    emails.sql::<i64>("ALTER TABLE users RENAME email TO address");
    let output = emails.start("failing", &["--detach"]);
    assert_eq!(output.status, Some(0), "{}", output.err);
    look_until("failing", |look| {
        look["progress"]["failing"] != Value::Array(Vec::new())
    });

    let output = emails.run(&["status", "failing"]);
    let line = &output.out;
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
    assert!(output.err.contains(hint), "{}", output.err);

    let failures = emails.failures("failing", &[]);
    let failing = failures["failing"].as_array().unwrap();
    assert_eq!(failing.len(), 1);
    assert_eq!(failing[0]["state"], "retrying");
    let text = emails.run(&["failures", "failing"]).out;
    assert!(
        text.starts_with("failing: 1\n  the first page: retrying for "),
        "{text}"
    );

    // The missing column is added, and the batch continues by itself.
    emails.sql::<i64>("ALTER TABLE users RENAME address TO email");
    assert_eq!(emails.run(&["watch", "failing"]).status, Some(3));
    assert_eq!(emails.letters("failing", &[]).len(), SPELLED_OUT);
}

#[test]
fn a_program_names_the_dead_letters_that_it_cannot_read() {
    let _worker = Worker::on("no-letters", &[]).ready();
    let id = ["--task-queue", "no-letters", "--batch-id", "no-letters"];
    let output = run(online(&[&["start", "inflate-prices"], &id[..]].concat()));
    assert_eq!(output.status, Some(0), "{}", output.err);
    // The start warns that failures are not kept, and so does a look while they may occur.
    let not_kept = "the batch lists the first 20 items and the first 50 pages";
    assert_eq!(output.err.matches(not_kept).count(), 1, "{}", output.err);
    let looked = run(online(&["status", "no-letters"])).out;
    assert!(!looked.contains(not_kept), "{looked}");
    let slow = [
        "--task-queue",
        "no-letters",
        "--batch-id",
        "slow-letters",
        "--page-pause",
        "1m",
    ];
    let slow = run(online(
        &[&["start", "inflate-prices", "--detach"], &slow[..]].concat(),
    ));
    assert_eq!(slow.status, Some(0), "{}", slow.err);
    let looked = run(online(&["status", "slow-letters"])).out;
    assert!(looked.contains(not_kept), "{looked}");
    assert_eq!(
        run(online(&["cancel", "slow-letters", "--wait"])).status,
        Some(0)
    );
    let progress = &run(online(&["status", "no-letters", "--json"])).json()["progress"];
    assert_eq!(progress["keeps_dead_letters"], false);
    let ask = |asked, database: &Path| {
        let mut command = offline(&[asked, "no-letters"]);
        command.args((asked == "failures").then_some("--json"));
        let command = command.env("TEMPORAL_ADDRESS", server_address());
        run(command.env("PRODUCTS_DB", database))
    };
    for (database, why) in [
        (&*DATABASE, "processor \"inflate-prices\" keeps none"),
        (
            &PathBuf::from("no-such.db"),
            "cannot start: there is no products database",
        ),
    ] {
        let output = ask("failures", database);
        assert_eq!(output.status, Some(0), "{}", output.err);
        assert!(output.err.contains(why), "{}", output.err);
        let failures = output.json();
        assert_eq!(failures["dead_letters"], Value::Null);
        assert_eq!(failures["failing"], Value::Array(Vec::new()));
        // The command refuses this, or else the worker does.
        let output = ask("redrive", database);
        assert_eq!(output.status, Some(2), "{}", output.err);
        assert!(
            output.err.contains("keeps no dead letters"),
            "{}",
            output.err
        );
    }
}

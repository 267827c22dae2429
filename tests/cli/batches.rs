//! Batches that a command starts and follows to their end.

use serde_json::Value;

use crate::{
    products::{Worker, as_printed, look_until},
    support::{
        command::{Ended, LIMIT, online, run},
        server_address,
    },
};

#[test]
fn a_batch_is_started_and_followed_to_its_end() {
    let _worker = Worker::on("follow", &[]).ready();
    let id = ["--task-queue", "follow", "--batch-id", "followed"];
    let start = |extra: &[&str]| {
        run(online(
            &[
                &["start", "inflate-prices", "--page-size", "500"],
                &id[..],
                extra,
            ]
            .concat(),
        ))
    };

    let output = start(&["--args", r#"{"percent":10}"#]);
    assert_eq!(output.status, Some(0), "{}", output.err);
    assert!(
        output.out.contains("state        completed"),
        "{}",
        output.out
    );
    assert!(
        output.err.contains("5,000 of 5,000 items"),
        "{}",
        output.err
    );

    start(&[]).refused(1, &["has already ended (completed)", "--rerun"]);

    let output = start(&["--rerun", "--json"]);
    assert_eq!(output.status, Some(0), "{}", output.err);
    let last = output.json();
    assert_eq!(last["outcome"], "completed");
    assert_eq!(last["percent"], 100.0);
    assert_eq!(last["progress"]["pages_completed"], 10);

    // Watching an ended batch shows how it ended.
    let output = run(online(&["watch", "followed", "--json"]));
    assert_eq!(output.status, Some(0));
    assert_eq!(output.json(), last);
    run(online(&["cancel", "followed"])).refused(1, &["no longer running (completed)"]);
}

#[test]
fn a_batch_stopped_at_its_deadline_continues_where_it_ended() {
    let _worker = Worker::on("deadline", &[]).ready();
    let start = |extra: &[&str]| {
        let args = ["start", "inflate-prices", "--task-queue", "deadline"];
        let id = ["--batch-id", "late", "--page-size", "50", "--json"];
        run(online(&[&args[..], &id, extra].concat()))
    };
    let stopped = start(&["--rate", "100", "--deadline", "1s"]);
    assert_eq!(stopped.status, Some(4), "{}", stopped.err);
    let stopped = stopped.json();
    assert_eq!(stopped["outcome"], "stopped");
    assert!(stopped["progress"]["deadline"].is_u64(), "{stopped}");

    start(&[]).refused(1, &["has already ended (failed)", "--continue"]);
    let other = ["--continue", "--args", r#"{"percent":7}"#];
    start(&other).refused(1, &["its arguments are different"]);

    let done = start(&["--continue", "--attach"]);
    assert_eq!(done.status, Some(0), "{}", done.err);
    let done = done.json();
    assert_eq!(
        done["progress"]["batch_run"],
        stopped["progress"]["batch_run"]
    );
    assert_eq!(done["progress"]["pages_completed"], 100);
    assert_eq!(done["progress"]["deadline"], Value::Null);
    start(&["--continue"]).refused(1, &["it is completed"]);

    let audit = run(online(&["status", "late", "--audit", "--json"])).json();
    assert_eq!(audit["schema"], 1);
    assert_eq!(audit["audit_older"], 0);
    let actions = audit["audit"].as_array().unwrap().iter();
    let actions: Vec<_> = actions.map(|entry| &entry["action"]).collect();
    assert_eq!(actions, ["start", "stop", "continue"]);
    let table = run(online(&["status", "late", "--audit"])).out;
    assert!(table.starts_with("AT "), "{table}");
    assert_eq!(table.lines().count(), 4, "{table}");
    assert!(table.contains("the batch itself"), "{table}");
}

#[test]
fn a_second_start_attaches_to_the_running_batch() {
    let _worker = Worker::on("attach", &[]).ready();
    let start = |extra: &[&str]| {
        let args = ["start", "inflate-prices", "--task-queue", "attach"];
        let id = ["--batch-id", "shared", "--max-parallelism", "0", "--json"];
        run(online(&[&args[..], &id, extra].concat()))
    };
    let first = start(&["--detach", "--attach"]);
    assert_eq!(first.status, Some(0), "{}", first.err);
    start(&["--detach"]).refused(1, &["already running", "--attach"]);
    let second = start(&["--detach", "--attach", "--rate", "7"]);
    assert_eq!(second.status, Some(0), "{}", second.err);
    let left = "without --rate 7; `temporal-batch set shared --rate 7` applies that";
    assert!(second.err.contains(left), "{}", second.err);
    assert!(!first.err.contains("warning: "), "{}", first.err);
    let run_of = |output: &Ended| output.json()["progress"]["batch_run"].clone();
    assert_eq!(run_of(&first), run_of(&second));
    let other = ["--attach", "--args", r#"{"percent":7}"#];
    start(&other).refused(1, &["its arguments are different"]);
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
        let steered = run(online(args));
        assert_eq!(steered.status, Some(0), "{}", steered.err);
    }
    let printed = as_printed(&running, "watch");
    assert_eq!(printed.status, Some(0), "{}", printed.err);
    let over = start(&["--detach"]);
    let printed = as_printed(&over, "status");
    assert_eq!(printed.status, Some(0), "{}", printed.err);
    assert!(printed.out.contains("completed"), "{}", printed.out);
    let watched = run(online(&["watch", "shared", "--json"]));
    assert_eq!(watched.status, Some(0), "{}", watched.err);
    assert_eq!(run_of(&first), run_of(&watched));
    let audit = run(online(&["status", "shared", "--audit", "--json"])).json();
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

/// A processor whose pages all fail, and hooks that keep their calls.
mod hooked {
    use std::sync::{Arc, Mutex};

    use async_trait::async_trait;
    use temporal_batch::{
        BatchReport, Page, PageContext, PageError, PageProcessor, PageReport,
        hooks::{CompletionHook, FailureHandler, FailureNotice, HookResult, Tracker},
        progress::Progress,
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

    /// The record of the calls of hooks.
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
async fn a_program_has_its_own_hooks_and_stops_beyond_its_tolerance() {
    use hooked::{Poison, Told};
    use temporal_batch::cli::App;
    let address = tokio::task::spawn_blocking(server_address).await.unwrap();
    let told = Told::default();
    let run = |args: &[&str]| {
        let app = App::new("hooked")
            .processor(|| async { Ok::<_, std::convert::Infallible>(Poison) })
            .failure_handler(told.clone())
            .tracker(told.clone())
            .completion_hook(told.clone());
        let connection = ["--address", address, "--config-file", "/dev/null"];
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
        () = tokio::time::sleep(LIMIT) => panic!("the batch does not end"),
    };
    assert_eq!(ended, code(4));
    for what in ["failure", "progress", "stopped"] {
        assert!(told.has(what), "{what}");
    }
}

/// A processor over the numbers up to 100, whose check finds what a test sets.
mod checking {
    use std::sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    };

    use async_trait::async_trait;
    use temporal_batch::{
        CheckContext, Page, PageContext, PageError, PageProcessor, PageReport,
        progress::{Check, FailedRange},
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
    let address = tokio::task::spawn_blocking(server_address).await.unwrap();
    let careful = checking::Careful::default();
    let run = |args: &[&str]| {
        let processor = careful.clone();
        let app = App::new("careful").processor(move || {
            let processor = processor.clone();
            async move { Ok::<_, std::convert::Infallible>(processor) }
        });
        let connection = ["--address", address, "--config-file", "/dev/null"];
        let args = [&["careful"], args, &connection].concat();
        let args: Vec<_> = args.into_iter().map(str::to_owned).collect();
        // The futures are too many for the stack of a test.
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
            // The pages so far pass the check, but the batch is not complete.
            assert_eq!(run(&["verify", id]).await, code(0));
            assert_eq!(run(&["ensure-complete", id]).await, code(1));
            assert_eq!(
                run(&["approve", id, "--reason", "looked at it"]).await,
                code(0)
            );
        }
        let ensured = run(&["ensure-complete", id, "--wait", "--timeout", "30s"]).await;
        assert_eq!(ensured, code(0));
        assert_eq!(run(&["approve", id]).await, code(1), "the batch has ended");
        careful.wrong.store(true, Ordering::SeqCst);
        assert_eq!(run(&["verify", id, "--json"]).await, code(3));
        assert_eq!(
            run(&["ensure-complete", id]).await,
            code(0),
            "the batch passed its check at its end"
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
        () = tokio::time::sleep(LIMIT) => panic!("the batch does not end"),
    }
}

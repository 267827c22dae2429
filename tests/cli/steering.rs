//! Batches that are steered while they run: with commands, on a screen, and without a worker.

use std::{
    io::Write as _,
    path::Path,
    process::{Command, Stdio},
};

use serde_json::Value;

use crate::{
    products::{Worker, look, look_until},
    support::{
        self,
        command::{binary, of_binary, offline, online, run, start},
        server_address, wait_for_ok,
    },
};

#[test]
fn a_running_batch_can_be_watched_and_steered() {
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
    let output = run(online(&args));
    assert_eq!(output.status, Some(0), "{}", output.err);
    assert_eq!(output.out, "steered\n");
    run(online(&args)).refused(1, &["already running", "watch steered"]);

    let output = run(online(&["pause", "steered", "--reason", "lunch"]));
    assert_eq!(output.status, Some(0), "{}", output.err);
    assert_eq!(output.out.lines().count(), 1);
    let paused = look_until("steered", |look| look["progress"]["phase"] == "paused");
    assert_eq!(paused["state"], "running");
    assert_eq!(paused["progress"]["pause_reason"], "lunch");
    let table = run(online(&["status", "steered"])).out;
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

    let output = run(online(&["pause", "steered", "--reason", "lunch", "--wait"]));
    assert_eq!(output.status, Some(0), "{}", output.err);
    let told = &output.out;
    assert!(told.contains("is paused, after"), "{told}");
    let output = run(online(&["set", "steered", "--max-parallelism", "3"]));
    assert_eq!(output.status, Some(0), "{}", output.err);
    let told = &output.out;
    assert!(
        told.contains("max parallelism 3, page size 50, stride auto 5s, rate 100 items/s"),
        "{told}"
    );
    assert_eq!(run(online(&["resume", "steered"])).status, Some(0));
    look_until("steered", |look| look["progress"]["phase"] == "running");
    assert_eq!(look("steered")["progress"]["max_parallelism"], 3);

    let listed = run(online(&["list", "--json", "--limit", "1000"])).json();
    let batches = listed["batches"].as_array().unwrap();
    let listed = batches
        .iter()
        .find(|batch| batch["batch_id"] == "steered")
        .unwrap();
    assert_eq!(listed["state"], "running");
    assert_eq!(listed["processor"], "inflate-prices");
    assert!(run(online(&["list"])).out.starts_with("BATCH"));

    // Neither command has a terminal, so both print lines.
    for args in [&["watch", "steered"][..], &["watch", "steered", "--plain"]] {
        let watch = start(online(args));
        let line = watch.err.line("] ");
        assert!(line.starts_with('[') && !line.contains('\u{1b}'), "{line}");
        watch.signal("INT");
        let ended = watch.ended().exits_with(130);
        let goes_on = "batch \"steered\" continues";
        assert!(ended.err.contains(goes_on), "{}", ended.err);
    }
    assert_eq!(look("steered")["state"], "running");

    let output = run(online(&[
        "cancel", "steered", "--reason", "enough", "--wait",
    ]));
    assert_eq!(output.status, Some(0), "{}", output.err);
    assert!(output.out.contains("cancelled"), "{}", output.out);
    assert_eq!(run(online(&["watch", "steered"])).status, Some(4));
    run(online(&["pause", "steered"])).refused(1, &["no longer running (cancelled)"]);
}

/// A recovery restarts the current run of the controller. Counts that were shown are not shown lower afterwards.
#[test]
fn shown_counts_do_not_decrease_when_a_batch_is_recovered() {
    let _worker = Worker::on("backwards", &[]).ready();
    let output = run(online(&[
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
    ]));
    assert_eq!(output.status, Some(0), "{}", output.err);
    let done = |look: &Value| look["progress"]["items"]["processed"].as_u64().unwrap_or(0);
    look_until("backwards", |look| done(look) >= 1_000);
    let watch = start(online(&["watch", "backwards", "--json"]));
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
    see(&watch.out.line("\"schema\""));
    let before = done(&look("backwards"));
    let output = run(online(&["recover", "backwards", "--force"]));
    assert_eq!(output.status, Some(0), "{}", output.err);
    // The batch itself has gone back further.
    look_until("backwards", |look| done(look) < before);
    while !see(&watch.out.line("\"schema\"")) {}
    assert_eq!(watch.ended().status, Some(0));
}

/// A command on its own terminal, which script(1) of util-linux makes. Every Linux has it.
#[cfg(target_os = "linux")]
fn on_a_terminal(args: &[&str]) -> Command {
    let binary = binary().display();
    let line = format!("stty rows 30 cols 100; exec '{binary}' {}", args.join(" "));
    let mut command = of_binary(Path::new("script"), &["-qec", &line, "/dev/null"]);
    command
        .env("TERM", "xterm")
        .env("TEMPORAL_ADDRESS", server_address())
        .stdin(Stdio::piped());
    command
}

#[cfg(target_os = "linux")]
#[test]
fn on_a_terminal_watch_is_a_screen_with_keys_that_is_cleared_at_its_end() {
    const ENTER: &str = "\u{1b}[?1049h";
    const LEAVE: &str = "\u{1b}[?1049l";
    let watch = on_a_terminal(&["watch", "on-screen"]);
    let _worker = Worker::on("screen", &[]).ready();
    let started = run(online(&[
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
    ]));
    assert_eq!(started.status, Some(0), "{}", started.err);

    let mut watch = start(watch);
    let mut keys = watch.stdin();
    // The first look is on the screen, so that keys have something to change.
    watch.out.says("items/s, last");
    keys.write_all(b"+").unwrap();
    look_until("on-screen", |look| look["progress"]["max_parallelism"] == 3);
    keys.write_all(b"p").unwrap();
    let paused = look_until("on-screen", |look| look["progress"]["phase"] == "paused");
    assert_eq!(paused["progress"]["pause_reason"], "from watch");
    keys.write_all(b"q").unwrap();
    let all = watch.ended().exits_with(130).out;
    let (_, screen) = all.split_once(ENTER).expect("a screen is entered");
    let (screen, after) = screen.split_once(LEAVE).expect("and left");
    assert!(!screen.contains("continues:"), "{screen}");
    assert!(after.contains("batch \"on-screen\" continues"), "{after}");
    assert_eq!(
        run(online(&["cancel", "on-screen", "--wait"])).status,
        Some(0)
    );
}

/// A history that a newer version has written cannot be replayed by this version.
#[test]
fn a_batch_that_no_worker_can_continue_is_reported_with_the_remedy() {
    use temporalio_client::{UntypedWorkflow, WorkflowStartOptions};
    use temporalio_common::data_converters::{PayloadConverter, RawValue};
    let _worker = Worker::on("newer", &[]).ready();
    let start = async {
        let client = support::connect(server_address()).await;
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
    tokio::runtime::Runtime::new().unwrap().block_on(start);
    let told = wait_for_ok("the failure is reported", || {
        let output = run(online(&["status", "newer"])).exits_with(0);
        assert!(output.out.contains("running"), "{}", output.out);
        if output.err.contains("has failed") {
            Ok(output.err)
        } else {
            Err(output.err)
        }
    });
    assert!(told.contains("deploy code"), "{told}");
    assert!(told.contains("`recover`"), "{told}");
    run(online(&["pause", "newer"])).refused(1, &["has failed", "`recover`"]);
    assert_eq!(run(online(&["recover", "newer"])).status, Some(0));
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
    let output = run(online(&[&["start", "inflate-prices"], &args[..]].concat()));
    assert_eq!(output.status, Some(0));
    let told = &output.err;
    assert!(
        told.contains("no worker answers on task queue \"unpolled\""),
        "{told}"
    );

    let output = run(online(&["status", "alone", "--json"]));
    assert_eq!(output.status, Some(0));
    assert!(output.err.contains("no worker answered"));
    let look = output.json();
    assert_eq!(look["state"], "running");
    assert_eq!(look["progress"], Value::Null);

    for args in [
        &["pause", "alone", "--for", "1h"][..],
        &["set", "alone", "--max-parallelism", "3"],
        &["resume", "alone"],
    ] {
        let output = run(online(args));
        assert_eq!(output.status, Some(0), "{}", output.err);
        assert_eq!(
            output.out,
            "batch \"alone\": no worker is polling task queue \"unpolled\": the request is kept and \
             takes effect when a worker is back\n"
        );
        assert!(output.err.contains(WORKER), "{}", output.err);
    }

    let output = run(online(&["cancel", "alone"]));
    assert_eq!(output.status, Some(0));
    let kept =
        "batch \"alone\": the cancellation is kept, and waits for a worker that ends the batch\n";
    assert_eq!(output.out, kept);
    assert!(output.err.contains(WORKER), "{}", output.err);
    let output = run(online(&["status", "alone"]));
    let told = &output.out;
    for part in [
        "\ncancelled    requested at ",
        "\nnext         `temporal-batch worker ",
    ] {
        assert!(told.contains(part), "{part}: {told}");
    }
}

#[test]
fn an_operator_is_named_by_the_system_where_no_variable_is_set() {
    let output = run(online(&[
        "start",
        "inflate-prices",
        "--task-queue",
        "no-worker-names",
        "--batch-id",
        "named",
        "--detach",
    ]));
    assert_eq!(output.status, Some(0), "{}", output.err);
    let mut pause = offline(&["pause", "named", "--reason", "who"]);
    let pause = pause.env("TEMPORAL_ADDRESS", server_address());
    let paused = run(pause
        .env_remove("USER")
        .env_remove("LOGNAME")
        .env_remove("USERNAME"));
    assert_eq!(paused.status, Some(0), "{}", paused.err);
    let _worker = Worker::on("no-worker-names", &[]).ready();
    let audited = look_until("named", |look| {
        look["progress"]["audit"]
            .as_array()
            .is_some_and(|audit| !audit.is_empty())
    });
    let user = run(of_binary(Path::new("id"), &["-un"])).out;
    let who = audited["progress"]["audit"][0]["who"].as_str().unwrap();
    assert_eq!(who.split('@').next(), Some(user.trim()), "{who}");
}

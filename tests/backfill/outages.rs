//! Commands that follow a batch while Temporal is unavailable.

use std::{net::TcpListener, process::Command, thread, time::Duration};

use temporal_batch::dev_server::DevServerOptions;

use crate::{
    command::{about, exits, id, wait_for_rows},
    database::{self, Home},
    support::{
        command::{Ended, Running, offline, online, run, start},
        server_address,
        servers::Proxy,
    },
};

const AWAY: &str = "Temporal has not answered since";
const BACK: &str = "Temporal answers again";

/// A pace of about 10 pages a second.
const SLOW: [&str; 6] = ["--page-size", "10", "--stride", "2", "--rate", "100"];

fn at(address: &str, mut command: Command) -> Command {
    command.env("TEMPORAL_ADDRESS", address);
    command
}

fn slow_backfill(home: &Home, address: &str, id: &str, more: &[&str]) -> Command {
    let mut command = about(home, offline, &["--set", "x = x + 1", "--batch-id", id]);
    command.args(SLOW).args(more);
    at(address, command)
}

fn full_speed(address: &str, id: &str) {
    let faster = ["set", id, "--rate", "none", "--page-size", "500"];
    exits(&run(at(address, offline(&faster))), 0);
}

/// The number of lines about outages.
fn told(ended: &Ended, part: &str) -> usize {
    ended.err.matches(part).count()
}

#[tokio::test]
async fn followers_of_a_batch_continue_over_refused_and_stalled_connections() {
    let home = database::sqlite().await;
    home.numbers(20_000).await;
    home.ledger_tables().await;
    let proxy = Proxy::before(server_address());
    let id = id();
    let address = proxy.address();
    let backfill = slow_backfill(&home, &address, &id, &["--once", "--verify", "x = 1"]);
    let backfill = start(backfill);
    backfill.says("runs");
    let follow = |args: &[&str]| start(at(&address, offline(args)));
    let watch = follow(&["watch", &id, "--plain"]);
    watch.says("in flight");
    let ensure = follow(&["ensure-complete", &id, "--wait"]);
    ensure.says("waiting for its end");
    let followers = [backfill, watch, ensure];
    let all_say = |part: &str| {
        for follower in &followers {
            follower.says(part);
        }
    };

    proxy.refuse();
    all_say(AWAY);
    proxy.pass();
    all_say(BACK);
    // The short outage, for as long as it lasts, need not be noticed.
    for seconds in [4, 9] {
        proxy.stall();
        thread::sleep(Duration::from_secs(seconds));
        proxy.pass();
        let done = home.number("SELECT count(*) FROM t WHERE x > 0").await;
        wait_for_rows(&home, done + 20).await;
    }
    // No data arrives, and then the connection is cut.
    proxy.stall();
    thread::sleep(Duration::from_secs(4));
    proxy.refuse();
    thread::sleep(Duration::from_secs(4));
    proxy.pass();
    let done = home.number("SELECT count(*) FROM t WHERE x > 0").await;
    wait_for_rows(&home, done + 20).await;

    full_speed(server_address(), &id);
    for ended in followers.map(Running::ended) {
        exits(&ended, 0);
        // Each outage is reported once.
        assert!((1..=2).contains(&told(&ended, AWAY)), "{ended:#?}");
        assert_eq!(told(&ended, AWAY), told(&ended, BACK), "{ended:#?}");
    }
    let right = home.number("SELECT count(*) FROM t WHERE x = 1").await;
    assert_eq!(right, 20_000);
}

#[tokio::test]
async fn an_import_and_an_export_continue_over_an_outage() {
    let home = database::sqlite().await;
    home.numbers(10_000).await;
    home.script("CREATE TABLE u (id INTEGER NOT NULL PRIMARY KEY)")
        .await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ids.csv");
    let ids: Vec<_> = (1..=10_000).map(|id| format!("{id}\n")).collect();
    std::fs::write(&file, format!("id\n{}", ids.concat())).unwrap();
    let to = folder.path().join("t");
    let (file, to) = (file.to_str().unwrap(), to.to_str().unwrap());
    let proxy = Proxy::before(server_address());
    let address = proxy.address();
    let slow = |args: &[&str], id: &str| {
        let mut command = at(&address, offline(args));
        command.env("DATABASE_URL", &home.url);
        start({
            command.args(SLOW).args(["--batch-id", id]);
            command
        })
    };
    let ids = [id(), id()];
    let import = ["import", file, "--table", "u", "--create-ledger-tables"];
    let export = ["export", "--table", "t", "--to", to, "--format", "csv"];
    let both = [slow(&import, &ids[0]), slow(&export, &ids[1])];
    for command in &both {
        command.says("runs");
    }
    proxy.refuse();
    for command in &both {
        command.says(AWAY);
    }
    proxy.pass();
    for command in &both {
        command.says(BACK);
    }
    for id in &ids {
        full_speed(server_address(), id);
    }
    for ended in both.map(Running::ended) {
        exits(&ended, 0);
    }
    assert_eq!(home.number("SELECT count(*) FROM u").await, 10_000);
}

#[tokio::test]
async fn a_backfill_continues_when_the_temporal_server_is_restarted() {
    let home = database::sqlite().await;
    home.numbers(10_000).await;
    home.ledger_tables().await;
    let folder = tempfile::tempdir().unwrap();
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = free.local_addr().unwrap().port();
    drop(free);
    let server = || {
        let options = DevServerOptions::new().port(port);
        options.db_filename(folder.path().join("temporal.db"))
    };
    let first = server().start().await.unwrap();
    let (address, id) = (first.address(), id());
    let backfill = start(slow_backfill(&home, &address, &id, &["--once"]));
    backfill.says("runs");
    let watch = start(at(&address, offline(&["watch", &id, "--plain"])));
    watch.says("in flight");
    first.stop().await.unwrap();
    backfill.says(AWAY);
    watch.says(AWAY);
    let second = server().start().await.unwrap();
    backfill.says(BACK);
    watch.says(BACK);
    full_speed(&address, &id);
    exits(&backfill.ended(), 0);
    exits(&watch.ended(), 0);
    second.stop().await.unwrap();
    let right = home.number("SELECT count(*) FROM t WHERE x = 1").await;
    assert_eq!(right, 10_000);
}

#[tokio::test]
async fn an_outage_that_lasts_too_long_ends_the_command_and_not_the_batch() {
    let home = database::sqlite().await;
    home.numbers(10_000).await;
    let proxy = Proxy::before(server_address());
    let (address, id) = (proxy.address(), id());
    let command = || slow_backfill(&home, &address, &id, &["--outage-timeout", "1s"]);
    let backfill = start(command());
    backfill.says("runs");
    wait_for_rows(&home, 20).await;
    proxy.refuse();
    let ended = backfill.ended();
    exits(&ended, 1);
    for part in [
        "giving up after 1s",
        "the batch is unharmed",
        "the same command",
    ] {
        assert!(ended.err.contains(part), "{part}: {}", ended.err);
    }
    // A server that is unavailable at the start is reported at once.
    let refused = run(command());
    exits(&refused, 1);
    assert!(
        refused.err.contains("no Temporal server can be reached"),
        "{refused:#?}"
    );
    assert!(!refused.err.contains(AWAY), "{refused:#?}");

    proxy.pass();
    let again = start(command());
    again.says("runs");
    full_speed(server_address(), &id);
    exits(&again.ended(), 0);
    assert_eq!(home.number("SELECT count(*) FROM t WHERE x = 0").await, 0);
}

#[tokio::test]
async fn an_outage_can_be_left_with_ctrl_c() {
    let home = database::sqlite().await;
    home.numbers(10_000).await;
    let proxy = Proxy::before(server_address());
    let (address, id) = (proxy.address(), id());
    let more = ["--drain-timeout", "1s"];
    let backfill = start(slow_backfill(&home, &address, &id, &more));
    backfill.says("runs");
    proxy.refuse();
    backfill.says(AWAY);
    backfill.signal("INT");
    backfill.says("interrupted");
    backfill.signal("INT");
    exits(&backfill.ended(), 130);
    exits(&run(online(&["cancel", &id])), 0);
}

//! Requesters are told what became of their request.

use std::time::Duration;

use temporal_batch::PageError;
use temporal_batch_batcher::{Outcome, Refusal, Request};

use crate::{
    requesters::{Requesters, answer, terminate},
    sink::Sink,
    town::{Town, request, requests},
};

const LONG: Duration = Duration::from_secs(150);
const WRITTEN: &str = "prepared, written, finished";

/// Fifty workflows, one write; each of them is confirmed and goes on. The batcher is started by the first of them.
#[tokio::test]
async fn fifty_requesters_are_one_write_and_all_are_confirmed() {
    let town = Town::new("fifty").await.with(|b| b.max_batch(50));
    let sink = Sink::new();
    let _worker = town.worker(sink.clone()).await;
    let requesters = town.requesters().await;
    let mut requesting = Vec::new();
    for i in 0..50 {
        requesting.push(requesters.request(&town.batcher, request(i), LONG).await);
    }
    for requesting in &requesting {
        assert_eq!(answer(requesting).await, WRITTEN);
    }
    assert_eq!(sink.sizes(), [50]);
    let stats = town.shut_down().await;
    assert_eq!((stats.confirmed, stats.confirmations_failed), (50, 0));
    crate::replay::replays(&town.env, &town.batcher.workflow_id(0), "fifty").await;
}

#[tokio::test]
async fn a_batcher_that_does_not_run_is_started_by_a_submission() {
    let town = Town::new("absent").await.with(|b| b.max_batch(1));
    let requesters = town.requesters().await;
    let requesting = requesters.request(&town.batcher, request(0), LONG).await;
    let worker = town.worker(Sink::new()).await;
    assert_eq!(answer(&requesting).await, WRITTEN);
    town.submit(vec![request(1)]).await;
    assert_eq!(town.outcome("r00001").await, Outcome::Written);
    // After its end, a submission starts it again.
    town.shut_down().await;
    town.submit(vec![request(2)]).await;
    assert_eq!(town.outcome("r00002").await, Outcome::Written);
    worker.stop().await.unwrap();
}

#[tokio::test]
async fn the_errors_of_a_requester_are_told_apart() {
    let sink = Sink::answering(
        |_, requests| match requests.iter().any(|r| r.id == "poison") {
            true => Err(PageError::non_retryable("Constraint", "no such customer")),
            false => Ok(()),
        },
    );
    let town = Town::new("errors")
        .await
        .with(|b| b.max_batch(1).max_batch_bytes(2_000));
    let requesters = town.requesters().await;
    let ask = |request: Request, timeout| requesters.request(&town.batcher, request, timeout);

    let late = ask(request(0), Duration::from_secs(1)).await;
    let late = answer(&late).await;
    assert!(late.starts_with("ConfirmationTimeout: "), "{late}");
    assert!(late.contains("its outcome is unknown"), "{late}");

    let _worker = town.worker(sink).await;
    let failed = answer(&ask(Request::new("poison", 1), LONG).await).await;
    let expected = "WriteFailed: the request was not written: Constraint: no such customer";
    assert_eq!(failed, expected);

    let large = Request::new("large", "x".repeat(2_000));
    let refused = answer(&ask(large, LONG).await).await;
    assert!(refused.starts_with("Refused: "), "{refused}");

    let invalid = town.batcher.clone().shards(0);
    let invalid = requesters.request(&invalid, request(8), LONG).await;
    let invalid = answer(&invalid).await;
    assert!(
        invalid.starts_with("Invalid: shards of batcher"),
        "{invalid}"
    );

    // Nothing runs under this name, and the worker cannot start it.
    let nobody =
        temporal_batch_batcher::Batcher::new(format!("{}-other", town.env.queue), "sink", "q");
    let broken = Requesters::without_submit_activities(&format!("{}-broken", town.env.queue)).await;
    let unsubmitted = answer(&broken.request(&nobody, request(9), LONG).await).await;
    assert!(unsubmitted.starts_with("SubmitUnknown: "), "{unsubmitted}");
    let attempts = async |request| {
        let id = format!("{}-broken-{request}", town.env.queue);
        submit_attempts(&town, &id).await
    };
    assert_eq!(attempts("r00009").await, 5);
    // The time of the requester bounds the delivery too.
    let short = Duration::from_secs(1);
    let unsubmitted = answer(&broken.request(&nobody, request(10), short).await).await;
    assert!(unsubmitted.starts_with("SubmitUnknown: "), "{unsubmitted}");
    let attempts = attempts("r00010").await;
    assert!(attempts < 5, "{attempts} attempts");
}

#[tokio::test]
async fn a_requester_that_is_gone_blocks_no_other() {
    let town = Town::new("gone").await.with(|b| b.max_batch(3));
    let requesters = town.requesters().await;
    let mut requesting = Vec::new();
    for i in 0..2 {
        requesting.push(requesters.request(&town.batcher, request(i), LONG).await);
    }
    let _worker = town.worker(Sink::new()).await;
    town.stats_show("both wait", |stats| stats.pending == 2)
        .await;
    terminate(&requesting[0]).await;
    town.submit(vec![request(2)]).await;
    assert_eq!(answer(&requesting[1]).await, WRITTEN);
    let stats = town.shut_down().await;
    assert_eq!(
        (stats.confirmed, stats.confirmations_failed),
        (1, 1),
        "{stats:?}"
    );
    assert_eq!(stats.written, 3);
}

#[tokio::test]
async fn a_full_batcher_refuses_and_takes_requests_again_later() {
    let town = Town::new("full")
        .await
        .with(|b| b.max_batch(5).max_pending(5));
    let sink = Sink::closed();
    let _worker = town.worker(sink.clone()).await;
    let requesters = town.requesters().await;
    town.submit(requests(0, 5)).await;
    town.stats_show("five are held", |stats| stats.held == 5)
        .await;
    let refused = requesters.request(&town.batcher, request(5), LONG).await;
    let refused = answer(&refused).await;
    assert!(refused.starts_with("Refused: "), "{refused}");
    assert!(refused.contains("holds 5 requests"), "{refused}");
    town.submit(vec![request(6)]).await;
    let outcome = town.outcome("r00006").await;
    assert!(
        matches!(
            outcome,
            Outcome::Refused {
                reason: Refusal::Full { max_pending: 5, .. }
            }
        ),
        "{outcome}"
    );
    sink.let_through(100);
    town.stats_show("room is made", |stats| stats.held == 0)
        .await;
    town.submit(vec![request(6)]).await;
    town.stats_show("the request is held", |stats| stats.pending == 1)
        .await;
    let stats = town.shut_down().await;
    assert_eq!((stats.written, stats.refused), (6, 2));
    assert!(!sink.written().contains_key("r00005"));
}

/// Two requesters with one request: it is written once, and both are told.
#[tokio::test]
async fn everyone_who_submits_the_same_request_is_told() {
    let town = Town::new("shared").await.with(|b| b.max_batch(2));
    let sink = Sink::new();
    let _worker = town.worker(sink.clone()).await;
    let (a, b) = (
        town.requesters().await,
        Requesters::start(&format!("{}-second", town.env.queue)).await,
    );
    let same = || Request::new("same", 1);
    let first = a.request(&town.batcher, same(), LONG).await;
    let second = b.request(&town.batcher, same(), LONG).await;
    town.stats_show("the second one has joined", |stats| stats.duplicates == 1)
        .await;
    town.submit(vec![request(1)]).await;
    assert_eq!(answer(&first).await, WRITTEN);
    assert_eq!(answer(&second).await, WRITTEN);
    assert_eq!(sink.written()["same"], 1);
}

/// The attempts of the activity that submits for a requester, which are more than those of its other activities.
async fn submit_attempts(town: &Town, requester: &str) -> u64 {
    let histories = town.env.histories(requester).await;
    let history: serde_json::Value = serde_json::from_slice(&histories[0]).unwrap();
    let events = history["events"].as_array().unwrap().iter();
    let attempt = |event: &serde_json::Value| {
        event["attributes"]["ActivityTaskStartedEventAttributes"]["attempt"].as_u64()
    };
    events.filter_map(attempt).max().unwrap()
}

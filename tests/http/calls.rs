//! What a call is, and what becomes of its answer.

use std::{collections::HashSet, time::Duration};

use temporal_batch::{
    Batch, Outcome,
    http::{ApiClient, ApiRequest},
    testing::{Simulator, run_page},
};

use crate::{
    processor::{CallNumbers, options},
    support::mock_api::{MockApi, Reply},
};

#[tokio::test]
async fn only_the_record_that_failed_is_called_again_with_the_same_key() {
    let api = MockApi::start(|call| match (call.path.as_str(), call.before) {
        ("/n/3", 0) => Reply::of(500, ""),
        ("/n/3", 1) => Reply::of(503, ""),
        ("/n/7", _) => Reply::of(422, "no such customer"),
        ("/n/9", _) => Reply::of(502, ""),
        _ => Reply::of(200, "{}"),
    })
    .await;
    let processor = CallNumbers::new(&api.url, 20);
    let batch = Batch::of::<CallNumbers>("calls", ()).page_size(10);
    let run = Simulator::new().run(&processor, &batch).await.unwrap();
    assert_eq!(run.outcome, Outcome::CompletedWithFailures);
    assert_eq!((run.items.processed, run.items.failed), (18, 2));
    let calls = api.calls();
    let times = |path: &str| calls.iter().filter(|call| call.path == path).count();
    assert_eq!((times("/n/3"), times("/n/7"), times("/n/9")), (3, 1, 4));
    assert_eq!(calls.len(), 17 + 3 + 1 + 4);
    let keys = |path: &str| -> HashSet<_> {
        let of_path = calls.iter().filter(|call| call.path == path);
        of_path
            .map(|call| call.header("idempotency-key").to_owned())
            .collect()
    };
    assert_eq!(keys("/n/3").len(), 1, "the key is stable");
    let all: HashSet<_> = calls
        .iter()
        .map(|call| call.header("idempotency-key"))
        .collect();
    assert_eq!(all.len(), 20, "each record has a key of its own");
    assert!(
        calls
            .iter()
            .all(|call| call.header("content-type") == "application/json")
    );
}

#[tokio::test]
async fn a_page_has_as_many_calls_in_flight_as_allowed_and_no_more() {
    let api = MockApi::start(|_| Reply::of(200, "").after(Duration::from_millis(50))).await;
    let processor = CallNumbers::new(&api.url, 40);
    run_page(&processor, (), None).await.unwrap();
    let most = api.calls().iter().map(|call| call.in_flight).max();
    assert_eq!(most, Some(5));
}

#[tokio::test]
async fn an_answer_that_cannot_be_used_is_a_failure_with_its_reason() {
    let api = MockApi::start(|call| match call.path.as_str() {
        "/large" => Reply::of(200, "x".repeat(2_000)),
        "/down" => Reply::of(503, "x".repeat(2_000)),
        "/slow" => Reply::of(200, "").after(Duration::from_secs(60)),
        "/moved" => Reply::of(302, "").header("location", "/elsewhere"),
        "/text" => Reply::of(400, "é".repeat(5_000)),
        _ => Reply::of(200, "{"),
    })
    .await;
    let mut options = options();
    options.max_answer_bytes = 1_000;
    let client = ApiClient::with("api", options.clone()).unwrap();
    let url = api.url.clone();
    let get = async |client: &ApiClient, path: &str| {
        let request = ApiRequest::get(&format!("{url}{path}")).unwrap();
        client.try_once(&request).await
    };
    let large = get(&client, "/large").await.unwrap_err();
    assert_eq!(large.error().error_type(), "AnswerTooLarge");
    assert!(!large.error().is_retryable());
    let down = get(&client, "/down").await.unwrap_err();
    assert_eq!(down.error().error_type(), "Http503");
    assert!(down.error().is_retryable());
    let moved = get(&client, "/moved").await.unwrap_err();
    assert_eq!(
        (moved.status(), moved.error().error_type()),
        (Some(302), "Http302")
    );
    assert!(api.calls().iter().all(|call| call.path != "/elsewhere"));
    let json = get(&client, "/json")
        .await
        .unwrap()
        .json::<()>()
        .unwrap_err();
    assert_eq!(json.error_type(), "AnswerNotReadable");
    options.timeout = Duration::from_millis(200);
    options.max_answer_bytes = 100_000;
    let client = ApiClient::with("api", options).unwrap();
    let slow = get(&client, "/slow").await.unwrap_err();
    assert_eq!(slow.error().error_type(), "HttpTimeout");
    assert!(slow.error().is_retryable() && !slow.is_outage());
    let text = get(&client, "/text").await.unwrap_err();
    assert_eq!(text.body_start().chars().count(), 500);
    assert_eq!(text.error().message(), "400 Bad Request");
}

#[tokio::test]
async fn an_api_that_is_not_there_is_an_outage() {
    let unused = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/?secret=s3cret", unused.local_addr().unwrap());
    drop(unused);
    let client = ApiClient::new("api").unwrap();
    let failure = client
        .try_once(&ApiRequest::get(&url).unwrap())
        .await
        .unwrap_err();
    assert!(failure.is_outage(), "{failure:?}");
    assert!(!failure.error().message().contains("s3cret"), "{failure:?}");
}

//! A real server that goes away and comes back, as listeners see it.

use std::time::Duration;

use super::*;
use crate::{
    processor::throttle::Throttles,
    sql::test_server::{Postgres, Stop},
};

async fn soon<F: Future>(what: &str, event: F) -> F::Output {
    let limit = Duration::from_secs(60);
    let event = tokio::time::timeout(limit, event).await;
    event.unwrap_or_else(|_| panic!("waited {limit:?} for {what}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_stops_holds_for_a_bounded_time_and_counts_again_when_it_is_back() {
    let Some(server) = Postgres::launch(false) else {
        return Postgres::skip();
    };
    let throttle = PostgresThrottle::builder(server.pool("stops", 2).await)
        .max_waiting(4)
        .interval(Duration::from_millis(50))
        .timeout(Duration::from_secs(2))
        .hold_on_failure(Duration::from_secs(8))
        .build()
        .unwrap();
    let mut throttles = Throttles::default();
    throttles.add(throttle).unwrap();
    let mut monitor = throttles.monitor(&["database".to_owned()]).unwrap();
    let first = soon("the first answer", monitor.first()).await;
    assert_eq!((first.verdict, first.failing), (Verdict::Go, false));

    let server = tokio::task::spawn_blocking(move || {
        server.stop(Stop::Immediate);
        server
    });
    let server = server.await.unwrap();
    let failing = soon("a failure", monitor.changed()).await;
    assert!(failing.failing, "{failing:?}");
    let reason = failing.verdict.reason().unwrap();
    assert!(reason.starts_with("throttle database fails: "), "{reason}");
    let mut reading = failing;
    while reading.verdict != Verdict::Go {
        reading = soon("letting go", monitor.changed()).await;
    }
    assert!(reading.failing);

    let server = tokio::task::spawn_blocking(move || {
        server.start();
        server
    });
    let _server = server.await.unwrap();
    while reading.failing {
        reading = soon("the recovery", monitor.changed()).await;
    }
    assert_eq!(reading.verdict, Verdict::Go);
}

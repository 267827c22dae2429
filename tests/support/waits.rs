//! Waits that fail after a while and say what they waited for.

use std::{
    future::Future,
    thread,
    time::{Duration, Instant},
};

/// The time after which a wait fails.
pub const PATIENCE: Duration = Duration::from_secs(180);

/// Fails if a future takes too long.
pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(value) => value,
        Err(_) => panic!("gave up after {PATIENCE:?} of waiting until {what}"),
    }
}

/// Polls until there is an answer.
pub async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, ask: impl FnMut() -> F) -> T {
    within(what, poll(ask)).await
}

pub async fn poll<T, F: Future<Output = Option<T>>>(mut ask: impl FnMut() -> F) -> T {
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Polls until there is an answer, in a test without a runtime.
#[track_caller]
pub fn wait_for<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    wait_for_ok(what, || ask().ok_or_else(|| "not yet".to_owned()))
}

/// Polls until there is an answer. The panic shows the last error.
#[track_caller]
pub fn wait_for_ok<T>(what: &str, mut ask: impl FnMut() -> Result<T, String>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match ask() {
            Ok(answer) => return answer,
            Err(last) => assert!(
                Instant::now() < deadline,
                "gave up after {PATIENCE:?} of waiting until {what}: {last}"
            ),
        }
        thread::sleep(Duration::from_millis(20));
    }
}

//! Tests that really poll throttles: bounded, shared, started and stopped.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering::SeqCst},
    },
    time::Duration,
};

use async_trait::async_trait;
use tokio::sync::watch;

use super::*;

/// The behaviour of the next calls.
#[derive(Clone, Debug)]
enum Does {
    Says(Verdict),
    Errs,
    Panics,
    Hangs,
    Blocks(Duration),
}

/// A throttle that behaves as told and counts its calls.
#[derive(Clone)]
struct Puppet {
    name: &'static str,
    does: Arc<Mutex<Does>>,
    interval: Duration,
    hold: Duration,
    asks: watch::Sender<u32>,
    running: watch::Sender<u32>,
    most_running: Arc<AtomicU32>,
}

impl Puppet {
    fn new(name: &'static str, does: Does) -> Self {
        Self {
            name,
            does: Arc::new(Mutex::new(does)),
            interval: Duration::from_millis(10),
            hold: Duration::from_secs(60),
            asks: watch::Sender::new(0),
            running: watch::Sender::new(0),
            most_running: Arc::default(),
        }
    }

    fn now(&self, does: Does) {
        *self.does.lock().unwrap() = does;
    }

    /// Waits for that many calls in total.
    async fn asked(&self, times: u32) {
        let mut asks = self.asks.subscribe();
        let asked = asks.wait_for(|asks| *asks >= times);
        soon("asks", asked).await.unwrap();
    }
}

struct Running(watch::Sender<u32>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.send_modify(|running| *running -= 1);
    }
}

#[async_trait]
impl Throttle for Puppet {
    fn name(&self) -> &str {
        self.name
    }

    async fn ask(&self) -> Result<Verdict, Box<dyn std::error::Error + Send + Sync>> {
        self.asks.send_modify(|asks| *asks += 1);
        self.running.send_modify(|running| *running += 1);
        self.most_running.fetch_max(*self.running.borrow(), SeqCst);
        let _running = Running(self.running.clone());
        let does = self.does.lock().unwrap().clone();
        match does {
            Does::Says(verdict) => Ok(verdict),
            Does::Errs => Err("it is gone".into()),
            Does::Panics => panic!("it is odd"),
            Does::Hangs => std::future::pending().await,
            Does::Blocks(time) => {
                std::thread::sleep(time);
                Ok(Verdict::Go)
            }
        }
    }

    fn interval(&self) -> Duration {
        self.interval
    }

    fn timeout(&self) -> Duration {
        match &*self.does.lock().unwrap() {
            Does::Hangs | Does::Blocks(_) => Duration::from_millis(100),
            // Printing a panic can take a while.
            _ => Duration::from_secs(30),
        }
    }

    fn hold_on_failure(&self) -> Duration {
        self.hold
    }
}

async fn soon<F: Future>(what: &str, event: F) -> F::Output {
    let limit = Duration::from_secs(30);
    let event = tokio::time::timeout(limit, event).await;
    event.unwrap_or_else(|_| panic!("waited {limit:?} for {what}"))
}

/// Follows the changes until one of them matches.
async fn until(
    monitor: &mut ThrottleMonitor,
    what: &str,
    wanted: impl Fn(&Reading) -> bool,
) -> Reading {
    let mut reading = monitor.current();
    while !wanted(&reading) {
        let what = format!("{what}; it is {reading:?}");
        reading = soon(&what, monitor.changed()).await;
    }
    reading
}

fn throttles<const N: usize>(puppets: [&Puppet; N]) -> (Throttles, Vec<String>) {
    let mut throttles = Throttles::default();
    for puppet in puppets {
        throttles.add(puppet.clone()).unwrap();
    }
    let names = throttles.names().map(str::to_owned).collect();
    (throttles, names)
}

fn hold(reason: &str) -> Verdict {
    Verdict::Hold {
        reason: reason.to_owned(),
    }
}

fn slow(factor: f64) -> Verdict {
    Verdict::Slow {
        factor,
        reason: format!("{factor}"),
    }
}

/// Asserts that the throttle holds at once with that reason, lets go when its time is over, and recovers.
async fn is_bounded(does: Does, reason: &str) {
    let mut db = Puppet::new("db", does);
    db.hold = Duration::from_secs(2);
    let (throttles, names) = throttles([&db]);
    let mut monitor = throttles.monitor(&names).unwrap();
    assert_eq!(
        monitor.current().verdict,
        hold("throttle db has not answered yet")
    );
    let first = soon("the first answer", monitor.first()).await;
    assert_eq!(first.verdict, hold(&format!("throttle db fails: {reason}")));
    assert!(first.failing);
    let let_go = until(&mut monitor, "letting go", |reading| {
        reading.verdict == Verdict::Go
    })
    .await;
    assert!(let_go.failing);
    assert_eq!(let_go.by, "db");
    let asks = *db.asks.borrow();
    db.asked(asks + 1).await;
    db.now(Does::Says(hold("lag")));
    let back = until(&mut monitor, "the recovery", |reading| !reading.failing).await;
    assert_eq!(back.verdict, hold("lag"));
}

#[tokio::test]
async fn an_error_holds_for_a_bounded_time() {
    is_bounded(Does::Errs, "it is gone").await;
}

#[tokio::test]
async fn a_panic_holds_for_a_bounded_time() {
    is_bounded(Does::Panics, "panicked: it is odd").await;
}

#[tokio::test]
async fn a_hang_holds_for_a_bounded_time() {
    is_bounded(Does::Hangs, "no answer within 100ms").await;
}

#[tokio::test]
async fn a_factor_that_is_none_holds_for_a_bounded_time() {
    is_bounded(Does::Says(slow(1.5)), "factor 1.5 is not between 0 and 1").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn code_that_blocks_its_thread_is_bounded_too_and_blocks_no_second_one() {
    let blocks = Does::Blocks(Duration::from_millis(400));
    let db = Puppet::new("db", blocks);
    let (throttles, names) = throttles([&db]);
    let mut monitor = throttles.monitor(&names).unwrap();
    let first = soon("the first answer", monitor.first()).await;
    let expected = hold("throttle db fails: no answer within 100ms");
    assert_eq!(first.verdict, expected);
    // A listener that joins while a call blocks starts no second call.
    drop(monitor);
    let mut monitor = throttles.monitor(&names).unwrap();
    db.asked(3).await;
    assert_eq!(db.most_running.load(SeqCst), 1);
    db.now(Does::Says(Verdict::Go));
    until(&mut monitor, "the recovery", |reading| !reading.failing).await;
}

#[tokio::test]
async fn a_hold_before_the_first_answer_ends_too() {
    let mut db = Puppet::new("db", Does::Hangs);
    db.hold = Duration::ZERO;
    let (throttles, names) = throttles([&db]);
    let mut monitor = throttles.monitor(&names).unwrap();
    let first = soon("the first answer", monitor.first()).await;
    assert_eq!((first.verdict, first.failing), (Verdict::Go, true));
}

#[tokio::test]
async fn however_many_listen_it_is_asked_once_an_interval() {
    let mut db = Puppet::new("db", Does::Says(slow(0.5)));
    db.interval = Duration::from_secs(3600);
    let (throttles, names) = throttles([&db]);
    for _ in 0..3 {
        let mut monitors: Vec<_> = (0..10)
            .map(|_| throttles.clone().monitor(&names).unwrap())
            .collect();
        for monitor in &mut monitors {
            let reading = soon("the first answer", monitor.first()).await;
            assert_eq!(reading.verdict, slow(0.5));
        }
    }
    assert_eq!(*db.asks.borrow(), 1);
}

#[tokio::test]
async fn it_is_asked_while_somebody_listens_and_not_longer() {
    let db = Puppet::new("db", Does::Says(Verdict::Go));
    let (throttles, names) = throttles([&db]);
    let first = throttles.monitor(&names).unwrap();
    let mut second = throttles.monitor(&names).unwrap();
    soon("the first answer", second.first()).await;
    drop(first);
    let asks = *db.asks.borrow();
    db.asked(asks + 2).await;
    // A running call is dropped.
    db.now(Does::Hangs);
    let mut running = db.running.subscribe();
    soon("a hang", running.wait_for(|running| *running == 1))
        .await
        .unwrap();
    drop(second);
    soon("the drop", running.wait_for(|running| *running == 0))
        .await
        .unwrap();
    let asks = *db.asks.borrow();
    tokio::time::sleep(db.interval * 20).await;
    assert_eq!(*db.asks.borrow(), asks);
    db.now(Does::Says(slow(0.5)));
    let mut third = throttles.monitor(&names).unwrap();
    assert_eq!(
        soon("the first answer", third.first()).await.verdict,
        slow(0.5)
    );
}

#[tokio::test]
async fn the_readings_follow_all_throttles() {
    let one = Puppet::new("one", Does::Says(Verdict::Go));
    let two = Puppet::new("two", Does::Says(slow(0.5)));
    let (throttles, names) = throttles([&one, &two]);
    let mut monitor = throttles.monitor(&names).unwrap();
    let first = soon("the first answers", monitor.first()).await;
    assert_eq!((first.verdict, first.by.as_str()), (slow(0.5), "two"));
    one.now(Does::Says(slow(0.25)));
    let changed = soon("one", monitor.changed()).await;
    assert_eq!((changed.verdict, changed.by.as_str()), (slow(0.25), "one"));
    two.now(Does::Says(hold("full")));
    let changed = soon("two", monitor.changed()).await;
    assert_eq!(
        (changed.verdict, changed.by.as_str()),
        (hold("full"), "two")
    );
    two.now(Does::Says(Verdict::Go));
    one.now(Does::Says(Verdict::Go));
    until(&mut monitor, "go", |reading| reading.verdict == Verdict::Go).await;
}

#[tokio::test]
async fn without_throttles_nothing_is_in_the_way_and_nothing_changes() {
    let (throttles, names) = throttles([]);
    let mut monitor = throttles.monitor(&names).unwrap();
    assert_eq!(monitor.first().await.verdict, Verdict::Go);
    let changed = tokio::time::timeout(Duration::from_millis(50), monitor.changed());
    assert!(changed.await.is_err());
}

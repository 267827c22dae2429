//! Properties of the state of a shard, whatever happens in whatever order.

use std::{collections::BTreeMap, time::Duration};

use proptest::prelude::*;

use super::*;

fn batcher() -> Batcher {
    Batcher::new("orders", "rows", "queue")
        .max_batch(5)
        .max_batch_bytes(1_024)
        .max_pending(40)
        .max_pending_bytes(6_000)
        .max_writes(2)
        .max_wait(Duration::from_secs(20))
}

fn submission(ids: &[u8], bytes: usize, from: u8) -> Submission {
    let requests = ids
        .iter()
        .map(|id| Request::new(format!("r{id}"), "x".repeat(bytes)));
    Submission {
        shards: 1,
        reply_to: Some(format!("w{from}")),
        requests: requests.collect(),
    }
}

/// An event, or what the workflow does between events.
#[derive(Clone, Debug)]
enum Event {
    Submit(Vec<u8>, usize, u8),
    /// The write of the n-th batch in flight ends.
    Written(usize, bool),
    /// The n-th call that tells requesters ends.
    Confirmed(usize, bool),
    Wait(u64),
    HandOver,
    HandOverOverdue,
    ShutDown,
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let submit = (
        prop::collection::vec(0_u8..60, 1..12),
        0_usize..1_200,
        0_u8..3,
    );
    let event = prop_oneof![
        8 => submit.prop_map(|(ids, bytes, from)| Event::Submit(ids, bytes / 4, from)),
        1 => (0_u8..60, 900_usize..1_200).prop_map(|(id, bytes)| Event::Submit(vec![id], bytes, 0)),
        6 => (0_usize..3, any::<bool>()).prop_map(|(n, ok)| Event::Written(n, ok)),
        6 => (0_usize..3, any::<bool>()).prop_map(|(n, ok)| Event::Confirmed(n, ok)),
        4 => (0_u64..30_000).prop_map(Event::Wait),
        2 => Just(Event::HandOver),
        1 => Just(Event::HandOverOverdue),
        1 => Just(Event::ShutDown),
    ];
    prop::collection::vec(event, 1..80)
}

/// The shard with the world around it, which keeps books of its own.
struct World {
    batcher: Batcher,
    state: BatcherState,
    now: Timestamp,
    writes: Vec<u64>,
    confirms: Vec<u64>,
    /// Submissions of each id for each requester that have not been answered. A shard may answer several at once.
    asked: BTreeMap<(String, String), u32>,
    /// Confirmations that each requester of an id has been told.
    told: BTreeMap<(String, String), u32>,
    /// Requests of each batch number, to see that a repeated batch is the same.
    batches: BTreeMap<u64, Vec<String>>,
    finished: bool,
}

impl World {
    fn new() -> Self {
        Self {
            batcher: batcher(),
            state: BatcherState::default(),
            now: Timestamp(1_000_000),
            writes: Vec::new(),
            confirms: Vec::new(),
            asked: BTreeMap::new(),
            told: BTreeMap::new(),
            batches: BTreeMap::new(),
            finished: false,
        }
    }

    fn event(&mut self, event: Event) {
        match event {
            // A workflow that has completed gets no signals; the next one would be a new one.
            Event::Submit(..) if self.finished => {}
            Event::Submit(ids, bytes, from) => {
                let submission = submission(&ids, bytes, from);
                for request in &submission.requests {
                    let to = submission.reply_to.clone().unwrap();
                    *self.asked.entry((request.id.clone(), to)).or_default() += 1;
                }
                self.state.submitted(&self.batcher, self.now, submission);
            }
            Event::Written(n, ok) if n < self.writes.len() => {
                let number = self.writes.remove(n);
                let (requests, ..) = self.state.batch(number).unwrap();
                let outcome = match ok {
                    true => Outcome::Written,
                    false => Outcome::failed("Poison", &"no ".repeat(100)),
                };
                let outcomes = requests.iter().map(|_| outcome.clone()).collect();
                self.state.written(number, WriteReport { outcomes });
            }
            Event::Confirmed(n, ok) if n < self.confirms.len() => {
                let number = self.confirms.remove(n);
                let confirmations = self.state.confirmations(number);
                for (to, confirmation) in &confirmations {
                    *self
                        .told
                        .entry((confirmation.request_id.clone(), to.clone()))
                        .or_default() += 1;
                }
                let confirmed = confirmations.len() as u64;
                let report = ConfirmReport { confirmed, gone: 0 };
                self.state.confirmed(number, ok.then_some(report));
            }
            Event::Written(..) | Event::Confirmed(..) => {}
            Event::Wait(ms) => self.now.0 += ms,
            Event::HandOver => return self.run(HandOver::Due),
            Event::HandOverOverdue => return self.run(HandOver::Overdue),
            Event::ShutDown => self.state.shut_down(),
        }
        self.run(HandOver::No);
    }

    /// Does the steps until the shard waits.
    fn run(&mut self, hand_over: HandOver) {
        loop {
            match self.state.next(&self.batcher, self.now, hand_over) {
                Step::Write(number) => self.write(number),
                Step::Confirm(number) => self.confirms.push(number),
                Step::Wait(until) => {
                    self.check_wait(until, hand_over);
                    return;
                }
                Step::HandOver => {
                    let json = serde_json::to_string(&self.state).unwrap();
                    assert!(json.len() < 400_000, "{} bytes are carried", json.len());
                    let state: BatcherState = serde_json::from_str(&json).unwrap();
                    self.state = state.resumed();
                    self.writes.clear();
                    self.confirms.clear();
                    return self.run(HandOver::No);
                }
                Step::Finish => {
                    self.finished = true;
                    return;
                }
            }
        }
    }

    fn write(&mut self, number: u64) {
        let (requests, received, reason) = self.state.batch(number).unwrap();
        assert!(!requests.is_empty() && requests.len() <= 5, "{requests:?}");
        assert_eq!(received.len(), requests.len());
        let bytes: usize = requests.iter().map(Request::bytes).sum();
        assert!(bytes <= 1_024, "a batch of {bytes} bytes");
        assert!(self.writes.len() < 2, "three writes in flight");
        if reason == FlushReason::Time {
            let waited = self.now.since(received[0]);
            assert!(
                waited >= Duration::from_secs(20),
                "flushed after {waited:?}"
            );
        }
        let ids: Vec<_> = requests.into_iter().map(|r| r.id).collect();
        let before = self.batches.insert(number, ids.clone());
        assert!(
            before.is_none_or(|before| before == ids),
            "batch {number} has changed"
        );
        self.writes.push(number);
    }

    fn check_wait(&self, until: Option<Timestamp>, hand_over: HandOver) {
        if hand_over == HandOver::No {
            let free = self.writes.len() < 2;
            let first = self.state.pending.front().filter(|_| free);
            let due = first.map(|first| Timestamp(first.received_at.0 + 20_000));
            assert_eq!(
                until, due,
                "the clock of a batch starts with its first request"
            );
            assert!(due.is_none_or(|due| due > self.now));
        }
        self.check_books();
    }

    /// The amounts that are kept equal those of what is there.
    fn check_books(&self) {
        let counted_anew = BatcherState {
            ids: BTreeSet::new(),
            held: Amount::default(),
            refusals: Amount::default(),
            ..self.state.clone()
        };
        let recounted = counted_anew.resumed();
        assert_eq!(recounted.held, self.state.held);
        assert_eq!(recounted.refusals, self.state.refusals);
        assert_eq!(recounted.ids, self.state.ids);
        assert!(self.state.held.count <= 40 + 40, "{:?}", self.state.held);
        assert!(
            self.state.held.bytes <= 6_000 + 40 * 2 * 107,
            "{:?}",
            self.state.held
        );
    }

    /// Lets everything that has begun end well.
    fn settle(&mut self) {
        for _ in 0..10_000 {
            if !self.writes.is_empty() {
                self.event(Event::Written(0, true));
            } else if !self.confirms.is_empty() {
                self.event(Event::Confirmed(0, true));
            } else if self.state.pending.is_empty() {
                return;
            } else {
                self.event(Event::Wait(20_000));
            }
        }
        panic!("the shard never comes to rest: {:?}", self.state);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    /// Nothing is lost: each requester that asked for a request is told an outcome of it, at least once and at most as
    /// often as it asked, if no call is repeated.
    #[test]
    fn every_requester_is_told(events in events()) {
        let mut world = World::new();
        let repeats = events.iter().any(|e| matches!(e, Event::HandOverOverdue));
        for event in events {
            world.event(event);
        }
        world.settle();
        for (asked, times) in &world.asked {
            let told = world.told.get(asked).copied().unwrap_or(0);
            prop_assert!(told >= 1, "{asked:?} was never told");
            prop_assert!(told <= *times || repeats, "{asked:?} asked {times} times and was told {told} times");
        }
        let stats = world.state.stats();
        prop_assert_eq!(stats.held, 0);
        prop_assert_eq!(stats.held_bytes, 0);
        let ended = stats.written + stats.failed + stats.duplicates + stats.refused;
        // A duplicate that found no room for its requester is refused too.
        prop_assert!(ended >= stats.received);
    }

    /// A request is in one batch only, until it is confirmed or handed over.
    #[test]
    fn no_request_is_in_two_batches_at_once(events in events()) {
        let mut world = World::new();
        for event in events {
            world.event(event);
            let mut ids = BTreeSet::new();
            for number in world.state.writing.keys() {
                for held in &world.state.writing[number].requests {
                    prop_assert!(ids.insert(held.request.id.clone()));
                }
            }
            for held in &world.state.pending {
                prop_assert!(ids.insert(held.request.id.clone()));
            }
        }
    }

    /// A shard that shuts down writes everything that it has taken, and then finishes.
    #[test]
    fn a_shutdown_writes_everything_and_finishes(events in events()) {
        let mut world = World::new();
        for event in events {
            world.event(event);
        }
        world.event(Event::ShutDown);
        world.settle();
        prop_assert!(world.finished);
        prop_assert!(world.state.pending.is_empty() && world.state.answers.is_empty());
    }
}

#[test]
fn two_hundred_and_fifty_requests_are_three_batches() {
    let batcher = Batcher::new("orders", "rows", "queue");
    let mut state = BatcherState::default();
    let requests = (0..250).map(|i| Request::new(format!("r{i}"), 1)).collect();
    let now = Timestamp(0);
    let submission = Submission {
        shards: 1,
        reply_to: None,
        requests,
    };
    state.submitted(&batcher, now, submission);
    let batch = |step| match step {
        Step::Write(number) => number,
        other => panic!("{other:?}"),
    };
    let first = batch(state.next(&batcher, now, HandOver::No));
    let second = batch(state.next(&batcher, now, HandOver::No));
    let wait = state.next(&batcher, now, HandOver::No);
    assert_eq!(wait, Step::Wait(Some(Timestamp(20_000))));
    let third = batch(state.next(&batcher, Timestamp(20_000), HandOver::No));
    let sizes = [first, second, third].map(|number| state.batch(number).unwrap());
    let sizes = sizes.map(|(requests, _, reason)| (requests.len(), reason));
    use FlushReason::{Size, Time};
    assert_eq!(sizes, [(100, Size), (100, Size), (50, Time)]);
}

#[test]
fn an_idle_shard_waits_without_a_timer() {
    let mut state = BatcherState::default();
    let step = state.next(&batcher(), Timestamp(5), HandOver::No);
    assert_eq!(step, Step::Wait(None));
}

#[test]
fn a_flood_of_refusals_does_not_grow_the_state() {
    let batcher = batcher();
    let mut state = BatcherState::default();
    for i in 0..5_000 {
        let requests = vec![Request::new(format!("r{i}"), "x".repeat(100))];
        let reply_to = Some(format!("requester-{i}"));
        let submission = Submission {
            shards: 1,
            reply_to,
            requests,
        };
        state.submitted(&batcher, Timestamp(0), submission);
    }
    let stats = state.stats();
    assert_eq!(stats.received, 5_000);
    assert_eq!(stats.held + stats.refused, 5_000);
    assert!(stats.untold_refusals > 0 && state.answers.len() <= 1_000);
    let json = serde_json::to_string(&state).unwrap();
    assert!(json.len() < 800_000, "{} bytes", json.len());
}

/// Temporal takes no input above 2 MB, and the shard would be stuck.
#[test]
fn failures_of_all_requests_fit_into_the_input_of_the_next_run() {
    let batcher = Batcher::new("orders", "rows", "queue").max_pending(100_000);
    let batcher = batcher.max_pending_bytes(1_200_000).max_writes(100);
    let mut state = BatcherState::default();
    for from in 0..100 {
        let requests = (0..100).map(|i| Request::new(format!("r{from}-{i}"), 1));
        let submission = Submission {
            shards: 1,
            reply_to: Some("a-workflow-with-a-name".to_owned()),
            requests: requests.collect(),
        };
        state.submitted(&batcher, Timestamp(0), submission);
    }
    state.shut_down();
    let failed = Outcome::failed(&"T\u{0}".repeat(100), &"\u{0}\"".repeat(100));
    loop {
        match state.next(&batcher, Timestamp(0), HandOver::No) {
            Step::Write(number) => {
                let (requests, ..) = state.batch(number).unwrap();
                let outcomes = vec![failed.clone(); requests.len()];
                state.written(number, WriteReport { outcomes });
            }
            Step::Confirm(_) => {}
            step => break assert_eq!(step, Step::Wait(None)),
        }
    }
    assert!(state.stats().failed > 5_000, "{:?}", state.stats());
    let json = serde_json::to_string(&state).unwrap();
    assert!(json.len() < 2_000_000, "{} bytes", json.len());
}

#[test]
fn a_batcher_with_other_shards_refuses() {
    let mut state = BatcherState::default();
    let submission = Submission {
        shards: 3,
        ..submission(&[1], 1, 0)
    };
    state.submitted(&batcher(), Timestamp(0), submission);
    let reason = Refusal::OtherShards {
        routed_for: 3,
        running: 1,
    };
    assert_eq!(state.known("r1"), Known::Ended(Outcome::Refused { reason }));
}

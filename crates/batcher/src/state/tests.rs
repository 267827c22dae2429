//! Properties of the state of a shard, whatever happens in whatever order.

use std::{collections::BTreeMap, time::Duration};

use proptest::prelude::*;

use super::{answers::MOST_TRIES, *};
use crate::protocol::{ConfirmReport, WriteReport};

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
        number: 1_764_587_000_000,
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
                let report = ConfirmReport {
                    confirmed,
                    ..ConfirmReport::default()
                };
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
                    self.check_carried();
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

    /// What a shard holds takes no more room in the input of the next run than it counts.
    fn check_carried(&self) {
        let mut held = self.state.clone();
        held.recent.clear();
        held.stats = Stats::default();
        held.answers.retain(|answer| answer.held_bytes > 0);
        for answers in held.confirming.values_mut() {
            answers.retain(|answer| answer.held_bytes > 0);
        }
        let json = serde_json::to_string(&held).unwrap().len() as u64;
        let counted = self.state.held.bytes;
        assert!(json < counted + 1_500, "{json} bytes, {counted} counted");
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
        let held = self.state.held;
        assert!(held.count <= 40, "{held:?}");
        // An answer with an error may be longer than the request.
        assert!(held.bytes <= 6_000 + 40 * 300, "{held:?}");
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
        let ended = stats.written + stats.already_done + stats.failed + stats.duplicates + stats.refused;
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
        number: 0,
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
            number: u64::MAX,
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
            number: u64::MAX,
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

/// Each requester of an id is an answer to come.
#[test]
fn many_requesters_of_one_request_fit_into_the_input_of_the_next_run() {
    let batcher = Batcher::new("orders", "rows", "queue").max_pending(100_000);
    let batcher = batcher.max_pending_bytes(1_200_000);
    let mut state = BatcherState::default();
    for from in 0..20_000 {
        let submission = Submission {
            shards: 1,
            reply_to: Some(format!("\"requester\"-{from}")),
            number: u64::MAX,
            requests: vec![Request::new("r", 1)],
        };
        state.submitted(&batcher, Timestamp(0), submission);
    }
    state.shut_down();
    let number = loop {
        match state.next(&batcher, Timestamp(0), HandOver::No) {
            Step::Write(number) => break number,
            Step::Confirm(_) => {}
            step => panic!("{step:?} before the write"),
        }
    };
    let outcomes = vec![Outcome::failed("Poison", &"no".repeat(100))];
    state.written(number, WriteReport { outcomes });
    assert!(state.answers.len() > 5_000, "{:?}", state.stats());
    let json = serde_json::to_string(&state).unwrap();
    assert!(json.len() < 2_000_000, "{} bytes", json.len());
}

fn submit_some(state: &mut BatcherState, from: u8) {
    let ids: Vec<_> = (from..from + 5).collect();
    let submission = submission(&ids, 10, 0);
    state.submitted(&batcher(), Timestamp(0), submission);
}

/// A caller that reads "refused" may write elsewhere.
#[test]
fn a_request_that_is_held_or_written_is_never_refused() {
    let batcher = batcher().max_pending(5);
    let mut state = BatcherState::default();
    submit_some(&mut state, 0);
    let again = |from, shards| Submission {
        shards,
        ..submission(&[0], 10, from)
    };
    state.submitted(&batcher, Timestamp(0), again(0, 1));
    assert!(state.answers.is_empty(), "{:?}", state.answers);
    for (from, shards) in [(1, 1), (1, 3)] {
        state.submitted(&batcher, Timestamp(0), again(from, shards));
        let answer = state.answers.pop_back().unwrap();
        assert_eq!(answer.confirmation.outcome, Outcome::Pending);
        assert_eq!(state.known("r0"), Known::Pending);
    }
    state.refusals = Amount::default();
    assert_eq!(
        state.next(&batcher, Timestamp(0), HandOver::No),
        Step::Write(0)
    );
    let outcomes = vec![Outcome::Written; 5];
    state.written(0, WriteReport { outcomes });
    state.shut_down();
    state.submitted(&batcher, Timestamp(0), again(1, 3));
    let answer = state.answers.pop_back().unwrap();
    assert_eq!(answer.confirmation.outcome, Outcome::AlreadyDone);
    assert_eq!(state.stats().refused, 0);
}

fn next_run(state: &BatcherState) -> BatcherState {
    let json = serde_json::to_string(state).unwrap();
    let carried: BatcherState = serde_json::from_str(&json).unwrap();
    carried.resumed()
}

#[test]
fn a_write_that_outlives_runs_has_fewer_attempts_in_each() {
    let mut state = BatcherState::default();
    submit_some(&mut state, 0);
    let step = state.next(&batcher(), Timestamp(0), HandOver::No);
    assert_eq!(step, Step::Write(0));
    let mut left = Vec::new();
    for _ in 0..5 {
        left.push(state.attempts_left(0, 4));
        state = next_run(&state);
    }
    assert_eq!(left, [4, 3, 2, 2, 2]);
    assert_eq!(state.attempts_left(0, 1), 1);
}

#[test]
fn a_stuck_write_does_not_hold_up_a_run_that_is_to_end() {
    let mut state = BatcherState::default();
    submit_some(&mut state, 0);
    let mut next = |now, hand_over| state.next(&batcher(), Timestamp(now), hand_over);
    assert_eq!(next(0, HandOver::No), Step::Write(0));
    assert_eq!(next(0, HandOver::No), Step::Wait(None));
    let until = Step::Wait(Some(Timestamp(31_000)));
    assert_eq!(next(1_000, HandOver::Due), until);
    assert_eq!(next(30_999, HandOver::Due), until);
    assert_eq!(next(31_000, HandOver::Due), Step::HandOver);
    let mut state = next_run(&state);
    let again = state.next(&batcher(), Timestamp(31_000), HandOver::No);
    assert_eq!(again, Step::Write(0));
}

/// A stream of signals makes the end of each run due at its start.
#[test]
fn each_run_begins_what_is_due_before_it_ends() {
    let mut state = BatcherState::default();
    for run in 0..5 {
        submit_some(&mut state, run * 5);
        let step = state.next(&batcher(), Timestamp(0), HandOver::Due);
        assert!(matches!(step, Step::Write(_)), "run {run}: {step:?}");
        state = next_run(&state);
    }
}

#[test]
fn a_run_with_nothing_to_begin_ends_at_once() {
    let mut state = BatcherState::default();
    let step = state.next(&batcher(), Timestamp(0), HandOver::Due);
    assert_eq!(step, Step::HandOver);
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

/// Five requesters of five requests are to be told.
fn five_answers() -> BatcherState {
    let mut state = BatcherState::default();
    for from in 0..5 {
        let submission = submission(&[from], 10, from);
        state.submitted(&batcher(), Timestamp(0), submission);
    }
    let step = state.next(&batcher(), Timestamp(0), HandOver::No);
    assert_eq!(step, Step::Write(0));
    let outcomes = vec![Outcome::Written; 5];
    state.written(0, WriteReport { outcomes });
    state
}

fn confirm(state: &mut BatcherState) -> (u64, Vec<String>) {
    let number = match state.next(&batcher(), Timestamp(0), HandOver::No) {
        Step::Confirm(number) => number,
        step => panic!("{step:?}"),
    };
    let told = state.confirmations(number).into_iter().map(|(to, _)| to);
    (number, told.collect())
}

#[test]
fn only_requesters_that_were_not_reached_are_told_again() {
    let mut state = five_answers();
    let (number, told) = confirm(&mut state);
    assert_eq!(told, ["w0", "w1", "w2", "w3", "w4"]);
    let report = ConfirmReport {
        confirmed: 2,
        gone: 1,
        unreached: vec![1, 4],
    };
    state.confirmed(number, Some(report));
    // The next run begins with those that are left.
    let mut state = next_run(&state);
    let (_, told) = confirm(&mut state);
    assert_eq!(told, ["w1", "w4"]);
    let stats = state.stats();
    let counts = (stats.confirmed, stats.confirmations_failed, stats.held);
    assert_eq!(counts, (2, 1, 2));
}

#[test]
fn a_requester_that_is_never_reached_is_given_up() {
    let mut state = five_answers();
    let mut calls = 0;
    while let Step::Confirm(number) = state.next(&batcher(), Timestamp(0), HandOver::No) {
        calls += 1;
        let first = calls == 1;
        let report = ConfirmReport {
            confirmed: if first { 4 } else { 0 },
            gone: 0,
            unreached: if first { vec![2] } else { vec![0] },
        };
        state.confirmed(number, Some(report));
    }
    assert_eq!(calls, MOST_TRIES);
    let stats = state.stats();
    let counts = (stats.confirmed, stats.confirmations_failed, stats.held);
    assert_eq!(counts, (4, 1, 0));
}

/// The answer to an earlier submission of the same request says something else.
#[test]
fn a_confirmation_has_the_number_of_the_last_submission() {
    let mut state = BatcherState::default();
    for number in [3, 5, 4] {
        let submission = Submission {
            number,
            ..submission(&[0], 10, 0)
        };
        state.submitted(&batcher(), Timestamp(0), submission);
    }
    state.shut_down();
    let step = state.next(&batcher(), Timestamp(0), HandOver::No);
    assert_eq!(step, Step::Write(0));
    let outcomes = vec![Outcome::Written];
    state.written(0, WriteReport { outcomes });
    let refused = Submission {
        number: 7,
        ..submission(&[1], 10, 0)
    };
    state.submitted(&batcher(), Timestamp(0), refused);
    let Step::Confirm(number) = state.next(&batcher(), Timestamp(0), HandOver::No) else {
        panic!("the requester is not told");
    };
    let told = state.confirmations(number).into_iter();
    let told: Vec<_> = told
        .map(|(_, told)| (told.request_id, told.submission))
        .collect();
    assert_eq!(told, [("r0".to_owned(), 5), ("r1".to_owned(), 7)]);
}

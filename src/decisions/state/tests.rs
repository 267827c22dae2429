//! Tests of the state and the messages of a controller, without a server.

use std::{collections::BTreeSet, time::Duration};

use serde_json::json;

use super::{partition_work::ParentState, *};
use crate::{
    batch::{
        Batch,
        partition_spec::{Partition, stored},
        retry::{RetryMode, RetryPolicy},
    },
    decisions::{
        bridge::outbox::ORDERS_AT_ONCE,
        chain::{StrideChain, properties::worst_at_rest},
        partitions::{Next, Partitions, properties::worst},
        scheduler::{Ending, Limits},
        state::size::MAX_BYTES,
    },
    page::token::PageToken,
    processor::{
        hooks::Failure,
        reducer::{MAX_OUTPUT_BYTES, Output, Plan},
        store::page_ledger::StrideTotals,
    },
    progress::{
        failures::{FailedItem, FailureState, PageFailure},
        phase::{HeldBy, Outcome, Phase},
    },
    protocol::{
        self, ApproveRequest, BridgeOrders, DispatchReport, FailedAttempt, GiveUp, NextPage,
        PageSizeSetting, PartOf, PartitionNews, PauseRequest, RESULTS_AT_ONCE, ResumeRequest,
        StrideOrder, StrideReport, StrideResults,
        partition::{PartitionOrder, PartitionSnapshot, Share},
    },
};

pub(super) fn controller(part: Option<PartOf>) -> BatchState {
    state(part)
}

fn parent(partitions: Partitions) -> ParentState {
    let mut parent: ParentState = state(None);
    parent.work.partitions = partitions;
    parent
}

fn state<W: Work>(part: Option<PartOf>) -> BatchState<W> {
    let mut controller = BatchState::of(ControllerInput {
        version: protocol::VERSION,
        batch_run: "run".to_owned(),
        spec: Batch::named("batch", "processor", json!({})).spec,
        begun: None,
        carry: None,
        part,
    });
    controller.prepared = Some(Prepared {
        retry_mode: RetryMode::AtLeastOnce,
        retry: RetryPolicy::default(),
        page_timeout: Duration::from_secs(300),
        heartbeat_timeout: Duration::from_secs(15),
        items_expected: None,
        items_exact: false,
        dead_letters: true,
        once_per_page: false,
        args: None,
        reducer: None,
        partitions: Vec::new(),
        splits: false,
        permit_per_item: false,
    });
    controller
}

fn told(parallelism: u32) -> PartitionOrder {
    PartitionOrder {
        share: Share {
            parallelism,
            rate: None,
            page_rate: None,
        },
        paused: false,
        stop_now: false,
        stop: false,
        page_pause: None,
        page_size: PageSizeSetting::Fixed(100),
        stride: None,
    }
}

/// Temporal ends a run at 51,200 events, 10,000 signals or 2,000 updates.
#[test]
fn each_limit_of_a_run_makes_a_hand_over_due_and_in_the_end_urgent() {
    let at = |suggested, events, signals, updates| (suggested, events, signals, updates, None);
    let pages = |pages| (false, 0, 0, 0, Some(pages));
    // With each: whether a continue-as-new is due, and whether it cannot wait any longer.
    let cases = [
        (at(false, 19_999, 3_999, 999), [false, false]),
        (at(true, 0, 0, 0), [true, false]),
        (at(false, 20_000, 0, 0), [false, true]),
        (at(false, 0, 4_000, 0), [true, false]),
        (at(false, 0, 7_999, 0), [true, false]),
        (at(false, 0, 8_000, 0), [true, true]),
        (at(false, 0, 0, 1_000), [true, false]),
        (at(false, 0, 0, 1_499), [true, false]),
        (at(false, 0, 0, 1_500), [true, true]),
        (pages(1), [false, false]),
        (pages(0), [true, false]),
    ];
    let wrong = cases.into_iter().filter(|(case, expected)| {
        let (suggested, events, signals, updates, pages) = *case;
        let mut controller = controller(None);
        controller.input.spec.pages_per_run = pages;
        (controller.signals, controller.updates) = (signals, updates);
        controller.refresh(Timestamp(1), suggested, events);
        let due = controller.work.chain.hand_over_due().is_some();
        [due, controller.must_hand_over] != *expected
    });
    let wrong: Vec<_> = wrong.collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// The next run begins to count at zero, or it would hand over at once.
#[test]
fn the_next_run_has_its_limits_to_itself() {
    let mut last = controller(None);
    (last.signals, last.updates) = (8_000, 1_500);
    last.refresh(Timestamp(1), true, 20_000);
    let sent = serde_json::to_string(&last.fitting_input()).unwrap();
    let mut next: BatchState = BatchState::of(serde_json::from_str(&sent).unwrap());
    next.refresh(Timestamp(2), false, 1);
    assert_eq!(
        (next.work.chain.hand_over_due(), next.must_hand_over),
        (None, false)
    );
}

#[test]
fn no_notice_of_a_partition_has_the_number_of_another_or_of_the_batch() {
    let named = ["a", "b", "c"].map(Partition::<u64>::named);
    let mut parent = parent(Partitions::new(stored(named.into()).unwrap()));
    let mut all = vec![];
    for number in 0..3 {
        let input = parent.part_input(number, &told(1)).unwrap();
        all.push(BatchState::of(input).notices);
    }
    all.push(parent.notices);
    let mut numbers = BTreeSet::new();
    for notices in &mut all {
        for _ in 0..10 {
            notices.note(Failure::ToleranceExceeded {
                reason: String::new(),
                paused: true,
            });
            let (number, _) = notices.next().unwrap();
            assert!(numbers.insert(number), "{number} is there twice");
        }
    }
}

#[test]
fn a_parent_of_partitions_obeys_operators_and_shows_it() {
    let named = ["a", "b"].map(Partition::<u64>::named);
    let mut parent = parent(Partitions::new(stored(named.into()).unwrap()));
    parent.begin(Timestamp(1));
    parent.refresh(Timestamp(1), false, 0);
    assert!(matches!(parent.next(), Next::Steps(steps) if steps.len() == 2));
    parent.do_pause(Timestamp(2), PauseRequest::default());
    parent.refresh(Timestamp(2), false, 0);
    assert_eq!(parent.next(), Next::Steps(Vec::new()));
    let seen = parent.look();
    assert_eq!(
        (seen.phase, seen.held_by),
        (Phase::Paused, Some(HeldBy::Pause))
    );
    assert_eq!(seen.partitions.len(), 2);
    let approval = ApproveRequest::default();
    assert!(
        parent.validate_approval(&approval).is_err(),
        "it has no stages"
    );
    parent.do_resume(Timestamp(3), &ResumeRequest::default());
    parent.refresh(Timestamp(3), false, 0);
    assert_eq!(parent.look().phase, Phase::Running);
    assert!(matches!(parent.next(), Next::Steps(steps) if steps.len() == 2));
}

#[test]
fn a_partition_that_continues_as_new_before_it_was_heard_says_again_that_it_has_settled() {
    let mut part = controller(Some(PartOf {
        number: 3,
        name: "c".to_owned(),
        seq: 7,
        says_when_settled: true,
    }));
    let settled = part.settled_now().expect("nothing runs");
    assert_eq!((settled.number, settled.seq), (3, 7));
    // Its run ends in the same task, so that the signal is never sent.
    let next = BatchState::of(part.fitting_input());
    assert_eq!(next.settled_now(), Some(settled));
    // An answer to an earlier share does not count for a later one.
    part.said_settled(6);
    assert!(part.settled_now().is_some());
    part.said_settled(7);
    assert_eq!(part.settled_now(), None);
    assert_eq!(BatchState::of(part.fitting_input()).settled_now(), None);
}

fn bytes(payload: &impl serde::Serialize) -> usize {
    serde_json::to_string(payload).unwrap().len()
}

fn cancelled() -> Ending {
    Ending {
        outcome: Outcome::Cancelled,
        reason: Some("cancelled".to_owned()),
    }
}

/// The longest token, half of which has to be escaped.
fn token() -> PageToken {
    PageToken::encode(&"\"".repeat(PageToken::MAX_BYTES / 2 - 1)).unwrap()
}

fn page_failure() -> PageFailure {
    PageFailure {
        stride: u64::MAX,
        start: Some(token()),
        end: Some(token()),
        error_type: "e".repeat(60),
        message: "m".repeat(200),
        attempts: u32::MAX,
        first_at: Timestamp(1_800_000_000_000),
        last_at: Timestamp(1_800_000_000_000),
        gives_up_at: None,
        state: FailureState::GivenUp,
    }
}

fn with_notices<W: Work>(mut controller: BatchState<W>) -> BatchState<W> {
    for _ in 0..30 {
        let failure = Failure::PageFailed(page_failure());
        controller.notices.note(failure);
        let given = Given::by_itself("w".repeat(200));
        controller.audit.note(Timestamp(1), "set", &given);
    }
    controller
}

#[test]
fn a_batch_with_the_longest_tokens_in_every_slot_can_end_and_be_continued() {
    let mut batch = with_notices(controller(None));
    let limits = Limits {
        max_parallelism: 500,
        ..Limits::default()
    };
    batch.work.chain = worst_at_rest(StrideChain::new(None, 1), &limits);
    assert!(bytes(&batch.fitting_input()) < MAX_BYTES);
    let details = batch.fitting_details(&cancelled());
    let size = bytes(&details);
    assert!(size < MAX_BYTES, "{size} bytes");
    assert_eq!(details.report.progress.failed.len(), 50, "nothing was cut");
    assert!(details.continuation.is_some());
}

#[test]
fn a_batch_with_fifty_partitions_that_stand_still_can_end_and_be_continued() {
    let batch = with_notices(parent(worst()));
    let details = batch.fitting_details(&cancelled());
    let size = bytes(&details);
    assert!(size < MAX_BYTES, "{size} bytes");
    let continuation = details.continuation.expect("it can be continued");
    let partitions = continuation.carry.unwrap().work.partitions;
    assert_eq!(partitions, batch.work.partitions);
    assert_eq!(details.report.progress.pages_failed, 0, "of its own ledger");
}

#[test]
fn what_is_too_large_all_the_same_is_cut_and_said() {
    let mut batch = with_notices(controller(None));
    batch.work.chain.reduce_by(Plan::Custom);
    let part = json!("x".repeat(MAX_OUTPUT_BYTES - 2));
    for _ in 0..400 {
        let output = Output::of_part(Some(&part), None);
        batch.work.chain.fold_mut().unwrap().merge(output);
    }
    let input = batch.fitting_input();
    assert!(bytes(&input) < MAX_BYTES);
    let carry = input.carry.unwrap();
    assert!(carry.work.chain.fold().unwrap().error().is_some());
    assert_eq!(carry.notices.dropped(), 30, "they are counted");
    let details = batch.fitting_details(&cancelled());
    assert!(bytes(&details) < MAX_BYTES);
    assert!(details.continuation.is_some());

    // Nothing of this can be cut.
    batch.input.spec.args = json!("x".repeat(MAX_BYTES));
    let details = batch.fitting_details(&cancelled());
    assert!(bytes(&details) < MAX_BYTES);
    assert!(details.continuation.is_none());
    let reason = details.report.reason.unwrap();
    assert!(
        reason.starts_with("cancelled; it cannot be continued"),
        "{reason}"
    );
}

#[test]
fn every_signal_is_small_enough_at_its_bounds() {
    let failure = FailedAttempt {
        page_end: Some(token()),
        last_page: false,
        error_type: "e".repeat(60),
        message: "m".repeat(200),
        retryable: true,
        retry_after: None,
        not_the_page: false,
        coverage_stops: false,
        lost: false,
        unread: false,
        blame: crate::base::error::Blame::Moment,
    };
    let order: StrideOrder = serde_json::from_value(json!({
        "batch_run": "r".repeat(36), "batch_id": "b".repeat(200), "processor": "p".repeat(100),
        "args": "a".repeat(16 * 1024), "stride": u64::MAX, "pages": 10_000, "page_size": 1_000_000,
        "attempt": u32::MAX, "page_timeout": Duration::from_secs(1), "start": token(), "end": token(),
        "last": token(), "give_up": GiveUp::from(failure.clone()), "partition": "n".repeat(100),
        "throttles": vec!["t".repeat(60); 20], "owner": "b".repeat(250), "look_ahead": 0,
        "done": StrideTotals::default(), "redrive": false, "dispatch": u64::MAX, "min_pages_per_stride": 1,
    }))
    .unwrap();
    let orders = BridgeOrders {
        orders: vec![order; ORDERS_AT_ONCE],
        last: false,
    };
    let item = FailedItem {
        key: "k".repeat(60),
        error_type: "e".repeat(60),
        message: "m".repeat(120),
        dead_letter: true,
    };
    let reasons = (0..10).map(|n| (format!("{n:0>60}"), u64::MAX));
    let report = StrideReport {
        covered_to: Some(token()),
        failure: Some(failure),
        failed_items: vec![item; 20],
        failed_pages: vec![page_failure(); 5],
        skip_reasons: reasons.clone().collect(),
        output: Some(Output::of_part(
            Some(&json!("x".repeat(MAX_OUTPUT_BYTES))),
            None,
        )),
        ..StrideReport::default()
    };
    let result = DispatchReport {
        stride: u64::MAX,
        dispatch: u64::MAX,
        report,
    };
    let results = StrideResults {
        batch_run: "run".to_owned(),
        owner: "b".repeat(250),
        results: vec![result; RESULTS_AT_ONCE],
    };
    let next = NextPage {
        batch_run: "run".to_owned(),
        stride: u64::MAX,
        dispatch: u64::MAX,
        starts: vec![token(); 100],
    };
    let look = PartitionSnapshot {
        low_water_mark: Some(token()),
        failing: vec![page_failure(); 3],
        skip_reasons: reasons.collect(),
        ..PartitionSnapshot::default()
    };
    let news = PartitionNews {
        batch_run: "run".to_owned(),
        looks: vec![(u32::MAX, look); 50],
    };
    for (what, size) in [
        ("orders", bytes(&orders)),
        ("results", bytes(&results)),
        ("starts", bytes(&next)),
        ("news of partitions", bytes(&news)),
    ] {
        assert!(size < MAX_BYTES, "{what}: {size} bytes");
    }
}

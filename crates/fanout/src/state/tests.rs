//! Single decisions of a fan-out.

use std::time::Duration;

use serde_json::json;

use super::*;
use crate::{
    outcome::failure_types,
    progress::FanoutOutcome,
    protocol::{
        AggregateOrder, ChildEnd, ClosePolicy, Duplicates, ItemDone, ItemsRead, Mode, OnFailure,
        Tolerate,
    },
    retry::Retry,
};

pub(super) fn spec() -> FanoutSpec {
    FanoutSpec {
        id: "f".to_owned(),
        run: "r".to_owned(),
        processor: "p".to_owned(),
        mode: Mode::JoinAll,
        window: 500,
        on_failure: OnFailure::default(),
        duplicates: Duplicates::CountOnce,
        close: ClosePolicy::Abandon,
        child_type: None,
        child_queue: None,
        retry: Retry::default(),
        attempt_timeout: Duration::from_secs(1),
        heartbeat_timeout: Duration::from_secs(1),
        execution_timeout: None,
        page_size: 100,
        events_per_run: 6_000,
        rerun: false,
    }
}

fn item(id: usize) -> GivenItem {
    GivenItem {
        id: format!("i{id}"),
        item: json!(id),
    }
}

fn state(spec: FanoutSpec, items: usize) -> FanoutState {
    let carry = Carry::of(Unread::List((0..items).map(item).collect()));
    FanoutState::of(FanoutInput { spec, carry })
}

fn steps(state: &mut FanoutState) -> Vec<Step> {
    match state.next() {
        Next::Steps(steps) => steps,
        other => panic!("expected steps: {other:?}"),
    }
}

fn started(state: &mut FanoutState) -> Vec<u64> {
    let begun = steps(state).into_iter().filter_map(|step| match step {
        Step::Start { position, .. } => Some(position),
        _ => None,
    });
    let begun: Vec<_> = begun.collect();
    begun.iter().for_each(|p| state.child_started(*p));
    begun
}

#[test]
fn an_output_over_the_limit_is_a_failure_and_never_kept() {
    let mut state = state(spec(), 1);
    started(&mut state);
    let large = json!("x".repeat(state.spec.output_limit()));
    state.child_ended(0, ChildEnd::Done(large));
    assert_eq!(state.progress().failed, 1);
    assert_eq!(
        state.carry.failures[0].failure.error_type,
        failure_types::OUTPUT_TOO_LARGE
    );
}

#[test]
fn a_slow_first_item_bounds_what_waits_behind_it() {
    let spec = FanoutSpec {
        window: 10,
        ..spec()
    };
    let mut state = state(spec, 10_000);
    behind_a_slow_first(&mut state, || ChildEnd::Done(json!(null)));
    assert_eq!(state.carry.next, 2_010);
    let carried = serde_json::to_string(&state.carry.tracked).unwrap();
    assert!(carried.len() < 500_000, "{}", carried.len());
    state.child_ended(0, ChildEnd::Done(json!(null)));
    assert!(matches!(state.next(), Next::Steps(_)));
}

/// Ends every item but the first, until the fan-out waits for it.
fn behind_a_slow_first(state: &mut FanoutState, end: impl Fn() -> ChildEnd) {
    let mut begun = started(state);
    loop {
        for position in begun.drain(..).filter(|p| *p != 0) {
            state.child_ended(position, end());
        }
        match state.next() {
            Next::Wait => return,
            Next::Steps(steps) => {
                for step in steps {
                    if let Step::Start { position, .. } = step {
                        state.child_started(position);
                        begun.push(position);
                    }
                }
            }
            other => panic!("{other:?}"),
        }
    }
}

/// Temporal refuses an input of more than 2 MiB, whatever the items return, and however long their ids are.
#[test]
fn a_run_can_always_be_followed_by_another() {
    let long_failure = || ItemFailure {
        error_type: "Ж".repeat(1_000),
        message: "Ж".repeat(1_000),
    };
    let ends: [&dyn Fn(usize) -> ChildEnd; 3] = [
        &|_| ChildEnd::Failed(long_failure()),
        &|limit| ChildEnd::Done(json!("x".repeat(limit - 2))),
        &|_| ChildEnd::Done(json!(null)),
    ];
    for (window, end) in [1, 10, 500, 1_000]
        .into_iter()
        .flat_map(|window| ends.iter().map(move |end| (window, end)))
    {
        let spec = FanoutSpec { window, ..spec() };
        let long_id = |n: usize| GivenItem {
            id: format!("{n:0>200}"),
            item: json!(n),
        };
        let carry = Carry::of(Unread::List((0..4_000).map(long_id).collect()));
        let mut state = FanoutState::of(FanoutInput { spec, carry });
        let limit = state.spec.output_limit();
        behind_a_slow_first(&mut state, || end(limit));
        // All that runs may still end with the largest outcomes.
        let open = state.carry.tracked.iter();
        let open = open.filter(|(_, t)| t.place == Place::Open);
        let open: Vec<_> = open.map(|(position, _)| *position).collect();
        for position in open.into_iter().filter(|p| *p != 0) {
            state.child_ended(position, ChildEnd::Failed(long_failure()));
        }
        let carry = Carry {
            unread: Unread::Nothing,
            ..state.carry
        };
        let carried = serde_json::to_string(&carry).unwrap().len();
        let others = crate::fanout::LIST_BYTES + crate::activities::RESULT_BYTES;
        assert!(carried + others < 2_000_000, "{window}: {carried}");
    }
}

#[test]
fn the_carried_state_does_not_grow_with_the_items() {
    let carried = |items: u64| {
        let mut state = state(spec(), 0);
        state.carry.unread = Unread::Source {
            name: "s".to_owned(),
            args: json!(null),
            prepared: true,
            token: Some(json!(0)),
        };
        let mut read = 0;
        let mut largest = 0;
        loop {
            largest = largest.max(serde_json::to_string(&state.carry).unwrap().len());
            let Next::Steps(steps) = state.next() else {
                return largest;
            };
            for step in steps {
                match step {
                    Step::Start { position, .. } => {
                        state.child_started(position);
                        let failure = ItemFailure::new("Declined", "no");
                        state.child_ended(position, ChildEnd::Failed(failure));
                    }
                    Step::Read(order) => {
                        let to = (read + u64::from(order.limit)).min(items);
                        let page = (read..to).map(|i| item(usize::try_from(i).unwrap()));
                        let items_read = ItemsRead {
                            items: page.collect(),
                            args: json!(null),
                            token: (to < items).then(|| json!(to)),
                        };
                        read = to;
                        state.items_read(items_read);
                    }
                    Step::Fold(_) => state.was_folded(Ok(json!(1))),
                    other => panic!("{other:?}"),
                }
            }
        }
    };
    assert!(carried(20_000) < carried(2_000) + 1_000);
}

#[test]
fn a_source_that_cannot_be_read_fails_the_fan_out_once_its_children_have_ended() {
    let mut state = state(spec(), 2);
    started(&mut state);
    state.not_read("the file is gone");
    assert!(matches!(state.next(), Next::Wait));
    state.child_ended(0, ChildEnd::Done(json!(1)));
    state.child_ended(1, ChildEnd::Done(json!(1)));
    assert!(matches!(steps(&mut state)[..], [Step::Fold(_)]));
    state.was_folded(Ok(json!(2)));
    assert!(matches!(state.next(), Next::Finish));
    let report = state.report();
    assert_eq!(report.outcome, FanoutOutcome::Failed);
    assert!(report.reason.unwrap().contains("the file is gone"));
    assert_eq!(report.result, Some(json!(2)));
}

#[test]
fn a_failed_aggregation_fails_the_fan_out() {
    let mut state = state(spec(), 1);
    started(&mut state);
    state.child_ended(0, ChildEnd::Done(json!(1)));
    steps(&mut state);
    state.was_folded(Err("NotReadable: no".to_owned()));
    assert!(matches!(state.next(), Next::Finish));
    let report = state.report();
    assert_eq!(report.outcome, FanoutOutcome::Failed);
    assert_eq!(report.result, None);
}

/// Ends this many of ten items, the first so many as failures, and returns the state.
fn with_failures(tolerate: Tolerate, failed: u64, ended: u64) -> FanoutState {
    let spec = FanoutSpec {
        window: 5,
        on_failure: OnFailure::CollectAll { tolerate },
        ..spec()
    };
    let mut state = state(spec, 10);
    for position in 0..ended {
        if !state.carry.tracked.contains_key(&position) {
            started(&mut state);
        }
        let failure = ItemFailure::new("Declined", "no");
        let end = match position < failed {
            true => ChildEnd::Failed(failure),
            false => ChildEnd::Done(json!(1)),
        };
        state.child_ended(position, end);
    }
    state
}

#[test]
fn one_failure_more_than_the_tolerated_number_stops_the_start_of_items() {
    let mut within = with_failures(Tolerate::Count(2), 2, 5);
    assert_eq!(started(&mut within), [5, 6, 7, 8, 9]);
    assert_eq!(within.report().outcome, FanoutOutcome::Completed);
    let mut over = with_failures(Tolerate::Count(2), 3, 5);
    assert!(matches!(steps(&mut over)[..], [Step::Fold(_)]));
    let report = over.report();
    assert_eq!(report.outcome, FanoutOutcome::Failed);
    assert_eq!(report.not_started, 5);
}

#[test]
fn a_tolerated_percentage_is_compared_exactly_at_the_end() {
    for (failed, outcome) in [(3, FanoutOutcome::Completed), (4, FanoutOutcome::Failed)] {
        let state = with_failures(Tolerate::Percent(30.0), failed, 10);
        assert_eq!(state.progress().completed, 10);
        assert_eq!(state.report().outcome, outcome, "{failed} of 10");
    }
}

#[test]
fn a_signal_of_another_run_or_item_is_a_stray() {
    let mut state = state(spec(), 1);
    started(&mut state);
    let done = |item: &str, run: Option<&str>| ItemDone {
        item_id: item.to_owned(),
        output: json!(1),
        failure: None,
        fanout_run: run.map(str::to_owned),
    };
    assert!(!state.reported(done("i0", Some("another"))));
    assert!(!state.reported(done("unknown", None)));
    assert!(state.reported(done("i0", None)));
    assert!(!state.reported(done("i0", Some("r"))));
    assert_eq!((state.carry.stray, state.carry.completed), (3, 1));
}

#[test]
fn a_failure_that_comes_by_signal_is_a_failed_item() {
    let spec = FanoutSpec {
        mode: Mode::Signals,
        on_failure: OnFailure::FailFast,
        ..spec()
    };
    let mut state = state(spec, 2);
    started(&mut state);
    let done = ItemDone {
        item_id: "i1".to_owned(),
        output: json!(null),
        failure: Some(ItemFailure::new("Declined", "no")),
        fanout_run: None,
    };
    assert!(state.reported(done));
    state.child_ended(1, ChildEnd::Done(json!(1)));
    assert_eq!((state.carry.completed, state.carry.failed), (1, 1));
    assert_eq!(state.carry.failures[0].failure.error_type, "Declined");
    assert_eq!(cancelled(&mut state), [0]);
}

#[test]
fn a_signal_before_the_start_of_its_item_is_a_stray() {
    let mut state = state(spec(), 0);
    state.carry.unread = source(0);
    steps(&mut state);
    state.items_read(read([1], None));
    let done = ItemDone {
        item_id: "i1".to_owned(),
        output: json!(1),
        failure: None,
        fanout_run: None,
    };
    assert!(!state.reported(done));
    assert_eq!((state.carry.stray, state.carry.completed), (1, 0));
    assert_eq!(started(&mut state), [0]);
}

#[test]
fn a_refused_duplicate_from_a_source_is_a_failed_item() {
    let spec = FanoutSpec {
        duplicates: Duplicates::Refuse,
        ..spec()
    };
    let mut state = state(spec, 0);
    state.carry.unread = Unread::List([item(1), item(1)].into());
    assert_eq!(started(&mut state), [0]);
    assert_eq!(state.progress().failed, 1);
    assert_eq!(
        state.carry.failures[0].failure.error_type,
        failure_types::DUPLICATE
    );
}

fn source(token: u64) -> Unread {
    Unread::Source {
        name: "s".to_owned(),
        args: json!(null),
        prepared: true,
        token: Some(json!(token)),
    }
}

fn read(items: impl IntoIterator<Item = usize>, token: Option<u64>) -> ItemsRead {
    ItemsRead {
        items: items.into_iter().map(item).collect(),
        args: json!(null),
        token: token.map(|token| json!(token)),
    }
}

/// The server refuses the child of an item whose first was folded and forgotten.
#[test]
fn a_duplicate_of_a_forgotten_item_counts_once_and_holds_nothing_up() {
    for (duplicates, completed, failed, counted) in [
        (Duplicates::CountOnce, 101, 0, 1),
        (Duplicates::Refuse, 102, 1, 0),
    ] {
        let spec = FanoutSpec {
            duplicates,
            ..spec()
        };
        let mut state = state(spec, 0);
        state.carry.unread = source(0);
        steps(&mut state);
        state.items_read(read(0..101, Some(101)));
        for position in started(&mut state) {
            state.child_ended(position, ChildEnd::Done(json!(1)));
        }
        steps(&mut state);
        state.was_folded(Ok(json!(1)));
        assert!(state.carry.tracked.is_empty());
        state.items_read(read([7], None));
        assert_eq!(started(&mut state), [101]);
        state.is_duplicate(101);
        let last = steps(&mut state);
        let [Step::Fold(AggregateOrder { last: true, .. })] = &last[..] else {
            panic!("it is held up: {last:?}");
        };
        state.was_folded(Ok(json!(2)));
        assert!(matches!(state.next(), Next::Finish));
        let progress = state.progress();
        assert_eq!(
            (progress.completed, progress.failed, progress.duplicates),
            (completed, failed, counted)
        );
        assert_eq!(progress.total, completed);
    }
}

/// As after a reset of the fan-out to a point before the child was started.
#[test]
fn a_child_that_was_there_is_waited_for() {
    let mut state = state(spec(), 1);
    assert!(matches!(steps(&mut state)[..], [Step::Start { .. }]));
    state.was_there(0);
    assert!(matches!(steps(&mut state)[..], [Step::Ask(_)]));
    state.were_asked();
    assert!(matches!(steps(&mut state)[..], [Step::Watch(_)]));
    state.watched(vec![(0, ChildEnd::Done(json!(1)))]);
    assert_eq!(state.progress().completed, 1);
}

/// Returns the positions of the children that are cancelled.
fn cancelled(state: &mut FanoutState) -> Vec<u64> {
    let Next::Steps(steps) = state.next() else {
        return Vec::new();
    };
    let cancelled = steps.into_iter().filter_map(|step| match step {
        Step::Cancel { position, .. } => Some(position),
        _ => None,
    });
    cancelled.collect()
}

#[test]
fn a_cancel_request_that_a_run_may_lose_is_repeated_by_the_next() {
    let spec = FanoutSpec {
        on_failure: OnFailure::FailFast,
        ..spec()
    };
    let mut before = state(spec.clone(), 3);
    started(&mut before);
    before.child_ended(0, ChildEnd::Failed(ItemFailure::new("Declined", "no")));
    assert_eq!(cancelled(&mut before), [1, 2]);
    before.refresh(6_000, false);
    assert!(matches!(before.next(), Next::HandOver));
    let carry = before.carry;
    let mut after = FanoutState::of(FanoutInput { spec, carry });
    assert_eq!(cancelled(&mut after), [1, 2]);
    after.were_asked();
    after.refresh(6_000, false);
    for _answered in 0..2 {
        assert!(!matches!(after.next(), Next::HandOver));
        after.cancel_answered();
    }
    assert!(matches!(after.next(), Next::HandOver));
}

/// A reset can drop the signal of a child.
#[test]
fn a_child_whose_report_was_dropped_by_a_reset_is_closed_by_the_watch() {
    let mut before = state(spec(), 1);
    started(&mut before);
    let (spec, carry) = (before.spec, before.carry);
    let mut after = FanoutState::of(FanoutInput { spec, carry });
    assert!(matches!(steps(&mut after)[..], [Step::Ask(_)]));
    after.were_asked();
    assert!(matches!(steps(&mut after)[..], [Step::Watch(_)]));
    after.watched(vec![(0, ChildEnd::Reported)]);
    assert_eq!(
        after.carry.failures[0].failure.error_type,
        failure_types::OUTPUT_LOST
    );
}

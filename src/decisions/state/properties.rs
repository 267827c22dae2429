//! Properties of a batch that hold for all requests of operators and all failures.

use std::time::Duration;

use proptest::prelude::*;
use serde_json::json;

use super::{publish::News, tests::controller, *};
use crate::{
    batch::tolerance::{Limit, OnExceeded, Tolerance},
    decisions::scheduler::Decision,
    progress::ItemCounts,
    protocol::{PauseRequest, ResumeRequest, SetRequest, Setting, Steer, SteerRequest},
};

/// A request of an operator, by signal.
#[derive(Clone, Debug)]
enum Asked {
    Pause { now: bool, lasting: Option<u64> },
    Resume,
    Parallelism(u32),
    Rate(Option<u16>),
}

fn asked() -> impl Strategy<Value = Asked> {
    prop_oneof![
        (any::<bool>(), prop::option::of(1u64..100))
            .prop_map(|(now, lasting)| Asked::Pause { now, lasting }),
        Just(Asked::Resume),
        (0u32..50).prop_map(Asked::Parallelism),
        prop::option::of(1u16..1_000).prop_map(Asked::Rate),
    ]
}

fn request(id: usize, asked: &Asked) -> SteerRequest {
    let id = id.to_string();
    let known = Some(id.clone());
    let what = match asked {
        Asked::Pause { now, lasting } => Steer::Pause(PauseRequest {
            id: known,
            now: *now,
            lasting: lasting.map(Duration::from_secs),
            ..PauseRequest::default()
        }),
        Asked::Resume => Steer::Resume(ResumeRequest {
            id: known,
            ..ResumeRequest::default()
        }),
        Asked::Parallelism(pages) => Steer::Set(SetRequest {
            id: known,
            max_parallelism: Some(*pages),
            ..SetRequest::default()
        }),
        Asked::Rate(rate) => Steer::Set(SetRequest {
            id: known,
            rate: Some(match rate {
                Some(rate) => Setting::To(f64::from(*rate)),
                None => Setting::Off,
            }),
            ..SetRequest::default()
        }),
    };
    SteerRequest { id, what }
}

/// Returns the complete input of the next run of the controller.
fn stored(state: &BatchState) -> serde_json::Value {
    json!(state.next_input())
}

fn at(seconds: u64) -> Timestamp {
    Timestamp(1_000_000 + seconds * 1_000)
}

/// Reports one more abandoned page, after a number of finished ones.
fn give_up(state: &mut BatchState, done: u64, given_up: u64) {
    let totals = &mut state.work.chain.totals;
    totals.pages_completed += done;
    totals.pages_failed += given_up;
    totals.items = ItemCounts {
        processed: totals.items.processed + done,
        failed: totals.items.failed + given_up,
        ..totals.items
    };
}

proptest! {
    /// A client repeats a request whose answer it has not heard, so each comes once or several times, also late.
    #[test]
    fn a_request_is_applied_once_however_often_it_comes(
        asked in prop::collection::vec((asked(), 0u64..20, 0usize..3), 1..20),
    ) {
        let (mut once, mut often) = (controller(None), controller(None));
        let mut seconds = 0;
        for (id, (what, pause, repeated)) in asked.iter().enumerate() {
            seconds += pause;
            once.hear_steering(at(seconds), request(id, what));
            often.hear_steering(at(seconds), request(id, what));
            for earlier in 0..*repeated {
                // This one again, and some before it.
                let earlier = id.saturating_sub(earlier * 3);
                often.hear_steering(at(seconds + 1), request(earlier, &asked[earlier].0));
            }
            prop_assert_eq!(stored(&once), stored(&often));
        }
    }

    #[test]
    fn nothing_is_dispatched_while_a_batch_is_paused_and_a_pause_ends_when_it_was_to_end(
        asked in prop::collection::vec((asked(), 1u64..60), 1..20),
    ) {
        let mut state = controller(None);
        state.begin(at(0));
        // By hand: what the sequence of requests means.
        let (mut paused, mut until, mut pages) = (false, None, state.controls.max_parallelism);
        let mut seconds = 0;
        for (id, (what, later)) in asked.iter().enumerate() {
            seconds += later;
            state.refresh(at(seconds), false, 0);
            if until.is_some_and(|until| until <= seconds) {
                (paused, until) = (false, None);
            }
            match what {
                Asked::Pause { lasting, .. } => {
                    (paused, until) = (true, lasting.map(|lasting| seconds + lasting));
                }
                Asked::Resume => (paused, until) = (false, None),
                Asked::Parallelism(asked) => pages = *asked,
                Asked::Rate(_) => {}
            }
            state.hear_steering(at(seconds), request(id, what));
            state.refresh(at(seconds), false, 0);
            prop_assert_eq!(state.controls.paused, paused);
            let dispatches = matches!(state.decide(), Decision::Dispatch(_));
            prop_assert_eq!(dispatches, !paused && pages > 0);
            if let Some(until) = until {
                prop_assert!(state.next_change().is_some_and(|next| next <= at(until)));
            }
        }
    }

    /// An operator who resumes a batch has seen its failures, so only later ones count.
    #[test]
    fn what_was_forgiven_does_not_pause_again_and_one_more_than_is_tolerated_does(
        tolerated in 0u64..5, rounds in prop::collection::vec((0u64..50, 0u64..8), 1..8), stops in any::<bool>(),
    ) {
        let mut state = controller(None);
        let then = if stops { OnExceeded::Stop } else { OnExceeded::Pause };
        state.input.spec.tolerance = Some(Tolerance::new().pages(Limit::count(tolerated)).then(then));
        state.begin(at(0));
        let mut since_forgiven = 0;
        for (n, (done, failed)) in rounds.into_iter().enumerate() {
            give_up(&mut state, done, failed);
            since_forgiven += failed;
            state.refresh(at(n as u64 * 10), false, 0);
            let exceeded = since_forgiven > tolerated;
            prop_assert_eq!(state.controls.paused, exceeded && !stops);
            prop_assert_eq!(state.controls.stopping.is_some(), exceeded && stops);
            if !exceeded {
                continue;
            }
            if stops {
                break;
            }
            state.hear_steering(at(n as u64 * 10 + 1), request(n, &Asked::Resume));
            state.refresh(at(n as u64 * 10 + 2), false, 0);
            prop_assert!(!state.controls.paused, "it was forgiven");
            since_forgiven = 0;
        }
    }

    /// Each write is an event in the history.
    #[test]
    fn the_progress_is_published_at_its_age_and_no_more_often_than_a_client_that_looks_needs(
        steps in prop::collection::vec((1u64..4_000, any::<bool>()), 1..60),
    ) {
        let mut state = controller(None);
        state.begin(at(0));
        let mut now = at(0).0;
        // By hand: every 10 s, and each second while a client looks.
        let (mut last, mut watched_until, mut behind) = (None, 0, false);
        for (later, looks) in steps {
            now += later;
            if looks {
                state.hear_look(Timestamp(now));
                watched_until = now + 15_000;
            }
            state.refresh(Timestamp(now), false, 0);
            let progress = state.look();
            let news = state.take_news(progress);
            let published = news.iter().any(|news| matches!(news, News::Progress(_)));
            let watched = now < watched_until;
            let expected = last.is_none_or(|last| {
                let age = now - last;
                age >= 10_000 || (age >= 1_000 && (behind || watched))
            });
            prop_assert_eq!(published, expected);
            behind = !published && watched;
            if published {
                last = Some(now);
            }
        }
    }

    /// A run ends in the middle of anything: the next one stands where it stood.
    #[test]
    fn the_next_run_begins_with_everything_that_was_asked(
        asked in prop::collection::vec((asked(), 1u64..20, any::<bool>()), 1..20),
    ) {
        let (mut one, mut runs) = (controller(None), controller(None));
        let mut seconds = 0;
        for (id, (what, later, hand_over)) in asked.iter().enumerate() {
            seconds += later;
            for state in [&mut one, &mut runs] {
                state.hear_steering(at(seconds), request(id, what));
            }
            if *hand_over {
                let sent = stored(&runs);
                runs = BatchState::of(serde_json::from_value(sent).unwrap());
            }
        }
        let mut expected = stored(&one);
        let mut found = stored(&runs);
        for stored in [&mut expected, &mut found] {
            stored["carry"]["runs"] = json!(null);
        }
        prop_assert_eq!(found, expected);
    }
}

//! The part of its data that a batch has finished; pure.

use serde::de::DeserializeOwned;
use temporal_batch::{
    PageError, PageToken,
    progress::{OpenRange, OpenState, Phase, Progress},
    store::DeadLetter,
};

use super::errors;

/// The number of dead letters of a batch that its followers keep apart.
pub(super) const MAX_LETTERS: usize = 1_000;

/// The dead letters that a batch run has left.
pub(super) struct Letters {
    /// At most [`MAX_LETTERS`] and one more.
    pub open: Vec<DeadLetter>,
    /// The number of letters that redrives have settled, if the store counts them.
    pub settled: Option<u64>,
}

/// The ranges that a batch has not finished. Everything outside of them is finished, and stays so.
#[derive(Clone, Debug)]
pub(super) struct Coverage {
    batch_id: String,
    first_cursor: Option<PageToken>,
    gaps: Vec<Gap>,
}

/// A range that is not finished.
#[derive(Clone, Debug)]
pub(super) struct Gap {
    pub start: Option<PageToken>,
    /// `None` if everything after the start is open.
    pub end: Option<PageToken>,
    pub state: GapState,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum GapState {
    /// The batch works on the range, and will soon be done.
    AtWork,
    /// The batch works on the range, which takes longer than others.
    Slow,
    /// The batch failed there and tries again.
    Failing,
    /// The batch ended before.
    Ended,
    /// The batch gave up something in the range. A redrive may do it.
    GaveUp,
}

/// The state of the data right after a cursor.
#[derive(Debug, PartialEq)]
pub(super) enum Place<C> {
    /// Finished up to and including this cursor; `None` for all of the data.
    Finished(Option<C>),
    /// Not finished up to and including this cursor; `None` for all of the data.
    Open(Option<C>, GapState),
}

impl Coverage {
    /// Reads a progress.
    ///
    /// # Errors
    /// The batch gave up something whose place is not known.
    pub fn of(progress: &Progress, letters: Option<&Letters>) -> Result<Self, PageError> {
        let id = &progress.batch_id;
        if progress.partition_counts.is_some() {
            return Err(errors::partitioned(id));
        }
        let ended = progress.phase == Phase::Ended;
        let open = progress.open_ranges.iter();
        let mut gaps: Vec<_> = open.map(|range| Gap::of_open(range, ended)).collect();
        if gaps.is_empty() && !progress.end_of_data {
            // The batch has not begun: it is still prepared, and may turn out to have partitions.
            gaps.push(Gap {
                start: progress.first_cursor.clone(),
                end: None,
                state: match ended {
                    true => GapState::Ended,
                    false => GapState::AtWork,
                },
            });
        }
        gaps.extend(given_up(progress, letters).map_err(|flaw| errors::not_completed(id, &flaw))?);
        Ok(Self {
            batch_id: id.clone(),
            first_cursor: progress.first_cursor.clone(),
            gaps,
        })
    }

    /// Returns the state of the data right after `at`.
    ///
    /// # Errors
    /// The cursors of the batch are not those of its follower, or the batch began later in the data.
    pub fn after<C: DeserializeOwned + Ord>(&self, at: Option<&C>) -> Result<Place<C>, PageError> {
        let first = decoded::<C>(self.first_cursor.as_ref())?;
        if first.as_ref() > at {
            return Err(errors::begins_later(&self.batch_id));
        }
        let mut finished_to: Option<C> = None;
        let mut open: Option<(Option<C>, GapState)> = None;
        for gap in &self.gaps {
            let (start, end) = (
                decoded::<C>(gap.start.as_ref())?,
                decoded::<C>(gap.end.as_ref())?,
            );
            if end.as_ref().is_some_and(|end| Some(end) <= at) {
                continue;
            }
            if start.as_ref() > at {
                if finished_to.is_none() || start < finished_to {
                    finished_to = start;
                }
                continue;
            }
            // Of gaps within each other the smallest says most.
            let smaller = match (&open, &end) {
                (None, _) => true,
                (Some((None, _)), Some(_)) => true,
                (Some((Some(known), _)), Some(end)) => end < known,
                (Some(_), None) => false,
            };
            if smaller {
                open = Some((end, gap.state));
            }
        }
        Ok(match open {
            Some((end, state)) => Place::Open(end, state),
            None => Place::Finished(finished_to),
        })
    }
}

impl Gap {
    fn of_open(range: &OpenRange, ended: bool) -> Self {
        Self {
            start: range.start.clone(),
            end: range.end.clone(),
            state: match range.state {
                _ if ended => GapState::Ended,
                OpenState::Overtaken => GapState::Slow,
                OpenState::Failing => GapState::Failing,
                _ => GapState::AtWork,
            },
        }
    }
}

/// Returns the ranges in which a batch gave something up, or the reason why they are not known.
fn given_up(progress: &Progress, letters: Option<&Letters>) -> Result<Vec<Gap>, String> {
    let failures = progress.pages_failed + progress.items.failed;
    if failures == 0 {
        return Ok(Vec::new());
    }
    let gap = |start: &Option<PageToken>, end: &Option<PageToken>| Gap {
        start: start.clone(),
        end: end.clone(),
        state: GapState::GaveUp,
    };
    match letters {
        Some(letters) if progress.keeps_dead_letters == Some(true) => {
            if progress.dead_letters < failures {
                return Err("gave up pages or items without a dead letter".to_owned());
            }
            if letters.open.len() > MAX_LETTERS {
                return Err(format!(
                    "has more than {MAX_LETTERS} dead letters; redrive them first"
                ));
            }
            let known = letters.settled.map(|n| n + letters.open.len() as u64);
            if known.is_some_and(|known| known < progress.dead_letters) {
                return Err("gave up pages or items whose dead letters are in another store, or were removed \
                            without a redrive"
                    .to_owned());
            }
            Ok(letters.open.iter().map(|l| gap(&l.start, &l.end)).collect())
        }
        None if progress.keeps_dead_letters == Some(true) => Err(
            "gave up pages or items, and its dead letters are not known here; name their store with \
             `Predecessor::letters`"
                .to_owned(),
        ),
        _ if progress.items.failed > 0 => {
            Err("gave up items without dead letters, so that their place is not known".to_owned())
        }
        _ if (progress.failed.len() as u64) < progress.pages_failed => {
            Err("gave up pages that it has not listed yet".to_owned())
        }
        _ => Ok(progress.failed.iter().map(|page| gap(&page.start, &page.end)).collect()),
    }
}

fn decoded<C: DeserializeOwned>(token: Option<&PageToken>) -> Result<Option<C>, PageError> {
    token.map(PageToken::decode).transpose()
}

/// Checks that a page is in the order of its cursors.
///
/// # Errors
/// The page ends before it begins, or after its range, in the order of the type of the cursors.
pub(super) fn check_order<C: Ord>(
    start: Option<&C>,
    next: &C,
    end: Option<&C>,
) -> Result<(), PageError> {
    let in_order = start < Some(next) && end.is_none_or(|end| next <= end);
    in_order.then_some(()).ok_or_else(errors::out_of_order)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn token(n: u64) -> PageToken {
        PageToken::encode(&n).unwrap()
    }

    fn coverage(gaps: &[(u64, Option<u64>, GapState)]) -> Coverage {
        let gap = |(start, end, state): &(u64, Option<u64>, GapState)| Gap {
            start: (*start > 0).then(|| token(*start)),
            end: end.map(token),
            state: *state,
        };
        Coverage {
            batch_id: "first".to_owned(),
            first_cursor: None,
            gaps: gaps.iter().map(gap).collect(),
        }
    }

    fn progress(json: serde_json::Value) -> Progress {
        let mut whole = serde_json::json!({
            "batch_id": "first", "batch_run": "r", "processor": "p", "phase": "running", "pages_completed": 1,
            "pages_failed": 0, "pages_in_flight": 0, "pages_stuck": 0, "strides_waiting": 0,
            "items": {"processed": 1, "skipped": 0, "failed": 0}, "retries": 0, "max_parallelism": 1,
            "max_parallelism_achieved": 1, "end_of_data": true, "started_at": 0, "as_of": 0, "runs": 1,
            "announcements_dropped": 0,
        });
        let fields = json.as_object().unwrap().clone();
        whole.as_object_mut().unwrap().extend(fields);
        serde_json::from_value(whole).unwrap()
    }

    fn letter(start: u64, end: u64) -> DeadLetter {
        serde_json::from_value(serde_json::json!({
            "id": "l", "batch_id": "first", "batch_run": "r", "processor": "p", "stride": 0,
            "start": start.to_string(), "end": end.to_string(), "key": null, "error_type": "Bad", "message": "m",
            "attempts": 1, "first_at": 0, "last_at": 0,
        }))
        .unwrap()
    }

    #[test]
    fn a_batch_that_completed_is_finished_everywhere() {
        let done = progress(serde_json::json!({"phase": "ended", "end_of_data": true}));
        let done = Coverage::of(&done, None).unwrap();
        assert_eq!(done.after::<u64>(None).unwrap(), Place::Finished(None));
        assert_eq!(done.after(Some(&7_u64)).unwrap(), Place::Finished(None));
    }

    #[test]
    fn a_follower_does_not_begin_before_the_batch() {
        let later = progress(serde_json::json!({"first_cursor": "5"}));
        let later = Coverage::of(&later, None).unwrap();
        assert!(later.after(Some(&4_u64)).is_err());
        assert!(later.after::<u64>(None).is_err());
        assert!(later.after(Some(&5_u64)).is_ok());
    }

    #[test]
    fn what_was_given_up_is_held_exactly_or_everything_is() {
        let of = |json, letters: Option<Letters>| {
            let coverage = Coverage::of(&progress(json), letters.as_ref());
            coverage
                .map(|c| c.gaps.len())
                .map_err(|e| e.message().to_owned())
        };
        let listed = serde_json::json!([{"stride": 0, "start": null, "end": "5", "error_type": "Bad",
            "message": "m", "attempts": 1, "first_at": 0, "last_at": 0}]);
        let page = serde_json::json!({"pages_failed": 1, "failed": listed});
        assert_eq!(of(page, None), Ok(1));
        let unlisted = of(
            serde_json::json!({"pages_failed": 2, "failed": listed}),
            None,
        );
        assert!(unlisted.unwrap_err().contains("not listed yet"));
        let items = serde_json::json!({"processed": 1, "skipped": 0, "failed": 2});
        let unplaced = of(serde_json::json!({"items": items}), None);
        assert!(unplaced.unwrap_err().contains("place is not known"));
        let kept =
            serde_json::json!({"items": items, "keeps_dead_letters": true, "dead_letters": 2});
        assert!(
            of(kept.clone(), None)
                .unwrap_err()
                .contains("Predecessor::letters")
        );
        let letters = |open: usize, settled| {
            let open = vec![letter(1, 2); open];
            Some(Letters { open, settled })
        };
        assert_eq!(of(kept.clone(), letters(2, Some(0))), Ok(2));
        assert_eq!(of(kept.clone(), letters(1, Some(1))), Ok(1));
        assert_eq!(of(kept.clone(), letters(1, None)), Ok(1));
        let removed = of(kept.clone(), letters(1, Some(0)));
        assert!(removed.unwrap_err().contains("removed"));
        let many = of(kept, letters(MAX_LETTERS + 1, None));
        assert!(many.unwrap_err().contains("more than 1000"));
        let partly =
            serde_json::json!({"items": items, "keeps_dead_letters": true, "dead_letters": 1});
        assert!(
            of(partly, letters(1, None))
                .unwrap_err()
                .contains("without a dead letter")
        );
    }

    #[test]
    fn a_page_out_of_order_is_refused() {
        assert!(check_order(Some(&1), &2, Some(&2)).is_ok());
        assert!(check_order(None, &1, None).is_ok());
        assert!(check_order(Some(&2), &2, None).is_err());
        assert!(check_order(Some(&1), &3, Some(&2)).is_err());
    }

    proptest! {
        /// Walks from place to place, and compares each row with the gaps.
        #[test]
        fn a_walk_meets_every_gap_and_nothing_else(
            gaps in prop::collection::vec((0..60_u64, 1..9_u64), 0..8),
            open_end in prop::option::of(40..70_u64),
        ) {
            let mut all: Vec<_> = gaps.iter().map(|(start, rows)| (*start, Some(start + rows), GapState::GaveUp)).collect();
            all.extend(open_end.map(|start| (start, None, GapState::AtWork)));
            let coverage = coverage(&all);
            let is_open = |row: u64| all.iter().any(|(start, end, _)| row > *start && end.is_none_or(|end| row <= end));
            let mut at: Option<u64> = None;
            loop {
                let (to, open) = match coverage.after(at.as_ref()).unwrap() {
                    Place::Finished(to) => (to, false),
                    Place::Open(to, _) => (to, true),
                };
                let rows = at.unwrap_or(0) + 1..=to.unwrap_or(100);
                for row in rows {
                    prop_assert_eq!(is_open(row), open, "row {}", row);
                }
                match to {
                    Some(to) => {
                        prop_assert!(Some(to) > at);
                        at = Some(to);
                    }
                    None => break,
                }
            }
        }
    }

    #[test]
    fn a_batch_that_has_not_begun_has_finished_nothing() {
        let unknown = progress(serde_json::json!({"end_of_data": false}));
        let place = Coverage::of(&unknown, None).unwrap().after::<u64>(None);
        assert_eq!(place.unwrap(), Place::Open(None, GapState::AtWork));
        let ended = progress(serde_json::json!({"end_of_data": false, "phase": "ended"}));
        let place = Coverage::of(&ended, None).unwrap().after::<u64>(None);
        assert_eq!(place.unwrap(), Place::Open(None, GapState::Ended));
    }
}

//! The narrowing of a range with wrong rows down to small ranges for people.

use async_trait::async_trait;

use crate::base::error::PageError;

/// The counts of a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Found {
    /// The number of rows.
    pub rows: u64,
    /// The number of wrong rows.
    pub wrong: u64,
}

/// The range `(start, end]` with its counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Span<K> {
    pub start: Option<K>,
    pub end: Option<K>,
    pub found: Found,
}

/// The queries of a table while a range is narrowed.
#[async_trait]
pub(super) trait Rows<K: Send + Sync>: Sync {
    async fn look(&self, start: Option<&K>, end: Option<&K>) -> Result<Found, PageError>;

    /// Returns the key of the row `rows` rows after `start`, if the range has one.
    async fn after(
        &self,
        start: Option<&K>,
        end: Option<&K>,
        rows: u64,
    ) -> Result<Option<K>, PageError>;
}

/// Splits a range until each part holds, is small, or is mostly wrong. The parts are in order and make up the range.
///
/// Once `most` parts do not hold, the rest is not split. So at most `2 * most * log2(rows / small)` ranges are
/// examined.
pub(super) async fn narrow<K: Clone + PartialEq + Send + Sync>(
    rows: &impl Rows<K>,
    span: Span<K>,
    small: u64,
    most: usize,
) -> Result<Vec<Span<K>>, PageError> {
    let mut left = vec![span];
    let mut parts = Vec::new();
    let mut failed = 0;
    while let Some(span) = left.pop() {
        let Found { rows: count, wrong } = span.found;
        let done = wrong == 0 || count <= small || wrong >= count.div_ceil(2) || failed >= most;
        let middle = match done {
            true => None,
            false => {
                let (start, end) = (span.start.as_ref(), span.end.as_ref());
                let middle = rows.after(start, end, count / 2).await?;
                // Rows may have been deleted since they were counted.
                middle.filter(|middle| span.end.as_ref() != Some(middle))
            }
        };
        let Some(middle) = middle else {
            failed += usize::from(wrong > 0);
            parts.push(span);
            continue;
        };
        for (start, end) in [(Some(middle.clone()), span.end), (span.start, Some(middle))] {
            let found = rows.look(start.as_ref(), end.as_ref()).await?;
            left.push(Span { start, end, found });
        }
    }
    Ok(parts)
}

#[cfg(test)]
mod tests {
    use std::{
        collections::BTreeSet,
        sync::atomic::{AtomicU64, Ordering},
    };

    use proptest::prelude::*;

    use super::*;

    #[derive(Default)]
    struct Model {
        keys: BTreeSet<u64>,
        wrong: BTreeSet<u64>,
        looks: AtomicU64,
    }

    impl Model {
        fn in_range<'a>(
            keys: &'a BTreeSet<u64>,
            start: Option<&u64>,
            end: Option<&u64>,
        ) -> impl Iterator<Item = &'a u64> {
            let (start, end) = (start.copied(), end.copied());
            keys.iter()
                .filter(move |k| start.is_none_or(|s| **k > s) && end.is_none_or(|e| **k <= e))
        }
    }

    #[async_trait]
    impl Rows<u64> for Model {
        async fn look(&self, start: Option<&u64>, end: Option<&u64>) -> Result<Found, PageError> {
            self.looks.fetch_add(1, Ordering::Relaxed);
            Ok(Found {
                rows: Self::in_range(&self.keys, start, end).count() as u64,
                wrong: Self::in_range(&self.wrong, start, end).count() as u64,
            })
        }

        async fn after(
            &self,
            start: Option<&u64>,
            end: Option<&u64>,
            rows: u64,
        ) -> Result<Option<u64>, PageError> {
            let rows = usize::try_from(rows - 1).unwrap();
            Ok(Self::in_range(&self.keys, start, end).nth(rows).copied())
        }
    }

    proptest! {
        #[test]
        fn the_parts_make_up_the_range_and_those_that_do_not_hold_are_small(
            keys in prop::collection::btree_set(0..10_000_u64, 1..2_000),
            wrong in prop::collection::vec(any::<prop::sample::Index>(), 0..30),
            small in 1..200_u64,
        ) {
            let all: Vec<_> = keys.iter().copied().collect();
            let model = Model {
                wrong: wrong.iter().map(|i| *i.get(&all)).collect(),
                keys,
                looks: AtomicU64::new(0),
            };
            let most = 20;
            let parts = futures::executor::block_on(async {
                let found = model.look(None, None).await.unwrap();
                let span = Span { start: None, end: None, found };
                narrow(&model, span, small, most).await.unwrap()
            });
            // An unbroken chain.
            prop_assert!(parts[0].start.is_none() && parts[parts.len() - 1].end.is_none());
            for pair in parts.windows(2) {
                prop_assert_eq!(&pair[0].end, &pair[1].start);
            }
            let wrong: u64 = parts.iter().map(|part| part.found.wrong).sum();
            prop_assert_eq!(wrong, model.wrong.len() as u64);
            let failed: Vec<_> = parts.iter().filter(|part| part.found.wrong > 0).collect();
            for part in failed.iter().take(most) {
                let Found { rows, wrong } = part.found;
                prop_assert!(rows <= small || 2 * wrong >= rows, "{:?}", part);
            }
            let depth = (2_000_f64 / small as f64).log2().ceil() as u64 + 1;
            prop_assert!(model.looks.load(Ordering::Relaxed) <= 1 + 2 * (most as u64 + 1) * depth.max(1));
        }
    }
}

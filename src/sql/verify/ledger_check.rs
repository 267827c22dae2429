//! Compares the ledger of a batch run with its table.

use crate::{
    base::{error::PageError, text::count},
    page::token::PageToken,
    progress::ItemCounts,
    sql::{
        Key, Table,
        ledger::coverage::{Chain, Hole, KeptStride, NO_STRIDE, STRIDES_AT_ONCE, kept_strides},
    },
};

/// The number of items up to which strides are counted together.
const ITEMS_AT_ONCE: u64 = 50_000;
/// The largest number of holes that are examined; a batch run with more has another problem.
const MAX_HOLES: usize = 100;

/// See the [module](self).
pub(super) struct LedgerCheck<'a> {
    pub table: &'a Table,
    pub batch_run: &'a str,
    /// The position after which the batch began.
    pub covered_from: Option<&'a Key>,
    pub covered_to: Option<&'a Key>,
    /// The position at which the batch ends.
    pub end: Option<&'a Key>,
}

/// A range that the ledger does not have, and that matters.
pub(super) struct RowsInHole {
    pub start: Option<Key>,
    pub end: Option<Key>,
    /// The number of rows in the range that the batch should have met.
    pub rows: u64,
    pub what: String,
    /// True if the rows may have been added after the range was applied.
    pub may_be_new: bool,
}

/// The result of the comparison.
pub(super) struct Holes {
    /// The number of strides that were examined.
    pub strides: u64,
    /// The number of items that the batch run has applied or deliberately skipped.
    pub items: u64,
    /// The items and the pages that it has given up.
    pub given_up: (u64, u64),
    pub holes: Vec<RowsInHole>,
    pub notes: Vec<String>,
}

/// The number of ranges whose rows differ in number from the applied items. In a table in use, rows are added and
/// deleted, so this proves nothing.
#[derive(Default)]
struct Counts {
    ranges: u64,
    differing: u64,
    more: u64,
    fewer: u64,
    start: Option<Key>,
    end: Option<Key>,
    items: u64,
}

impl LedgerCheck<'_> {
    pub async fn run(&self) -> Result<Holes, PageError> {
        let token = |key: Option<&Key>| key.map(PageToken::encode).transpose();
        let mut chain = Chain::new(token(self.covered_from)?, token(self.covered_to)?);
        let mut found = Vec::new();
        let mut counts = Counts {
            start: self.covered_from.cloned(),
            ..Counts::default()
        };
        let (mut followed, mut counting) = (0, true);
        let (mut items, mut pages_failed) = (ItemCounts::default(), 0);
        while let Some(next) = chain.next() {
            let strides = kept_strides(self.table.database(), self.batch_run, next).await?;
            for stride in &strides {
                if chain.next().is_none() {
                    break;
                }
                followed += 1;
                items += stride.totals.items;
                pages_failed += stride.totals.pages_failed;
                found.extend(chain.follow(stride));
                if counting {
                    self.count(&mut counts, stride).await?;
                }
                // A stride after one in flight may be far ahead of it.
                counting &= self.covered_to.is_none() || stride.applied_to == stride.end;
            }
            if strides.len() < STRIDES_AT_ONCE as usize || found.len() > MAX_HOLES {
                break;
            }
        }
        found.extend(chain.finish());
        if counts.items > 0 {
            let end = counts.end.take();
            self.compare(&mut counts, end).await?;
        }
        let mut holes = Vec::new();
        if followed == 0 {
            // In any case, the pages of the batch run were applied elsewhere.
            let (start, end) = (self.covered_from.cloned(), self.end.cloned());
            holes.push(RowsInHole {
                rows: self.table.count(start.as_ref(), end.as_ref()).await?,
                start,
                end,
                what: NO_STRIDE.to_owned(),
                may_be_new: false,
            });
            found.clear();
        }
        let mut notes: Vec<_> = counts.note().into_iter().collect();
        for hole in found.into_iter().take(MAX_HOLES) {
            let found_end = hole.found_end;
            if found_end && self.end.is_none() && hole.end.is_none() && self.covered_to.is_none() {
                // The batch ends only with the data, to which rows are added all the time.
                continue;
            }
            let Some(rows) = self.rows_in(hole).await? else {
                continue;
            };
            match found_end && self.table.spec().filter.is_some() {
                // The rows may match the filter only since then, as rows anywhere may.
                true => {
                    let matches = if rows.rows == 1 { "matches" } else { "match" };
                    let number = count(rows.rows, "row");
                    notes.push(format!("{}, and {number} there {matches} now", rows.what));
                }
                false => holes.push(rows),
            }
        }
        Ok(Holes {
            strides: followed,
            items: items.processed + items.skipped,
            given_up: (items.failed, pages_failed),
            holes,
            notes,
        })
    }

    /// Returns the rows of a hole. `None` if nothing had to be applied there.
    async fn rows_in(&self, hole: Hole) -> Result<Option<RowsInHole>, PageError> {
        let key = |token: Option<PageToken>| token.map(|token| token.decode::<Key>()).transpose();
        let (start, end) = (key(hole.start)?, key(hole.end)?);
        let mut end = end.or_else(|| self.end.cloned());
        let mut rows = self.table.count(start.as_ref(), end.as_ref()).await?;
        if let Some(covered_to) = self.covered_to {
            // Strides advance while a running batch is examined, and pages in flight are no hole.
            let covered = self.table.count(start.as_ref(), Some(covered_to)).await?;
            if covered == 0 {
                return Ok(None);
            }
            if covered < rows {
                (rows, end) = (covered, Some(covered_to.clone()));
            }
        }
        if rows == 0 && hole.holds_if_empty {
            return Ok(None);
        }
        Ok(Some(RowsInHole {
            start,
            end,
            rows,
            what: hole.what,
            may_be_new: hole.holds_if_empty,
        }))
    }

    /// Compares numbers of rows. Changed rows may not match a filter any more, so only a table without a filter is
    /// counted.
    async fn count(&self, counts: &mut Counts, stride: &KeptStride) -> Result<(), PageError> {
        let Some(applied_to) = &stride.applied_to else {
            return Ok(());
        };
        if self.table.spec().filter.is_some() {
            return Ok(());
        }
        counts.items += stride.totals.items.total();
        counts.end = Some(applied_to.decode()?);
        if counts.items < ITEMS_AT_ONCE {
            return Ok(());
        }
        let end = counts.end.take();
        self.compare(counts, end).await
    }

    async fn compare(&self, counts: &mut Counts, end: Option<Key>) -> Result<(), PageError> {
        let rows = self
            .table
            .count(counts.start.as_ref(), end.as_ref())
            .await?;
        counts.compare(rows, end);
        Ok(())
    }
}

impl Counts {
    fn compare(&mut self, rows: u64, end: Option<Key>) {
        self.ranges += 1;
        self.differing += u64::from(rows != self.items);
        self.more += rows.saturating_sub(self.items);
        self.fewer += self.items.saturating_sub(rows);
        self.items = 0;
        self.start = end;
    }

    fn note(&self) -> Option<String> {
        (self.differing > 0).then(|| {
            format!(
                "{} of {} ranges have more or fewer rows now than were applied: {} were added and {} removed, as far as \
                 numbers can tell",
                self.differing, self.ranges, self.more, self.fewer
            )
        })
    }
}

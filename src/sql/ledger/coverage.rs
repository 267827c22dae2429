//! The part of its data that a batch run has applied, according to the page ledger.
//!
//! Strides are numbered from 0, and each begins where the previous one ends. A missing row, a stride that is not
//! applied to its end, and a stride that begins elsewhere all leave a hole.

use crate::{
    base::error::PageError,
    page::token::PageToken,
    processor::store::page_ledger::StrideTotals,
    sql::{
        Database,
        backend::{Backend, dialect::Dialect, value::Fields},
        connection::pool::on_pool,
        ledger::{SqlLedger, failed, stride_table::totals},
    },
};

/// A stride, as the ledger has it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct KeptStride {
    /// The number of the stride.
    pub stride: u64,
    /// The position up to which the stride is applied; its beginning, if nothing is applied.
    pub applied_to: Option<PageToken>,
    /// The end of the stride, once it is decided.
    pub end: Option<PageToken>,
    /// True if the stride is applied up to the end of the data.
    pub ends_data: bool,
    /// The numbers of its pages and items by outcome.
    pub totals: StrideTotals,
}

/// # Look at the strides
impl<DB: Backend> SqlLedger<DB> {
    /// Returns the strides of a batch run from number `from` on, in order, at most `limit`.
    ///
    /// # Errors
    /// The error of the database.
    pub async fn strides(
        &self,
        batch_run: &str,
        from: u64,
        limit: u32,
    ) -> Result<Vec<KeptStride>, PageError> {
        let mut connection = self.leases.pool().acquire().await?;
        let statement = format!(
            "SELECT stride, applied_to, stride_end, ends_data, pages, pages_failed, processed, changed,
                skipped, failed
            FROM {} WHERE batch_run = $1 AND stride >= $2 ORDER BY stride LIMIT $3",
            self.tables.strides.name
        );
        let values = vec![batch_run.into(), from.into(), u64::from(limit).into()];
        let rows = DB::rows(&mut connection, statement, values).await;
        let rows = rows.map_err(failed::<DB>)?;
        rows.iter()
            .map(kept::<DB>)
            .collect::<Result<_, _>>()
            .map_err(failed::<DB>)
    }
}

/// The number of strides that [`kept_strides`] returns at most.
pub(crate) const STRIDES_AT_ONCE: u32 = 1_000;

/// The state of a batch run of which the ledger has no stride at all.
pub(crate) const NO_STRIDE: &str = "the ledger of this database has no stride of the batch run; this is another \
    database, or the strides were pruned";

/// Returns the strides of a batch run in the ledger of a database from number `from` on, in order.
pub(crate) async fn kept_strides(
    database: &Database,
    batch_run: &str,
    from: u64,
) -> Result<Vec<KeptStride>, PageError> {
    on_pool!(database, pool: Db => {
        let ledger = SqlLedger::<Db>::new(pool.clone());
        ledger.strides(batch_run, from, STRIDES_AT_ONCE).await
    })
}

fn kept<DB: Dialect>(row: &DB::Row) -> Result<KeptStride, sqlx::Error> {
    let mut fields = Fields::<DB>::of(row);
    Ok(KeptStride {
        stride: fields.count()?,
        applied_to: fields.token()?,
        end: fields.token()?,
        ends_data: fields.flag()?,
        totals: totals(&mut fields)?,
    })
}

/// A range that the ledger does not have as applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Hole {
    pub start: Option<PageToken>,
    /// The end of the range; `None` for the end of the data.
    pub end: Option<PageToken>,
    /// The state of the range according to the ledger.
    pub what: String,
    /// True if only the rows can tell whether any are missing: the ledger has no record of an empty last page of a
    /// stride.
    pub holds_if_empty: bool,
    /// True if a read found the end of the data at the beginning of the range. Rows may have been added since, as they
    /// may anywhere.
    pub found_end: bool,
}

/// Follows the strides of a batch run from the first cursor to the end.
#[derive(Debug)]
pub(crate) struct Chain {
    next: u64,
    /// The beginning of the next stride.
    at: Option<PageToken>,
    /// The end of the covered part; `None` for all of the data.
    covered_to: Option<PageToken>,
    /// True if the data after this point need not be applied.
    done: bool,
}

impl Chain {
    /// Creates the chain before its first stride. `covered_from` is the beginning of that stride; `None` for the
    /// beginning of the data.
    pub fn new(covered_from: Option<PageToken>, covered_to: Option<PageToken>) -> Self {
        Self {
            next: 0,
            at: covered_from,
            covered_to,
            done: false,
        }
    }

    /// Returns the number of the next stride.
    pub fn next(&self) -> Option<u64> {
        (!self.done).then_some(self.next)
    }

    /// Continues with the next stride that the ledger has.
    pub fn follow(&mut self, stride: &KeptStride) -> Vec<Hole> {
        let mut holes = Vec::new();
        if self.done {
            return holes;
        }
        let known = |token: &Option<PageToken>| match token {
            Some(token) => format!("`{token}`"),
            None => "the beginning".to_owned(),
        };
        if stride.stride > self.next {
            let last = stride.stride - 1;
            let missing = match last - self.next {
                0 => format!("stride {last} is not in the ledger"),
                _ => format!("strides {} to {last} are not in the ledger", self.next),
            };
            let begins = match stride.totals.pages + stride.totals.pages_failed {
                // Nothing of the stride is applied, so `applied_to` is still its beginning.
                0 => stride.applied_to.clone(),
                _ => None,
            };
            holes.push(Hole {
                start: self.at.clone(),
                end: begins
                    .clone()
                    .or_else(|| stride.end.clone())
                    .or_else(|| stride.applied_to.clone()),
                what: match begins {
                    Some(_) => missing,
                    None => format!(
                        "{missing}; the range includes stride {}, which is",
                        stride.stride
                    ),
                },
                holds_if_empty: false,
                found_end: false,
            });
        } else if stride.totals == StrideTotals::default() && stride.applied_to != self.at {
            holes.push(Hole {
                start: self.at.clone(),
                end: stride.end.clone(),
                what: format!(
                    "stride {} begins at {}, but the one before ends at {}",
                    stride.stride,
                    known(&stride.applied_to),
                    known(&self.at)
                ),
                holds_if_empty: false,
                found_end: false,
            });
        }
        if stride.ends_data {
            // The walk found no row there. That is the result of one read, so the rows are counted again.
            holes.push(Hole {
                start: stride.applied_to.clone().or_else(|| self.at.clone()),
                end: None,
                what: format!(
                    "stride {} found the end of the data after {}",
                    stride.stride,
                    known(&stride.applied_to)
                ),
                holds_if_empty: true,
                found_end: true,
            });
        }
        let covered = self.covered_to.is_some();
        let reached =
            covered && (stride.applied_to == self.covered_to || stride.end == self.covered_to);
        let to = match reached {
            true => self.covered_to.clone(),
            false => stride.end.clone(),
        };
        if !stride.ends_data
            && (to.is_none() || stride.applied_to != to)
            && !(to.is_none() && reached)
        {
            holes.push(Hole {
                start: stride.applied_to.clone(),
                end: to.clone(),
                what: format!(
                    "stride {} is applied only up to {}",
                    stride.stride,
                    known(&stride.applied_to)
                ),
                holds_if_empty: true,
                found_end: false,
            });
        }
        self.next = stride.stride + 1;
        self.done = reached || stride.ends_data || stride.end.is_none();
        self.at = to;
        holes
    }

    /// Returns the hole at the end, once the ledger has no more strides.
    pub fn finish(self) -> Option<Hole> {
        if self.done {
            return None;
        }
        Some(Hole {
            start: self.at,
            end: self.covered_to,
            what: match self.next {
                0 => "the ledger has no stride of this batch run".to_owned(),
                next => format!("the ledger has no stride after number {}", next - 1),
            },
            holds_if_empty: true,
            found_end: false,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::progress::ItemCounts;

    fn token(n: u64) -> PageToken {
        PageToken::encode(&n).unwrap()
    }

    fn stride(number: u64, applied_to: Option<u64>, end: Option<u64>) -> KeptStride {
        KeptStride {
            stride: number,
            applied_to: applied_to.map(token),
            end: end.map(token),
            ends_data: false,
            totals: StrideTotals {
                pages: 1,
                pages_failed: 0,
                items: ItemCounts {
                    processed: 10,
                    ..ItemCounts::default()
                },
            },
        }
    }

    /// Three strides, of which the last one reads up to the end of the data.
    fn whole() -> Vec<KeptStride> {
        let mut last = stride(2, Some(27), None);
        last.ends_data = true;
        vec![
            stride(0, Some(10), Some(10)),
            stride(1, Some(20), Some(20)),
            last,
        ]
    }

    fn holes(
        strides: &[KeptStride],
        covered_to: Option<u64>,
    ) -> Vec<(Option<u64>, Option<u64>, bool)> {
        let mut chain = Chain::new(None, covered_to.map(token));
        let mut holes: Vec<_> = strides.iter().flat_map(|s| chain.follow(s)).collect();
        holes.extend(chain.finish());
        let number = |token: Option<PageToken>| token.map(|t| t.decode().unwrap());
        let range = |hole: Hole| (number(hole.start), number(hole.end), hole.holds_if_empty);
        holes.into_iter().map(range).collect()
    }

    /// The hole after the end of the data that a read has found, in which there must be no rows.
    const END: (Option<u64>, Option<u64>, bool) = (Some(27), None, true);

    #[test]
    fn an_unbroken_chain_has_no_hole_before_the_end_of_the_data() {
        assert_eq!(holes(&whole(), None), [END]);
    }

    #[test]
    fn an_end_of_the_data_that_was_not_recorded_has_to_be_empty() {
        let mut strides = whole();
        strides[2].ends_data = false;
        assert_eq!(holes(&strides, None), [(Some(27), None, true)]);
    }

    #[test]
    fn a_stride_that_is_not_there_is_a_hole() {
        let mut strides = whole();
        strides.remove(1);
        assert_eq!(holes(&strides, None), [(Some(10), Some(27), false), END]);
        let mut strides = whole();
        strides.remove(0);
        assert_eq!(holes(&strides, None), [(None, Some(20), false), END]);
        let mut strides = whole();
        strides.remove(2);
        assert_eq!(holes(&strides, None), [(Some(20), None, true)]);
        assert_eq!(holes(&[], None), [(None, None, true)]);
    }

    #[test]
    fn a_stride_that_is_applied_in_part_is_a_hole_from_there_on() {
        let mut strides = whole();
        strides[1].applied_to = Some(token(14));
        assert_eq!(holes(&strides, None), [(Some(14), Some(20), true), END]);
    }

    #[test]
    fn a_stride_that_begins_elsewhere_is_a_hole() {
        let mut strides = whole();
        strides[1].applied_to = Some(token(15));
        strides[1].totals = StrideTotals::default();
        assert_eq!(holes(&strides, None)[0], (Some(10), Some(20), false));
    }

    #[test]
    fn what_is_not_covered_yet_need_not_be_applied() {
        let mut strides = whole();
        strides[1].applied_to = Some(token(14));
        assert_eq!(holes(&strides, Some(10)), []);
        // The end of a stage lies within a stride.
        assert_eq!(holes(&strides, Some(14)), []);
        assert_eq!(holes(&strides[..1], Some(20)), [(Some(10), Some(20), true)]);
    }

    proptest! {
        #[test]
        fn a_chain_holds_and_any_row_taken_out_of_it_is_noticed(
            lengths in prop::collection::vec(1..100_u64, 1..20),
            out in any::<prop::sample::Index>(),
        ) {
            let mut at = 0;
            let last = lengths.len() - 1;
            let mut strides: Vec<_> = lengths.iter().enumerate().map(|(n, length)| {
                at += length;
                let mut stride = stride(n as u64, Some(at), (n != last).then_some(at));
                stride.ends_data = n == last;
                stride
            }).collect();
            let end = (Some(at), None, true);
            prop_assert_eq!(holes(&strides, None), [end]);
            let removed = strides.remove(out.index(last + 1));
            let found = holes(&strides, None);
            prop_assert_eq!(found.len(), if removed.ends_data { 1 } else { 2 });
            prop_assert_ne!(found[0], end);
        }
    }
}

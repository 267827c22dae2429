//! The check of an import, against its ledger and the end of its file.
//!
//! The rows of a page are committed together with the row of its stride, so an unbroken chain of strides proves that every
//! record before its end is in the table or has a dead letter. The table is not searched: rows may be changed and deleted
//! once they are imported.

use super::SqlImport;
use crate::{
    base::error::PageError,
    files::FilePosition,
    page::{Next, range::PageRange, token::PageToken},
    processor::check_context::CheckContext,
    progress::{
        ItemCounts,
        check::{Check, FailedRange},
    },
    sql::ledger::coverage::{Chain, Hole, NO_STRIDE, STRIDES_AT_ONCE, kept_strides},
};

/// The largest number of holes that are described.
const MAX_HOLES: usize = 100;
const RECORDS_AT_ONCE: usize = 10_000;

/// Returns the check behind [`PageProcessor::check`](crate::PageProcessor::check) of an import. `None` for an import that
/// records no pages.
pub(super) async fn check(
    import: &SqlImport,
    ctx: &CheckContext<SqlImport>,
) -> Result<Option<Check>, PageError> {
    let args = ctx.args();
    if !args.once {
        return Ok(None);
    }
    let database = import.database(args)?;
    let token = |position: Option<&FilePosition>| position.map(PageToken::encode).transpose();
    let mut chain = Chain::new(token(ctx.covered_from())?, token(ctx.covered_to())?);
    let (mut holes, mut check) = (Vec::new(), Check::default());
    let (mut items, mut pages_failed) = (ItemCounts::default(), 0);
    while let Some(next) = chain.next() {
        let strides = kept_strides(database, ctx.batch_run(), next).await?;
        for stride in &strides {
            if chain.next().is_none() {
                break;
            }
            check.ranges += 1;
            items += stride.totals.items;
            pages_failed += stride.totals.pages_failed;
            holes.extend(chain.follow(stride));
        }
        if strides.len() < STRIDES_AT_ONCE as usize || holes.len() > MAX_HOLES {
            break;
        }
    }
    holes.extend(chain.finish());
    check.items = Some(items.processed + items.skipped);
    (check.items_given_up, check.pages_given_up) = (items.failed, pages_failed);
    let none = check.ranges == 0;
    for mut hole in holes.into_iter().take(MAX_HOLES) {
        if none {
            NO_STRIDE.clone_into(&mut hole.what);
        }
        let records = match records_in(import, ctx, &hole).await {
            // Nothing but empty lines is left in the file, as the batch has seen.
            Err(error) if hole.found_end && error.is_environment() => {
                check.notes.push(format!(
                    "the end of the data is taken from the ledger: {}",
                    error.message()
                ));
                continue;
            }
            records => records?,
        };
        if records == 0 && hole.holds_if_empty && !none {
            continue;
        }
        check.fails(FailedRange {
            start: hole.start,
            end: hole.end,
            items: records,
            message: hole.what,
        });
    }
    Ok(Some(check))
}

/// Returns the number of records of the file in a hole.
async fn records_in(
    import: &SqlImport,
    ctx: &CheckContext<SqlImport>,
    hole: &Hole,
) -> Result<u64, PageError> {
    let position = |token: &Option<PageToken>| -> Result<Option<FilePosition>, PageError> {
        token.as_ref().map(PageToken::decode).transpose()
    };
    let (mut start, end) = (position(&hole.start)?, position(&hole.end)?);
    let end = end.or_else(|| ctx.covered_to().cloned());
    // The file may be moved away once it is imported, and the arguments have its size.
    let size = ctx.args().file.source().fingerprint.as_ref();
    let last = end.as_ref().map(|end| end.offset);
    let last = last.or_else(|| size.map(|fingerprint| fingerprint.size));
    let mut records = 0;
    loop {
        let from = start.as_ref().map_or(0, |start| start.offset);
        if last.is_some_and(|last| from >= last) {
            return Ok(records);
        }
        let range = PageRange::new(start, end);
        let page = import.rows(ctx.args(), &range, RECORDS_AT_ONCE).await?;
        let read = page.items().len() as u64;
        records += read;
        match page.next() {
            Next::At(next) if read > 0 => start = Some(*next),
            _ => return Ok(records),
        }
    }
}

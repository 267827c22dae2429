//! Answers that go back into the rows of their table.

use super::{
    journal::{Journal, Outcome},
    outcome::{Done, GivenUp, letter},
    plan::{Plan, object},
    processor::HttpCall,
    source::{CallCursor, of_object},
};
use crate::{
    base::error::PageError,
    http::template::Fields,
    processor::{context::PageContext, report::PageReport},
    sql::{Key, NewValues, RowUpdate, Written},
};

/// A record whose values are ready.
struct Ready {
    position: usize,
    item_key: String,
    fields: Fields,
    outcome: Outcome,
}

/// Returns the values of `--set` for their columns.
///
/// # Errors
/// The reason why a column cannot hold its value.
fn row(update: &RowUpdate, key: Key, values: &Fields) -> Result<NewValues, String> {
    let values = values.iter().enumerate();
    let values = values.map(|(at, (_, datum))| update.fitting(at, &datum.json()));
    let values = values.collect::<Result<_, _>>()?;
    Ok(NewValues { key, values })
}

/// Checks that the columns can hold the values of `--set`.
pub(super) fn check(update: &RowUpdate, values: &Fields) -> Result<(), String> {
    row(update, Key::new(Vec::<i64>::new()), values).map(drop)
}

/// Writes the values of a page into its rows, in the transaction of the page, and adds the outcomes to the report.
/// `fields` has what was read of each record. Returns the number of rows that were changed.
pub(super) async fn write(
    ctx: &PageContext<HttpCall>,
    (update, plan, journal): (&RowUpdate, &Plan, &Journal),
    fields: Vec<Fields>,
    done: Vec<(CallCursor, Done)>,
    report: &mut PageReport,
) -> Result<u64, PageError> {
    let (mut ready, mut rows) = (Vec::new(), Vec::new());
    for (position, ((cursor, done), fields)) in done.into_iter().zip(fields).enumerate() {
        let outcome = match done {
            Done::Written(outcome) => outcome,
            Done::Failed(failed) => {
                failed.into_report(position, report);
                continue;
            }
        };
        let item_key = ctx.item_key(&cursor);
        let CallCursor::Row(key) = cursor else {
            return Err(
                PageError::environment("the cursor is not a key").with_type("CursorNotReadable")
            );
        };
        let values = of_object(&outcome.line).map_err(|bad| {
            PageError::environment(format_args!(
                "a kept answer cannot be read: {}",
                bad.message
            ))
            .with_type("JournalNotReadable")
        })?;
        match row(update, key, &values) {
            Ok(row) => {
                rows.push(row);
                ready.push(Ready {
                    position,
                    item_key,
                    fields,
                    outcome,
                });
            }
            Err(why) => does_not_fit(&fields, why, None).into_report(position, report),
        }
    }
    if rows.is_empty() {
        return Ok(0);
    }
    let looked_at: Vec<_> = names_of(plan, &ready[0].fields);
    let is_same = |at: usize, now: &str| {
        let now = of_object(now).map(|now| plan.used(&now));
        now.is_ok_and(|now| same(&now, &plan.used(&ready[at].fields)))
    };
    let written = update.apply(ctx, &rows, &looked_at, is_same).await?;
    let mut changed = 0;
    for (ready, written) in ready.iter().zip(written) {
        if matches!(written, Written::Outdated | Written::Refused(_)) {
            // A redrive calls again, for another answer may fit.
            journal.drop_answer(&ready.item_key)?;
        }
        match written {
            Written::Changed | Written::Unchanged => match &ready.outcome.instead {
                // A skipped record does not count as changed, too.
                Some(error) => report.skip(format_args!("fallback after {error}")),
                None => changed += u64::from(matches!(written, Written::Changed)),
            },
            Written::Gone => report.skip("the row was deleted, or no longer matches --where"),
            Written::Outdated => GivenUp {
                error_type: "RowChanged".to_owned(),
                message: "the row was changed while the API was called, so the answer was not written; a redrive calls \
                          with the row as it is then"
                    .to_owned(),
                record: letter(&ready.fields, None),
            }
            .into_report(ready.position, report),
            Written::Refused(error) => GivenUp {
                error_type: error.error_type().to_owned(),
                message: error.message().to_owned(),
                record: with_values(&ready.fields, &ready.outcome.line),
            }
            .into_report(ready.position, report),
        }
    }
    Ok(changed)
}

/// Returns the outcome of an answer whose values do not fit their columns.
pub(super) fn does_not_fit(fields: &Fields, why: String, answer: Option<(u16, &str)>) -> GivenUp {
    GivenUp {
        error_type: "AnswerDoesNotFit".to_owned(),
        message: why,
        record: letter(fields, answer),
    }
}

fn names_of(plan: &Plan, fields: &Fields) -> Vec<String> {
    let used = plan.used(fields);
    used.into_iter().map(|(name, _)| name).collect()
}

/// Compares fields in any order.
fn same(a: &Fields, b: &Fields) -> bool {
    a.len() == b.len() && a.iter().all(|field| b.contains(field))
}

/// Returns the content of a dead letter whose values the database refused.
fn with_values(fields: &Fields, values: &str) -> String {
    format!("{{\"record\":{},\"values\":{values}}}", object(fields))
}

//! The outcomes of the records of a page, and their way into files and dead letters.

use serde_json::value::RawValue;

use super::{
    args::CallArgs, journal::Outcome, plan::object, processor::HttpCall, source::CallCursor,
};
use crate::{
    base::error::{PageError, truncate},
    batch::letter_filter::LetterFilter,
    files::{PartFormat, PartSink},
    http::{ApiAnswer, ApiFailure, template::Fields},
    page::token::PageToken,
    processor::{
        PageProcessor as _, check_context::CheckContext, context::PageContext, report::PageReport,
        store::dead_letter::DeadLetter,
    },
};

/// The result for one record.
pub(super) enum Done {
    Written(Outcome),
    Failed(GivenUp),
}

/// A record without an answer, for its dead letter.
pub(super) struct GivenUp {
    pub error_type: String,
    pub message: String,
    pub record: String,
}

impl GivenUp {
    pub fn into_report(self, position: usize, report: &mut PageReport) {
        report.fail_with_record(position, self.error_type, self.message, self.record);
    }
}

impl HttpCall {
    /// Returns the files of the answers; `None` if the answers go into the table.
    pub(super) fn sink(args: &CallArgs) -> Option<PartSink> {
        let sink = PartSink::new(args.to.as_ref()?, PartFormat::json_lines());
        Some(match &args.concatenate {
            Some(file) => sink.concatenate(file),
            None => sink,
        })
    }

    /// Returns the dead letters of the batch run.
    pub(super) async fn letters(
        &self,
        ctx: &CheckContext<Self>,
    ) -> Result<Vec<DeadLetter>, PageError> {
        const AT_ONCE: usize = 1_000;
        let Some(store) = self.dead_letters(ctx.args()) else {
            return Ok(Vec::new());
        };
        let filter = LetterFilter::of(ctx.batch_id());
        let mut all: Vec<DeadLetter> = Vec::new();
        let mut after: Option<String> = None;
        loop {
            let found = store.list(&filter, after.as_deref(), AT_ONCE).await?;
            let is_last = found.len() < AT_ONCE;
            after = found.last().map(|letter| letter.id.clone());
            let of_run = |letter: &DeadLetter| letter.batch_run == ctx.batch_run();
            all.extend(found.into_iter().filter(of_run));
            if is_last {
                return Ok(all);
            }
        }
    }
}

pub(super) fn shown(answer: &ApiAnswer) -> String {
    truncate(&String::from_utf8_lossy(answer.body()), 500)
}

pub(super) fn given_up(fields: &Fields, failure: &ApiFailure) -> GivenUp {
    let answer = failure
        .status()
        .map(|status| (status, failure.body_start()));
    GivenUp {
        error_type: failure.error().error_type().to_owned(),
        message: failure.error().message().to_owned(),
        record: letter(fields, answer),
    }
}

/// Returns the content of a dead letter: the record, and the beginning of the answer.
pub(super) fn letter(fields: &Fields, answer: Option<(u16, &str)>) -> String {
    let record = object(fields);
    match answer {
        None => format!("{{\"record\":{record}}}"),
        Some((status, body)) => {
            let body = serde_json::Value::from(body);
            format!("{{\"record\":{record},\"status\":{status},\"body\":{body}}}")
        }
    }
}

/// Writes the lines of a page: one part for each run of records without a failed one between them. The gaps are
/// filled by redrives.
pub(super) async fn write(
    ctx: &PageContext<HttpCall>,
    done: &[(CallCursor, Done)],
) -> Result<(), PageError> {
    let Some(page) = &ctx.page else {
        return Ok(());
    };
    let Some(sink) = HttpCall::sink(ctx.args()) else {
        return Ok(());
    };
    let mut start = page.start.clone();
    let mut lines: Vec<Box<RawValue>> = Vec::new();
    for (at, (cursor, done_item)) in done.iter().enumerate() {
        let token = PageToken::encode(cursor)?;
        match done_item {
            Done::Written(outcome) => {
                lines.push(RawValue::from_string(outcome.line.clone())?);
                if at + 1 == done.len() {
                    let lines = std::mem::take(&mut lines);
                    sink.write_between(ctx, (start.take(), page.end.clone()), &lines)
                        .await?;
                }
            }
            Done::Failed(_) => {
                if !lines.is_empty() {
                    let before = done[at - 1].0.clone();
                    let end = Some(PageToken::encode(&before)?);
                    let lines = std::mem::take(&mut lines);
                    sink.write_between(ctx, (start.take(), end), &lines).await?;
                }
                start = Some(token);
            }
        }
    }
    Ok(())
}

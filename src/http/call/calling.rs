//! The calls of a page.

#[cfg(feature = "cli")]
use super::args::CallArgs;
#[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql"))]
use super::into_table;
use super::{
    journal::{Journal, Outcome},
    outcome::{Done, GivenUp, given_up, letter, shown},
    output::AnswerLacks,
    plan::{Plan, object},
    processor::HttpCall,
    source::CallItem,
};
#[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql"))]
use crate::sql::RowUpdate;
use crate::{
    base::error::PageError,
    http::{ApiAnswer, ApiClient, template::Fields},
    processor::{context::PageContext, store::dead_letter::stable_id},
};

/// A page that calls.
pub(super) struct Calling<'a> {
    pub client: &'a ApiClient,
    pub journal: &'a Journal,
    pub shape: Shape<'a>,
}

/// The templates of the requests, and the form of the answers.
#[derive(Clone, Copy)]
pub(super) struct Shape<'a> {
    pub plan: &'a Plan,
    /// The columns that the answers are written into; `None` if they go into files.
    #[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql"))]
    pub update: Option<&'a RowUpdate>,
}

impl HttpCall {
    /// Returns the line for an answer, or the reason why there is none.
    #[cfg(feature = "cli")]
    pub(crate) async fn shown_line(
        &self,
        args: &CallArgs,
        plan: &Plan,
        fields: &Fields,
        answer: &ApiAnswer,
    ) -> Result<String, String> {
        #[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql"))]
        let update = self
            .update(args)
            .await
            .map_err(|e| e.message().to_owned())?;
        let shape = Shape {
            plan,
            #[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql"))]
            update: update.as_deref(),
        };
        shape.line(fields, answer).map_err(|failed| failed.message)
    }

    /// Returns the outcome of a record: from the journal, or by a call.
    pub(super) async fn outcome(
        &self,
        ctx: &PageContext<Self>,
        calling: &Calling<'_>,
        item: CallItem,
    ) -> Result<Done, PageError> {
        let Calling {
            client,
            journal,
            shape,
        } = calling;
        let CallItem { cursor, content } = item;
        let fields = match content {
            Ok(fields) => fields,
            Err(bad) => {
                return Ok(Done::Failed(GivenUp {
                    error_type: bad.error_type,
                    message: bad.message,
                    record: bad.kept,
                }));
            }
        };
        let item_key = ctx.item_key(&cursor);
        let record = stable_id(&serde_json::json!(object(&fields)));
        if let Some(known) = journal.known(&item_key, &record) {
            return Ok(Done::Written(known.clone()));
        }
        let secret = |name: &str| self.secret(name);
        let request = match shape.plan.request(&fields, &secret) {
            Ok(request) => request.key(&item_key),
            Err(error) => {
                return Ok(Done::Failed(GivenUp {
                    error_type: "NotSendable".to_owned(),
                    message: error.to_string(),
                    record: letter(&fields, None),
                }));
            }
        };
        let answer = client.call(ctx, &request).await?;
        let outcome = match answer {
            Ok(answer) => match shape.line(&fields, &answer) {
                Ok(line) => Outcome {
                    line,
                    instead: None,
                },
                Err(failed) => return Ok(Done::Failed(failed)),
            },
            Err(failure) if failure.is_outage() => {
                let error = failure.error();
                return Err(PageError::environment(error.message()).with_type(error.error_type()));
            }
            Err(failure) => match shape.fallback(&fields) {
                Some(line) => Outcome {
                    line,
                    instead: Some(failure.error().error_type().to_owned()),
                },
                None => return Ok(Done::Failed(given_up(&fields, &failure))),
            },
        };
        journal.add(&item_key, &record, &outcome)?;
        Ok(Done::Written(outcome))
    }
}

impl Shape<'_> {
    /// Returns whether the answers go into the rows of the table.
    fn fills_table(&self) -> bool {
        #[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql"))]
        return self.update.is_some();
        #[cfg(not(any(feature = "sqlite", feature = "postgres", feature = "mysql")))]
        false
    }

    /// Returns the line for an answer: the values for the row, or the line of the file.
    fn line(&self, fields: &Fields, answer: &ApiAnswer) -> Result<String, GivenUp> {
        let (output, status) = (&self.plan.output, answer.status());
        let not_readable = |lacks: AnswerLacks| GivenUp {
            error_type: "AnswerNotReadable".to_owned(),
            message: lacks.to_string(),
            record: letter(fields, Some((status, &shown(answer)))),
        };
        if !self.fills_table() {
            let line = output.line(fields, status, answer.body());
            return line.map_err(not_readable);
        }
        let values = output.values(status, answer.body());
        let values = values.map_err(not_readable)?;
        #[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql"))]
        if let Some(update) = self.update {
            let fits = into_table::check(update, &values);
            fits.map_err(|why| {
                into_table::does_not_fit(fields, why, Some((status, &shown(answer))))
            })?;
        }
        Ok(object(&values))
    }

    /// Returns the line for a record whose call was given up; `None` without fallback values.
    fn fallback(&self, fields: &Fields) -> Option<String> {
        match self.fills_table() {
            true => self.plan.output.fallback_values().map(|v| object(&v)),
            false => self.plan.output.fallback(fields),
        }
    }
}

//! The batch that a command names, as the server remembers it or else as its processor and the store of its dead
//! letters do.

use serde_json::Value;

use crate::{
    batch::{Batch, letter_filter::LetterFilter, redrive_args::RedriveArgs},
    cli::{
        dead_letters::store::in_time,
        exit::{CliError, CliResult},
    },
    processor::store::dead_letter::DeadLetters,
    progress::report::BatchReport,
};

/// Returns the arguments of the batch that a redrive redrives.
pub(crate) fn args_of(redrive: &Batch) -> CliResult<Value> {
    let args = serde_json::from_value::<RedriveArgs>(redrive.spec.args.clone());
    let args = args.map_err(|e| CliError::caused("the batch's arguments are not readable", &e))?;
    Ok(args.args)
}

/// Returns the processor of the batch: from the server, or else from the user. The two must agree.
pub(crate) fn agree(
    batch_id: &str,
    known: Option<String>,
    given: Option<&str>,
) -> CliResult<Option<String>> {
    match (known, given) {
        (Some(known), Some(given)) if known != given => Err(CliError::usage(format_args!(
            "batch \"{batch_id}\" is one of processor \"{known}\", not of \"{given}\""
        ))),
        (Some(known), _) => Ok(Some(known)),
        (None, given) => Ok(given.map(str::to_owned)),
    }
}

/// Returns the error for a batch that the server does not know.
pub(crate) fn no_such_batch(batch_id: &str) -> CliError {
    CliError::failure(format_args!(
        "there is no batch \"{batch_id}\" (see `list`)"
    ))
}

/// Returns the error for a batch that the server does not know, when no processor is named that may know more.
pub(crate) fn no_such_batch_or_processor(batch_id: &str) -> CliError {
    no_such_batch(batch_id).hint("if the server has forgotten it, name its processor with --processor, which may still keep its dead letters")
}

/// Returns the latest report of a batch in a store. A batch of which the store knows nothing is refused.
pub(crate) async fn known_to(
    store: &dyn DeadLetters,
    batch_id: &str,
    processor: &str,
) -> CliResult<Option<BatchReport>> {
    let report = in_time(store.reports(batch_id)).await?.into_iter().next();
    let of_batch = LetterFilter::of(batch_id);
    if report.is_none() && in_time(store.list(&of_batch, None, 1)).await?.is_empty() {
        return Err(CliError::failure(format_args!(
            "there is no batch \"{batch_id}\": neither the server nor processor \"{processor}\" knows it"
        )));
    }
    Ok(report)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::exit::Exit;

    #[test]
    fn the_processor_that_is_known_cannot_be_contradicted() {
        let known = || Some("p".to_owned());
        assert_eq!(agree("b", known(), None).unwrap(), known());
        assert_eq!(agree("b", known(), Some("p")).unwrap(), known());
        assert_eq!(agree("b", None, Some("p")).unwrap(), known());
        assert_eq!(agree("b", None, None).unwrap(), None);
        let error = agree("b", known(), Some("q")).unwrap_err();
        assert_eq!(error.exit(), Exit::Usage);
    }
}

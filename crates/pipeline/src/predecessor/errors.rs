//! The errors of batches that follow another one.

use temporal_batch::PageError;

use super::coverage::GapState;

/// Returns the error of a follower that waits in `prepare`.
pub(super) fn waits(id: &str, state: &str) -> PageError {
    PageError::retryable(format_args!("batch \"{id}\" comes first and {state}"))
        .with_type("PredecessorRuns")
}

/// Returns the error that refuses a follower of the whole batch.
pub(super) fn refused(id: &str, flaw: &str) -> PageError {
    PageError::non_retryable(
        "PredecessorNotCompleted",
        format_args!(
            "batch \"{id}\" comes first and {flaw}; start this batch again once it has completed"
        ),
    )
}

/// Returns the error of a page that waits until the batch has come further. It uses up no attempt.
pub(super) fn runs(id: &str, state: &str) -> PageError {
    environment("PredecessorRuns", id, state)
}

/// Returns the error of all pages while it is not known what the batch has finished. It uses up no attempt.
pub(super) fn not_completed(id: &str, flaw: &str) -> PageError {
    environment("PredecessorNotCompleted", id, flaw)
}

/// Returns the error of a page that is not finished in the batch.
pub(super) fn open(id: &str, state: GapState) -> PageError {
    match state {
        GapState::AtWork | GapState::Slow => runs(id, "still works on this range"),
        GapState::Failing => runs(id, "fails in this range and tries again"),
        GapState::Ended => not_completed(id, "ended before this range was finished; continue it"),
        GapState::GaveUp => PageError::retryable(format_args!(
            "batch \"{id}\" comes first and gave up pages or items of this range; redrive them"
        ))
        .with_type("PredecessorGaveUp"),
    }
}

fn environment(error_type: &str, id: &str, state: &str) -> PageError {
    PageError::environment(format_args!("batch \"{id}\" comes first and {state}"))
        .with_type(error_type)
}

pub(super) fn partitioned(id: &str) -> PageError {
    PageError::non_retryable(
        "PredecessorPartitioned",
        format_args!(
            "batch \"{id}\" comes first and has partitions; a batch with partitions can be followed as a whole only"
        ),
    )
}

pub(super) fn begins_later(id: &str) -> PageError {
    PageError::non_retryable(
        "PredecessorBeginsLater",
        format_args!(
            "batch \"{id}\" comes first and began after this place in the data; start this batch with the same first \
             cursor"
        ),
    )
}

pub(super) fn out_of_order() -> PageError {
    PageError::non_retryable(
        "CursorsOutOfOrder",
        "the source has another order than the type of its cursors, so that it is not known what the batch that comes \
         first has finished; cursors must compare as the source orders them",
    )
}

pub(super) fn ends_too_early() -> PageError {
    PageError::non_retryable(
        "EndBeforePredecessor",
        "the source says that the data ends although the batch that comes first has not finished; \
         return a page with the key of its last item",
    )
}

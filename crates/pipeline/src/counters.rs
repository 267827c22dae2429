//! The counters of a pipeline.

use temporal_batch::Reducer;

/// The field of an output with the name of a counter.
pub(crate) const NAME: &str = "counter";
/// The field of an output with the amount.
pub(crate) const BY: &str = "by";

/// Returns the reducer of the counters of a pipeline, for
/// [`PageProcessor::reducer`](temporal_batch::PageProcessor::reducer).
///
/// The result is an object of numbers. A page adds to it exactly once, when it is finished, however often it was
/// tried. The counts of an attempt that failed are dropped. `Progress::output` has the result so far, and
/// `BatchReport::output` the whole.
///
/// | counter | counts |
/// |---|---|
/// | the name given to [`StepContext::count`](crate::StepContext::count) | whatever the step counts |
/// | `NAME: failed` | failures of a best-effort action |
/// | `NAME: fallback` | items or pages that continue with the fallback value of a step |
/// | `NAME: yes`, `NAME: no` | items or pages that took this side of a branch |
///
/// Counters that stayed zero are missing. All of them together have at most 6 KiB as JSON, so their names must not
/// depend on the data.
pub fn counters() -> Reducer {
    Reducer::by_key(NAME, Reducer::sum(BY))
}

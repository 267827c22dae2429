//! One page, run alone.

use std::{sync::Arc, time::Duration};

use serde::Deserialize;
use serde_json::Value;

use super::{
    clock::VirtualClock,
    faults::Faults,
    host::SimulatedHost,
    operator::Script,
    simulation::of_strides,
    world::{Shared, World},
};
use crate::{
    base::error::PageError,
    batch::Batch,
    decisions::scheduler::Decision,
    page::{size::Size, token::PageToken},
    processor::{PageProcessor, reducer::Fold},
    progress::ItemCounts,
    protocol::{Prepared, StrideOrder, StrideReport},
    stride::{prepared, registry::complete, run_stride},
};

/// The result of one page.
#[derive(Clone, Debug, PartialEq)]
pub struct PageRun<C> {
    /// The number of items that were fetched.
    pub items: u64,
    /// The number of items by outcome.
    pub counts: ItemCounts,
    /// The start of the next page. `None` at the end of the data.
    pub next: Option<C>,
    /// The result of the processor's reducer for this page, if it has one.
    pub output: Option<Value>,
}

/// Prepares a batch and runs one page of 1,000 items after `start`: `fetch`, the engine's checks, `process`.
///
/// # Errors
/// The error of the page, with the type and the message that a listing would show.
pub async fn run_page<P: PageProcessor>(
    processor: &P,
    args: P::Args,
    start: Option<P::Cursor>,
) -> Result<PageRun<P::Cursor>, PageError> {
    let mut batch = Batch::of::<P>("test", args);
    if let Some(cursor) = &start {
        batch = batch.first_cursor(cursor);
    }
    let args = P::Args::deserialize(&batch.spec.args).map_err(|e| {
        let message = format_args!("the arguments do not survive being stored: {e}");
        PageError::non_retryable("ArgsNotReadable", message)
    })?;
    let (args, completed) = complete(processor, args).await?;
    let reducer = processor.reducer(&args);
    if let Some(invalid) = reducer.as_ref().and_then(|r| r.validate().err()) {
        let message = format_args!("the reducer is not allowed: {invalid}");
        return Err(PageError::non_retryable("InvalidReducer", message));
    }
    let prepared = Prepared {
        args: completed,
        ..prepared(processor, &args, Size::Unknown)
    };
    let report = first_page(processor, batch, prepared, &start).await?;
    let next = report.covered_to.filter(|_| !report.end_of_data);
    let output = reducer.zip(report.output).map(|(reducer, output)| {
        let mut fold = Fold::new(reducer.plan().clone());
        fold.merge(output);
        fold
    });
    Ok(PageRun {
        output: output.as_ref().and_then(Fold::so_far).cloned(),
        items: report.items.total(),
        counts: report.items,
        next: next.map(|token| token.decode()).transpose()?,
    })
}

/// Runs the first page of a batch that begins at `start`.
async fn first_page<P: PageProcessor>(
    processor: &P,
    batch: Batch,
    prepared: Prepared,
    start: &Option<P::Cursor>,
) -> Result<StrideReport, PageError> {
    let permit_per_item = prepared.permit_per_item;
    let (faults, script) = (Faults::default(), Script::default());
    let shared = Shared::new(VirtualClock::default(), Duration::ZERO, faults, script);
    let world = World::new(Arc::new(shared), of_strides(batch.spec));
    let order = {
        let mut state = world.state();
        state.accept(prepared).ok();
        match state.decide() {
            Decision::Dispatch(dispatch) => state.dispatched(&dispatch),
            _ => None,
        }
    };
    let order = StrideOrder {
        start: start.as_ref().map(PageToken::encode).transpose()?,
        // The page is all that is of interest.
        look_ahead: 0,
        ..order.ok_or_else(|| PageError::retryable("the batch does not begin"))?
    };
    let world = Arc::new(world);
    let slot = world.occupy(order.stride, order.dispatch);
    let host = SimulatedHost::new(&world, &slot, &order, permit_per_item, false);
    let running = run_stride(processor, &order, StrideReport::default(), &host);
    let report = world.shared.clock.alone(running).await;
    let report = report.ok_or_else(|| PageError::retryable("the batch run is gone"))?;
    let Some(failure) = report.failure else {
        return Ok(report);
    };
    let (error_type, message) = (failure.error_type, failure.message);
    Err(match (failure.not_the_page, failure.retryable) {
        (true, _) => PageError::environment(message).with_type(error_type),
        (false, true) => PageError::retryable(message).with_type(error_type),
        (false, false) => PageError::non_retryable(error_type, message),
    })
}

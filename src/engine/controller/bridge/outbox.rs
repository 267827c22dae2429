//! The calls with which orders go to bridges.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::{future::Future, pin::Pin, task::Poll};

use temporalio_sdk::{
    ChildWorkflowExecutionError, ChildWorkflowOptions, ChildWorkflowStartError, ParentClosePolicy,
    WorkflowCancellationToken, WorkflowContext, WorkflowSignalError,
};

use super::workflow::{Bridge, own_signal};
use crate::{
    decisions::{
        bridge::outbox::{Delivery, Sent},
        scheduler::Dispatch,
    },
    engine::controller::{Controller, workflow::BatchContext},
    protocol::{BridgeInput, BridgeOrders, StrideOrder},
};

/// Records a dispatch over a bridge. The order is sent with the next [`Deliveries::send`]. Returns false if the stride
/// cannot be dispatched.
pub(crate) fn order(ctx: &WorkflowContext<Controller>, dispatch: &Dispatch) -> bool {
    let open = ctx.batch(|s| s.work.outbox.open().map(ToOwned::to_owned));
    let bridge = open.unwrap_or_else(|| new_id(ctx));
    ctx.batch_mut(|s| s.order_from(bridge, dispatch))
}

/// Creates the id of a new bridge. After a reset the random numbers differ, so no earlier bridge has the same id.
fn new_id(ctx: &WorkflowContext<Controller>) -> String {
    let unique: u64 = ctx.random_stream("bridge").random();
    format!("{}.bridge-{unique:016x}", ctx.workflow_id())
}

type Ended = Result<(), ChildWorkflowExecutionError>;
type Pending<'a, T> = Pin<Box<dyn Future<Output = T> + 'a>>;
type Sending<'a> = Pending<'a, Result<(), WorkflowSignalError>>;
type Starting<'a> = Pending<'a, Result<Pending<'a, Ended>, ChildWorkflowStartError>>;

/// The calls in progress.
#[derive(Default)]
pub(crate) struct Deliveries<'a> {
    starting: Vec<(String, Vec<Sent>, Starting<'a>)>,
    sending: Vec<(String, Vec<Sent>, Sending<'a>)>,
    ends: Vec<(String, Pending<'a, Ended>)>,
    /// Calls whose results do not matter.
    telling: Vec<Pending<'a, ()>>,
    cancelled: bool,
}

impl<'a> Deliveries<'a> {
    /// Sends the waiting orders, and starts bridges for them where necessary.
    pub fn send(&mut self, ctx: &'a WorkflowContext<Controller>) {
        if ctx.batch(|s| s.work.outbox.is_empty()) {
            return;
        }
        while let Some(delivery) = ctx.batch_mut(|s| s.work.outbox.take()) {
            let Delivery {
                bridge,
                orders,
                starts,
            } = delivery;
            let sent = orders.iter().map(|o| (o.stride, o.dispatch)).collect();
            if starts {
                let starting = start(ctx, bridge.clone(), orders);
                self.starting.push((bridge, sent, starting));
            } else {
                let handle = ctx.external_workflow(bridge.clone(), None);
                let last = false;
                let orders = BridgeOrders { orders, last };
                let sending = handle.signal(Bridge::orders, orders, own_signal());
                self.sending.push((bridge, sent, Box::pin(sending)));
            }
        }
        self.retire(ctx);
        self.tell_sending(ctx);
    }

    /// Tells retired bridges that they get no more orders.
    fn retire(&mut self, ctx: &'a WorkflowContext<Controller>) {
        if !(self.starting.is_empty() && self.sending.is_empty()) {
            // Earlier orders must not arrive after this message.
            return;
        }
        for bridge in ctx.batch_mut(|s| s.work.outbox.take_retired()) {
            let handle = ctx.external_workflow(bridge, None);
            let orders = BridgeOrders {
                orders: Vec::new(),
                last: true,
            };
            let told = handle.signal(Bridge::orders, orders, own_signal());
            self.telling.push(Box::pin(async move {
                // A failure is ignored, because a bridge that has ended need not be told.
                let _ = told.await;
            }));
        }
    }

    /// Tells all bridges of this run that they get no more orders, at the end of the batch.
    pub async fn close(&mut self, ctx: &'a WorkflowContext<Controller>) {
        ctx.batch_mut(|s| s.work.outbox.retire_all());
        self.retire(ctx);
        for told in self.telling.drain(..) {
            told.await;
        }
    }

    /// Has the strides on bridges cancelled, once.
    pub fn cancel(&mut self, ctx: &'a WorkflowContext<Controller>) {
        // Bridges that are still starting could not be reached yet.
        let ready = self.starting.is_empty() && self.sending.is_empty();
        if self.cancelled || !ready || !ctx.batch(|s| s.cancelled) {
            return;
        }
        self.cancelled = true;
        let bridges: Vec<_> = ctx.batch(|s| s.work.chain.owners().map(ToOwned::to_owned).collect());
        for bridge in bridges {
            let handle = ctx.external_workflow(bridge, None);
            let reason = "the batch was cancelled".to_owned();
            self.telling.push(Box::pin(async move {
                // A failure is ignored. A bridge that is gone has either reported its results, or its absence will be
                // noticed.
                let _ = handle.cancel(Some(reason)).await;
            }));
        }
    }

    /// Returns whether a call has brought news.
    pub fn poll(
        &mut self,
        ctx: &'a WorkflowContext<Controller>,
        cx: &mut std::task::Context<'_>,
    ) -> bool {
        let mut awake = false;
        let ends = &mut self.ends;
        self.starting.retain_mut(|(bridge, sent, starting)| {
            let Poll::Ready(started) = starting.as_mut().poll(cx) else {
                return true;
            };
            awake = true;
            ctx.batch_mut(|s| s.started(bridge, sent, started.is_ok()));
            ends.extend(started.ok().map(|ended| (bridge.clone(), ended)));
            false
        });
        self.sending.retain_mut(|(bridge, sent, sending)| {
            let Poll::Ready(arrived) = sending.as_mut().poll(cx) else {
                return true;
            };
            awake = true;
            if arrived.is_err() {
                ctx.batch_mut(|s| s.take_back(bridge, sent));
            }
            false
        });
        self.ends.retain_mut(|(bridge, ended)| {
            let Poll::Ready(ended) = ended.as_mut().poll(cx) else {
                return true;
            };
            awake = true;
            ctx.batch_mut(|s| match ended {
                // The bridge had no strides left.
                Ok(()) => s.work.outbox.close(bridge),
                Err(_) => s.bridge_is_gone(bridge),
            });
            false
        });
        self.telling
            .retain_mut(|told| told.as_mut().poll(cx).is_pending());
        if awake {
            self.tell_sending(ctx);
        }
        awake
    }

    fn tell_sending(&self, ctx: &WorkflowContext<Controller>) {
        let sending = self.starting.len() + self.sending.len();
        if ctx.batch(|s| s.work.outbox.sending != sending) {
            ctx.batch_mut(|s| s.work.outbox.sending = sending);
        }
    }
}

fn start<'a>(
    ctx: &'a WorkflowContext<Controller>,
    bridge: String,
    orders: Vec<StrideOrder>,
) -> Starting<'a> {
    let input = ctx.batch(|s| {
        Some(BridgeInput {
            batch_run: s.input.batch_run.clone(),
            controller: ctx.workflow_id().to_owned(),
            terms: s.terms()?,
            orders,
        })
    });
    let options = ChildWorkflowOptions::builder()
        .workflow_id(bridge)
        .parent_close_policy(ParentClosePolicy::Abandon)
        // The batch cancels the bridge itself, once it has recorded the cancellation and knows its bridges.
        .cancellation_token(WorkflowCancellationToken::new())
        .static_summary("strides over a continue-as-new of their controller".to_owned())
        .build();
    Box::pin(async move {
        let input = input.expect("strides run only in a batch that is prepared");
        let started = ctx
            .start_child_workflow(Bridge::run, input, options)
            .await?;
        let ended: Pending<'a, Ended> = Box::pin(started.result());
        Ok(ended)
    })
}

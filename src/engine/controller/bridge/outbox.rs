//! Giving strides to bridges, and what becomes of them there.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::{collections::BTreeMap, future::Future, pin::Pin, task::Poll, time::Duration};

use temporalio_sdk::{
    ChildWorkflowExecutionError, ChildWorkflowOptions, ChildWorkflowStartError, ParentClosePolicy,
    WorkflowCancellationToken, WorkflowContext, WorkflowSignalError,
};

use crate::{
    base::time::Timestamp,
    decisions::scheduler::{Cohort, Dispatch},
    engine::controller::{
        Controller,
        bridge::workflow::{Bridge, own_signal},
        dispatch::worker_lost,
    },
    protocol::{BridgeInput, BridgeOrders, BridgeResults, BridgeWatch, StrideOrder, StrideReport},
};

/// Strides that a bridge is given, so that its history stays small.
const MOST_ORDERS: usize = 1_000;
/// Orders in one signal. With the largest arguments and tokens each has some kilobytes.
pub(crate) const ORDERS_AT_ONCE: usize = 50;
/// Strides of an earlier run that are on a bridge for so long are watched.
const WATCH_AFTER: Duration = Duration::from_secs(10);

/// The bridges of this run.
pub(crate) struct Bridging {
    /// Off once a bridge could not be started.
    pub on: bool,
    pub cohort: Cohort,
    /// Where the next stride goes.
    current: Option<String>,
    bridges: BTreeMap<String, Standing>,
    /// Orders that have not been sent.
    waiting: Vec<StrideOrder>,
    /// Bridges that get no more orders and have not been told so.
    retired: Vec<String>,
    /// Calls with orders that are under way.
    sending: usize,
    run_began: Timestamp,
}

/// A bridge that this run has begun.
#[derive(Default)]
struct Standing {
    state: State,
    orders: usize,
}

#[derive(Default, PartialEq)]
enum State {
    #[default]
    Planned,
    Starting,
    Open,
    Closed,
}

/// A dispatch of a stride.
type Sent = (u64, u64);

impl Default for Bridging {
    fn default() -> Self {
        Self {
            on: true,
            cohort: Cohort::default(),
            current: None,
            bridges: BTreeMap::new(),
            waiting: Vec::new(),
            retired: Vec::new(),
            sending: 0,
            run_began: Timestamp::default(),
        }
    }
}

impl Bridging {
    /// Begins a run. The bridges of the runs before it get nothing more.
    pub fn begin(&mut self, now: Timestamp, earlier: &[String]) {
        self.run_began = now;
        self.retired = earlier.to_vec();
    }

    /// Orders whose fate only this run is told.
    pub fn is_delivering(&self) -> bool {
        self.sending > 0 || !self.waiting.is_empty()
    }

    /// The bridge for the next stride, if there is one.
    fn open(&self) -> Option<&str> {
        let current = self.current.as_deref()?;
        let standing = self.bridges.get(current)?;
        let open = standing.state != State::Closed && standing.orders < MOST_ORDERS;
        open.then_some(current)
    }

    /// The bridge that strides may be on before the ledger knows.
    pub fn current(&self) -> Option<&str> {
        self.current.as_deref()
    }

    fn close(&mut self, bridge: &str) {
        if let Some(standing) = self.bridges.get_mut(bridge) {
            standing.state = State::Closed;
        }
    }
}

impl Controller {
    /// Keeps what strides on a bridge came back with. What comes twice, or from a bridge that a reset has
    /// forgotten, changes nothing.
    pub(crate) fn take_results(&mut self, news: BridgeResults) {
        for result in news.results {
            let (stride, dispatch) = (result.stride, result.dispatch);
            if self.ledger.is_on_bridge(&news.bridge, stride, dispatch) {
                self.reported(stride, result.report);
            }
        }
    }

    /// The strides of a bridge that is gone are lost, like those of a worker.
    fn bridge_is_gone(&mut self, bridge: &str) {
        self.bridging.close(bridge);
        for stride in self.ledger.on_bridge(bridge) {
            self.reported(stride, worker_lost("the workflow that had it was ended"));
        }
    }

    pub(crate) fn bridges_are_gone(&mut self, bridges: &[String]) {
        self.version += 1;
        for bridge in bridges {
            self.bridge_is_gone(bridge);
        }
    }

    /// Orders that did not reach their bridge: nothing was done.
    fn take_back(&mut self, bridge: &str, orders: &[Sent]) {
        for (stride, dispatch) in orders {
            if self.ledger.is_on_bridge(bridge, *stride, *dispatch) {
                self.reported(*stride, StrideReport::default());
            }
        }
    }

    /// Bridges of earlier runs that still have strides. Those of this run tell it when they end.
    pub(crate) fn bridges_to_watch(&self) -> Option<BridgeWatch> {
        if self.watch_due()? > self.now {
            return None;
        }
        let bridges = self.adopted().map(ToOwned::to_owned).collect();
        Some(BridgeWatch { bridges })
    }

    /// When bridges begin to be watched, if any have to be.
    pub(crate) fn watch_due(&self) -> Option<Timestamp> {
        self.adopted().next()?;
        Some(self.bridging.run_began.plus(WATCH_AFTER))
    }

    fn adopted(&self) -> impl Iterator<Item = &str> {
        let mine = &self.bridging.bridges;
        self.ledger.bridges().filter(|id| !mine.contains_key(*id))
    }

    /// The bridges whose strides are waited for, as strides read it.
    pub(crate) fn bridges_in_use(&self) -> Vec<String> {
        let current = self.bridging.current();
        let mut ids: Vec<_> = self.ledger.bridges().chain(current).collect();
        ids.sort_unstable();
        ids.dedup();
        ids.into_iter().map(ToOwned::to_owned).collect()
    }
}

/// Records a dispatch by bridge; it is sent with the next [`Bridges::send`]. Says no where that cannot be.
pub(crate) fn order(ctx: &WorkflowContext<Controller>, dispatch: &Dispatch) -> bool {
    let bridge = match ctx.state(|s| s.bridging.open().map(ToOwned::to_owned)) {
        Some(bridge) => bridge,
        None => new_id(ctx),
    };
    ctx.state_mut(|s| {
        let Some(order) = s.dispatched(dispatch, Some(&bridge)) else {
            return false;
        };
        let bridging = &mut s.bridging;
        bridging.bridges.entry(bridge.clone()).or_default().orders += 1;
        bridging.waiting.push(order);
        let before = bridging.current.replace(bridge);
        bridging
            .retired
            .extend(before.filter(|id| Some(id) != bridging.current.as_ref()));
        true
    })
}

/// After a reset the numbers are others, so no bridge of before is taken for a new one.
fn new_id(ctx: &WorkflowContext<Controller>) -> String {
    let unique: u64 = ctx.random_stream("bridge").random();
    format!("{}.bridge-{unique:016x}", ctx.workflow_id())
}

type Ended = Result<(), ChildWorkflowExecutionError>;
type Pending<'a, T> = Pin<Box<dyn Future<Output = T> + 'a>>;
type Sending<'a> = Pending<'a, Result<(), WorkflowSignalError>>;
type Starting<'a> = Pending<'a, Result<Pending<'a, Ended>, ChildWorkflowStartError>>;

/// The calls that are under way.
#[derive(Default)]
pub(crate) struct Bridges<'a> {
    starting: Vec<(String, Vec<Sent>, Starting<'a>)>,
    sending: Vec<(String, Vec<Sent>, Sending<'a>)>,
    ends: Vec<(String, Pending<'a, Ended>)>,
    /// What nobody waits for.
    telling: Vec<Pending<'a, ()>>,
    cancelled: bool,
}

impl<'a> Bridges<'a> {
    /// Sends the orders that wait, to bridges that are started for it where need be.
    pub fn send(&mut self, ctx: &'a WorkflowContext<Controller>) {
        if ctx.state(|s| s.bridging.waiting.is_empty() && s.bridging.retired.is_empty()) {
            return;
        }
        while let Some((bridge, orders)) = ctx.state_mut(next_orders) {
            let sent = orders.iter().map(|o| (o.stride, o.dispatch)).collect();
            let planned = ctx.state(|s| {
                let standing = s.bridging.bridges.get(&bridge);
                standing.is_none_or(|standing| standing.state == State::Planned)
            });
            if planned {
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

    /// Tells bridges that get no more orders.
    fn retire(&mut self, ctx: &'a WorkflowContext<Controller>) {
        if !(self.starting.is_empty() && self.sending.is_empty()) {
            // What was sent before must not come after it.
            return;
        }
        for bridge in ctx.state_mut(|s| std::mem::take(&mut s.bridging.retired)) {
            let handle = ctx.external_workflow(bridge, None);
            let orders = BridgeOrders {
                orders: Vec::new(),
                last: true,
            };
            let told = handle.signal(Bridge::orders, orders, own_signal());
            self.telling.push(Box::pin(async move {
                // One that has ended need not be told.
                let _ = told.await;
            }));
        }
    }

    /// Tells all bridges of this run, at the end of the batch.
    pub async fn close(&mut self, ctx: &'a WorkflowContext<Controller>) {
        ctx.state_mut(|s| {
            let bridging = &mut s.bridging;
            let mine = bridging.bridges.iter();
            let open = mine.filter(|(_, standing)| standing.state == State::Open);
            bridging.retired.extend(open.map(|(id, _)| id.clone()));
        });
        self.retire(ctx);
        for told in self.telling.drain(..) {
            told.await;
        }
    }

    /// Has the strides on bridges cancelled, once.
    pub fn cancel(&mut self, ctx: &'a WorkflowContext<Controller>) {
        // Before that some could not be reached.
        let ready = self.starting.is_empty() && self.sending.is_empty();
        if self.cancelled || !ready || !ctx.state(|s| s.cancelled) {
            return;
        }
        self.cancelled = true;
        let bridges: Vec<_> = ctx.state(|s| s.ledger.bridges().map(ToOwned::to_owned).collect());
        for bridge in bridges {
            let handle = ctx.external_workflow(bridge, None);
            let reason = "the batch was cancelled".to_owned();
            self.telling.push(Box::pin(async move {
                // One that is not there any more has told what it had to, or is noticed to be gone.
                let _ = handle.cancel(Some(reason)).await;
            }));
        }
    }

    /// Whether something is new.
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
            ctx.state_mut(|s| s.started(bridge, sent, started.is_ok()));
            ends.extend(started.ok().map(|ended| (bridge.clone(), ended)));
            false
        });
        self.sending.retain_mut(|(bridge, sent, sending)| {
            let Poll::Ready(arrived) = sending.as_mut().poll(cx) else {
                return true;
            };
            awake = true;
            if arrived.is_err() {
                ctx.state_mut(|s| {
                    s.bridging.close(bridge);
                    s.take_back(bridge, sent);
                });
            }
            false
        });
        self.ends.retain_mut(|(bridge, ended)| {
            let Poll::Ready(ended) = ended.as_mut().poll(cx) else {
                return true;
            };
            awake = true;
            ctx.state_mut(|s| match ended {
                // It had nothing left.
                Ok(()) => s.bridging.close(bridge),
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
        if ctx.state(|s| s.bridging.sending != sending) {
            ctx.state_mut(|s| s.bridging.sending = sending);
        }
    }
}

impl Controller {
    fn started(&mut self, bridge: &str, orders: &[Sent], started: bool) {
        if started {
            if let Some(standing) = self.bridging.bridges.get_mut(bridge) {
                standing.state = State::Open;
            }
            return;
        }
        self.bridging.close(bridge);
        // Nothing more begins in this run, and the next one is handed what is left.
        self.bridging.on = false;
        self.take_back(bridge, orders);
    }
}

/// Takes the next orders for one bridge that can have them now.
fn next_orders(s: &mut Controller) -> Option<(String, Vec<StrideOrder>)> {
    let bridging = &mut s.bridging;
    let bridges = &bridging.bridges;
    let ready = |order: &&StrideOrder| {
        let bridge = order.bridge.as_ref().and_then(|id| bridges.get(id));
        bridge.is_none_or(|bridge| bridge.state != State::Starting)
    };
    let bridge = bridging.waiting.iter().find(ready)?.bridge.clone()?;
    let mut orders = Vec::new();
    bridging.waiting.retain(|order| {
        let take = order.bridge.as_ref() == Some(&bridge) && orders.len() < ORDERS_AT_ONCE;
        if take {
            orders.push(order.clone());
        }
        !take
    });
    Some((bridge, orders))
}

fn start<'a>(
    ctx: &'a WorkflowContext<Controller>,
    bridge: String,
    orders: Vec<StrideOrder>,
) -> Starting<'a> {
    let input = ctx.state_mut(|s| {
        if let Some(standing) = s.bridging.bridges.get_mut(&bridge) {
            standing.state = State::Starting;
        }
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
        // It is cancelled when the batch has taken note, and knows which bridges there are.
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

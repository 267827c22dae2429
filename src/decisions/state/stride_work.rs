//! The work of a controller: strides, in stages.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use serde::{Deserialize, Serialize};

use crate::{
    base::time::Timestamp,
    batch::{spec::BatchSpec, tolerance::Tally},
    decisions::{
        bridge::outbox::Outbox,
        chain::{Event, StrideChain, Totals},
        pacing::{PaceNow, StrideLength},
        scheduler::{self, Because, Situation},
        state::{
            BatchState, seed,
            stages::{Stages, UnknownSize},
            work::{Seen, Work},
        },
    },
    processor::reducer::{Fold, Plan},
    progress::{Progress, by_age, phase::Phase},
    protocol::{ControlState, Prepared},
};

/// The largest number of failing pages in a progress query.
const MAX_FAILING_SHOWN: usize = 20;

/// The work of a controller.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct StrideWork {
    pub chain: StrideChain,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stages: Option<Stages>,
    /// The orders for strides that outlive this run.
    #[serde(skip)]
    pub outbox: Outbox,
}

impl StrideWork {
    pub fn of(chain: StrideChain) -> Self {
        Self {
            chain,
            stages: None,
            outbox: Outbox::default(),
        }
    }
}

impl Work for StrideWork {
    const RUN_LENGTH: u64 = 1;

    fn new(spec: &BatchSpec, batch_run: &str) -> Self {
        Self::of(StrideChain::new(spec.first_cursor.clone(), seed(batch_run)))
    }

    fn prepared(&mut self, spec: &BatchSpec, prepared: &mut Prepared) -> Result<(), UnknownSize> {
        let expected = prepared.items_expected;
        self.stages = Stages::plan(&spec.stages, spec.approve_stages, &spec.processor, expected)?;
        Ok(())
    }

    fn begin(&mut self, now: Timestamp, published: &mut ControlState) {
        self.outbox.begin(now, &self.chain, &mut published.owners);
    }

    fn carried(&self) -> Self {
        Self {
            chain: self.chain.clone(),
            stages: self.stages.clone(),
            outbox: Outbox::default(),
        }
    }

    fn revive(&mut self) -> Result<(), String> {
        self.chain.revive()
    }

    fn totals(&self) -> &Totals {
        &self.chain.totals
    }

    fn reduce_by(&mut self, plan: Plan) {
        self.chain.reduce_by(plan);
    }

    fn fold(&self) -> Option<&Fold> {
        self.chain.fold()
    }

    fn fold_mut(&mut self) -> Option<&mut Fold> {
        self.chain.fold_mut()
    }

    fn tally(&self) -> Tally {
        self.chain.tally()
    }

    fn forgiven(&self) -> Tally {
        self.chain.forgiven()
    }

    fn forgive(&mut self) {
        self.chain.totals.consecutive_failures = 0;
    }

    fn is_over(&self) -> bool {
        self.chain.is_complete() || self.chain.broken().is_some()
    }

    fn running(&self) -> u32 {
        self.chain.running()
    }

    fn running_here(&self) -> u32 {
        self.chain.running_here()
    }

    fn open_pages(&self, lengths: &StrideLength) -> u64 {
        let frontier = self.chain.frontier();
        let open = self.chain.open();
        let open = open.filter(|(number, _)| Some(*number) != frontier);
        open.map(|(number, stride)| {
            let done = stride.done.pages + stride.done.pages_failed;
            u64::from(lengths.of(number)).saturating_sub(done)
        })
        .sum()
    }

    fn pages_this_run(&mut self) -> u64 {
        self.chain.pages_this_run()
    }

    fn hand_over(&mut self, now: Timestamp) {
        // The fact is always possible.
        let _ = self.chain.record(Event::HandOverDue { now });
    }

    fn stages(&self) -> Option<&Stages> {
        self.stages.as_ref()
    }

    fn stages_mut(&mut self) -> Option<&mut Stages> {
        self.stages.as_mut()
    }

    fn makes_way(state: &BatchState) -> bool {
        scheduler::makes_way(&state.work.chain, &state.limits(), state.now)
    }

    fn control_to_publish(state: &BatchState) -> Option<ControlState> {
        state.new_control()
    }

    fn seen(state: &BatchState, pace: &PaceNow) -> Seen {
        let limits = state.limits_at(pace);
        let chain = &state.work.chain;
        let situation = Situation {
            chain,
            limits: &limits,
            pacing: &state.pacing,
            pace,
            pause: state.controls.pause.as_ref(),
            stages: state.work.stages.as_ref(),
            max_parallelism: state.controls.max_parallelism,
            now: state.now,
        };
        let phase = scheduler::phase(chain, &limits, state.now);
        let (blocked_at, blocked_reason) = match phase {
            Phase::Blocked => scheduler::blocked(chain),
            _ => (None, None),
        };
        let limit = scheduler::explain(&situation);
        let because = match state.is_part() {
            // Its batch goes by what limits it.
            true => limit.clone().map(Because::from),
            false => scheduler::because(&situation, limit.clone()),
        };
        Seen {
            phase,
            blocked_at,
            blocked_reason,
            limit,
            because,
        }
    }

    fn show(state: &BatchState, progress: &mut Progress) {
        let chain = &state.work.chain;
        let retry = state.prepared.as_ref().map(|p| &p.retry);
        let ages = || chain.runs().map(|(_, run)| run.since);
        progress.pages_in_flight = chain.running();
        progress.pages_stuck = chain.stuck();
        progress.strides_waiting = chain.ready();
        progress.low_water_mark = chain.low_water_mark().cloned();
        progress.end_of_data = chain.end_of_data();
        progress.open_ranges = chain.open_ranges();
        progress.failing = chain.failing(retry).take(MAX_FAILING_SHOWN).collect();
        progress.failed = chain.failed().to_vec();
        progress.failed_items = chain.failed_items().to_vec();
        progress.oldest_in_flight = ages().min();
        progress.in_flight_by_age = by_age(ages().map(|since| state.now.since(since)));
        progress.stage = state.work.stages.as_ref().map(Stages::progress);
    }
}

//! Properties of a batch at work: its stages, the shares of its rates, its tolerance.
//!
//! [`Work`] plays the workers of a batch whose rows are numbered and whose strides are all known once the first one runs.

mod limits;
mod stages;

use std::collections::BTreeMap;

use super::{publish::News, tests::controller, *};
use crate::{
    decisions::{
        scheduler::{self, Decision},
        state::stages::Stages,
    },
    page::token::PageToken,
    progress::ItemCounts,
    protocol::{NextPage, Steer, SteerRequest, StrideOrder, StrideReport},
};

/// Rows of a stride, and of a page.
const STRIDE: u64 = 20;
const PAGE: u32 = 5;

struct Work {
    state: BatchState,
    strides: u64,
    seconds: u64,
    requests: usize,
    /// The orders of the strides that run.
    running: Vec<StrideOrder>,
    /// The row before which each stride is done.
    done_to: BTreeMap<u64, u64>,
}

fn token(row: u64) -> PageToken {
    PageToken::encode(&row).unwrap()
}

impl Work {
    fn new(strides: u64, settings: impl FnOnce(&mut BatchState)) -> Self {
        let mut state = controller(None);
        state.input.spec.page_size = PAGE;
        state.input.spec.stride = (STRIDE / u64::from(PAGE)) as u32;
        settings(&mut state);
        state.pacing = Pacing::of(&state.input.spec, Timestamp(0));
        state.controls.max_parallelism = state.input.spec.max_parallelism;
        let spec = &state.input.spec;
        let stages = Stages::plan(&spec.stages, spec.approve_stages, &spec.processor, None);
        state.work.stages = stages.unwrap();
        let mut work = Self {
            state,
            strides,
            seconds: 0,
            requests: 0,
            running: Vec::new(),
            done_to: BTreeMap::new(),
        };
        let now = work.now();
        work.state.begin(now);
        work
    }

    fn now(&self) -> Timestamp {
        Timestamp(1_000_000 + self.seconds * 1_000)
    }

    fn refresh(&mut self) {
        let now = self.now();
        self.state.refresh(now, false, 0);
    }

    /// Dispatches everything that may be dispatched, and returns the orders.
    fn dispatch(&mut self) -> Vec<StrideOrder> {
        let mut orders = Vec::new();
        self.refresh();
        while let Decision::Dispatch(dispatch) = self.state.decide() {
            let order = self.state.dispatched(&dispatch).unwrap();
            if order.dispatch == 1 {
                self.announce();
            }
            orders.push(order.clone());
            self.running.push(order);
        }
        orders
    }

    /// The first stride announces all the others.
    fn announce(&mut self) {
        self.state.hear_next_page(&NextPage {
            batch_run: "run".to_owned(),
            stride: 0,
            dispatch: 1,
            starts: (1..self.strides)
                .map(|stride| token(stride * STRIDE))
                .collect(),
        });
    }

    /// Reports a stride that has done some rows, of which some failed.
    fn report(&mut self, which: usize, rows: u64, failed: u64) {
        if self.running.is_empty() {
            return;
        }
        let order = self.running.remove(which % self.running.len());
        let done_to = self
            .done_to
            .entry(order.stride)
            .or_insert(order.stride * STRIDE);
        let end = (order.stride + 1) * STRIDE;
        let rows = rows
            .min(end - *done_to)
            .min(order.max_items.unwrap_or(u64::MAX));
        let failed = failed.min(rows);
        *done_to += rows;
        let report = StrideReport {
            covered_to: (rows > 0).then(|| token(*done_to)),
            end_of_data: *done_to == end && order.stride + 1 == self.strides,
            pages: rows.div_ceil(u64::from(PAGE)) as u32,
            items: ItemCounts {
                processed: rows - failed,
                failed,
                ..ItemCounts::default()
            },
            ..StrideReport::default()
        };
        self.state.reported(order.stride, report);
        self.refresh();
    }

    fn steer(&mut self, what: Steer) {
        self.requests += 1;
        let id = self.requests.to_string();
        self.state
            .hear_steering(self.now(), SteerRequest { id, what });
        self.refresh();
    }
}

//! The share that the controller of one partition keeps to.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use crate::{
    batch::pace_settings::stride::Stride,
    decisions::{pacing::StrideLength, scheduler::Limits, state::BatchState},
    protocol::{self, PageSizeSetting, Settled, ShareOrder, partition::PartitionOrder},
};

/// The rate in place of zero, which cannot be divided. It is used with a parallelism of 0.
pub(crate) const LOWEST_RATE: f64 = 1e-6;

/// The factor that allows for rounding, because rates are sums of shares.
pub(crate) const ROUNDING: f64 = 1.0 + 1e-9;

impl<W> BatchState<W> {
    /// Returns whether this controller has only one partition of the batch.
    pub(crate) fn is_part(&self) -> bool {
        self.input.part.is_some()
    }
}

impl BatchState {
    /// Returns the id of this workflow if it is not the workflow of the batch.
    pub(crate) fn own_id(&self) -> Option<String> {
        let part = self.input.part.as_ref()?;
        let batch_id = &self.input.spec.batch_id;
        Some(protocol::partition_id(batch_id, part.number))
    }

    /// Takes a new share, unless a later one has come before.
    pub(crate) fn take_share(&mut self, order: ShareOrder) {
        if order.batch_run != self.input.batch_run {
            return;
        }
        let Some(part) = self.input.part.as_mut().filter(|part| part.seq < order.seq) else {
            return;
        };
        part.seq = order.seq;
        part.says_when_settled = order.say_when_settled;
        self.version += 1;
        self.keep_to(&order.told);
    }

    pub(crate) fn keep_to(&mut self, told: &PartitionOrder) {
        let controls = &mut self.controls;
        controls.max_parallelism = told.share.parallelism;
        controls.paused = told.paused;
        controls.stop_now = told.stop_now;
        if told.stop {
            controls.stopping = Some("its batch stops it".to_owned());
        }
        let pacing = &mut self.pacing;
        let rate = |rate: Option<f64>| rate.map(|rate| rate.max(LOWEST_RATE));
        pacing.rate = rate(told.share.rate);
        pacing.page_rate = rate(told.share.page_rate);
        pacing.page_pause = told.page_pause;
        match &told.page_size {
            PageSizeSetting::Fixed(items) => pacing.fix_page_size(*items),
            PageSizeSetting::Auto(auto) if pacing.auto_page_size() != Some(auto) => {
                pacing.tune_page_size(*auto);
            }
            PageSizeSetting::Auto(_) => {}
        }
        let before = self.input.spec.stride;
        let known = pacing.stride().map(StrideLength::setting);
        match told
            .stride
            .as_ref()
            .filter(|told| Some(*told) != known.as_ref())
        {
            Some(Stride::Pages(pages)) => pacing.fix_stride(*pages, before),
            Some(Stride::Auto(auto)) => pacing.tune_stride(*auto, before),
            None => {}
        }
    }

    /// Returns whether the running strides keep to the limits.
    pub(crate) fn is_settled(&self, limits: &Limits) -> bool {
        let runs = || self.work.chain.runs().map(|(_, run)| run);
        let within =
            |sum: f64, limit: Option<f64>| limit.is_none_or(|limit| sum <= limit * ROUNDING);
        let unlimited = |share: Option<f64>| share.unwrap_or(f64::INFINITY);
        self.work.chain.running() <= limits.max_parallelism
            && within(
                runs().map(|run| unlimited(run.rate_share)).sum(),
                limits.rate,
            )
            && within(
                runs().map(|run| unlimited(run.page_share)).sum(),
                limits.page_rate,
            )
    }

    /// Returns the message for which the parent waits, once the running strides keep to the limits.
    pub(crate) fn settled_now(&self) -> Option<Settled> {
        let part = self.input.part.as_ref();
        let part = part.filter(|part| part.says_when_settled)?;
        self.is_settled(&self.limits()).then(|| Settled {
            batch_run: self.input.batch_run.clone(),
            number: part.number,
            seq: part.seq,
        })
    }

    /// Records that the parent has received the message. Until then the message stays due: a signal of a run that
    /// continues as new in the same task is never sent, so the next run sends it again.
    pub(crate) fn said_settled(&mut self, seq: u64) {
        if let Some(part) = self.input.part.as_mut().filter(|part| part.seq == seq) {
            part.says_when_settled = false;
        }
    }
}

//! The environment of a stride in a simulation, and its attempts.

use std::{
    sync::{Arc, Mutex, atomic::Ordering},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use governor::clock::Clock as _;
use tokio::sync::watch;

use super::{
    clock::VirtualClock,
    faults::{lost, unless_lost},
    world::{Slot, World, lock},
};
use crate::{
    batch::retry::RetryMode,
    decisions::pacing::Earned,
    page::token::PageToken,
    processor::{item::ItemHost, stop_signal::StopSignal},
    protocol::{
        AcceptedEnd, AcceptedEndRequest, NextPage, RunningPage, StrideOrder, StrideReport, Timing,
    },
    stride::{
        Go, HostError, PageEvent, StrideHost, rate_share::RateShare, registry::ErasedProcessor,
    },
};

type Share = RateShare<VirtualClock>;

/// Runs a stride as an activity does: again after its worker was lost, as often as the mode allows. With `lose`, the
/// worker of the first attempt is lost after its work is done and before it is reported.
pub(super) async fn run(
    processor: &dyn ErasedProcessor,
    world: Arc<World>,
    slot: Arc<Slot>,
    mut order: StrideOrder,
    (mode, permit_per_item): (RetryMode, bool),
    lose: bool,
) -> StrideReport {
    let attempts = order.attempts_at_lost_workers(mode);
    let mut attempt = 1;
    loop {
        let repeat = attempt > 1;
        world.attempt(&slot);
        let host = SimulatedHost::new(&world, &slot, &order, permit_per_item, repeat);
        // The time limit is one of the virtual clock, which the host keeps. A limit makes strides shorter at the end.
        let of_attempt = StrideOrder {
            time_limit: order.time_limit.map(|_| Duration::MAX),
            ..order.clone()
        };
        let running = processor.run(&of_attempt, StrideReport::default(), &host);
        let seen = match unless_lost(running).await {
            Some(report) => {
                let mut report = report.expect("the batch run is never gone");
                host.complete(&mut report);
                if repeat || !lose {
                    if slot.signal.borrow().must_stop() {
                        world.shared.faults.stride_is_stopped();
                    }
                    return report;
                }
                StrideReport::default()
            }
            None => host.last_sign(),
        };
        world.shared.faults.worker_is_lost();
        if attempt == attempts {
            return lost(seen);
        }
        attempt += 1;
        order.end = None;
    }
}

/// The environment of one attempt at a stride.
pub(super) struct SimulatedHost {
    world: Arc<World>,
    slot: Arc<Slot>,
    batch_run: String,
    repeat: bool,
    permit_per_item: bool,
    rate: Option<Arc<Share>>,
    page_rate: Option<Share>,
    page_pause: Option<Duration>,
    began: Duration,
    time_limit: Option<Duration>,
    checkpoint: Mutex<StrideReport>,
}

impl SimulatedHost {
    pub fn new(
        world: &Arc<World>,
        slot: &Arc<Slot>,
        order: &StrideOrder,
        permit_per_item: bool,
        repeat: bool,
    ) -> Self {
        let share = |per_second, per_page, ready, owed| {
            // A worker that was lost may have used the permits.
            let ready = if repeat { 0 } else { ready };
            Share::with_clock(
                per_second,
                per_page,
                Earned { ready, owed },
                world.shared.clock.clone(),
            )
        };
        let unit = if permit_per_item { 1 } else { order.page_size };
        let rate = order
            .rate_share
            .map(|per_second| share(per_second, unit, order.rate_ready, order.rate_owed));
        let page_rate = order
            .page_share
            .map(|per_second| share(per_second, 1, order.page_rate_ready, order.page_rate_owed));
        Self {
            world: Arc::clone(world),
            slot: Arc::clone(slot),
            batch_run: order.batch_run.clone(),
            repeat,
            permit_per_item,
            rate: rate.map(Arc::new),
            page_rate,
            page_pause: order.page_pause,
            began: world.shared.clock.now(),
            time_limit: order.time_limit,
            checkpoint: Mutex::default(),
        }
    }

    /// Adds to a report what only the host knows: permits that are left, and durations by the virtual clock.
    fn complete(&self, report: &mut StrideReport) {
        if let Some(rate) = &self.rate {
            (report.rate_left, report.rate_untouched) = rate.take_rest();
        }
        if let Some(rate) = &self.page_rate {
            (report.page_rate_left, report.page_rate_untouched) = rate.take_rest();
        }
        let page = self.world.shared.page_takes.as_millis();
        let page = u64::try_from(page).unwrap_or(u64::MAX);
        let Timing {
            pages, full_pages, ..
        } = report.timing;
        let took = self.elapsed().as_micros();
        report.timing = Timing {
            busy_ms: page.saturating_mul(u64::from(pages)),
            full_busy_ms: page.saturating_mul(u64::from(full_pages)),
            full_slowest_ms: if full_pages > 0 { page } else { 0 },
            took_us: match pages {
                0 => 0,
                _ => u64::try_from(took).unwrap_or(u64::MAX),
            },
            ..report.timing
        };
    }

    fn last_sign(&self) -> StrideReport {
        lock(&self.checkpoint).clone()
    }

    fn elapsed(&self) -> Duration {
        self.world.shared.clock.now().saturating_sub(self.began)
    }

    fn stop(&self) -> Go {
        self.world.interrupt(&self.slot);
        Go::Stop
    }

    /// Waits, unless the stride is told to stop in a way that ends this wait.
    async fn wait(&self, wait: impl Future<Output = ()>, ends: impl Fn(&StopSignal) -> bool) -> Go {
        let mut signal = self.slot.signal.subscribe();
        tokio::select! {
            biased;
            () = wait => Go::On,
            _ = signal.wait_for(ends) => Go::Stop,
        }
    }

    async fn take(&self, share: &Share, permits: usize) {
        let sleep = |wait| self.world.shared.clock.sleep(self.slot.owner, wait);
        share.take_with(permits, sleep).await;
    }

    async fn page_may_begin(&self) {
        if let Some(pause) = self.page_pause {
            self.world.shared.clock.sleep(self.slot.owner, pause).await;
        }
        if let Some(rate) = &self.page_rate {
            self.take(rate, 1).await;
        }
    }

    /// Lets the time of a page pass, unless it is interrupted.
    async fn page_runs(&self) -> Go {
        let page = self.world.shared.page_takes;
        if page.is_zero() {
            return Go::On;
        }
        let sleep = self.world.shared.clock.sleep(self.slot.owner, page);
        self.wait(sleep, |signal| signal.stop_now).await
    }

    /// Interrupts the page at once, after some real time.
    fn pause_page(&self, after: Duration) {
        let signal = self.slot.signal.clone();
        let started = Instant::now();
        tokio::spawn(async move {
            // Timers are too coarse for a page in memory.
            while started.elapsed() < after {
                tokio::task::yield_now().await;
            }
            signal.send_modify(|signal| signal.stop_now = true);
        });
    }
}

/// The permits and waits of items.
struct Items {
    clock: VirtualClock,
    owner: u64,
    rate: Option<Arc<Share>>,
}

#[async_trait]
impl ItemHost for Items {
    async fn permit(&self) {
        if let Some(rate) = &self.rate {
            let sleep = |wait| self.clock.sleep(self.owner, wait);
            rate.take_with(1, sleep).await;
        }
    }

    async fn back_off(&self, wait: Duration) {
        self.clock.sleep(self.owner, wait).await;
    }
}

#[async_trait]
impl StrideHost for SimulatedHost {
    async fn announce(&self, starts: &[PageToken]) -> Result<(), HostError> {
        let next = NextPage {
            batch_run: self.batch_run.clone(),
            stride: self.slot.stride,
            dispatch: self.slot.dispatch,
            starts: starts.to_vec(),
        };
        let twice = self.world.shared.faults.plan.duplicate_announcements;
        for _ in 0..=u32::from(twice) {
            self.world.state().hear_next_page(&next);
        }
        Ok(())
    }

    fn is_repeat(&self) -> bool {
        self.repeat
    }

    async fn accepted_end(&self) -> Result<AcceptedEnd, HostError> {
        let request = AcceptedEndRequest {
            batch_run: self.batch_run.clone(),
            stride: self.slot.stride,
        };
        Ok(self.world.state().accepted_end(&request))
    }

    async fn still_counts(&self) -> Result<(), HostError> {
        Ok(())
    }

    async fn clear_to_go(&self) -> Go {
        if self.world.shared.request_is_due() {
            // The controller applies the request before the page begins.
            let clock = &self.world.shared.clock;
            clock.sleep(self.slot.owner, Duration::ZERO).await;
            if self.slot.signal.borrow().must_stop() {
                return Go::Stop;
            }
        }
        // A repeated stride is not interrupted: a batch whose every worker is lost might otherwise never finish.
        if !self.repeat && self.world.shared.faults.stops_before_page() {
            return self.stop();
        }
        let done = self.slot.pages.load(Ordering::Relaxed) > 0;
        if done && self.time_limit.is_some_and(|limit| self.elapsed() >= limit) {
            return Go::Stop;
        }
        match self
            .wait(self.page_may_begin(), |signal| signal.must_stop())
            .await
        {
            Go::On if self.permit_per_item => self.page_runs().await,
            go => go,
        }
    }

    fn item_host(&self) -> Arc<dyn ItemHost> {
        Arc::new(Items {
            clock: self.world.shared.clock.clone(),
            owner: self.slot.owner,
            rate: self.rate.clone(),
        })
    }

    async fn rate_permits(&self, items: usize) -> Go {
        let faults = &self.world.shared.faults;
        if !self.repeat && faults.stops_waiting_page() {
            return self.stop();
        }
        if let Some(rate) = &self.rate {
            let taken = self.take(rate, items);
            if self.wait(taken, |signal| signal.must_stop()).await == Go::Stop {
                return Go::Stop;
            }
        }
        if !self.permit_per_item && self.page_runs().await == Go::Stop {
            return Go::Stop;
        }
        if !self.repeat
            && let Some(after) = faults.pauses_page_after()
        {
            self.pause_page(after);
        }
        Go::On
    }

    fn works_on(&self, _page: Option<RunningPage>) {}

    fn checkpoint(&self, report: &StrideReport) {
        self.slot.pages.store(report.pages, Ordering::Relaxed);
        *lock(&self.checkpoint) = report.clone();
    }

    fn stop_signal(&self) -> watch::Receiver<StopSignal> {
        self.slot.signal.subscribe()
    }

    fn observe(&self, event: PageEvent) {
        if let PageEvent::Processed { .. } = event {
            let rates = [self.rate.as_deref(), self.page_rate.as_ref()];
            for rate in rates.into_iter().flatten() {
                rate.page_took(self.world.shared.page_takes);
            }
        }
    }
}

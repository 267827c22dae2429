//! The options of a batch besides its speed: tolerated failures, deadline, throttles, hooks, lock and weight.

use std::time::Duration;

use clap::{ArgGroup, Args, ValueEnum};

use crate::{
    batch::{
        Batch,
        tolerance::{Limit, OnExceeded, Tolerance},
    },
    cli::args::values::length,
};

/// `--on-exceeded` means nothing without one of these.
const TOLERATED: [&str; 3] = ["tolerate_items", "tolerate_pages", "tolerate_consecutive"];

#[derive(Args, Debug)]
#[command(group = ArgGroup::new("tolerated").multiple(true).args(TOLERATED))]
pub(crate) struct BatchOptionArgs {
    /// End the batch when it is not done after this long, at least 1s
    #[arg(long, value_name = "DURATION", value_parser = length)]
    deadline: Option<Duration>,

    /// Items that may be given up: a count, or a share such as 1.5% once 100 are done
    #[arg(long, value_name = "N|P%", value_parser = limit, allow_hyphen_values = true)]
    tolerate_items: Option<Limit>,

    /// Pages that may be given up: a count, or a share such as 5% once 100 are done
    #[arg(long, value_name = "N|P%", value_parser = limit, allow_hyphen_values = true)]
    tolerate_pages: Option<Limit>,

    /// Attempts at pages that may fail one after the other, at least 1
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    tolerate_consecutive: Option<u32>,

    /// The reaction when more fails than is tolerated [default: pause]
    #[arg(long, value_name = "WHAT", requires = "tolerated")]
    on_exceeded: Option<Reaction>,

    /// Hold or slow down when the throttle of this name asks for it; can be given again
    #[arg(long, value_name = "NAME")]
    throttle: Vec<String>,

    /// Report failures to the failure handler of this name
    #[arg(long, value_name = "NAME")]
    on_failure: Option<String>,

    /// Report progress to the tracker of this name
    #[arg(long, value_name = "NAME")]
    track: Option<String>,

    /// The interval between reports to the tracker, at least 1s [default: 5m]
    #[arg(long, value_name = "DURATION", value_parser = length, requires = "track")]
    track_every: Option<Duration>,

    /// Report the end of the batch to the completion hook of this name
    #[arg(long, value_name = "NAME")]
    on_completion: Option<String>,

    /// Run only while no other batch holds this lock
    #[arg(long, value_name = "NAME")]
    lock: Option<String>,

    /// Wait while another batch has the lock, instead of being refused
    #[arg(long, requires = "lock")]
    wait_for_lock: bool,

    /// The share of the workers relative to other batches, from 0.001 to 1,000 [default: 1]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    weight: Option<f32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Reaction {
    Pause,
    Stop,
}

fn limit(text: &str) -> Result<Limit, String> {
    let limit = match text.strip_suffix('%') {
        Some(percent) => percent.trim().parse().map(Limit::percent).ok(),
        None => text.parse().map(Limit::count).ok(),
    };
    limit.ok_or_else(|| "write a count such as 100, or a share such as 1.5%".to_owned())
}

impl BatchOptionArgs {
    /// Applies the flags that were given.
    pub(crate) fn apply(&self, mut batch: Batch) -> Batch {
        if let Some(after) = self.deadline {
            batch = batch.deadline(after);
        }
        if let Some(tolerance) = self.tolerance() {
            batch = batch.tolerate(tolerance);
        }
        for name in &self.throttle {
            batch = batch.throttle(name);
        }
        if let Some(name) = &self.on_failure {
            batch = batch.on_failure(name);
        }
        if let Some(name) = &self.track {
            batch = batch.track(name);
        }
        if let Some(interval) = self.track_every {
            batch = batch.track_every(interval);
        }
        if let Some(name) = &self.on_completion {
            batch = batch.on_completion(name);
        }
        if let Some(name) = &self.lock {
            batch = batch.lock(name).wait_for_lock(self.wait_for_lock);
        }
        if let Some(weight) = self.weight {
            batch = batch.weight(weight);
        }
        batch
    }

    fn tolerance(&self) -> Option<Tolerance> {
        let mut tolerance = Tolerance::new();
        if let Some(limit) = self.tolerate_items {
            tolerance = tolerance.items(limit);
        }
        if let Some(limit) = self.tolerate_pages {
            tolerance = tolerance.pages(limit);
        }
        if let Some(attempts) = self.tolerate_consecutive {
            tolerance = tolerance.consecutive(attempts);
        }
        let any = tolerance != Tolerance::new();
        any.then(|| match self.on_exceeded {
            Some(Reaction::Stop) => tolerance.then(OnExceeded::Stop),
            Some(Reaction::Pause) | None => tolerance.then(OnExceeded::Pause),
        })
    }
}

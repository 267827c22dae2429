//! The arms that are compared.

use std::{fmt, time::Duration};

use temporal_batch::Batch;

use super::{options::Options, processor::AddOne};

/// The name of the throttle.
pub const THROTTLE: &str = "database";
/// The settings with which adaptive arms begin; the defaults of a batch.
const FIRST_PAGE_SIZE: u32 = 1_000;

/// A foreground with one kind of batch, or without a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arm {
    Undisturbed,
    Fixed { parallelism: u32, page_size: u32 },
    Adaptive { target: Duration, throttled: bool },
}

impl fmt::Display for Arm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Undisturbed => f.write_str("undisturbed"),
            Self::Fixed {
                parallelism,
                page_size,
            } => write!(f, "fixed {parallelism} x {page_size}"),
            Self::Adaptive { target, throttled } => {
                let throttle = if *throttled { " + throttle" } else { "" };
                write!(f, "adaptive {target:?}{throttle}")
            }
        }
    }
}

impl Arm {
    pub fn all(options: &Options) -> Vec<Self> {
        let mut arms = vec![Self::Undisturbed];
        for &parallelism in &options.parallelism {
            for &page_size in &options.page_sizes {
                arms.push(Self::Fixed {
                    parallelism,
                    page_size,
                });
            }
        }
        for &target in &options.targets {
            for throttled in [false, true] {
                arms.push(Self::Adaptive { target, throttled });
            }
        }
        arms
    }

    pub fn is_fixed(&self) -> bool {
        matches!(self, Self::Fixed { .. })
    }

    pub fn is_adaptive(&self) -> bool {
        matches!(self, Self::Adaptive { .. })
    }

    pub fn warm_up(&self, options: &Options) -> Duration {
        match self {
            Self::Undisturbed | Self::Fixed { .. } => options.warm_up,
            Self::Adaptive { .. } => options.adaptive_warm_up,
        }
    }

    pub fn batch(&self, id: &str, queue: &str, options: &Options) -> Option<Batch> {
        let batch = Batch::of::<AddOne>(id, ())
            .task_queue(queue)
            .stride(options.stride);
        match *self {
            Self::Undisturbed => None,
            Self::Fixed {
                parallelism,
                page_size,
            } => Some(batch.page_size(page_size).max_parallelism(parallelism)),
            Self::Adaptive { target, throttled } => {
                let batch = batch
                    .page_size(FIRST_PAGE_SIZE)
                    .auto_page_size(options.auto_page_size.target(target))
                    .auto_parallelism(options.auto_parallelism);
                Some(if throttled {
                    batch.throttle(THROTTLE)
                } else {
                    batch
                })
            }
        }
    }
}

//! `demo`: runs a whole migration in one process, and checks every row.
//!
//! ```text
//!   database and dev server ─▶ worker ─▶ batch ─▶ every row checked ─▶ summary
//!             any error or Ctrl-C ─▶ batch cancelled, worker, server and files gone
//! ```

mod data;
mod scene;
mod spinner;
mod summary;

use std::path::PathBuf;

use clap::Args;

pub use data::{Demo, DemoData, DemoVerdict};
use scene::Scene;

use crate::{
    batch::Batch,
    cli::{
        args::metrics::MetricsArgs,
        exit::{CliResult, Exit},
        output::note,
    },
    engine::worker::{WorkerError, shutdown_signal},
};

#[derive(Args, Debug)]
pub(crate) struct DemoArgs {
    /// Rows of the database
    #[arg(long, default_value_t = 200_000, allow_negative_numbers = true, value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    rows: u64,

    /// Items per page, from 1 to 1,000,000
    #[arg(
        long,
        value_name = "ITEMS",
        default_value_t = 1_000,
        allow_negative_numbers = true
    )]
    page_size: u32,

    // Measured with 200,000 rows on two cores: 2 are a third slower, 8 no faster.
    /// Pages in flight at most, from 0 to 500; SQLite has one writer, so more than a few only wait
    #[arg(
        long,
        value_name = "PAGES",
        default_value_t = 4,
        allow_negative_numbers = true
    )]
    max_parallelism: u32,

    /// Pages that one activity processes in a row
    #[arg(
        long,
        value_name = "PAGES",
        default_value_t = 10,
        allow_negative_numbers = true
    )]
    stride: u32,

    /// Share of the attempts that fail on purpose, from 0 to 1
    #[arg(long, value_name = "SHARE", default_value_t = 0.05, allow_negative_numbers = true, value_parser = share)]
    fail_rate: f64,

    /// Keep the database in this new file
    #[arg(long, value_name = "FILE")]
    database: Option<PathBuf>,

    /// Keep the server and its web UI running until Ctrl-C
    #[arg(long)]
    keep: bool,

    #[command(flatten)]
    metrics: MetricsArgs,

    /// Print the summary as one JSON object
    #[arg(long)]
    json: bool,
}

fn share(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(share) if (0.0..=1.0).contains(&share) => Ok(share),
        _ => Err("write a number from 0 to 1, such as 0.05".to_owned()),
    }
}

impl DemoArgs {
    pub(crate) async fn run(&self, demo: &dyn Demo, program: &str) -> CliResult {
        // Wrong flags are refused before anything is made.
        self.limits(Batch::named("demo", "demo", serde_json::Value::Null))
            .validate()?;
        let stop = shutdown_signal().map_err(WorkerError::Signals)?;
        let mut scene = Scene::default();
        let played = tokio::select! {
            played = scene.play(self, demo, program) => Some(played),
            () = stop => None,
        };
        let stayed = match played {
            Some(Ok(_)) if self.keep => scene.stay().await,
            _ => Ok(()),
        };
        // From here on, Ctrl-C skips even the clean-up.
        let again = shutdown_signal().map_err(WorkerError::Signals)?;
        let interrupted = played.is_none();
        let cleaned = tokio::select! {
            cleaned = scene.clear(interrupted) => cleaned,
            () = again => return Ok(Exit::Interrupted),
        };
        match played {
            None => {
                match self.database.as_deref().filter(|path| path.exists()) {
                    Some(path) => note(format_args!(
                        "interrupted; {} is kept as it was then",
                        path.display()
                    )),
                    None => note("interrupted; nothing is left behind"),
                }
                Ok(Exit::Interrupted)
            }
            Some(Err(error)) => Err(error),
            Some(Ok(exit)) => stayed.and(cleaned).map(|()| exit),
        }
    }

    fn limits(&self, batch: Batch) -> Batch {
        batch
            .page_size(self.page_size)
            .max_parallelism(self.max_parallelism)
            .stride(self.stride)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_from_0_to_1() {
        assert_eq!(share("0.05"), Ok(0.05));
        for bad in ["-0.1", "1.1", "NaN", "x", ""] {
            assert!(share(bad).is_err(), "{bad}");
        }
    }
}

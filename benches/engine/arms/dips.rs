//! The use of a batch's slots while it continues as new.

use crate::{
    Error,
    arm_server::{ArmServer, unique},
    options::Options,
    pages::PagesArgs,
    report::{Table, Target},
    stamps,
    worker_process::{Work, WorkerProcess},
};

const MILLIS: u64 = 250;
const STRIDE: u32 = 4;

pub async fn run(server: &ArmServer, options: &Options, table: &mut Table) -> Result<(), Error> {
    let dir = tempfile::tempdir()?;
    let worker = WorkerProcess::start(server, Work::pages())?;
    let warm_up = PagesArgs::no_op(20);
    server
        .complete(&warm_up.batch(unique("warm-up"), worker.queue()), 20)
        .await?;
    // The seconds of all pages, and between two hand-overs.
    let (seconds, every) = options.size((8, 4), (20, 4));
    for pair in 0..options.pairs.min(2) {
        for parallelism in [20_u32, 50] {
            let per_second = parallelism * 1_000 / u32::try_from(MILLIS)?;
            let mut both = [Some(every * per_second), None];
            if pair % 2 == 1 {
                both.reverse();
            }
            for per_run in both {
                let id = unique("dips");
                let file = dir.path().join(&id);
                let args = PagesArgs {
                    millis: MILLIS,
                    stamps: Some(file.clone()),
                    ..PagesArgs::no_op(u64::from(seconds * per_second))
                };
                let mut batch = args.batch(id, worker.queue());
                batch = batch.max_parallelism(parallelism).stride(STRIDE);
                if let Some(pages) = per_run {
                    batch = batch.pages_per_run(pages);
                }
                let report = server.complete(&batch, args.pages).await?;
                let flight = stamps::flight(&stamps::read(&file)?, parallelism);
                let flight = flight.ok_or("the slots were never full")?;
                let kind = match per_run {
                    Some(_) => "hand-overs every 4 s",
                    None => "as Temporal suggests",
                };
                let case = format!("parallelism {parallelism}, {kind}");
                table.add(
                    &case,
                    "hand-overs",
                    "",
                    f64::from(report.progress.runs.saturating_sub(1)),
                );
                table.add(
                    &case,
                    "slots used, on average",
                    "%",
                    100.0 * flight.mean_share,
                );
                table.add(
                    &case,
                    "slots used, lowest 100 ms",
                    "%",
                    100.0 * flight.lowest_share,
                );
                let longest = "longest time under 90 %";
                table.add(&case, longest, "ms", 1_000.0 * flight.longest_below);
                table.aim(&case, longest, Target::AtMost(MILLIS as f64));
            }
        }
    }
    worker.stop().await
}

//! Partitions of very different sizes, one for each tenant: the time of the batch compared with the ideal.

use temporal_batch::{Batch, Outcome, settings::AutoStride};

use crate::{
    Error,
    arm_server::{ArmServer, unique},
    options::Options,
    report::{Table, Target},
    tenants::{SendMails, Tenants},
    worker_process::{Work, WorkerProcess},
};

const TENANTS: u32 = 16;
const PARALLELISM: u32 = 8;
const PAGE_SIZE: u32 = 10;
const PAGE_MS: u64 = 50;

pub async fn run(server: &ArmServer, options: &Options, table: &mut Table) -> Result<(), Error> {
    let worker = WorkerProcess::start(server, Work::pages())?;
    let mails: u64 = options.size(10_000, 40_000);
    for _ in 0..options.pairs {
        for (opaque, case) in [(false, "can skip ahead"), (true, "opaque tokens")] {
            // The pages of one tenant are read one after the other, so this takes longer.
            let mails = if opaque { mails / 4 } else { mails };
            let sizes = Tenants::zipf(mails, TENANTS);
            let mails: u64 = sizes.iter().sum();
            let pages: u64 = sizes
                .iter()
                .map(|mails| mails.div_ceil(u64::from(PAGE_SIZE)))
                .sum();
            let args = Tenants {
                sizes,
                page_ms: PAGE_MS,
                opaque,
                sizes_known: true,
            };
            let batch = Batch::of::<SendMails>(unique("partitions"), args)
                .task_queue(worker.queue())
                .page_size(PAGE_SIZE)
                .stride(AutoStride::default().beginning_with(5))
                .max_parallelism(PARALLELISM);
            let (cost, _) = server
                .cost(&worker, complete(server, &batch, mails))
                .await?;
            let ideal = (pages * PAGE_MS) as f64 / 1_000.0 / f64::from(PARALLELISM);
            let case = format!("{TENANTS} tenants, {pages} pages, {case}");
            table.add(&case, "of the ideal time", "x", cost.seconds / ideal);
            if !opaque {
                table.aim(&case, "of the ideal time", Target::AtMost(1.15));
            }
        }
    }
    worker.stop().await
}

/// Runs the batch and checks its counts. A partition that was split has one more short page.
async fn complete(server: &ArmServer, batch: &Batch, mails: u64) -> Result<(), Error> {
    let report = server.client().start(batch).await?.result().await?;
    let processed = report.progress.items.processed;
    if report.outcome != Outcome::Completed || processed != mails {
        return Err(format!("{}: {processed} of {mails} mails", report.outcome).into());
    }
    Ok(())
}

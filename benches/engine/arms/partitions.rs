//! Tenants of very different sizes, each in a partition: how near the end of the last one is to the ideal.

use temporal_batch::{Batch, Outcome, settings::AutoStride};

use crate::{
    Error,
    bed::{Bed, unique},
    options::Options,
    report::{Table, Target},
    tenants::{SendMails, Tenants},
    worker_process::{Work, WorkerProcess},
};

const TENANTS: u32 = 16;
const PARALLELISM: u32 = 8;
const PAGE_SIZE: u32 = 10;
const PAGE_MS: u64 = 50;

pub async fn run(bed: &Bed, options: &Options, table: &mut Table) -> Result<(), Error> {
    let worker = WorkerProcess::start(bed, Work::pages())?;
    let mails: u64 = options.size(10_000, 40_000);
    for _ in 0..options.pairs {
        for (opaque, case) in [(false, "can skip ahead"), (true, "opaque tokens")] {
            // What one tenant has is read page by page, so it takes longer.
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
            let (cost, _) = bed.cost(&worker, complete(bed, &batch, mails)).await?;
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

/// A partition that was split has a short page more.
async fn complete(bed: &Bed, batch: &Batch, mails: u64) -> Result<(), Error> {
    let report = bed.client().start(batch).await?.result().await?;
    let processed = report.progress.items.processed;
    if report.outcome != Outcome::Completed || processed != mails {
        return Err(format!("{}: {processed} of {mails} mails", report.outcome).into());
    }
    Ok(())
}

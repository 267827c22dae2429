//! Pages that wait, as pages do that call a service: the part of the parallelism that is used.

use temporal_batch::settings::AutoStride;

use crate::{
    Error,
    arm_server::{ArmServer, unique},
    options::Options,
    pages::PagesArgs,
    report::{Table, Target},
    worker_process::{Work, WorkerProcess},
};

const PARALLELISM: u32 = 50;
const MILLIS: u64 = 50;

pub async fn run(server: &ArmServer, options: &Options, table: &mut Table) -> Result<(), Error> {
    let worker = WorkerProcess::start(server, Work::pages())?;
    let args = |pages| PagesArgs {
        millis: MILLIS,
        ..PagesArgs::no_op(pages)
    };
    server
        .complete(&args(20).batch(unique("warm-up"), worker.queue()), 20)
        .await?;
    let pages = options.size(3_000, 10_000);
    let strides: &[Option<u32>] =
        options.size(&[Some(25), None], &[Some(1), Some(10), Some(25), None]);
    for pair in 0..options.pairs {
        for &stride in strides {
            // One page an activity takes long, and its share is the same with fewer pages.
            let pages = if stride == Some(1) { pages / 5 } else { pages };
            if stride == Some(1) && pair > 0 {
                continue;
            }
            let batch = args(pages).batch(unique("sleep"), worker.queue());
            let batch = batch.max_parallelism(PARALLELISM);
            let (batch, name) = match stride {
                Some(stride) => (batch.stride(stride), stride.to_string()),
                None => (batch.stride(AutoStride::default()), "auto".to_owned()),
            };
            let (cost, _) = server.cost(&worker, server.complete(&batch, pages)).await?;
            let ideal = (pages * MILLIS) as f64 / 1_000.0 / f64::from(PARALLELISM);
            let case = format!("{pages} pages, stride {name}");
            table.add(&case, "of the ideal", "%", 100.0 * ideal / cost.seconds);
            table.add(&case, "speed", "pages/s", pages as f64 / cost.seconds);
            let cpu = (cost.server_cpu + cost.worker_cpu) * 1_000.0 / pages as f64;
            table.add(&case, "CPU of server and worker", "ms/page", cpu);
            if stride.is_none() {
                table.aim(&case, "of the ideal", Target::AtLeast(90.0));
            }
        }
    }
    worker.stop().await
}

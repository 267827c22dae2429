//! Settings of a worker, each compared with the defaults: no-op pages, one an activity, 50 in flight.

use futures::future::try_join_all;

use crate::{
    Error,
    arm_server::{ArmServer, unique},
    options::Options,
    pages::PagesArgs,
    report::Table,
    worker_process::{Setting, Work, WorkerProcess},
};

const PARALLELISM: u32 = 50;

/// The cases. The last number is that of the batches that share the pages and the parallelism.
const VARIANTS: [(&str, Setting, u32, u32); 10] = [
    ("2 workflow pollers", Setting::WorkflowPollers, 2, 1),
    ("10 workflow pollers", Setting::WorkflowPollers, 10, 1),
    ("2 stride pollers", Setting::StridePollers, 2, 1),
    ("10 stride pollers", Setting::StridePollers, 10, 1),
    ("20 stride pollers", Setting::StridePollers, 20, 1),
    ("no eager strides", Setting::EagerStrides, 0, 1),
    ("3 eager strides", Setting::EagerStrides, 3, 1),
    ("20 eager strides", Setting::EagerStrides, 20, 1),
    ("10 batches, 10 cached", Setting::CachedBatches, 10, 10),
    ("10 batches, 3 cached", Setting::CachedBatches, 3, 10),
];

pub async fn run(server: &ArmServer, options: &Options, table: &mut Table) -> Result<(), Error> {
    let args = PagesArgs::no_op(options.size(200, 1_500));
    let work = |changed: &[(Setting, u32)]| {
        // There is one worker, and strides are short.
        let alone = [(Setting::EagerStrides, 100)];
        Work::Pages {
            heartbeat_timeout: None,
            settings: [&alone, changed].concat(),
        }
    };
    let default = WorkerProcess::start(server, work(&[]))?;
    for (case, setting, value, batches) in VARIANTS {
        let variant = WorkerProcess::start(server, work(&[(setting, value)]))?;
        let speed = async |worker: &WorkerProcess, pages| {
            let each = pages / u64::from(batches);
            let args = PagesArgs {
                pages: each,
                ..args.clone()
            };
            let all = (0..batches).map(|_| {
                let batch = args.batch(unique("tuning"), worker.queue());
                batch.max_parallelism(PARALLELISM / batches)
            });
            let all: Vec<_> = all.collect();
            let complete = try_join_all(all.iter().map(|batch| server.complete(batch, each)));
            let (cost, _) = server.cost(worker, complete).await?;
            Ok::<_, Error>((each * u64::from(batches)) as f64 / cost.seconds)
        };
        speed(&default, 20).await?;
        speed(&variant, 20).await?;
        for pair in 0..options.pairs {
            let (usual, changed) = if pair % 2 == 0 {
                let usual = speed(&default, args.pages).await?;
                (usual, speed(&variant, args.pages).await?)
            } else {
                let changed = speed(&variant, args.pages).await?;
                (speed(&default, args.pages).await?, changed)
            };
            table.add(case, "defaults", "pages/s", usual);
            table.add(case, "with it", "pages/s", changed);
            table.add(case, "with it / defaults", "", changed / usual);
        }
        variant.stop().await?;
    }
    default.stop().await
}

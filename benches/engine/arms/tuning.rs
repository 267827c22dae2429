//! Settings of a worker, each beside the defaults: no-op pages, one an activity, 50 in flight.

use crate::{
    Error,
    bed::{Bed, unique},
    options::Options,
    pages::PagesArgs,
    report::Table,
    worker_process::{Setting, Work, WorkerProcess},
};

const PARALLELISM: u32 = 50;

const VARIANTS: [(&str, Setting, u32); 8] = [
    ("2 workflow pollers", Setting::WorkflowPollers, 2),
    ("10 workflow pollers", Setting::WorkflowPollers, 10),
    ("2 stride pollers", Setting::StridePollers, 2),
    ("10 stride pollers", Setting::StridePollers, 10),
    ("20 stride pollers", Setting::StridePollers, 20),
    ("no eager strides", Setting::EagerStrides, 0),
    ("3 eager strides", Setting::EagerStrides, 3),
    ("20 eager strides", Setting::EagerStrides, 20),
];

pub async fn run(bed: &Bed, options: &Options, table: &mut Table) -> Result<(), Error> {
    let args = PagesArgs::no_op(options.size(200, 1_500));
    let default = WorkerProcess::start(bed, Work::pages())?;
    for (case, setting, value) in VARIANTS {
        let variant = WorkerProcess::start(
            bed,
            Work::Pages {
                heartbeat_timeout: None,
                settings: vec![(setting, value)],
            },
        )?;
        let speed = async |worker: &WorkerProcess, pages| {
            let args = PagesArgs {
                pages,
                ..args.clone()
            };
            let batch = args.batch(unique("tuning"), worker.queue());
            let batch = batch.max_parallelism(PARALLELISM);
            let (cost, _) = bed.cost(worker, bed.complete(&batch, pages)).await?;
            Ok::<_, Error>(pages as f64 / cost.seconds)
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

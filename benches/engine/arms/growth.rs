//! The cost of a page in small and in large batches.

use std::time::{Duration, Instant};

use crate::{
    Error,
    arm_server::{ArmServer, unique},
    options::Options,
    pages::PagesArgs,
    process,
    report::{Table, Target, median},
    worker_process::{Work, WorkerProcess},
};

const PARALLELISM: u32 = 10;
const LOOK_EVERY: Duration = Duration::from_millis(250);

pub async fn run(server: &ArmServer, options: &Options, table: &mut Table) -> Result<(), Error> {
    let worker = WorkerProcess::start(server, Work::pages())?;
    let warm_up = PagesArgs::no_op(200);
    server
        .complete(&warm_up.batch(unique("warm-up"), worker.queue()), 200)
        .await?;
    let mut plan = vec![(1, vec![1_000]), (25, vec![1_000, 10_000])];
    if !options.quick {
        plan = vec![(1, vec![1_000, 10_000]), (25, vec![1_000, 10_000, 100_000])];
    }
    if options.nightly {
        plan = vec![
            (1, vec![1_000, 10_000, 100_000]),
            (25, vec![1_000, 10_000, 100_000, 1_000_000]),
        ];
    }
    for (stride, sizes) in plan {
        let (last, smaller) = sizes.split_last().ok_or("no sizes")?;
        for pair in 0..options.pairs {
            for &pages in &sizes {
                // Large batches are long enough to average over themselves.
                if pages * u64::from(stride.min(10)) < 100_000 || pair == 0 {
                    let case = case(pages, stride);
                    one(server, table, &worker, pages, stride, &case).await?;
                }
            }
        }
        // Measures how much slower server and machine have become, since the server keeps all histories.
        let again = smaller.last().map(|&pages| {
            (
                pages,
                format!("{} again, after {last}", case(pages, stride)),
            )
        });
        if let Some((pages, case)) = &again {
            one(server, table, &worker, *pages, stride, case).await?;
        }
        for (measure, name) in [
            ("time", "time of a page"),
            ("CPU of server and worker", "CPU of a page"),
        ] {
            // A batch of one second is mostly its start, so the cheapest of the smaller ones is compared.
            let of = |pages: &u64| table.median(&case(*pages, stride), measure);
            let cheapest = smaller.iter().filter_map(of).min_by(f64::total_cmp);
            let after = again
                .as_ref()
                .and_then(|(_, case)| table.median(case, measure));
            let large = of(last);
            if let (Some(small), Some(large)) = (cheapest, large) {
                let case = format!("stride {stride}: {last} pages / the cheapest smaller batch");
                table.add(&case, name, "", large / small);
                table.aim(&case, name, Target::AtMost(1.1));
            }
            if let (Some(after), Some(large)) = (after, large) {
                let case = format!("stride {stride}: {last} pages / the smaller batch after it");
                table.add(&case, name, "", large / after);
            }
        }
    }
    worker.stop().await
}

fn case(pages: u64, stride: u32) -> String {
    format!("stride {stride}, {pages} pages")
}

async fn one(
    server: &ArmServer,
    table: &mut Table,
    worker: &WorkerProcess,
    pages: u64,
    stride: u32,
    case: &str,
) -> Result<(), Error> {
    let batch = PagesArgs::no_op(pages).batch(unique("growth"), worker.queue());
    let batch = batch.max_parallelism(PARALLELISM).stride(stride);
    let handle = server.client().handle(batch.id())?;
    let (mut latencies, mut memory) = (Vec::new(), 0.0_f64);
    let look = async {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let asked = Instant::now();
            if handle.progress().await.is_ok() {
                latencies.push(asked.elapsed().as_secs_f64() * 1_000.0);
            }
            memory = memory.max(process::resident_mib(worker.pid()).unwrap_or(f64::NAN));
        }
    };
    let (cost, _) = server
        .cost(worker, async {
            tokio::select! {
                done = server.complete(&batch, pages) => done,
                () = look => Err("the looks at the batch ended".into()),
            }
        })
        .await?;
    let per_page = 1_000.0 / pages as f64;
    table.add(case, "speed", "pages/s", pages as f64 / cost.seconds);
    table.add(case, "time", "ms/page", cost.seconds * per_page);
    let cpu = (cost.server_cpu + cost.worker_cpu) * per_page;
    table.add(case, "CPU of server and worker", "ms/page", cpu);
    table.add(
        case,
        "CPU of the server",
        "ms/page",
        cost.server_cpu * per_page,
    );
    table.add(
        case,
        "CPU of the worker",
        "ms/page",
        cost.worker_cpu * per_page,
    );
    // A short batch may be over before the first look.
    if memory > 0.0 {
        table.add(case, "memory of the worker", "MiB", memory);
    }
    if !latencies.is_empty() {
        table.add(case, "progress is answered after", "ms", median(&latencies));
    }
    let histories = server.histories(batch.id()).await?;
    table.add(case, "runs", "", histories.runs as f64);
    // The first run is given only the input of the start.
    if histories.runs > 1 {
        let input = histories.largest_input as f64 / 1_024.0;
        table.add(case, "largest input of a run", "KiB", input);
        table.aim(case, "largest input of a run", Target::AtMost(64.0));
    }
    Ok(())
}

//! No-op pages of a source that can skip ahead, one page an activity, compared with the same activities without this
//! library.

use crate::{
    Error,
    arm_server::{ArmServer, Cost, unique},
    bare::Peer,
    options::Options,
    pages::PagesArgs,
    report::{Table, Target},
    worker_process::{Setting, Work, WorkerProcess},
};

pub async fn run(server: &ArmServer, options: &Options, table: &mut Table) -> Result<(), Error> {
    let args = PagesArgs::no_op(options.size(400, 2_000));
    for (parallelism, peer) in [(10, Peer::Known), (50, Peer::Known), (50, Peer::KnownEager)] {
        let eager = peer.eager();
        let case = format!(
            "{} pages, parallelism {parallelism}, {eager} eager activities",
            args.pages
        );
        beside(server, options, table, &case, &args, parallelism, peer).await?;
        table.aim(&case, RATIO, Target::AtLeast(0.8));
    }
    Ok(())
}

pub const RATIO: &str = "batch / bare";

/// Measures a batch and its peer in alternating pairs.
pub async fn beside(
    server: &ArmServer,
    options: &Options,
    table: &mut Table,
    case: &str,
    args: &PagesArgs,
    parallelism: u32,
    peer: Peer,
) -> Result<(), Error> {
    let eager = peer.eager();
    let ours = WorkerProcess::start(
        server,
        Work::Pages {
            heartbeat_timeout: None,
            settings: vec![(Setting::EagerStrides, eager as u32)],
        },
    )?;
    let bare = WorkerProcess::start(server, Work::Bare { eager })?;
    let batch = async |args: &PagesArgs| {
        let batch = args
            .batch(unique("batch"), ours.queue())
            .max_parallelism(parallelism);
        server.complete(&batch, args.pages).await.map(drop)
    };
    let without = async |pages| {
        let client = server.client().temporal();
        peer.complete(client, bare.queue(), unique("bare"), pages, parallelism)
            .await
    };
    // Both have connected, polled and run their code once by now.
    let warm_up = PagesArgs {
        pages: 20,
        ..args.clone()
    };
    batch(&warm_up).await?;
    without(warm_up.pages).await?;
    for pair in 0..options.pairs {
        let (batch, bare) = if pair % 2 == 0 {
            let batch = server.cost(&ours, batch(args)).await?.0;
            (batch, server.cost(&bare, without(args.pages)).await?.0)
        } else {
            let bare = server.cost(&bare, without(args.pages)).await?.0;
            (server.cost(&ours, batch(args)).await?.0, bare)
        };
        table.add(case, RATIO, "", bare.seconds / batch.seconds);
        add(
            table,
            case,
            [
                "batch",
                "batch, CPU of the server",
                "batch, CPU of the worker",
            ],
            args,
            &batch,
        );
        add(
            table,
            case,
            ["bare", "bare, CPU of the server", "bare, CPU of the worker"],
            args,
            &bare,
        );
    }
    ours.stop().await?;
    bare.stop().await
}

fn add(table: &mut Table, case: &str, names: [&'static str; 3], args: &PagesArgs, cost: &Cost) {
    let pages = args.pages as f64;
    let [speed, server, worker] = names;
    table.add(case, speed, "pages/s", pages / cost.seconds);
    table.add(case, server, "ms/page", cost.server_cpu * 1_000.0 / pages);
    table.add(case, worker, "ms/page", cost.worker_cpu * 1_000.0 / pages);
}

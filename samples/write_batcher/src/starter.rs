//! Starts workflows that place orders, waits for all of them, and verifies the database.

use std::{collections::BTreeSet, process::ExitCode};

use clap::Args;
use temporal_batch::store::LetterFilter;
use temporal_batch_batcher::{BatchWriter as _, BatcherClient, FlushReason, Stats};
use temporalio_client::{WorkflowGetResultOptions, WorkflowStartOptions};

use crate::{
    Fallible, Shared,
    main_service::{self, Order, PlaceOrder, Placed},
    shop,
};

#[derive(Args, Clone)]
pub(crate) struct StartArgs {
    /// Workflows to start
    #[arg(long, default_value_t = 5, allow_negative_numbers = true, value_parser = clap::value_parser!(u32).range(1..))]
    pub workflows: u32,
    /// Orders that the database will refuse
    #[arg(long, default_value_t = 0)]
    pub poison: u32,
    /// Seed of the orders and their ids [default: a random one]
    #[arg(long)]
    pub seed: Option<u64>,
}

/// Starts, waits, prints and verifies. The status is 0 only if the database has what the workflows were told.
pub(crate) async fn run(shared: &Shared, args: &StartArgs) -> Fallible<ExitCode> {
    if args.poison > args.workflows {
        let StartArgs {
            poison, workflows, ..
        } = args;
        return Err(format!("--poison {poison} is more than --workflows {workflows}").into());
    }
    let batcher = shared.batcher()?;
    let client = shared.connect().await?;
    let batcher = BatcherClient::new(&client, batcher)?;
    batcher.start().await?;
    let before = batcher.stats().await?;
    let seed = args.seed.unwrap_or_else(|| fastrand::u64(..100_000));
    let mut random = fastrand::Rng::with_seed(seed);
    let count = args.workflows as usize;
    let poison: BTreeSet<_> = random
        .choose_multiple(0..count, args.poison as usize)
        .into_iter()
        .collect();
    let prefix = format!("main-workflow-{seed}-");
    let mut started = Vec::new();
    for i in 0..count {
        let total = random.i64(100..10_000);
        let total = if poison.contains(&i) { -total } else { total };
        let order = Order {
            batcher: batcher.batcher().clone(),
            total,
        };
        let id = format!("{prefix}{i:03}");
        let options = WorkflowStartOptions::new(main_service::QUEUE, id.as_str()).build();
        client
            .temporal()
            .start_workflow(PlaceOrder::run, order, options)
            .await?;
        let handle = client
            .temporal()
            .get_workflow_handle::<PlaceOrder>(id.as_str());
        started.push((id, handle));
    }
    let (mut done, mut failed) = (BTreeSet::new(), BTreeSet::new());
    let mut confirmed = 0;
    for (id, handle) in started {
        match handle.get_result(WorkflowGetResultOptions::default()).await {
            Ok(Placed::Done(how)) => {
                println!("{id}: ok ({how})");
                confirmed += 1;
                done.insert(id);
            }
            Ok(Placed::Failed { told, error }) => {
                confirmed += usize::from(told);
                println!("{id}: error ({error})");
                failed.insert(id);
            }
            Err(error) => {
                println!("{id}: error ({error})");
                failed.insert(id);
            }
        }
    }
    let after = batcher.stats().await?;
    println!("{}", writes(count, &before, &after));
    println!("confirmed {confirmed}/{count}");
    verify(shared, &prefix, &done, &failed).await
}

fn writes(requests: usize, before: &Stats, after: &Stats) -> String {
    let writes = after.writes - before.writes;
    let flushes = FlushReason::ALL.into_iter().filter_map(|reason| {
        let of = |stats: &Stats| stats.flushes.get(&reason).copied().unwrap_or(0);
        let flushes = of(after) - of(before);
        (flushes > 0).then(|| format!("{} {flushes}", reason.as_str()))
    });
    let flushes = flushes.collect::<Vec<_>>().join(", ");
    let noun = if writes == 1 { "write" } else { "writes" };
    format!("{requests} requests -> {writes} {noun} (flush: {flushes})")
}

/// Compares the database and the dead letters with what the workflows were told.
async fn verify(
    shared: &Shared,
    prefix: &str,
    done: &BTreeSet<String>,
    failed: &BTreeSet<String>,
) -> Fallible<ExitCode> {
    let rows = shop::rows(&shared.db, prefix).await?;
    let writer = shop::writer(&shared.db).await?;
    let filter = LetterFilter::of(shop::BATCHER);
    let letters = writer.dead_letters().list(&filter, None, 10_000).await?;
    let mut letters: Vec<_> = letters
        .into_iter()
        .filter_map(|letter| Some((letter.key?, letter.message)))
        .filter(|(id, _)| id.starts_with(prefix))
        .collect();
    letters.sort_unstable();
    for (id, message) in &letters {
        println!("dlq: {id} {message}");
    }
    let dead: BTreeSet<_> = letters.into_iter().map(|(id, _)| id).collect();
    let written: BTreeSet<_> = rows.keys().cloned().collect();
    let once = rows.values().all(|times| *times == 1);
    let total: i64 = rows.values().sum();
    let holds = once && written == *done && dead == *failed;
    let verdict = if holds { "OK" } else { "WRONG" };
    println!("exactly once: {} ids, {total} rows {verdict}", done.len());
    Ok(match holds {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

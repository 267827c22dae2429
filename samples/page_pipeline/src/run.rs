//! Runs a recipe, prints what a reader should see, and verifies it.

use std::{collections::BTreeMap, time::Duration};

use temporal_batch::{Batch, BatchClient, BatchHandle, BatchReport, Outcome};

use crate::{
    Error, QUEUE,
    orders::{cents, shipped},
    persist,
    recipe::{AT_ONCE, BUCKETS, INVALID, Recipe, UNREACHABLE},
    shop_pages::{ShopPages, Work},
    sink::Sink,
    sizes,
};

/// The settings of a run.
#[derive(Clone, Copy)]
pub struct Settings {
    pub seed: u64,
    pub memory_orders: u64,
}

/// The server, the sink and the settings of a run.
pub struct Setup {
    pub client: BatchClient,
    pub address: String,
    pub sink: Sink,
    pub settings: Settings,
}

type Counters = BTreeMap<String, i64>;

/// Fails with a message unless a fact holds.
fn verify(fact: bool, what: &str) -> Result<(), Error> {
    match fact {
        true => Ok(()),
        false => Err(format!("not verified: {what}").into()),
    }
}

pub async fn run(setup: &Setup, recipe: Recipe) -> Result<(), Error> {
    println!("== {}", name_of(recipe));
    let orders: &[u64] = match recipe {
        Recipe::Persist => {
            persist::run(&setup.client, &setup.address).await?;
            &[]
        }
        Recipe::Sizes => {
            sizes::run();
            &[]
        }
        Recipe::Basic => &[1_050, 0, 1],
        Recipe::RateLimit => &[40],
        Recipe::Retry => &[20],
        Recipe::Memory => &[setup.settings.memory_orders],
        Recipe::Perf => &[5_000],
        _ => &[1_000],
    };
    for orders in orders {
        let report = run_batch(&setup.client, recipe, *orders, setup.settings).await?;
        show(recipe, *orders, setup.settings.seed, &report)?;
        show_sink(recipe, *orders, &setup.sink, &report).await?;
    }
    println!("verified");
    Ok(())
}

/// Shows what the calls of a recipe looked like where they arrived.
async fn show_sink(recipe: Recipe, n: u64, sink: &Sink, report: &BatchReport) -> Result<(), Error> {
    let batch_run = &report.progress.batch_run;
    match recipe {
        Recipe::Retry => {
            let waits = sink.waits(batch_run, UNREACHABLE).await?;
            let shown: Vec<_> = waits
                .iter()
                .map(|wait| format!("~{:.1} s", wait.as_secs_f64()))
                .collect();
            println!(
                "calls of order {UNREACHABLE} at the sink: {}, {} apart",
                waits.len() + 1,
                shown.join(" and ")
            );
            // The clock of the sink has milliseconds.
            let grow = waits.len() == 2
                && waits[0] >= Duration::from_millis(998)
                && waits[1] >= Duration::from_millis(1_998);
            verify(grow, "three calls, with waits of 1 s and 2 s")
        }
        Recipe::RateLimit => {
            let (calls, orders) = sink.counts(batch_run).await?;
            let most = sink.most_in_a_second(batch_run).await?;
            println!(
                "at the sink: {calls} calls of {orders} orders, at most ~{most} in any second"
            );
            verify(
                (calls as u64, orders as u64) == (n, n),
                "one call for each order",
            )?;
            // Each of the two pages may make five calls in a second and one that it has earned before, and have another one
            // on its way when the second begins.
            verify(most <= 14, "the rate at the sink")
        }
        _ => Ok(()),
    }
}

fn name_of(recipe: Recipe) -> String {
    use clap::ValueEnum as _;
    let value = recipe.to_possible_value();
    value.map_or_else(String::new, |value| value.get_name().to_owned())
}

async fn run_batch(
    client: &BatchClient,
    recipe: Recipe,
    orders: u64,
    settings: Settings,
) -> Result<BatchReport, Error> {
    let id = format!("page-pipeline-{}-{orders}", name_of(recipe));
    let work = Work {
        recipe,
        orders,
        seed: settings.seed,
    };
    let batch = Batch::of::<ShopPages>(id, work)
        .task_queue(QUEUE)
        .page_size(100)
        .rerun(true);
    let batch = match recipe {
        Recipe::Parallel => batch.stride(1).max_parallelism(AT_ONCE as u32),
        Recipe::Progress => batch
            .stride(1)
            .max_parallelism(1)
            .page_pause(Duration::from_millis(400)),
        Recipe::RateLimit => batch.page_size(5).max_parallelism(2).rate(10.0),
        Recipe::Retry => batch.page_size(5),
        Recipe::Memory => batch.page_size(1_000),
        _ => batch,
    };
    let handle = client.start(&batch).await?;
    if recipe == Recipe::Progress {
        follow(&handle).await?;
    }
    Ok(handle.result().await?)
}

/// Prints the progress whenever it has changed.
async fn follow(handle: &BatchHandle) -> Result<(), Error> {
    let mut seen = 0;
    while handle.state().await?.is_open() {
        if let Ok(progress) = handle.progress().await
            && progress.items.processed > seen
            && let Some(total) = progress.items_expected
        {
            seen = progress.items.processed;
            let percent = progress.percent().unwrap_or_default();
            println!("Processed {seen}/{total} items ({percent:.0}%)");
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

fn show(recipe: Recipe, n: u64, seed: u64, report: &BatchReport) -> Result<(), Error> {
    let counters: Counters = report.output_as()?.unwrap_or_default();
    let counter = |name: &str| counters.get(name).copied().unwrap_or(0);
    let progress = &report.progress;
    let items = progress.items;
    let pages = counter("pages");
    let completed = report.outcome == Outcome::Completed;
    match recipe {
        Recipe::Basic => {
            let last = if n == 0 { 0 } else { (n - 1) % 100 + 1 };
            println!("orders {n}, pages {pages}, orders in the last page {last}");
            verify(
                completed && pages as u64 == n.div_ceil(100),
                "the number of pages",
            )?;
            verify(counter("cents") == cents(n, seed), "each order once")
        }
        Recipe::Progress => {
            let percent = progress.percent().unwrap_or_default();
            println!(
                "Processed {}/{n} items ({percent:.0}%), at the end",
                items.processed
            );
            verify(completed && items.processed == n, "all orders")
        }
        Recipe::Errors => {
            for page in &progress.failed {
                println!("page failed: {}: {}", page.error_type, page.message);
            }
            println!(
                "{} pages succeeded, {} failed",
                progress.pages_completed, progress.pages_failed
            );
            println!("{} orders processed", items.processed);
            verify(
                progress.pages_failed == 1 && items.processed == n - 100,
                "the other pages",
            )?;
            verify(
                progress.failed[0].message.contains(&INVALID.to_string()),
                "the error",
            )
        }
        Recipe::Parallel => {
            println!("in flight max {}", progress.max_parallelism_achieved);
            verify(
                completed && progress.max_parallelism_achieved == AT_ONCE as u32,
                "five pages",
            )
        }
        Recipe::Conditional => {
            let (yes, no) = (counter("has large ids: yes"), counter("has large ids: no"));
            for (reason, skipped) in &progress.skip_reasons {
                println!(
                    "branch: processed {yes} pages, skipped {no} ({reason}: {skipped} orders)"
                );
            }
            verify(completed && (yes, no) == (6, 4), "one side for each page")?;
            verify(
                (items.processed, items.skipped) == (600, 400),
                "skipped and processed apart",
            )
        }
        Recipe::State => {
            println!(
                "counters: orders {}, cents {}",
                counter("orders"),
                counter("cents")
            );
            println!("every page was tried twice: {} retries", progress.retries);
            verify(
                counter("orders") as u64 == n && counter("cents") == cents(n, seed),
                "each page once",
            )?;
            verify(progress.retries >= 10, "the retries")
        }
        Recipe::Foreach => {
            println!(
                "validate -> invoice -> notify: {} orders, {} notified",
                items.processed,
                counter("notified")
            );
            verify(
                completed && counter("notified") as u64 == n,
                "each order notified",
            )?;
            verify(counter("cents") == cents(n, seed), "each order invoiced")
        }
        Recipe::ForeachErrors => {
            let failure = progress.failed_items.first();
            let message = failure.map_or("", |failed| failed.message.as_str());
            println!(
                "{} orders processed, {} failed: {message}",
                items.processed, items.failed
            );
            verify(
                (items.processed, items.failed) == (n - n / 50, n / 50),
                "the failed orders",
            )?;
            verify(
                counter("notified") as u64 == items.processed,
                "nothing after a failed step",
            )
        }
        Recipe::ForeachConditional => {
            println!("processed and confirmed {}", items.processed);
            for (reason, skipped) in &progress.skip_reasons {
                println!("skipped {skipped} ({reason})");
            }
            let expected = shipped(n, seed);
            verify(completed && items.skipped == expected, "the skipped orders")?;
            verify(
                counter("notified") as u64 == n - expected,
                "the confirmed orders",
            )
        }
        Recipe::Retry => {
            for failed in &progress.failed_items {
                println!(
                    "recorded as failed, with the fallback value: {}: {}",
                    failed.error_type, failed.message
                );
            }
            println!(
                "{} orders reached the end, {} of them with the fallback value",
                counter("orders"),
                counter("call: fallback")
            );
            verify(
                items.failed == 1 && counter("orders") as u64 == n,
                "one fallback",
            )?;
            verify(
                progress.failed_items[0].key == UNREACHABLE.to_string(),
                "the order that cannot be reached",
            )?;
            Ok(())
        }
        Recipe::RateLimit => {
            let rate = items.processed as f64 / report.duration().as_secs_f64();
            println!("rate: ~{rate:.1} items/s (limit 10)");
            verify(completed && items.processed == n, "all orders")
        }
        Recipe::Memory => {
            match peak_memory() {
                Some(mib) => println!("peak RSS ~{mib} MiB for {n} items"),
                None => println!("peak RSS ~0 MiB for {n} items; it is known on Linux only"),
            }
            verify(
                completed && counter("cents") == cents(n, seed),
                "each order once",
            )?;
            verify(peak_memory().is_none_or(|mib| mib < 512), "the memory")
        }
        Recipe::Perf => {
            let rate = items.processed as f64 / report.duration().as_secs_f64();
            let (p50, p95) = (percentile(&counters, 0.5), percentile(&counters, 0.95));
            println!("p50 up to ~{p50} ms, p95 up to ~{p95} ms, ~{rate:.0} items/s");
            println!("Batch processed in ~{} ms", report.duration().as_millis());
            verify(completed && counter("orders") as u64 == n, "all orders")
        }
        Recipe::Persist | Recipe::Sizes => Ok(()),
    }
}

/// The bound of the bucket that this share of the pages does not exceed.
fn percentile(counters: &Counters, share: f64) -> u64 {
    let pages = counters.get("pages").copied().unwrap_or(0) as f64;
    let mut below = 0;
    for bound in BUCKETS {
        below += counters
            .get(&format!("up to {bound} ms"))
            .copied()
            .unwrap_or(0);
        if below as f64 >= pages * share {
            return bound;
        }
    }
    1_000
}

/// The most memory that this process had, in MiB.
fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib / 1_024)
}

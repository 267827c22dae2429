//! Partitions of very different sizes: how close the batch comes to the ideal time; see the README.
mod tenants;

use clap::Parser;
use temporal_batch::{Batch, BatchClient, ConnectOptions, Worker, dev_server::DevServerOptions};
use tenants::{SendMails, Tenants};

type Error = Box<dyn std::error::Error>;

/// Sends mails of tenants of very different sizes, each tenant in a partition.
#[derive(Parser)]
struct Settings {
    /// Number of tenants; the second has half as many mails as the first, the third a third
    #[arg(long, default_value_t = 16)]
    partitions: u32,
    /// Pages in flight, over all tenants
    #[arg(long, default_value_t = 8)]
    parallelism: u32,
    /// Number of pages of all tenants
    #[arg(long, default_value_t = 4_000)]
    pages: u64,
    /// Duration of a page, in milliseconds
    #[arg(long, default_value_t = 50)]
    page_ms: u64,
    /// Pages that one activity runs in a row [default: found while the batch runs]
    #[arg(long)]
    stride: Option<u32>,
    /// Use a source that cannot skip ahead, so that one tenant alone has at most one page in flight
    #[arg(long)]
    opaque: bool,
    /// Do not report the sizes of tenants in advance
    #[arg(long)]
    sizes_unknown: bool,
    /// Print one line of JSON
    #[arg(long)]
    json: bool,
}

const PAGE_SIZE: u32 = 10;

#[tokio::main]
async fn main() -> Result<(), Error> {
    let settings = Settings::parse();
    let server = DevServerOptions::new().start().await?;
    let connection = ConnectOptions::new().address(server.address());
    let client = BatchClient::connect(&connection).await?;
    let worker = Worker::new(&client, "partitions")
        .processor(SendMails)
        .start()?;
    let sizes = Tenants::zipf(settings.pages * u64::from(PAGE_SIZE), settings.partitions);
    let pages: u64 = sizes
        .iter()
        .map(|mails| mails.div_ceil(u64::from(PAGE_SIZE)))
        .sum();
    let args = Tenants {
        sizes,
        page_ms: settings.page_ms,
        opaque: settings.opaque,
        sizes_known: !settings.sizes_unknown,
    };
    let mut batch = Batch::of::<SendMails>("mails", args)
        .task_queue("partitions")
        .page_size(PAGE_SIZE)
        .max_parallelism(settings.parallelism);
    if let Some(stride) = settings.stride {
        batch = batch.stride(stride);
    }
    let report = client.start(&batch).await?.result().await?;
    let took = report.duration().as_secs_f64();
    let ideal = pages as f64 * settings.page_ms as f64 / 1_000.0 / f64::from(settings.parallelism);
    let partitions = report.progress.partition_counts.unwrap_or_default().total;
    if settings.json {
        let line = serde_json::json!({
            "outcome": report.outcome, "pages": report.progress.pages_completed, "partitions": partitions,
            "parallelism": settings.parallelism, "page_ms": settings.page_ms, "opaque": settings.opaque,
            "seconds": took, "ideal_seconds": ideal, "ratio": took / ideal,
        });
        println!("{line}");
    } else {
        println!(
            "{}: {} pages of {partitions} partitions",
            report.outcome, report.progress.pages_completed
        );
        println!(
            "{took:.1} s, ideal {ideal:.1} s: {:.2} times the ideal",
            took / ideal
        );
    }
    worker.stop().await?;
    server.stop().await?;
    Ok(())
}

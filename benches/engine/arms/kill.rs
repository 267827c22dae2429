//! `kill -9` of the only worker, which is started again at once.

use std::{path::Path, time::Duration};

use crate::{
    Error,
    arm_server::{ArmServer, unique, within},
    options::Options,
    pages::PagesArgs,
    report::{Table, Target},
    stamps,
    worker_process::{Work, WorkerProcess},
};

const HEARTBEAT_TIMEOUT: Duration = Duration::from_secs(5);
const PARALLELISM: u32 = 4;
const MILLIS: u64 = 200;
const RECOVERS_WITHIN: Duration = Duration::from_secs(120);

pub async fn run(server: &ArmServer, options: &Options, table: &mut Table) -> Result<(), Error> {
    let dir = tempfile::tempdir()?;
    let kills = options.size(1, 2 * options.pairs);
    for stride in [1, 25] {
        let file = dir.path().join(format!("stride-{stride}"));
        let mut worker = WorkerProcess::start(
            server,
            Work::Pages {
                heartbeat_timeout: Some(HEARTBEAT_TIMEOUT),
                settings: Vec::new(),
            },
        )?;
        let args = PagesArgs {
            millis: MILLIS,
            stamps: Some(file.clone()),
            // More pages than there is time for; the batch ends with its server.
            ..PagesArgs::no_op(100_000)
        };
        let batch = args.batch(unique("kill"), worker.queue());
        let batch = batch.max_parallelism(PARALLELISM).stride(stride);
        server.client().start(&batch).await?;
        let case = format!("stride {stride}");
        let (mut measured, mut tries) = (0, 0);
        while measured < kills {
            tries += 1;
            if tries > kills * 5 {
                return Err(format!("{tries} kills, and {measured} of them in a page").into());
            }
            measured += u32::from(one(table, &case, &mut worker, &file).await?);
        }
        drop(worker);
    }
    Ok(())
}

/// Kills the worker once. Returns whether a page was interrupted; between two pages there is nothing to recover.
async fn one(
    table: &mut Table,
    case: &str,
    worker: &mut WorkerProcess,
    file: &Path,
) -> Result<bool, Error> {
    let interrupted = within(RECOVERS_WITHIN, "pages run", async {
        loop {
            let stamps = stamps::read(file)?;
            if !stamps::open_at(&stamps, stamps::now()).is_empty() {
                // The kill comes at a random moment of a page, and of the heartbeats.
                let wait = Duration::from_millis(fastrand::u64(1_500..4_000));
                tokio::time::sleep(wait).await;
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    interrupted.await?;
    worker.kill_and_restart().await?;
    let killed = stamps::now();
    // The pages that the killed process had begun and will never end.
    let open = stamps::open_at(&stamps::read(file)?, killed);
    if open.is_empty() {
        return Ok(false);
    }
    let again = within(RECOVERS_WITHIN, "interrupted pages run again", async {
        loop {
            let stamps = stamps::read(file)?;
            let after = stamps.iter().filter(|s| s.begins && s.at > killed);
            let first = after.clone().map(|stamp| stamp.at).min();
            let begin = |page: &u64| after.clone().find(|s| s.page == *page).map(|s| s.at);
            let begins: Option<Vec<_>> = open.iter().map(begin).collect();
            if let (Some(first), Some(begins)) = (first, begins) {
                return Ok((first, begins.into_iter().max().unwrap_or(first)));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    let (first, last) = again.await?;
    let (first, last) = (
        (first - killed).as_secs_f64(),
        (last - killed).as_secs_f64(),
    );
    let beyond = "interrupted pages again, beyond the heartbeat timeout";
    table.add(case, "interrupted pages", "", open.len() as f64);
    table.add(case, "first page after the kill", "s", first);
    table.add(case, "interrupted pages again", "s", last);
    table.add(case, beyond, "s", last - HEARTBEAT_TIMEOUT.as_secs_f64());
    table.aim(case, beyond, Target::AtMost(2.0));
    Ok(true)
}

//! `backfill --dry-run`: tries a few pages of a backfill and rolls them back.

use clap::Args;

use crate::{
    cli::{
        exit::{CliError, CliResult, Exit},
        output,
    },
    sql::{BackfillArgs, Database, DryRun},
};

#[derive(Args, Debug)]
pub(crate) struct DryRunArgs {
    /// Try some pages, roll them back, and show what would happen; needs no Temporal server
    #[arg(long, conflicts_with_all = ["detach", "create_ledger_tables", "rerun", "continues"])]
    dry_run: bool,

    /// Pages that --dry-run tries, spread over the table
    #[arg(
        long,
        default_value = "20",
        value_name = "PAGES",
        requires = "dry_run",
        value_parser = clap::value_parser!(u32).range(1..)
    )]
    dry_run_pages: u32,

    /// Rows that --dry-run shows before and after
    #[arg(long, default_value = "5", value_name = "ROWS", requires = "dry_run")]
    dry_run_rows: usize,
}

impl DryRunArgs {
    pub(crate) fn is_wanted(&self) -> bool {
        self.dry_run
    }

    /// Tries the pages. Ctrl-C ends the dry run together with the page that is being tried.
    pub(crate) async fn run(
        &self,
        database: &Database,
        args: BackfillArgs,
        (page_size, parallelism): (u32, u32),
        json: bool,
    ) -> CliResult {
        let dry_run = DryRun::of(args)
            .page_size(page_size)
            .pages(self.dry_run_pages)
            .rows_shown(self.dry_run_rows)
            .parallelism(parallelism);
        let report = tokio::select! {
            report = dry_run.run(database) => report.map_err(|error| CliError::refused(&error))?,
            _ = tokio::signal::ctrl_c() => return Ok(Exit::Interrupted),
        };
        match json {
            true => output::json(&report),
            false => output::result(report.to_string().trim_end()),
        };
        Ok(match report.succeeded() {
            true => Exit::Done,
            false => Exit::Error,
        })
    }
}

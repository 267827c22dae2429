//! The README of each sample, from its first command to its last.

use std::time::Instant;

use crate::{
    document::{Step, missing, steps},
    terminal::{LIMIT, Running, Terminals},
};

/// Commands of a document that do not end with 0, by a part of each, and their exit status.
type Statuses<'a> = &'a [(&'a str, i32)];

/// Types every command of a document. A command that keeps running gets a terminal of its own.
pub fn walk(terminals: &mut Terminals, steps: Vec<Step>, statuses: Statuses<'_>) {
    let mut staying: Vec<(Running, Step)> = Vec::new();
    for step in steps {
        let line = step.command.clone();
        if line.contains("cargo test") {
            // The tests of a sample are run with those of the repository.
            continue;
        }
        if line.ends_with("dev-server") {
            let server = terminals.dev_server(&line);
            staying.push((server, step));
        } else if line.ends_with(" worker") {
            // There is one worker at a time: the next one replaces it.
            if let Some(at) = staying
                .iter()
                .position(|(_, step)| step.command.ends_with(" worker"))
            {
                let (worker, _) = staying.remove(at);
                worker.interrupt();
                worker.ended().exits(0);
            }
            let mut worker = terminals.begin(&line);
            worker.says("task queue");
            staying.push((worker, step));
        } else if line.ends_with("--approve") {
            let mut command = terminals.begin(&line);
            command.until(
                |said| missing(said, &step.shown).is_none().then_some(()),
                "the output that the document shows",
            );
            staying.push((command, step));
        } else {
            if line.contains("ensure-complete")
                && let Some(at) = staying
                    .iter()
                    .position(|(_, step)| step.command.ends_with("--approve"))
            {
                // The command waits for the batch, and later steps may come before its end.
                staying.remove(at).0.ended().exits(0);
            }
            let status = statuses.iter().find(|(part, _)| line.contains(part));
            let status = status.map_or(0, |(_, status)| *status);
            let deadline = Instant::now() + LIMIT;
            loop {
                let ended = terminals.run(&line).exits(status);
                let Some(missing) = missing(&ended.said, &step.shown) else {
                    break;
                };
                // The output may appear a moment later, so the command is repeated.
                assert!(
                    line.contains(" status ") && Instant::now() < deadline,
                    "`{line}` does not show {missing:?}: {}",
                    ended.said
                );
            }
        }
    }
    // Commands that wait for others have ended by themselves. Workers are stopped before their server.
    while let Some((running, step)) = staying.pop() {
        if !step.command.ends_with("--approve") {
            running.interrupt();
        }
        running.ended().exits(0);
    }
}

fn walk_sample(name: &str, statuses: Statuses<'_>) {
    let steps = steps(&format!("samples/{name}/README.md"));
    walk(&mut Terminals::open(), steps, statuses);
}

#[test]
fn a_backfill_of_a_new_column() {
    walk_sample("backfill", &[("verify email-keys", 3)]);
}

#[test]
fn e_mail_addresses_are_repaired_and_redriven() {
    walk_sample("fix_emails", &[("-- start fix-emails", 3)]);
}

#[test]
fn prices_are_raised() {
    walk_sample("inflate_prices", &[]);
}

#[test]
fn orders_are_summed_up() {
    walk_sample("invoice_orders", &[]);
}

#[test]
fn users_of_a_file_are_enriched() {
    let mut steps = steps("samples/csv_enrichment/README.md");
    // The commands by hand need an API that runs beside them.
    steps.truncate(1);
    walk(&mut Terminals::open(), steps, &[]);
}

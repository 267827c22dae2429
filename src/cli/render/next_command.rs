//! The command that helps with what holds a batch.
//!
//! Pure. The command works as printed, in the environment of the command that prints it.

use crate::{
    batch::Batch,
    cli::shell::{DEFAULT_CONNECTION, Program},
    engine::client::Observation,
    progress::{
        Progress,
        parts::StageState,
        phase::{HeldBy, Phase},
    },
};

/// The processors of this crate that work on a database.
const SQL_PROCESSORS: [&str; 3] = ["sql-backfill", SQL_IMPORT, "sql-export"];
const SQL_IMPORT: &str = "sql-import";
/// The error type of pages whose file is not the one that the batch began with. No attempt succeeds until that file is
/// put back.
const FILE_CHANGED: &str = "FileChanged";

/// Returns the command that helps after a look, if there is one.
pub(crate) fn after(seen: &Observation, program: &Program) -> Option<String> {
    let workers = seen.workers.as_ref();
    match (&seen.progress, &seen.processor) {
        (Some(p), _) => step(p, workers.map(|w| w.task_queue.as_str()), program),
        // No worker has ever taken the batch.
        (None, Some(processor)) => {
            let absent = workers.filter(|workers| !workers.any())?;
            Some(worker(processor, &absent.task_queue, program))
        }
        (None, None) => None,
    }
}

fn worker(processor: &str, task_queue: &str, program: &Program) -> String {
    let sql = SQL_PROCESSORS.contains(&processor);
    program.worker(task_queue, sql.then_some(DEFAULT_CONNECTION))
}

/// Returns the command that helps with the progress, if there is one. `task_queue` is the task queue of the batch, if
/// known.
fn step(p: &Progress, task_queue: Option<&str>, program: &Program) -> Option<String> {
    let id = &p.batch_id;
    let of_batch = |command: &str| Some(program.of_batch(command, id));
    let set = |settings: String| Some(format!("{} {settings}", program.of_batch("set", id)));
    let waits = p.phase == Phase::Blocked || p.held_by == Some(HeldBy::Preparing);
    if waits && file_has_changed(p) {
        return of_batch("cancel");
    }
    if p.phase == Phase::Blocked {
        return of_batch("failures");
    }
    match p.held_by? {
        // Another program may have the processor.
        HeldBy::NoWorker if p.lacks_processor => None,
        HeldBy::Workers if p.fitting_parallelism.is_some() => {
            set(format!("--max-parallelism {}", p.fitting_parallelism?))
        }
        HeldBy::NoWorker | HeldBy::Workers => Some(worker(&p.processor, task_queue?, program)),
        HeldBy::Lock => Some(program.of_batch("watch", p.lock_held_by.as_ref()?)),
        HeldBy::Stage => {
            let state = p.stage.as_ref()?.state;
            let waits = matches!(state, StageState::WaitingForApproval | StageState::Failed);
            waits.then(|| of_batch("approve")).flatten()
        }
        HeldBy::Pause => of_batch("resume"),
        HeldBy::Window => set("--window none".to_owned()),
        HeldBy::Parallelism if p.max_parallelism == 0 => {
            let before = p.max_parallelism_achieved.max(1);
            set(format!("--max-parallelism {before}"))
        }
        HeldBy::Rate => set(format!("--page-size {}", p.fitting_page_size?)),
        HeldBy::Retries => of_batch("failures"),
        _ => None,
    }
}

/// Returns whether pages fail, or the batch cannot be prepared, because its file has changed. Only the text tells the
/// latter.
fn file_has_changed(p: &Progress) -> bool {
    p.failing.iter().any(|f| f.error_type == FILE_CHANGED)
        || p.explanation.contains(&format!("{FILE_CHANGED}: "))
}

/// Returns advice for a batch that no worker polls for.
pub(crate) fn no_worker(batch: &Batch, program: &Program) -> String {
    let queue = &batch.task_queue;
    let worker = program.worker(queue, of_sql(batch));
    format!("no worker answers on task queue \"{queue}\"; start one with `{worker}`")
}

/// Returns the next step if dead letters are open.
pub(crate) fn redrive_hint(batch_id: &str, processor: Option<&str>, program: &Program) -> String {
    let redrive = program.of_batch("redrive", batch_id);
    let hint = format!("`{redrive}` tries the dead letters again");
    match processor {
        Some(SQL_IMPORT) => format!(
            "{hint}, with their records from the file; a record whose corrected copy was imported would be inserted twice"
        ),
        _ => hint,
    }
}

/// Returns the connection of a batch that brings its own SQL.
fn of_sql(batch: &Batch) -> Option<&str> {
    let name = batch.spec.processor.as_str();
    if !SQL_PROCESSORS.contains(&name) {
        return None;
    }
    let args = &batch.spec.args;
    // The arguments of a redrive contain the arguments of the batch.
    let args = match batch.spec.redrive_of {
        Some(_) => args.get("args")?,
        None => args,
    };
    let connection = args.get("connection").and_then(|name| name.as_str());
    Some(connection.unwrap_or(DEFAULT_CONNECTION))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        base::time::Timestamp,
        cli::{render::sentences::tests::progress, shell::tests::program},
        progress::failures::{FailureState, PageFailure},
    };

    fn held(by: HeldBy, change: impl FnOnce(&mut Progress)) -> Option<String> {
        let mut p = progress();
        p.held_by = Some(by);
        change(&mut p);
        step(&p, Some("q"), &program("shop"))
    }

    fn failing(error_type: &str) -> PageFailure {
        PageFailure {
            stride: 0,
            start: None,
            end: None,
            error_type: error_type.to_owned(),
            message: String::new(),
            attempts: 0,
            first_at: Timestamp(0),
            last_at: Timestamp(0),
            gives_up_at: None,
            state: FailureState::Blocked,
        }
    }

    #[test]
    fn what_holds_a_batch_has_its_command() {
        let id = progress().batch_id;
        let of = |text: &str| Some(text.replace("ID", &id));
        assert_eq!(held(HeldBy::Pause, |_| {}), of("shop resume ID"));
        assert_eq!(held(HeldBy::Retries, |_| {}), of("shop failures ID"));
        assert_eq!(
            held(HeldBy::Window, |_| {}),
            of("shop set ID --window none")
        );
        assert_eq!(
            held(HeldBy::NoWorker, |_| {}),
            of("shop worker --task-queue q")
        );
        let sql = held(HeldBy::NoWorker, |p| {
            p.processor = "sql-backfill".to_owned();
        });
        assert_eq!(sql, of("shop worker --task-queue q --allow-sql"));
        let lock = held(HeldBy::Lock, |p| p.lock_held_by = Some("other".to_owned()));
        assert_eq!(lock, of("shop watch other"));
        let none = held(HeldBy::Parallelism, |p| p.max_parallelism = 0);
        assert_eq!(none, of("shop set ID --max-parallelism 16"));
        let lacks = held(HeldBy::NoWorker, |p| p.lacks_processor = true);
        assert_eq!(lacks, None);
        let large = held(HeldBy::Rate, |p| p.fitting_page_size = Some(20));
        assert_eq!(large, of("shop set ID --page-size 20"));
        let slots = held(HeldBy::Workers, |p| {
            p.fitting_parallelism = Some(3);
        });
        assert_eq!(slots, of("shop set ID --max-parallelism 3"));
        let blocked = held(HeldBy::Pages, |p| p.phase = Phase::Blocked);
        assert_eq!(blocked, of("shop failures ID"));
        let changed = held(HeldBy::Pages, |p| {
            p.phase = Phase::Blocked;
            p.failing = vec![failing("FileChanged")];
        });
        assert_eq!(changed, of("shop cancel ID"));
        let changed = held(HeldBy::Preparing, |p| {
            p.explanation = "waiting; tried again after FileChanged: a.csv".to_owned();
        });
        assert_eq!(changed, of("shop cancel ID"));
    }

    #[cfg(all(
        feature = "files",
        any(feature = "sqlite", feature = "postgres", feature = "mysql")
    ))]
    #[test]
    fn the_processors_of_this_crate_are_listed() {
        use crate::{
            processor::PageProcessor as _,
            sql::{SqlBackfill, SqlExport, SqlImport},
        };
        let names = [SqlBackfill::NAME, SqlImport::NAME, SqlExport::NAME];
        assert_eq!(SQL_PROCESSORS, names);
    }

    #[test]
    fn what_is_as_it_was_asked_for_needs_no_command() {
        for by in [
            HeldBy::Parallelism,
            HeldBy::Rate,
            HeldBy::Ramp,
            HeldBy::Discovery,
        ] {
            assert_eq!(held(by, |_| {}), None, "{by:?}");
        }
    }
}

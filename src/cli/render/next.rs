//! The command that helps with what holds a batch.
//!
//! Pure. It works as it is printed, in the environment of the command that prints it.

use crate::{
    cli::shell::{DEFAULT_CONNECTION, Program},
    engine::client::Observation,
    progress::{
        Progress,
        parts::StageState,
        phase::{HeldBy, Phase},
    },
};

/// The processors of this program that work on a database.
pub(crate) const SQL_PROCESSORS: [&str; 3] = ["sql-backfill", "sql-import", "sql-export"];

/// The command to run after a look, where one helps.
pub(crate) fn after(seen: &Observation, program: &Program) -> Option<String> {
    let workers = seen.workers.as_ref();
    match (&seen.progress, &seen.processor) {
        (Some(p), _) => step(p, workers.map(|w| w.task_queue.as_str()), program),
        // No worker has ever begun with it.
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

/// The command to run next, where one helps. `task_queue` is that of the batch, where it is known.
fn step(p: &Progress, task_queue: Option<&str>, program: &Program) -> Option<String> {
    let id = &p.batch_id;
    let of_batch = |command: &str| Some(program.of_batch(command, id));
    let set = |settings: String| Some(format!("{} {settings}", program.of_batch("set", id)));
    if p.phase == Phase::Blocked {
        return of_batch("failures");
    }
    match p.held_by? {
        // Perhaps another program has it.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{render::sentences::tests::progress, shell::tests::program};

    fn held(by: HeldBy, change: impl FnOnce(&mut Progress)) -> Option<String> {
        let mut p = progress();
        p.held_by = Some(by);
        change(&mut p);
        step(&p, Some("q"), &program("shop"))
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

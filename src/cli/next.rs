//! The command that helps with what holds a batch.
//!
//! Pure. It works as it is printed, in the environment of the command that prints it.

use super::shell::{DEFAULT_CONNECTION, worker};
use crate::progress::{HeldBy, Phase, Progress, StageState};

/// The processors of this program that work on a database.
pub(super) const SQL_PROCESSORS: [&str; 3] = ["sql-backfill", "sql-import", "sql-export"];

/// The command to run next, where one helps. `task_queue` is that of the batch, where it is known.
pub(crate) fn step(p: &Progress, task_queue: Option<&str>, program: &str) -> Option<String> {
    let id = &p.batch_id;
    let of_batch = |command: &str| Some(format!("{program} {command} {id}"));
    let set = |settings: String| Some(format!("{program} set {id} {settings}"));
    if p.phase == Phase::Blocked {
        return of_batch("failures");
    }
    match p.held_by? {
        // Perhaps another program has it.
        HeldBy::NoWorker if p.explanation.starts_with("no worker with processor") => None,
        HeldBy::NoWorker | HeldBy::Workers => {
            if let Some(fewer) = proposed(p, "--max-parallelism") {
                return set(fewer);
            }
            let sql = SQL_PROCESSORS.contains(&p.processor.as_str());
            let connection = sql.then_some(DEFAULT_CONNECTION);
            Some(worker(program, task_queue?, connection))
        }
        HeldBy::Lock => Some(format!("{program} watch {}", p.lock_held_by.as_ref()?)),
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
        HeldBy::Rate => set(proposed(p, "--page-size")?),
        HeldBy::Retries => of_batch("failures"),
        _ => None,
    }
}

/// The flag, with its value, that the sentence proposes.
fn proposed(p: &Progress, flag: &str) -> Option<String> {
    let (_, value) = p.explanation.split_once(&format!("{flag} "))?;
    let value = value.split(' ').next()?;
    Some(format!("{flag} {value}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::facts::tests::progress;

    fn held(by: HeldBy, change: impl FnOnce(&mut Progress)) -> Option<String> {
        let mut p = progress();
        p.held_by = Some(by);
        change(&mut p);
        step(&p, Some("q"), "shop")
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
        let large = held(HeldBy::Rate, |p| {
            p.explanation = "rate limit 2 items/s: .. --page-size 20 makes it 1s".to_owned();
        });
        assert_eq!(large, of("shop set ID --page-size 20"));
        let slots = held(HeldBy::Workers, |p| {
            p.explanation = "7 of 10 pages wait; --max-parallelism 3 leaves it to those".to_owned();
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

//! Warnings about the limits of a batch that already runs: limits that differ from the flags, and more pages than the
//! worker of the command can take.
//!
//! A running batch keeps its limits, so the flags of a repeated command may differ from them.

use crate::{
    cli::{
        args::pacing::PacingArgs,
        output::{count, note},
        shell::Program,
    },
    engine::client::BatchHandle,
    progress::{Progress, phase::Phase},
};

/// Prints one line for each difference. `slots` is the number of pages that the worker of the command takes at once, if
/// it has a worker.
pub(crate) async fn tell(
    handle: &BatchHandle,
    given: &PacingArgs,
    slots: Option<u32>,
    program: &Program,
) {
    let Ok(progress) = handle.progress().await else {
        return;
    };
    for line in lines(&progress, given, slots, program) {
        note(format_args!("warning: {line}"));
    }
}

fn lines(p: &Progress, given: &PacingArgs, slots: Option<u32>, program: &Program) -> Vec<String> {
    if p.phase == Phase::Ended {
        return Vec::new();
    }
    let differs = differs(p, given, program);
    let slots = slots.and_then(|slots| too_few(p, slots, program));
    differs.into_iter().chain(slots).collect()
}

fn differs(p: &Progress, given: &PacingArgs, program: &Program) -> Option<String> {
    let flags = given.not_in_force(p);
    let id = &p.batch_id;
    (!flags.is_empty()).then(|| {
        let flags = flags.join(" ");
        let set = program.of_batch("set", id);
        format!(
            "batch \"{id}\" continues with the limits that it has, without {flags}; `{set} {flags}` applies that"
        )
    })
}

fn too_few(p: &Progress, slots: u32, program: &Program) -> Option<String> {
    let (id, most) = (&p.batch_id, p.max_parallelism);
    let others = most.checked_sub(slots).filter(|others| *others > 0)?;
    let hold = match p.rate.or(p.page_rate) {
        Some(_) => " and hold part of the rate meanwhile",
        None => "",
    };
    let set = program.of_batch("set", id);
    let (wait, them) = match others {
        1 => ("waits", "it"),
        _ => ("wait", "them"),
    };
    Some(format!(
        "this command works on {slots} of the {} at once that batch \"{id}\" may have in flight; the other {others} \
         {wait} for other workers{hold}; `{set} --max-parallelism {slots}` leaves {them} out",
        count(u64::from(most), "page")
    ))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{render::sentences::tests::progress, shell::tests::program};

    #[derive(Parser)]
    struct Flags {
        #[command(flatten)]
        pacing: PacingArgs,
    }

    fn given(flags: &str) -> PacingArgs {
        let words = std::iter::once("shop").chain(flags.split_whitespace());
        Flags::try_parse_from(words).unwrap().pacing
    }

    fn in_force() -> Progress {
        Progress {
            rate: Some(500.0),
            page_rate: Some(2.0),
            max_parallelism: 8,
            page_size: 100,
            stride: 4,
            page_pause: Some(std::time::Duration::from_millis(50)),
            windows: vec!["Mon-Fri 22:00-06:00 Europe/Berlin".to_owned()],
            ..progress()
        }
    }

    fn told(p: &Progress, flags: &str) -> Vec<String> {
        lines(p, &given(flags), None, &program("shop"))
    }

    #[test]
    fn flags_that_are_in_force_already_need_no_word() {
        let same = "--rate 500 --page-rate 2 --max-parallelism 8 --page-size 100 --stride 4 --page-pause 50ms";
        assert_eq!(told(&in_force(), same), [""; 0]);
        assert_eq!(told(&in_force(), ""), [""; 0]);
        let tuned = Progress {
            auto_parallelism: Some("2..16".to_owned()),
            auto_page_size: Some("100..5000 at 500ms".to_owned()),
            auto_stride: Some("10s".to_owned()),
            windows: Vec::new(),
            rate: None,
            page_rate: None,
            page_pause: None,
            ..in_force()
        };
        let same = "--max-parallelism auto:2..16 --page-size auto:100..5000@500ms --stride auto@10s --rate none \
                    --page-rate none --page-pause none --window none";
        assert_eq!(told(&tuned, same), [""; 0]);
        let ramp = Progress {
            ramp: Some("1..8/10m".to_owned()),
            ..in_force()
        };
        assert_eq!(told(&ramp, "--ramp 1..8/10m"), [""; 0]);
        assert_eq!(told(&in_force(), "--ramp 1..8/10m"), [""; 0], "it is over");
    }

    #[test]
    fn flags_that_are_not_in_force_are_named_with_the_command_that_applies_them() {
        let id = progress().batch_id;
        for flags in [
            "--rate 501",
            "--rate none",
            "--page-rate 3",
            "--max-parallelism 9",
            "--max-parallelism auto:2..8",
            "--ramp 1..9/10m",
            "--page-size 101",
            "--page-size auto:100..5000@500ms",
            "--stride 5",
            "--stride auto@10s",
            "--page-pause none",
            "--window none",
            "--max-parallelism 9 --page-size 101 --rate 501",
        ] {
            let line = format!(
                "batch \"{id}\" continues with the limits that it has, without {flags}; `shop set {id} {flags}` applies that"
            );
            assert_eq!(told(&in_force(), flags), [line]);
            // The printed command accepts the flags.
            given(flags);
        }
        let tuned = Progress {
            auto_parallelism: Some("2..8".to_owned()),
            ..in_force()
        };
        assert_eq!(told(&tuned, "--max-parallelism 8").len(), 1, "it is tuned");
        let window = Flags::try_parse_from(["shop", "--window", "22:00-06:00 Asia/Tokyo"]).unwrap();
        let told = lines(&in_force(), &window.pacing, None, &program("shop"));
        let set = format!("`shop set {id} --window '22:00-06:00 Asia/Tokyo'`");
        assert!(told[0].contains(&set), "{told:?}");
        let ended = Progress {
            phase: Phase::Ended,
            ..in_force()
        };
        assert_eq!(
            lines(&ended, &given("--rate 1"), Some(1), &program("shop")),
            [""; 0]
        );
    }

    #[test]
    fn a_parallelism_that_the_worker_has_no_slots_for_is_told() {
        let told = |slots, p: &Progress| lines(p, &given(""), Some(slots), &program("shop"));
        assert_eq!(told(8, &in_force()), [""; 0]);
        let id = progress().batch_id;
        let line = format!(
            "this command works on 3 of the 8 pages at once that batch \"{id}\" may have in flight; the other 5 wait for \
             other workers and hold part of the rate meanwhile; `shop set {id} --max-parallelism 3` leaves them out"
        );
        assert_eq!(told(3, &in_force()), [line]);
        let unlimited = Progress {
            rate: None,
            page_rate: None,
            ..in_force()
        };
        let line = told(3, &unlimited).remove(0);
        assert!(!line.contains("rate"), "{line}");
    }
}

use std::time::Duration;

use proptest::prelude::*;
use ratatui::{Terminal, backend::TestBackend, crossterm::event};

use super::{
    draw::draw,
    model::{Model, Moment},
};
use crate::{
    cli::render::sentences::tests::{at, progress},
    page::token::PageToken,
    progress::{
        PauseNote, Progress, TimeLeft,
        audit::AuditEntry,
        failures::{FailureState, PageFailure},
        phase::{HeldBy, Phase},
    },
};

fn moment(seconds: u64) -> Moment {
    Moment {
        elapsed: Duration::from_secs(seconds),
        wall: at(60 + seconds),
    }
}

fn failure(n: u64) -> PageFailure {
    PageFailure {
        stride: n,
        start: Some(PageToken::encode(&n).unwrap()),
        end: None,
        error_type: "DatabaseBusy".to_owned(),
        message: "database is\nlocked".to_owned(),
        attempts: 3,
        first_at: at(30),
        last_at: at(59),
        gives_up_at: None,
        state: FailureState::Stuck,
    }
}

fn full() -> Progress {
    Progress {
        explanation: "rate limit 5,000 items/s".to_owned(),
        held_by: Some(HeldBy::Rate),
        rate: Some(5_000.0),
        page_size: 1_000,
        items_per_second: Some(4_980.0),
        time_left: Some(TimeLeft {
            at_least: 731.0,
            at_most: 1_075.0,
        }),
        in_flight_by_age: [3, 1, 0, 0],
        oldest_in_flight: Some(at(20)),
        retries: 4,
        failing: (1..=5).map(failure).collect(),
        audit: (0..20)
            .map(|n| AuditEntry {
                at: at(n),
                action: format!("act {n}"),
                who: Some("ann@db1".to_owned()),
                why: None,
            })
            .collect(),
        ..progress()
    }
}

/// Returns a batch that has been watched for some seconds.
fn watching(progress: &Progress) -> Model {
    let mut model = Model::new("prices-2026", true);
    for second in 0..=9 {
        let mut look = progress.clone();
        look.items.processed += second * 100;
        model.look(look, Duration::ZERO, moment(second));
    }
    model
}

fn screen(model: &Model, width: u16, height: u16) -> Vec<String> {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal
        .draw(|frame| draw(frame, model, moment(10)))
        .unwrap();
    let buffer = terminal.backend().buffer();
    let line = |y| {
        (0..width)
            .map(|x| buffer[(x, y)].symbol())
            .collect::<String>()
    };
    (0..height).map(line).collect()
}

fn assert_shows(screen: &[String], parts: &[&str]) {
    let text = screen.join("\n");
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in\n{text}");
    }
}

#[test]
fn a_large_screen_shows_everything() {
    let lines = screen(&watching(&full()), 100, 30);
    assert!(lines[0].starts_with(" running  prices-2026  inflate-prices  1m 10s  run 1"));
    assert!(lines[1].starts_with("rate limit 5,000 items/s"));
    assert!(lines[2].starts_with("25.4 %  50,900 of about 200,000 items ━"));
    assert!(lines[3].starts_with("now 100/s   last minute 4,980/s   between 12m and 18m left"));
    assert_shows(
        &lines,
        &[
            "items/s, last 9s, at most 100",
            "parallelism 12 of 32 in flight",
            "page size   1,000 items",
            "rate        5,000 items/s at most",
            "in flight   3 under 10s, 1 under 1m",
            "longest     50s",
            "failures    4 retries",
            "stuck   after 5 3     40s   DatabaseBusy",
            "DatabaseBusy: database is\\nlocked",
            "22:13:39  act 19  ann@db1",
        ],
    );
    assert!(lines[29].starts_with("p pause   + - parallelism"));
}

#[test]
fn a_middling_screen_shows_what_matters_most() {
    let lines = screen(&watching(&full()), 60, 15);
    assert!(lines[1].starts_with("rate limit 5,000 items/s"));
    assert_shows(
        &lines,
        &[
            "50,900 of about 200,000",
            "at most 100",
            "12 of 32 in flight",
            "after 1",
            "q leave",
        ],
    );
}

#[test]
fn a_tiny_screen_shows_state_reason_and_share() {
    let lines = screen(&watching(&full()), 20, 5);
    assert!(lines[0].starts_with(" running  prices"), "{lines:?}");
    assert!(lines[1].starts_with("rate limit 5,000"), "{lines:?}");
    assert!(lines[2].starts_with("25.4 %  50,900"), "{lines:?}");
    assert!(lines[3].starts_with("now 100/s"), "{lines:?}");
    assert!(lines[4].starts_with("p ? q"), "{lines:?}");
}

#[test]
fn a_long_reason_goes_on_in_the_next_line() {
    let mut p = full();
    p.explanation =
        "held: replica lag 3.2 s is more than 2 s, since 12 minutes, as shop-throttle says"
            .to_owned();
    assert_shows(&screen(&watching(&p), 60, 20), &["shop-throttle says"]);
}

#[test]
fn before_the_first_look_it_says_what_it_waits_for() {
    let lines = screen(&Model::new("b", false), 60, 15);
    assert_shows(&lines, &["waiting for a worker", "q leave"]);
}

#[test]
fn old_knowledge_is_shown_with_why_there_is_no_newer() {
    let mut model = watching(&full());
    model.trouble("no worker answers");
    let lines = screen(&model, 80, 24);
    assert!(lines[1].starts_with("no worker answers"), "{lines:?}");
    assert_shows(&lines, &["50,900 of about 200,000"]);
}

#[test]
fn a_pause_is_explained_and_its_key_resumes() {
    let p = Progress {
        phase: Phase::Paused,
        explanation: String::new(),
        pause_reason: Some("lunch".to_owned()),
        pause: Some(PauseNote {
            who: Some("ann@db1".to_owned()),
            why: Some("lunch".to_owned()),
            at: at(0),
            until: None,
        }),
        ..full()
    };
    let lines = screen(&watching(&p), 100, 30);
    assert_shows(&lines, &["paused: lunch", "by ann@db1", "p resume"]);
}

#[test]
fn what_is_asked_for_and_what_came_of_it_are_in_the_footer() {
    let mut model = watching(&full());
    let key = event::KeyEvent::from(event::KeyCode::Char('+'));
    model.press(key, moment(9));
    let request = model.next_request().unwrap();
    assert_shows(
        &screen(&model, 60, 15)[14..],
        &["setting max parallelism to 33 ..."],
    );
    model.answered(request, Err("no worker answered".to_owned()), moment(9));
    let told = ["max parallelism 33: no worker answered"];
    assert_shows(&screen(&model, 60, 15)[14..], &told);
}

#[test]
fn a_log_line_is_shown_without_its_colours() {
    let mut model = watching(&full());
    let line = "\u{1b}[33m WARN\u{1b}[0m \u{1b}[2mpool\u{1b}[0m: slow".to_owned();
    model.warn(Some(line), moment(9));
    assert!(screen(&model, 80, 24)[22].starts_with(" WARN pool: slow"));
}

#[test]
fn the_help_names_every_key() {
    let mut model = watching(&full());
    model.help = true;
    let lines = screen(&model, 80, 24);
    assert_shows(
        &lines,
        &["keys", "pause, or resume", "twice as many", "Ctrl-C"],
    );
}

proptest! {
    #[test]
    fn no_size_and_no_text_panics(
        width in 0_u16..130, height in 0_u16..50, help: bool, known: bool, text in ".{0,300}"
    ) {
        let mut p = full();
        p.explanation.clone_from(&text);
        p.processor.clone_from(&text);
        p.failing[0].message = text.clone();
        p.audit[19].action = text.clone();
        p.ramp = Some(text.clone());
        let mut model = if known { watching(&p) } else { Model::new(&text, false) };
        model.help = help;
        model.warn(Some(text), moment(9));
        screen(&model, width, height);
    }
}

//! Whatever happens in whatever order, a fan-out counts each item once, keeps to its window, folds in order, and ends.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use serde_json::{Value, json};

use super::{FanoutState, Next, Step, tests::spec};
use crate::{
    outcome::ItemFailure,
    progress::FanoutOutcome,
    protocol::{
        ChildEnd, ClosePolicy, FanoutInput, FanoutSpec, GivenItem, ItemDone, ItemsRead, Mode,
        OnFailure, Tolerate,
    },
    state::{Carry, Stop, Unread, without_duplicates},
};

/// The behaviour of the child of an item.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fate {
    Done,
    Fails,
    /// The child signals, and then ends.
    Reports,
    /// The child signals twice.
    ReportsTwice,
    /// The child signals and is terminated before its result.
    ReportsAndDies,
    Dies,
    CannotStart,
    /// The child signals, and ends only if it is cancelled, once the fan-out stops.
    Endless,
}

#[derive(Clone, Debug)]
struct Case {
    spec: FanoutSpec,
    /// The ids, some of them equal, with the fates of their children.
    items: Vec<(u8, Fate)>,
    from_source: bool,
    /// The choices among the events that are possible.
    order: Vec<u16>,
    cancel_after: Option<u8>,
}

fn fate() -> impl Strategy<Value = Fate> {
    prop_oneof![
        4 => Just(Fate::Done),
        1 => Just(Fate::Fails),
        2 => Just(Fate::Reports),
        1 => Just(Fate::ReportsTwice),
        1 => Just(Fate::ReportsAndDies),
        1 => Just(Fate::Dies),
        1 => Just(Fate::CannotStart),
        1 => Just(Fate::Endless),
    ]
}

fn policy() -> impl Strategy<Value = OnFailure> {
    let tolerate = prop_oneof![
        3 => Just(Tolerate::All),
        1 => (0..4u64).prop_map(Tolerate::Count),
        1 => (0.0..100.0).prop_map(Tolerate::Percent),
    ];
    prop_oneof![
        1 => Just(OnFailure::FailFast),
        3 => tolerate.prop_map(|tolerate| OnFailure::CollectAll { tolerate }),
    ]
}

fn close() -> impl Strategy<Value = ClosePolicy> {
    prop_oneof![
        Just(ClosePolicy::Abandon),
        Just(ClosePolicy::RequestCancel),
        Just(ClosePolicy::Terminate)
    ]
}

fn cases() -> impl Strategy<Value = Case> {
    (
        prop::collection::vec((0..150u8, fate()), 0..200),
        (
            1..8u32,
            1..10u32,
            any::<bool>(),
            any::<bool>(),
            any::<bool>(),
        ),
        (policy(), close()),
        prop::collection::vec(any::<u16>(), 1..400),
        5..60u32,
        prop::option::weighted(0.2, any::<u8>()),
    )
        .prop_map(
            |(
                items,
                (window, page_size, signals, from_source, own_type),
                (on_failure, close),
                order,
                events_per_run,
                cancel_after,
            )| {
                let mode = if signals {
                    Mode::Signals
                } else {
                    Mode::JoinAll
                };
                Case {
                    spec: FanoutSpec {
                        window,
                        page_size,
                        mode,
                        on_failure,
                        close,
                        events_per_run,
                        child_type: own_type.then(|| "own".to_owned()),
                        ..spec()
                    },
                    items,
                    from_source,
                    order,
                    cancel_after,
                }
            },
        )
}

/// An event that can happen.
#[derive(Clone, Debug)]
enum Event {
    Started(u64),
    NotStarted(u64),
    Refused(u64),
    Report(u64),
    Ended(u64),
    Read,
    Folded,
    Asked,
    Watch,
    CancelAnswered,
}

#[derive(Clone, Debug, PartialEq)]
enum Child {
    Starting,
    Running {
        cancelled: bool,
        reports_left: u32,
    },
    /// Ended, and no run has been told.
    Unseen,
    /// Refused by the server, because an earlier child has the id.
    Refused,
}

/// Temporal and the children, as far as a fan-out sees them.
struct World {
    case: Case,
    state: FanoutState,
    children: BTreeMap<u64, (String, Fate, Child)>,
    /// The children whose run is over.
    adopted: BTreeSet<u64>,
    reading: Option<(usize, u32)>,
    fold: Option<(Vec<(u64, bool)>, bool)>,
    /// True while children are asked to report by signal.
    asking: bool,
    /// The children that were asked, by their ids.
    asked: BTreeSet<String>,
    watched: Option<BTreeSet<u64>>,
    /// The adopted children that are to be cancelled, by requests without an answer.
    cancelling: Vec<u64>,
    folded: Vec<u64>,
    results: BTreeMap<u64, bool>,
    started: BTreeSet<String>,
    events: u32,
    happened: u32,
    most_open: usize,
    /// The starts that the server has refused because an earlier item has the id.
    refused: u64,
}

fn given(items: &[(u8, Fate)]) -> Vec<GivenItem> {
    let item = |(id, _): &(u8, Fate)| GivenItem {
        id: format!("i{id}"),
        item: json!(id),
    };
    items.iter().map(item).collect()
}

impl World {
    fn new(case: Case) -> Self {
        let carry = if case.from_source {
            Carry::of(Unread::Source {
                name: "numbers".to_owned(),
                args: Value::Null,
                prepared: false,
                token: Some(json!(0)),
            })
        } else {
            let (items, duplicates) = without_duplicates(given(&case.items), |g| &g.id);
            Carry {
                duplicates,
                ..Carry::of(Unread::List(items))
            }
        };
        let state = FanoutState::of(FanoutInput {
            spec: case.spec.clone(),
            carry,
        });
        Self {
            case,
            state,
            children: BTreeMap::new(),
            adopted: BTreeSet::new(),
            reading: None,
            fold: None,
            asking: false,
            asked: BTreeSet::new(),
            watched: None,
            cancelling: Vec::new(),
            folded: Vec::new(),
            results: BTreeMap::new(),
            started: BTreeSet::new(),
            events: 0,
            happened: 0,
            most_open: 0,
            refused: 0,
        }
    }

    fn fate_of(&self, item: &Value) -> Fate {
        let id = item.as_u64().unwrap();
        let items = self.case.items.iter();
        items.clone().find(|(i, _)| u64::from(*i) == id).unwrap().1
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Start { position, id, item } => {
                let fate = self.fate_of(&item);
                let child = match self.started.insert(id.clone()) {
                    true => Child::Starting,
                    false => Child::Refused,
                };
                self.refused += u64::from(child == Child::Refused);
                self.children.insert(position, (id, fate, child));
                let open = self.children.values();
                let open = open.filter(|(_, _, child)| *child != Child::Unseen);
                self.most_open = self.most_open.max(open.count());
            }
            Step::Read(order) => {
                assert!(self.reading.is_none(), "two reads at once");
                let from = order.token.unwrap().as_u64().unwrap();
                self.reading = Some((usize::try_from(from).unwrap(), order.limit));
            }
            Step::Fold(order) => {
                assert!(self.fold.is_none(), "two folds at once");
                let outcomes = order
                    .outcomes
                    .iter()
                    .map(|o| (o.position, o.result.is_ok()));
                self.fold = Some((outcomes.collect(), order.last));
            }
            Step::Cancel {
                position,
                adopted: true,
                ..
            } => {
                assert!(!self.cancelling.contains(&position), "cancelled twice");
                self.cancelling.push(position);
            }
            Step::Cancel { position, .. } => {
                if let Some((_, _, Child::Running { cancelled, .. })) =
                    self.children.get_mut(&position)
                {
                    assert!(!*cancelled, "cancelled twice");
                    *cancelled = true;
                }
            }
            Step::Ask(order) => {
                assert!(!self.asking, "two requests at once");
                self.asking = true;
                for child in order.children {
                    assert!(self.asked.insert(child.clone()), "{child} was asked twice");
                }
            }
            Step::Watch(order) => {
                assert!(self.watched.is_none(), "two watches at once");
                self.watched = Some(order.children.iter().map(|c| c.position).collect());
            }
        }
    }

    /// Returns what can happen next.
    fn possible(&self) -> Vec<Event> {
        let mut possible = Vec::new();
        for (position, (_, fate, child)) in &self.children {
            match child {
                Child::Starting if *fate == Fate::CannotStart => {
                    possible.push(Event::NotStarted(*position));
                }
                Child::Starting => possible.push(Event::Started(*position)),
                Child::Running {
                    reports_left: 1.., ..
                } => possible.push(Event::Report(*position)),
                Child::Running {
                    cancelled: false, ..
                } if *fate == Fate::Endless && self.is_stopping() => {}
                Child::Running { .. } => possible.push(Event::Ended(*position)),
                Child::Refused => possible.push(Event::Refused(*position)),
                Child::Unseen => {}
            }
        }
        if !self.cancelling.is_empty() {
            possible.push(Event::CancelAnswered);
        }
        if self.asking {
            possible.push(Event::Asked);
        }
        if self.reading.is_some() {
            possible.push(Event::Read);
        }
        if self.fold.is_some() {
            possible.push(Event::Folded);
        }
        // The watch returns with news, or when nothing is left to watch.
        let ended = |p: &&u64| matches!(self.children.get(p), Some((_, _, Child::Unseen)) | None);
        if let Some(watched) = &self.watched
            && (watched.iter().filter(ended).any(|p| self.is_news(*p))
                || watched.iter().all(|p| ended(&p)))
        {
            possible.push(Event::Watch);
        }
        possible
    }

    /// Returns whether children are cancelled.
    fn is_stopping(&self) -> bool {
        let stop = &self.state.carry.stop;
        matches!(stop, Some(Stop::Cancelled(_) | Stop::FailFast(_)))
    }

    /// Returns whether the end of a child is more than that it has reported.
    fn is_news(&self, position: u64) -> bool {
        self.children.get(&position).is_some_and(|(_, fate, _)| {
            end(position, *fate, &Child::Unseen, &self.case.spec) != ChildEnd::Reported
        })
    }

    fn happens(&mut self, event: Event) {
        match event {
            Event::Started(position) => {
                let asked = self.case.spec.mode == Mode::Signals;
                let (_, fate, child) = self.children.get_mut(&position).unwrap();
                let reports_left = match fate {
                    Fate::Reports | Fate::ReportsAndDies if asked => 1,
                    // A child of the fan-out's own type ends at once after its report.
                    Fate::Endless if asked && self.case.spec.child_type.is_some() => 1,
                    Fate::ReportsTwice if asked => 2,
                    _ => 0,
                };
                *child = Child::Running {
                    cancelled: false,
                    reports_left,
                };
                self.state.child_started(position);
            }
            Event::NotStarted(position) => {
                self.children.remove(&position);
                let failure = ItemFailure::new("ChildIdTaken", "");
                self.state.child_ended(position, ChildEnd::Failed(failure));
            }
            Event::Refused(position) => {
                self.children.remove(&position);
                self.state.is_duplicate(position);
            }
            Event::Asked => {
                self.asking = false;
                self.state.were_asked();
            }
            Event::Report(position) => {
                let (id, _, child) = self.children.get_mut(&position).unwrap();
                if self.adopted.contains(&position) && self.case.spec.child_type.is_none() {
                    // Its slot is free with its first report.
                    *child = Child::Unseen;
                } else if let Child::Running { reports_left, .. } = child {
                    *reports_left -= 1;
                }
                let done = ItemDone {
                    item_id: id.clone(),
                    output: json!(position),
                    failure: None,
                    fanout_run: Some(self.case.spec.run.clone()),
                };
                self.state.reported(done);
            }
            Event::Ended(position) => {
                if self.adopted.contains(&position) {
                    self.children.get_mut(&position).unwrap().2 = Child::Unseen;
                } else {
                    let (_, fate, child) = self.children.remove(&position).unwrap();
                    self.state
                        .child_ended(position, end(position, fate, &child, &self.case.spec));
                }
            }
            Event::CancelAnswered => {
                let position = self.cancelling.remove(0);
                if let Some((_, _, Child::Running { cancelled, .. })) =
                    self.children.get_mut(&position)
                {
                    *cancelled = true;
                }
                self.state.cancel_answered();
            }
            Event::Read => {
                let (from, limit) = self.reading.take().unwrap();
                let to = (from + limit as usize).min(self.case.items.len());
                let token = (to < self.case.items.len()).then(|| json!(to));
                self.state.items_read(ItemsRead {
                    items: given(&self.case.items[from..to]),
                    args: Value::Null,
                    token,
                });
            }
            Event::Folded => {
                let (outcomes, _) = self.fold.take().unwrap();
                for (position, ok) in outcomes {
                    self.folded.push(position);
                    self.results.insert(position, ok);
                }
                self.state.was_folded(Ok(json!(self.folded.len())));
            }
            Event::Watch => {
                let watched = self.watched.take().unwrap();
                let mut ended = Vec::new();
                for position in watched {
                    if let Some((_, fate, Child::Unseen)) = self.children.get(&position).cloned() {
                        self.children.remove(&position);
                        let end = end(position, fate, &Child::Unseen, &self.case.spec);
                        ended.push((position, end));
                    }
                }
                self.state.watched(ended);
            }
        }
    }

    /// Runs until the end, and checks what must hold at each moment.
    fn run(mut self) -> Self {
        let order = self.case.order.clone();
        for turn in 0..10_000 {
            if self.case.cancel_after == u8::try_from(self.happened).ok()
                && !self.state.is_cancelled()
            {
                self.state.cancel("enough");
            }
            self.state.refresh(self.events, false);
            match self.state.next() {
                Next::Steps(steps) => {
                    self.events += u32::try_from(steps.len()).unwrap();
                    steps.into_iter().for_each(|step| self.take(step));
                }
                Next::HandOver => self.hand_over(),
                Next::Finish => return self,
                Next::Wait => {
                    let possible = self.possible();
                    assert!(!possible.is_empty(), "it hangs: {:#?}", self.state);
                    let which = order[turn % order.len()] as usize % possible.len();
                    self.events += 1;
                    self.happened += 1;
                    self.happens(possible[which].clone());
                }
            }
            self.check();
        }
        panic!("it never ends: {:#?}", self.state);
    }

    fn hand_over(&mut self) {
        // What a fan-out that stops has asked to read does not matter any more.
        let read = self.reading.take().is_none() || self.state.carry.stop.is_some();
        let calls = self.fold.is_some() || self.asking;
        assert!(read && !calls, "an activity is lost");
        let stays = self.case.spec.close == ClosePolicy::Abandon;
        assert!(self.cancelling.is_empty(), "a request to cancel is lost");
        assert!(
            stays || self.children.is_empty(),
            "Temporal would end children"
        );
        for (position, (_, _, child)) in &mut self.children {
            // A child that has reported is about to close, and the next run does not wait for that. A workflow of the
            // user's own may go on.
            let tracked = self.state.carry.tracked.get(position);
            let ends = self.case.spec.child_type.is_none();
            if tracked.is_none_or(|tracked| tracked.outcome.is_some() && ends) {
                *child = Child::Unseen;
            }
            // The server drops the requests of the run that ends.
            if let Child::Running { cancelled, .. } = child
                && !self.adopted.contains(position)
            {
                *cancelled = false;
            }
        }
        let spec = self.case.spec.clone();
        let carry = serde_json::to_string(&self.state.carry).unwrap();
        let carry = serde_json::from_str(&carry).unwrap();
        self.state = FanoutState::of(FanoutInput { spec, carry });
        assert!(
            self.children
                .values()
                .all(|(_, _, child)| !matches!(child, Child::Starting | Child::Refused)),
            "a start is lost"
        );
        self.adopted = self.children.keys().copied().collect();
        (self.watched, self.events) = (None, 0);
    }

    fn check(&self) {
        let progress = self.state.progress();
        assert!(
            self.most_open <= self.case.spec.window as usize,
            "the window was exceeded"
        );
        assert!(progress.failed <= progress.completed && progress.completed <= progress.total);
        let ordered = self.folded.windows(2).all(|pair| pair[0] < pair[1]);
        assert!(ordered, "folded out of order or twice: {:?}", self.folded);
    }
}

fn end(position: u64, fate: Fate, child: &Child, spec: &FanoutSpec) -> ChildEnd {
    let cancelled = matches!(
        child,
        Child::Running {
            cancelled: true,
            ..
        }
    );
    let failed = |what: &str| ChildEnd::Failed(ItemFailure::new(what, ""));
    match fate {
        _ if cancelled => failed("Cancelled"),
        Fate::Fails => failed("Declined"),
        Fate::Dies | Fate::ReportsAndDies => failed("Terminated"),
        Fate::Reports | Fate::ReportsTwice
            if spec.mode == Mode::Signals && spec.child_type.is_none() =>
        {
            ChildEnd::Reported
        }
        _ => ChildEnd::Done(json!(position)),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(600) })]

    #[test]
    fn each_item_counts_once_and_every_fan_out_ends(case in cases()) {
        let world = World::new(case).run();
        let report = world.state.report();
        let progress = report.progress;
        let all: BTreeSet<_> = world.case.items.iter().map(|(id, _)| id).collect();
        // Among the items of a source that were never started, some may repeat an id that the fan-out has forgotten: only
        // the server knows, and refuses the start.
        let unknown = match world.state.remembers_all() {
            true => 0,
            false => report.not_started,
        };
        prop_assert!(progress.total <= all.len() as u64 + unknown);
        if report.outcome == FanoutOutcome::Cancelled {
            return Ok(());
        }
        prop_assert_eq!(world.folded.len() as u64, progress.completed);
        prop_assert_eq!(world.results.values().filter(|ok| !**ok).count() as u64, progress.failed);
        prop_assert_eq!(progress.completed + report.not_started, progress.total);
        prop_assert_eq!(progress.in_flight, 0);
        prop_assert!(report.result.is_some());
        let complete = report.not_started == 0 && progress.all_read;
        if complete && world.state.carry.stop.is_none() {
            prop_assert_eq!(progress.completed, all.len() as u64);
            prop_assert_eq!(
                progress.completed + progress.duplicates,
                world.case.items.len() as u64
            );
        }
        if matches!(world.case.spec.on_failure, OnFailure::CollectAll { tolerate: Tolerate::All }) {
            prop_assert_eq!(report.outcome, FanoutOutcome::Completed);
            let fails = |fate| matches!(fate, Fate::Fails | Fate::Dies | Fate::CannotStart);
            let first = |id: &u8| world.case.items.iter().find(|(i, _)| i == id).unwrap().1;
            let reports_in_vain = world.case.spec.mode == Mode::JoinAll;
            let failed = all.iter().filter(|id| {
                let fate = first(id);
                fails(fate) || (fate == Fate::ReportsAndDies && reports_in_vain)
            });
            prop_assert_eq!(failed.count() as u64, progress.failed);
        }
    }
}

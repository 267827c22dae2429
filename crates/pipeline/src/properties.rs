//! Pipelines without Temporal, a clock or a database: each test is named after its sentence.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use proptest::prelude::*;
use serde_json::Value;
use temporal_batch::{
    Page, PageContext, PageError, PageProcessor, PageReport, Reducer, settings::ItemRetry,
    testing::run_page,
};

use crate::{
    InvalidPipeline, Items, KeptStep, Pipeline, Step, StepStore, Steps, action, counters,
    run::{Attempts, Host, lock},
    step,
};

/// A page without waits and without a rate.
struct Alone {
    attempt: u32,
    /// True if the page is told to end: an error of its work may be a consequence.
    interrupted: bool,
}

#[async_trait]
impl Host for Alone {
    async fn attempts<'w>(
        &self,
        _: ItemRetry,
        mut work: Attempts<'w>,
    ) -> Result<Result<(), PageError>, PageError> {
        let done = work().await;
        if self.interrupted {
            return done.map(Ok);
        }
        Ok(done)
    }

    async fn permit(&self) -> Result<(), PageError> {
        Ok(())
    }

    fn page_attempt(&self) -> u32 {
        self.attempt
    }

    fn batch_id(&self) -> &str {
        "batch"
    }

    fn batch_run(&self) -> &str {
        "run"
    }

    fn item_key(&self, item: &Value) -> String {
        item.to_string()
    }
}

/// The results of steps in memory, which outlive attempts.
#[derive(Clone, Default)]
struct InMemory(Arc<Mutex<Vec<KeptStep>>>);

#[async_trait]
impl StepStore for InMemory {
    async fn load(&self, _: &str, keys: &[String]) -> Result<Vec<KeptStep>, PageError> {
        let all = lock(&self.0);
        Ok(all
            .iter()
            .filter(|s| keys.contains(&s.key))
            .cloned()
            .collect())
    }

    async fn keep(&self, _: &str, step: &KeptStep) -> Result<(), PageError> {
        lock(&self.0).push(step.clone());
        Ok(())
    }
}

fn run<T>(future: impl Future<Output = T>) -> T {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    runtime.enable_time().build().unwrap().block_on(future)
}

fn attempt<I: Send + 'static, O: Send + 'static>(
    pipeline: &Pipeline<I, O>,
    attempt: u32,
    items: Vec<I>,
) -> Result<PageReport, PageError> {
    let host = Alone {
        attempt,
        interrupted: false,
    };
    run(pipeline.run_on(&host, "page".to_owned(), items)).map(|(report, _)| report)
}

/// The numbers of a page, as a processor whose only code is its pipeline.
struct OnPage<I: Clone + Send + Sync + 'static, O: Send + 'static> {
    pipeline: Pipeline<I, O>,
    items: Vec<I>,
}

#[async_trait]
impl<I: Clone + Send + Sync + 'static, O: Send + 'static> PageProcessor for OnPage<I, O> {
    const NAME: &'static str = "on-page";
    type Args = ();
    type Cursor = usize;
    type Item = I;

    async fn fetch(&self, _: &PageContext<Self>) -> Result<Page<usize, I>, PageError> {
        Ok(Page::opaque(self.items.clone(), None))
    }

    async fn process(
        &self,
        ctx: &PageContext<Self>,
        items: Vec<I>,
    ) -> Result<PageReport, PageError> {
        self.pipeline.process(ctx, items).await
    }

    fn reducer(&self, (): &()) -> Option<Reducer> {
        Some(counters())
    }
}

/// What the engine counts for a page: processed, skipped and failed items, and the counters.
fn counted<I: Clone + Send + Sync + 'static, O: Send + 'static>(
    pipeline: &Pipeline<I, O>,
    items: Vec<I>,
) -> ([u64; 3], BTreeMap<String, i64>) {
    let pipeline = pipeline.clone();
    let page = run(run_page(&OnPage { pipeline, items }, (), None)).unwrap();
    let counts = [
        page.counts.processed,
        page.counts.skipped,
        page.counts.failed,
    ];
    let counters = page.output.unwrap_or_default();
    (counts, serde_json::from_value(counters).unwrap_or_default())
}

/// What happens to an item.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fate {
    Succeeds,
    Skipped,
    Fails,
    FallsBack,
    MailFails,
}

fn fates() -> impl Strategy<Value = Vec<Fate>> {
    use Fate::{Fails, FallsBack, MailFails, Skipped, Succeeds};
    let fate = prop::sample::select(vec![Succeeds, Skipped, Fails, FallsBack, MailFails]);
    prop::collection::vec(fate, 1..60)
}

fn number(items: &[Fate]) -> Vec<(usize, Fate)> {
    items.iter().copied().enumerate().collect()
}

type Numbered = (usize, Fate);

fn fails() -> PageError {
    PageError::retryable("made to fail").with_type("MadeToFail")
}

fn each(item: Steps<Numbered>) -> Steps<Numbered, Numbered> {
    item.skip_if("made to be skipped", |(_, fate)| *fate == Fate::Skipped)
        .step(step("check", async |_, (n, fate): Numbered| match fate {
            Fate::Fails => Err(fails()),
            _ => Ok((n, fate)),
        }))
        .step(
            step("price", async |ctx, (n, fate): Numbered| {
                ctx.count("prices", 1);
                match fate {
                    Fate::FallsBack => Err(fails()),
                    _ => Ok((n, fate)),
                }
            })
            .fallback(|item, _| item),
        )
        .action(
            action("mail", async |_, (_, fate): Numbered| match fate {
                Fate::MailFails => Err(fails()),
                _ => Ok(()),
            })
            .best_effort(),
        )
}

proptest! {
    #[test]
    fn every_item_is_counted_once_as_processed_skipped_or_failed(fates in fates(), at_once in 1_usize..9) {
        let written = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&written);
        let pipeline = Pipeline::new(|page| {
            page.for_each(at_once, |item: &Numbered| item.0, each)
                .step(step("write", move |_, items: Items<Numbered>| {
                    lock(&seen).extend(items.iter().map(|item| item.0));
                    async { Ok(()) }
                }))
        }).unwrap();
        let (counts, counters) = counted(&pipeline, number(&fates));
        let having = |wanted: &[Fate]| fates.iter().filter(|fate| wanted.contains(fate)).count();
        let expected = [
            having(&[Fate::Succeeds, Fate::MailFails]),
            having(&[Fate::Skipped]),
            having(&[Fate::Fails, Fate::FallsBack]),
        ];
        prop_assert_eq!(counts, expected.map(|n| n as u64));
        let counter = |name: &str| counters.get(name).copied().unwrap_or(0) as usize;
        prop_assert_eq!(counter("mail: failed"), having(&[Fate::MailFails]));
        prop_assert_eq!(counter("price: fallback"), having(&[Fate::FallsBack]));
        prop_assert_eq!(
            counter("prices"), having(&[Fate::Succeeds, Fate::MailFails]), "attempts that fail count nothing"
        );
        let left = |(_, fate): &(usize, &Fate)| !matches!(fate, Fate::Skipped | Fate::Fails);
        let left: Vec<_> = fates.iter().enumerate().filter(left).map(|(n, _)| n).collect();
        prop_assert_eq!(&*lock(&written), &left, "items are written in the order of the page");
    }

    #[test]
    fn exactly_one_side_of_a_branch_runs(numbers in prop::collection::vec(0_u32..100, 1..40)) {
        let sides = Arc::new(Mutex::new([Vec::new(), Vec::new()]));
        let (yes, no) = (Arc::clone(&sides), Arc::clone(&sides));
        let pipeline = Pipeline::new(|page| {
            page.for_each(3, |item: &(usize, u32)| item.0, |item| {
                item.branch("even", |(_, n)| n % 2 == 0,
                    |item| item.action(action("halve", move |_, (at, _): (usize, u32)| {
                        lock(&yes)[0].push(at);
                        async { Ok(()) }
                    })),
                    |item| item.action(action("note", move |_, (at, _): (usize, u32)| {
                        lock(&no)[1].push(at);
                        async { Ok(()) }
                    })).skip("odd"),
                )
            })
        }).unwrap();
        let items: Vec<_> = numbers.iter().copied().enumerate().collect();
        let (counts, counters) = counted(&pipeline, items.clone());
        let of = |even: bool| -> Vec<usize> {
            items.iter().filter(|(_, n)| (n % 2 == 0) == even).map(|(at, _)| *at).collect()
        };
        let mut ran = lock(&sides).clone();
        ran.iter_mut().for_each(|side| side.sort_unstable());
        prop_assert_eq!(&ran, &[of(true), of(false)]);
        prop_assert_eq!(counts, [of(true).len() as u64, of(false).len() as u64, 0]);
        let counter = |name: &str| counters.get(name).copied().unwrap_or(0) as usize;
        prop_assert_eq!([counter("even: yes"), counter("even: no")], [of(true).len(), of(false).len()]);
    }

    #[test]
    fn no_more_items_run_at_once_than_allowed_and_so_many_do(items in 1_usize..40, at_once in 1_usize..9) {
        let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (running, highest) = (Arc::clone(&now), Arc::clone(&most));
        let pipeline = Pipeline::new(|page| {
            page.for_each(at_once, |n: &usize| *n, |item| {
                item.step(step("call", move |_, n: usize| {
                    let running = Arc::clone(&running);
                    let begun = running.fetch_add(1, Ordering::Relaxed) + 1;
                    highest.fetch_max(begun, Ordering::Relaxed);
                    async move {
                        for _ in 0..50 {
                            tokio::task::yield_now().await;
                        }
                        running.fetch_sub(1, Ordering::Relaxed);
                        Ok(n)
                    }
                }))
                .step(step("next", async |_, n: usize| Ok(n)))
            })
        }).unwrap();
        let _ = attempt(&pipeline, 1, (0..items).collect()).unwrap();
        prop_assert_eq!(most.load(Ordering::Relaxed), at_once.min(items));
    }

    #[test]
    fn a_page_that_runs_again_repeats_no_kept_step_and_reports_the_same(
        lost in prop::collection::vec(prop::sample::select(vec!["reserve", "charge", "never"]), 1..30),
    ) {
        let items: Vec<_> = lost.iter().map(|name| (*name).to_owned()).enumerate().collect();
        let calls = Calls::default();
        let pipeline = calls.pipeline();
        calls.set_failing(true);
        let first = attempt(&pipeline, 1, items.clone());
        prop_assert_eq!(first.is_err(), lost.iter().any(|name| *name != "never"));
        let before = lock(&calls.counted).clone();
        calls.set_failing(false);
        let again = attempt(&pipeline, 2, items.clone()).unwrap();
        let after = lock(&calls.counted).clone();
        for (n, lost) in lost.iter().enumerate() {
            // A step had succeeded if the next one was called.
            let reserved = before.contains_key(&(n, "charge"));
            let charged = reserved && *lost != "charge";
            for (name, done) in [("look", reserved), ("reserve", reserved), ("charge", charged)] {
                let expected = if done { before.get(&(n, name)).copied() } else { after.get(&(n, name)).copied() };
                prop_assert_eq!(after.get(&(n, name)).copied(), expected, "{} of {}", name, n);
            }
        }
        let undisturbed = attempt(&Calls::default().pipeline(), 1, items).unwrap();
        prop_assert_eq!(again, undisturbed, "counts are kept with their step");
    }
}

/// Three steps that count their calls, of which two keep their results.
#[derive(Clone, Default)]
struct Calls {
    counted: Arc<Mutex<BTreeMap<(usize, &'static str), usize>>>,
    failing: Arc<Mutex<bool>>,
}

type Lost = (usize, String);

impl Calls {
    fn set_failing(&self, failing: bool) {
        *lock(&self.failing) = failing;
    }

    fn step(&self, name: &'static str) -> Step<Lost, Lost> {
        let calls = self.clone();
        step(name, move |ctx, (n, lost): Lost| {
            *lock(&calls.counted).entry((n, name)).or_default() += 1;
            ctx.count(name, 1);
            let fails = lost == name && *lock(&calls.failing);
            async move {
                match fails {
                    true => Err(PageError::environment("lost")),
                    false => Ok((n, lost)),
                }
            }
        })
    }

    fn pipeline(&self) -> Pipeline<Lost, Items<Lost>> {
        let each = |item: Steps<Lost>| {
            let reserved = item
                .step(self.step("look"))
                .step(self.step("reserve").kept());
            reserved.step(self.step("charge").kept())
        };
        let built = Pipeline::with_store(InMemory::default(), |page| {
            page.for_each(4, |item: &Lost| item.0, each)
        });
        built.unwrap()
    }
}

#[test]
fn the_output_of_a_step_is_the_input_of_the_next() {
    let written = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&written);
    let pipeline = Pipeline::new(|page| {
        page.for_each(
            2,
            |text: &&str| *text,
            |text| {
                text.step(step(
                    "parse",
                    async |_, text: &str| Ok(text.parse::<u64>()?),
                ))
                .step(step("double", async |_, n: u64| Ok(n * 2)))
                .step(step("show", async |_, n: u64| Ok(format!("<{n}>"))))
            },
        )
        .step(step("write", move |_, shown: Items<String>| {
            lock(&seen).extend(shown.iter().cloned());
            async move { Ok(shown.len()) }
        }))
    });
    let report = attempt(&pipeline.unwrap(), 1, vec!["1", "x", "30"]).unwrap();
    assert_eq!(*lock(&written), ["<2>", "<60>"]);
    assert_eq!(report.failed(), 1);
}

#[test]
fn a_failed_page_step_is_an_error_of_the_page_and_its_fallback_fails_every_item() {
    let write = || step("write", async |_, _: Items<u32>| Err::<(), _>(fails()));
    let failing = Pipeline::new(|page| page.step(write())).unwrap();
    let error = attempt(&failing, 1, vec![1, 2]).unwrap_err();
    assert_eq!(error.error_type(), "MadeToFail");
    let falling_back = Pipeline::new(|page| page.step(write().fallback(|_, _| ()))).unwrap();
    let (counts, counters) = counted(&falling_back, vec![1, 2]);
    assert_eq!(counts, [0, 0, 2]);
    assert_eq!(counters["write: fallback"], 1);
}

#[test]
fn a_skipped_page_leaves_what_failed_before_as_failed() {
    let pipeline = Pipeline::new(|page| {
        page.for_each(
            2,
            |n: &u32| *n,
            |n| {
                n.step(step("check", async |_, n: u32| match n {
                    1 => Err(fails()),
                    n => Ok(n),
                }))
            },
        )
        .skip_if("No processing needed", |items| items.len() < 3)
    });
    let pipeline = pipeline.unwrap();
    assert_eq!(counted(&pipeline, vec![1, 2, 3]).0, [0, 2, 1]);
    assert_eq!(counted(&pipeline, vec![1, 2, 3, 4]).0, [3, 0, 1]);
}

#[test]
fn a_required_action_fails_its_item_and_a_best_effort_one_only_its_counter() {
    let mail = || action("mail", async |_, _: u32| Err(fails()));
    let required = Pipeline::new(|page| page.for_each(1, |n| *n, |n| n.action(mail())));
    assert_eq!(counted(&required.unwrap(), vec![1, 2]).0, [0, 0, 2]);
    let optional =
        Pipeline::new(|page| page.for_each(1, |n| *n, |n| n.action(mail().best_effort())));
    let (counts, counters) = counted(&optional.unwrap(), vec![1, 2]);
    assert_eq!(counts, [2, 0, 0]);
    assert_eq!(counters, BTreeMap::from([("mail: failed".to_owned(), 2)]));
}

#[test]
fn a_step_that_retries_its_page_waits_longer_each_time_and_then_falls_back() {
    let pipeline = Pipeline::new(|page| {
        page.for_each(
            2,
            |n: &u32| *n,
            |n| {
                n.step(
                    step("call", async |_, n: u32| match n {
                        1 => Err(fails()),
                        n => Ok(n),
                    })
                    .retry_page(3, Duration::from_secs(1))
                    .fallback(|n, _| n),
                )
            },
        )
    });
    let pipeline = pipeline.unwrap();
    for (number, wait) in [(1, 1), (2, 2)] {
        let error = attempt(&pipeline, number, vec![1, 2]).unwrap_err();
        assert_eq!(error.delay(), Some(Duration::from_secs(wait)));
        assert_eq!(error.error_type(), "MadeToFail");
        assert!(error.message().contains("step \"call\""));
    }
    let report = attempt(&pipeline, 3, vec![1, 2]).unwrap();
    assert_eq!(report.failed(), 1);
}

#[test]
fn pipelines_that_cannot_work_are_refused_with_what_is_allowed() {
    let same = |name: &str| step(name.to_owned(), async |_, items: Items<u32>| Ok(items));
    type Build = dyn FnOnce(Steps<Items<u32>>) -> Steps<Items<u32>>;
    let refused = |steps: Box<Build>| {
        let refused = Pipeline::new(steps).err().map(|error| error.to_string());
        refused.expect("it is refused")
    };
    let named = same;
    let message = refused(Box::new(move |page| page.step(named("a")).step(named("a"))));
    assert!(message.contains("\"a\""), "{message}");
    for name in ["", "   ", "a ", "a: failed", "tab\t"] {
        let message = refused(Box::new(move |page| page.step(same(name))));
        assert!(message.contains("1 to 60 letters"), "{message}");
    }
    let message = refused(Box::new(|page| page.for_each(0, |n| *n, |n| n)));
    assert!(message.contains("1 to 10000"), "{message}");
    let message = refused(Box::new(move |page| {
        page.step(same("a").retry(ItemRetry::attempts(0)))
    }));
    assert!(message.contains("step \"a\": "), "{message}");
    let message = refused(Box::new(move |page| {
        page.step(same("a").retry_page(11, Duration::ZERO))
    }));
    assert!(message.contains("1 to 10"), "{message}");
    let kept = Pipeline::new(|page: Steps<Items<u32>>| {
        page.for_each(
            1,
            |n| *n,
            |n| n.step(step("b", async |_, n: u32| Ok(n)).kept()),
        )
    });
    let step = "b".to_owned();
    assert_eq!(kept.err(), Some(InvalidPipeline::NoStore { step }));
}

#[test]
fn a_failure_is_not_kept_so_that_a_redrive_tries_again() {
    let down = Arc::new(Mutex::new(true));
    let fails_now = Arc::clone(&down);
    let pipeline = Pipeline::with_store(InMemory::default(), |page| {
        page.for_each(
            1,
            |n: &u32| *n,
            |n| {
                n.step(
                    step("call", move |_, n: u32| {
                        let fails_now = *lock(&fails_now);
                        async move { if fails_now { Err(fails()) } else { Ok(n) } }
                    })
                    .kept()
                    .fallback(|n, _| n),
                )
                .step(step("write", async |_, n: u32| Ok(n)).kept())
            },
        )
        .step(step("total", async |_, items: Items<u32>| Ok(items)).kept())
    });
    let pipeline = pipeline.unwrap();
    assert_eq!(attempt(&pipeline, 1, vec![1, 2]).unwrap().failed(), 2);
    *lock(&down) = false;
    assert_eq!(attempt(&pipeline, 2, vec![1, 2]).unwrap().failed(), 0);
}

#[test]
fn a_kept_action_of_a_page_hides_nothing_that_fails_in_a_later_attempt() {
    let attempts = Arc::new(Mutex::new(0));
    let (begun, ended) = (Arc::clone(&attempts), Arc::clone(&attempts));
    let mails = Arc::new(Mutex::new(0));
    let mailed = Arc::clone(&mails);
    let pipeline = Pipeline::with_store(InMemory::default(), |page| {
        page.for_each(
            1,
            |n: &u32| *n,
            |n| {
                n.step(step("write", move |_, n: u32| {
                    let fails_now = *lock(&begun) > 0 && n == 2;
                    async move { if fails_now { Err(fails()) } else { Ok(n) } }
                }))
            },
        )
        .action(
            action("mail", move |ctx, _: Items<u32>| {
                *lock(&mailed) += 1;
                ctx.count("mails", 1);
                async { Ok(()) }
            })
            .kept(),
        )
        .step(step("total", move |_, items: Items<u32>| {
            *lock(&ended) += 1;
            let is_first = *lock(&ended) == 1;
            async move {
                if is_first {
                    Err(fails())
                } else {
                    Ok(items.len())
                }
            }
        }))
    });
    let pipeline = pipeline.unwrap();
    attempt(&pipeline, 1, vec![1, 2, 3]).unwrap_err();
    let report = attempt(&pipeline, 2, vec![1, 2, 3]).unwrap();
    assert_eq!(report.failed(), 1);
    assert_eq!(format!("{report:?}").matches("mails").count(), 1);
    assert_eq!((*lock(&mails), *lock(&attempts)), (1, 2));
}

#[test]
fn a_page_with_other_items_does_not_continue_after_a_kept_step() {
    let totals = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&totals);
    let ended = Arc::new(Mutex::new(0));
    let pipeline = Pipeline::with_store(InMemory::default(), |page| {
        page.step(
            step("total", move |_, items: Items<u32>| {
                lock(&seen).push(items.len());
                async move { Ok(items) }
            })
            .kept(),
        )
        .step(step("write", move |_, items: Items<u32>| {
            *lock(&ended) += 1;
            let is_last = *lock(&ended) == 3;
            async move {
                if is_last {
                    Ok(items.len())
                } else {
                    Err(fails())
                }
            }
        }))
    });
    let pipeline = pipeline.unwrap();
    attempt(&pipeline, 1, vec![1, 2]).unwrap_err();
    attempt(&pipeline, 2, vec![1, 2]).unwrap_err();
    assert_eq!(*lock(&totals), [2], "the same items");
    let _ = attempt(&pipeline, 3, vec![1, 2, 3]).unwrap();
    assert_eq!(*lock(&totals), [2, 3]);
}

#[test]
fn an_interrupted_action_is_not_remembered_as_done() {
    let store = InMemory::default();
    let pipeline = Pipeline::with_store(store.clone(), |page| {
        page.action(
            action("mail", async |_, _: Items<u32>| {
                Err(PageError::environment("the pool is closed"))
            })
            .best_effort()
            .kept(),
        )
    });
    let pipeline = pipeline.unwrap();
    let interrupted = Alone {
        attempt: 1,
        interrupted: true,
    };
    let ended = run(pipeline.run_on(&interrupted, "page".to_owned(), vec![1]));
    assert!(ended.err().unwrap().is_environment());
    assert!(lock(&store.0).is_empty());
    // The same error of a page that goes on is a failure of the action.
    assert_eq!(attempt(&pipeline, 1, vec![1]).unwrap().failed(), 0);
    assert_eq!(lock(&store.0).len(), 1);
}

#[test]
fn a_kept_result_that_the_code_cannot_read_holds_the_page() {
    let store = InMemory::default();
    let page = |kept: Steps<Items<u32>>| {
        kept.step(step("count", async |_, items: Items<u32>| Ok(items.len())).kept())
    };
    let old = Pipeline::with_store(store.clone(), page).unwrap();
    let _ = attempt(&old, 1, vec![1]).unwrap();
    let new = Pipeline::with_store(store, |page: Steps<Items<u32>>| {
        page.step(step("count", async |_, _| Ok("one".to_owned())).kept())
    });
    let error = attempt(&new.unwrap(), 1, vec![1]).unwrap_err();
    assert_eq!(error.error_type(), "KeptStepNotReadable");
    assert!(error.is_environment());
}

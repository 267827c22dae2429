//! Hooks that users register for failures, progress and the end of a batch.
//!
//! A hook is registered by name with the worker, and the batch names it. Each call is a separate activity with
//! three attempts, so a hook may receive the same event twice; the traits describe how to detect that. A hook
//! never affects its batch: an error, a panic or a timeout is logged and counted (`Progress::hooks_failed`).
//! Code that blocks its thread cannot be stopped and keeps that thread. While four calls of a hook block,
//! further calls fail.

use std::{collections::BTreeMap, panic::AssertUnwindSafe, sync::Arc};

use async_trait::async_trait;
use futures::{FutureExt as _, future::BoxFuture};
use serde::{Deserialize, Serialize};

use crate::{
    base::error::PageError,
    batch::spec::HookNames,
    progress::{Progress, failures::PageFailure, report::BatchReport},
};

/// The result of a hook. An error is logged and the call is retried, up to three attempts in total.
pub type HookResult = Result<(), Box<dyn std::error::Error + Send + Sync>>;

/// Receives failures: each page that becomes stuck or is given up, each tolerance that is exceeded, and the end
/// of a batch that did not complete without failures.
///
/// # When it is called
///
/// Calls are made one after the other, in the order of events, while pages continue. A queue holds up to 20
/// notices for a slow handler. Further notices are dropped and counted (`Progress::notices_dropped`), but still
/// appear in the lists of the progress.
///
/// # Repeated calls
///
/// A call that failed or was lost is repeated with the same [`number`](FailureNotice::number). The batch run
/// and the number together identify a notice.
///
/// ```
/// use temporal_batch::hooks::{FailureHandler, FailureNotice, HookResult};
///
/// struct Mail;
///
/// #[async_trait::async_trait]
/// impl FailureHandler for Mail {
///     const NAME: &'static str = "mail";
///
///     async fn on_failure(&self, notice: &FailureNotice) -> HookResult {
///         println!("batch {}: {:?}", notice.batch_id, notice.failure);
///         Ok(())
///     }
/// }
/// ```
#[async_trait]
pub trait FailureHandler: Send + Sync + 'static {
    /// The name that batches use. It is stored in histories.
    const NAME: &'static str;

    /// Handles a failure.
    async fn on_failure(&self, notice: &FailureNotice) -> HookResult;
}

/// Receives the progress of a batch: at the start, at each interval, and immediately at the end, when
/// [`phase`](Progress::phase) is `Ended`. Calls do not overlap: a call that is still running delays the next.
#[async_trait]
pub trait Tracker: Send + Sync + 'static {
    /// The name that batches use. It is stored in histories.
    const NAME: &'static str;

    /// Handles a progress report.
    async fn track(&self, progress: &Progress) -> HookResult;
}

/// Receives the end of a batch, once. It is not called for a batch that was refused, terminated or timed out by
/// Temporal.
#[async_trait]
pub trait CompletionHook: Send + Sync + 'static {
    /// The name that batches use. It is stored in histories.
    const NAME: &'static str;

    /// Handles a batch that reached the end of its data. The report lists items and pages that were given up.
    async fn completed(&self, report: &BatchReport) -> HookResult;

    /// Handles a batch that failed, stopped or was cancelled.
    async fn failed(&self, report: &BatchReport) -> HookResult;
}

/// A failure reported to a [`FailureHandler`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FailureNotice {
    /// The id of the batch.
    pub batch_id: String,
    /// The id of its execution.
    pub batch_run: String,
    /// The name of its processor.
    pub processor: String,
    /// The number of the notice within the batch run, from 1. Dropped notices leave gaps. Each partition
    /// numbers its notices from a different start, so the number is unique in the batch run.
    pub number: u64,
    /// The failure.
    pub failure: Failure,
}

/// A failure of a page, a tolerance, a stage or a batch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Failure {
    /// The quick attempts of a page are used up, and extended retries follow.
    PageStuck(PageFailure),
    /// A page was given up.
    PageFailed(PageFailure),
    /// Failures exceeded the tolerance.
    ToleranceExceeded {
        /// The limit that was exceeded, and by how much.
        reason: String,
        /// True if the batch paused itself and waits for a person. Otherwise it stopped.
        paused: bool,
    },
    /// A stage is done, but its check failed or failures exceeded the tolerance. The batch waits for approval.
    StageFailed {
        /// The stage, and the fault.
        reason: String,
    },
    /// The batch ended with an outcome other than `Completed`.
    Ended(Box<BatchReport>),
}

/// A hook that cannot be registered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RegisterHookError {
    /// Two hooks of one kind have the same name.
    #[error("two {kind}s are named \"{name}\"; batches could not tell them apart")]
    Duplicate {
        /// The kind of hook.
        kind: &'static str,
        /// The name.
        name: &'static str,
    },
    /// The name cannot be used in commands.
    #[error("{kind} name \"{name}\" is not allowed; use 1 to 100 letters, digits and . _ / : -")]
    Name {
        /// The kind of hook.
        kind: &'static str,
        /// The name.
        name: &'static str,
    },
}

/// A hook that the worker does not have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{kind} \"{name}\" is not registered; registered are: {registered}")]
pub(crate) struct UnknownHook {
    kind: &'static str,
    name: String,
    registered: String,
}

/// The error type of a call to a hook that the worker does not have.
pub(crate) const UNKNOWN_HOOK: &str = "UnknownHook";

const FAILURE_HANDLER: &str = "failure handler";
const TRACKER: &str = "tracker";
const COMPLETION_HOOK: &str = "completion hook";

type ByName<T> = BTreeMap<&'static str, Arc<T>>;

/// The hooks of a worker.
#[derive(Clone, Default)]
pub(crate) struct Hooks {
    failure_handlers: ByName<dyn ErasedFailureHandler>,
    trackers: ByName<dyn ErasedTracker>,
    completion_hooks: ByName<dyn ErasedCompletionHook>,
}

/// # Register
impl Hooks {
    pub fn failure_handler<H: FailureHandler>(&mut self, hook: H) -> Result<(), RegisterHookError> {
        add(
            &mut self.failure_handlers,
            FAILURE_HANDLER,
            H::NAME,
            Arc::new(hook),
        )
    }

    pub fn tracker<T: Tracker>(&mut self, hook: T) -> Result<(), RegisterHookError> {
        add(&mut self.trackers, TRACKER, T::NAME, Arc::new(hook))
    }

    pub fn completion_hook<C: CompletionHook>(&mut self, hook: C) -> Result<(), RegisterHookError> {
        add(
            &mut self.completion_hooks,
            COMPLETION_HOOK,
            C::NAME,
            Arc::new(hook),
        )
    }
}

fn add<T: ?Sized>(
    hooks: &mut ByName<T>,
    kind: &'static str,
    name: &'static str,
    hook: Arc<T>,
) -> Result<(), RegisterHookError> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "._/:-".contains(c);
    if name.is_empty() || name.len() > 100 || !name.chars().all(allowed) {
        return Err(RegisterHookError::Name { kind, name });
    }
    if hooks.contains_key(name) {
        return Err(RegisterHookError::Duplicate { kind, name });
    }
    hooks.insert(name, hook);
    Ok(())
}

fn find<'a, T: ?Sized>(
    hooks: &'a ByName<T>,
    kind: &'static str,
    name: &str,
) -> Result<&'a Arc<T>, UnknownHook> {
    hooks.get(name).ok_or_else(|| {
        let names: Vec<_> = hooks.keys().copied().collect();
        UnknownHook {
            kind,
            name: name.to_owned(),
            registered: if names.is_empty() {
                "none".to_owned()
            } else {
                names.join(", ")
            },
        }
    })
}

/// # Call
impl Hooks {
    /// Returns the names of all hooks. One name may stand for several kinds.
    pub fn names(&self) -> impl Iterator<Item = &'static str> + '_ {
        let handlers = self.failure_handlers.keys();
        let others = self.trackers.keys().chain(self.completion_hooks.keys());
        handlers.chain(others).copied()
    }

    /// Checks that all of these hooks are registered.
    pub fn check(&self, names: &HookNames) -> Result<(), UnknownHook> {
        if let Some(name) = &names.failure_handler {
            find(&self.failure_handlers, FAILURE_HANDLER, name)?;
        }
        if let Some(name) = &names.tracker {
            find(&self.trackers, TRACKER, name)?;
        }
        if let Some(name) = &names.completion_hook {
            find(&self.completion_hooks, COMPLETION_HOOK, name)?;
        }
        Ok(())
    }

    /// Calls a hook. The caller sees both errors and panics as an error with a message.
    pub async fn call(&self, name: &str, call: &HookCall) -> Result<(), PageError> {
        let failed = |error: &dyn std::fmt::Display| PageError::retryable(error);
        let called = match call {
            HookCall::Failure(notice) => find(&self.failure_handlers, FAILURE_HANDLER, name)
                .map(|hook| hook.on_failure(notice)),
            HookCall::Progress(progress) => {
                find(&self.trackers, TRACKER, name).map(|hook| hook.track(progress))
            }
            HookCall::Completed(report) => find(&self.completion_hooks, COMPLETION_HOOK, name)
                .map(|hook| hook.completed(report)),
            HookCall::Failed(report) => {
                find(&self.completion_hooks, COMPLETION_HOOK, name).map(|hook| hook.failed(report))
            }
        };
        let called = called.map_err(|unknown| failed(&unknown).with_type(UNKNOWN_HOOK))?;
        match AssertUnwindSafe(called).catch_unwind().await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(failed(&error).with_type("HookFailed")),
            Err(panic) => Err(PageError::panicked(&*panic)),
        }
    }
}

// The futures of the traits are wrapped so that a panic while creating one is caught like a panic inside it.
trait ErasedFailureHandler: Send + Sync {
    fn on_failure<'a>(&'a self, notice: &'a FailureNotice) -> BoxFuture<'a, HookResult>;
}

impl<H: FailureHandler> ErasedFailureHandler for H {
    fn on_failure<'a>(&'a self, notice: &'a FailureNotice) -> BoxFuture<'a, HookResult> {
        Box::pin(async move { FailureHandler::on_failure(self, notice).await })
    }
}

trait ErasedTracker: Send + Sync {
    fn track<'a>(&'a self, progress: &'a Progress) -> BoxFuture<'a, HookResult>;
}

impl<T: Tracker> ErasedTracker for T {
    fn track<'a>(&'a self, progress: &'a Progress) -> BoxFuture<'a, HookResult> {
        Box::pin(async move { Tracker::track(self, progress).await })
    }
}

trait ErasedCompletionHook: Send + Sync {
    fn completed<'a>(&'a self, report: &'a BatchReport) -> BoxFuture<'a, HookResult>;
    fn failed<'a>(&'a self, report: &'a BatchReport) -> BoxFuture<'a, HookResult>;
}

impl<C: CompletionHook> ErasedCompletionHook for C {
    fn completed<'a>(&'a self, report: &'a BatchReport) -> BoxFuture<'a, HookResult> {
        Box::pin(async move { CompletionHook::completed(self, report).await })
    }

    fn failed<'a>(&'a self, report: &'a BatchReport) -> BoxFuture<'a, HookResult> {
        Box::pin(async move { CompletionHook::failed(self, report).await })
    }
}

/// An event for a hook.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", content = "call", rename_all = "snake_case")]
#[non_exhaustive]
pub enum HookCall {
    /// A failure, for the failure handler.
    Failure(Box<FailureNotice>),
    /// The progress, for the tracker.
    Progress(Box<Progress>),
    /// The end of a batch that completed, for the completion hook.
    Completed(Box<BatchReport>),
    /// The end of any other batch, for the completion hook.
    Failed(Box<BatchReport>),
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Named<const BAD: bool>;

    #[async_trait]
    impl<const BAD: bool> FailureHandler for Named<BAD> {
        const NAME: &'static str = if BAD { "a b" } else { "mail" };

        async fn on_failure(&self, _: &FailureNotice) -> HookResult {
            Ok(())
        }
    }

    #[test]
    fn names_are_checked_and_unique() {
        let mut hooks = Hooks::default();
        hooks.failure_handler(Named::<false>).unwrap();
        let twice = hooks.failure_handler(Named::<false>).unwrap_err();
        assert!(
            twice.to_string().contains("two failure handlers"),
            "{twice}"
        );
        let bad = hooks.failure_handler(Named::<true>).unwrap_err();
        assert!(bad.to_string().contains("not allowed"), "{bad}");
    }

    #[test]
    fn an_unknown_hook_is_refused_with_the_names_that_are_known() {
        let mut hooks = Hooks::default();
        hooks.failure_handler(Named::<false>).unwrap();
        let mut names = HookNames {
            failure_handler: Some("mail".to_owned()),
            ..HookNames::default()
        };
        assert_eq!(hooks.check(&names), Ok(()));
        names.failure_handler = Some("x".to_owned());
        assert_eq!(
            hooks.check(&names).unwrap_err().to_string(),
            "failure handler \"x\" is not registered; registered are: mail"
        );
        names.failure_handler = None;
        names.tracker = Some("y".to_owned());
        assert_eq!(
            hooks.check(&names).unwrap_err().to_string(),
            "tracker \"y\" is not registered; registered are: none"
        );
    }
}

//! Requests of an operator in a simulation.

use std::time::Duration;

use super::world::OPERATOR;
use crate::{
    base::time::Timestamp,
    batch::validate::InvalidBatch,
    decisions::state::{BatchState, work::Work},
    progress::audit::Given,
    protocol::{ApproveRequest, PauseRequest, ResumeRequest, Steer, settings::Settings},
};

/// A request of an operator to a simulated batch. Requests have the effects of the methods of `BatchHandle` that have
/// the same names.
#[derive(Clone, Debug, PartialEq)]
pub struct Request(What);

#[derive(Clone, Debug, PartialEq)]
enum What {
    Steer(Box<Steer>),
    /// A cancellation comes by another way.
    Cancel(String),
}

/// # Construct
impl Request {
    /// Pauses the batch. Running pages finish.
    pub fn pause(reason: impl Into<String>) -> Self {
        Self::pausing(reason, false, None)
    }

    /// Pauses the batch and interrupts running pages where that is safe.
    pub fn pause_now(reason: impl Into<String>) -> Self {
        Self::pausing(reason, true, None)
    }

    /// Pauses the batch for a time.
    pub fn pause_for(duration: Duration, reason: impl Into<String>) -> Self {
        Self::pausing(reason, false, Some(duration))
    }

    fn pausing(reason: impl Into<String>, now: bool, lasting: Option<Duration>) -> Self {
        Self::steering(Steer::Pause(PauseRequest {
            reason: Some(reason.into()),
            now,
            lasting,
            ..PauseRequest::default()
        }))
    }

    fn steering(what: Steer) -> Self {
        Self(What::Steer(Box::new(what)))
    }

    /// Resumes the batch.
    pub fn resume() -> Self {
        Self::steering(Steer::Resume(ResumeRequest::default()))
    }

    /// Approves the stage that waits. Refused if none waits; the audit then has the reason.
    pub fn approve() -> Self {
        Self::steering(Steer::Approve(ApproveRequest::default()))
    }

    /// Changes settings.
    pub fn set(settings: Settings) -> Self {
        Self::steering(Steer::Set(settings.into_request()))
    }

    /// Cancels the batch.
    pub fn cancel(reason: impl Into<String>) -> Self {
        Self(What::Cancel(reason.into()))
    }
}

/// The time of a request.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum When {
    /// The request is due after this virtual time.
    At(Duration),
    /// The request is due after this number of finished pages.
    AfterPages(u64),
}

/// The requests that are still to come, in the order in which they were given.
#[derive(Clone, Debug, Default)]
pub(super) struct Script {
    begun: Timestamp,
    requests: Vec<(When, Request)>,
    applied: u64,
}

impl Script {
    pub fn add(&mut self, when: When, request: Request) {
        self.requests.push((when, request));
    }

    /// Checks the settings of all requests.
    pub fn validate(&self) -> Result<(), InvalidBatch> {
        self.requests
            .iter()
            .try_for_each(|(_, request)| match request {
                Request(What::Steer(what)) if let Steer::Set(request) = &**what => {
                    request.validate()
                }
                Request(_) => Ok(()),
            })
    }

    /// Counts times from now on.
    pub fn begins(mut self, now: Timestamp) -> Self {
        self.begun = now;
        self
    }

    pub fn is_due(&self, now: Timestamp, pages: u64) -> bool {
        self.next_due(now, pages).is_some()
    }

    fn next_due(&self, now: Timestamp, pages: u64) -> Option<usize> {
        self.requests.iter().position(|(when, _)| match when {
            When::At(after) => self.begun.plus(*after) <= now,
            When::AfterPages(n) => *n <= pages,
        })
    }

    /// The time at which a request is due next.
    pub fn due(&self) -> Option<Timestamp> {
        let times = self.requests.iter().filter_map(|(when, _)| match when {
            When::At(after) => Some(self.begun.plus(*after)),
            When::AfterPages(_) => None,
        });
        times.min()
    }

    /// Applies the requests that are due.
    pub fn apply<W: Work>(&mut self, state: &mut BatchState<W>, now: Timestamp, pages: u64) {
        while let Some(next) = self.next_due(now, pages) {
            let (_, Request(what)) = self.requests.remove(next);
            self.applied += 1;
            let by = |why| Given {
                who: Some(OPERATOR.to_owned()),
                why,
            };
            match what {
                What::Steer(what) => {
                    let id = self.applied.to_string();
                    state.hear_steering(now, what.signed(by(None), id));
                }
                What::Cancel(reason) => state.cancel(now, Some(&by(Some(reason)).to_text())),
            }
        }
    }
}

//! Requests of operators, and their answer.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use crate::{
    base::{error::truncate, known_fields::meant, time::Timestamp},
    batch::{
        pace_settings::{
            page_size::AutoPageSize, parallelism::AutoParallelism, ramp::Ramp, stride::Stride,
            validate_windows, window::Window,
        },
        tolerance::Tally,
        validate::{
            InvalidBatch, validate_max_parallelism, validate_page_pause, validate_page_rate,
            validate_page_size, validate_rate, validate_stride,
        },
    },
    progress::{PauseNote, audit::Given},
};

use super::message::messages;

messages!(
    SteerRequest,
    SetRequest,
    ResumeRequest,
    PauseRequest,
    Controls,
    ClientLooks,
    ApproveRequest
);

/// The state of a batch that operators can change while it runs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(remote = "Self")]
pub(crate) struct Controls {
    pub max_parallelism: u32,
    pub paused: bool,
    pub pause_reason: Option<String>,
    /// The message that more failed than is tolerated. Present until an operator resumes the batch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tripped: Option<String>,
    /// The numbers of done and failed items and pages at the time of the last resume.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forgiven: Option<Tally>,
    /// The reason why the batch is stopping by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stopping: Option<String>,
    /// The origin of the pause, while the batch is paused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pause: Option<PauseNote>,
    /// True if running pages should be interrupted where that is safe.
    pub stop_now: bool,
    /// The latest requests, so that a repeated one is not applied again.
    #[serde(default, skip_serializing_if = "VecDeque::is_empty")]
    pub requests: VecDeque<String>,
}

/// The number of requests that are remembered.
const MAX_REQUESTS: usize = 32;

impl Controls {
    /// Returns whether this request has been applied.
    pub fn is_known(&self, id: Option<&str>) -> bool {
        id.is_some_and(|id| self.requests.iter().any(|known| known == id))
    }

    /// Returns whether this request has not been applied yet, and marks it as applied.
    pub fn is_new(&mut self, id: Option<&str>) -> bool {
        let Some(id) = id else {
            return true;
        };
        if self.requests.iter().any(|known| known == id) {
            return false;
        }
        self.requests.push_back(id.to_owned());
        if self.requests.len() > MAX_REQUESTS {
            self.requests.pop_front();
        }
        true
    }
}

/// Argument of the `look` signal.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
#[serde(remote = "Self")]
pub(crate) struct ClientLooks {}

/// Argument of the `pause` update.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(remote = "Self")]
pub(crate) struct PauseRequest {
    pub reason: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub who: Option<String>,
    /// True if running pages should be interrupted where that is safe.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub now: bool,
    /// The time at which the batch resumes by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
    /// The time after which the batch resumes by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lasting: Option<Duration>,
    /// The same request may come as an update and as a signal; both have this id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
}

/// Argument of the `resume` update.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(remote = "Self")]
pub(crate) struct ResumeRequest {
    #[serde(flatten)]
    pub given: Given,
    /// See [`PauseRequest::id`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
}

/// Argument of the `set` update. An absent setting stays as it is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(remote = "Self")]
pub(crate) struct SetRequest {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_parallelism: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<Setting<f64>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub page_rate: Option<Setting<f64>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub page_pause: Option<Setting<Duration>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub page_size: Option<PageSizeSetting>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auto_parallelism: Option<AutoParallelism>,
    /// The ramp, whose final value becomes the parallelism.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ramp: Option<Ramp>,
    /// The operating windows. An empty list means that the batch is always open.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub windows: Option<Vec<Window>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stride: Option<Stride>,
    #[serde(flatten)]
    pub given: Given,
    /// See [`PauseRequest::id`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Settings that are not known here. They are refused when the request is checked: a signal that could not be
    /// read would fail the batch.
    #[serde(flatten)]
    pub other: BTreeMap<String, serde_json::Value>,
}

/// The settings of a [`SetRequest`], for the message that refuses any other.
pub(crate) const SETTINGS: [&str; 9] = [
    "max_parallelism",
    "rate",
    "page_rate",
    "page_pause",
    "page_size",
    "auto_parallelism",
    "ramp",
    "windows",
    "stride",
];

/// A setting that can be removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Setting<T> {
    Off,
    To(T),
}

impl<T> Setting<T> {
    pub fn into_option(self) -> Option<T> {
        match self {
            Self::Off => None,
            Self::To(value) => Some(value),
        }
    }
}

/// The number of items in a page, fixed or tuned.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum PageSizeSetting {
    Fixed(u32),
    Auto(AutoPageSize),
}

/// Payload of the `steer` signal. A client sends the signal when an update got no answer. The update may still have
/// been applied, so the request has an id and can be repeated without harm.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(remote = "Self")]
pub(crate) struct SteerRequest {
    pub id: String,
    pub what: Steer,
}

/// The request in a `steer` signal.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Steer {
    Pause(PauseRequest),
    Resume(ResumeRequest),
    Set(SetRequest),
    Approve(ApproveRequest),
    /// Notes in the audit that the run of the controller, or of a partition, was started again.
    Recover(RecoverNote),
    /// Adds an event to the history without any change. Workers report only the first failure of a workflow task, and
    /// a new event makes them report again.
    Nothing,
}

impl Steer {
    /// Returns the request with its author, reason and id.
    pub fn signed(mut self, by: Given, id: String) -> SteerRequest {
        match &mut self {
            Self::Pause(request) => {
                request.who = by.who;
                request.reason = request.reason.take().or(by.why);
                request.id = Some(id.clone());
            }
            Self::Resume(ResumeRequest { given, id: own })
            | Self::Approve(ApproveRequest { given, id: own })
            | Self::Set(SetRequest { given, id: own, .. }) => {
                *given = by;
                *own = Some(id.clone());
            }
            Self::Recover(_) | Self::Nothing => {}
        }
        SteerRequest { id, what: self }
    }
}

/// A recovery, as reported to the batch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct RecoverNote {
    #[serde(flatten)]
    pub given: Given,
    /// The partition that was recovered. Absent for the batch itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partition: Option<u32>,
}

/// Argument of the `approve` update.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(remote = "Self")]
pub(crate) struct ApproveRequest {
    #[serde(flatten)]
    pub given: Given,
    /// See [`PauseRequest::id`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
}

/// The number of characters shown of an unknown name.
const MAX_NAME_CHARS: usize = 80;

impl SetRequest {
    /// Checks every setting.
    pub(crate) fn validate(&self) -> Result<(), InvalidBatch> {
        if let Some(name) = self.other.keys().next() {
            return Err(InvalidBatch::UnknownSetting {
                name: truncate(name, MAX_NAME_CHARS),
                meant: meant(name, SETTINGS),
            });
        }
        if let Some(pages) = self.max_parallelism {
            validate_max_parallelism(pages)?;
        }
        validate_rate(self.rate.and_then(Setting::into_option))?;
        validate_page_rate(self.page_rate.and_then(Setting::into_option))?;
        validate_page_pause(self.page_pause.and_then(Setting::into_option))?;
        match &self.page_size {
            Some(PageSizeSetting::Fixed(items)) => validate_page_size(*items)?,
            Some(PageSizeSetting::Auto(auto)) => auto.validate()?,
            None => {}
        }
        match &self.stride {
            Some(Stride::Pages(pages)) => validate_stride(*pages)?,
            Some(Stride::Auto(auto)) => auto.validate()?,
            None => {}
        }
        if let Some(auto) = &self.auto_parallelism {
            auto.validate()?;
        }
        if let Some(ramp) = &self.ramp {
            ramp.validate()?;
        }
        if let Some(windows) = &self.windows {
            validate_windows(windows)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_setting_is_known_and_any_other_is_refused() {
        let request = |json: serde_json::Value| serde_json::from_value::<SetRequest>(json).unwrap();
        let known = request(serde_json::json!({"max_parallelism": 3, "who": "ann", "id": "1"}));
        assert_eq!(known.validate(), Ok(()));
        assert_eq!(known.given.who.as_deref(), Some("ann"));
        assert_eq!(
            serde_json::to_value(&known)
                .unwrap()
                .as_object()
                .unwrap()
                .len(),
            3
        );
        for name in SETTINGS {
            // Something that no setting takes.
            let wrong = serde_json::json!({name: [true, {}]});
            assert!(
                serde_json::from_value::<SetRequest>(wrong).is_err(),
                "{name}"
            );
        }
        let wrong = request(serde_json::json!({"max_paralelism": 3})).validate();
        assert_eq!(
            wrong.unwrap_err().to_string(),
            "there is no setting `max_paralelism`; did you mean `max_parallelism`?"
        );
    }
}

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

/// What operators can change while the batch runs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Controls {
    pub max_parallelism: u32,
    pub paused: bool,
    pub pause_reason: Option<String>,
    /// More failed than is tolerated; until somebody resumes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tripped: Option<String>,
    /// What had been done and had failed when somebody resumed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forgiven: Option<Tally>,
    /// The batch stops itself, for this reason.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stopping: Option<String>,
    /// Who paused it, while it is paused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pause: Option<PauseNote>,
    /// Running pages should not be waited for where that is safe.
    pub stop_now: bool,
    /// The latest requests, so that one that comes a second time is not applied again.
    #[serde(default, skip_serializing_if = "VecDeque::is_empty")]
    pub requests: VecDeque<String>,
}

/// Requests that are remembered.
const MAX_REQUESTS: usize = 32;

impl Controls {
    /// Whether this request has been applied.
    pub fn is_known(&self, id: Option<&str>) -> bool {
        id.is_some_and(|id| self.requests.iter().any(|known| known == id))
    }

    /// Whether this request has not been applied yet; it counts as applied from here on.
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
pub(crate) struct ClientLooks {}

/// Argument of the `pause` update.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct PauseRequest {
    pub reason: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub who: Option<String>,
    /// Do not wait for running pages where it is safe not to.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub now: bool,
    /// Go on by itself then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
    /// Go on by itself after this long.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lasting: Option<Duration>,
    /// The same request may come as an update and as a signal; both have this id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
}

/// Argument of the `resume` update.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct ResumeRequest {
    #[serde(flatten)]
    pub given: Given,
    /// See [`PauseRequest::id`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
}

/// Argument of the `set` update. What is absent stays as it is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
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
    /// The parallelism becomes what the ramp ends at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ramp: Option<Ramp>,
    /// None: open always.
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

/// A setting that can be taken away.
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

/// How many items a page should have.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum PageSizeSetting {
    Fixed(u32),
    Auto(AutoPageSize),
}

/// Payload of the `steer` signal. A client sends it when an update got no answer, which may still have
/// been applied: so it has an id, and what it asks for can be done twice without harm.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct SteerRequest {
    pub id: String,
    pub what: Steer,
}

/// What a `steer` signal asks for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Steer {
    Pause(PauseRequest),
    Resume(ResumeRequest),
    Set(SetRequest),
    Approve(ApproveRequest),
    /// The run of the controller, or of a partition, was started again: for the audit.
    Recover(RecoverNote),
    /// It is there to be an event: workers report the first failure of a workflow task only, and after an event
    /// there is a first one again.
    Nothing,
}

/// A recovery, told to the batch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct RecoverNote {
    #[serde(flatten)]
    pub given: Given,
    /// Of this partition.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partition: Option<u32>,
}

/// Argument of the `approve` update.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct ApproveRequest {
    #[serde(flatten)]
    pub given: Given,
    /// See [`PauseRequest::id`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
}

/// Characters that are shown of a name that is not known.
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

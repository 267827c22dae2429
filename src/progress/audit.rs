//! The audit trail of a batch: operators, their actions, the times and the reasons.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use crate::base::{error::truncate, time::Timestamp};

/// Maximum number of entries that are kept.
const MAX_ENTRIES: usize = 50;
const MAX_WHO_CHARS: usize = 100;
const MAX_WHY_CHARS: usize = 200;

/// The operator shown when a batch acts on its own.
const ITSELF: &str = "the batch itself";

/// An action on a batch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditEntry {
    /// The time at which the batch recorded it.
    pub at: Timestamp,
    /// The action, such as `pause` or `set max_parallelism to 5`.
    pub action: String,
    /// The operator, as named by the client. `None` if the client gave no name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub who: Option<String>,
    /// The reason that was given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

/// The operator and the reason of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Given {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub who: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

impl Given {
    /// Creates an action of the batch itself.
    pub fn by_itself(why: impl Into<String>) -> Self {
        Self {
            who: Some(ITSELF.to_owned()),
            why: Some(why.into()),
        }
    }

    /// Formats operator and reason as one text, because a cancellation through Temporal carries only one.
    pub fn to_text(&self) -> String {
        match (&self.why, &self.who) {
            (Some(why), Some(who)) => format!("{why} (by {who})"),
            (None, Some(who)) => format!("(by {who})"),
            (Some(why), None) => why.clone(),
            (None, None) => String::new(),
        }
    }

    /// Parses the text of a cancellation. Text in another format is taken as the reason.
    pub fn from_text(text: &str) -> Self {
        let told = |text: &str| {
            let text = text.trim();
            (!text.is_empty()).then(|| text.to_owned())
        };
        let parts = text
            .strip_suffix(')')
            .and_then(|text| text.rsplit_once("(by "));
        match parts {
            Some((why, who)) => Self {
                who: told(who),
                why: told(why),
            },
            None => Self {
                who: None,
                why: told(text),
            },
        }
    }
}

/// The latest entries, and the number of older ones.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Audit {
    entries: VecDeque<AuditEntry>,
    older: u64,
}

impl Audit {
    /// Adds an entry.
    pub fn note(&mut self, at: Timestamp, action: impl Into<String>, given: &Given) {
        let short = |text: &Option<String>, max| text.as_deref().map(|text| truncate(text, max));
        if self.entries.len() == MAX_ENTRIES {
            self.entries.pop_front();
            self.older += 1;
        }
        self.entries.push_back(AuditEntry {
            at,
            action: action.into(),
            who: short(&given.who, MAX_WHO_CHARS),
            why: short(&given.why, MAX_WHY_CHARS),
        });
    }

    /// Adds the start of the batch. Signals that arrived with the first workflow task were handled earlier, and
    /// their entries stay behind this one.
    pub fn begin(&mut self, at: Timestamp, action: impl Into<String>, given: &Given) {
        self.note(at, action, given);
        let before = self.entries.partition_point(|entry| entry.at < at);
        let later = self.entries.make_contiguous();
        later[before..].rotate_right(1);
    }

    /// Returns the latest entries, oldest first.
    pub fn entries(&self) -> Vec<AuditEntry> {
        self.entries.iter().cloned().collect()
    }

    /// Returns the number of entries that are no longer kept.
    pub fn older(&self) -> u64 {
        self.older
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_latest_are_kept_and_the_others_counted() {
        let mut audit = Audit::default();
        for n in 0..120 {
            audit.note(Timestamp(n), format!("act {n}"), &Given::default());
        }
        assert_eq!((audit.entries().len(), audit.older()), (50, 70));
        assert_eq!(audit.entries()[0].action, "act 70");
        assert_eq!(audit.entries()[49].action, "act 119");
    }

    #[test]
    fn what_came_with_the_first_task_follows_the_beginning() {
        let mut audit = Audit::default();
        audit.note(Timestamp(1), "stop", &Given::default());
        audit.note(Timestamp(7), "recover", &Given::default());
        audit.note(Timestamp(7), "pause", &Given::default());
        audit.begin(Timestamp(7), "continue", &Given::default());
        let actions: Vec<_> = audit.entries().into_iter().map(|e| e.action).collect();
        assert_eq!(actions, ["stop", "continue", "recover", "pause"]);
    }

    #[test]
    fn operator_and_reason_survive_a_text() {
        for (who, why) in [
            (Some("ann@db1"), Some("wrong table (users)")),
            (Some("ann@db1"), None),
            (None, Some("because")),
            (None, None),
        ] {
            let given = Given {
                who: who.map(str::to_owned),
                why: why.map(str::to_owned),
            };
            assert_eq!(Given::from_text(&given.to_text()), given);
        }
        let foreign = Given::from_text("from Temporal's own command line");
        assert_eq!(foreign.who, None);
    }
}

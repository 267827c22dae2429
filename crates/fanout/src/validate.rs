//! The settings and items that are allowed.

use std::time::Duration;

use crate::{
    fanout::{Fanout, Items, LIST_BYTES},
    protocol::{Duplicates, GivenItem, OnFailure, Tolerate},
};

/// The longest id, in bytes. Temporal counts bytes too, and allows 1,000 in a workflow id.
const LONGEST_ID: usize = 200;
const LONGEST_TIME: Duration = Duration::from_secs(365 * 86_400);

/// A setting or an item that is not allowed. Nothing was started.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidFanout {
    /// The id is empty, too long, or has characters that are not printable.
    #[error("the id \"{id}\" is not allowed: {why}")]
    Id {
        /// The id.
        id: String,
        /// The reason.
        why: String,
    },
    /// An item has an id that is not allowed.
    #[error("the id \"{id}\" of the item at position {position} is not allowed: {why}")]
    ItemId {
        /// The id.
        id: String,
        /// The position, from 0.
        position: usize,
        /// The reason.
        why: String,
    },
    /// Two items have the same id, and [`Duplicates::Refuse`] is set.
    #[error("the items at positions {first} and {second} have the same id \"{id}\"")]
    Duplicate {
        /// The id.
        id: String,
        /// The position of the first item.
        first: usize,
        /// The position of the second item.
        second: usize,
    },
    /// The arguments of the source do not serialize to JSON.
    #[error("the arguments of the source do not serialize: {why}")]
    ArgsNotStorable {
        /// The reason.
        why: String,
    },
    /// The list of items is too large to travel from run to run.
    #[error(
        "the items are {bytes} bytes of JSON; a list may have {LIST_BYTES}. Read more items from a source with `over_pages`"
    )]
    ListTooLarge {
        /// The size of the list.
        bytes: usize,
    },
    /// An item does not serialize to JSON.
    #[error("the item at position {position} does not serialize: {why}")]
    NotStorable {
        /// The position, from 0.
        position: usize,
        /// The reason.
        why: String,
    },
    /// A number is out of range.
    #[error("{setting} is {given}; it must be from {lowest} to {highest}")]
    Number {
        /// The setting.
        setting: &'static str,
        /// The given value.
        given: String,
        /// The lowest allowed value.
        lowest: &'static str,
        /// The highest allowed value.
        highest: &'static str,
    },
    /// The retries are not allowed.
    #[error("{0}")]
    Retry(String),
    /// An empty name.
    #[error("{setting} must not be empty")]
    Empty {
        /// The setting.
        setting: &'static str,
    },
}

impl Fanout {
    /// Checks the settings and the items.
    ///
    /// # Errors
    /// The first setting or item that is not allowed.
    pub fn validate(&self) -> Result<(), InvalidFanout> {
        if let Some(defect) = &self.defect {
            return Err(defect.clone());
        }
        check_id(&self.spec.id).map_err(|why| InvalidFanout::Id {
            id: self.spec.id.clone(),
            why,
        })?;
        self.check_numbers()?;
        for (setting, name) in [
            ("the task queue", Some(&self.task_queue)),
            (
                "the task queue of the children",
                self.spec.child_queue.as_ref(),
            ),
            (
                "the workflow type of the children",
                self.spec.child_type.as_ref(),
            ),
        ] {
            if name.is_some_and(String::is_empty) {
                return Err(InvalidFanout::Empty { setting });
            }
        }
        match &self.items {
            Items::Source { .. } => Ok(()),
            Items::List(items) => self.check_list(items),
        }
    }

    fn check_numbers(&self) -> Result<(), InvalidFanout> {
        let spec = &self.spec;
        let number = |setting, given: u32, lowest: &'static str, highest: &'static str| {
            let bound = |text: &str| text.parse::<u32>().unwrap_or(u32::MAX);
            let allowed = (bound(lowest)..=bound(highest)).contains(&given);
            (!allowed).then(|| InvalidFanout::Number {
                setting,
                given: given.to_string(),
                lowest,
                highest,
            })
        };
        let numbers = [
            number("window", spec.window, "1", "1000"),
            number("page size", spec.page_size, "1", "1000"),
            number("events per run", spec.events_per_run, "100", "20000"),
        ];
        if let Some(defect) = numbers.into_iter().flatten().next() {
            return Err(defect);
        }
        if let OnFailure::CollectAll {
            tolerate: Tolerate::Percent(given),
        } = spec.on_failure
            && !(0.0..=100.0).contains(&given)
        {
            return Err(InvalidFanout::Number {
                setting: "the percentage of tolerated failures",
                given: given.to_string(),
                lowest: "0",
                highest: "100",
            });
        }
        let times = [
            (
                "attempt timeout",
                spec.attempt_timeout,
                Duration::from_millis(1),
                "1 ms",
            ),
            (
                "heartbeat timeout",
                spec.heartbeat_timeout,
                Duration::from_secs(1),
                "1 s",
            ),
            (
                "execution timeout",
                spec.execution_timeout.unwrap_or(LONGEST_TIME),
                Duration::from_secs(1),
                "1 s",
            ),
        ];
        for (setting, given, shortest, lowest) in times {
            if given < shortest || given > LONGEST_TIME {
                return Err(InvalidFanout::Number {
                    setting,
                    given: format!("{given:?}"),
                    lowest,
                    highest: "365 days",
                });
            }
        }
        spec.retry
            .defect()
            .map_or(Ok(()), |why| Err(InvalidFanout::Retry(why)))
    }

    fn check_list(&self, items: &[GivenItem]) -> Result<(), InvalidFanout> {
        let mut seen = std::collections::BTreeMap::new();
        for (position, given) in items.iter().enumerate() {
            let id = &given.id;
            check_item_id(id).map_err(|why| InvalidFanout::ItemId {
                id: id.clone(),
                position,
                why,
            })?;
            if let Some(first) = seen.insert(id.as_str(), position)
                && self.spec.duplicates == Duplicates::Refuse
            {
                return Err(InvalidFanout::Duplicate {
                    id: id.clone(),
                    first,
                    second: position,
                });
            }
        }
        let bytes = items
            .iter()
            .map(|i| serde_json::to_string(i).map_or(0, |json| json.len() + 1));
        match bytes.sum() {
            bytes if bytes > LIST_BYTES => Err(InvalidFanout::ListTooLarge { bytes }),
            _ => Ok(()),
        }
    }
}

fn check_id(id: &str) -> Result<(), String> {
    let bytes = id.len();
    if !(1..=LONGEST_ID).contains(&bytes) {
        return Err(format!(
            "it has {bytes} bytes; 1 to {LONGEST_ID} are allowed"
        ));
    }
    match id.chars().find(|c| c.is_control()) {
        Some(c) => Err(format!("it has the control character {c:?}")),
        None => Ok(()),
    }
}

/// Checks the id of an item, which is a part of a workflow id.
pub(crate) fn check_item_id(id: &str) -> Result<(), String> {
    check_id(id)
}

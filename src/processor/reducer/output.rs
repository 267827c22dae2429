//! The stored state of a result.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Plan, ReduceError, Reducer};
use crate::base::error::{MAX_MESSAGE_CHARS, truncate};

/// The number of partial results at which they are combined.
const COMBINE_AT: usize = 16;
/// Maximum number of partial results that one activity combines. Even the largest ones are under 1 MiB in
/// total.
const COMBINE_AT_MOST: usize = 128;

/// The output of a stride. It is stored in reports and in heartbeats.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Output {
    /// The partial results. There is more than one only if the controller cannot combine them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    parts: Vec<Value>,
    /// The reason why there is no result. Once set, it stays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

impl Output {
    /// Returns the output of a part of a batch, such as a partition, from its `output` and `output_error`.
    pub fn of_part(result: Option<&Value>, error: Option<&str>) -> Self {
        Self {
            parts: result.into_iter().cloned().collect(),
            error: error.map(str::to_owned),
        }
    }

    /// Replaces the parts by one, or records the error.
    pub(super) fn change(
        &mut self,
        change: impl FnOnce(&mut Vec<Value>) -> Result<Value, ReduceError>,
    ) {
        if self.error.is_some() {
            return;
        }
        match change(&mut self.parts) {
            Ok(value) => self.parts = vec![value],
            Err(error) => self.fail(format!("{}: {error}", error.error_type())),
        }
        self.parts.retain(|part| !part.is_null());
    }

    fn fail(&mut self, error: String) {
        self.parts.clear();
        self.error
            .get_or_insert(truncate(&error, MAX_MESSAGE_CHARS));
    }
}

/// The result of a batch so far. It is stored with the chain.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Fold {
    plan: Plan,
    #[serde(flatten)]
    output: Output,
}

/// # Construct
impl Fold {
    /// Returns the result before any page.
    pub fn new(plan: Plan) -> Self {
        let mut output = Output::default();
        output.change(|_| Ok(plan.empty()));
        Self { plan, output }
    }
}

/// # Add
impl Fold {
    /// Adds the result of another part of the same batch, such as a partition. Pure, and independent of the
    /// order of the parts.
    pub fn merge(&mut self, other: Output) {
        if let Some(error) = other.error {
            self.output.fail(error);
        }
        if self.output.error.is_some() {
            return;
        }
        if self.plan == Plan::Custom {
            self.output.parts.extend(other.parts);
            return;
        }
        let reducer = Reducer::of(self.plan.clone());
        for part in other.parts {
            reducer.add(&mut self.output, part);
        }
    }
}

/// # Combine what only the code of the processor can
impl Fold {
    /// Returns the partial results that should be combined now. With `all`, two are enough.
    pub fn to_combine(&self, all: bool) -> Option<&[Value]> {
        let parts = &self.output.parts;
        let enough = if all { 2 } else { COMBINE_AT };
        (parts.len() >= enough).then(|| &parts[..parts.len().min(COMBINE_AT_MOST)])
    }

    /// Returns whether so many parts wait to be combined that no new work should start.
    pub fn is_full(&self) -> bool {
        self.output.parts.len() >= COMBINE_AT_MOST
    }

    /// Replaces the first `parts` parts by their combination.
    pub fn combined(&mut self, parts: usize, one: Value) {
        if self.output.error.is_none() {
            let parts = parts.min(self.output.parts.len());
            self.output.parts.splice(..parts, [one]);
            self.output.parts.retain(|part| !part.is_null());
        }
    }

    /// Records that there is no result.
    pub fn fail(&mut self, error: String) {
        self.output.fail(error);
    }
}

/// # Inspect
impl Fold {
    /// Returns the output, for another fold to take over.
    pub fn into_output(self) -> Output {
        self.output
    }

    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Returns the result so far: of all reported pages, or of the parts that have been combined.
    pub fn so_far(&self) -> Option<&Value> {
        self.output.parts.first()
    }

    /// Returns whether everything has been combined.
    pub fn is_whole(&self) -> bool {
        self.output.parts.len() <= 1
    }

    /// Returns the reason why there is no result.
    pub fn error(&self) -> Option<&str> {
        self.output.error.as_deref()
    }
}

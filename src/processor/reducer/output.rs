//! What is known of the result, as it is stored.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Plan, ReduceError, Reducer};
use crate::base::error::{MAX_MESSAGE_CHARS, truncate};

/// Partial results that are combined as soon as there are so many.
const COMBINE_AT: usize = 16;
/// Most partial results that one activity combines: with the largest ones under 1 MiB.
const COMBINE_AT_MOST: usize = 128;

/// What a stride has put out. Stored in reports and in heartbeats.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Output {
    /// Partial results. More than one only where the controller cannot combine them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    parts: Vec<Value>,
    /// Why there is no result, and never will be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

impl Output {
    /// What a batch has ended with that is a part of another one: its `output` and its `output_error`.
    pub fn of_part(result: Option<&Value>, error: Option<&str>) -> Self {
        Self {
            parts: result.into_iter().cloned().collect(),
            error: error.map(str::to_owned),
        }
    }

    /// Changes the parts into one, or finds that this cannot be.
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

/// The result of a batch so far. Stored with the ledger.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Fold {
    plan: Plan,
    #[serde(flatten)]
    output: Output,
}

/// # Construct
impl Fold {
    /// The result of nothing.
    pub fn new(plan: Plan) -> Self {
        let mut output = Output::default();
        output.change(|_| Ok(plan.empty()));
        Self { plan, output }
    }
}

/// # Add
impl Fold {
    /// Adds the result of another part of the same batch. Pure, and the same in whichever order: a parent does this with
    /// what its partitions come back with.
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
    /// The partial results that should be combined now; `all` of them, if need be.
    pub fn to_combine(&self, all: bool) -> Option<&[Value]> {
        let parts = &self.output.parts;
        let enough = if all { 2 } else { COMBINE_AT };
        (parts.len() >= enough).then(|| &parts[..parts.len().min(COMBINE_AT_MOST)])
    }

    /// So many wait to be combined that nothing more should be begun.
    pub fn is_full(&self) -> bool {
        self.output.parts.len() >= COMBINE_AT_MOST
    }

    /// The first so many parts are one now.
    pub fn combined(&mut self, parts: usize, one: Value) {
        if self.output.error.is_none() {
            let parts = parts.min(self.output.parts.len());
            self.output.parts.splice(..parts, [one]);
            self.output.parts.retain(|part| !part.is_null());
        }
    }

    /// There is no result any more.
    pub fn fail(&mut self, error: String) {
        self.output.fail(error);
    }
}

/// # Inspect
impl Fold {
    /// What another fold takes over.
    pub fn into_output(self) -> Output {
        self.output
    }

    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The result so far: of everything that was reported, or of what has been combined of it.
    pub fn so_far(&self) -> Option<&Value> {
        self.output.parts.first()
    }

    /// Whether everything has been combined.
    pub fn is_whole(&self) -> bool {
        self.output.parts.len() <= 1
    }

    /// Why there is no result.
    pub fn error(&self) -> Option<&str> {
        self.output.error.as_deref()
    }
}

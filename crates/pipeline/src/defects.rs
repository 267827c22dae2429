//! Pipelines that are refused.

use temporal_batch::errors::InvalidItemRetry;

/// A pipeline that is not allowed, found when it is built.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidPipeline {
    /// Two parts have one name, and counters and kept results could not tell them apart.
    #[error("two parts of the pipeline are named \"{name}\"; give each its own name")]
    Duplicate {
        /// The name.
        name: String,
    },
    /// A name cannot be shown or stored.
    #[error(
        "the name \"{name}\" is not allowed; use 1 to 60 letters, digits and . _ -, with spaces in between only"
    )]
    Name {
        /// The name.
        name: String,
    },
    /// A `for_each` could run no item.
    #[error("for_each runs {given} items at once; it must be 1 to 10000")]
    Concurrency {
        /// The number that was given.
        given: usize,
    },
    /// The retry of a step is not allowed.
    #[error("step \"{step}\": {source}")]
    Retry {
        /// The name of the step.
        step: String,
        /// The setting that is wrong.
        source: InvalidItemRetry,
    },
    /// The attempts of the page at a step are out of range.
    #[error("step \"{step}\" has {given} attempts of its page; it must be 1 to 10")]
    PageAttempts {
        /// The name of the step.
        step: String,
        /// The number that was given.
        given: u32,
    },
    /// A result is to be kept, but there is no store.
    #[error(
        "step \"{step}\" keeps its result, but the pipeline has no store; build it with Pipeline::with_store"
    )]
    NoStore {
        /// The name of the step.
        step: String,
    },
}

/// The names and the defects of the parts of a pipeline, in their order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Inspection {
    pub names: Vec<String>,
    /// The steps that keep their results for the page, or for the item in a `for_each`.
    pub kept: Vec<String>,
    /// The steps within a `for_each` that keep their results.
    pub kept_by_item: Vec<String>,
    pub defects: Vec<InvalidPipeline>,
}

const LONGEST_NAME: usize = 60;

impl Inspection {
    pub fn of_part(name: &str) -> Self {
        let mut part = Self::default();
        let allowed = |c: char| c.is_alphanumeric() || " ._-".contains(c);
        let length = name.chars().count();
        // MySQL and MariaDB ignore spaces at the end of a key.
        if name.is_empty()
            || name.trim() != name
            || length > LONGEST_NAME
            || !name.chars().all(allowed)
        {
            part.defects.push(InvalidPipeline::Name {
                name: name.to_owned(),
            });
        }
        part.names.push(name.to_owned());
        part
    }

    pub fn and(mut self, other: Self) -> Self {
        self.names.extend(other.names);
        self.kept.extend(other.kept);
        self.kept_by_item.extend(other.kept_by_item);
        self.defects.extend(other.defects);
        self
    }

    /// Returns the inspection of a `for_each` over this part.
    pub fn of_items(mut self) -> Self {
        self.kept_by_item.append(&mut self.kept);
        self
    }

    /// Returns the first defect.
    pub fn verdict(mut self, has_store: bool) -> Result<(), InvalidPipeline> {
        if let Some(defect) = self.defects.into_iter().next() {
            return Err(defect);
        }
        self.names.sort_unstable();
        if let Some(pair) = self.names.windows(2).find(|pair| pair[0] == pair[1]) {
            let name = pair[0].clone();
            return Err(InvalidPipeline::Duplicate { name });
        }
        let mut kept = self.kept.into_iter().chain(self.kept_by_item);
        match kept.next() {
            Some(step) if !has_store => Err(InvalidPipeline::NoStore { step }),
            _ => Ok(()),
        }
    }
}

//! Partitions: as a processor names them and as they are stored.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::{
    base::{error::PageError, text::given},
    page::token::PageToken,
};

/// Maximum number of partitions with which a batch can start.
pub(crate) const MAX_PARTITIONS: usize = 1_000;

/// Maximum bytes of the names, starts and ends of all partitions, which are kept with the state of the batch.
pub(crate) const MAX_PARTITIONS_BYTES: usize = 128 * 1024;

const MAX_NAME_CHARS: usize = 100;

/// One of the independent ranges of a batch: a key range, a tenant, a file, a database.
///
/// See [`PageProcessor::partitions`](crate::PageProcessor::partitions).
#[derive(Clone, Debug, PartialEq)]
pub struct Partition<C> {
    /// The name: unique in the batch, 1 to 100 characters. The processor reads it as
    /// [`PageContext::partition`](crate::PageContext::partition).
    pub name: String,
    /// The exclusive start. `None` is the beginning of the data.
    pub start: Option<C>,
    /// The inclusive end. `None` is the end of the data.
    pub end: Option<C>,
    /// The estimated number of items, if known. Large partitions start first and get a larger share of the
    /// limits.
    pub items: Option<u64>,
}

impl<C> Partition<C> {
    /// Creates a partition without bounds that the processor recognises by its name: a tenant, a file, a database.
    pub fn named(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            start: None,
            end: None,
            items: None,
        }
    }

    /// Creates the partition with the range `(start, end]`.
    pub fn range(name: impl Into<String>, start: Option<C>, end: Option<C>) -> Self {
        Self {
            start,
            end,
            ..Self::named(name)
        }
    }

    /// Sets the estimated number of items.
    #[must_use]
    pub fn items(mut self, items: u64) -> Self {
        self.items = Some(items);
        self
    }
}

/// A partition as it is stored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct PartitionSpec {
    pub name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<PageToken>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<PageToken>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub items: Option<u64>,
    /// The processor's name for the partition, if the partition came from a split and has a name of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub split_from: Option<String>,
}

impl PartitionSpec {
    /// Returns the bytes that the partition takes in the state of the batch.
    pub(crate) fn stored_bytes(&self) -> usize {
        let tokens = [&self.start, &self.end].into_iter().flatten();
        let tokens = tokens.map(PageToken::stored_bytes);
        self.name.len() + self.split_from.as_ref().map_or(0, String::len) + tokens.sum::<usize>()
    }

    /// Returns the processor's name for the partition.
    pub fn own_name(&self) -> &str {
        self.split_from.as_deref().unwrap_or(&self.name)
    }
}

/// Partitions that are not allowed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidPartitions {
    /// The list is empty.
    #[error("no partitions were named; name at least 1, which may be empty if there is no data")]
    None,
    /// The list of partitions is too long.
    #[error("{given} partitions were named; at most {MAX_PARTITIONS} are allowed")]
    TooMany {
        /// The number of partitions.
        given: usize,
    },
    /// A name is not allowed.
    #[error(
        "partition name \"{name}\" is not allowed; use 1 to 100 characters without control characters"
    )]
    Name {
        /// The name, shortened.
        name: String,
    },
    /// Two partitions have the same name.
    #[error("two partitions are named \"{name}\"; names must be unique")]
    Duplicate {
        /// The name.
        name: String,
    },
    /// A partition cannot contain anything.
    #[error("partition \"{name}\" ends where it begins; leave it out")]
    Empty {
        /// The name.
        name: String,
    },
    /// The partitions do not fit into the state of a batch.
    #[error(
        "names, starts and ends of the partitions are {bytes} bytes; at most {MAX_PARTITIONS_BYTES} are allowed"
    )]
    TooLarge {
        /// The size in bytes.
        bytes: usize,
    },
    /// A cursor that cannot be stored.
    #[error("partition \"{name}\": {message}")]
    Cursor {
        /// The name.
        name: String,
        /// The reason.
        message: String,
    },
}

/// Checks the partitions that a processor named and converts them to the stored form.
pub(crate) fn stored<C: Serialize>(
    partitions: Vec<Partition<C>>,
) -> Result<Vec<PartitionSpec>, InvalidPartitions> {
    if partitions.is_empty() {
        return Err(InvalidPartitions::None);
    }
    if partitions.len() > MAX_PARTITIONS {
        return Err(InvalidPartitions::TooMany {
            given: partitions.len(),
        });
    }
    let mut names = BTreeSet::new();
    let mut bytes = 0;
    let mut specs = Vec::with_capacity(partitions.len());
    for partition in partitions {
        let name = partition.name;
        let shown = || given(&name, 60);
        let printable = !name.chars().any(char::is_control);
        if name.trim().is_empty() || name.chars().count() > MAX_NAME_CHARS || !printable {
            return Err(InvalidPartitions::Name { name: shown() });
        }
        if !names.insert(name.clone()) {
            return Err(InvalidPartitions::Duplicate { name });
        }
        let token = |cursor: &Option<C>| cursor.as_ref().map(PageToken::encode).transpose();
        let cursor = |error: PageError| InvalidPartitions::Cursor {
            name: shown(),
            message: error.message().to_owned(),
        };
        let start = token(&partition.start).map_err(cursor)?;
        let end = token(&partition.end).map_err(cursor)?;
        if end.is_some() && start == end {
            return Err(InvalidPartitions::Empty { name });
        }
        let spec = PartitionSpec {
            name,
            start,
            end,
            items: partition.items,
            split_from: None,
        };
        bytes += spec.stored_bytes();
        specs.push(spec);
    }
    if bytes > MAX_PARTITIONS_BYTES {
        return Err(InvalidPartitions::TooLarge { bytes });
    }
    Ok(specs)
}

/// Returns the first stride number of a partition. Partition n is numbered from n × 2^32, so every stride of a batch
/// run has a unique number.
pub(crate) fn first_stride(partition: u32) -> u64 {
    u64::from(partition) << 32
}

/// Returns the number of the partition that a stride belongs to, which is 0 if there are no partitions.
pub(crate) fn partition_of(stride: u64) -> u64 {
    stride >> 32
}

/// Returns the prefix of the keys of pages and dead letters. Cursors of two partitions may be equal, so the prefix
/// contains the partition.
pub(crate) fn scope_of(batch_run: &str, stride: u64) -> String {
    match partition_of(stride) {
        0 => batch_run.to_owned(),
        partition => format!("{batch_run}.p{partition}"),
    }
}

#[cfg(test)]
mod tests {

    use super::*;

    fn named(names: &[&str]) -> Result<Vec<PartitionSpec>, InvalidPartitions> {
        stored::<u64>(names.iter().map(|name| Partition::named(*name)).collect())
    }

    #[test]
    fn partitions_that_cannot_be_are_refused() {
        assert_eq!(named(&[]), Err(InvalidPartitions::None));
        let many: Vec<String> = (0..=MAX_PARTITIONS).map(|n| n.to_string()).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert_eq!(
            named(&many),
            Err(InvalidPartitions::TooMany { given: 1_001 })
        );
        assert!(named(&many[..MAX_PARTITIONS]).is_ok());
        for bad in ["", "  ", "a\nb", &"x".repeat(101)] {
            let refused = named(&["a", bad]);
            assert!(
                matches!(refused, Err(InvalidPartitions::Name { .. })),
                "{bad:?}"
            );
        }
        let name = "a".to_owned();
        assert_eq!(
            named(&["a", "b", "a"]),
            Err(InvalidPartitions::Duplicate { name })
        );
        let empty = stored(vec![Partition::range("a", Some(3), Some(3))]);
        assert!(matches!(empty, Err(InvalidPartitions::Empty { .. })));
        let long = "x".repeat(1_000);
        let large = (0..200).map(|n| Partition::range(n.to_string(), None, Some(long.clone())));
        assert!(matches!(
            stored(large.collect()),
            Err(InvalidPartitions::TooLarge { .. })
        ));
    }

    #[test]
    fn strides_of_different_partitions_never_have_one_number_or_scope() {
        assert_eq!(partition_of(first_stride(7) + 12), 7);
        assert_eq!(scope_of("run", 12), "run", "as without partitions");
        assert_ne!(
            scope_of("run", first_stride(1)),
            scope_of("run", first_stride(2))
        );
    }
}

//! The claim of an attempt on the ids of its requests.

use temporal_batch::Timestamp;

use crate::request::Request;

/// The ids that an attempt claims. Ids that another transaction has claimed are not claimed again.
pub struct Claims<'a> {
    pub(super) batcher: &'a str,
    /// A mark that is different for each attempt: a later attempt at the same batch must not take rows that an earlier
    /// one has committed for its own.
    pub(super) mark: String,
    pub(super) at: i64,
    /// The claimed ids in ascending order, because two transactions that claim the same ids in different orders could
    /// wait for each other.
    pub(super) ids: Vec<&'a str>,
}

impl<'a> Claims<'a> {
    pub(super) fn new(batcher: &'a str, requests: &'a [Request], at: Timestamp) -> Self {
        let mut ids: Vec<_> = requests.iter().map(|request| request.id.as_str()).collect();
        ids.sort_unstable();
        Self {
            batcher,
            mark: uuid::Uuid::new_v4().to_string(),
            at: i64::try_from(at.0).unwrap_or(i64::MAX),
            ids,
        }
    }
}

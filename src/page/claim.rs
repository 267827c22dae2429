//! Claims of pages in a page ledger.

/// The outcome of a claim of a page in a page ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ClaimOutcome {
    /// The page was applied and committed.
    Committed,
    /// The ledger refused the claim: a later attempt or another worker has the page.
    Fenced,
    /// The page failed, or the ledger did not answer. Nothing was committed.
    Failed,
}

impl ClaimOutcome {
    /// Returns the value of the metric's label.
    pub fn label(self) -> &'static str {
        match self {
            Self::Committed => "committed",
            Self::Fenced => "fenced",
            Self::Failed => "failed",
        }
    }
}

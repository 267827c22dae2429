//! The range of a page.

/// The part of the data that a fetch may read: everything after `start`, up to and including `end`.
///
/// `start` is `None` at the beginning of the data. `end` is `None` until the start of the next page is known.
/// From then on the range is closed for every later attempt, and rows outside it belong to other pages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageRange<C> {
    start: Option<C>,
    end: Option<C>,
}

impl<C> PageRange<C> {
    /// Creates the range `(start, end]`.
    pub fn new(start: Option<C>, end: Option<C>) -> Self {
        Self { start, end }
    }

    /// Returns the exclusive lower bound. `None` means from the beginning.
    pub fn start(&self) -> Option<&C> {
        self.start.as_ref()
    }

    /// Returns the inclusive upper bound. `None` means that there is none yet.
    pub fn end(&self) -> Option<&C> {
        self.end.as_ref()
    }
}

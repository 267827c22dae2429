//! The items of a page between two steps.

use std::ops::Deref;

use serde::{Deserialize, Serialize};

/// The items of a page that are still under way, as a slice in the order of the page. Each keeps its position in the page,
/// so that a later failure is reported for the right item. Items that failed without a fallback or were skipped are no
/// longer among them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Items<T> {
    items: Vec<T>,
    positions: Vec<usize>,
}

impl<T> Deref for Items<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.items
    }
}

impl<T> Items<T> {
    /// Wraps the items of a page.
    pub(crate) fn of_page(items: Vec<T>) -> Self {
        let positions = (0..items.len()).collect();
        Self { items, positions }
    }

    /// Returns the items.
    pub fn into_vec(self) -> Vec<T> {
        self.items
    }

    /// Converts each item and keeps its position.
    pub fn map<U>(self, convert: impl FnMut(T) -> U) -> Items<U> {
        Items {
            items: self.items.into_iter().map(convert).collect(),
            positions: self.positions,
        }
    }

    pub(crate) fn at(items: impl IntoIterator<Item = (usize, T)>) -> Self {
        let (positions, items) = items.into_iter().unzip();
        Self { items, positions }
    }

    pub(crate) fn with_positions(self) -> impl Iterator<Item = (usize, T)> {
        self.positions.into_iter().zip(self.items)
    }
}

//! The approximate size of rows, measured from those that were read.

use std::sync::atomic::{AtomicUsize, Ordering};

/// The number of rows to ask for while the size is unknown.
const FIRST: usize = 100;

/// The approximate bytes of a row; 0 while unknown.
#[derive(Debug, Default)]
pub(super) struct RowBytes(AtomicUsize);

impl RowBytes {
    /// Returns the approximate number of rows with this many bytes; at least one.
    pub fn rows_in(&self, bytes: usize) -> usize {
        match self.0.load(Ordering::Relaxed) {
            0 => FIRST,
            of_a_row => (bytes / of_a_row).max(1),
        }
    }

    pub fn note(&self, rows: usize, bytes: usize) {
        if let Some(of_a_row) = bytes.checked_div(rows) {
            self.0.store(of_a_row.max(1), Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_rows_are_asked_for_as_fit() {
        let known = RowBytes::default();
        assert_eq!(known.rows_in(1_000), FIRST);
        known.note(10, 1_000);
        assert_eq!(known.rows_in(1_000), 10);
        assert_eq!(known.rows_in(50), 1);
        known.note(0, 0);
        assert_eq!(known.rows_in(1_000), 10);
        known.note(10, 0);
        assert_eq!(known.rows_in(1_000), 1_000);
    }
}

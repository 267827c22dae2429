//! The number of connections of a pool.

/// The largest number of connections of a pool by default. More do not make a database faster.
pub(crate) const MOST: u32 = 64;
/// Connections for the other work of a worker: finding the starts of later pages, keeping reports.
const BESIDE: u32 = 2;
/// The same for SQLite, which has one writer; the other connections read.
#[cfg(feature = "sqlite")]
pub(crate) const MOST_OF_SQLITE: u32 = 4;

/// Returns one connection for each page and two more, but at most `most`, and at most three quarters of the connections
/// that the server `allows` this user. The rest is for the server's other users. The size is at least one.
pub(crate) fn pool_size(pages: u32, most: u32, allows: Option<u32>) -> u32 {
    let share = allows.map_or(u32::MAX, |allows| allows - allows.div_ceil(4));
    pages.saturating_add(BESIDE).min(most).min(share).max(1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_examples_of_the_guide_hold() {
        assert_eq!(pool_size(10, MOST, Some(97)), 12);
        assert_eq!(pool_size(500, MOST, Some(97)), 64);
        assert_eq!(pool_size(500, MOST, Some(50)), 37);
        assert_eq!(pool_size(500, MOST, None), 64);
        assert_eq!(pool_size(10, MOST, Some(1)), 1);
    }

    proptest! {
        /// The size is within every bound, and never 0.
        #[test]
        fn a_pool_is_never_empty_and_leaves_others_their_share(
            pages: u32,
            most in 1..1000u32,
            allows in proptest::option::of(0..10_000u32),
        ) {
            let size = pool_size(pages, most, allows);
            prop_assert!((1..=most).contains(&size));
            if let Some(allows) = allows.filter(|&allows| allows > 1) {
                prop_assert!(allows - size >= allows / 4);
            }
        }

        /// A larger number of pages never gets fewer connections.
        #[test]
        fn a_pool_grows_with_the_pages(pages in 0..1000u32, more in 0..1000u32, allows in 0..1000u32) {
            let few = pool_size(pages, MOST, Some(allows));
            prop_assert!(few <= pool_size(pages + more, MOST, Some(allows)));
        }
    }
}

//! The size of a page by the bytes of its items.

use temporal_batch::settings::PAGE_BYTES;

/// The default page size of a batch, beyond which a larger page rarely pays.
const MOST: u64 = 1_000;
/// The copies of an item that are in memory at once: as fetched, and as the latest step returned it.
const COPIES: u64 = 2;

/// Suggests a page size, from the bytes of an item, the memory that the pages of a worker may use, and the pages that it
/// runs at once. The suggestion is 1 to 1,000 items.
///
/// A page takes twice the bytes of its items, because a step has its input and its output. A page is also kept to
/// [`PAGE_BYTES`].
///
/// ```
/// use temporal_batch_pipeline::suggest_page_size;
///
/// const MIB: u64 = 1024 * 1024;
/// assert_eq!(suggest_page_size(200, 256 * MIB, 10), 1_000);
/// // Documents of half a MiB:
/// assert_eq!(suggest_page_size(MIB / 2, 256 * MIB, 10), 25);
/// // Larger than the memory: one at a time.
/// assert_eq!(suggest_page_size(500 * MIB, 256 * MIB, 10), 1);
/// ```
pub fn suggest_page_size(item_bytes: u64, worker_memory: u64, pages_at_once: u32) -> u32 {
    let share = worker_memory / COPIES / u64::from(pages_at_once.max(1));
    let bytes = share.min(PAGE_BYTES as u64);
    let items = bytes / item_bytes.max(1);
    u32::try_from(items.clamp(1, MOST)).expect("at most 1,000")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_suggested_page_fits_or_has_one_item(
            item in 0_u64..1 << 40, memory in 0_u64..1 << 40, pages in 0_u32..1_000,
        ) {
            let size = u64::from(suggest_page_size(item, memory, pages));
            prop_assert!((1..=MOST).contains(&size));
            let fits = size * item * COPIES * u64::from(pages.max(1)) <= memory;
            prop_assert!(size == 1 || fits && size * item <= PAGE_BYTES as u64);
        }
    }
}

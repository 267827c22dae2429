//! Page sizes by the bytes of an item.

use temporal_batch_pipeline::suggest_page_size;

const KIB: u64 = 1_024;
const MIB: u64 = 1_024 * KIB;

pub fn run() {
    println!("for 256 MiB and 10 pages at once:");
    for (bytes, what) in [
        (512 * KIB, "documents of 512 KiB"),
        (128 * KIB, "pictures of 128 KiB"),
        (24 * KIB, "records of 24 KiB"),
        (200, "rows of 200 bytes"),
    ] {
        println!(
            "  {what}: {} a page",
            suggest_page_size(bytes, 256 * MIB, 10)
        );
    }
}

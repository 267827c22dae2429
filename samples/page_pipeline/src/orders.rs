//! Orders of a web shop, generated from a seed. The same seed gives the same orders everywhere.

/// An order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Order {
    pub id: u64,
    pub cents: u64,
    pub shipped: bool,
}

impl Order {
    pub fn generate(id: u64, seed: u64) -> Self {
        // The finalizer of a well-known hash spreads neighbouring numbers well enough.
        let mut spread = (id ^ seed.rotate_left(32)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        spread ^= spread >> 31;
        Self {
            id,
            cents: 500 + spread % 90_000,
            shipped: spread >> 40 & 3 == 0,
        }
    }
}

/// The orders after `start`, up to and including `end`.
pub fn orders(start: u64, end: u64, seed: u64) -> impl Iterator<Item = Order> {
    (start + 1..=end).map(move |id| Order::generate(id, seed))
}

pub fn cents(n: u64, seed: u64) -> i64 {
    orders(0, n, seed).map(|order| order.cents as i64).sum()
}

pub fn shipped(n: u64, seed: u64) -> u64 {
    orders(0, n, seed).filter(|order| order.shipped).count() as u64
}

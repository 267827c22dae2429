//! The orders of the sample.

use serde::{Deserialize, Serialize};

/// One order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Order {
    pub id: String,
    pub cents: u32,
    /// The time that its fulfilment takes.
    pub millis: u64,
    pub card_is_declined: bool,
}

/// Orders `ITEM-001` and so on, which are the same for the same seed. Each takes 100 to 300 ms.
pub fn orders(count: u32, seed: u64, declined: &[String]) -> Vec<Order> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut order = |number| {
        let id = format!("ITEM-{number:03}");
        Order {
            cents: random.u32(100..100_000),
            millis: random.u64(100..=300),
            card_is_declined: declined.contains(&id),
            id,
        }
    };
    (1..=count).map(&mut order).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_orders() {
        let declined = ["ITEM-002".to_owned()];
        assert_eq!(orders(5, 7, &declined), orders(5, 7, &declined));
        assert_ne!(orders(5, 7, &declined), orders(5, 8, &declined));
        assert!(orders(5, 7, &declined)[1].card_is_declined);
    }
}

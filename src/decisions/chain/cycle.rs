//! Finds a chain of tokens that runs in a circle, in constant memory.

use serde::{Deserialize, Serialize};

use crate::page::token::PageToken;

/// R. P. Brent's cycle finding (BIT 20, 1980). It remembers one token and moves it forward at every power of two, so a
/// circle of length n is noticed at most about 3n tokens after its beginning.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct CycleDetector {
    remembered: Option<PageToken>,
    steps: u64,
    limit: u64,
}

impl CycleDetector {
    pub fn starting_at(first: Option<PageToken>) -> Self {
        Self {
            remembered: first,
            steps: 0,
            limit: 1,
        }
    }

    /// Takes the next token of the chain. Returns `true` if the token has been seen before.
    pub fn sees(&mut self, token: &PageToken) -> bool {
        if self.remembered.as_ref() == Some(token) {
            return true;
        }
        self.steps += 1;
        if self.steps == self.limit {
            self.remembered = Some(token.clone());
            self.steps = 0;
            self.limit = self.limit.saturating_mul(2);
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(n: u64) -> PageToken {
        PageToken::encode(&n).unwrap()
    }

    #[test]
    fn every_circle_is_found_soon() {
        for lead in 0..20 {
            for length in 1..30 {
                let mut detector = CycleDetector::starting_at(None);
                let found = (0..).position(|i: u64| {
                    let n = if i < lead {
                        i
                    } else {
                        lead + (i - lead) % length
                    };
                    detector.sees(&token(n))
                });
                let bound = 3 * (lead + length) + 3;
                assert!(found.unwrap() as u64 <= bound, "{lead} {length} {found:?}");
            }
        }
    }

    #[test]
    fn a_chain_without_a_circle_is_never_blamed() {
        let mut detector = CycleDetector::starting_at(None);
        assert!((0..100_000).all(|n| !detector.sees(&token(n))));
    }
}

//! The division of a batch's limits among its partitions.
//!
//! Every running partition keeps to its share without asking the parent, so the shares that all of them hold never add
//! up to more than the batch may have. A share that shrinks stays held until its partition confirms the new one. Only
//! then is the difference given to another partition.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use super::MAX_RUNNING;
use crate::protocol::partition::Share;

impl Share {
    /// Returns the share that is left beside `other`. If nothing is left of a rate, no page can run.
    pub(super) fn without(self, other: &Self) -> Self {
        let rate = |mine: Option<f64>, other: Option<f64>| {
            let left = mine.map(|mine| (mine, mine - unlimited(other)));
            // The remainder left by rounding counts as zero.
            left.map(|(mine, left)| if left > mine * 1e-9 { left } else { 0.0 })
        };
        let (items, pages) = (
            rate(self.rate, other.rate),
            rate(self.page_rate, other.page_rate),
        );
        let stands_still = items == Some(0.0) || pages == Some(0.0);
        Self {
            parallelism: match stands_still {
                true => 0,
                false => self.parallelism.saturating_sub(other.parallelism),
            },
            rate: items,
            page_rate: pages,
        }
    }
}

/// A running partition.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Holder {
    /// The share of its latest message.
    pub given: Share,
    /// The share that it may still use. It exceeds `given` until the partition confirms a smaller share.
    pub held: Share,
    /// Upper bound on the pages in flight that it can use.
    pub most: Option<u32>,
    /// The remaining work, relative to the other partitions.
    pub weight: f64,
}

/// The result of a division.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Division {
    /// The shares of the running partitions, in their order.
    pub shares: Vec<Share>,
    /// The shares of the partitions that begin now.
    pub begin: Vec<Share>,
    /// Pages in flight that no partition can use.
    pub unused: u32,
}

/// Divides `total` among the running partitions and as many of the waiting ones as possible. Only the weights of
/// waiting partitions matter.
pub(super) fn divide(total: &Share, running: &[Holder], waiting: &[f64]) -> Division {
    let (slots, begin) = slots(total.parallelism, running, waiting);
    let all: u32 = slots.iter().chain(&begin).sum();
    let desired = |slots: u32| {
        let part = f64::from(slots) / f64::from(all.max(1));
        Share {
            parallelism: slots,
            rate: total.rate.map(|rate| rate * part),
            page_rate: total.page_rate.map(|rate| rate * part),
        }
    };
    let mut held: Vec<Share> = running.iter().map(|holder| holder.held).collect();
    let mut shares = Vec::with_capacity(running.len());
    for (i, slots) in slots.iter().enumerate() {
        let share = bounded(total, &held, Some(i), &desired(*slots));
        held[i] = most(&held[i], &share);
        shares.push(share);
    }
    let mut begun = Vec::with_capacity(begin.len());
    for slots in begin {
        let wanted = desired(slots);
        let share = bounded(total, &held, None, &wanted);
        let enough =
            |got: Option<f64>, wanted: Option<f64>| unlimited(got) * 2.0 >= unlimited(wanted);
        if share.parallelism == 0
            || !enough(share.rate, wanted.rate)
            || !enough(share.page_rate, wanted.page_rate)
        {
            break;
        }
        held.push(share);
        begun.push(share);
    }
    Division {
        shares,
        begin: begun,
        unused: total.parallelism.saturating_sub(all),
    }
}

/// The larger value of each limit.
pub(super) fn most(a: &Share, b: &Share) -> Share {
    let rate = |a: Option<f64>, b: Option<f64>| Some(a?.max(b?));
    Share {
        parallelism: a.parallelism.max(b.parallelism),
        rate: rate(a.rate, b.rate),
        page_rate: rate(a.page_rate, b.page_rate),
    }
}

/// Returns whether a partition that keeps to `share` also keeps to `other`.
pub(super) fn is_within(share: &Share, other: &Share) -> bool {
    share.parallelism <= other.parallelism
        && unlimited(share.rate) <= unlimited(other.rate)
        && unlimited(share.page_rate) <= unlimited(other.page_rate)
}

fn unlimited(rate: Option<f64>) -> f64 {
    rate.unwrap_or(f64::INFINITY)
}

/// The desired share, cut to what the other partitions leave. A partition may keep what it already holds.
fn bounded(total: &Share, held: &[Share], own: Option<usize>, desired: &Share) -> Share {
    let others = || {
        held.iter()
            .enumerate()
            .filter(|(i, _)| Some(*i) != own)
            .map(|(_, s)| s)
    };
    let mine = own.map(|own| held[own]);
    let taken: u32 = others().map(|share| share.parallelism).sum();
    let left = total.parallelism.saturating_sub(taken);
    let rate = |of: fn(&Share) -> Option<f64>| {
        let (total, desired) = (of(total)?, of(desired)?);
        let taken: f64 = others().map(|share| unlimited(of(share))).sum();
        let left = (total - taken).max(0.0);
        let mine = mine.as_ref().map_or(0.0, |mine| unlimited(of(mine)));
        Some(desired.min(left.max(mine)))
    };
    Share {
        parallelism: desired
            .parallelism
            .min(left.max(mine.map_or(0, |mine| mine.parallelism))),
        rate: rate(|share| share.rate),
        page_rate: rate(|share| share.page_rate),
    }
}

/// Divides the pages in flight among the running partitions and those that begin. A partition keeps its pages unless
/// there are too many, it cannot use them, or another one has none.
fn slots(total: u32, running: &[Holder], waiting: &[f64]) -> (Vec<u32>, Vec<u32>) {
    let cap = |holder: &Holder| holder.most.unwrap_or(u32::MAX).max(1);
    let mut slots: Vec<u32> = running
        .iter()
        .map(|holder| holder.given.parallelism.min(cap(holder)))
        .collect();
    let take_one = |slots: &mut Vec<u32>, leave: u32| {
        // The largest one, and the last among equals.
        let largest = (0..slots.len()).max_by_key(|i| slots[*i]);
        match largest.filter(|i| slots[*i] > leave) {
            Some(largest) => slots[largest] -= 1,
            None => return false,
        }
        true
    };
    while slots.iter().sum::<u32>() > total && take_one(&mut slots, 0) {}
    let places = total.min(MAX_RUNNING) as usize;
    let begin = waiting.len().min(places.saturating_sub(running.len()));
    let mut begun = Vec::new();
    for place in 0..running.len() + begin {
        if slots.get(place).is_some_and(|slots| *slots > 0) {
            continue;
        }
        let full = slots.iter().chain(&begun).sum::<u32>() >= total;
        if full && !take_one(&mut slots, 1) {
            break;
        }
        match slots.get_mut(place) {
            Some(slots) => *slots = 1,
            None => begun.push(1),
        }
    }
    let mut free = total - slots.iter().chain(&begun).sum::<u32>();
    while free > 0 {
        let of_running = running
            .iter()
            .enumerate()
            .filter(|(i, h)| slots[*i] < cap(h));
        let of_running = of_running.map(|(i, h)| (i, h.weight / f64::from(slots[i].max(1))));
        let of_begun = begun.iter().zip(waiting).enumerate();
        let of_begun = of_begun.map(|(i, (n, weight))| (slots.len() + i, weight / f64::from(*n)));
        // The partition with the most work left per page in flight, and the first among equals.
        let neediest = of_running
            .chain(of_begun)
            .reduce(|a, b| if b.1 > a.1 { b } else { a });
        let Some((place, _)) = neediest else {
            break;
        };
        match slots.get_mut(place) {
            Some(slots) => *slots += 1,
            None => begun[place - running.len()] += 1,
        }
        free -= 1;
    }
    (slots, begun)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn share(parallelism: u32) -> Share {
        Share {
            parallelism,
            ..Share::default()
        }
    }

    fn holder(parallelism: u32) -> Holder {
        Holder {
            given: share(parallelism),
            held: share(parallelism),
            most: None,
            weight: 1.0,
        }
    }

    #[test]
    fn whoever_finishes_leaves_its_share_to_those_with_most_left() {
        let running = [
            Holder {
                weight: 900.0,
                ..holder(2)
            },
            Holder {
                weight: 100.0,
                ..holder(2)
            },
        ];
        let division = divide(&share(8), &running, &[]);
        assert_eq!(division.shares, [share(6), share(2)]);
    }

    #[test]
    fn who_waits_gets_a_place_before_others_get_more() {
        let division = divide(&share(4), &[holder(4)], &[1.0, 1.0]);
        assert_eq!(division.shares, [share(2)]);
        assert_eq!(
            division.begin,
            [],
            "not before the first one keeps to its share"
        );
        let settled = Holder {
            held: share(2),
            given: share(2),
            ..holder(2)
        };
        let division = divide(&share(4), &[settled], &[1.0, 1.0]);
        assert_eq!(division.begin, [share(1), share(1)]);
    }

    #[test]
    fn what_one_cannot_use_goes_to_others_and_the_rest_is_left() {
        let idle = Holder {
            most: Some(1),
            ..holder(4)
        };
        let division = divide(&share(8), &[idle, holder(4)], &[]);
        assert_eq!(
            division.shares,
            [share(1), share(4)],
            "until it keeps to its share"
        );
        let idle = Holder {
            most: Some(1),
            ..holder(1)
        };
        let division = divide(&share(8), &[idle, holder(4)], &[]);
        assert_eq!(division.shares, [share(1), share(7)]);
        assert_eq!(divide(&share(8), &[idle, idle], &[]).unused, 6);
    }

    fn limit() -> impl Strategy<Value = Share> {
        let rate = || prop::option::of(0.5f64..10_000.0);
        (0u32..40, rate(), rate()).prop_map(|(parallelism, rate, page_rate)| Share {
            parallelism,
            rate,
            page_rate,
        })
    }

    /// An event between two divisions.
    #[derive(Clone, Debug)]
    enum Happens {
        Limits(Share),
        Settled(usize),
        Finished(usize),
        Uses(usize, Option<u32>),
        Nothing,
    }

    fn happens() -> impl Strategy<Value = Happens> {
        prop_oneof![
            2 => limit().prop_map(Happens::Limits),
            6 => (0usize..40).prop_map(Happens::Settled),
            3 => (0usize..40).prop_map(Happens::Finished),
            2 => (0usize..40, prop::option::of(1u32..5)).prop_map(|(i, most)| Happens::Uses(i, most)),
            1 => Just(Happens::Nothing),
        ]
    }

    fn sums(running: &[Holder]) -> (u32, f64, f64) {
        running.iter().fold((0, 0.0, 0.0), |(p, r, g), holder| {
            (
                p + holder.held.parallelism,
                r + unlimited(holder.held.rate),
                g + unlimited(holder.held.page_rate),
            )
        })
    }

    fn apply(total: &Share, running: &mut Vec<Holder>, waiting: &mut Vec<f64>) {
        let division = divide(total, running, waiting);
        for (holder, share) in running.iter_mut().zip(&division.shares) {
            holder.given = *share;
            holder.held = most(&holder.held, share);
        }
        for share in division.begin {
            let weight = waiting.remove(0);
            running.push(Holder {
                given: share,
                held: share,
                most: None,
                weight,
            });
        }
    }

    proptest! {
        /// Held shares exceed a limit only where it was lowered, and then they only shrink.
        #[test]
        fn what_is_held_never_adds_up_to_more_than_the_limits(
            first in limit(),
            weights in prop::collection::vec(1.0f64..1e6, 1..60),
            events in prop::collection::vec(happens(), 0..60),
        ) {
            let (mut total, mut running, mut waiting) = (first, Vec::<Holder>::new(), weights);
            for event in events {
                match event {
                    Happens::Limits(limits) => total = limits,
                    Happens::Settled(i) => if let Some(holder) = running.get_mut(i) {
                        holder.held = holder.given;
                    },
                    Happens::Finished(i) if i < running.len() => {
                        running.remove(i);
                    }
                    Happens::Uses(i, most) => if let Some(holder) = running.get_mut(i) {
                        holder.most = most;
                    },
                    Happens::Finished(_) | Happens::Nothing => {}
                }
                let before = sums(&running);
                apply(&total, &mut running, &mut waiting);
                let after = sums(&running);
                prop_assert!(after.0 <= total.parallelism.max(before.0));
                let most = |limit: Option<f64>, before: f64| unlimited(limit).max(before) * (1.0 + 1e-9);
                prop_assert!(after.1 <= most(total.rate, before.1));
                prop_assert!(after.2 <= most(total.page_rate, before.2));
                prop_assert!(running.len() <= MAX_RUNNING as usize);
            }
        }

        /// After the last change every partition has a share, and nothing usable is left over.
        #[test]
        fn once_everybody_settled_nothing_usable_is_left(
            first in limit(),
            then in limit(),
            weights in prop::collection::vec(1.0f64..1e6, 1..60),
        ) {
            let (mut running, mut waiting) = (Vec::new(), weights);
            apply(&first, &mut running, &mut waiting);
            for _ in 0..200 {
                apply(&then, &mut running, &mut waiting);
                for holder in &mut running {
                    holder.held = holder.given;
                }
            }
            let given: u32 = running.iter().map(|holder| holder.given.parallelism).sum();
            let expected = if running.is_empty() { 0 } else { then.parallelism };
            prop_assert_eq!(given, expected);
            if then.parallelism as usize >= running.len() {
                prop_assert!(running.iter().all(|holder| holder.given.parallelism > 0));
            }
            let places = then.parallelism.min(MAX_RUNNING) as usize;
            prop_assert!(waiting.is_empty() || running.len() >= places);
            if let (Some(rate), true) = (then.rate, given > 0) {
                let sum: f64 = running.iter().map(|holder| holder.given.rate.unwrap()).sum();
                prop_assert!((sum - rate).abs() <= rate * 1e-6, "{} of {}", sum, rate);
            }
        }
    }
}

//! The choice of the parts that make up the whole.
//!
//! Attempts at one stride may cut it into different pages, a lost attempt leaves its parts behind, and a late one
//! adds parts after others have finished. So the parts in a directory overlap. Each part holds the records of one
//! page, from its start to its end, and every page that the engine counted as finished left a part. An unbroken chain
//! from the beginning to the end of the data is therefore always among them, and any such chain has every record
//! once. Where there is a choice, the part that was written last counts: it belongs to the attempt that counted, unless
//! another attempt came late.
//!
//! This file does not know the order of the cursors, since a database may sort by a collation of its own. Two parts
//! are neighbours exactly if the token that ends one begins the other.

use std::collections::{HashMap, HashSet};

use crate::page::token::PageToken;

/// A range of the data that was read and written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Link {
    /// The beginning; `None` for the beginning of the data.
    pub start: Option<PageToken>,
    /// The end; `None` for the end of the data.
    pub end: Option<PageToken>,
    /// The stride whose attempt wrote the part.
    pub stride: u64,
    /// The time of writing. Only the choice between complete chains depends on it.
    pub written: u128,
    /// True if the part is only one record of the range, redriven by itself.
    pub alone: bool,
}

/// The chosen links, by their positions in the input.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Chain {
    /// The links from the beginning to the end.
    pub links: Vec<usize>,
    /// All other links.
    pub orphans: Vec<usize>,
}

/// A position from which no link leads on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Hole {
    /// The end of the part before the hole; `None` for the beginning of the data.
    pub after: Option<PageToken>,
    /// The beginning of the next known part; `None` if nothing follows.
    pub before: Option<PageToken>,
}

/// The largest number of holes that are described.
const MAX_HOLES: usize = 20;

/// Finds the links that lead from `start` to the end of the data.
///
/// # Errors
/// The positions from which no link leads on.
pub(crate) fn chain(links: &[Link], start: Option<&PageToken>) -> Result<Chain, Vec<Hole>> {
    let mut walk = Walk::new(links);
    if let Some(path) = walk.walk_to_end(start) {
        let counted: HashSet<usize> = path.iter().copied().collect();
        let orphans = (0..links.len()).filter(|i| !counted.contains(i));
        return Ok(Chain {
            orphans: orphans.collect(),
            links: path,
        });
    }
    Err(walk.holes(start))
}

struct Walk<'a> {
    links: &'a [Link],
    /// The links that begin at a position; the one to try first is the last.
    from: HashMap<Option<&'a PageToken>, Vec<usize>>,
    seen: HashSet<Option<&'a PageToken>>,
}

impl<'a> Walk<'a> {
    fn new(links: &'a [Link]) -> Self {
        let mut best: HashMap<(Option<&PageToken>, Option<&PageToken>), usize> = HashMap::new();
        for (i, link) in links.iter().enumerate() {
            // A whole page comes before a single record of it.
            let rank = |i: usize| (!links[i].alone, links[i].written, links[i].stride);
            let kept = best
                .entry((link.start.as_ref(), link.end.as_ref()))
                .or_insert(i);
            if rank(i) > rank(*kept) {
                *kept = i;
            }
        }
        let mut from: HashMap<_, Vec<usize>> = HashMap::new();
        for ((start, _), i) in best {
            from.entry(start).or_default().push(i);
        }
        for choices in from.values_mut() {
            // The token only makes the choice deterministic.
            choices.sort_by_key(|i| {
                let link = &links[*i];
                (
                    link.written,
                    link.stride,
                    link.end.as_ref().map(PageToken::as_str),
                )
            });
        }
        Self {
            links,
            from,
            seen: HashSet::new(),
        }
    }

    /// Walks as far as possible, goes back where necessary, and visits no position twice.
    fn walk_to_end(&mut self, start: Option<&'a PageToken>) -> Option<Vec<usize>> {
        let mut path: Vec<usize> = Vec::new();
        let mut here = start;
        self.seen.insert(here);
        loop {
            let next = self.from.get_mut(&here).and_then(Vec::pop);
            let Some(next) = next else {
                let back = path.pop()?;
                here = self.links[back].start.as_ref();
                continue;
            };
            match self.links[next].end.as_ref() {
                None => {
                    path.push(next);
                    return Some(path);
                }
                end if self.seen.insert(end) => {
                    path.push(next);
                    here = end;
                }
                _ => {}
            }
        }
    }

    /// Returns the holes after a walk that did not reach the end.
    fn holes(&mut self, start: Option<&'a PageToken>) -> Vec<Hole> {
        let ends: HashSet<_> = self.links.iter().filter_map(|l| l.end.as_ref()).collect();
        let mut pieces: Vec<&Link> = self
            .links
            .iter()
            .filter(|l| l.start.as_ref().is_none_or(|s| !ends.contains(s)))
            .collect();
        pieces.sort_by_key(|l| (l.stride, l.written));
        let mut holes = Vec::new();
        let mut known: HashSet<_> = self.seen.clone();
        let mut after = self.frontier(&known, start);
        for piece in pieces {
            let begin = piece.start.as_ref();
            if holes.len() == MAX_HOLES || self.seen.contains(&begin) {
                continue;
            }
            holes.push(Hole {
                after: after.cloned(),
                before: begin.cloned(),
            });
            if self.walk_to_end(begin).is_some() {
                return holes;
            }
            let new = self.seen.difference(&known).copied().collect();
            after = self.frontier(&new, begin);
            known.clone_from(&self.seen);
        }
        if holes.len() < MAX_HOLES {
            holes.push(Hole {
                after: after.cloned(),
                before: None,
            });
        }
        holes
    }

    /// Returns the furthest position from which no link leads on.
    fn frontier(
        &self,
        places: &HashSet<Option<&'a PageToken>>,
        start: Option<&'a PageToken>,
    ) -> Option<&'a PageToken> {
        let begun: HashSet<_> = self.links.iter().map(|l| l.start.as_ref()).collect();
        let last = self
            .links
            .iter()
            .filter(|l| l.end.is_some() && places.contains(&l.end.as_ref()))
            .filter(|l| !begun.contains(&l.end.as_ref()))
            .max_by_key(|l| (l.stride, l.written));
        last.map_or(start, |l| l.end.as_ref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn token(n: u32) -> Option<PageToken> {
        (n > 0).then(|| PageToken::encode(&n).unwrap())
    }

    /// Returns a link. `end` 0 is the end of the data, `start` 0 its beginning.
    fn link(start: u32, end: u32, stride: u64, written: u128) -> Link {
        Link {
            start: token(start),
            end: token(end),
            stride,
            written,
            alone: false,
        }
    }

    fn ranges(links: &[Link], chain: &[usize]) -> Vec<(u32, u32)> {
        let number = |t: &Option<PageToken>| t.as_ref().map_or(0, |t| t.decode().unwrap());
        let of = |i: &usize| (number(&links[*i].start), number(&links[*i].end));
        chain.iter().map(of).collect()
    }

    #[test]
    fn what_was_written_last_counts() {
        let links = [
            link(0, 10, 1, 1),
            link(10, 20, 1, 2),
            link(0, 15, 1, 3),
            link(15, 20, 1, 4),
            link(20, 0, 2, 5),
        ];
        let found = chain(&links, None).unwrap();
        assert_eq!(ranges(&links, &found.links), [(0, 15), (15, 20), (20, 0)]);
        assert_eq!(found.orphans, [0, 1]);
    }

    #[test]
    fn what_leads_nowhere_does_not_count_however_late_it_was() {
        let links = [link(0, 20, 1, 1), link(20, 0, 2, 2), link(0, 10, 1, 9)];
        let found = chain(&links, None).unwrap();
        assert_eq!(ranges(&links, &found.links), [(0, 20), (20, 0)]);
    }

    #[test]
    fn holes_are_named_in_order() {
        let links = [
            link(0, 10, 1, 1),
            link(20, 30, 2, 2),
            link(30, 40, 2, 3),
            link(50, 0, 3, 4),
        ];
        let holes = chain(&links, None).unwrap_err();
        let hole = |after, before| Hole {
            after: token(after),
            before: token(before),
        };
        assert_eq!(holes, [hole(10, 20), hole(40, 50)]);
        assert_eq!(chain(&links[..3], None).unwrap_err()[1], hole(40, 0));
        assert_eq!(chain(&links[1..], None).unwrap_err()[0], hole(0, 20));
        assert_eq!(chain(&[], None).unwrap_err(), [hole(0, 0)]);
    }

    #[test]
    fn a_circle_is_no_chain() {
        let links = [link(0, 10, 1, 1), link(10, 20, 1, 2), link(20, 10, 1, 3)];
        assert!(chain(&links, None).is_err());
        let mut closed = links.to_vec();
        closed.push(link(10, 0, 1, 0));
        let found = chain(&closed, None).unwrap();
        assert_eq!(ranges(&closed, &found.links), [(0, 10), (10, 0)]);
    }

    #[test]
    fn one_record_never_stands_for_its_page() {
        let mut links = vec![link(0, 10, 1, 1), link(0, 10, 1, 2), link(10, 0, 1, 3)];
        links[1].alone = true;
        assert_eq!(chain(&links, None).unwrap().links, [0, 2]);
    }

    /// An attempt at a stride: its beginning, as an index into the finished pages, and its cuts.
    #[derive(Clone, Debug)]
    struct Attempt {
        /// The number of pages finished by the previous attempt that were never reported.
        lost: usize,
        cuts: Vec<u32>,
        /// The number of pages before it is lost; the last attempt is not lost.
        pages: usize,
        /// The number of pages that a lost attempt writes later, within the range that it knew.
        late: usize,
    }

    fn attempts() -> impl Strategy<Value = Vec<Attempt>> {
        let attempt = (
            0..4usize,
            prop::collection::vec(1..8u32, 1..12),
            0..6usize,
            0..4usize,
        );
        prop::collection::vec(
            attempt.prop_map(|(lost, cuts, pages, late)| Attempt {
                lost,
                cuts,
                pages,
                late,
            }),
            1..5,
        )
    }

    /// Writes the pages of a stride `(start, end]` like the engine: an attempt begins at the last reported position
    /// of the previous one, cuts freely, and its last page ends where the stride ends. Returns the parts that count,
    /// and the late ones.
    fn run(
        stride: u64,
        (start, end): (u32, u32),
        ends_data: bool,
        attempts: &[Attempt],
        links: &mut Vec<Link>,
        late: &mut Vec<Link>,
    ) -> Vec<(u32, u32)> {
        let mut done: Vec<(u32, u32)> = Vec::new();
        for (n, attempt) in attempts.iter().enumerate() {
            let last = n + 1 == attempts.len();
            done.truncate(done.len().saturating_sub(attempt.lost));
            let mut at = done.last().map_or(start, |page| page.1);
            for (pages, cut) in attempt.cuts.iter().cycle().enumerate() {
                let lost = !last && pages >= attempt.pages;
                if at >= end || (lost && pages >= attempt.pages + attempt.late) {
                    break;
                }
                let to = (at + cut).min(end);
                let written = links.len() as u128;
                if lost {
                    late.push(link(at, to, stride, written));
                } else {
                    links.push(link(at, to, stride, written));
                    done.push((at, to));
                }
                at = to;
            }
            if ends_data && last {
                links.push(link(end, 0, stride, links.len() as u128));
            }
        }
        done
    }

    proptest! {
        #[test]
        fn parts_tile_the_data_whatever_attempts_did(
            strides in prop::collection::vec((1..40u32, attempts()), 1..6),
            remove in any::<prop::sample::Index>(),
            order in any::<u64>(),
        ) {
            let (mut links, mut late, mut counted) = (Vec::new(), Vec::new(), Vec::new());
            let mut at = 0;
            for (n, (length, attempts)) in strides.iter().enumerate() {
                let range = (at, at + length);
                let ends = n + 1 == strides.len();
                counted.extend(run(n as u64 + 1, range, ends, attempts, &mut links, &mut late));
                at += length;
            }
            counted.push((at, 0));
            // Directory listings have no particular order.
            fastrand::Rng::with_seed(order).shuffle(&mut links);
            let found = chain(&links, None).unwrap();
            prop_assert_eq!(&ranges(&links, &found.links), &counted);
            prop_assert_eq!(found.links.len() + found.orphans.len(), links.len());

            // Late parts change the choice, but every record still occurs once.
            for (n, link) in late.iter_mut().enumerate() {
                link.written = (links.len() + n) as u128;
            }
            let mut all = links.clone();
            all.extend(late);
            let found = chain(&all, None).unwrap();
            let tiles = ranges(&all, &found.links);
            let mut next = 0;
            for (start, end) in &tiles[..tiles.len() - 1] {
                prop_assert_eq!(*start, next);
                prop_assert!(end > start);
                next = *end;
            }
            prop_assert_eq!(tiles[tiles.len() - 1], (at, 0));
            prop_assert_eq!(next, at);

            // Without one of them, the chain is complete all the same, or the hole is named.
            let gone = found.links[remove.index(found.links.len())];
            let gone = all.remove(gone);
            match chain(&all, None) {
                Ok(other) => {
                    let tiles = ranges(&all, &other.links);
                    prop_assert!(tiles.windows(2).all(|pair| pair[0].1 == pair[1].0));
                    prop_assert_eq!((tiles[0].0, tiles[tiles.len() - 1].1), (0, 0));
                }
                Err(holes) => {
                    prop_assert!(!holes.is_empty());
                    // No link leads from the beginning of the first one.
                    let after = &holes[0].after;
                    prop_assert!(!all.iter().any(|l| l.start == *after) || *after == gone.start);
                }
            }
        }
    }
}

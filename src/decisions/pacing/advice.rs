//! Settings that are allowed and cannot work well, and the flags that mend them.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::time::Duration;

use crate::base::text::{about, count, per_second};

/// The wait for its share of the rate beyond which a page appears to hang.
const LONG: f64 = 30.0;
/// The approximate wait of pages under the proposed settings.
const GOOD: f64 = 5.0;

/// The facts on which advice is based.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Terms {
    pub rate: Option<f64>,
    pub page_rate: Option<f64>,
    pub page_size: u32,
    /// True if the page size is tuned, so that none must be proposed.
    pub tuned_size: bool,
    pub max_parallelism: u32,
    pub permit_per_item: bool,
    /// The length of strides, where it is fixed.
    pub stride: Option<u32>,
    pub cannot_skip: bool,
}

/// Returns one sentence for each setting that should be changed.
pub(crate) fn advice(terms: &Terms) -> Vec<String> {
    let all = [of_rate(terms), of_page_rate(terms), of_stride(terms)];
    all.into_iter().flatten().collect()
}

/// The page size that fits a share of the rate, where a page of `page_size` items waits too long for its permits.
pub(crate) fn fitting_page(page_size: u32, share: f64) -> Option<u32> {
    let fits = fits(share * GOOD, page_size);
    (f64::from(page_size) / share > LONG && fits < page_size).then_some(fits)
}

fn of_rate(terms: &Terms) -> Option<String> {
    let rate = terms.rate?;
    let (size, slots) = (terms.page_size.max(1), terms.max_parallelism.max(1));
    let takes = |size: u32, slots: u32| f64::from(size) * f64::from(slots) / rate;
    if takes(size, slots) <= LONG {
        return None;
    }
    let better_slots = fits(rate * GOOD, slots);
    let better_size = match terms.tuned_size {
        true => size,
        false => fits(rate * GOOD / f64::from(better_slots), size),
    };
    let mut flags = Vec::new();
    if better_slots != slots {
        flags.push(format!("--max-parallelism {better_slots}"));
    }
    if better_size != size {
        flags.push(format!("--page-size {better_size}"));
    }
    if flags.is_empty() {
        return None;
    }
    let what = match terms.permit_per_item {
        true => "lasts",
        false => "waits",
    };
    let hint = match terms.permit_per_item {
        true => "; a pause or another rate waits for its end",
        false => " and then takes all of its items at once",
    };
    Some(format!(
        "at {} items/s with {} in flight a page of {} {what} {}{hint}; {} would make that {}",
        per_second(rate),
        count(slots.into(), "page"),
        count(size.into(), "item"),
        about(seconds(takes(size, slots))),
        flags.join(" "),
        about(seconds(takes(better_size, better_slots))),
    ))
}

fn of_page_rate(terms: &Terms) -> Option<String> {
    let rate = terms.page_rate?;
    let slots = terms.max_parallelism.max(1);
    let takes = |slots: u32| f64::from(slots) / rate;
    let better = fits(rate * GOOD, slots);
    if takes(slots) <= LONG || better == slots {
        return None;
    }
    Some(format!(
        "at {} pages/s with {} in flight a page waits {}; --max-parallelism {better} would make that {}",
        per_second(rate),
        count(slots.into(), "page"),
        about(seconds(takes(slots))),
        about(seconds(takes(better))),
    ))
}

fn of_stride(terms: &Terms) -> Option<String> {
    let pages = terms.stride.filter(|pages| *pages > 1)?;
    terms.cannot_skip.then(|| {
        format!(
            "stride {pages} is ignored, as the source cannot skip ahead: each activity has one page; leave --stride \
             out, or give the processor a skip_ahead"
        )
    })
}

/// The largest whole number that fits, at least 1 and no more than `most`.
fn fits(room: f64, most: u32) -> u32 {
    (room.floor().clamp(1.0, f64::from(u32::MAX)) as u32).min(most)
}

fn seconds(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn terms(rate: f64, page_size: u32, max_parallelism: u32) -> Terms {
        Terms {
            rate: Some(rate),
            page_rate: None,
            page_size,
            tuned_size: false,
            max_parallelism,
            permit_per_item: false,
            stride: None,
            cannot_skip: false,
        }
    }

    #[test]
    fn pages_that_are_too_large_for_the_rate_are_named_with_the_flag_that_mends_it() {
        assert_eq!(
            advice(&terms(200.0, 1_000, 10)),
            [
                "at 200 items/s with 10 pages in flight a page of 1,000 items waits 50s and then takes all of its items \
                 at once; --page-size 100 would make that 5s"
            ]
        );
        let by_item = Terms {
            permit_per_item: true,
            ..terms(200.0, 1_000, 10)
        };
        assert_eq!(
            advice(&by_item),
            [
                "at 200 items/s with 10 pages in flight a page of 1,000 items lasts 50s; a pause or another rate waits \
                 for its end; --page-size 100 would make that 5s"
            ]
        );
        assert_eq!(advice(&terms(2_000.0, 1_000, 10)), [""; 0]);
    }

    #[test]
    fn below_an_item_per_second_fewer_pages_in_flight_are_proposed_too() {
        let slow = advice(&terms(0.5, 1_000, 10));
        assert!(
            slow[0].ends_with("--max-parallelism 2 --page-size 1 would make that 4s"),
            "{slow:?}"
        );
        let slower = advice(&terms(0.01, 1, 1));
        assert_eq!(slower, [""; 0], "nothing would make it better");
    }

    #[test]
    fn a_page_rate_that_is_small_for_the_pages_in_flight_is_named() {
        let pages = Terms {
            rate: None,
            page_rate: Some(0.2),
            ..terms(1.0, 1_000, 10)
        };
        assert_eq!(
            advice(&pages),
            [
                "at 0.2 pages/s with 10 pages in flight a page waits 50s; --max-parallelism 1 would make that 5s"
            ]
        );
    }

    #[test]
    fn a_stride_is_ignored_where_the_source_cannot_skip() {
        let stride = |pages, cannot_skip| {
            advice(&Terms {
                rate: None,
                stride: Some(pages),
                cannot_skip,
                ..terms(1.0, 1_000, 10)
            })
        };
        assert!(stride(8, true)[0].starts_with("stride 8 is ignored, as the source cannot skip"));
        assert_eq!(stride(8, false), [""; 0]);
        assert_eq!(stride(1, true), [""; 0]);
    }

    proptest! {
        /// An operator who follows the advice does not get the same advice again.
        #[test]
        fn what_is_proposed_helps(rate in 0.001..1e6f64, size in 1u32..1_000_000, slots in 0u32..500) {
            let given = terms(rate, size, slots);
            if let Some(text) = advice(&given).first() {
                let flag = |name: &str| {
                    let value = text.split(name).nth(1)?;
                    value.split_whitespace().next()?.parse::<u32>().ok()
                };
                let size = flag("--page-size ").unwrap_or(size);
                let slots = flag("--max-parallelism ").unwrap_or(slots);
                prop_assert_eq!(advice(&terms(rate, size, slots)), [""; 0], "{}", text);
            }
        }
    }
}

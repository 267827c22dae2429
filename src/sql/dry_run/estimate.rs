//! The duration of a batch, estimated from the times of a few of its pages.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::base::text::{count, duration};

/// An estimate of the duration of a batch: its number of pages, with the average time of the sampled pages, at the
/// given parallelism. The interval is that of Student's t for the average: it holds the true average of 95 of 100
/// such samples, if page times are about normal. It does not account for changes in the load.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Estimate {
    /// The number of timed pages.
    pub sampled_pages: u32,
    /// The number of pages of the batch, as far as is known.
    pub pages: u64,
    /// The number of pages that run at once.
    pub parallelism: u32,
    /// The average time of a page, in seconds.
    pub page_seconds: f64,
    /// The most likely time of the whole batch, in seconds.
    pub seconds: f64,
    /// The beginning of the interval, in seconds.
    pub low_seconds: f64,
    /// The end of the interval, in seconds. Absent for a single page, which shows no variation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub high_seconds: Option<f64>,
}

/// 97.5 % quantiles of Student's t for 1, 2, 3, .. degrees of freedom.
const T: [f64; 30] = [
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160,
    2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056,
    2.052, 2.048, 2.045, 2.042,
];
/// The same quantile of the normal distribution, which is the limit of Student's t.
const NORMAL: f64 = 1.960;

impl Estimate {
    /// Makes an estimate from the times of pages. `None` without a timed page.
    pub(super) fn from_pages(times: &[Duration], pages: u64, parallelism: u32) -> Option<Self> {
        let count = times.len();
        let n = count as f64;
        if count == 0 {
            return None;
        }
        let parallelism = parallelism.max(1);
        let average = times.iter().map(Duration::as_secs_f64).sum::<f64>() / n;
        let squares = times.iter().map(|t| (t.as_secs_f64() - average).powi(2));
        // Parallelism beyond the number of pages saves no time.
        let at_once = u64::from(parallelism).min(pages).max(1) as f64;
        let whole = |page: f64| page * pages as f64 / at_once;
        let half_width = (count > 1).then(|| {
            let deviation = (squares.sum::<f64>() / (n - 1.0)).sqrt();
            T.get(count - 2).copied().unwrap_or(NORMAL) * deviation / n.sqrt()
        });
        Some(Self {
            sampled_pages: u32::try_from(count).unwrap_or(u32::MAX),
            pages,
            parallelism,
            page_seconds: average,
            seconds: whole(average),
            low_seconds: half_width.map_or(0.0, |half| whole((average - half).max(0.0))),
            high_seconds: half_width.map(|half| whole(average + half)),
        })
    }
}

impl std::fmt::Display for Estimate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "about {}", text(self.seconds))?;
        match self.high_seconds {
            Some(high) => write!(f, " ({} to {})", text(self.low_seconds), text(high))?,
            None => write!(f, " (one page says nothing about how much they differ)")?,
        }
        let ms = self.page_seconds * 1_000.0;
        let pages = count(self.pages, "page");
        write!(
            f,
            ": {pages} of {ms:.1}ms each, {} at once",
            self.parallelism
        )
    }
}

fn text(seconds: f64) -> String {
    if seconds < 1.0 {
        return format!("{:.0}ms", seconds * 1_000.0);
    }
    duration(Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(millis: &[u64], pages: u64, parallelism: u32) -> Option<Estimate> {
        let times: Vec<_> = millis.iter().copied().map(Duration::from_millis).collect();
        Estimate::from_pages(&times, pages, parallelism)
    }

    fn close(a: f64, b: f64) -> bool {
        (a - b).abs() <= 1e-9 * a.abs().max(b.abs()).max(1.0)
    }

    #[test]
    fn three_pages_of_1_2_and_3_seconds_are_a_textbook_case() {
        let estimate = of(&[1_000, 2_000, 3_000], 100, 4).unwrap();
        // Deviation 1 s, t = 4.303, half width 4.303 / sqrt(3); 25 pages one after the other.
        let half = 4.303 / 3.0_f64.sqrt();
        assert!(close(estimate.seconds, 50.0));
        assert!(close(estimate.high_seconds.unwrap(), 25.0 * (2.0 + half)));
        // Times are not negative.
        assert!(close(estimate.low_seconds, 0.0));
    }

    #[test]
    fn one_page_has_no_upper_end_and_none_has_no_estimate() {
        let one = of(&[10], 1_000, 1).unwrap();
        assert_eq!((one.low_seconds, one.high_seconds), (0.0, None));
        assert!(close(one.seconds, 10.0));
        assert_eq!(of(&[], 1_000, 1), None);
    }

    #[test]
    fn more_at_once_than_there_are_pages_is_no_help() {
        assert!(close(of(&[500, 500], 2, 50).unwrap().seconds, 0.5));
    }

    #[test]
    fn it_reads_as_a_sentence() {
        let text = of(&[100, 100, 100], 72_000, 2).unwrap().to_string();
        assert_eq!(
            text,
            "about 1h (1h to 1h): 72,000 pages of 100.0ms each, 2 at once"
        );
    }

    proptest! {
        #[test]
        fn the_estimate_lies_in_its_interval_and_grows_with_the_pages(
            millis in prop::collection::vec(0..100_000_u64, 2..60),
            pages in 1..1_000_000_u64,
            parallelism in 1..64_u32,
        ) {
            let estimate = of(&millis, pages, parallelism).unwrap();
            let high = estimate.high_seconds.unwrap();
            prop_assert!(0.0 <= estimate.low_seconds);
            prop_assert!(estimate.low_seconds <= estimate.seconds);
            prop_assert!(estimate.seconds <= high);
            let more = of(&millis, pages + 1, parallelism).unwrap();
            prop_assert!(more.high_seconds.unwrap() >= high || pages < u64::from(parallelism));
        }

        #[test]
        fn pages_that_all_take_the_same_leave_no_doubt(
            millis in 1..100_000_u64, count in 2..40_usize, pages in 1..100_000_u64,
        ) {
            let estimate = of(&vec![millis; count], pages, 1).unwrap();
            prop_assert!(close(estimate.low_seconds, estimate.seconds));
            prop_assert!(close(estimate.high_seconds.unwrap(), estimate.seconds));
        }
    }
}

//! A batch that fails is split, until the requests that fail are alone.

use std::{future::Future, ops::Range};

use temporal_batch::{PageError, of_crates::is_of_the_moment};

use crate::writer::Written;

/// Attempts at a request that is alone, if its error is retryable.
const ATTEMPTS_ALONE: u32 = 3;

/// Writes `count` requests. `write` gets the requests' range in the batch.
///
/// A retryable error is returned while `gives_up` is false, also after a split, and another attempt follows later: it
/// says nothing about the requests of the part. Errors of the environment or of
/// the moment, such as a database that is away, are always returned, because no request is the reason for them.
///
/// If `k` of `n` requests fail, `write` is called at most `1 + 2 k ceil(log2(n))` times.
pub(crate) async fn write_all<F>(
    count: usize,
    gives_up: bool,
    write: impl Fn(Range<usize>) -> F,
) -> Result<Vec<Written>, PageError>
where
    F: Future<Output = Result<Vec<Written>, PageError>>,
{
    let mut results = vec![None; count];
    let mut parts: Vec<_> = std::iter::once(0..count).collect();
    while let Some(part) = parts.pop() {
        let error = match write(part.clone()).await {
            Ok(written) => {
                for (at, written) in part.clone().zip(written) {
                    results[at] = Some(written);
                }
                continue;
            }
            Err(error) => error,
        };
        if is_of_the_moment(&error) || (error.is_retryable() && !gives_up) {
            return Err(error);
        }
        match part.len() {
            0 => {}
            1 => {
                let at = part.start;
                results[at] = Some(alone(part, error, &write).await?);
            }
            length => {
                let middle = part.start + length / 2;
                parts.push(middle..part.end);
                parts.push(part.start..middle);
            }
        }
    }
    let results = results.into_iter().map(|written| {
        written.expect("each part was written, split, or was a single request that failed")
    });
    Ok(results.collect())
}

/// Repeats a request that is alone, and gives it up if it keeps failing.
async fn alone<F>(
    part: Range<usize>,
    first: PageError,
    write: &impl Fn(Range<usize>) -> F,
) -> Result<Written, PageError>
where
    F: Future<Output = Result<Vec<Written>, PageError>>,
{
    let mut last = first;
    for _ in 1..ATTEMPTS_ALONE {
        if !last.is_retryable() {
            break;
        }
        match write(part.clone()).await {
            Ok(written) => return crate::writer::one(written),
            Err(error) if is_of_the_moment(&error) => return Err(error),
            Err(error) => last = error,
        }
    }
    Ok(Written::Failed {
        error_type: last.error_type().to_owned(),
        message: last.message().to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use std::{cell::RefCell, collections::BTreeSet};

    use proptest::prelude::*;

    use super::*;

    fn poison() -> PageError {
        PageError::non_retryable("Poison", "no")
    }

    fn run(
        count: usize,
        gives_up: bool,
        fails: impl Fn(&Range<usize>) -> Option<PageError>,
    ) -> (Result<Vec<Written>, PageError>, Vec<Range<usize>>) {
        let calls = RefCell::new(Vec::new());
        let written = futures::executor::block_on(write_all(count, gives_up, |part| {
            calls.borrow_mut().push(part.clone());
            let result = match fails(&part) {
                Some(error) => Err(error),
                None => Ok(vec![Written::Now; part.len()]),
            };
            async move { result }
        }));
        (written, calls.into_inner())
    }

    proptest! {
        #[test]
        fn only_the_requests_that_fail_are_given_up(count in 1_usize..120, bad in prop::collection::btree_set(0_usize..120, 0..5)) {
            let bad: BTreeSet<_> = bad.into_iter().filter(|at| *at < count).collect();
            let (written, calls) = run(count, false, |part| bad.iter().any(|at| part.contains(at)).then(poison));
            let failed: BTreeSet<_> = written.unwrap().iter().enumerate()
                .filter(|(_, written)| matches!(written, Written::Failed { .. }))
                .map(|(at, _)| at).collect();
            prop_assert_eq!(&failed, &bad);
            let most = 1 + 2 * bad.len() * (count as f64).log2().ceil() as usize;
            prop_assert!(calls.len() <= most, "{} calls, at most {most} are expected", calls.len());
        }
    }

    #[test]
    fn a_retryable_error_is_returned_before_the_last_attempt() {
        let busy = |_: &_| Some(PageError::retryable("busy"));
        let (written, calls) = run(10, false, busy);
        assert!(written.unwrap_err().is_retryable());
        assert_eq!(calls.len(), 1);
    }

    #[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql"))]
    #[test]
    fn a_database_that_is_away_blames_no_request() {
        let refused = || std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
        for count in [1, 4] {
            let away = |_: &Range<usize>| Some(PageError::from(sqlx::Error::Io(refused())));
            let (written, calls) = run(count, true, away);
            assert!(is_of_the_moment(&written.unwrap_err()));
            assert_eq!(calls.len(), 1);
        }
    }

    #[test]
    fn the_last_attempt_splits_whatever_the_error() {
        let (written, _) = run(4, true, |part| {
            part.contains(&2).then(|| PageError::retryable("busy"))
        });
        let failed = written
            .unwrap()
            .iter()
            .filter(|w| matches!(w, Written::Failed { .. }))
            .count();
        assert_eq!(failed, 1);
    }

    #[test]
    fn an_error_of_the_environment_or_the_moment_blames_no_request() {
        let away: [fn() -> PageError; 2] = [
            || PageError::environment("the database is away"),
            || PageError::retry_after(std::time::Duration::from_secs(60), "maintenance"),
        ];
        for gives_up in [false, true] {
            for away in away {
                let fails = |part: &Range<usize>| match part.len() {
                    1 => Some(away()),
                    _ => Some(poison()),
                };
                let (written, _) = run(4, gives_up, fails);
                assert!(is_of_the_moment(&written.unwrap_err()));
            }
        }
    }

    /// A part that meets a lock after a split is not at fault.
    #[test]
    fn a_lock_after_a_split_is_waited_for() {
        let fails = |part: &Range<usize>| match (part.contains(&0), part.start) {
            (true, _) => Some(poison()),
            (_, 2) => Some(PageError::retryable("locked")),
            _ => None,
        };
        let (written, _) = run(4, false, fails);
        assert!(written.unwrap_err().is_retryable());
    }

    #[test]
    fn a_request_alone_is_repeated_only_if_that_may_help() {
        let (_, calls) = run(1, true, |_| Some(PageError::retryable("busy")));
        assert_eq!(calls.len(), 3);
        let (_, calls) = run(1, true, |_| Some(poison()));
        assert_eq!(calls.len(), 1);
    }
}

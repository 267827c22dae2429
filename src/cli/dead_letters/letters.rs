//! The dead letters of a batch: the count of each error, and the first letters by key.

use std::{
    cmp::Ordering,
    collections::{BTreeMap, BTreeSet},
};

use serde::Serialize;

use crate::{
    batch::letter_filter::LetterFilter,
    cli::dead_letters::store::{StoreError, in_time},
    processor::store::dead_letter::{DeadLetter, DeadLetters},
};

/// The number of letters in one read.
const READ_AT_ONCE: usize = 10_000;

/// Calls `letter` with each letter that passes the filter, in the order of the ids.
pub(crate) async fn each(
    store: &dyn DeadLetters,
    filter: &LetterFilter,
    mut letter: impl FnMut(DeadLetter),
) -> Result<(), StoreError> {
    let mut after = None::<String>;
    loop {
        let letters = in_time(store.list(filter, after.as_deref(), READ_AT_ONCE)).await?;
        let is_last = letters.len() < READ_AT_ONCE;
        after = letters.last().map(|letter| letter.id.clone());
        letters.into_iter().for_each(&mut letter);
        if is_last {
            return Ok(());
        }
    }
}

/// The letters that pass a filter. All of them are counted, and only the first are kept.
pub(crate) struct Letters {
    pub total: u64,
    /// The most frequent error first.
    pub errors: Vec<LettersOfError>,
    /// Sorted by key, up to the limit.
    pub first: Vec<DeadLetter>,
}

/// Dead letters with the same type of error. Its JSON is documented in `docs/cli.md`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct LettersOfError {
    pub error_type: String,
    pub count: u64,
    /// The message of the first letter by key.
    pub message: String,
}

/// A letter in the order in which people look up keys.
struct ByKey(DeadLetter);

impl Ord for ByKey {
    fn cmp(&self, other: &Self) -> Ordering {
        let key = |letter: &DeadLetter| {
            let start = || letter.start.as_ref().map(ToString::to_string);
            letter.key.clone().or_else(start).unwrap_or_default()
        };
        natural(&key(&self.0), &key(&other.0)).then_with(|| self.0.id.cmp(&other.0.id))
    }
}

impl PartialOrd for ByKey {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for ByKey {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for ByKey {}

/// Compares runs of digits as numbers, so that 9 comes before 10.
fn natural(a: &str, b: &str) -> Ordering {
    let (mut a, mut b) = (a, b);
    loop {
        let (x, y) = (run(a), run(b));
        let numbers = [x, y]
            .iter()
            .all(|run| run.starts_with(|c: char| c.is_ascii_digit()));
        let order = match numbers {
            true => {
                let (m, n) = (x.trim_start_matches('0'), y.trim_start_matches('0'));
                m.len()
                    .cmp(&n.len())
                    .then_with(|| m.cmp(n))
                    .then_with(|| x.cmp(y))
            }
            false => x.cmp(y),
        };
        if order != Ordering::Equal || x.is_empty() {
            return order;
        }
        (a, b) = (&a[x.len()..], &b[y.len()..]);
    }
}

/// Returns the run at the start of a text: digits only, or no digits.
fn run(text: &str) -> &str {
    let digits = text.starts_with(|c: char| c.is_ascii_digit());
    let end = text.find(|c: char| c.is_ascii_digit() != digits);
    &text[..end.unwrap_or(text.len())]
}

impl Letters {
    /// Reads every letter that passes the filter and keeps the first `limit` of them.
    pub async fn of(
        store: &dyn DeadLetters,
        filter: &LetterFilter,
        limit: usize,
    ) -> Result<Self, StoreError> {
        let mut total = 0;
        let mut errors = BTreeMap::<String, (u64, ByKey)>::new();
        let mut first = BTreeSet::new();
        let count = |letter: DeadLetter| {
            total += 1;
            let one = ByKey(letter.clone());
            match errors.get_mut(&letter.error_type) {
                Some((count, least)) => {
                    *count += 1;
                    if one < *least {
                        *least = one;
                    }
                }
                None => {
                    errors.insert(letter.error_type.clone(), (1, one));
                }
            }
            first.insert(ByKey(letter));
            if first.len() > limit {
                first.pop_last();
            }
        };
        each(store, filter, count).await?;
        let of_error = |(error_type, (count, least)): (String, (u64, ByKey))| LettersOfError {
            error_type,
            count,
            message: least.0.message,
        };
        let mut errors: Vec<_> = errors.into_iter().map(of_error).collect();
        errors.sort_by_key(|error| std::cmp::Reverse(error.count));
        Ok(Self {
            total,
            errors,
            first: first.into_iter().map(|letter| letter.0).collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{base::time::Timestamp, jsonl_store::JsonlDeadLetters};

    #[test]
    fn keys_are_in_the_order_in_which_people_look_them_up() {
        let mut keys = [
            "[10]", "[9]", "b", "[9,2]", "a10b", "a9z", "[009]", "", "a10",
        ];
        keys.sort_by(|a, b| natural(a, b));
        let sorted = [
            "", "[009]", "[9,2]", "[9]", "[10]", "a9z", "a10", "a10b", "b",
        ];
        assert_eq!(keys, sorted);
    }

    #[tokio::test]
    async fn all_letters_are_counted_by_error_and_the_first_by_key_are_shown() {
        let folder = tempfile::tempdir().unwrap();
        let store = JsonlDeadLetters::new(folder.path().join("letters.jsonl"));
        let letters: Vec<_> = (0..372)
            .map(|n| DeadLetter {
                id: format!("{:03}", (n * 101) % 372),
                batch_id: "b".to_owned(),
                batch_run: "r".to_owned(),
                processor: "p".to_owned(),
                stride: 0,
                start: None,
                end: None,
                key: Some(n.to_string()),
                error_type: if n % 12 == 0 { "Gone" } else { "Server" }.to_owned(),
                message: format!("status of {n}"),
                attempts: 1,
                first_at: Timestamp(0),
                last_at: Timestamp(0),
                record: None,
            })
            .collect();
        store.put(&letters).await.unwrap();
        let found = Letters::of(&store, &LetterFilter::of("b"), 11)
            .await
            .unwrap();
        assert_eq!(found.total, 372);
        let error = |error_type: &str, count, message: &str| LettersOfError {
            error_type: error_type.to_owned(),
            count,
            message: message.to_owned(),
        };
        let expected = [
            error("Server", 341, "status of 1"),
            error("Gone", 31, "status of 0"),
        ];
        assert_eq!(found.errors, expected);
        let keys: Vec<_> = found.first.iter().filter_map(|l| l.key.clone()).collect();
        let expected: Vec<_> = (0..11).map(|n| n.to_string()).collect();
        assert_eq!(keys, expected);
    }
}

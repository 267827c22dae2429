//! A batcher: its name, its shards and its limits.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{
    protocol,
    request::{Refusal, Request, is_exact_key, is_valid_id},
};

/// Maximum number of shards.
pub const MAX_SHARDS: u32 = 256;
/// Upper limit of `max_pending_bytes`. What a shard holds is the input of its next run, and Temporal allows 2 MB.
pub(crate) const MOST_PENDING_BYTES: u64 = 1_200_000;
const LONGEST_NAME: usize = 200;
const LONGEST_WAIT: Duration = Duration::from_secs(24 * 60 * 60);

/// A batcher: many requests, one write.
///
/// The batcher `orders` with four shards is the four workflows `orders/shard/0` to `orders/shard/3`. All programs that
/// submit need the same name, queue and number of shards. The program that starts a shard first sets its limits.
///
/// | setting | default | allowed |
/// |---|---|---|
/// | `shards` | 1 | 1 to 256 |
/// | `max_batch` | 100 requests | 1 to 1,000 |
/// | `max_batch_bytes` | 256 KiB | 1 KiB to `max_pending_bytes` |
/// | `max_wait` | 20 s | 1 ms to 24 h |
/// | `max_pending` | 10,000 requests | `max_batch` to 100,000 |
/// | `max_pending_bytes` | 1 MiB | `max_batch_bytes` to 1,200,000 |
/// | `max_writes` | 4 writes in flight | 1 to 100 |
/// | `max_attempts` | 10 attempts | 1 to 1,000 |
/// | `write_timeout` | 60 s | 100 ms to 1 h |
/// | `hand_over_after` | when Temporal suggests it | 1 or more requests |
///
/// ```
/// use std::time::Duration;
/// use temporal_batch_batcher::Batcher;
///
/// let batcher = Batcher::new("orders", "order-rows", "batcher-queue")
///     .shards(4)
///     .max_wait(Duration::from_secs(2));
/// assert!(batcher.validate().is_ok());
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Batcher {
    pub(crate) name: String,
    pub(crate) writer: String,
    pub(crate) task_queue: String,
    pub(crate) shards: u32,
    pub(crate) limits: Limits,
}

/// The limits of one shard.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Limits {
    pub max_batch: u32,
    pub max_batch_bytes: u64,
    pub max_wait: Duration,
    pub max_pending: u32,
    pub max_pending_bytes: u64,
    pub max_writes: u32,
    pub max_attempts: u32,
    pub write_timeout: Duration,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hand_over_after: Option<u32>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_batch: 100,
            // Temporal warns about payloads above 256 KB.
            max_batch_bytes: 256 * 1024,
            max_wait: Duration::from_secs(20),
            max_pending: 10_000,
            max_pending_bytes: 1024 * 1024,
            max_writes: 4,
            // About 45 s.
            max_attempts: 10,
            write_timeout: Duration::from_secs(60),
            hand_over_after: None,
        }
    }
}

/// A setting of a batcher that is not allowed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{setting} of batcher {batcher:?} is {given}; allowed is {allowed}")]
pub struct InvalidBatcher {
    /// The name of the batcher.
    pub batcher: String,
    /// The setting.
    pub setting: &'static str,
    /// The given value.
    pub given: String,
    /// The allowed values.
    pub allowed: String,
}

/// # Construct
impl Batcher {
    /// Creates a batcher. `writer` is the [`NAME`](crate::BatchWriter::NAME) of the writer, and `task_queue` the queue
    /// of the workers that have it.
    pub fn new(
        name: impl Into<String>,
        writer: impl Into<String>,
        task_queue: impl Into<String>,
    ) -> Self {
        Self {
            name: name.into(),
            writer: writer.into(),
            task_queue: task_queue.into(),
            shards: 1,
            limits: Limits::default(),
        }
    }

    /// Sets the number of shards. It cannot change while the batcher runs.
    #[must_use]
    pub fn shards(mut self, shards: u32) -> Self {
        self.shards = shards;
        self
    }

    /// Sets the number of requests at which a batch is written at once. A batch never has more.
    #[must_use]
    pub fn max_batch(mut self, requests: u32) -> Self {
        self.limits.max_batch = requests;
        self
    }

    /// Sets the size at which a batch is written at once. A batch is never larger, so a larger request is refused.
    #[must_use]
    pub fn max_batch_bytes(mut self, bytes: u64) -> Self {
        self.limits.max_batch_bytes = bytes;
        self
    }

    /// Sets how long the first request of a batch waits for others.
    #[must_use]
    pub fn max_wait(mut self, wait: Duration) -> Self {
        self.limits.max_wait = wait;
        self
    }

    /// Sets how many requests a shard holds that are not confirmed yet. It refuses more.
    #[must_use]
    pub fn max_pending(mut self, requests: u32) -> Self {
        self.limits.max_pending = requests;
        self
    }

    /// Sets how many bytes of requests a shard holds. It refuses more. Each request counts 150 bytes more than its JSON.
    #[must_use]
    pub fn max_pending_bytes(mut self, bytes: u64) -> Self {
        self.limits.max_pending_bytes = bytes;
        self
    }

    /// Sets how many batches of a shard are written at the same time.
    #[must_use]
    pub fn max_writes(mut self, writes: u32) -> Self {
        self.limits.max_writes = writes;
        self
    }

    /// Sets how many attempts a batch gets before it is split to find the requests that fail. Errors of the
    /// [environment](temporal_batch::PageError::environment) never lead to that.
    #[must_use]
    pub fn max_attempts(mut self, attempts: u32) -> Self {
        self.limits.max_attempts = attempts;
        self
    }

    /// Sets how long one call of the writer may take.
    #[must_use]
    pub fn write_timeout(mut self, timeout: Duration) -> Self {
        self.limits.write_timeout = timeout;
        self
    }

    /// Sets after how many requests a shard continues as new. By default it does when Temporal suggests it.
    #[must_use]
    pub fn hand_over_after(mut self, requests: u32) -> Self {
        self.limits.hand_over_after = Some(requests);
        self
    }
}

/// # Look
impl Batcher {
    /// The name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The task queue of its workers.
    pub fn task_queue(&self) -> &str {
        &self.task_queue
    }

    /// The number of shards.
    pub fn shard_count(&self) -> u32 {
        self.shards
    }

    /// Returns the shard of a routing key, from 0. The function is the name-based UUID of RFC 9562, version 5 (SHA-1),
    /// of the key, as a number modulo the number of shards. It never changes, and is the same on every machine.
    pub fn shard_of(&self, routing_key: &str) -> u32 {
        let namespace = uuid::Uuid::from_u128(0x6b0c_17d2_58ab_4c55_93f6_0a4f_2d1c_e7b8);
        let hash = uuid::Uuid::new_v5(&namespace, routing_key.as_bytes()).as_u128();
        let shard = hash % u128::from(self.shards.max(1));
        u32::try_from(shard).expect("a remainder is less than its divisor")
    }

    /// Returns the workflow id of a shard.
    pub fn workflow_id(&self, shard: u32) -> String {
        protocol::workflow_id(&self.name, shard)
    }

    /// Checks the settings. Everything that starts or submits does this first.
    ///
    /// # Errors
    /// The first setting that is not allowed.
    pub fn validate(&self) -> Result<(), InvalidBatcher> {
        let limits = &self.limits;
        let name_is_valid =
            |name: &str| !name.is_empty() && name.len() <= LONGEST_NAME && is_exact_key(name);
        let words = format!(
            "1 to {LONGEST_NAME} bytes without control characters and without a space at the end"
        );
        for (setting, name) in [
            ("name", &self.name),
            ("writer", &self.writer),
            ("task queue", &self.task_queue),
        ] {
            self.check(setting, format!("{name:?}"), name_is_valid(name), &words)?;
        }
        let between = |setting, given: u64, least: u64, most: u64| {
            let allowed = format!("{least} to {most}");
            let ok = (least..=most).contains(&given);
            self.check(setting, given.to_string(), ok, &allowed)
        };
        between("shards", self.shards.into(), 1, MAX_SHARDS.into())?;
        between("max_batch", limits.max_batch.into(), 1, 1_000)?;
        let (batch_bytes, pending_bytes) = (limits.max_batch_bytes, limits.max_pending_bytes);
        between(
            "max_pending_bytes",
            pending_bytes,
            1_024,
            MOST_PENDING_BYTES,
        )?;
        between("max_batch_bytes", batch_bytes, 1_024, pending_bytes)?;
        let least = limits.max_batch.into();
        between("max_pending", limits.max_pending.into(), least, 100_000)?;
        between("max_writes", limits.max_writes.into(), 1, 100)?;
        between("max_attempts", limits.max_attempts.into(), 1, 1_000)?;
        if let Some(requests) = limits.hand_over_after {
            between("hand_over_after", requests.into(), 1, u64::from(u32::MAX))?;
        }
        let lasts = |setting, given: Duration, least: Duration, most: Duration| {
            let allowed = format!("{least:?} to {most:?}");
            let ok = (least..=most).contains(&given);
            self.check(setting, format!("{given:?}"), ok, &allowed)
        };
        lasts(
            "max_wait",
            limits.max_wait,
            Duration::from_millis(1),
            LONGEST_WAIT,
        )?;
        lasts(
            "write_timeout",
            limits.write_timeout,
            Duration::from_millis(100),
            Duration::from_secs(3_600),
        )
    }

    fn check(
        &self,
        setting: &'static str,
        given: String,
        ok: bool,
        allowed: &str,
    ) -> Result<(), InvalidBatcher> {
        if ok {
            return Ok(());
        }
        Err(InvalidBatcher {
            batcher: self.name.clone(),
            setting,
            given,
            allowed: allowed.to_owned(),
        })
    }

    /// Refuses a request that no shard of this batcher could ever write.
    pub(crate) fn check_request(&self, request: &Request) -> Result<(), Refusal> {
        if !is_valid_id(&request.id) {
            return Err(Refusal::InvalidId);
        }
        let (bytes, max_batch_bytes) = (request.bytes() as u64, self.limits.max_batch_bytes);
        match bytes > max_batch_bytes {
            true => Err(Refusal::TooLarge {
                bytes,
                max_batch_bytes,
            }),
            false => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn batcher() -> Batcher {
        Batcher::new("orders", "rows", "queue")
    }

    /// The route is stored nowhere: another function would send equal keys to different shards during a deploy.
    #[test]
    fn the_shard_of_a_key_never_changes() {
        let batcher = batcher().shards(4);
        let shards: Vec<_> = ["", "a", "b", "customer-17", "Größe"]
            .map(|key| batcher.shard_of(key))
            .into();
        assert_eq!(shards, [3, 1, 2, 2, 3]);
    }

    #[test]
    fn every_shard_gets_its_part_of_many_keys() {
        let batcher = batcher().shards(8);
        let mut keys = [0_u32; 8];
        for i in 0..8_000 {
            keys[batcher.shard_of(&format!("customer-{i}")) as usize] += 1;
        }
        assert!(keys.iter().all(|n| (800..1_200).contains(n)), "{keys:?}");
    }

    proptest! {
        #[test]
        fn a_shard_is_one_of_the_batcher(key in ".*", shards in 1_u32..=MAX_SHARDS) {
            prop_assert!(batcher().shards(shards).shard_of(&key) < shards);
        }
    }

    #[test]
    fn settings_out_of_range_are_refused_with_what_is_allowed() {
        assert_eq!(batcher().validate(), Ok(()));
        let second = Duration::from_secs(1);
        for (batcher, message) in [
            (
                batcher().shards(0),
                "shards of batcher \"orders\" is 0; allowed is 1 to 256",
            ),
            (batcher().shards(257), "is 257"),
            (
                batcher().max_batch(0),
                "max_batch of batcher \"orders\" is 0; allowed is 1 to 1000",
            ),
            (
                batcher().max_batch_bytes(1_023),
                "allowed is 1024 to 1048576",
            ),
            (
                batcher().max_batch_bytes(1 << 20 | 1),
                "allowed is 1024 to 1048576",
            ),
            (
                batcher().max_pending_bytes(2_000_000),
                "allowed is 1024 to 1200000",
            ),
            (batcher().max_pending(99), "allowed is 100 to 100000"),
            (batcher().max_writes(0), "allowed is 1 to 100"),
            (batcher().max_attempts(0), "allowed is 1 to 1000"),
            (batcher().hand_over_after(0), "allowed is 1 to"),
            (
                batcher().max_wait(Duration::ZERO),
                "is 0ns; allowed is 1ms to 86400s",
            ),
            (
                batcher().write_timeout(second * 3_601),
                "allowed is 100ms to 3600s",
            ),
            (
                Batcher::new("", "rows", "q"),
                "name of batcher \"\" is \"\"",
            ),
            (
                Batcher::new("a\nb", "rows", "q"),
                "without control characters",
            ),
            (
                Batcher::new("orders ", "rows", "q"),
                "without a space at the end",
            ),
            (Batcher::new("orders", "", "q"), "writer of batcher"),
            (Batcher::new("orders", "rows", ""), "task queue of batcher"),
        ] {
            let error = batcher.validate().unwrap_err().to_string();
            assert!(error.contains(message), "{error}");
        }
    }

    #[test]
    fn a_request_that_fits_no_batch_is_refused() {
        let batcher = batcher().max_batch_bytes(1_024);
        let small = Request::new("a", "x");
        assert_eq!(batcher.check_request(&small), Ok(()));
        let large = Request::new("a", "x".repeat(1_024));
        assert!(matches!(
            batcher.check_request(&large),
            Err(Refusal::TooLarge {
                max_batch_bytes: 1_024,
                ..
            })
        ));
        let nameless = Request::new("", "x");
        assert_eq!(batcher.check_request(&nameless), Err(Refusal::InvalidId));
    }
}

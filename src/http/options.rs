//! The settings of a client.

use std::time::Duration;

use super::error::InvalidApi;
use crate::{base::text::exactly, processor::item::ItemRetry};

/// The settings of an [`ApiClient`](super::ApiClient).
///
/// | setting | default | allowed |
/// |---|---|---|
/// | `timeout` of one call, from its start to the last byte of the answer | 30 s | 10 ms to 1 h |
/// | `connect_timeout` | 10 s | 10 ms to 1 h |
/// | `max_answer_bytes` | 1 MiB | 1 byte to 1 GiB |
/// | `retry`: attempts at one record | 5, first backoff 200 ms, at most 5 s | see [`ItemRetry`] |
/// | `retried`: statuses that another attempt may avoid | 408, 425, 500, 502, 503, 504 | 400 to 599 |
/// | `longest_wait` that an API may ask for | 15 min | up to 24 h |
/// | `key_header`: the header of the idempotency key | `Idempotency-Key` | the name of a header |
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ApiOptions {
    /// The time limit of a call.
    pub timeout: Duration,
    /// The time limit for the connection.
    pub connect_timeout: Duration,
    /// The size of an answer above which the call is given up.
    pub max_answer_bytes: usize,
    /// The attempts at one record. Answers that ask to wait are not counted.
    pub retry: ItemRetry,
    /// The statuses after which a call is repeated. 429, and 503 with `Retry-After`, always are.
    pub retried: Vec<u16>,
    /// The longest wait that is kept. A longer one is cut to this.
    pub longest_wait: Duration,
    /// The header of the idempotency key.
    pub key_header: String,
}

impl Default for ApiOptions {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(30),
            connect_timeout: Duration::from_secs(10),
            max_answer_bytes: 1024 * 1024,
            retry: ItemRetry::attempts(5),
            retried: vec![408, 425, 500, 502, 503, 504],
            longest_wait: Duration::from_secs(15 * 60),
            key_header: "Idempotency-Key".to_owned(),
        }
    }
}

const SHORTEST: Duration = Duration::from_millis(10);
const HOUR: Duration = Duration::from_secs(3_600);
const MOST_BYTES: usize = 1 << 30;

impl ApiOptions {
    pub(super) fn validate(&self) -> Result<(), InvalidApi> {
        let refuse = |text: String| Err(InvalidApi::Option(text));
        for (what, given) in [
            ("timeout", self.timeout),
            ("connect_timeout", self.connect_timeout),
        ] {
            if !(SHORTEST..=HOUR).contains(&given) {
                let given = exactly(given);
                return refuse(format!(
                    "the {what} of calls is {given}; allowed is 10ms to 1h"
                ));
            }
        }
        if self.longest_wait > HOUR * 24 {
            return refuse("longest_wait is more than 24h".to_owned());
        }
        if !(1..=MOST_BYTES).contains(&self.max_answer_bytes) {
            let given = self.max_answer_bytes;
            return refuse(format!(
                "max_answer_bytes is {given}; allowed is 1 to {MOST_BYTES}"
            ));
        }
        if let Some(status) = self.retried.iter().find(|s| !(400..600).contains(*s)) {
            return refuse(format!(
                "status {status} cannot be retried; allowed is 400 to 599"
            ));
        }
        let mode = crate::batch::retry::RetryMode::AtLeastOnce;
        if let Err(invalid) = self.retry.validate(mode) {
            return refuse(invalid.to_string());
        }
        match super::request::header_name(&self.key_header) {
            Ok(_) => Ok(()),
            Err(invalid) => refuse(invalid.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_work_is_refused_with_what_is_allowed() {
        let refused = |change: fn(&mut ApiOptions)| {
            let mut options = ApiOptions::default();
            change(&mut options);
            options.validate().unwrap_err().to_string()
        };
        assert!(ApiOptions::default().validate().is_ok());
        assert!(refused(|o| o.timeout = Duration::ZERO).contains("10ms to 1h"));
        assert!(refused(|o| o.max_answer_bytes = 0).contains("max_answer_bytes"));
        assert!(refused(|o| o.retried.push(200)).contains("400 to 599"));
        assert!(refused(|o| o.retry = ItemRetry::attempts(0)).contains("1 to 100"));
        assert!(refused(|o| o.key_header = "a b".to_owned()).contains("header"));
        assert!(refused(|o| o.longest_wait = HOUR * 25).contains("24h"));
    }
}

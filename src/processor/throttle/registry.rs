//! The throttles of a worker, by name.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use super::{Throttle, listener::ThrottleMonitor, poller::Asked};
use crate::base::text::exactly;
#[cfg(feature = "temporal")]
use crate::metrics::Metrics;

/// A throttle that cannot be registered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RegisterThrottleError {
    /// Two throttles have the same name.
    #[error("two throttles are named \"{name}\"; batches could not tell them apart")]
    Duplicate {
        /// The name.
        name: String,
    },
    /// The name cannot be used in commands.
    #[error("throttle name \"{name}\" is not allowed; use 1 to 100 letters, digits and . _ / : -")]
    Name {
        /// The name.
        name: String,
    },
    /// The interval or the timeout is too short or too long.
    #[error("the {what} of throttle \"{name}\" is {}; allowed is {} to 1h", exactly(*given), exactly(MIN_TIME))]
    Time {
        /// The name of the throttle.
        name: String,
        /// The setting: `interval` or `timeout`.
        what: &'static str,
        /// The value that was given.
        given: Duration,
    },
}

const MIN_TIME: Duration = Duration::from_millis(10);
const MAX_TIME: Duration = Duration::from_secs(60 * 60);

/// A throttle that the worker does not have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("throttle \"{name}\" is not registered; registered are: {registered}")]
pub(crate) struct UnknownThrottle {
    name: String,
    registered: String,
}

/// The throttles of a worker. Clones share them, so listeners of all clones share the same calls.
#[derive(Clone, Default)]
pub(crate) struct Throttles(BTreeMap<String, Arc<Asked>>);

impl Throttles {
    pub fn add<T: Throttle>(&mut self, throttle: T) -> Result<(), RegisterThrottleError> {
        let name = throttle.name().to_owned();
        let allowed = |c: char| c.is_ascii_alphanumeric() || "._/:-".contains(c);
        if name.is_empty() || name.len() > 100 || !name.chars().all(allowed) {
            return Err(RegisterThrottleError::Name { name });
        }
        if self.0.contains_key(&name) {
            return Err(RegisterThrottleError::Duplicate { name });
        }
        for (what, given) in [
            ("interval", throttle.interval()),
            ("timeout", throttle.timeout()),
        ] {
            if !(MIN_TIME..=MAX_TIME).contains(&given) {
                return Err(RegisterThrottleError::Time { name, what, given });
            }
        }
        let asked = Arc::new(Asked::new(&name, throttle));
        self.0.insert(name, asked);
        Ok(())
    }

    /// Records the verdicts in these metrics.
    #[cfg(feature = "temporal")]
    pub fn measure(&self, metrics: &Metrics) {
        for throttle in self.0.values() {
            throttle.measure(metrics);
        }
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn names(&self) -> impl Iterator<Item = &str> + '_ {
        self.0.keys().map(String::as_str)
    }

    /// Checks that all of these throttles are registered.
    pub fn check(&self, names: &[String]) -> Result<(), UnknownThrottle> {
        names.iter().try_for_each(|name| self.find(name).map(drop))
    }

    /// Listens to these throttles, which are polled from now on until their last monitor in this process is
    /// dropped. The call requires a tokio runtime.
    pub fn monitor(&self, names: &[String]) -> Result<ThrottleMonitor, UnknownThrottle> {
        let found: BTreeMap<_, _> = names
            .iter()
            .map(|name| Ok((name, Arc::clone(self.find(name)?))))
            .collect::<Result<_, _>>()?;
        Ok(ThrottleMonitor::new(found.into_values()))
    }

    fn find(&self, name: &str) -> Result<&Arc<Asked>, UnknownThrottle> {
        self.0.get(name).ok_or_else(|| UnknownThrottle {
            name: name.to_owned(),
            registered: if self.is_empty() {
                "none".to_owned()
            } else {
                self.names().collect::<Vec<_>>().join(", ")
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;

    use super::*;
    use crate::processor::throttle::Verdict;

    struct Named(&'static str, Duration, Duration);

    #[async_trait]
    impl Throttle for Named {
        fn name(&self) -> &str {
            self.0
        }

        async fn ask(&self) -> Result<Verdict, Box<dyn std::error::Error + Send + Sync>> {
            Ok(Verdict::Go)
        }

        fn interval(&self) -> Duration {
            self.1
        }

        fn timeout(&self) -> Duration {
            self.2
        }
    }

    fn named(name: &'static str) -> Named {
        Named(name, MIN_TIME, MAX_TIME)
    }

    #[test]
    fn names_are_checked_and_unique() {
        let mut throttles = Throttles::default();
        assert!(throttles.is_empty());
        throttles.add(named("db:main")).unwrap();
        let twice = throttles.add(named("db:main")).unwrap_err();
        assert!(twice.to_string().contains("two throttles"), "{twice}");
        let long: &'static str = "x".repeat(101).leak();
        for name in ["", "a b", "ä", long] {
            let bad = throttles.add(named(name)).unwrap_err();
            assert!(bad.to_string().contains("not allowed"), "{bad}");
        }
        assert_eq!(throttles.names().collect::<Vec<_>>(), ["db:main"]);
    }

    #[test]
    fn times_that_make_no_sense_are_refused() {
        let mut throttles = Throttles::default();
        let none = Duration::ZERO;
        let interval = throttles.add(Named("a", none, MIN_TIME)).unwrap_err();
        let expected = "the interval of throttle \"a\" is 0s; allowed is 10ms to 1h";
        assert_eq!(interval.to_string(), expected);
        let timeout = throttles
            .add(Named("a", MIN_TIME, Duration::MAX))
            .unwrap_err();
        assert!(timeout.to_string().contains("the timeout"), "{timeout}");
    }

    #[test]
    fn an_unknown_throttle_is_refused_with_the_names_that_are_known() {
        let mut throttles = Throttles::default();
        let x = ["x".to_owned()];
        let unknown = throttles.check(&x).unwrap_err().to_string();
        assert_eq!(
            unknown,
            "throttle \"x\" is not registered; registered are: none"
        );
        throttles.add(named("b")).unwrap();
        throttles.add(named("a")).unwrap();
        assert_eq!(throttles.check(&["a".to_owned(), "b".to_owned()]), Ok(()));
        let unknown = throttles.monitor(&x).err().unwrap().to_string();
        assert_eq!(
            unknown,
            "throttle \"x\" is not registered; registered are: a, b"
        );
    }
}

//! Settings for the long forms of tests, from the environment.

use std::str::FromStr;

/// A number from the environment.
pub fn setting<T: FromStr>(name: &str, default: T) -> T {
    let given = std::env::var(name).ok();
    given.map_or(default, |text| {
        let parsed = text.parse();
        parsed.unwrap_or_else(|_| panic!("{name} is not a number: {text}"))
    })
}

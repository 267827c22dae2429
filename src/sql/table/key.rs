//! A position in a table.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The key of a row: a value for each key column, in their order. As a cursor it stands for the position right after
/// that row, whether the row still exists or not.
///
/// A key serializes as a JSON array such as `[12345]` or `["de",7]`. The texts are lossless and do not depend on the
/// settings of a session: points in time are in UTC, bytes in hexadecimal digits. Two keys are equal if their parts
/// are. Only the database knows the order of keys.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Key(Vec<KeyPart>);

/// The value of one key column.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(untagged)]
pub enum KeyPart {
    /// An integer of at most 64 bits.
    Int(i64),
    /// A value of any other type, as a text that the database reads back without loss.
    Text(String),
}

impl Key {
    /// Creates a key with these values.
    pub fn new(parts: impl IntoIterator<Item = impl Into<KeyPart>>) -> Self {
        Self(parts.into_iter().map(Into::into).collect())
    }

    /// Returns the values, one for each key column.
    pub fn parts(&self) -> &[KeyPart] {
        &self.0
    }
}

impl From<i64> for KeyPart {
    fn from(number: i64) -> Self {
        Self::Int(number)
    }
}

impl From<String> for KeyPart {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<&str> for KeyPart {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl fmt::Display for Key {
    /// Writes the whole key as JSON. A key can be personal data.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&serde_json::to_string(self).map_err(|_| fmt::Error)?)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_key_comes_back_from_json_as_it_went(
            parts in prop::collection::vec(
                prop_oneof![any::<i64>().prop_map(KeyPart::Int), any::<String>().prop_map(KeyPart::Text)],
                0..5,
            )
        ) {
            let key = Key::new(parts);
            let json = serde_json::to_string(&key).unwrap();
            prop_assert_eq!(&serde_json::from_str::<Key>(&json).unwrap(), &key);
            prop_assert_eq!(key.to_string(), json);
        }
    }
}

//! Reading messages.
//!
//! The SDK reads a message through a deserializer that is a trait object, for which serde compiles 26 functions for each
//! type and field. Messages are read from it as JSON and then from the JSON, so that the types inside them are compiled for
//! one deserializer only. A third of all functions of the crate, and a sixth of its size, was the difference.

use serde::{
    Deserialize, Deserializer, Serialize, Serializer, de::DeserializeOwned, de::Error as _,
};
use serde_json::Value;

/// A value that crosses the border to the SDK and whose type is public.
#[derive(Clone, Debug)]
pub(crate) struct Json<T>(pub T);

impl<T: Serialize> Serialize for Json<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de, T: DeserializeOwned> Deserialize<'de> for Json<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        from_json(deserializer, T::deserialize).map(Self)
    }
}

/// Reads JSON, and a message from it.
pub(crate) fn from_json<'de, D: Deserializer<'de>, T>(
    deserializer: D,
    read: fn(Value) -> Result<T, serde_json::Error>,
) -> Result<T, D::Error> {
    read(Value::deserialize(deserializer)?).map_err(D::Error::custom)
}

/// Implements `Serialize` and `Deserialize` for messages that derive both with `#[serde(remote = "Self")]`, which
/// makes them associated functions.
macro_rules! messages {
    ($($message:ident $(<$work:ident>)?),+ $(,)?) => { $(
        impl $(<$work: serde::Serialize>)? serde::Serialize for $message $(<$work>)? {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                Self::serialize(self, serializer)
            }
        }

        impl<'de $(, $work: serde::Deserialize<'de>)?> serde::Deserialize<'de> for $message $(<$work>)? {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                $crate::protocol::message::from_json(deserializer, |json| Self::deserialize(json))
            }
        }
    )+ };
}

pub(crate) use messages;

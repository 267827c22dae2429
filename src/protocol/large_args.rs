//! Arguments that are too large to be sent with every order. They are kept once, in the memo of the batch's workflow,
//! and orders carry a reference.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

/// The size up to which arguments are written into every order.
const MOST_INLINE: usize = 16 * 1024;

/// The reference that stands for arguments that are somewhere else.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Reference {
    /// An id derived from the arguments.
    #[serde(rename = "temporal-batch.args")]
    pub id: String,
    /// The arguments are in the memo of the workflow of this batch.
    pub batch_id: String,
    /// The field of the memo.
    pub field: String,
}

impl Reference {
    /// Returns the reference that an order carries instead of the arguments, if it carries one.
    pub fn of(carried: &Value) -> Option<Self> {
        Self::deserialize(carried).ok()
    }

    /// Returns whether this reference stands for `args`.
    pub fn means(&self, args: &Value) -> bool {
        self.id == id(args)
    }
}

fn id(args: &Value) -> String {
    let namespace = Uuid::from_u128(0x2f61_9c0b_8d34_4be7_b1d5_70e6_53aa_19c8);
    Uuid::new_v5(&namespace, args.to_string().as_bytes()).to_string()
}

/// Returns the value that orders carry: the arguments themselves, or a reference to them.
pub(crate) fn carried(args: &Value, batch_id: &str, field: &str) -> Value {
    if args.to_string().len() <= MOST_INLINE {
        return args.clone();
    }
    let reference = Reference {
        id: id(args),
        batch_id: batch_id.to_owned(),
        field: field.to_owned(),
    };
    serde_json::json!(reference)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_large_arguments_are_carried_by_reference() {
        let small = json!({"text": "x".repeat(MOST_INLINE - 100)});
        assert_eq!(carried(&small, "b", "args"), small);
        assert_eq!(Reference::of(&small), None);
        let large = json!({"text": "x".repeat(MOST_INLINE)});
        let reference = Reference::of(&carried(&large, "b", "args")).unwrap();
        assert_eq!((&*reference.batch_id, &*reference.field), ("b", "args"));
        assert!(reference.means(&large) && !reference.means(&small));
    }
}

//! Named locks: batches with the same lock do not run together.
//!
//! A lock is a workflow that no worker executes. Temporal allows one running workflow per id, so the existence
//! of the workflow is the lock. Its memo names the holder. The workflow ends when the lock is released. If its
//! batch ended without releasing it, the next batch that asks for the lock detects this and takes it over.

use crate::base::text::given;

pub(crate) const MAX_LOCK_CHARS: usize = 200;

/// A lock name that is not allowed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "lock name \"{given}\" is not allowed; use 1 to {MAX_LOCK_CHARS} characters without white space"
)]
#[non_exhaustive]
pub struct InvalidLockName {
    /// The name, shortened.
    pub given: String,
}

/// Returns the id of the workflow whose existence is the lock.
pub(crate) fn workflow_id(name: &str) -> String {
    format!("temporal-batch.lock/{name}")
}

/// Checks the name of a lock. The rules are those of batch ids, because the name becomes part of a workflow id.
pub(crate) fn validate(name: &str) -> Result<(), InvalidLockName> {
    let printable = name.chars().all(|c| !c.is_whitespace() && !c.is_control());
    if name.is_empty() || name.chars().count() > MAX_LOCK_CHARS || !printable {
        return Err(InvalidLockName {
            given: given(name, 60),
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_one_word_of_bounded_length() {
        for good in ["users", "db/public.users", "ü", &"x".repeat(MAX_LOCK_CHARS)] {
            assert_eq!(validate(good), Ok(()), "{good}");
        }
        for bad in [
            "",
            " ",
            "a b",
            "a\n",
            "\u{7}",
            &"x".repeat(MAX_LOCK_CHARS + 1),
        ] {
            let message = validate(bad).unwrap_err().to_string();
            assert!(message.contains("1 to 200 characters"), "{message}");
        }
    }
}

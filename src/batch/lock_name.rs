//! Named locks: batches with the same lock do not run together.
//!
//! A lock is a workflow that nobody runs: Temporal lets only one of an id exist, so its existence is the
//! lock, and its memo says who has it. It ends when the lock is given back. Where its batch ended without
//! giving it back, whoever wants it next finds that out and takes it over.

use crate::base::error::truncate;

pub(crate) const MAX_LOCK_CHARS: usize = 200;

/// A name that a lock cannot have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "lock name \"{given}\" is not allowed; use 1 to {MAX_LOCK_CHARS} characters without white space"
)]
#[non_exhaustive]
pub struct InvalidLockName {
    /// The name, shortened.
    pub given: String,
}

/// The workflow whose existence is the lock.
pub(crate) fn workflow_id(name: &str) -> String {
    format!("temporal-batch.lock/{name}")
}

/// Checks the name of a lock. The rules are those of batch ids, since it becomes part of a workflow id.
pub(crate) fn validate(name: &str) -> Result<(), InvalidLockName> {
    let printable = name.chars().all(|c| !c.is_whitespace() && !c.is_control());
    if name.is_empty() || name.chars().count() > MAX_LOCK_CHARS || !printable {
        return Err(InvalidLockName {
            given: truncate(&name.escape_debug().to_string(), 60),
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

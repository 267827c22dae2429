//! The named lock of a batch.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use crate::{
    decisions::state::{BatchState, work::Work},
    progress::phase::HeldBy,
    protocol::LockOrder,
};

/// Returns the reason why a batch that does not wait for its lock is refused. `since` follows the holder.
pub(crate) fn is_held(name: &str, by: &str, since: &str) -> String {
    format!(
        "lock \"{name}\" is held by batch \"{by}\"{since}; wait for it with --wait-for-lock, or start again when that \
         batch has ended"
    )
}

impl<W: Work> BatchState<W> {
    pub(crate) fn lock_order(&self) -> Option<LockOrder> {
        let spec = &self.input.spec;
        Some(LockOrder {
            name: spec.lock.clone()?,
            batch_id: spec.batch_id.clone(),
            batch_run: self.input.batch_run.clone(),
            wait: spec.wait_for_lock,
        })
    }

    pub(crate) fn lock_explained(&self) -> Option<(HeldBy, String)> {
        let name = self.input.spec.lock.as_ref();
        let name = name.filter(|_| self.taking_lock)?;
        let by = self.lock_held_by.as_ref();
        let by = by.map_or_else(String::new, |by| format!(", which batch \"{by}\" has"));
        Some((HeldBy::Lock, format!("waiting for the lock \"{name}\"{by}")))
    }

    /// Returns whether the batch is waiting for its lock before its first page.
    pub(crate) fn waits_for_lock(&self) -> bool {
        self.taking_lock && self.runs == 0
    }
}

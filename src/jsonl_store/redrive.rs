//! The redrive of a letter.

use std::{any::Any, sync::Arc};

use async_trait::async_trait;
use tokio::sync::OwnedMutexGuard;

use super::{
    JsonlDeadLetters,
    lines::{Line, Removal, Settled, push_line},
    lock::Lock,
};
use crate::{
    base::error::PageError,
    processor::store::{dead_letter::DeadLetter, page_ledger::PageTransaction},
    progress::ItemCounts,
};

/// A letter that is being redriven. Nothing is written before the commit.
pub(super) struct Redrive {
    pub(super) store: JsonlDeadLetters,
    pub(super) taken: DeadLetter,
    pub(super) letters: Vec<DeadLetter>,
    pub(super) lock: RedriveLock,
}

#[async_trait]
impl PageTransaction for Redrive {
    fn connection(&mut self) -> Option<&mut (dyn Any + Send)> {
        None
    }

    async fn record(
        &mut self,
        _items: &ItemCounts,
        letters: &[DeadLetter],
    ) -> Result<(), PageError> {
        self.letters.extend_from_slice(letters);
        Ok(())
    }

    async fn commit(self: Box<Self>) -> Result<(), PageError> {
        let Self {
            store,
            taken,
            letters,
            lock,
        } = *self;
        let turn = Arc::clone(&store.write_turn).lock_owned().await;
        store
            .blocking(move |place| {
                // Both are held until the write is done, even if the caller was dropped.
                let (_redrive, _turn) = (lock, turn);
                let _lock = Lock::exclusive(&place.lock)?;
                let mut contents = place.read()?;
                let mut lines = Vec::new();
                if contents.letters.get(&taken.id) == Some(&taken) {
                    // A single line is either present or not. Rewriting the file for every letter would cost
                    // far more.
                    let removal = Removal {
                        removed: taken.id,
                        letters,
                    };
                    push_line(&mut lines, &removal)?;
                    contents.apply(Line::Removal(removal));
                } else {
                    // The letter was put again in the meantime, and the redrive did not see the new one.
                    let added = Settled {
                        settled: taken.batch_run,
                        letters: -contents.missing(&letters),
                    };
                    if added.letters != 0 {
                        push_line(&mut lines, &added)?;
                        contents.apply(Line::Settled(added));
                    }
                    for letter in letters {
                        push_line(&mut lines, &letter)?;
                        contents.apply(Line::Letter(Box::new(letter)));
                    }
                }
                if !lines.is_empty() {
                    place.append(&lines)?;
                }
                if contents.is_wasteful() {
                    place.try_rewrite(&contents);
                }
                Ok(())
            })
            .await
    }
}

/// The file lock and the turn of a redrive. The file is unlocked first, so that the next redrive of this
/// process need not poll.
pub(super) struct RedriveLock {
    pub(super) _file: Lock,
    pub(super) _turn: OwnedMutexGuard<()>,
}

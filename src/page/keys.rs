//! Keys that identify the items of a page.

use serde::Serialize;

use crate::{base::error::PageError, page::token::PageToken};

/// The keys of a page's items, in the order of the items.
#[derive(Debug)]
pub(crate) enum Keys<C> {
    Unknown,
    /// One cursor for each item: a range that ends there ends with the item.
    Cursors(Vec<C>),
    /// Each item has a cursor, but the source did not read it. A fetch that is asked for keys reads them.
    NotRead,
    Names(Vec<String>),
}

impl<C> Keys<C> {
    /// Returns the cursor of each item, if the page is ordered by cursors.
    pub fn cursors(&self) -> &[C] {
        match self {
            Self::Cursors(cursors) => cursors,
            Self::Unknown | Self::NotRead | Self::Names(_) => &[],
        }
    }

    /// Returns whether a part of the page can be processed separately.
    pub fn can_be_split(&self) -> bool {
        match self {
            Self::Cursors(cursors) => !cursors.is_empty(),
            Self::NotRead => true,
            Self::Unknown | Self::Names(_) => false,
        }
    }
}

impl<C: Serialize> Keys<C> {
    /// The end of the first half of the items. `None` if the page is not ordered by cursors, or has only one item.
    pub fn middle(&self) -> Result<Option<PageToken>, PageError> {
        let cursors = self.cursors();
        let last = (cursors.len() / 2).checked_sub(1);
        last.map(|last| PageToken::encode(&cursors[last]))
            .transpose()
    }

    /// The name of the item at a position.
    pub fn name(&self, position: usize) -> Option<String> {
        match self {
            Self::Unknown | Self::NotRead => None,
            Self::Names(names) => names.get(position).cloned(),
            Self::Cursors(cursors) => {
                let token = PageToken::encode(cursors.get(position)?).ok()?;
                Some(token.0)
            }
        }
    }
}

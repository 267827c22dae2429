//! Keys by which the items of a page are told apart.

use serde::Serialize;

use crate::page::token::PageToken;

/// What the items of a page are called, in their order.
#[derive(Debug)]
pub(crate) enum Keys<C> {
    Unknown,
    /// The cursors that end at each item.
    Cursors(Vec<C>),
    /// Each has one, but they were not read; a fetch that is asked for them does that.
    NotRead,
    Names(Vec<String>),
}

impl<C> Keys<C> {
    /// The cursor of each item, where the page is ordered by them.
    pub fn cursors(&self) -> &[C] {
        match self {
            Self::Cursors(cursors) => cursors,
            Self::Unknown | Self::NotRead | Self::Names(_) => &[],
        }
    }

    /// Whether a part of the page can be processed by itself.
    pub fn can_be_split(&self) -> bool {
        match self {
            Self::Cursors(cursors) => !cursors.is_empty(),
            Self::NotRead => true,
            Self::Unknown | Self::Names(_) => false,
        }
    }
}

impl<C: Serialize> Keys<C> {
    /// What an item is called.
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

//! Pages: the result of a fetch, the range it was asked for, and page tokens.

pub(crate) mod claim;
pub(crate) mod keys;
pub(crate) mod range;
pub(crate) mod size;
pub(crate) mod token;

use std::cmp::Ordering;

use serde::Serialize;

use crate::{
    base::error::PageError,
    page::{
        keys::Keys,
        range::PageRange,
        token::{PageToken, shown},
    },
};

/// Maximum bytes of values in a page of this crate's sources: 16 MiB. They end a page at this size, however
/// many items it may still hold. A worker keeps the items of each page in flight in memory, so other sources
/// should use the same bound.
pub const PAGE_BYTES: usize = 16 * 1024 * 1024;

/// The start of the next page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next<C> {
    /// The position after this cursor, if there is more data.
    At(C),
    /// The end of the data: the source says that no page follows.
    End,
}

/// The way in which the cursors of a page can be compared.
#[derive(Debug)]
enum Order<C> {
    /// Cursors compare only for equality: they are tokens of the source.
    None,
    /// Cursors compare only for equality, but the source sorts by them.
    OfTheSource,
    /// Cursors compare with this function.
    By(fn(&C, &C) -> Ordering),
}

/// The result of a fetch: the items of one page, and the start of the next page.
///
/// A range without an end is finished only by an empty page or by [`Next::End`]. A short page does not finish
/// it: rows may have been deleted, or an API may cap its pages.
#[derive(Debug)]
pub struct Page<C, I> {
    items: Vec<I>,
    next: Next<C>,
    keys: Keys<C>,
    order: Order<C>,
}

/// # Construct
impl<C, I> Page<C, I> {
    /// Creates a page without items: the range has no more data.
    pub fn empty() -> Self {
        Self {
            items: Vec::new(),
            next: Next::End,
            keys: Keys::Unknown,
            order: Order::None,
        }
    }

    /// Returns a page of a source ordered by a unique key. The next page begins after the key of the last item.
    ///
    /// The keys must be strictly ascending. For a descending scan, wrap them in [`std::cmp::Reverse`]. The
    /// engine also checks that the page lies inside the requested range.
    ///
    /// ```
    /// use temporal_batch::Page;
    ///
    /// let page = Page::keyset(vec![(1, "a"), (4, "b")], |row| row.0).unwrap();
    /// assert_eq!(page.next(), &temporal_batch::Next::At(4));
    ///
    /// // Two rows with one key: the second could be lost between two pages.
    /// assert!(Page::keyset(vec![(4, "a"), (4, "b")], |row| row.0).is_err());
    /// ```
    ///
    /// # Errors
    /// A non-retryable [`PageError`] of type `CursorDidNotAdvance` if two neighbouring keys are equal or
    /// descend.
    pub fn keyset(items: Vec<I>, key: impl Fn(&I) -> C) -> Result<Self, PageError>
    where
        C: Ord + Clone + Serialize,
    {
        let keys: Vec<C> = items.iter().map(key).collect();
        for pair in keys.windows(2) {
            if pair[1] <= pair[0] {
                return Err(did_not_advance(&pair[0], &pair[1]));
            }
        }
        let next = keys.last().cloned().map_or(Next::End, Next::At);
        Ok(Self {
            items,
            next,
            keys: Keys::Cursors(keys),
            order: Order::By(C::cmp),
        })
    }

    /// Returns a page of a source that sorts by a unique key in its own order, such as a database with a column
    /// collation. The next page begins after the key of the last item.
    ///
    /// The source must ensure that the keys ascend and lie in the requested range: this crate cannot check it.
    ///
    /// # Errors
    /// A non-retryable [`PageError`] of type `CursorDidNotAdvance` if two neighbouring keys are equal.
    pub fn sorted(items: Vec<I>, key: impl Fn(&I) -> C) -> Result<Self, PageError>
    where
        C: PartialEq + Clone + Serialize,
    {
        let keys: Vec<C> = items.iter().map(key).collect();
        for pair in keys.windows(2) {
            if pair[1] == pair[0] {
                return Err(did_not_advance(&pair[0], &pair[1]));
            }
        }
        let next = keys.last().cloned().map_or(Next::End, Next::At);
        Ok(Self {
            items,
            next,
            keys: Keys::Cursors(keys),
            order: Order::OfTheSource,
        })
    }

    /// Creates a page for work on ranges, such as `UPDATE ... WHERE id > $1 AND id <= $2`, which need not read the rows
    /// it changes. The source sorts by a unique key and knows only the number of items and the last key.
    /// `process` finds the range in [`PageContext::page`](crate::PageContext::page).
    ///
    /// - `items` has one element for each record, so that progress, rates and the report of `process` count
    ///   records. With `type Item = ()` use `vec![(); n]`, which takes no memory.
    /// - `last` is the key of the last record of the page. The source must ensure that keys ascend.
    /// - If [`PageContext::wants_keys`](crate::PageContext::wants_keys) is true, the engine is looking for the
    ///   record that fails. `fetch` then returns a page of the same range with keys, from
    ///   [`sorted`](Self::sorted) or [`keyset`](Self::keyset). If it does not, the engine gives up the page as
    ///   a whole.
    ///
    /// ```
    /// use temporal_batch::{Page, PageContext, PageError, PageProcessor, PageReport, async_trait};
    ///
    /// /// Adds one to each of a million counters.
    /// struct AddOne(std::sync::Mutex<Vec<u64>>);
    ///
    /// #[async_trait]
    /// impl PageProcessor for AddOne {
    ///     const NAME: &'static str = "add-one";
    ///     type Args = ();
    ///     type Cursor = usize;
    ///     type Item = usize; // the counter, where it has to be named; else anything
    ///
    ///     async fn fetch(&self, ctx: &PageContext<Self>) -> Result<Page<usize, usize>, PageError> {
    ///         let first = ctx.range().start().copied().unwrap_or(0);
    ///         let end = ctx.range().end().copied().unwrap_or(1_000_000);
    ///         let last = end.min(first + ctx.page_size());
    ///         Ok(match last - first {
    ///             0 => Page::empty(),
    ///             _ if ctx.wants_keys() => Page::sorted((first + 1..=last).collect(), |n| *n)?,
    ///             n => Page::not_read(vec![0; n], last),
    ///         })
    ///     }
    ///
    ///     async fn process(&self, ctx: &PageContext<Self>, items: Vec<usize>) -> Result<PageReport, PageError> {
    ///         let page = ctx.page().expect("it is being processed");
    ///         let (first, last) = (page.start().copied().unwrap_or(0), page.end().copied().unwrap_or(1_000_000));
    ///         let mut counters = self.0.lock().unwrap();
    ///         counters[first..last].iter_mut().for_each(|counter| *counter += 1);
    ///         Ok(PageReport::all_processed().changed(items.len() as u64))
    ///     }
    /// }
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let counters = AddOne(vec![0; 1_000_000].into());
    /// let run = temporal_batch::testing::run_page(&counters, (), Some(5_000)).await.unwrap();
    /// assert_eq!((run.counts.changed, run.next), (1_000, Some(6_000)));
    /// assert_eq!(counters.0.lock().unwrap().iter().sum::<u64>(), 1_000);
    /// # }
    /// ```
    pub fn not_read(items: Vec<I>, last: C) -> Self {
        Self {
            items,
            next: Next::At(last),
            keys: Keys::NotRead,
            order: Order::OfTheSource,
        }
    }

    /// Creates a page of a source that issues its own "next page" tokens. `None` means that the data ends with this
    /// page.
    pub fn opaque(items: Vec<I>, next: Option<C>) -> Self {
        Self {
            items,
            next: next.map_or(Next::End, Next::At),
            keys: Keys::Unknown,
            order: Order::None,
        }
    }

    /// Names the items of a page that has no keys. A dead letter identifies its item by this name, and a
    /// redrive finds the item by it. The names must be unique in the data.
    #[must_use]
    pub fn with_names(mut self, name: impl Fn(&I) -> String) -> Self {
        self.keys = Keys::Names(self.items.iter().map(name).collect());
        self
    }

    /// Names the items, in their order.
    #[cfg_attr(
        not(feature = "http"),
        allow(dead_code, reason = "for lists of an API")
    )]
    pub(crate) fn named(mut self, names: Vec<String>) -> Self {
        self.keys = Keys::Names(names);
        self
    }

    /// Marks the page as the last one, which saves one empty fetch at the end.
    #[must_use]
    pub fn last(mut self) -> Self {
        self.next = Next::End;
        self
    }
}

/// # Inspect
impl<C, I> Page<C, I> {
    /// Returns the items.
    pub fn items(&self) -> &[I] {
        &self.items
    }

    /// Returns the start of the next page.
    pub fn next(&self) -> &Next<C> {
        &self.next
    }

    /// Returns the start of the next page as a token. `None` if there is no next page.
    pub(crate) fn next_token(&self) -> Result<Option<PageToken>, PageError>
    where
        C: Serialize,
    {
        match &self.next {
            Next::At(cursor) => PageToken::encode(cursor).map(Some),
            Next::End => Ok(None),
        }
    }

    /// Converts the items and keeps everything else.
    #[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql"))]
    pub(crate) fn map<J>(self, item: impl FnMut(I) -> J) -> Page<C, J> {
        Page {
            items: self.items.into_iter().map(item).collect(),
            next: self.next,
            keys: self.keys,
            order: self.order,
        }
    }

    pub(crate) fn into_parts(self) -> (Vec<I>, Keys<C>) {
        (self.items, self.keys)
    }

    /// Returns the key of the last item, if items have keys.
    pub(crate) fn last_key(&self) -> Option<&C> {
        self.keys.cursors().last()
    }

    /// Keeps only the item with this name, if the page has it.
    pub(crate) fn only(mut self, name: &str) -> Result<Self, PageError>
    where
        C: Serialize,
    {
        let position = match &self.keys {
            Keys::Names(names) => names.iter().position(|n| n == name),
            Keys::Cursors(cursors) => {
                let mut tokens = cursors.iter().map(PageToken::encode);
                tokens.position(|token| token.is_ok_and(|token| token.as_str() == name))
            }
            Keys::Unknown | Keys::NotRead => {
                return Err(PageError::non_retryable(
                    "ItemsWithoutNames",
                    "the items of this source have no names, so one of them cannot be found again; \
                     give its pages names (Page::with_names)",
                ));
            }
        };
        self.items = match position {
            Some(position) => self.items.into_iter().skip(position).take(1).collect(),
            None => Vec::new(),
        };
        self.keys = Keys::Names(self.items.iter().map(|_| name.to_owned()).collect());
        Ok(self)
    }

    /// Returns whether the source sorts by the cursors.
    pub(crate) fn is_ordered(&self) -> bool {
        !matches!(self.order, Order::None)
    }
}

impl<C: Serialize + PartialEq, I> Page<C, I> {
    /// Checks that the page advances and lies in the range it was fetched for.
    pub(crate) fn check_within(&self, range: &PageRange<C>) -> Result<(), PageError> {
        let Next::At(next) = &self.next else {
            return Ok(());
        };
        if let Some(start) = range.start() {
            let advances = match &self.order {
                Order::By(order) => order(next, start) == Ordering::Greater,
                Order::None | Order::OfTheSource => next != start,
            };
            if !advances {
                return Err(did_not_advance(start, next));
            }
        }
        if let (Order::By(order), Some(end)) = (&self.order, range.end())
            && order(next, end) == Ordering::Greater
        {
            return Err(PageError::non_retryable(
                "PageOutsideRange",
                format_args!(
                    "fetch returned items up to {}, but its range ends at {}",
                    shown(next),
                    shown(end)
                ),
            ));
        }
        Ok(())
    }
}

pub(crate) fn did_not_advance<C: Serialize>(from: &C, to: &C) -> PageError {
    PageError::non_retryable(
        "CursorDidNotAdvance",
        format_args!("cursor went from {} to {}", shown(from), shown(to)),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_keyset_page_ends_at_its_last_key() {
        let page = Page::keyset(vec![3, 5, 9], |i| *i).unwrap();
        assert_eq!(page.next(), &Next::At(9));
        assert_eq!(page.last().next(), &Next::End);
    }

    #[test]
    fn keys_that_repeat_or_go_back_are_refused() {
        for items in [vec![1, 1], vec![1, 3, 2]] {
            let error = Page::keyset(items, |i| *i).unwrap_err();
            assert_eq!(error.error_type(), "CursorDidNotAdvance");
            assert!(!error.is_retryable());
        }
    }

    #[test]
    fn a_page_outside_its_range_is_refused() {
        let page = Page::keyset(vec![3, 5, 9], |i| *i).unwrap();
        assert!(page.check_within(&PageRange::new(Some(2), Some(9))).is_ok());
        let behind = page.check_within(&PageRange::new(Some(9), None));
        assert_eq!(behind.unwrap_err().error_type(), "CursorDidNotAdvance");
        let beyond = page.check_within(&PageRange::new(Some(2), Some(8)));
        assert_eq!(beyond.unwrap_err().error_type(), "PageOutsideRange");
    }

    #[test]
    fn opaque_cursors_are_only_compared_for_equality() {
        let page = Page::opaque(vec![1], Some("b".to_owned()));
        let from = |start: &str| PageRange::new(Some(start.to_owned()), Some("a".to_owned()));
        assert!(page.check_within(&from("z")).is_ok());
        assert!(page.check_within(&from("b")).is_err());
    }

    #[test]
    fn tokens_round_trip_and_are_shortened_when_shown() {
        let cursor = ("x".repeat(40), 7_i64);
        let token = PageToken::encode(&cursor).unwrap();
        assert_eq!(token.decode::<(String, i64)>().unwrap(), cursor);
        assert_eq!(token.to_string().chars().count(), 24);
        let wrong = token.decode::<i64>().unwrap_err();
        assert_eq!(wrong.error_type(), "CursorNotReadable");
        assert!(wrong.is_retryable());
    }

    #[test]
    fn a_page_whose_keys_were_not_read_ends_at_the_last_one_and_can_be_split() {
        let page = Page::not_read(vec![(); 3], 9);
        assert_eq!((page.items().len(), page.next()), (3, &Next::At(9)));
        assert!(page.is_ordered());
        assert!(page.check_within(&PageRange::new(Some(9), None)).is_err());
        let (_, keys) = page.into_parts();
        assert!(keys.can_be_split() && keys.cursors().is_empty());
        let error = Page::not_read(vec![(); 3], 9).only("9").unwrap_err();
        assert_eq!(error.error_type(), "ItemsWithoutNames");
    }

    #[test]
    fn an_oversized_cursor_is_refused() {
        let error = PageToken::encode(&"x".repeat(2_000)).unwrap_err();
        assert_eq!(error.error_type(), "CursorTooLarge");
    }
}

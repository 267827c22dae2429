//! The treatment of a page whose attempts are used up.
//!
//! If cursors tell its items apart, the page is split in halves, which are processed separately, until every
//! record that cannot be processed is isolated. With k such records among n this takes at most 1 + 2 k log2(n)
//! attempts, log2 rounded up, and never more than 2 n. Every part that succeeds is finished for good, so an
//! interrupted stride continues after it.
//!
//! A page that cannot be split is put aside as a whole.

use serde_json::Value;

use super::{
    Failure, Halt,
    page::{Applied, Cut, PageClock},
    runner::{Running, limited},
    stores::PageSlice,
};
use crate::{
    base::error::{Blame, MAX_MESSAGE_CHARS, truncate},
    page::token::PageToken,
    processor::{PageProcessor, SkipAhead, store::dead_letter::DeadLetter},
    progress::{ItemCounts, failures::FailureState},
    protocol::{FailedAttempt, GiveUp, MOST_READS, StrideReport},
};

/// Maximum number of failed pages that the report of a stride describes. All of them are dead letters.
const MAX_DESCRIBED: usize = 5;

/// Maximum number of workers that may be lost while finding the end of a page, if only reading tells it. Most
/// of them may be lost by chance.
const MOST_LOST: u32 = 6;

/// Number of connections that a record must break, alone, before it is given up. One may break by chance.
const MOST_BROKEN: u32 = 3;

/// Maximum number of records in a row that are given up for an error that may not be theirs.
const MOST_SUSPECTS: u32 = 3;

/// The end of a page that is given up.
enum Extent {
    To(Option<PageToken>, bool),
    /// The range contains no items any more.
    Nothing,
    Unknown,
}

/// A remaining range of a page.
struct Remainder {
    to: Option<PageToken>,
    ends_data: bool,
    /// The failure, if the range has already been processed as a whole.
    failed: Option<Failure>,
    /// The number of connections that its one record has broken.
    tries: u32,
}

impl Remainder {
    fn of(to: Option<PageToken>, ends_data: bool) -> Self {
        Self {
            to,
            ends_data,
            failed: None,
            tries: 0,
        }
    }
}

/// The remainder of a page that cannot be read as a whole.
struct Unread {
    /// The number of items that remain.
    left: u32,
    /// The number of next items that cannot be read together, or 0 if unknown.
    together: u32,
    /// True if the page is known to be at fault, whatever error it fails with.
    convicted: bool,
    /// The number of connections that the next record has broken, alone.
    tries: u32,
}

impl Unread {
    /// The number of items to read next.
    fn next(&self) -> u32 {
        match self.together {
            0 => self.left,
            1 => 1,
            together => together / 2,
        }
    }

    fn is_past(&mut self, items: u32) {
        self.left = self.left.saturating_sub(items);
        self.together = self.together.saturating_sub(items);
        self.tries = 0;
    }

    fn is_to_blame(&self, failure: &Failure) -> bool {
        match failure.attempt.blame {
            Blame::Page => true,
            Blame::Unknown => self.convicted,
            Blame::Moment => false,
        }
    }
}

impl<P: PageProcessor> Running<'_, P> {
    /// Returns whether a failed page is to be given up here. Without a store the controller decides that,
    /// unless the data of the page is at fault: then its other records can be saved.
    pub fn is_spent(&self, failure: &Failure) -> bool {
        let FailedAttempt {
            retryable,
            not_the_page,
            unread,
            blame,
            ..
        } = failure.attempt;
        let allowed = match unread {
            true => Some(MOST_READS),
            false => self.order.attempts_allowed,
        };
        let spent = !retryable || allowed.is_some_and(|n| self.attempt >= n);
        let spent = (spent && !not_the_page) || self.is_convicted(failure);
        match self.stores.keeps_letters() {
            true => spent,
            false => spent && blame == Blame::Page && self.may_repeat(),
        }
    }

    /// Returns whether this failure convicts a page that other pages speak against.
    fn is_convicted(&self, failure: &Failure) -> bool {
        let first = self.order.take_apart && self.at == self.order.start;
        first && failure.attempt.blame != Blame::Moment
    }

    pub async fn give_up(
        &mut self,
        failure: Failure,
        report: &mut StrideReport,
    ) -> Result<(), Halt> {
        let convicted = self.is_convicted(&failure);
        if failure.can_be_split && self.may_repeat() {
            return self.isolate(failure, report).await;
        }
        let unread = failure.attempt.known_end().is_none();
        if unread && self.may_repeat() && (convicted || failure.attempt.blame == Blame::Page) {
            return self.read_in_parts(failure, report).await;
        }
        self.give_up_whole(failure, report).await
    }

    /// Gives the page up as a whole.
    async fn give_up_whole(
        &mut self,
        mut failure: Failure,
        report: &mut StrideReport,
    ) -> Result<(), Halt> {
        if !self.stores.keeps_letters() {
            return Err(failure.into());
        }
        let known = failure.attempt.known_end();
        let (to, ends_data) = match known {
            Some(known) => known,
            None => match self.end_of_unread_page(true).await {
                Ok(Some(to)) => (Some(to), false),
                Ok(None) if !failure.attempt.retryable => return Err(coverage_stops(failure)),
                // The controller has other activities look for the end again.
                Ok(None) | Err(Halt::Failed(_)) => return Err(failure.into()),
                Err(halt) => return Err(halt),
            },
        };
        let put = self.put_page_aside(to.clone(), ends_data, &failure, report);
        match put.await {
            Err(Halt::Failed(store)) if self.runs_once() => {
                let (error_type, error) = (&store.attempt.error_type, &store.message);
                tracing::warn!(error_type, error, "the dead letter of a page was not kept");
                // The controller has another activity put the page aside, with the failure that it now knows.
                failure.attempt.page_end = to;
                failure.attempt.last_page = ends_data;
                Err(failure.into())
            }
            put => put,
        }
    }

    /// Puts aside a page whose attempts are used up, and returns whether there was one. The page is not
    /// processed again: workers may die of it, or may already have processed it.
    pub async fn put_given_up_aside(
        &mut self,
        given_up: &GiveUp,
        report: &mut StrideReport,
    ) -> Result<bool, Halt> {
        let failure = Failure {
            attempt: given_up.failure.clone(),
            message: given_up.failure.message.clone(),
            can_be_split: false,
            record: None,
        };
        // The controller counts the attempt that this one would have been.
        self.attempt = self.attempt.saturating_sub(1).max(1);
        let (to, ends_data) = match self.end_of_given_up(given_up).await? {
            Extent::To(to, ends_data) => (to, ends_data),
            Extent::Nothing => return Ok(false),
            Extent::Unknown => return Err(coverage_stops(failure)),
        };
        self.put_page_aside(to, ends_data, &failure, report).await?;
        Ok(true)
    }

    async fn end_of_given_up(&self, given_up: &GiveUp) -> Result<Extent, Halt> {
        let GiveUp {
            failure,
            failed,
            lost,
        } = given_up;
        if let Some((to, ends_data)) = failure.known_end() {
            return Ok(Extent::To(to, ends_data));
        }
        if failure.lost && self.runs_once() && self.end.is_some() {
            // Later pages may have been processed too, because the last sign of life is not the last page.
            return Ok(Extent::To(self.end.clone(), false));
        }
        let patient = *failed < MOST_READS;
        if *lost == 0
            && patient
            && let Some(extent) = self.read_given_up().await?
        {
            return Ok(extent);
        }
        let end = match lost {
            0 | 1 => self.end_of_unread_page(patient).await?,
            // The search for the end has cost workers, too.
            _ => self.end.clone(),
        };
        if let Some(to) = end {
            return Ok(Extent::To(Some(to), false));
        }
        let read = match (1..MOST_LOST).contains(lost) && patient {
            true => self.read_given_up().await?,
            false => None,
        };
        Ok(read.unwrap_or(Extent::Unknown))
    }

    /// Reads the page to find its extent. `None` if it cannot be read.
    async fn read_given_up(&self) -> Result<Option<Extent>, Halt> {
        match self.read_to_its_end().await {
            Err(Halt::Failed(read)) if !read.attempt.retryable => Ok(None),
            read => read.map(Some),
        }
    }

    async fn read_to_its_end(&self) -> Result<Extent, Halt> {
        let mut clock = PageClock::new(self.order.page_timeout);
        let page = self.fetch(self.range()?, &mut clock).await?;
        let next = page.next_token().map_err(|e| self.failed(&e))?;
        let ends_data = next.is_none() && self.end.is_none();
        let cut = self.cut(page, next.or_else(|| self.end.clone()), ends_data)?;
        Ok(match cut.items.is_empty() {
            true => Extent::Nothing,
            false => Extent::To(cut.to, cut.ends_data),
        })
    }

    /// Returns the end of a page that could not be read: one page ahead, if the source can jump, or the end of
    /// the stride. With `patient`, a retryable error of the source is returned.
    async fn end_of_unread_page(&self, patient: bool) -> Result<Option<PageToken>, Halt> {
        let jump = match self.skip_ahead(self.range()?, 1).await? {
            Ok(SkipAhead::To(cursor)) => PageToken::encode(&cursor).ok(),
            Ok(SkipAhead::PastEnd | SkipAhead::Unsupported) => None,
            Err(error) => {
                let failure = Failure::of(&error, &self.settings.non_retryable_types);
                if patient && failure.attempt.retryable {
                    return Err(failure.into());
                }
                None
            }
        };
        Ok(jump.or_else(|| self.end.clone()))
    }

    /// Stores one letter for a whole range and continues after it.
    async fn put_page_aside(
        &mut self,
        to: Option<PageToken>,
        ends_data: bool,
        failure: &Failure,
        report: &mut StrideReport,
    ) -> Result<(), Halt> {
        let error_type = &failure.attempt.error_type;
        let letter = self.letter(self.at.clone(), to.clone(), error_type, &failure.message);
        let part = PageSlice {
            from: self.at.as_ref(),
            to: to.as_ref(),
            ends_data,
            pages: 0,
            pages_failed: 1,
        };
        let letters = [letter];
        self.keep(part, &ItemCounts::default(), &letters).await?;
        let [letter] = letters;
        tracing::warn!(
            start = ?letter.start,
            end = ?letter.end,
            error_type = letter.error_type,
            error = letter.message,
            "page given up"
        );
        report.pages_failed += 1;
        report.dead_letters += u64::from(self.stores.keeps_letters());
        self.put_aside(report);
        if report.failed_pages.len() < MAX_DESCRIBED {
            let mut listed = letter.as_page_failure();
            if !self.stores.keeps_letters() {
                listed.state = FailureState::GivenUp;
            }
            report.failed_pages.push(listed);
        }
        self.advance(report, to, ends_data);
        Ok(())
    }

    async fn keep(
        &self,
        part: PageSlice<'_>,
        items: &ItemCounts,
        letters: &[DeadLetter],
    ) -> Result<(), Halt> {
        let keep = async {
            let open_page = self.stores.begin(part).await?;
            self.stores
                .finish(open_page, items, letters, &Value::Null)
                .await
        };
        limited(keep, self.order.page_timeout)
            .await
            .map_err(|e| Halt::from(Failure::while_giving_up(&e)))?;
        if self.stores.keeps_letters() {
            self.kept(letters);
        }
        Ok(())
    }

    /// Splits the page until every record that cannot be processed is isolated.
    async fn isolate(&mut self, failure: Failure, report: &mut StrideReport) -> Result<(), Halt> {
        // All attempts are used up, whatever their errors were.
        let allowed = self.order.attempts_allowed;
        let exhausted = allowed.is_some_and(|n| self.attempt >= n);
        let convicted = self.is_convicted(&failure);
        let mut suspects = 0;
        let mut rest = vec![Remainder {
            to: failure.attempt.page_end.clone(),
            ends_data: failure.attempt.last_page,
            failed: Some(failure),
            tries: 0,
        }];
        while let Some(next) = rest.pop() {
            let Remainder {
                to,
                ends_data,
                failed,
                tries,
            } = next;
            // A smaller remainder would not be worth the attempts that it would cost again.
            if self.is_interrupted() {
                return Err(Halt::Stopped);
            }
            let cut = self.read_part(to.as_ref(), ends_data).await?;
            if cut.to != to {
                // The last row is gone, or new rows did not fit into one page.
                rest.push(Remainder::of(to, ends_data));
            }
            let pages = u32::from(rest.is_empty());
            let until = (cut.to.clone(), cut.ends_data);
            let failed = match failed {
                Some(failed) if !cut.items.is_empty() => failed,
                _ => {
                    let mut clock = PageClock::new(self.order.page_timeout);
                    let work = self.apply(cut.items, &cut.keys, until.clone(), pages, &mut clock);
                    match work.await {
                        Ok(applied) => {
                            let Applied { items, done, .. } = &applied;
                            self.finished(report, items, done, &cut.keys);
                            self.put_out(report, applied.output);
                            report.pages += pages;
                            self.advance(report, until.0, until.1);
                            self.host.checkpoint(report);
                            suspects = 0;
                            continue;
                        }
                        // The failure may be a consequence of the interruption.
                        Err(Halt::Failed(_)) if self.is_interrupted() => return Err(Halt::Stopped),
                        Err(Halt::Failed(failure)) => *failure,
                        Err(halt) => return Err(halt),
                    }
                }
            };
            let FailedAttempt {
                retryable,
                not_the_page,
                blame,
                ..
            } = failed.attempt;
            let passes = match blame {
                Blame::Page => not_the_page,
                Blame::Unknown => not_the_page && !convicted,
                Blame::Moment => not_the_page || (retryable && !exhausted),
            };
            if passes {
                return Err(failed.into());
            }
            if let Some(middle) = cut.keys.middle().map_err(|e| self.failed(&e))? {
                rest.push(Remainder::of(until.0, until.1));
                rest.push(Remainder::of(Some(middle), false));
                continue;
            }
            if failed.is_broken() && tries + 1 < MOST_BROKEN {
                rest.push(Remainder {
                    tries: tries + 1,
                    ..Remainder::of(until.0, until.1)
                });
                continue;
            }
            if blame == Blame::Unknown && convicted && !exhausted {
                suspects += 1;
                if suspects > MOST_SUSPECTS {
                    return Err(failed.into());
                }
            }
            let failed = self.with_message_limit(failed).await;
            if let Some(name) = cut.keys.name(0).filter(|_| cut.keys.cursors().len() == 1) {
                self.put_item_aside(name, until, pages, &failed, report)
                    .await?;
            } else {
                self.put_page_aside(until.0, until.1, &failed, report)
                    .await?;
            }
        }
        Ok(())
    }

    /// Reads a page in smaller parts until the record that cannot be read is isolated, and continues to the end
    /// of the page.
    async fn read_in_parts(
        &mut self,
        failure: Failure,
        report: &mut StrideReport,
    ) -> Result<(), Halt> {
        let mut unread = Unread {
            left: self.page_size(),
            together: self.page_size(),
            convicted: self.is_convicted(&failure),
            tries: 0,
        };
        let mut failed = failure;
        loop {
            if unread.together == 1 {
                match self.end_of_record().await? {
                    Some(end) => self.put_unread_aside(end, failed.clone(), report).await?,
                    None => return self.give_up_whole(failed, report).await,
                }
                unread.is_past(1);
            }
            match self.read_on(&mut unread, report).await? {
                Some(again) => failed = again,
                None => return Ok(()),
            }
        }
    }

    /// Continues until something cannot be read again. `None` if the page has been worked through.
    async fn read_on(
        &mut self,
        unread: &mut Unread,
        report: &mut StrideReport,
    ) -> Result<Option<Failure>, Halt> {
        while unread.left > 0 && !self.at_end() && !report.end_of_data && self.items_left != Some(0)
        {
            if self.is_interrupted() {
                return Err(Halt::Stopped);
            }
            let size = unread.next();
            self.smaller = Some(size);
            let ran = self.run_page(report).await;
            self.smaller = None;
            match ran {
                Ok(_) => {
                    self.host.checkpoint(report);
                    unread.is_past(size);
                }
                Err(Halt::Failed(again)) if unread.is_to_blame(&again) => {
                    if !again.can_be_split {
                        unread.together = size;
                        unread.tries += 1;
                        if size == 1 && again.is_broken() && unread.tries < MOST_BROKEN {
                            continue;
                        }
                        return Ok(Some(*again));
                    }
                    self.isolate(*again, report).await?;
                    unread.is_past(size);
                }
                Err(halt) => return Err(halt),
            }
        }
        Ok(None)
    }

    /// Returns the end of the next record, if the source can tell it without reading the record.
    async fn end_of_record(&self) -> Result<Option<PageToken>, Halt> {
        match self.skip_pages(self.range()?, 1, 1).await? {
            Ok(SkipAhead::To(cursor)) => {
                let end = PageToken::encode(&cursor).map_err(|e| self.failed(&e))?;
                Ok(Some(end))
            }
            Ok(SkipAhead::PastEnd | SkipAhead::Unsupported) => Ok(None),
            Err(error) => Err(self.failed(&error)),
        }
    }

    /// Puts aside the one record that ends at `end` and cannot be read.
    async fn put_unread_aside(
        &mut self,
        end: PageToken,
        failure: Failure,
        report: &mut StrideReport,
    ) -> Result<(), Halt> {
        let name = end.as_str().to_owned();
        let failure = self.with_message_limit(failure).await;
        self.put_item_aside(name, (Some(end), false), 0, &failure, report)
            .await
    }

    /// Adds the server's message limit to the failure, if that may be why the connection breaks.
    async fn with_message_limit(&self, mut failure: Failure) -> Failure {
        if failure.is_broken()
            && let Some(limit) = self.stores.message_limit().await
        {
            let message = format!("{}; {limit}", failure.message);
            failure.attempt.message = truncate(&message, MAX_MESSAGE_CHARS);
            failure.message = message;
        }
        failure
    }

    /// Reads the range `(at, to]`.
    async fn read_part(&self, to: Option<&PageToken>, ends_data: bool) -> Result<Cut<P>, Halt> {
        let giving_up = |mut halt| {
            if let Halt::Failed(failure) = &mut halt {
                failure.beside_the_page();
            }
            halt
        };
        let mut clock = PageClock::new(self.order.page_timeout);
        let range = self.range_to(to)?;
        let page = self
            .fetch_keys(range, &mut clock)
            .await
            .map_err(giving_up)?;
        let next = page.next_token().map_err(|e| self.failed(&e))?;
        let (to, ends_data) = match next {
            Some(next) if Some(&next) != to => (Some(next), false),
            _ => (to.cloned(), ends_data),
        };
        self.cut(page, to, ends_data)
    }

    /// Stores the letter of the one record in `(at, to]` and continues after it.
    async fn put_item_aside(
        &mut self,
        name: String,
        (to, ends_data): (Option<PageToken>, bool),
        pages: u32,
        failure: &Failure,
        report: &mut StrideReport,
    ) -> Result<(), Halt> {
        let error_type = &failure.attempt.error_type;
        let mut letter = self.letter(self.at.clone(), to.clone(), error_type, &failure.message);
        letter.id = DeadLetter::id_of(&letter.scope(), None, None, Some(&name));
        letter.key = Some(name.clone());
        letter.record.clone_from(&failure.record);
        let items = ItemCounts {
            failed: 1,
            ..ItemCounts::default()
        };
        let part = PageSlice {
            from: self.at.as_ref(),
            to: to.as_ref(),
            ends_data,
            pages,
            pages_failed: 0,
        };
        self.keep(part, &items, &[letter]).await?;
        report.items += items;
        report.pages += pages;
        report.dead_letters += u64::from(self.stores.keeps_letters());
        self.describe(report, &name, error_type, &failure.message);
        self.advance(report, to, ends_data);
        self.host.checkpoint(report);
        Ok(())
    }
}

/// The end of the page is unknown, so there is no place to continue after it.
fn coverage_stops(mut failure: Failure) -> Halt {
    failure.attempt.retryable = false;
    failure.attempt.coverage_stops = true;
    failure.into()
}

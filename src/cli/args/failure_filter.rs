//! The selection of failures: flags of `failures` and `redrive`.

use std::time::SystemTime;

use clap::Args;
use serde_json::Value;

use crate::{
    base::time::Timestamp,
    batch::letter_filter::LetterFilter,
    cli::{
        args::values::json,
        exit::{CliError, CliResult},
        processors::Processors,
    },
    page::token::PageToken,
    progress::failures::{FailedItem, PageFailure},
};

#[derive(Args, Debug)]
pub(crate) struct FilterArgs {
    /// Only failures of this type
    #[arg(long, value_name = "TYPE", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    error_type: Option<String>,

    /// Only the page that begins right after this cursor
    #[arg(long, value_name = "CURSOR", value_parser = json, allow_hyphen_values = true)]
    page: Option<Value>,

    /// Only failures of this time or later: a UTC time such as 2026-11-21T07:00:00Z, or an age such as 2h
    #[arg(long, value_name = "TIME", value_parser = time)]
    since: Option<Timestamp>,

    /// Only failures before this time
    #[arg(long, value_name = "TIME", value_parser = time)]
    until: Option<Timestamp>,
}

/// Parses a point in time, or an age.
fn time(text: &str) -> Result<Timestamp, String> {
    time_before(text, SystemTime::now())
}

fn time_before(text: &str, now: SystemTime) -> Result<Timestamp, String> {
    let ago = humantime::parse_duration(text).ok();
    let time = match ago {
        Some(ago) => now.checked_sub(ago),
        None => humantime::parse_rfc3339_weak(text).ok(),
    };
    time.map(Timestamp::from).ok_or_else(|| {
        "write a UTC time such as 2026-11-21T07:00:00Z, or how long ago, such as 2h or 30min"
            .to_owned()
    })
}

impl FilterArgs {
    /// Returns the filter for a batch of a processor, with the cursor as the processor would write it.
    pub(crate) fn of(
        &self,
        batch_id: &str,
        processor: Option<&str>,
        processors: &Processors,
    ) -> CliResult<LetterFilter> {
        if let (Some(since), Some(until)) = (self.since, self.until)
            && since >= until
        {
            return Err(CliError::usage(
                "no failure can match: --since has to be before --until",
            ));
        }
        let page_start = match &self.page {
            None => None,
            Some(cursor) => {
                let token = PageToken::encode(cursor).map_err(|e| CliError::usage(e.message()))?;
                Some(match processor {
                    Some(name) => processors.rewrite(name, token)?,
                    None => token,
                })
            }
        };
        Ok(LetterFilter {
            error_type: self.error_type.clone(),
            page_start,
            since: self.since,
            until: self.until,
            ..LetterFilter::of(batch_id)
        })
    }
}

/// Returns whether the filter selects a page.
pub(crate) fn means_page(filter: &LetterFilter, page: &PageFailure) -> bool {
    let wanted_type = filter.error_type.as_ref();
    let wanted_start = filter.page_start.as_ref();
    wanted_type.is_none_or(|wanted| *wanted == page.error_type)
        && wanted_start.is_none_or(|wanted| page.start.as_ref() == Some(wanted))
        && filter.since.is_none_or(|since| page.last_at >= since)
        && filter.until.is_none_or(|until| page.last_at < until)
}

/// Returns whether the filter selects an item. The place and the time of an item are unknown, so a filter on either
/// selects no item.
pub(crate) fn means_item(filter: &LetterFilter, item: &FailedItem) -> bool {
    let wanted_type = filter.error_type.as_ref();
    wanted_type.is_none_or(|wanted| *wanted == item.error_type)
        && filter.page_start.is_none()
        && filter.since.is_none()
        && filter.until.is_none()
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;
    use crate::progress::failures::FailureState;

    #[test]
    fn a_time_is_absolute_or_ago() {
        let now = UNIX_EPOCH + Duration::from_secs(1_000_000);
        let time = |text| time_before(text, now).map(|at| at.0);
        assert_eq!(time("2h"), Ok((1_000_000 - 7_200) * 1_000));
        assert_eq!(time("0s"), Ok(1_000_000_000));
        assert_eq!(time("1970-01-01T00:00:05Z"), Ok(5_000));
        assert_eq!(time("1970-01-01 00:00:05.250"), Ok(5_250));
        for text in ["", "yesterday", "1970-01-01T00:00:05+02:00", "-1h"] {
            assert!(time(text).unwrap_err().contains("2h"), "{text}");
        }
    }

    fn page(error_type: &str, start: Option<i64>, last_at: u64) -> PageFailure {
        PageFailure {
            stride: 0,
            start: start.map(|start| PageToken::encode(&start).unwrap()),
            end: None,
            error_type: error_type.to_owned(),
            message: String::new(),
            attempts: 1,
            first_at: Timestamp(0),
            last_at: Timestamp(last_at),
            gives_up_at: None,
            state: FailureState::Retrying,
        }
    }

    #[test]
    fn pages_are_chosen_by_type_place_and_time() {
        let pages = [
            page("Busy", None, 10),
            page("Busy", Some(7), 20),
            page("Broken", Some(7), 30),
        ];
        let chosen = |filter: LetterFilter| {
            let times = pages.iter().filter(|page| means_page(&filter, page));
            times.map(|page| page.last_at.0).collect::<Vec<_>>()
        };
        let all = || LetterFilter::of("b");
        assert_eq!(chosen(all()), [10, 20, 30]);
        let filter = LetterFilter {
            error_type: Some("Busy".to_owned()),
            ..all()
        };
        assert_eq!(chosen(filter), [10, 20]);
        let filter = LetterFilter {
            page_start: Some(PageToken::encode(&7).unwrap()),
            ..all()
        };
        assert_eq!(chosen(filter), [20, 30]);
        let filter = LetterFilter {
            since: Some(Timestamp(20)),
            until: Some(Timestamp(30)),
            ..all()
        };
        assert_eq!(chosen(filter), [20]);
    }

    #[test]
    fn an_item_without_a_time_is_not_chosen_by_time() {
        let item = FailedItem {
            key: "7".to_owned(),
            error_type: "Broken".to_owned(),
            message: String::new(),
            dead_letter: false,
        };
        assert!(means_item(&LetterFilter::of("b"), &item));
        let since = LetterFilter {
            since: Some(Timestamp(0)),
            ..LetterFilter::of("b")
        };
        assert!(!means_item(&since, &item));
    }
}

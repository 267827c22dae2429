//! The speed of a batch: flags of `start`, `redrive` and `set`.

use std::{str::FromStr, time::Duration};

use clap::Args;

use crate::{
    batch::{
        Batch,
        pace_settings::{
            page_size::InvalidAutoPageSize,
            parallelism::{AutoParallelism, InvalidAutoParallelism},
            ramp::Ramp,
            stride::{InvalidAutoStride, Stride},
            window::{InvalidWindow, Window},
        },
    },
    cli::{args::values::length, exit::CliResult, output, shell::quoted},
    progress::Progress,
    protocol::{settings::Settings, steering::PageSizeSetting},
};

/// The heading of these flags in the help. A heading for the whole struct would also apply to the flags after it.
const HEADING: &str = "Pace";
/// The word that removes a limit.
const NONE: &str = "none";

#[derive(Args, Clone, Debug)]
pub(crate) struct PacingArgs {
    /// Pages in flight at most, over all workers, from 0 (starts no pages) to 500; or auto, auto:2..16 to tune
    /// them [a new batch: 10]
    #[arg(long, help_heading = HEADING, value_name = "PAGES|auto", value_parser = parallelism, allow_negative_numbers = true)]
    max_parallelism: Option<Parallelism>,

    /// Raise the parallelism step by step, such as 1..32/10m, in the time in which the batch runs
    #[arg(long, help_heading = HEADING, value_name = "A..B/DURATION", conflicts_with = "max_parallelism")]
    ramp: Option<Ramp>,

    /// Items per page, from 1 to 1,000,000; or auto, auto:100..5000@500ms to tune them to the time that a page
    /// takes [a new batch: 1000, a redrive: 20]
    #[arg(long, help_heading = HEADING, value_name = "ITEMS|auto", value_parser = page_size, allow_negative_numbers = true)]
    page_size: Option<PageSizeSetting>,

    /// Pages that one activity processes in a row, where the source can skip ahead, from 1 to 10,000; or auto,
    /// auto@10s to tune them to the time that an activity takes [a new batch: auto]
    #[arg(long, help_heading = HEADING, value_name = "PAGES|auto", value_parser = stride, allow_negative_numbers = true)]
    stride: Option<Stride>,

    /// Items per second at most, over all workers, or none [a new batch: none]
    #[arg(long, help_heading = HEADING, value_name = "ITEMS", value_parser = per_second, allow_negative_numbers = true)]
    rate: Option<Limit<f64>>,

    /// Pages per second at most, over all workers, or none [a new batch: none]
    #[arg(long, help_heading = HEADING, value_name = "PAGES", value_parser = per_second, allow_negative_numbers = true)]
    page_rate: Option<Limit<f64>>,

    /// A pause before each page, such as 50ms, or none [a new batch: none]
    #[arg(long, help_heading = HEADING, value_name = "DURATION", value_parser = pause)]
    page_pause: Option<Limit<Duration>>,

    /// Run only within this window, such as "Mon-Fri 22:00-06:00 Europe/Berlin"; can be given again; none is
    /// always [a new batch: always]
    #[arg(long, help_heading = HEADING, value_name = "WINDOW", value_parser = window)]
    window: Vec<Limit<Window>>,
}

/// A fixed parallelism, or one that is tuned.
#[derive(Clone, Debug, PartialEq)]
enum Parallelism {
    Fixed(u32),
    Auto(AutoParallelism),
}

const AUTO: &str = "auto";

fn parallelism(text: &str) -> Result<Parallelism, String> {
    if text.starts_with(AUTO) {
        let auto = text
            .parse()
            .map_err(|e: InvalidAutoParallelism| e.to_string());
        return auto.map(Parallelism::Auto);
    }
    let fixed = text.parse().map(Parallelism::Fixed);
    fixed.map_err(|_| "write a number of pages from 0 to 500, auto, or auto:2..16".to_owned())
}

fn page_size(text: &str) -> Result<PageSizeSetting, String> {
    if text.starts_with(AUTO) {
        let auto = text.parse().map_err(|e: InvalidAutoPageSize| e.to_string());
        return auto.map(PageSizeSetting::Auto);
    }
    let fixed = text.parse().map(PageSizeSetting::Fixed);
    fixed.map_err(|_| {
        "write a number of items from 1 to 1000000, auto, or auto:100..5000".to_owned()
    })
}

fn stride(text: &str) -> Result<Stride, String> {
    if text.starts_with(AUTO) {
        let auto = text.parse().map_err(|e: InvalidAutoStride| e.to_string());
        return auto.map(Stride::Auto);
    }
    let fixed = text.parse().map(Stride::Pages);
    fixed.map_err(|_| "write a number of pages from 1 to 10000, auto, or auto@10s".to_owned())
}

fn window(text: &str) -> Result<Limit<Window>, String> {
    limit(text, |text| {
        text.parse().map_err(|e: InvalidWindow| e.to_string())
    })
}

/// A limit that can be removed.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Limit<T>(Option<T>);

fn per_second(text: &str) -> Result<Limit<f64>, String> {
    limit(text, |text| {
        f64::from_str(text).map_err(|_| "write a number per second such as 500, or none".to_owned())
    })
}

fn pause(text: &str) -> Result<Limit<Duration>, String> {
    limit(text, length)
}

fn limit<T>(text: &str, parse: impl FnOnce(&str) -> Result<T, String>) -> Result<Limit<T>, String> {
    match text {
        NONE => Ok(Limit(None)),
        text => parse(text).map(Some).map(Limit),
    }
}

impl PacingArgs {
    /// Returns the settings for a running batch. Values are not checked yet.
    pub(crate) fn settings(&self) -> Settings {
        let mut settings = Settings::new();
        match &self.max_parallelism {
            Some(Parallelism::Fixed(pages)) => settings = settings.max_parallelism(*pages),
            Some(Parallelism::Auto(auto)) => settings = settings.auto_parallelism(*auto),
            None => {}
        }
        if let Some(ramp) = &self.ramp {
            settings = settings.ramp(ramp.clone());
        }
        match &self.page_size {
            Some(PageSizeSetting::Fixed(items)) => settings = settings.page_size(*items),
            Some(PageSizeSetting::Auto(auto)) => settings = settings.auto_page_size(*auto),
            None => {}
        }
        if let Some(stride) = self.stride {
            settings = settings.stride(stride);
        }
        if !self.window.is_empty() {
            settings = settings.windows(self.windows());
        }
        if let Some(Limit(rate)) = self.rate {
            settings = settings.rate(rate);
        }
        if let Some(Limit(rate)) = self.page_rate {
            settings = settings.page_rate(rate);
        }
        if let Some(Limit(pause)) = self.page_pause {
            settings = settings.page_pause(pause);
        }
        settings
    }

    fn windows(&self) -> Vec<Window> {
        let given = self
            .window
            .iter()
            .filter_map(|Limit(window)| window.as_ref());
        given.cloned().collect()
    }

    /// Applies the flags to a new batch. Values are checked here, and again with the batch.
    pub(crate) fn apply(&self, mut batch: Batch) -> CliResult<Batch> {
        self.settings().validate()?;
        match &self.max_parallelism {
            Some(Parallelism::Fixed(pages)) => batch = batch.max_parallelism(*pages),
            Some(Parallelism::Auto(auto)) => batch = batch.auto_parallelism(*auto),
            None => {}
        }
        if let Some(ramp) = &self.ramp {
            batch = batch.ramp(ramp.clone());
        }
        match &self.page_size {
            Some(PageSizeSetting::Fixed(items)) => batch = batch.page_size(*items),
            Some(PageSizeSetting::Auto(auto)) => batch = batch.auto_page_size(*auto),
            None => {}
        }
        if let Some(stride) = self.stride {
            batch = batch.stride(stride);
        }
        if let Some(Limit(Some(rate))) = self.rate {
            batch = batch.rate(rate);
        }
        if let Some(Limit(Some(rate))) = self.page_rate {
            batch = batch.page_rate(rate);
        }
        if let Some(Limit(Some(pause))) = self.page_pause {
            batch = batch.page_pause(pause);
        }
        for window in self.windows() {
            batch = batch.window(window);
        }
        Ok(batch)
    }
}

/// # Compare
impl PacingArgs {
    /// Returns whether a flag sets the pages in flight.
    #[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql"))]
    pub(crate) fn says_parallelism(&self) -> bool {
        self.max_parallelism.is_some() || self.ramp.is_some()
    }

    /// Returns the flags that differ from the limits in force, as they are typed.
    pub(crate) fn not_in_force(&self, p: &Progress) -> Vec<String> {
        let or_none = |limit: Option<String>| limit.unwrap_or_else(|| NONE.to_owned());
        let per_second = |limit: Option<f64>| or_none(limit.map(|limit| limit.to_string()));
        let pause = |pause: Option<Duration>| or_none(pause.map(output::exactly));
        let auto =
            |bounds: &dyn ToString| format!("auto:{}", bounds.to_string().replace(" at ", "@"));
        let auto_stride = |target: &dyn ToString| format!("auto@{}", target.to_string());
        let parallelism = self.max_parallelism.as_ref().map(|given| match given {
            Parallelism::Fixed(pages) => pages.to_string(),
            Parallelism::Auto(bounds) => auto(bounds),
        });
        let page_size = self.page_size.as_ref().map(|given| match given {
            PageSizeSetting::Fixed(items) => items.to_string(),
            PageSizeSetting::Auto(bounds) => auto(bounds),
        });
        let stride = self.stride.as_ref().map(|given| match given {
            Stride::Pages(pages) => pages.to_string(),
            Stride::Auto(target) => auto_stride(target),
        });
        // A finished ramp leaves its last number as the limit.
        let is_over = |ramp: &&Ramp| p.ramp.is_none() && p.max_parallelism == ramp.to();
        let ramp = self.ramp.as_ref().filter(|ramp| !is_over(ramp));
        let flags = [
            (
                "--max-parallelism",
                parallelism,
                match (&p.ramp, &p.auto_parallelism) {
                    (Some(ramp), _) => ramp.clone(),
                    (None, Some(bounds)) => auto(bounds),
                    (None, None) => p.max_parallelism.to_string(),
                },
            ),
            (
                "--ramp",
                ramp.map(Ramp::to_string),
                p.ramp.clone().unwrap_or_default(),
            ),
            (
                "--page-size",
                page_size,
                p.auto_page_size
                    .as_ref()
                    .map_or_else(|| p.page_size.to_string(), |bounds| auto(bounds)),
            ),
            (
                "--stride",
                stride,
                p.auto_stride
                    .as_ref()
                    .map_or_else(|| p.stride.to_string(), |target| auto_stride(target)),
            ),
            (
                "--rate",
                self.rate.map(|Limit(rate)| per_second(rate)),
                per_second(p.rate),
            ),
            (
                "--page-rate",
                self.page_rate.map(|Limit(rate)| per_second(rate)),
                per_second(p.page_rate),
            ),
            (
                "--page-pause",
                self.page_pause.map(|Limit(given)| pause(given)),
                pause(p.page_pause),
            ),
        ];
        let mut differ: Vec<String> = flags
            .into_iter()
            .filter_map(|(flag, given, in_force)| {
                let given = given.filter(|given| *given != in_force)?;
                Some(format!("{flag} {}", quoted(&given)))
            })
            .collect();
        let windows: Vec<_> = self.windows().iter().map(ToString::to_string).collect();
        if !self.window.is_empty() && windows != p.windows {
            let given = self
                .window
                .iter()
                .map(|Limit(window)| or_none(window.as_ref().map(ToString::to_string)));
            differ.extend(given.map(|window| format!("--window {}", quoted(&window))));
        }
        differ
    }
}

/// Returns the limits that are in force, in one line.
pub(crate) fn in_force(progress: &Progress) -> String {
    let per_second = |limit: Option<f64>, what: &str| match limit {
        Some(limit) => format!("{} {what}/s", output::per_second(limit)),
        None => NONE.to_owned(),
    };
    let pause = match progress.page_pause {
        Some(pause) => output::exactly(pause),
        None => NONE.to_owned(),
    };
    let parallelism = match (&progress.ramp, &progress.auto_parallelism) {
        (Some(ramp), _) => format!("{} (ramp {ramp})", progress.max_parallelism),
        (None, Some(bounds)) => format!("auto {bounds}"),
        (None, None) => progress.max_parallelism.to_string(),
    };
    let page_size = match &progress.auto_page_size {
        Some(bounds) => format!("auto {bounds}"),
        None => progress.page_size.to_string(),
    };
    let stride = match &progress.auto_stride {
        Some(target) => format!("auto {target}"),
        None => progress.stride.to_string(),
    };
    let windows = match progress.windows.is_empty() {
        true => NONE.to_owned(),
        false => progress.windows.join("; "),
    };
    format!(
        "max parallelism {parallelism}, page size {page_size}, stride {stride}, rate {}, page rate {}, page pause {pause}, \
         windows {windows}",
        per_second(progress.rate, "items"),
        per_second(progress.page_rate, "pages"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_a_number_or_none() {
        assert_eq!(per_second("none"), Ok(Limit(None)));
        assert_eq!(per_second("2.5"), Ok(Limit(Some(2.5))));
        assert!(per_second("fast").unwrap_err().contains("or none"));
        assert_eq!(pause("none"), Ok(Limit(None)));
        assert_eq!(pause("50ms"), Ok(Limit(Some(Duration::from_millis(50)))));
        assert!(pause("50").is_err(), "a number without a unit");
    }
}

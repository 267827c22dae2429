//! The arms to measure, and the number of repetitions.

use std::path::PathBuf;

use super::Error;

pub const USAGE: &str = "\
cargo bench --bench engine -- [ARM]... [FLAG]...

arms (all but `tuning` unless some are named):
  noop        no-op pages that are known ahead, beside a bare workflow with the same activities
  chain       no-op pages of opaque tokens, beside a bare chain of signals
  sleep       pages of 50 ms at parallelism 50, as part of the ideal
  growth      the cost of a page in batches of 1,000, 10,000 and 100,000 pages
  events      history events and actions per page of a SQL source
  dips        pages in flight around hand-overs
  kill        time until interrupted pages run again after `kill -9` of the only worker
  partitions  sixteen partitions of very different sizes, beside the ideal
  tuning      settings of a worker beside their defaults

flags:
  --pairs N     repetitions, each with every peer [3]
  --json FILE   writes everything, in the schema of docs/performance.md
  --quick       every arm in about 20 s, once, to see that it works; its figures say little
  --nightly     growth up to 1,000,000 pages
  --dynamic-config KEY=VALUE
                a setting of the server, which otherwise has its stock ones; may be given several times";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arm {
    Noop,
    Chain,
    Sleep,
    Growth,
    Events,
    Dips,
    Kill,
    Partitions,
    Tuning,
}

impl Arm {
    const ALL: [Self; 9] = [
        Self::Noop,
        Self::Chain,
        Self::Sleep,
        Self::Growth,
        Self::Events,
        Self::Dips,
        Self::Kill,
        Self::Partitions,
        Self::Tuning,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Noop => "noop",
            Self::Chain => "chain",
            Self::Sleep => "sleep",
            Self::Growth => "growth",
            Self::Events => "events",
            Self::Dips => "dips",
            Self::Kill => "kill",
            Self::Partitions => "partitions",
            Self::Tuning => "tuning",
        }
    }

    pub fn about(self) -> &'static str {
        match self {
            Self::Noop => {
                "no-op pages, stride 1, known ahead, and a bare workflow of the same activities"
            }
            Self::Chain => "no-op pages, stride 1, opaque tokens, and a bare chain of signals",
            Self::Sleep => "pages of 50 ms, parallelism 50, as part of the ideal",
            Self::Growth => "the cost of a page as the batch grows",
            Self::Events => "history events and actions per page of SQLite",
            Self::Dips => "pages of 250 ms in flight around hand-overs, sampled where they run",
            Self::Kill => "time until interrupted pages run again after kill -9",
            Self::Partitions => "skewed partitions, and the ideal",
            Self::Tuning => "settings of a worker beside their defaults",
        }
    }
}

#[derive(Clone, Debug)]
pub struct Options {
    pub arms: Vec<Arm>,
    pub pairs: u32,
    pub json: Option<PathBuf>,
    pub quick: bool,
    pub nightly: bool,
    /// Settings of the server, as `KEY=VALUE`.
    pub dynamic_config: Vec<String>,
}

impl Options {
    /// Parses the flags. `None` if help is requested.
    pub fn parse(args: impl Iterator<Item = String>) -> Result<Option<Self>, Error> {
        let mut options = Self {
            arms: Vec::new(),
            pairs: 3,
            json: None,
            quick: false,
            nightly: false,
            dynamic_config: Vec::new(),
        };
        let mut pairs = None;
        // Cargo passes `--bench` to every bench.
        let mut args = args.filter(|arg| arg != "--bench");
        while let Some(arg) = args.next() {
            let mut value = || args.next().ok_or(format!("{arg} needs a value\n\n{USAGE}"));
            match arg.as_str() {
                "--help" => return Ok(None),
                "--quick" => options.quick = true,
                "--nightly" => options.nightly = true,
                "--pairs" => pairs = Some(value()?.parse()?),
                "--json" => options.json = Some(value()?.into()),
                "--dynamic-config" => options.dynamic_config.push(value()?),
                name => {
                    let arm = Arm::ALL.into_iter().find(|arm| arm.name() == name);
                    let arm = arm.ok_or_else(|| format!("there is no `{name}`\n\n{USAGE}"))?;
                    options.arms.push(arm);
                }
            }
        }
        options.pairs = pairs.unwrap_or(if options.quick { 1 } else { 3 });
        if options.pairs == 0 {
            return Err("--pairs is 0; it must be at least 1".into());
        }
        if options.arms.is_empty() {
            options.arms = Arm::ALL.to_vec();
            options.arms.retain(|arm| *arm != Arm::Tuning);
        }
        Ok(Some(options))
    }

    /// The first value in a quick run, else the second.
    pub fn size<T>(&self, quick: T, standard: T) -> T {
        if self.quick { quick } else { standard }
    }
}

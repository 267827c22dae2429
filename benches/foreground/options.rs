//! The arms to measure, and the length of measurements.

use std::{fmt::Display, ops::Range, path::PathBuf, str::FromStr, time::Duration};

use temporal_batch::settings::{AutoPageSize, AutoParallelism};

use super::Error;

pub const USAGE: &str = "\
cargo bench --bench foreground -- [FLAG VALUE]...
  --quick                     everything in about two minutes, to see that it works; its numbers say nothing
  --repeat N                  repetitions, each with every arm in random order [5]
  --seconds N                 measured time of each arm [20]
  --warm-up N                 seconds before that, for `undisturbed` and fixed settings [5]
  --adaptive-warm-up N        seconds before that, for adaptive arms [90]
  --settle N                  seconds between the checkpoint that ends the warm-up and the measured time [5]
  --parallelism N,N,...       fixed settings: pages in flight [1,2,4,8]
  --page-sizes N,N,...        fixed settings: items per page, each with each parallelism [500,8000]
  --targets T,T,...           page times that adaptive arms aim at, each with and without throttle [100ms]
  --auto-parallelism A..B     bounds of the adaptive arms [1..8]
  --auto-page-size A..B       bounds of the adaptive arms, which begin with 1000 [100..20000]
  --stride N                  pages of one activity [20]
  --busy A..B                 busy sessions of the foreground above which the throttle slows down, and holds [2..3]
  --waiting A..B              sessions that wait for locks, likewise [2..8]
  --throttle-interval T       how often the throttle asks [1s]
  --rows N                    rows of the table of the batch [4000000]
  --scale N                   scale of the tables of pgbench [10]
  --clients N                 connections of the foreground [4]
  --load PERCENT              foreground load, as part of what these connections can do without pause [25]
  --rate TPS                  foreground load, instead of measuring what can be done
  --seed N                    order of the arms [1]
  --json FILE                 also writes one JSON object for each arm of each repetition";

#[derive(Clone, Debug)]
pub struct Options {
    pub repeat: u32,
    pub measured: Duration,
    pub warm_up: Duration,
    pub adaptive_warm_up: Duration,
    pub settle: Duration,
    pub parallelism: Vec<u32>,
    pub page_sizes: Vec<u32>,
    pub targets: Vec<Duration>,
    pub auto_parallelism: AutoParallelism,
    pub auto_page_size: AutoPageSize,
    pub stride: u32,
    pub busy: Range<u32>,
    pub waiting: Range<u32>,
    pub throttle_interval: Duration,
    pub rows: u32,
    pub scale: u32,
    pub clients: u32,
    pub load: f64,
    pub rate: Option<f64>,
    pub calibration: Duration,
    pub seed: u64,
    pub json: Option<PathBuf>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            repeat: 5,
            measured: Duration::from_secs(20),
            warm_up: Duration::from_secs(5),
            adaptive_warm_up: Duration::from_secs(90),
            settle: Duration::from_secs(5),
            parallelism: vec![1, 2, 4, 8],
            page_sizes: vec![500, 8_000],
            targets: vec![Duration::from_millis(100)],
            auto_parallelism: AutoParallelism::new(1, 8),
            auto_page_size: AutoPageSize::new(100, 20_000),
            stride: 20,
            busy: 2..3,
            waiting: 2..8,
            throttle_interval: Duration::from_secs(1),
            rows: 4_000_000,
            scale: 10,
            clients: 4,
            load: 25.0,
            rate: None,
            calibration: Duration::from_secs(10),
            seed: 1,
            json: None,
        }
    }
}

impl Options {
    fn quick() -> Self {
        Self {
            repeat: 2,
            measured: Duration::from_secs(4),
            warm_up: Duration::from_secs(2),
            adaptive_warm_up: Duration::from_secs(12),
            settle: Duration::from_secs(1),
            parallelism: vec![1, 4],
            page_sizes: vec![500],
            rows: 100_000,
            scale: 2,
            calibration: Duration::from_secs(3),
            ..Self::default()
        }
    }

    /// Parses the flags. `None` if help is requested.
    pub fn parse(args: impl Iterator<Item = String>) -> Result<Option<Self>, Error> {
        // Cargo passes `--bench` to every bench.
        let args: Vec<String> = args.filter(|arg| arg != "--bench").collect();
        let mut options = match args.iter().any(|arg| arg == "--quick") {
            true => Self::quick(),
            false => Self::default(),
        };
        let mut args = args.into_iter().filter(|arg| arg != "--quick");
        while let Some(flag) = args.next() {
            if flag == "--help" {
                return Ok(None);
            }
            let value = args.next().ok_or(format!("{flag} needs a value"))?;
            options
                .set(&flag, &value)
                .map_err(|e| format!("{flag} {value}: {e}"))?;
        }
        Ok(Some(options))
    }

    fn set(&mut self, flag: &str, value: &str) -> Result<(), Error> {
        match flag {
            "--repeat" => self.repeat = value.parse()?,
            "--seconds" => self.measured = seconds(value)?,
            "--warm-up" => self.warm_up = seconds(value)?,
            "--adaptive-warm-up" => self.adaptive_warm_up = seconds(value)?,
            "--settle" => self.settle = seconds(value)?,
            "--parallelism" => self.parallelism = list(value)?,
            "--page-sizes" => self.page_sizes = list(value)?,
            "--targets" => {
                let targets = value.split(',').map(humantime::parse_duration);
                self.targets = targets.collect::<Result<_, _>>()?;
            }
            "--auto-parallelism" => {
                let bounds = range(value)?;
                self.auto_parallelism = AutoParallelism::new(bounds.start, bounds.end);
            }
            "--auto-page-size" => {
                let bounds = range(value)?;
                self.auto_page_size = AutoPageSize::new(bounds.start, bounds.end);
            }
            "--stride" => self.stride = value.parse()?,
            "--busy" => self.busy = range(value)?,
            "--waiting" => self.waiting = range(value)?,
            "--throttle-interval" => self.throttle_interval = humantime::parse_duration(value)?,
            "--rows" => self.rows = value.parse()?,
            "--scale" => self.scale = value.parse()?,
            "--clients" => self.clients = value.parse()?,
            "--load" => self.load = value.parse()?,
            "--rate" => self.rate = Some(value.parse()?),
            "--seed" => self.seed = value.parse()?,
            "--json" => self.json = Some(value.into()),
            _ => return Err("there is no such flag".into()),
        }
        Ok(())
    }

    /// The most pages that any arm may have in flight.
    pub fn most_in_flight(&self) -> u32 {
        let fixed = self.parallelism.iter().copied().max().unwrap_or(1);
        fixed.max(self.auto_parallelism.max())
    }
}

fn seconds(value: &str) -> Result<Duration, Error> {
    Ok(Duration::from_secs(value.parse()?))
}

fn list(value: &str) -> Result<Vec<u32>, Error> {
    let numbers = value.split(',').filter(|n| !n.is_empty());
    Ok(numbers.map(str::parse).collect::<Result<_, _>>()?)
}

fn range<T: FromStr<Err: Display>>(value: &str) -> Result<Range<T>, Error> {
    let (start, end) = value.split_once("..").ok_or("write it like 2..8")?;
    let number = |n: &str| n.parse::<T>().map_err(|e| e.to_string());
    Ok(number(start)?..number(end)?)
}

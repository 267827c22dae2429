//! The flags of the throttle, and the throttle that they describe.

use std::{ops::RangeInclusive, time::Duration};

use clap::Args;

use crate::{
    cli::{
        args::databases::Hidden,
        exit::{CliError, CliResult},
        output::{exactly, note},
    },
    processor::throttle::Throttle as _,
    sql::{Database, DatabaseOptions, PostgresThrottle, Threshold},
};

/// The variable with the URL if the flag is not given.
const VARIABLE: &str = "THROTTLE_DATABASE_URL";

/// The name of the throttle.
const NAME: &str = "database";

/// The application name of the throttle. Its own transactions are not counted, see `PostgresThrottle`.
const APPLICATION: &str = "temporal-batch-throttle";

#[derive(Args, Debug, Default)]
#[command(next_help_heading = "Throttle (named database)")]
pub(crate) struct ThrottleArgs {
    /// The PostgreSQL server to watch; better given as THROTTLE_DATABASE_URL, because arguments can be
    /// seen by others
    #[arg(long, value_name = "URL")]
    throttle_database_url: Option<Hidden>,

    /// Hold above this lag of a replica; with 1s..5s slow down from 1s on
    #[arg(long, value_name = "DURATION", value_parser = threshold(length))]
    max_replica_lag: Option<Threshold<Duration>>,

    /// Hold above this age of the oldest transaction, such as 5m or 1m..5m
    #[arg(long, value_name = "DURATION", value_parser = threshold(length))]
    max_transaction_age: Option<Threshold<Duration>>,

    /// Hold when more sessions than this wait for locks
    #[arg(long, value_name = "N", value_parser = threshold(number))]
    max_waiting: Option<Threshold<u32>>,

    /// Hold when more sessions than this execute a statement
    #[arg(long, value_name = "N", value_parser = threshold(number))]
    max_active_connections: Option<Threshold<u32>>,

    /// Hold above this much WAL in a second, such as 50MB or 20MB..50MB
    #[arg(long, value_name = "SIZE", value_parser = threshold(size))]
    max_wal_rate: Option<Threshold<u64>>,

    /// Hold while this returns a number above --throttle-above
    #[arg(long, value_name = "SQL", requires = "throttle_above")]
    throttle_query: Option<String>,

    /// The limit of --throttle-query
    #[arg(
        long,
        value_name = "X",
        requires = "throttle_query",
        value_parser = threshold(real),
        allow_negative_numbers = true
    )]
    throttle_above: Option<Threshold<f64>>,
}

/// Returns a parser for `HOLD` or `SLOW..HOLD`.
fn threshold<T: Send + Sync + Clone + 'static>(
    one: fn(&str) -> Result<T, String>,
) -> impl Fn(&str) -> Result<Threshold<T>, String> + Send + Sync + Clone {
    move |text| match text.split_once("..") {
        Some((slow, hold)) => Ok((one(slow)?..one(hold)?).into()),
        None => Ok(one(text)?.into()),
    }
}

fn length(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text)
        .map_err(|e| format!("{e}; write numbers with units, such as 500ms, 2s or 1s..5s"))
}

fn number(text: &str) -> Result<u32, String> {
    let wanted = "write a count such as 10, or two such as 5..10";
    text.parse().map_err(|_| wanted.to_owned())
}

fn real(text: &str) -> Result<f64, String> {
    let number = text.parse().ok().filter(|n: &f64| n.is_finite());
    number.ok_or_else(|| "write a number such as 100, or two such as 50..100".to_owned())
}

/// Parses a size in bytes, with powers of 1000 as in `50MB` or powers of 1024 as in `50MiB`.
fn size(text: &str) -> Result<u64, String> {
    const RANGE: RangeInclusive<f64> = 1.0..=1e15;
    let wanted =
        || "write bytes, or a number with a unit such as 500kB, 50MB, 1.5GB or 64MiB".to_owned();
    let end = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let number: f64 = number.parse().map_err(|_| wanted())?;
    let factor = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1.0,
        "k" | "kb" => 1e3,
        "m" | "mb" => 1e6,
        "g" | "gb" => 1e9,
        "kib" => 1024.0,
        "mib" => 1024.0 * 1024.0,
        "gib" => 1024.0 * 1024.0 * 1024.0,
        _ => return Err(wanted()),
    };
    let bytes = (number * factor).round();
    if !RANGE.contains(&bytes) {
        return Err("write at least 1 byte, and at most 1000000GB".to_owned());
    }
    Ok(bytes as u64)
}

impl ThrottleArgs {
    /// Connects and asks once, so that mistakes are reported before a worker starts. `None` without a check.
    pub(super) async fn build(&self) -> CliResult<Option<PostgresThrottle>> {
        self.build_with(std::env::var(VARIABLE).ok()).await
    }

    async fn build_with(&self, variable: Option<String>) -> CliResult<Option<PostgresThrottle>> {
        let Some(options) = self.options(variable)? else {
            return Ok(None);
        };
        let options = options.max_connections(2);
        let pool = match Database::unconnected(&options, None) {
            Database::Postgres(pool) => pool,
            #[allow(unreachable_patterns, reason = "there are others, with their features")]
            _ => return Err(CliError::usage("the throttle looks at PostgreSQL only")),
        };
        let mut builder = PostgresThrottle::builder(pool).name(NAME);
        macro_rules! pass_on {
            ($($check:ident),*) => {$(
                if let Some(limit) = self.$check {
                    builder = builder.$check(limit);
                }
            )*};
        }
        pass_on!(
            max_replica_lag,
            max_transaction_age,
            max_waiting,
            max_active_connections,
            max_wal_rate
        );
        if let (Some(sql), Some(above)) = (&self.throttle_query, self.throttle_above) {
            builder = builder.query(sql, above);
        }
        let throttle = builder.build();
        let throttle = throttle.map_err(|e| CliError::usage(format_args!("the throttle: {e}")))?;

        let what = "cannot connect to the database of the throttle";
        let connected = Database::connect(&options).await;
        connected.map_err(|e| CliError::caused(what, &e))?;
        let what = "cannot ask the database of the throttle";
        match tokio::time::timeout(throttle.timeout(), throttle.ask()).await {
            Ok(Ok(_)) => Ok(Some(throttle)),
            Ok(Err(error)) => Err(CliError::caused(what, &*error)),
            Err(_) => Err(CliError::failure(format_args!(
                "{what}: no answer within {}",
                exactly(throttle.timeout())
            ))),
        }
    }

    /// Returns the first flag of a check that was given.
    fn first_check(&self) -> Option<&'static str> {
        [
            ("--max-replica-lag", self.max_replica_lag.is_some()),
            ("--max-transaction-age", self.max_transaction_age.is_some()),
            ("--max-waiting", self.max_waiting.is_some()),
            (
                "--max-active-connections",
                self.max_active_connections.is_some(),
            ),
            ("--max-wal-rate", self.max_wal_rate.is_some()),
            ("--throttle-query", self.throttle_query.is_some()),
        ]
        .into_iter()
        .find_map(|(flag, given)| given.then_some(flag))
    }

    /// Returns the server to connect to, if a check was given.
    fn options(&self, variable: Option<String>) -> CliResult<Option<DatabaseOptions>> {
        let variable = variable.filter(|url| !url.is_empty());
        let (url, source) = match (&self.throttle_database_url, &variable, self.first_check()) {
            (None, _, None) => return Ok(None),
            (Some(_), _, None) => {
                return Err(CliError::usage(
                    "--throttle-database-url has no effect alone; add a check such as --max-replica-lag 2s",
                ));
            }
            (None, None, Some(flag)) => {
                return Err(CliError::usage(format_args!(
                    "{flag} needs a database to look at; set {VARIABLE} or give --throttle-database-url"
                )));
            }
            (Some(url), _, Some(_)) => (url.0.as_str(), "--throttle-database-url"),
            (None, Some(url), Some(_)) => (url.as_str(), VARIABLE),
        };
        let bad = |why: &str| {
            CliError::usage(format_args!(
                "{source} is not the URL of a PostgreSQL database{why}; write postgres://USER@HOST:PORT/DATABASE"
            ))
        };
        if !url.starts_with("postgres://") && !url.starts_with("postgresql://") {
            return Err(bad(""));
        }
        let options = DatabaseOptions::from_url(url).map_err(|e| bad(&format!(": {e}")))?;
        if self.throttle_database_url.is_some() && options.has_password() {
            note(format_args!(
                "warning: everybody on this machine can see the password in --throttle-database-url; set \
                 {VARIABLE} instead"
            ));
        }
        Ok(Some(options.application_name(APPLICATION)))
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::{cli::exit::Exit, sql::test_server::Postgres};

    #[derive(Parser, Debug)]
    struct Command {
        #[command(flatten)]
        throttle: ThrottleArgs,
    }

    fn parse(arguments: &[&str]) -> Result<ThrottleArgs, String> {
        let arguments = ["worker"].iter().chain(arguments);
        Command::try_parse_from(arguments)
            .map(|command| command.throttle)
            .map_err(|e| e.to_string())
    }

    async fn build(
        arguments: &[&str],
        variable: Option<&str>,
    ) -> CliResult<Option<PostgresThrottle>> {
        let throttle = parse(arguments).unwrap();
        throttle.build_with(variable.map(str::to_owned)).await
    }

    async fn error(arguments: &[&str], variable: Option<&str>) -> (Exit, String) {
        let error = build(arguments, variable).await.unwrap_err();
        (error.exit(), error.to_string())
    }

    #[test]
    fn limits_have_units_and_may_be_two() {
        let all = parse(&[
            "--max-replica-lag=500ms..2s",
            "--max-waiting=0",
            "--max-wal-rate=20MB..50MB",
            "--throttle-query=SELECT 1",
            "--throttle-above=-1.5",
        ])
        .unwrap();
        let lag = Duration::from_millis(500)..Duration::from_secs(2);
        assert_eq!(all.max_replica_lag, Some(lag.into()));
        assert_eq!(all.max_waiting, Some(0.into()));
        assert_eq!(all.max_wal_rate, Some((20_000_000..50_000_000).into()));
        assert_eq!(all.throttle_above, Some((-1.5).into()));
        for (text, bytes) in [
            ("1", Some(1)),
            ("1.5kB", Some(1500)),
            ("2 MiB", Some(2 << 20)),
            ("3g", Some(3_000_000_000)),
            ("1GiB", Some(1 << 30)),
            ("0", None),
            ("0.1", None),
            ("", None),
            ("MB", None),
            ("-1MB", None),
            ("1..2", None),
            ("5 bananas", None),
            ("9999999999GB", None),
        ] {
            assert_eq!(size(text).ok(), bytes, "{text}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_told_with_an_example() {
        for (argument, example) in [
            ("--max-replica-lag=2", "2s"),
            ("--max-waiting=many", "such as 10"),
            ("--max-wal-rate=fast", "50MB"),
            ("--max-wal-rate=1MB..", "50MB"),
        ] {
            let error = parse(&[argument]).unwrap_err();
            assert!(error.contains(example), "{argument}: {error}");
        }
        let nan = parse(&["--throttle-query=x", "--throttle-above=nan"]).unwrap_err();
        assert!(nan.contains("such as 100"), "{nan}");
    }

    #[tokio::test]
    async fn combinations_that_mean_nothing_are_refused() {
        let url = "postgres://u:secret@127.0.0.1:1/d";
        assert!(build(&[], None).await.unwrap().is_none());
        assert!(build(&[], Some(url)).await.unwrap().is_none());
        let flag = format!("--throttle-database-url={url}");
        let alone = error(&[&flag], None).await;
        assert_eq!(alone.0, Exit::Usage);
        assert!(alone.1.contains("has no effect alone"), "{alone:?}");
        let nowhere = error(&["--max-waiting=1"], Some("")).await;
        assert_eq!(nowhere.0, Exit::Usage);
        assert!(
            nowhere.1.contains("--max-waiting needs a database"),
            "{nowhere:?}"
        );
        for arguments in [["--throttle-query=SELECT 1"], ["--throttle-above=1"]] {
            assert!(parse(&arguments).unwrap_err().contains("required"));
        }
        let turned = error(&["--max-waiting=5..4"], Some(url)).await;
        assert_eq!(turned.0, Exit::Usage);
        assert!(turned.1.contains("must be lower"), "{turned:?}");
    }

    #[tokio::test]
    async fn the_url_is_in_no_error() {
        let check = "--max-waiting=1";
        for url in [
            "postgres://u:secret@127.0.0.1:1/d",
            "postgres://u:secret@127.0.0.1:port/d",
            "mysql://u:secret@127.0.0.1/d",
            "u:secret@127.0.0.1",
            "postgres://u@127.0.0.1/d?port=secret",
            "postgres://u@127.0.0.1/d?sslmode=secret",
        ] {
            let by_variable = error(&[check], Some(url)).await;
            assert!(!by_variable.1.contains("secret"), "{by_variable:?}");
            let flag = format!("--throttle-database-url={url}");
            let by_flag = error(&[check, &flag], None).await;
            assert!(!by_flag.1.contains("secret"), "{by_flag:?}");
            let parsed = format!("{:?}", parse(&[check, &flag]).unwrap());
            assert!(!parsed.contains("secret"), "{parsed}");
        }
    }

    #[tokio::test]
    async fn mistakes_are_told_before_a_worker_starts() {
        let Some(server) = Postgres::shared() else {
            return;
        };
        let url = server.database("throttle_args").await;
        let good = build(&["--max-waiting=9999", "--max-wal-rate=1GB"], Some(&url)).await;
        let good = good.unwrap().unwrap();
        assert_eq!(good.name(), "database");
        let wrong = ["--throttle-query=SELECT 1, 2", "--throttle-above=1"];
        let wrong = error(&wrong, Some(&url)).await;
        assert_eq!(wrong.0, Exit::Error);
        assert!(wrong.1.contains("returned 2 columns"), "{wrong:?}");
        let refused = error(&["--max-waiting=1"], Some("postgres://u@127.0.0.1:1/d")).await;
        assert!(
            refused
                .1
                .contains("cannot connect to the database of the throttle"),
            "{refused:?}"
        );
    }
}

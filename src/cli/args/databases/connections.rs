//! The named connections of a worker: `--connection`, `--allow-sql` and their variables.

use std::collections::BTreeMap;

use clap::Args;
use futures::future::join_all;

use super::{
    Hidden,
    environment::{
        Environment, add_default, environment, named, of_variable, of_variables, variable_of,
        variables,
    },
    failed, warn_of_password,
};
use crate::{
    base::small_file,
    cli::{
        exit::{CliError, CliResult},
        output::{count, note},
    },
    sql::{Connections, Database, DatabaseOptions, connection::named::check_connection_name},
};

#[derive(Args, Debug, Default)]
#[command(next_help_heading = "Databases (also TEMPORAL_BATCH_CONNECTION_* variables)")]
pub(crate) struct ConnectionsArgs {
    /// A database that batches may name: NAME=env:VARIABLE, NAME=env for DATABASE_URL or libpq's variables,
    /// NAME=file:PATH or NAME=url:URL; may be repeated
    #[arg(long = "connection", value_name = "NAME=SOURCE")]
    connections: Vec<Hidden>,

    /// Run SQL that comes with a batch, on the databases of --connection
    #[arg(long)]
    allow_sql: bool,

    /// The most connections to each of these databases, in place of the number that follows from --max-pages
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    max_connections: Option<u32>,
}

impl ConnectionsArgs {
    fn options(
        &self,
        variables: &BTreeMap<String, String>,
    ) -> CliResult<BTreeMap<String, DatabaseOptions>> {
        let mut all = of_variables(variables)?;
        let mut given = BTreeMap::new();
        for text in &self.connections {
            let (name, options) = parse(&text.0, &environment)?;
            if given.insert(name.clone(), options).is_some() {
                return Err(CliError::usage(format_args!(
                    "--connection names \"{name}\" twice"
                )));
            }
        }
        all.extend(given);
        add_default(&mut all, variables)?;
        Ok(all)
    }

    /// Connects to all databases, for a worker that runs `pages` at once, and prints a line for each. `None` without
    /// `--allow-sql`.
    pub(crate) async fn open(&self, pages: u32) -> CliResult<Option<Connections>> {
        if !self.allow_sql {
            return match self.connections.is_empty() {
                true => Ok(None),
                false => Err(CliError::usage(
                    "--connection names a database for SQL that comes with batches; add --allow-sql to run it",
                )),
            };
        }
        let mut all = self.options(&variables())?;
        if all.is_empty() {
            return Err(CliError::usage(
                "--allow-sql needs a database to run it on; set DATABASE_URL, or name one, for example with --connection \
                 default=env:DATABASE_URL",
            ));
        }
        for options in all.values_mut() {
            *options = options.clone().pages(pages);
            if let Some(connections) = self.max_connections {
                *options = options.clone().max_connections(connections);
            }
        }
        let shown: Vec<_> = all.iter().map(|(n, o)| (n.clone(), o.redacted())).collect();
        let connections = connections(open(all).await.collect::<CliResult<Vec<_>>>()?);
        for (name, database) in shown {
            let most = connections.get(&name).map_or(0, Database::max_connections);
            let wait = match most < pages {
                true => "; further ones wait",
                false => "",
            };
            note(format_args!(
                "connection \"{name}\": {database}, for {} of {} at once{wait}",
                most.min(pages),
                count(u64::from(pages), "page"),
            ));
        }
        Ok(Some(connections))
    }
}

/// Returns the database of one `--connection`, which may be only a name.
pub(crate) fn connection(text: &Hidden) -> CliResult<DatabaseOptions> {
    parse(&text.0, &environment).map(|(_, options)| options)
}

/// Parses the value of one `--connection`.
fn parse(text: &str, variables: Environment<'_>) -> CliResult<(String, DatabaseOptions)> {
    let wanted = "write NAME=env:VARIABLE, NAME=env, NAME=file:PATH or NAME=url:URL";
    let (name, source) = match text.split_once('=') {
        Some((name, source)) => (name, Some(source)),
        None => (text, None),
    };
    check_connection_name(name)
        .map_err(|e| CliError::usage(format_args!("--connection: {e}; {wanted}")))?;
    let of_variable = |variable: &str| of_variable(variable, variables);
    let options = match source.map(|source| source.split_once(':').unwrap_or((source, ""))) {
        None => named(name, of_variable(&variable_of(name)))?,
        Some(("env", "")) => named(name, DatabaseOptions::from_variables(variables))?,
        Some(("env", variable)) => named(name, of_variable(variable))?,
        Some(("file", path)) if !path.is_empty() => {
            let url = small_file::read_text(path).map_err(|error| {
                let what = format_args!("connection \"{name}\": cannot read the file of its URL");
                CliError::caused(what, &error)
            })?;
            named(name, DatabaseOptions::from_url(url.trim()))?
        }
        Some(("url", url)) => {
            let options = named(name, DatabaseOptions::from_url(url))?;
            warn_of_password(&options, "--connection", &variable_of(name));
            options
        }
        Some(_) => {
            return Err(CliError::usage(format_args!(
                "--connection {name}: its source is not env, file or url; {wanted}"
            )));
        }
    };
    Ok((name.to_owned(), options))
}

/// Opens all databases at the same time. The error of one names its connection.
pub(super) async fn open(
    all: BTreeMap<String, DatabaseOptions>,
) -> impl Iterator<Item = CliResult<(String, Database)>> {
    let opening = all.into_iter().map(async |(name, options)| {
        let database = Database::connect(&options).await;
        let database =
            database.map_err(|error| failed(format!("connection \"{name}\": "), &error))?;
        Ok::<_, CliError>((name, database))
    });
    join_all(opening).await.into_iter()
}

pub(super) fn connections(opened: impl IntoIterator<Item = (String, Database)>) -> Connections {
    opened
        .into_iter()
        .fold(Connections::new(), |all, (name, database)| {
            all.with(name, database)
        })
}

#[cfg(all(test, feature = "sqlite", feature = "postgres"))]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::exit::Exit;

    #[derive(Parser, Debug)]
    struct Command {
        #[command(flatten)]
        connections: ConnectionsArgs,
    }

    fn parsed(arguments: &[&str]) -> ConnectionsArgs {
        let arguments = ["worker"].iter().chain(arguments);
        Command::try_parse_from(arguments).unwrap().connections
    }

    fn options(arguments: &[&str], variables: &[(&str, &str)]) -> CliResult<Vec<(String, String)>> {
        let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        let variables = variables.iter().map(own).collect();
        let options = parsed(arguments).options(&variables)?;
        let shown = options
            .into_iter()
            .map(|(name, options)| (name, options.redacted()));
        Ok(shown.collect())
    }

    #[test]
    fn connections_come_from_files_urls_and_variables() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "postgres://u:p@of-file/d\n").unwrap();
        let of_file = format!("--connection=archive=file:{}", file.path().display());
        let all = options(
            &[&of_file, "--connection=default=url:sqlite:a.db"],
            &[
                (
                    "TEMPORAL_BATCH_CONNECTION_SHOP",
                    "postgres://u:p@of-variable/d",
                ),
                ("TEMPORAL_BATCH_CONNECTION_DEFAULT", "sqlite:not-this.db"),
                ("OTHER", "x"),
            ],
        );
        let all = all.unwrap();
        let all: Vec<_> = all.iter().map(|(n, s)| (n.as_str(), s.as_str())).collect();
        assert_eq!(
            all,
            [
                ("archive", "postgres://u@of-file:5432/d"),
                ("default", "sqlite:a.db"),
                ("shop", "postgres://u@of-variable:5432/d"),
            ]
        );
        let variable = |name: &str| (name == "SHOP_URL").then(|| "sqlite:shop.db".to_owned());
        let (name, of_variable) = parse("shop=env:SHOP_URL", &variable).unwrap();
        assert_eq!(
            (name.as_str(), of_variable.redacted().as_str()),
            ("shop", "sqlite:shop.db")
        );
        let missing = parse("shop=env:SHOP", &variable).unwrap_err();
        assert_eq!(missing.exit(), Exit::Usage);
        assert!(
            missing.to_string().contains("set SHOP to a URL"),
            "{missing}"
        );
        let of_name = |name: &str| {
            (name == "TEMPORAL_BATCH_CONNECTION_SHOP").then(|| "sqlite:b.db".to_owned())
        };
        assert_eq!(parse("shop", &of_name).unwrap().1.redacted(), "sqlite:b.db");
    }

    #[test]
    fn database_url_is_the_connection_without_a_name_unless_that_is_named() {
        let url = ("DATABASE_URL", "sqlite:of-url.db");
        let shop = ("TEMPORAL_BATCH_CONNECTION_SHOP", "sqlite:shop.db");
        let own = ("TEMPORAL_BATCH_CONNECTION_DEFAULT", "sqlite:own.db");
        let libpq = ("PGHOST", "of-libpq");
        let default = |arguments: &[&str], variables: &[_]| {
            let all = options(arguments, variables).unwrap();
            all.into_iter()
                .find_map(|(n, shown)| (n == "default").then_some(shown))
        };
        let flag = "--connection=default=url:sqlite:flag.db";
        let given = |shown: &str| Some(shown.to_owned());
        assert_eq!(default(&[], &[url]), given("sqlite:of-url.db"));
        assert_eq!(default(&[], &[url, shop, libpq]), given("sqlite:of-url.db"));
        assert_eq!(default(&[], &[url, own]), given("sqlite:own.db"));
        assert_eq!(default(&[flag], &[url, own]), given("sqlite:flag.db"));
        assert_eq!(default(&[], &[shop]), None);
        assert!(default(&[], &[libpq]).unwrap().starts_with("postgres://"));
        // An unused variable may name a database of an unknown kind.
        let strange = ("DATABASE_URL", "oracle://h/d");
        assert_eq!(default(&[flag], &[strange]), given("sqlite:flag.db"));
        assert!(options(&[], &[strange]).is_err());
    }

    #[test]
    fn what_is_wrong_is_told_without_what_was_given() {
        for (argument, part) in [
            ("postgres://u:secret@h/d", "NAME=env:VARIABLE"),
            ("default=postgres://u:secret@h/d", "not env, file or url"),
            ("default=url:oracle://u:secret@h/d", "scheme"),
            ("default=url:postgres://u:secret@h/d?x=y", "not known"),
            ("=url:sqlite:secret", "1 to 64"),
            ("default=file:/no/such/file", "connection \"default\""),
            ("default=file:", "not env"),
        ] {
            let flag = format!("--connection={argument}");
            let error = options(&[&flag], &[]).unwrap_err();
            assert!(error.to_string().contains(part), "{error}");
            assert!(!error.to_string().contains("secret"), "{error}");
            assert!(!format!("{:?}", parsed(&[&flag])).contains("secret"));
        }
        let twice = options(
            &["--connection=a=url:sqlite:a", "--connection=a=url:sqlite:b"],
            &[],
        );
        assert!(twice.unwrap_err().to_string().contains("twice"));
        let variable = [("TEMPORAL_BATCH_CONNECTION_A B", "sqlite:a")];
        assert!(
            options(&[], &variable)
                .unwrap_err()
                .to_string()
                .contains("1 to 64")
        );
    }

    #[tokio::test]
    async fn connections_and_the_permission_to_use_them_go_together() {
        let without = parsed(&["--connection=a=url:sqlite:a"])
            .open(1)
            .await
            .unwrap_err();
        assert!(without.to_string().contains("add --allow-sql"), "{without}");
        assert_eq!(without.exit(), Exit::Usage);
        assert!(parsed(&[]).open(1).await.unwrap().is_none());
    }
}

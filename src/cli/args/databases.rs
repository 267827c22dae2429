//! The databases of a command: the named connections of a worker, or the one database that it works on.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    fmt,
    sync::Arc,
};

use clap::Args;
use futures::future::join_all;
use tokio::sync::OnceCell;

use crate::{
    cli::{
        exit::{CliError, CliResult},
        processors::Processors,
        render::output::note,
    },
    processor::PageProcessor,
    sql::{Connections, Database, DatabaseError, DatabaseOptions, check_connection_name},
};

/// A variable with this before a name, in capitals, is a connection of that name.
const VARIABLES: &str = "TEMPORAL_BATCH_CONNECTION_";

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

    /// Connections that each of these databases gets at most, in place of what follows from --max-pages
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    max_connections: Option<u32>,
}

/// The database of a command that names no connection.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct DatabaseArgs {
    /// The database of batches that name no connection [default: TEMPORAL_BATCH_CONNECTION_DEFAULT, DATABASE_URL,
    /// libpq's variables]; better given as a variable, because arguments can be seen by others
    #[arg(long, value_name = "URL")]
    database_url: Option<Hidden>,
}

/// What may hold a password. It is not parsed by clap, whose errors show what they could not parse.
#[derive(Clone)]
pub(crate) struct Hidden(pub(crate) String);

impl From<String> for Hidden {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl fmt::Debug for Hidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[hidden]")
    }
}

impl From<DatabaseError> for CliError {
    fn from(error: DatabaseError) -> Self {
        failed(String::new(), &error)
    }
}

fn failed(what: String, error: &DatabaseError) -> CliError {
    let message = crate::base::error::text::with_causes(
        format!("{what}{error}"),
        std::error::Error::source(error),
    );
    match error.is_misuse() {
        true => CliError::usage(message),
        false => CliError::failure(message),
    }
}

/// Where the variables are.
type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// The options of a connection, of which the error says the name.
fn named(name: &str, found: Result<DatabaseOptions, DatabaseError>) -> CliResult<DatabaseOptions> {
    found.map_err(|error| failed(format!("connection \"{name}\": "), &error))
}

/// One `--connection`.
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
            let url = crate::base::small_file::read_text(path).map_err(|error| {
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
                "--connection {name}: its source is none of env, file and url; {wanted}"
            )));
        }
    };
    Ok((name.to_owned(), options))
}

fn variable_of(name: &str) -> String {
    format!("{VARIABLES}{}", name.to_ascii_uppercase())
}

/// The database whose URL is in a variable.
fn of_variable(
    variable: &str,
    variables: Environment<'_>,
) -> Result<DatabaseOptions, DatabaseError> {
    let url = variables(variable).filter(|url| !url.trim().is_empty());
    let url = url.ok_or_else(|| DatabaseError::NotGiven {
        variable: variable.to_owned(),
    })?;
    DatabaseOptions::from_url(url.trim())
}

/// The connection `default` where no flag names it. Every command that needs a database asks here, so that all of
/// them mean the same one: its own variable goes before `DATABASE_URL`, and that before libpq's variables.
fn of_default(variables: Environment<'_>) -> Result<DatabaseOptions, DatabaseError> {
    match of_variable(&variable_of(crate::sql::DEFAULT_CONNECTION), variables) {
        Err(DatabaseError::NotGiven { .. }) => DatabaseOptions::from_variables(variables),
        found => found,
    }
}

fn warn_of_password(options: &DatabaseOptions, flag: &str, variable: &str) {
    if options.has_password() {
        note(format_args!(
            "warning: everybody on this machine can see the password in {flag}; set {variable} instead"
        ));
    }
}

/// The connections of variables, with their names in small letters.
fn of_variables(
    variables: &BTreeMap<String, String>,
) -> CliResult<BTreeMap<String, DatabaseOptions>> {
    let mut all = BTreeMap::new();
    for (variable, url) in variables {
        let Some(name) = variable.strip_prefix(VARIABLES) else {
            continue;
        };
        let name = name.to_ascii_lowercase();
        check_connection_name(&name)
            .map_err(|e| CliError::usage(format_args!("the variable {variable}: {e}")))?;
        let options = named(&name, DatabaseOptions::from_url(url.trim()))?;
        all.insert(name, options);
    }
    Ok(all)
}

/// Adds `default` as [`of_default`] finds it, unless it is named already.
fn add_default(
    all: &mut BTreeMap<String, DatabaseOptions>,
    variables: &BTreeMap<String, String>,
) -> CliResult<()> {
    let Entry::Vacant(free) = all.entry(crate::sql::DEFAULT_CONNECTION.to_owned()) else {
        return Ok(());
    };
    match of_default(&|name| variables.get(name).cloned()) {
        Err(DatabaseError::NotGiven { .. }) => Ok(()),
        found => {
            let found = named(free.key(), found)?;
            free.insert(found);
            Ok(())
        }
    }
}

/// Variables that are text; a URL is.
fn variables() -> BTreeMap<String, String> {
    let all = std::env::vars_os();
    all.filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect()
}

/// Opens all at the same time, and says which of them cannot be.
async fn open(
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

fn connections(opened: impl IntoIterator<Item = (String, Database)>) -> Connections {
    opened
        .into_iter()
        .fold(Connections::new(), |all, (name, database)| {
            all.with(name, database)
        })
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

    /// Connects to all of them, for a worker that runs so many pages at once, and tells of each. `None` where
    /// no SQL is to be run.
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
                "connection \"{name}\": {database}, for {most} of {pages} pages at once{wait}",
                most = most.min(pages),
            ));
        }
        Ok(Some(connections))
    }
}

impl DatabaseArgs {
    /// The database of the flag, or else of the environment. Connects to nothing.
    pub(crate) fn options(&self) -> CliResult<DatabaseOptions> {
        match self.given()? {
            Some(options) => Ok(options),
            None => Ok(of_default(&environment)?),
        }
    }

    /// The URL of the flag as it may be printed: not with a password in it.
    pub(crate) fn printable(&self) -> Option<String> {
        let url = &self.database_url.as_ref()?.0;
        let options = DatabaseOptions::from_url(url).ok()?;
        (!options.has_password()).then(|| url.clone())
    }

    fn given(&self) -> CliResult<Option<DatabaseOptions>> {
        let Some(url) = &self.database_url else {
            return Ok(None);
        };
        let options = DatabaseOptions::from_url(&url.0)?;
        warn_of_password(&options, "--database-url", "DATABASE_URL");
        Ok(Some(options))
    }
}

/// The database of one `--connection`, which may also be a name alone.
pub(crate) fn connection(text: &Hidden) -> CliResult<DatabaseOptions> {
    parse(&text.0, &environment).map(|(_, options)| options)
}

/// The connections that processors get: a worker's own, or those of the command once they are needed.
#[derive(Clone)]
pub(crate) struct SqlConnections {
    opened: Arc<OnceCell<Connections>>,
    default: DatabaseArgs,
}

/// Pages that a command runs at once at most on connections that it was not given a number for.
const PAGES: u32 = 16;

impl SqlConnections {
    pub(crate) fn opened(connections: Connections) -> Self {
        Self {
            opened: Arc::new(OnceCell::new_with(Some(connections))),
            default: DatabaseArgs::default(),
        }
    }

    /// The connections of the variables, and the database of the flag as the one without a name.
    pub(crate) fn of_command(default: DatabaseArgs) -> Self {
        Self {
            opened: Arc::default(),
            default,
        }
    }

    async fn get(&self) -> Result<Connections, String> {
        let opened = self.opened.get_or_try_init(async || {
            let all = self.options().map_err(|e| e.text().to_owned())?;
            let (mut found, mut missing) = (Vec::new(), Vec::new());
            for opened in open(all).await {
                match opened {
                    Ok(opened) => found.push(opened),
                    Err(error) => missing.push(error),
                }
            }
            if found.is_empty() && !missing.is_empty() {
                let missing: Vec<_> = missing.iter().map(CliError::text).collect();
                return Err(missing.join("; "));
            }
            // A batch works on one of them, which may well be another one.
            for error in missing {
                note(format_args!("left out: {}", error.text()));
            }
            Ok(connections(found))
        });
        opened.await.cloned()
    }

    fn options(&self) -> CliResult<BTreeMap<String, DatabaseOptions>> {
        let variables = variables();
        let mut all = of_variables(&variables)?;
        if let Some(given) = self.default.given()? {
            all.insert(crate::sql::DEFAULT_CONNECTION.to_owned(), given);
        }
        add_default(&mut all, &variables)?;
        if all.is_empty() {
            let variable = format!("{VARIABLES}NAME");
            return Err(CliError::usage(format_args!(
                "no database is known here; give --database-url or set DATABASE_URL, or {variable} for a batch that \
                 names its connection"
            )));
        }
        for options in all.values_mut() {
            *options = options.clone().pages(PAGES);
        }
        Ok(all)
    }

    /// Adds a processor that works on them.
    pub(crate) fn add<P: PageProcessor>(
        &self,
        processors: &mut Processors,
        make: fn(Connections) -> P,
    ) {
        let connections = self.clone();
        processors.add_of_sql(move || {
            let connections = connections.clone();
            async move { connections.get().await.map(make) }
        });
    }
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
        // A variable that is not meant need not name a database of a known kind.
        let strange = ("DATABASE_URL", "oracle://h/d");
        assert_eq!(default(&[flag], &[strange]), given("sqlite:flag.db"));
        assert!(options(&[], &[strange]).is_err());
    }

    #[test]
    fn a_url_with_a_password_is_not_printed() {
        let printable = |url: &str| {
            let database_url = Some(Hidden(url.to_owned()));
            DatabaseArgs { database_url }.printable()
        };
        let url = "postgres://u@h/d";
        assert_eq!(printable(url).as_deref(), Some(url));
        assert_eq!(printable("postgres://u:p@h/d"), None);
        assert_eq!(printable("postgres://h/d?password=p"), None);
        assert_eq!(DatabaseArgs::default().printable(), None);
    }

    #[test]
    fn what_is_wrong_is_told_without_what_was_given() {
        for (argument, part) in [
            ("postgres://u:secret@h/d", "NAME=env:VARIABLE"),
            (
                "default=postgres://u:secret@h/d",
                "none of env, file and url",
            ),
            ("default=url:oracle://u:secret@h/d", "scheme"),
            ("default=url:postgres://u:secret@h/d?x=y", "not known"),
            ("=url:sqlite:secret", "1 to 64"),
            ("default=file:/no/such/file", "connection \"default\""),
            ("default=file:", "none of env"),
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

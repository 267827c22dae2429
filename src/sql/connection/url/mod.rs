//! URLs of databases.

#[cfg(feature = "mysql")]
mod mysql;
#[cfg(feature = "postgres")]
mod postgres;
#[cfg(feature = "sqlite")]
mod sqlite;

#[cfg(any(feature = "postgres", feature = "mysql"))]
use url::Url;

use super::{error::DatabaseError, options::DatabaseOptions};

/// Returns the options in a URL; see [`DatabaseOptions::from_url`].
pub(super) fn parse(url: &str) -> Result<DatabaseOptions, DatabaseError> {
    let scheme = url.split(':').next().unwrap_or_default();
    match scheme.to_ascii_lowercase().as_str() {
        #[cfg(feature = "postgres")]
        "postgres" | "postgresql" => postgres::parse(url),
        #[cfg(not(feature = "postgres"))]
        "postgres" | "postgresql" => Err(not_built("PostgreSQL", "postgres")),
        #[cfg(feature = "mysql")]
        "mysql" | "mariadb" => mysql::parse(url),
        #[cfg(not(feature = "mysql"))]
        "mysql" | "mariadb" => Err(not_built("MySQL", "mysql")),
        #[cfg(feature = "sqlite")]
        "sqlite" => sqlite::parse(url),
        #[cfg(not(feature = "sqlite"))]
        "sqlite" => Err(not_built("SQLite", "sqlite")),
        _ => Err(invalid("it does not begin with a known scheme")),
    }
}

#[cfg(not(all(feature = "postgres", feature = "mysql", feature = "sqlite")))]
fn not_built(system: &'static str, feature: &'static str) -> DatabaseError {
    DatabaseError::NotBuilt { system, feature }
}

fn invalid(problem: impl Into<String>) -> DatabaseError {
    DatabaseError::InvalidUrl {
        problem: problem.into(),
    }
}

/// Reads a URL, and checks that its parts are where they belong. An unencoded character in a password would move a
/// part of the password into the name of the database or into a parameter, where it would be shown.
#[cfg(any(feature = "postgres", feature = "mysql"))]
fn network_url(url: &str) -> Result<(Url, Vec<String>), DatabaseError> {
    let (_, rest) = url
        .split_once("://")
        .ok_or_else(|| invalid("there is no `://` after the scheme"))?;
    let encode = "a user or a password holds one of `@ : / ? # %` that is not percent-encoded (`%40`, \
                  `%3A`, `%2F`, `%3F`, `%23`, `%25`)";
    let path = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    if rest[path..].contains(['@', '#']) {
        return Err(invalid(encode));
    }
    let parsed = Url::parse(url).map_err(|_| {
        let several = rest[..path].contains(',');
        match several {
            true => invalid("it names several hosts, but one is allowed"),
            false => invalid(format!("host or port cannot be read, or {encode}")),
        }
    })?;
    let mut secrets = Vec::new();
    let decoded = |text: &str| {
        let query = format!("p={}", text.replace('+', "%2B"));
        let pair = url::form_urlencoded::parse(query.as_bytes()).next();
        pair.map(|(_, value)| value.into_owned())
    };
    if let Some(password) = parsed.password() {
        secrets.push(password.to_owned());
        secrets.extend(decoded(password));
    }
    let of_query = parsed.query_pairs().filter(|(key, _)| key == "password");
    secrets.extend(of_query.map(|(_, value)| value.into_owned()));
    Ok((parsed, secrets))
}

/// The parameters of a URL that this crate reads itself, before `sqlx` does.
#[cfg(any(feature = "postgres", feature = "mysql"))]
struct Parameters {
    system: &'static str,
    pairs: Vec<(String, String)>,
}

#[cfg(any(feature = "postgres", feature = "mysql"))]
impl Parameters {
    /// Refuses unknown parameters, so that nothing is ignored silently. The message shows only names that other
    /// programs use: any other name may be a part of a password.
    fn of(
        url: &Url,
        system: &'static str,
        known: &[&str],
        of_others: &[&str],
    ) -> Result<Self, DatabaseError> {
        let pairs: Vec<_> = url.query_pairs().into_owned().collect();
        for (name, _) in &pairs {
            if known.contains(&name.as_str()) || name.starts_with("options[") {
                continue;
            }
            let what = match of_others.contains(&name.as_str()) {
                true => format!("`{name}`, which is not supported here"),
                false => "one of the parameters of its URL, which is not known".to_owned(),
            };
            return Err(DatabaseError::InvalidParameter {
                system,
                problem: format!("{what}; known are: {}", known.join(", ")),
            });
        }
        Ok(Self { system, pairs })
    }

    fn get(&self, names: &[&str]) -> Option<&str> {
        let mut given = self.pairs.iter().rev();
        let pair = given.find(|(name, _)| names.contains(&name.as_str()))?;
        Some(&pair.1)
    }

    fn refuse(&self, problem: impl Into<String>) -> DatabaseError {
        DatabaseError::InvalidParameter {
            system: self.system,
            problem: problem.into(),
        }
    }

    /// Returns a parameter that takes one of a few words.
    fn word(&self, names: &[&str], allowed: &[&str]) -> Result<Option<String>, DatabaseError> {
        let Some(value) = self.get(names) else {
            return Ok(None);
        };
        let value = value.to_ascii_lowercase();
        match allowed.contains(&value.as_str()) {
            true => Ok(Some(value)),
            false => Err(self.refuse(format!(
                "this `{}`; allowed are: {}",
                names[0],
                allowed.join(", ")
            ))),
        }
    }

    /// Opens the files once, so that an error can name them.
    fn files(&self, all: &[&[&str]]) -> Result<(), DatabaseError> {
        for names in all {
            if let Some(path) = self.get(names)
                && let Err(error) = crate::base::small_file::check(path)
            {
                let name = names[0];
                return Err(self.refuse(format!("`{path}` as `{name}`: {error}")));
            }
        }
        Ok(())
    }
}

/// Removes the parameters that `sqlx` does not know.
#[cfg(any(feature = "postgres", feature = "mysql"))]
fn without(mut url: Url, names: &[&str]) -> Url {
    let pairs: Vec<_> = url.query_pairs().into_owned().collect();
    url.set_query(None);
    for (name, value) in pairs {
        if !names.contains(&name.as_str()) {
            url.query_pairs_mut().append_pair(&name, &value);
        }
    }
    url
}

#[cfg(any(feature = "postgres", feature = "mysql"))]
fn with_tls(options: DatabaseOptions, wanted: bool) -> Result<DatabaseOptions, DatabaseError> {
    match wanted && !cfg!(feature = "tls") {
        true => Err(DatabaseError::NoTls {
            database: options.redacted(),
        }),
        false => Ok(options),
    }
}

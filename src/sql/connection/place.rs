//! The place of a database, the same for every spelling of its URL and for every user who connects.

use std::net::IpAddr;

use serde::Serialize;
#[cfg(any(feature = "postgres", feature = "mysql"))]
use sqlx::Row as _;

use super::options::{DatabaseOptions, Target};
#[cfg(feature = "postgres")]
use super::pgbouncer::rows_of;
use crate::sql::Database;

/// The place of a database. Two connections to one place find the same rows under the same names of tables.
///
/// The names of a remote host are not resolved: one server may have several names there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Place {
    system: &'static str,
    host: Host,
    port: Option<u64>,
    /// The database; the path of the file in SQLite. Absent in MySQL, where the name of a table includes it.
    database: Option<String>,
    /// The name that a server on this machine gives itself. A socket and a port of the machine may belong to two
    /// servers.
    server: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
enum Host {
    /// The machine of this process, by a socket, a loopback address or a file.
    Here,
    #[cfg_attr(
        not(any(feature = "postgres", feature = "mysql")),
        allow(dead_code, reason = "SQLite has no hosts")
    )]
    Named(String),
}

impl Host {
    #[cfg_attr(
        not(any(feature = "postgres", feature = "mysql")),
        allow(dead_code, reason = "SQLite has no hosts")
    )]
    fn of(given: &str) -> Self {
        // A path is that of a socket's folder.
        if given.starts_with('/') {
            return Self::Here;
        }
        let name = given.trim_start_matches('[').trim_end_matches(']');
        let name = name.trim_end_matches('.').to_lowercase();
        let is_here = |address: IpAddr| address.is_loopback() || address.is_unspecified();
        match name.parse::<IpAddr>() {
            Ok(address) => match plain(address) {
                address if is_here(address) => Self::Here,
                address => Self::Named(address.to_string()),
            },
            Err(_) if name.is_empty() || name == "localhost" || name.ends_with(".localhost") => {
                Self::Here
            }
            Err(_) => Self::Named(name),
        }
    }
}

/// Returns the IPv4 address in an IPv6 address that stands for one.
#[cfg_attr(
    not(any(feature = "postgres", feature = "mysql")),
    allow(dead_code, reason = "SQLite has no hosts")
)]
fn plain(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V6(address) => address
            .to_ipv4_mapped()
            .map_or(IpAddr::V6(address), IpAddr::V4),
        address @ IpAddr::V4(_) => address,
    }
}

impl Place {
    /// Returns the database in which statements find the tables that they name without one, where the place does not
    /// say it: in MySQL.
    pub fn default_database(options: &DatabaseOptions) -> Option<String> {
        match &options.target {
            #[cfg(feature = "mysql")]
            Target::MySql(options) => options.get_database().map(str::to_owned),
            #[allow(unreachable_patterns, reason = "where MySQL is the only database")]
            _ => None,
        }
    }

    /// Asks the database.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn of(options: &DatabaseOptions, database: &Database) -> Result<Self, sqlx::Error> {
        match (&options.target, database) {
            #[cfg(feature = "postgres")]
            (Target::Postgres(options), Database::Postgres(pool)) => {
                let host = match options.get_socket() {
                    Some(_) => Host::Here,
                    None => Host::of(options.get_host()),
                };
                let name = rows_of(pool, "SELECT current_database()::text", Vec::new()).await?;
                let name = name.first().ok_or(sqlx::Error::RowNotFound)?.try_get(0)?;
                let server = match host {
                    Host::Here => postgres_server(pool).await,
                    Host::Named(_) => None,
                };
                Ok(Self {
                    system: "postgres",
                    host,
                    port: Some(options.get_port().into()),
                    database: Some(name),
                    server,
                })
            }
            #[cfg(feature = "mysql")]
            (Target::MySql(options), Database::MySql(pool)) => {
                let asked = "SELECT CAST(@@port AS UNSIGNED), \
                             CAST(CONCAT(@@hostname, ':', @@datadir) AS CHAR)";
                let row = sqlx::query(asked).fetch_one(pool).await?;
                let (own_port, own_name) = (row.try_get(0)?, row.try_get_unchecked(1)?);
                let (host, port) = match options.get_socket() {
                    Some(_) => (Host::Here, own_port),
                    None => (Host::of(options.get_host()), options.get_port().into()),
                };
                Ok(Self {
                    system: "mysql",
                    server: (host == Host::Here).then_some(own_name),
                    host,
                    port: Some(port),
                    database: None,
                })
            }
            #[cfg(feature = "sqlite")]
            (Target::Sqlite(options), _) => {
                let path = options.get_filename();
                // The file exists by now, unless it is in memory.
                let path = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
                Ok(Self {
                    system: "sqlite",
                    host: Host::Here,
                    port: None,
                    database: Some(path.display().to_string()),
                    server: None,
                })
            }
            #[allow(unreachable_patterns, reason = "depends on the features")]
            _ => Err(sqlx::Error::Configuration(
                "the options are not those of this database".into(),
            )),
        }
    }
}

/// Returns the identifier of the server's files, which a role may have lost the permission to read.
#[cfg(feature = "postgres")]
async fn postgres_server(pool: &sqlx::PgPool) -> Option<String> {
    let asked = "SELECT system_identifier::text FROM pg_catalog.pg_control_system()";
    let rows = rows_of(pool, asked, Vec::new()).await.ok()?;
    rows.first()?.try_get(0).ok()
}

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_spelling_of_this_machine_is_one_host() {
        let here = [
            "localhost",
            "LocalHost",
            "localhost.",
            "db.localhost",
            "127.0.0.1",
            "127.8.8.8",
            "::1",
            "[::1]",
            "0:0:0:0:0:0:0:1",
            "::ffff:127.0.0.1",
            "0.0.0.0",
            "::",
            "",
            "/var/run/postgresql",
        ];
        for host in here {
            assert_eq!(Host::of(host), Host::Here, "{host}");
        }
        for host in [
            "db",
            "10.0.0.1",
            "fe80::1",
            "localhost.example",
            "1270.0.0.1",
        ] {
            assert_ne!(Host::of(host), Host::Here, "{host}");
        }
        assert_eq!(Host::of("DB.Example."), Host::of("db.example"));
        assert_eq!(Host::of("[FE80::0:1]"), Host::of("fe80::1"));
        assert_ne!(Host::of("db"), Host::of("db.example"));
    }

    proptest! {
        #[test]
        fn an_address_is_the_same_host_in_its_long_form(bits in any::<u128>()) {
            let address = Ipv6Addr::from(bits);
            let long: Vec<_> = address.segments().iter().map(|s| format!("{s:04X}")).collect();
            prop_assert_eq!(Host::of(&long.join(":")), Host::of(&address.to_string()));
        }
    }
}

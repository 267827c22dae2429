//! Passwords are never shown, whatever fails.

use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection};
use temporal_batch::sql::{Database, DatabaseError, DatabaseOptions};

use crate::{
    chain,
    support::servers::{MariaDb, Postgres},
};

/// Ordinary and awkward passwords.
const PASSWORDS: [&str; 5] = [
    "s3cret",
    "p@ss:w/o?r#d%",
    "pa ss+word&x=1",
    "пароль",
    "a'b\"c\\d",
];

/// Every character except letters and digits as an escape, byte by byte.
fn encoded(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte.is_ascii_alphanumeric() {
            true => char::from(byte).to_string(),
            false => format!("%{byte:02X}"),
        })
        .collect()
}

#[track_caller]
fn hidden(password: &str, text: &str) {
    for form in [password.to_owned(), encoded(password)] {
        assert!(!text.contains(&form), "{form} is shown: {text}");
    }
}

/// All texts that a program could print of an attempt to connect.
async fn everything_shown(url: &str) -> (String, Result<Database, DatabaseError>) {
    let options = match DatabaseOptions::from_url(url) {
        Ok(options) => options,
        Err(error) => return (format!("{} {error:?}", chain(&error)), Err(error)),
    };
    let mut shown = format!("{options:?} {}", options.redacted());
    let connected = Database::connect(&options).await;
    match &connected {
        Ok(database) => shown += &format!("{database:?}"),
        Err(error) => shown += &format!("{} {error:?} {error:#?}", chain(error)),
    }
    (shown, connected)
}

#[tokio::test]
async fn a_failure_to_connect_shows_no_password() {
    let Some(server) = Postgres::shared() else {
        return;
    };
    let port = server.port();
    for password in PASSWORDS {
        let p = encoded(password);
        for url in [
            format!("postgres://u:{p}@127.0.0.1:1/d"),
            format!("postgres://u:{p}@127.0.0.1:{port}/no_such_database"),
            format!("postgres://no_such_user:{p}@127.0.0.1:{port}/postgres"),
            format!("postgres://u@127.0.0.1:1/d?password={p}"),
            format!("postgres://u:{p}@no-such-host.invalid/d"),
            format!("postgres://u:{p}@127.0.0.1:{port}/postgres?sslmode=require"),
            format!("postgres://u:{p}@127.0.0.1:port/d"),
            format!("postgres://u:{p}@127.0.0.1/d?sslmode={p}"),
            format!("postgres://u:{p}@127.0.0.1/d?{p}={p}"),
            format!("postgres://u%3A{p}@127.0.0.1:1/d"),
            format!("mysql://u:{p}@127.0.0.1:1/d"),
            format!("mysql://u:{p}@127.0.0.1/d?{p}={p}"),
            format!("mysql://u%3A{p}@127.0.0.1:1/d"),
            format!("unknown://u:{p}@127.0.0.1/d"),
            format!("{p}:x"),
            p.clone(),
            password.to_owned(),
        ] {
            let (shown, connected) = everything_shown(&url).await;
            assert!(connected.is_err(), "{shown}");
            hidden(password, &shown);
        }
    }
}

/// Passwords as users paste them: characters that have a meaning in a URL shift the rest of it.
#[tokio::test]
async fn a_password_that_is_not_encoded_is_not_shown_either() {
    for password in [
        "pa/ss", "pa?ss", "pa#ss", "pa@ss", "pa:ss", "12/ss", "12?ss", "12#ss", "/ss", "%zz",
    ] {
        for scheme in ["postgres", "mysql"] {
            let url = format!("{scheme}://u:{password}@127.0.0.1:1/d");
            let (shown, connected) = everything_shown(&url).await;
            assert!(connected.is_err(), "{shown}");
            assert!(!shown.contains(password), "{url}: {shown}");
            assert!(!shown.contains("ss@"), "{url}: {shown}");
        }
    }
}

#[tokio::test]
async fn a_password_works_with_any_characters_and_a_wrong_one_is_reported() {
    let Some(server) = Postgres::launch(false) else {
        return;
    };
    let mut admin = PgConnection::connect(&server.url("postgres"))
        .await
        .unwrap();
    for (number, password) in PASSWORDS.iter().enumerate() {
        let literal = password.replace('\'', "''");
        let role = format!("CREATE ROLE r{number} LOGIN PASSWORD '{literal}'");
        admin.execute(AssertSqlSafe(role)).await.unwrap();
    }
    let rules =
        "local all all trust\nhost all postgres all trust\nhost all all all scram-sha-256\n";
    std::fs::write(server.folder().join("data/pg_hba.conf"), rules).unwrap();
    admin.execute("SELECT pg_reload_conf()").await.unwrap();
    let port = server.port();
    for (number, password) in PASSWORDS.iter().enumerate() {
        let p = encoded(password);
        let right = format!("postgres://r{number}:{p}@127.0.0.1:{port}/postgres");
        // The new rules apply a moment after the reload.
        let wrong = loop {
            let (shown, connected) = everything_shown(&format!(
                "postgres://r{number}:x{p}@127.0.0.1:{port}/postgres"
            ))
            .await;
            hidden(password, &shown);
            match connected {
                Ok(_) => tokio::time::sleep(std::time::Duration::from_millis(20)).await,
                Err(error) => break error,
            }
        };
        assert!(
            matches!(wrong, DatabaseError::AccessDenied { .. }),
            "{wrong:?}"
        );
        assert!(chain(&wrong).contains(&format!("r{number}")), "{wrong}");
        let (shown, connected) = everything_shown(&right).await;
        connected.unwrap();
        hidden(password, &shown);
        let missing = right
            .replace("/postgres", "/nowhere")
            .replace("nowhere://", "postgres://");
        let (shown, connected) = everything_shown(&missing).await;
        let error = connected.unwrap_err();
        assert!(
            matches!(error, DatabaseError::NoDatabase { .. }),
            "{error:?}"
        );
        hidden(password, &shown);
    }
}

#[tokio::test]
async fn mariadb_refuses_without_showing_a_password() {
    let Some(server) = MariaDb::shared() else {
        return;
    };
    let port = server.port();
    for password in PASSWORDS {
        let p = encoded(password);
        let url = format!("mysql://nobody:{p}@127.0.0.1:{port}/nowhere");
        let (shown, connected) = everything_shown(&url).await;
        let error = connected.unwrap_err();
        assert!(
            matches!(error, DatabaseError::AccessDenied { .. }),
            "{error:?}"
        );
        hidden(password, &shown);
    }
    let missing = server.url("nowhere");
    let (_, connected) = everything_shown(&missing).await;
    let error = connected.unwrap_err();
    assert!(
        matches!(error, DatabaseError::NoDatabase { .. }),
        "{error:?}"
    );
}

//! TLS with a PostgreSQL whose certificate comes from a private authority.

use std::{
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown},
    path::{Path, PathBuf},
    process::Command,
};

use sqlx::{Connection as _, Executor as _, PgConnection};
use temporal_batch::sql::{Database, DatabaseError, DatabaseOptions};

use crate::{
    chain,
    commands::run,
    connect, pg,
    support::servers::{Postgres, Stop, skip},
};

/// A server with the name `localhost`. It requires TLS for every user except the superuser, and a certificate for the
/// user `holder`.
struct Secure {
    server: Postgres,
    certificates: tempfile::TempDir,
}

fn openssl(folder: &Path, arguments: &str) {
    let output = Command::new("openssl")
        .args(arguments.split(' '))
        .current_dir(folder)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

impl Secure {
    /// Starts the server. `None` where a program is not installed, which is then printed.
    async fn launch() -> Option<Self> {
        if Command::new("openssl").arg("version").output().is_err() {
            skip("OpenSSL", "openssl");
            return None;
        }
        let Some(server) = Postgres::launch(false) else {
            Postgres::skip();
            return None;
        };
        let certificates = tempfile::tempdir().unwrap();
        let folder = certificates.path();
        let ec = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
        openssl(
            folder,
            &format!("req -x509 {ec} -keyout ca.key -out ca.crt -subj /CN=authority -days 2"),
        );
        openssl(
            folder,
            &format!("req -x509 {ec} -keyout other.key -out other.crt -subj /CN=other -days 2"),
        );
        std::fs::write(folder.join("names"), "subjectAltName=DNS:localhost").unwrap();
        for (name, subject) in [("server", "localhost"), ("client", "holder")] {
            openssl(
                folder,
                &format!("req {ec} -keyout {name}.key -out {name}.csr -subj /CN={subject}"),
            );
            openssl(
                folder,
                &format!(
                    "x509 -req -in {name}.csr -CA ca.crt -CAkey ca.key -CAcreateserial -out {name}.crt -days 2 \
                     -extfile names"
                ),
            );
        }
        let data = server.folder().join("data");
        let owner = std::fs::metadata(&data).unwrap();
        for name in ["server.crt", "server.key", "ca.crt"] {
            let path = data.join(name);
            std::fs::copy(folder.join(name), &path).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
            chown(&path, Some(owner.uid()), Some(owner.gid())).unwrap();
        }
        let mut admin = PgConnection::connect(&server.url("postgres"))
            .await
            .unwrap();
        for statement in [
            "CREATE ROLE reader LOGIN IN ROLE pg_monitor",
            "CREATE ROLE holder LOGIN",
            "ALTER SYSTEM SET ssl = on",
            "ALTER SYSTEM SET ssl_ca_file = 'ca.crt'",
        ] {
            admin.execute(statement).await.unwrap();
        }
        admin.close().await.unwrap();
        let rules =
            "host all postgres all trust\nhostssl all holder all cert\nhostssl all all all trust\n";
        std::fs::write(data.join("pg_hba.conf"), rules).unwrap();
        server.restart(Stop::Fast);
        Some(Self {
            server,
            certificates,
        })
    }

    fn file(&self, name: &str) -> PathBuf {
        self.certificates.path().join(name)
    }

    fn url(&self, user: &str, host: &str, parameters: &str) -> String {
        format!(
            "postgres://{user}@{host}:{}/postgres?{parameters}",
            self.server.port()
        )
    }

    async fn connect(
        &self,
        user: &str,
        host: &str,
        parameters: &str,
    ) -> Result<Database, DatabaseError> {
        let options = DatabaseOptions::from_url(&self.url(user, host, parameters))?;
        Database::connect(&options).await
    }
}

async fn over_tls(database: &Database) -> bool {
    sqlx::query_scalar("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()")
        .fetch_one(pg(database))
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn modes_mean_the_same_as_in_libpq() {
    let Some(secure) = Secure::launch().await else {
        return;
    };
    let ca = secure.file("ca.crt").display().to_string();
    let other = secure.file("other.crt").display().to_string();
    // A root certificate that is named is checked even with `require`, as in libpq.
    for (host, parameters, works) in [
        ("127.0.0.1", "sslmode=prefer".to_owned(), true),
        ("127.0.0.1", "sslmode=require".to_owned(), true),
        (
            "127.0.0.1",
            format!("sslmode=require&sslrootcert={ca}"),
            true,
        ),
        (
            "127.0.0.1",
            format!("sslmode=require&sslrootcert={other}"),
            false,
        ),
        (
            "127.0.0.1",
            format!("sslmode=verify-ca&sslrootcert={ca}"),
            true,
        ),
        (
            "127.0.0.1",
            format!("sslmode=verify-ca&sslrootcert={other}"),
            false,
        ),
        ("127.0.0.1", "sslmode=verify-ca".to_owned(), false),
        (
            "localhost",
            format!("sslmode=verify-full&sslrootcert={ca}"),
            true,
        ),
        (
            "127.0.0.1",
            format!("sslmode=verify-full&sslrootcert={ca}"),
            false,
        ),
        (
            "localhost",
            format!("sslmode=verify-full&sslrootcert={other}"),
            false,
        ),
        ("localhost", "sslrootcert=system".to_owned(), false),
    ] {
        let connected = secure.connect("reader", host, &parameters).await;
        match (connected, works) {
            (Ok(database), true) => assert!(over_tls(&database).await, "{parameters}"),
            (Err(error), false) => {
                assert!(
                    matches!(error, DatabaseError::Tls { .. }),
                    "{parameters}: {error:?}"
                );
                assert!(
                    chain(&error).contains("certificate"),
                    "{parameters}: {}",
                    chain(&error)
                );
            }
            (connected, _) => panic!("{host} {parameters}: {connected:?}"),
        }
    }
    // The server requires TLS for this user.
    for mode in ["disable", "allow"] {
        let plain = secure
            .connect("reader", "127.0.0.1", &format!("sslmode={mode}"))
            .await;
        let plain = plain.unwrap_err();
        assert!(
            matches!(plain, DatabaseError::AccessDenied { .. }),
            "{plain:?}"
        );
        assert!(chain(&plain).contains("no encryption"), "{}", chain(&plain));
    }
    let plain = secure
        .connect("postgres", "127.0.0.1", "sslmode=disable")
        .await
        .unwrap();
    assert!(!over_tls(&plain).await);

    let (cert, key) = (secure.file("client.crt"), secure.file("client.key"));
    let shown = format!(
        "sslmode=verify-full&sslrootcert={ca}&sslcert={}&sslkey={}",
        cert.display(),
        key.display()
    );
    let holder = secure.connect("holder", "localhost", &shown).await.unwrap();
    assert!(over_tls(&holder).await);
    let without = secure
        .connect("holder", "localhost", "sslmode=require")
        .await
        .unwrap_err();
    assert!(
        matches!(without, DatabaseError::AccessDenied { .. }),
        "{without:?}"
    );
}

/// The worker has asked its throttle when it reports that the database of its processor is missing.
#[tokio::test(flavor = "multi_thread")]
async fn a_throttle_connects_with_tls() {
    let Some(secure) = Secure::launch().await else {
        return;
    };
    for (name, told) in [
        ("ca.crt", "no products database"),
        ("other.crt", "certificate"),
    ] {
        let root = secure.file(name).display().to_string();
        let parameters = format!("sslmode=verify-full&sslrootcert={root}");
        let url = secure.url("reader", "localhost", &parameters);
        let flags = [
            "worker",
            "--max-waiting",
            "9999",
            "--address",
            "127.0.0.1:1",
        ];
        let variables = [
            ("THROTTLE_DATABASE_URL", url.as_str()),
            ("PRODUCTS_DB", "/no/such/products.db"),
        ];
        let output = run(&flags, &variables).await;
        assert!(output.err.contains(told), "{}", output.err);
    }
}

#[tokio::test]
async fn a_server_without_tls_is_refused_where_tls_is_required() {
    let Some(server) = Postgres::shared() else {
        return;
    };
    for mode in ["require", "verify-ca", "verify-full"] {
        let url = server.url("postgres").replace("disable", mode);
        let error = connect(&url).await.unwrap_err();
        assert!(matches!(error, DatabaseError::Tls { .. }), "{error:?}");
        assert!(
            chain(&error).contains("does not support TLS"),
            "{}",
            chain(&error)
        );
    }
    let url = server.url("postgres").replace("disable", "prefer");
    let database = connect(&url).await.unwrap();
    assert!(!over_tls(&database).await);
}

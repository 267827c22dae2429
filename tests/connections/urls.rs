//! URLs of databases, and URLs that are refused before a connection is made.

use std::time::{Duration, Instant};

use temporal_batch::sql::{DatabaseError, DatabaseOptions};

use crate::{chain, connect};

fn redacted(url: &str) -> String {
    DatabaseOptions::from_url(url).unwrap().redacted()
}

fn refused(url: &str) -> String {
    let error = DatabaseOptions::from_url(url).unwrap_err();
    assert!(error.is_misuse(), "{error}");
    chain(&error)
}

#[test]
fn a_database_is_shown_without_its_secrets() {
    for (url, shown) in [
        (
            "postgres://u:p@db.internal:6432/shop",
            "postgres://u@db.internal:6432/shop",
        ),
        (
            "postgresql://u@h/d?sslmode=disable",
            "postgres://u@h:5432/d",
        ),
        (
            "postgres://?host=/run/pg&user=u&dbname=d&password=p",
            "postgres://u@/run/pg/d",
        ),
        ("mysql://u:p@h/shop", "mysql://u@h:3306/shop"),
        ("mariadb://u:p@h:3307/shop", "mysql://u@h:3307/shop"),
        ("sqlite:shop.db", "sqlite:shop.db"),
        (
            "sqlite:///var/lib/shop.db?mode=ro",
            "sqlite:/var/lib/shop.db",
        ),
    ] {
        assert_eq!(redacted(url), shown);
        let options = DatabaseOptions::from_url(url).unwrap();
        assert_eq!(format!("{options:?}"), format!("DatabaseOptions({shown})"));
    }
}

#[test]
fn other_urls_are_refused_with_the_form_of_a_database_url() {
    for url in ["", "shop", "oracle://u@h/d", "postgres:u@h/d", "http://h"] {
        let message = refused(url);
        for example in ["postgres://USER@HOST", "mysql://USER@HOST", "sqlite:PATH"] {
            assert!(message.contains(example), "{url}: {message}");
        }
    }
    assert!(refused("sqlite:").contains("names no file"));
    assert!(refused("postgres://u@a:1,b:2/d").contains("several hosts"));
}

#[test]
fn parameters_are_never_ignored() {
    for (url, parts) in [
        (
            "postgres://u@h/d?sslmode=on",
            &["`sslmode`", "verify-full"][..],
        ),
        (
            "postgres://u@h/d?sslmodus=require",
            &["not known", "sslmode"],
        ),
        (
            "postgres://u@h/d?service=shop",
            &["`service`", "not supported"],
        ),
        (
            "postgres://u@h/d?channel_binding=require",
            &["`channel_binding`", "prefer"],
        ),
        (
            "postgres://u@h/d?target_session_attrs=read-write",
            &["`target_session_attrs`", "any"],
        ),
        (
            "postgres://u@h/d?connect_timeout=soon",
            &["`connect_timeout`", "seconds"],
        ),
        ("postgres://u@h/d?port=many", &["`port`"]),
        (
            "postgres://u@h/d?sslrootcert=/no/such/file",
            &["/no/such/file", "sslrootcert"],
        ),
        (
            "mysql://u@h/d?ssl-mode=on",
            &["`ssl-mode`", "verify_identity"],
        ),
        (
            "mysql://u@h/d?ssl-ca=/no/such/file",
            &["/no/such/file", "ssl-ca"],
        ),
        ("mysql://u@h/d?charset=x'", &["`charset`", "utf8mb4"]),
        (
            "mysql://u@h/d?timezone=SYSTEM",
            &["`timezone`", "not supported"],
        ),
        ("sqlite:shop.db?mode=create", &["mode", "rwc"]),
        ("sqlite:shop.db?journal=wal", &["mode", "rwc"]),
    ] {
        let message = refused(url);
        for part in parts {
            assert!(
                message.contains(part),
                "{url}: {part:?} is missing in {message}"
            );
        }
    }
    for url in [
        "postgres://u@h/d?channel_binding=prefer&target_session_attrs=any&connect_timeout=3",
        "postgres://u@h/d?application_name=x&options=-c%20geqo%3Doff&statement-cache-capacity=0",
        "postgres://u@h/d?sslmode=require&sslrootcert=system",
        "mysql://u@h/d?ssl-mode=REQUIRED&charset=utf8mb4&collation=utf8mb4_bin",
    ] {
        let _ = DatabaseOptions::from_url(url).unwrap();
    }
}

#[tokio::test]
async fn a_missing_file_is_reported_and_not_created() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("shop.db");
    let url = format!("sqlite:{}", path.display());
    let error = connect(&url).await.unwrap_err();
    assert!(matches!(error, DatabaseError::NoFile { .. }), "{error:?}");
    assert!(chain(&error).contains("shop.db"), "{error}");
    assert!(!path.exists());
    connect(&format!("{url}?mode=rwc")).await.unwrap();
    connect(&url).await.unwrap();
}

#[tokio::test]
async fn an_unresponsive_server_is_reported_soon() {
    // The listener accepts connections, and never answers.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port();
    for scheme in ["postgres", "mysql"] {
        let url = format!("{scheme}://u:p@127.0.0.1:{port}/d");
        let options = DatabaseOptions::from_url(&url).unwrap();
        let options = options.connect_timeout(Duration::from_millis(300));
        let since = Instant::now();
        let error = temporal_batch::sql::Database::connect(&options)
            .await
            .unwrap_err();
        assert!(matches!(error, DatabaseError::NoAnswer { .. }), "{error:?}");
        assert!(error.is_unreachable());
        assert!(since.elapsed() < Duration::from_secs(5));
        let message = chain(&error);
        assert!(message.contains("within 300ms"), "{message}");
    }
    let options = DatabaseOptions::from_url("postgres://u@127.0.0.1:1/d").unwrap();
    let since = Instant::now();
    let refused = temporal_batch::sql::Database::connect(&options)
        .await
        .unwrap_err();
    assert!(
        matches!(refused, DatabaseError::Unreachable { .. }),
        "{refused:?}"
    );
    assert!(
        since.elapsed() < Duration::from_secs(5),
        "the refusal is reported late"
    );
}

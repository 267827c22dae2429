//! Throwaway servers end with their test process, and keep committed data over a crash.

use std::{
    io::{BufRead, BufReader, Read},
    net::{Ipv4Addr, TcpStream},
    path::PathBuf,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use crate::{
    database::SOON,
    support::servers::{MariaDb, Postgres},
};

/// The variable that is set in the process to be killed.
const VICTIM: &str = "TEMPORAL_BATCH_TEST_VICTIM";

#[test]
fn a_killed_test_process_leaves_no_postgresql_behind() {
    if std::env::var_os(VICTIM).is_some() {
        let server = Postgres::launch(false).unwrap();
        await_the_end(server.port(), server.folder());
    } else if Postgres::shared().is_some() {
        kill("throwaway_servers::a_killed_test_process_leaves_no_postgresql_behind");
    }
}

#[test]
fn a_killed_test_process_leaves_no_mariadb_behind() {
    if std::env::var_os(VICTIM).is_some() {
        let server = MariaDb::launch(false).unwrap();
        await_the_end(server.port(), server.folder());
    } else if MariaDb::shared().is_some() {
        kill("throwaway_servers::a_killed_test_process_leaves_no_mariadb_behind");
    }
}

/// Prints the port and folder that should disappear, and waits to be killed.
fn await_the_end(port: u16, folder: &std::path::Path) {
    println!("\nvictim\t{port}\t{}", folder.display());
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
}

/// Runs a test of this binary in a process, and kills it.
fn kill(test: &str) {
    let mut victim = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "--nocapture", test])
        .env(VICTIM, "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(victim.stdout.take().unwrap()).lines();
    let line = lines
        .map(Result::unwrap)
        .find(|l| l.starts_with("victim\t"));
    let line = line.unwrap();
    let mut parts = line.split('\t').skip(1);
    let port: u16 = parts.next().unwrap().parse().unwrap();
    let folder = PathBuf::from(parts.next().unwrap());
    let listens = || TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok();
    assert!(listens() && folder.exists());

    victim.kill().unwrap();
    victim.wait().unwrap();
    let since = Instant::now();
    while listens() || folder.exists() {
        assert!(
            since.elapsed() < SOON,
            "{} is still there",
            folder.display()
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_dropped_cluster_is_gone() {
    let Some(server) = Postgres::launch(true) else {
        return;
    };
    let (port, folder) = (server.port(), server.folder().to_owned());
    drop(server);
    assert!(!folder.exists());
    assert!(TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err());
}

#[test]
fn a_dropped_mariadb_is_gone() {
    let Some(server) = MariaDb::launch(true) else {
        return;
    };
    let (port, folder) = (server.port(), server.folder().to_owned());
    drop(server);
    assert!(!folder.exists());
    assert!(TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn committed_rows_outlive_a_crash_of_mariadb() {
    let Some(server) = MariaDb::launch(false) else {
        return;
    };
    let pool = server.pool("crash", 2).await;
    for statement in ["CREATE TABLE t (x BIGINT)", "INSERT INTO t VALUES (7)"] {
        sqlx::query(statement).execute(&pool).await.unwrap();
    }
    for how in [
        crate::support::servers::Stop::Immediate,
        crate::support::servers::Stop::Fast,
    ] {
        server.restart(how);
        let kept: i64 = sqlx::query_scalar("SELECT x FROM t")
            .fetch_one(&pool)
            .await
            .unwrap();
        assert_eq!(kept, 7);
    }
}

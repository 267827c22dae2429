//! The throwaway PostgreSQL itself.

use std::{
    io::{BufRead, BufReader, Read},
    net::{Ipv4Addr, TcpStream},
    path::PathBuf,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use crate::{database::SOON, postgres::Postgres};

/// Set in a process that is to be killed.
const VICTIM: &str = "TEMPORAL_BATCH_TEST_VICTIM";

#[test]
fn a_killed_test_process_leaves_no_postgresql_behind() {
    if std::env::var_os(VICTIM).is_some() {
        let server = Postgres::launch(false).unwrap();
        println!("\nvictim\t{}\t{}", server.port(), server.folder().display());
        // Until it is killed.
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        return;
    }
    if Postgres::shared().is_none() {
        return;
    }
    let mut victim = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "--nocapture"])
        .arg("fixture::a_killed_test_process_leaves_no_postgresql_behind")
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

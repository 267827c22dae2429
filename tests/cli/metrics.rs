//! The metrics of a worker, until it is told to stop.

use std::{
    io::{Read as _, Write as _},
    process::{Command, Stdio},
};

use crate::{
    products::Worker,
    support::{
        command::{online, run},
        servers::skip,
    },
};

fn scrape(address: &str) -> String {
    let mut stream = std::net::TcpStream::connect(address).unwrap();
    write!(stream, "GET /metrics HTTP/1.0\r\nHost: {address}\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (_, body) = answer.split_once("\r\n\r\n").unwrap();
    body.to_owned()
}

/// Checks the metrics with `promtool`, where it is installed.
fn promtool_accepts(metrics: &str) {
    let promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let Ok(mut promtool) = promtool else {
        return skip("promtool", "prometheus");
    };
    promtool
        .stdin
        .take()
        .unwrap()
        .write_all(metrics.as_bytes())
        .unwrap();
    let output = promtool.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
}

#[test]
fn a_worker_serves_metrics_and_drains_when_it_is_told_to_stop() {
    let worker = Worker::on("drain", &["--metrics-address", "127.0.0.1:0"]);
    let line = worker.process.err.line("metrics at http://127.0.0.1:");
    assert!(line.ends_with("/metrics"), "{line}");
    let polls = "worker polls task queue \"drain\" for: inflate-prices";
    worker.process.err.line(polls);

    let args = [
        "start",
        "inflate-prices",
        "--task-queue",
        "drain",
        "--page-size",
        "500",
    ];
    assert_eq!(run(online(&args)).status, Some(0));
    let address = line
        .trim_start_matches("metrics at http://")
        .trim_end_matches("/metrics");
    let metrics = scrape(address);
    for sample in [
        "temporal_batch_pages_total{outcome=\"completed\",processor=\"inflate-prices\"} 10",
        "temporal_batch_pages_in_flight{processor=\"inflate-prices\"} 0",
        "temporal_batch_page_duration_seconds_count{processor=\"inflate-prices\"} 10",
        // Metrics of the SDK are on the same page.
        "temporal_workflow_completed_total",
    ] {
        assert!(metrics.contains(sample), "{sample} is not in\n{metrics}");
    }
    promtool_accepts(&metrics);

    worker.process.signal("INT");
    worker.process.err.line("draining");
    assert_eq!(worker.process.ended().status, Some(0));
}

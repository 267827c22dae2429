//! The actions that Temporal Cloud would bill, as the server counts them in its metrics.

use std::collections::BTreeMap;

use temporal_batch::dev_server::{DevServer, DevServerOptions};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// Starts a server that counts actions.
pub async fn server() -> DevServer {
    // Port 0 would mean no metrics.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = free.local_addr().unwrap().port();
    drop(free);
    let server = DevServerOptions::new().metrics_port(port);
    server.start().await.unwrap()
}

/// Returns the number of actions of each type. Queries are those of the test.
pub async fn actions(server: &DevServer) -> BTreeMap<String, f64> {
    let url = server.metrics_url().unwrap();
    let host = url.trim_start_matches("http://").split('/').next().unwrap();
    let mut stream = tokio::net::TcpStream::connect(host).await.unwrap();
    let request = format!("GET /metrics HTTP/1.0\r\nHost: {host}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    let mut actions = BTreeMap::new();
    for line in text.lines() {
        let (name, labels) = line.split_once('{').unwrap_or((line, ""));
        if !matches!(name, "action" | "action_total") {
            continue;
        }
        let (labels, count) = labels.rsplit_once(' ').unwrap();
        let of_type = labels.split("action_type=\"").nth(1);
        let of_type = of_type.and_then(|rest| rest.split('"').next());
        let of_type = of_type.unwrap_or(labels).to_owned();
        *actions.entry(of_type).or_default() += count.parse::<f64>().unwrap();
    }
    actions
}

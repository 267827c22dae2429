//! A Prometheus server for one test, and its tool.

use std::{
    io::Write as _,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
};

use serde_json::Value;
use url::form_urlencoded::byte_serialize;

use crate::{
    file,
    support::{command::LIMIT, servers::skip, wait_for_ok},
    worker::request,
};

/// Runs its arguments until they end or the standard input is closed. The operating system closes it for a killed test
/// process too, so that no server outlives its test.
const SCRIPT: &str = r#"
"$@" </dev/null &
server=$!
exec 3<&0
{ cat <&3 >/dev/null; kill "$server"; } &
wait "$server"
"#;

/// Returns whether a program of the package is installed. If not, standard error has a line with `SKIPPED:`, which
/// `.ci/run` counts.
pub fn is_installed(program: &str) -> bool {
    let there = Command::new(program)
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    if !there {
        skip(program, "prometheus");
    }
    there
}

/// Runs `promtool` in `folder` with this input.
pub fn promtool(folder: &Path, args: &[&str], input: &str) -> Output {
    let mut child = Command::new("promtool")
        .args(args)
        .current_dir(folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_owned();
    // Written beside the reading, since the program may print much before it has read all.
    let writing = std::thread::spawn(move || stdin.write_all(input.as_bytes()));
    let output = child.wait_with_output().unwrap();
    writing.join().unwrap().unwrap();
    output
}

/// A running server that scrapes one worker every second, with the alerts of `docs`.
pub struct Prometheus {
    shell: Child,
    address: String,
    folder: tempfile::TempDir,
}

impl Prometheus {
    /// Starts the server. `None` where Prometheus is not installed.
    pub fn scraping(worker: &str) -> Option<Self> {
        if !is_installed("prometheus") {
            return None;
        }
        // Another process may take the port between its choice and its use.
        (0..5)
            .find_map(|_| Self::start(worker))
            .or_else(|| panic!("five ports were taken"))
    }

    fn start(worker: &str) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("prometheus.yml");
        let rules = file("docs/alerts.yml");
        let text = format!(
            "global: {{ scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s }}\n\
             rule_files: [{rules:?}]\n\
             scrape_configs:\n\
             - {{ job_name: temporal-batch, static_configs: [{{ targets: [{worker:?}] }}] }}\n"
        );
        std::fs::write(&config, text).unwrap();
        let address = free_address();
        let log = std::fs::File::create(log_of(folder.path())).unwrap();
        let shell = Command::new("sh")
            .args(["-c", SCRIPT, "temporal-batch-prometheus", "prometheus"])
            .arg(format!("--config.file={}", config.display()))
            .arg(format!(
                "--storage.tsdb.path={}",
                folder.path().join("data").display()
            ))
            .arg(format!("--web.listen-address={address}"))
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn();
        let mut server = Self {
            shell: shell.unwrap(),
            address,
            folder,
        };
        let deadline = std::time::Instant::now() + LIMIT;
        loop {
            if let Some(ended) = server.shell.try_wait().unwrap() {
                let log = std::fs::read_to_string(log_of(server.folder.path())).unwrap();
                assert!(log.contains("address already in use"), "{ended}: {log}");
                return None;
            }
            let ready = request(&server.address, "GET", "/-/ready", "");
            if ready.is_ok_and(|(status, _)| status == 200) {
                return Some(server);
            }
            assert!(
                std::time::Instant::now() < deadline,
                "Prometheus is not ready"
            );
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
    }

    /// The result of an instant query. An error is that of Prometheus.
    pub fn query(&self, expression: &str) -> Result<Vec<Value>, String> {
        let query: String = byte_serialize(expression.as_bytes()).collect();
        let body = format!("query={query}");
        let data = self.ask("POST", "/api/v1/query", &body)?;
        Ok(data["result"].as_array().cloned().unwrap_or_default())
    }

    /// The values of a label in the series of a metric.
    pub fn label_values(&self, metric: &str, label: &str) -> Result<Vec<Value>, String> {
        let path = format!("/api/v1/label/{label}/values?match[]={metric}");
        Ok(self
            .ask("GET", &path, "")?
            .as_array()
            .cloned()
            .unwrap_or_default())
    }

    /// All alerts, as Prometheus has loaded and evaluated them.
    pub fn rules(&self) -> Result<Vec<Value>, String> {
        let data = self.ask("GET", "/api/v1/rules", "")?;
        let groups = data["groups"].as_array().cloned().unwrap_or_default();
        let rules = groups.iter().filter_map(|group| group["rules"].as_array());
        Ok(rules.flatten().cloned().collect())
    }

    /// Waits until a query has a result that is a number. A quantile of an empty histogram is not.
    pub fn wait_for_data(&self, what: &str, query: &str) {
        let is_number = |sample: &Value| {
            sample["value"][1]
                .as_str()
                .is_some_and(|value| value != "NaN")
        };
        wait_for_ok(what, || {
            let result = self.query(query)?;
            let no_data = || format!("no data: {result:?}");
            result
                .iter()
                .any(is_number)
                .then_some(())
                .ok_or_else(no_data)
        });
    }

    /// Waits until every alert was evaluated, and returns all of them.
    pub fn evaluated_rules(&self) -> Vec<Value> {
        let rules = wait_for_ok("each alert is evaluated", || {
            let rules = self.rules()?;
            match rules.iter().find(|rule| rule["health"] != "ok") {
                Some(rule) => Err(rule.to_string()),
                None => Ok(rules),
            }
        });
        assert!(!rules.is_empty());
        rules
    }

    fn ask(&self, method: &str, path: &str, body: &str) -> Result<Value, String> {
        let answer = request(&self.address, method, path, body);
        let (_, text) = answer.map_err(|e| e.to_string())?;
        let mut answer: Value = serde_json::from_str(&text).map_err(|e| format!("{e}: {text}"))?;
        if answer["status"] == "success" {
            Ok(answer["data"].take())
        } else {
            Err(answer["error"].to_string())
        }
    }
}

impl Drop for Prometheus {
    /// Waits for the end of the process, since its folder is removed next.
    fn drop(&mut self) {
        drop(self.shell.stdin.take());
        let _ = self.shell.wait();
    }
}

fn log_of(folder: &Path) -> PathBuf {
    folder.join("prometheus.log")
}

fn free_address() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().to_string()
}

//! The machine and the versions of a measurement, without names of machines or users.

use std::{fs::read_to_string, path::Path};

use serde::Serialize;

#[derive(Debug, Serialize)]
pub struct Machine {
    pub cores: usize,
    pub cpu: String,
    pub memory_mib: u64,
    pub os: String,
    pub kernel: String,
    pub temporal_batch: &'static str,
    pub temporal_sdk: String,
    pub temporal_cli: String,
    /// The processes that were ready to run in the minute before. If it is much more than 0, the figures mean little.
    pub load_before: f64,
}

impl Machine {
    pub async fn look(cli: &Path) -> Self {
        let line = |path: &str, prefix: &str| {
            let text = read_to_string(path).unwrap_or_default();
            let found = text.lines().find_map(|line| line.strip_prefix(prefix));
            let value = found
                .unwrap_or_default()
                .trim_start_matches([' ', '\t', ':', '=']);
            value.trim().trim_matches('"').to_owned()
        };
        let memory = line("/proc/meminfo", "MemTotal");
        let memory = memory.trim_end_matches(" kB").parse::<u64>().unwrap_or(0);
        let load = read_to_string("/proc/loadavg").unwrap_or_default();
        let load = load.split(' ').next().and_then(|load| load.parse().ok());
        let version = tokio::process::Command::new(cli).arg("--version").output();
        let version = version.await.map(|out| out.stdout).unwrap_or_default();
        Self {
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            cpu: line("/proc/cpuinfo", "model name"),
            memory_mib: memory / 1024,
            os: line("/etc/os-release", "PRETTY_NAME"),
            kernel: read_to_string("/proc/sys/kernel/osrelease")
                .unwrap_or_default()
                .trim()
                .to_owned(),
            temporal_batch: env!("CARGO_PKG_VERSION"),
            temporal_sdk: locked_version("temporalio-sdk"),
            temporal_cli: String::from_utf8_lossy(&version).trim().to_owned(),
            load_before: load.unwrap_or(0.0),
        }
    }
}

fn locked_version(package: &str) -> String {
    let name = format!("name = \"{package}\"");
    let mut lines = include_str!("../../Cargo.lock").lines();
    let after = lines.by_ref().find(|line| *line == name);
    let version = after.and_then(|_| lines.next()?.strip_prefix("version = "));
    version.unwrap_or("unknown").trim_matches('"').to_owned()
}

//! Processor time of processes, from `/proc`. It is measured only on Linux.

use std::{collections::HashMap, fs, ops::Sub};

/// The unit in which Linux counts, on every machine that it runs on today.
const TICKS_PER_SECOND: f64 = 100.0;

/// The processor seconds of each kind of process.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cost {
    /// This process: the worker and the client, or the loop.
    pub worker: f64,
    pub server: f64,
    pub postgres: f64,
}

/// The processes that are measured.
#[derive(Clone, Copy, Debug)]
pub struct Processes {
    pub server: Option<u32>,
    pub postmaster: Option<u32>,
}

impl Processes {
    /// The processor seconds so far, including those of child processes.
    pub fn cost(&self) -> Cost {
        let all = all();
        let seconds = |pid: Option<u32>| pid.map_or(0.0, |pid| of_tree(pid, &all));
        let own = all.get(&std::process::id());
        Cost {
            worker: own.map_or(0.0, |process| process.own),
            server: seconds(self.server),
            postgres: seconds(self.postmaster),
        }
    }
}

struct Process {
    parent: u32,
    own: f64,
    /// The seconds of children that have ended.
    ended: f64,
}

fn of_tree(pid: u32, all: &HashMap<u32, Process>) -> f64 {
    let this = all
        .get(&pid)
        .map_or(0.0, |process| process.own + process.ended);
    let children = all.iter().filter(|(_, process)| process.parent == pid);
    this + children.map(|(child, _)| of_tree(*child, all)).sum::<f64>()
}

fn all() -> HashMap<u32, Process> {
    let folders = fs::read_dir("/proc").into_iter().flatten().flatten();
    folders
        .filter_map(|folder| {
            let pid: u32 = folder.file_name().to_str()?.parse().ok()?;
            let stat = fs::read_to_string(folder.path().join("stat")).ok()?;
            // The name may have any characters, even a parenthesis.
            let (_, fields) = stat.rsplit_once(')')?;
            let fields: Vec<_> = fields.split_whitespace().collect();
            let seconds = |at: usize| -> Option<f64> {
                let (user, system): (f64, f64) = (
                    fields.get(at)?.parse().ok()?,
                    fields.get(at + 1)?.parse().ok()?,
                );
                Some((user + system) / TICKS_PER_SECOND)
            };
            let process = Process {
                parent: fields.get(1)?.parse().ok()?,
                own: seconds(11)?,
                ended: seconds(13)?,
            };
            Some((pid, process))
        })
        .collect()
}

impl Cost {
    pub fn total(&self) -> f64 {
        self.worker + self.server + self.postgres
    }
}

impl Sub for Cost {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        Self {
            worker: self.worker - before.worker,
            server: self.server - before.server,
            postgres: self.postgres - before.postgres,
        }
    }
}

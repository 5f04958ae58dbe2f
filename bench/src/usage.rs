//! Resources used by a process: CPU time, context switches, bytes written.

use anyhow::Result;
use serde::{Deserialize, Serialize};

/// Resources used since the process began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Usage {
    /// CPU time in user space and in the kernel.
    pub(crate) cpu_seconds: f64,
    /// Voluntary and involuntary context switches.
    pub(crate) context_switches: f64,
    /// Bytes written by the logs, padding included.
    pub(crate) log_bytes: f64,
    /// Bytes of the commands in those.
    pub(crate) payload_bytes: f64,
}

impl Usage {
    /// Usage of this process and of the node in it.
    ///
    /// # Errors
    /// When /proc can't be read.
    pub(crate) fn now(node: &pontoon::Node) -> Result<Self> {
        let status = std::fs::read_to_string("/proc/self/stat")?;
        let ticks = process_ticks(&status).unwrap_or(0.0);
        let per_second = rustix::param::clock_ticks_per_second() as f64;
        let mut usage = Self {
            cpu_seconds: ticks / per_second,
            context_switches: switches()?,
            ..Self::default()
        };
        for core in node.statistics().wait().into_iter().flatten() {
            usage.log_bytes += core.log.bytes as f64;
            usage.payload_bytes += core.log.payload_bytes as f64;
        }
        Ok(usage)
    }

    /// The difference to an earlier measurement.
    pub(crate) fn since(self, earlier: Self) -> Self {
        Self {
            cpu_seconds: self.cpu_seconds - earlier.cpu_seconds,
            context_switches: self.context_switches - earlier.context_switches,
            log_bytes: self.log_bytes - earlier.log_bytes,
            payload_bytes: self.payload_bytes - earlier.payload_bytes,
        }
    }

    /// The sum over two processes.
    pub(crate) fn plus(self, other: Self) -> Self {
        Self {
            cpu_seconds: self.cpu_seconds + other.cpu_seconds,
            context_switches: self.context_switches + other.context_switches,
            log_bytes: self.log_bytes + other.log_bytes,
            payload_bytes: self.payload_bytes + other.payload_bytes,
        }
    }
}

/// utime and stime of proc_pid_stat(5), fields 14 and 15.
fn process_ticks(status: &str) -> Option<f64> {
    let (_, fields) = status.rsplit_once(')')?;
    let mut fields = fields.split_whitespace().skip(11);
    let user: f64 = fields.next()?.parse().ok()?;
    let system: f64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

/// Context switches of all threads: proc_pid_status(5) has one file per thread.
fn switches() -> Result<f64> {
    let mut sum = 0.0;
    for task in std::fs::read_dir("/proc/self/task")? {
        let Ok(status) = std::fs::read_to_string(task?.path().join("status")) else {
            continue;
        };
        let lines = status.lines().filter(|line| line.contains("ctxt_switches"));
        let counts = lines.filter_map(|line| line.split_whitespace().last()?.parse::<f64>().ok());
        sum += counts.sum::<f64>();
    }
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_read_behind_a_name_with_spaces_and_brackets() {
        let status = "7 (a (b) c) S 1 2 3 4 5 6 7 8 9 10 30 12 13 14";
        assert_eq!(process_ticks(status), Some(42.0));
    }
}

//! The figures of a run, as tables and as JSON.

use serde_json::{Value, json};

use crate::environment::Environment;
use crate::floor::{COMMANDS_LARGE, Floor, TABLE_HEADER};
use crate::output;
use crate::requests::Host;

/// Share by which the floor may move during a run before the report warns.
const FLOORS_DIFFER: f64 = 0.25;

/// A load and the cluster it ran on.
#[derive(Clone, Copy, Debug, serde::Serialize)]
pub(crate) struct LoadShape {
    pub(crate) nodes: u64,
    pub(crate) cores: u16,
    pub(crate) groups: u64,
    pub(crate) in_flight: usize,
    pub(crate) payload_bytes: usize,
    pub(crate) host: Host,
}

impl LoadShape {
    /// Its name in tables and file names.
    pub(crate) fn name(&self) -> String {
        let groups = if self.groups == 1 { "group" } else { "groups" };
        format!("{} {groups}, {} in flight", self.groups, self.in_flight)
    }
}

/// Figures of one load, the medians of its repetitions. Usage is the sum over all nodes.
#[derive(Clone, Debug)]
pub(crate) struct Measured {
    pub(crate) load: LoadShape,
    pub(crate) commits_per_second: f64,
    pub(crate) p50_us: f64,
    pub(crate) p90_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) p999_us: f64,
    pub(crate) max_us: f64,
    pub(crate) cpu_seconds: f64,
    pub(crate) cpu_us_per_commit: f64,
    pub(crate) context_switches: f64,
    pub(crate) bytes_written_per_payload_byte: f64,
    pub(crate) rejected: u64,
    pub(crate) unknown: u64,
}

/// The figures of one run of the benchmark.
pub(crate) struct Report {
    pub(crate) environment: Environment,
    /// The medians of all measurements of the floor.
    pub(crate) floor: Floor,
    pub(crate) floor_before: Floor,
    pub(crate) floor_after: Floor,
    pub(crate) runs: Vec<Measured>,
    /// Commands whose order and number were compared on all nodes.
    pub(crate) commands_checked: u64,
}

impl Report {
    /// p50 and p99 divided by the floor's, for a load with one proposal in flight.
    pub(crate) fn ratio_to_floor(&self, run: &Measured) -> Option<(f64, f64)> {
        let floor = &self.floor.bare_write;
        (run.load.in_flight == 1).then(|| (run.p50_us / floor.p50_us, run.p99_us / floor.p99_us))
    }

    /// Commits per second, as a share of the floor's with 256 commands in each round.
    pub(crate) fn share_of_floor(&self, run: &Measured) -> Option<f64> {
        let floor = COMMANDS_LARGE as f64 * self.floor.bare_write_256.rounds_per_second;
        (run.load.in_flight == COMMANDS_LARGE).then(|| run.commits_per_second / floor)
    }

    /// A line for each figure that differs by more than a quarter between the two floors.
    pub(crate) fn floors_differ(&self) -> Vec<String> {
        let (before, after) = (&self.floor_before, &self.floor_after);
        let pairs = [
            (
                "1 command, p50",
                before.bare_write.p50_us,
                after.bare_write.p50_us,
            ),
            (
                "256 commands, p50",
                before.bare_write_256.p50_us,
                after.bare_write_256.p50_us,
            ),
        ];
        let differ = |(_, one, other): &(&str, f64, f64)| {
            (one - other).abs() > FLOORS_DIFFER * one.min(*other)
        };
        let line = |(name, one, other): (&str, f64, f64)| {
            format!("{name}: {one:.0} µs before, {other:.0} µs after")
        };
        pairs.into_iter().filter(differ).map(line).collect()
    }

    /// The JSON that `--json` writes.
    pub(crate) fn json(&self) -> Value {
        let run = |run: &Measured| {
            let ratio = self.ratio_to_floor(run);
            json!({
                "load": run.load,
                "commits_per_second": run.commits_per_second,
                "latency_us": {
                    "p50": run.p50_us,
                    "p90": run.p90_us,
                    "p99": run.p99_us,
                    "p999": run.p999_us,
                    "max": run.max_us,
                },
                "ratio_to_floor": ratio.map(|(p50, p99)| json!({ "p50": p50, "p99": p99 })),
                "share_of_floor": self.share_of_floor(run),
                "cpu_seconds": run.cpu_seconds,
                "context_switches": run.context_switches,
                "bytes_written_per_payload_byte": run.bytes_written_per_payload_byte,
                "rejected": run.rejected,
                "unknown": run.unknown,
            })
        };
        json!({
            "environment": self.environment,
            "floor": self.floor,
            "floor_before": self.floor_before,
            "floor_after": self.floor_after,
            "runs": self.runs.iter().map(run).collect::<Vec<_>>(),
            "commands_checked": self.commands_checked,
        })
    }

    /// Prints the tables and the notes to standard output.
    pub(crate) fn print(&self) {
        output::say(&self.environment.line());
        output::table(&TABLE_HEADER, &self.floor.rows());
        output::table(&HEADER, &self.rows());
        for line in self.floors_differ() {
            output::say(&format!(
                "The floor moved by more than a quarter meanwhile ({line}): the ratios are weak."
            ));
        }
        output::say(&format!(
            "All replicas agree on {} commands; each was applied once, in order, on every node.",
            output::thousands(self.commands_checked as f64)
        ));
    }

    /// The rows of the table of loads.
    pub(crate) fn rows(&self) -> Vec<Vec<String>> {
        let row = |run: &Measured| {
            let ratios = match (self.ratio_to_floor(run), self.share_of_floor(run)) {
                (Some((p50, p99)), _) => format!("p50 {p50:.2} x, p99 {p99:.2} x"),
                (None, Some(share)) => format!("{share:.2} of it"),
                (None, None) => "-".to_owned(),
            };
            vec![
                run.load.name(),
                output::thousands(run.commits_per_second),
                format!("{:.0}", run.p50_us),
                format!("{:.0}", run.p90_us),
                format!("{:.0}", run.p99_us),
                format!("{:.0}", run.p999_us),
                format!("{:.0}", run.max_us),
                ratios,
                format!("{:.1}", run.cpu_us_per_commit),
                output::thousands(run.context_switches),
                format!("{:.2}", run.bytes_written_per_payload_byte),
            ]
        };
        self.runs.iter().map(row).collect()
    }
}

/// Column names of [`Report::rows`].
pub(crate) const HEADER: [&str; 11] = [
    "load",
    "commits/s",
    "p50 µs",
    "p90",
    "p99",
    "p99.9",
    "max",
    "to the floor",
    "CPU µs/entry",
    "switches",
    "bytes/byte",
];

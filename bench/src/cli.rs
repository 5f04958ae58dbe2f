//! The command line: one definition for help, environment variables and defaults.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::machine::PAYLOAD_BYTES_MIN;
use crate::requests::Host;

/// Measures Pontoon against the floor: the minimal replicated write of the same run.
#[derive(Debug, Parser)]
#[command(
    name = "pontoon-bench",
    version,
    args_conflicts_with_subcommands = true
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,

    #[command(flatten)]
    pub(crate) run: RunArguments,
}

/// The measurement to run.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// The floor, then loads over nodes with data on the disk, then the floor again (the default).
    Run(RunArguments),
    /// The floor alone.
    Floor(FloorArguments),
    /// Both hosts side by side, and a 1 kHz timer beside a loaded shard.
    Hosts(RunArguments),
    /// The log's writer alone, compared to plain durable writes.
    Storage(StorageArguments),
    /// A follower of the baseline; serves requests over its standard input.
    #[command(hide = true)]
    FloorFollower,
    /// A node under load; serves requests over its standard input.
    #[command(hide = true)]
    Node,
}

/// Directory of the data and file for the figures; common to all subcommands.
#[derive(Clone, Debug, Args)]
pub(crate) struct Places {
    /// Directory for the nodes' data, on the disk to be measured; everything made in it is removed
    /// afterwards. Needs O_DIRECT. [default: below target/]
    #[arg(long, value_name = "DIR", env = "PONTOON_BENCH_DATA")]
    pub(crate) data: Option<PathBuf>,

    /// Also write the figures as JSON.
    #[arg(long, value_name = "FILE", env = "PONTOON_BENCH_JSON")]
    pub(crate) json: Option<PathBuf>,
}

/// Arguments of `run` and `hosts`.
#[derive(Clone, Debug, Args)]
pub(crate) struct RunArguments {
    /// Nodes, each a process.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=9))]
    pub(crate) nodes: u64,

    /// Cores of each node.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub(crate) cores: u16,

    /// Groups the proposals go to in turn. [default: 1, 1 and 64, one load after the other]
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    pub(crate) groups: Option<u64>,

    /// Proposals outstanding in all. [default: 1, 256 and 256]
    #[arg(long, value_parser = in_flight)]
    pub(crate) in_flight: Option<usize>,

    /// Bytes of a command.
    #[arg(long, default_value_t = 256, value_parser = payload)]
    pub(crate) payload: usize,

    /// Seconds of each measurement.
    #[arg(long, default_value_t = 2.0, value_parser = positive)]
    pub(crate) seconds: f64,

    /// Open loop: proposals per second; a latency counts from when its proposal was due.
    /// [default: closed loop]
    #[arg(long, value_parser = positive)]
    pub(crate) rate: Option<f64>,

    /// What runs the cores.
    #[arg(long, value_enum, default_value_t = Host::Thread)]
    pub(crate) host: Host,

    /// Microseconds that a core polls before it waits in the kernel.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u64).range(0..=1_000_000))]
    pub(crate) spin_us: u64,

    #[command(flatten)]
    pub(crate) places: Places,
}

/// Arguments of `floor`.
#[derive(Clone, Debug, Args)]
pub(crate) struct FloorArguments {
    /// Seconds of each measurement.
    #[arg(long, default_value_t = 2.0, value_parser = positive)]
    pub(crate) seconds: f64,

    #[command(flatten)]
    pub(crate) places: Places,
}

/// Arguments of `storage`.
#[derive(Clone, Debug, Args)]
pub(crate) struct StorageArguments {
    /// Seconds that each side is measured, in each of the three repetitions.
    #[arg(long, default_value_t = 2.0, value_parser = positive)]
    pub(crate) seconds: f64,

    #[command(flatten)]
    pub(crate) places: Places,
}

fn in_flight(text: &str) -> Result<usize, String> {
    match text.parse::<usize>() {
        Ok(value) if (1..=16_384).contains(&value) => Ok(value),
        Ok(_) => Err("must be from 1 to 16384".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

fn payload(text: &str) -> Result<usize, String> {
    match text.parse::<usize>() {
        Ok(value) if (PAYLOAD_BYTES_MIN..=256 << 10).contains(&value) => Ok(value),
        Ok(_) => Err("must be from 8 bytes to 256 KiB".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

fn positive(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if value.is_finite() && value > 0.0 => Ok(value),
        Ok(_) => Err("must be greater than zero".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_is_sound() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn without_a_subcommand_everything_is_measured() {
        let cli = Cli::try_parse_from(["pontoon-bench", "--seconds", "0.5"]).expect("good flags");
        assert!(cli.command.is_none());
        assert!((cli.run.seconds - 0.5).abs() < f64::EPSILON);
    }

    #[test]
    fn a_time_that_is_not_positive_is_refused() {
        for seconds in ["0", "-1", "soon", "NaN"] {
            let parsed = Cli::try_parse_from(["pontoon-bench", "--seconds", seconds]);
            assert!(parsed.is_err(), "--seconds {seconds}");
        }
    }
}

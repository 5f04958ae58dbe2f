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
    /// Both hosts, the longest proposal of each, and 1 kHz timers beside loaded shards.
    Hosts(RunArguments),
    /// The log's writer alone, compared to plain durable writes.
    Storage(StorageArguments),
    /// What one slow peer takes from the groups that it has nothing to do with.
    SlowPeer(SlowPeerArguments),
    /// Long ways between the leader and its followers: does a group use its window?
    LongWay(LongWayArguments),
    /// How fast and with how many bytes a node that was down gets level, under load.
    CatchUp(CatchUpArguments),
    /// What the start of a node costs with many groups.
    GroupsRestart(GroupsRestartArguments),
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

/// Arguments of `slow-peer`.
#[derive(Clone, Debug, Args)]
pub(crate) struct SlowPeerArguments {
    /// Groups in all; every other one has a member on the slow peer.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(2..=10_000))]
    pub(crate) groups: u64,

    /// Bytes per second that the slow peer takes, and that it sends.
    #[arg(long, value_name = "BYTES", default_value_t = 300_000, value_parser = link())]
    pub(crate) link: u64,

    /// Proposals per second to the groups with a member on the slow peer.
    #[arg(long, default_value_t = 5_000.0, value_parser = positive)]
    pub(crate) rate: f64,

    /// Proposals outstanding in the other groups.
    #[arg(long, default_value_t = 64, value_parser = in_flight)]
    pub(crate) in_flight: usize,

    /// Bytes of a command.
    #[arg(long, default_value_t = 1_024, value_parser = payload)]
    pub(crate) payload: usize,

    /// Seconds of each of the eight measurements.
    #[arg(long, default_value_t = 3.0, value_parser = positive)]
    pub(crate) seconds: f64,

    #[command(flatten)]
    pub(crate) places: Places,
}

/// Arguments of `long-way`.
#[derive(Clone, Debug, Args)]
pub(crate) struct LongWayArguments {
    /// Milliseconds each way.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 20, 100, 300],
          value_parser = clap::value_parser!(u64).range(1..=5_000))]
    pub(crate) ways: Vec<u64>,

    /// `limits.in_flight_bytes_max` of the nodes, in MiB.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u64).range(1..=64))]
    pub(crate) window: u64,

    /// Seconds of each measurement.
    #[arg(long, default_value_t = 10.0, value_parser = positive)]
    pub(crate) seconds: f64,

    #[command(flatten)]
    pub(crate) places: Places,
}

/// Arguments of `catch-up`.
#[derive(Clone, Debug, Args)]
pub(crate) struct CatchUpArguments {
    /// Groups that the load goes to in turn.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    pub(crate) groups: u64,

    /// Bytes of commands that the node misses when it comes back.
    #[arg(long, value_name = "BYTES", default_value_t = 50_000_000,
          value_parser = clap::value_parser!(u64).range(1..=2_000_000_000))]
    pub(crate) behind: u64,

    /// Bytes per second of its link, in each direction.
    #[arg(long, value_name = "BYTES", default_value_t = 5_000_000, value_parser = link())]
    pub(crate) link: u64,

    /// Proposals per second of the load that goes on.
    #[arg(long, default_value_t = 1_000.0, value_parser = positive)]
    pub(crate) rate: f64,

    /// Bytes of a command.
    #[arg(long, default_value_t = 1_024, value_parser = payload)]
    pub(crate) payload: usize,

    /// Seconds after which a node that is not level has failed.
    #[arg(long, default_value_t = 120.0, value_parser = positive)]
    pub(crate) patience: f64,

    #[command(flatten)]
    pub(crate) places: Places,
}

/// Arguments of `groups-restart`.
#[derive(Clone, Debug, Args)]
pub(crate) struct GroupsRestartArguments {
    /// Nodes, each a process, that are all started again.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=9))]
    pub(crate) nodes: u64,

    /// Groups of the smaller of the two clusters; the other one has ten times as many.
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(1..=1_000))]
    pub(crate) groups: u64,

    /// Entries of each group.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=1_000))]
    pub(crate) entries: u64,

    #[command(flatten)]
    pub(crate) places: Places,
}

/// A link's bytes per second.
fn link() -> clap::builder::RangedU64ValueParser {
    clap::value_parser!(u64).range(1_000..=1_000_000_000)
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

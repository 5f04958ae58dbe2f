//! Baseline: the minimal replicated write, without an engine.
//!
//! One process is the leader and drives a plain ring, two others are followers. The leader sends
//! the bytes of an append to both and writes them itself at the same time; a round is complete when
//! two of three are durable. Nothing spins. The tables call these figures the floor: the latency of
//! an engine above them is the engine's own cost.

pub(crate) mod follower;
pub(crate) mod leader;

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result};
use pontoon::storage::SyncMethod;
use serde::{Deserialize, Serialize};

use self::follower::{FollowerReply, FollowerRequest, Message};
use self::leader::{Content, File, RoundsConfig, RoundsResult, durable_writes, run_rounds};
use crate::child::Child;
use crate::cli::FloorArguments;
use crate::data::{BLOCK_BYTES, DataDirectory, prepare_file, write_result};
use crate::environment::Environment;
use crate::histogram::{self, Latencies, median, percentile_us};
use crate::output;
use crate::placement;

/// Header bytes of a log frame, of a wire frame, of an append and of a record.
const FRAME_HEADER_BYTES: usize = 64;
const WIRE_HEADER_BYTES: usize = 32;
const HEAD_BYTES: usize = 96;
const RECORD_HEADER_BYTES: usize = 32;

/// Bytes of a segment, so that the file system's block lookup costs the same.
const FILE_BYTES: u64 = 64 << 20;

const FOLLOWERS: usize = 2;
const QUORUM: usize = 2;
const SYNC_TURNS: usize = 5;
const SYNC_SLICE: Duration = Duration::from_millis(40);
const PATIENCE: Duration = Duration::from_secs(60);

/// Commands of a large round.
pub(crate) const COMMANDS_LARGE: usize = 256;

/// Figures of rounds with the same number of commands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct RoundFigures {
    /// Median of a round, microseconds.
    pub(crate) p50_us: f64,
    /// 99th percentile of a round, microseconds.
    pub(crate) p99_us: f64,
    /// Rounds per second, one after the other.
    pub(crate) rounds_per_second: f64,
}

/// Percentiles of a latency, microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Percentiles {
    /// The median.
    pub(crate) p50: f64,
    /// The 99th percentile.
    pub(crate) p99: f64,
}

/// The baseline's figures.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Floor {
    /// The replicated write of one command.
    pub(crate) bare_write: RoundFigures,
    /// The replicated write of 256 commands.
    pub(crate) bare_write_256: RoundFigures,
    /// A round trip of 64 bytes; the leader parks in its ring, the follower in `read`.
    pub(crate) tcp_round_trip_us: Percentiles,
    /// A durable 4 KiB write on an otherwise idle disk.
    pub(crate) durable_write_us: Percentiles,
    /// The same by three processes at once, each to its own file.
    pub(crate) durable_write_three_us: Percentiles,
}

impl Floor {
    /// The medians of several measurements, figure by figure.
    pub(crate) fn median(measured: &[Self]) -> Self {
        let of = |figure: fn(&Self) -> f64| median(measured.iter().map(figure));
        Self {
            bare_write: RoundFigures {
                p50_us: of(|floor| floor.bare_write.p50_us),
                p99_us: of(|floor| floor.bare_write.p99_us),
                rounds_per_second: of(|floor| floor.bare_write.rounds_per_second),
            },
            bare_write_256: RoundFigures {
                p50_us: of(|floor| floor.bare_write_256.p50_us),
                p99_us: of(|floor| floor.bare_write_256.p99_us),
                rounds_per_second: of(|floor| floor.bare_write_256.rounds_per_second),
            },
            tcp_round_trip_us: Percentiles {
                p50: of(|floor| floor.tcp_round_trip_us.p50),
                p99: of(|floor| floor.tcp_round_trip_us.p99),
            },
            durable_write_us: Percentiles {
                p50: of(|floor| floor.durable_write_us.p50),
                p99: of(|floor| floor.durable_write_us.p99),
            },
            durable_write_three_us: Percentiles {
                p50: of(|floor| floor.durable_write_three_us.p50),
                p99: of(|floor| floor.durable_write_three_us.p99),
            },
        }
    }

    /// The rows of a table.
    pub(crate) fn rows(&self) -> Vec<Vec<String>> {
        let percentiles = |name: &str, of: &Percentiles| {
            let figures = [
                format!("{:.0}", of.p50),
                format!("{:.0}", of.p99),
                "-".to_owned(),
            ];
            [name.to_owned()].into_iter().chain(figures).collect()
        };
        let rounds = |name: &str, rounds: &RoundFigures| {
            vec![
                name.to_owned(),
                format!("{:.0}", rounds.p50_us),
                format!("{:.0}", rounds.p99_us),
                output::thousands(rounds.rounds_per_second),
            ]
        };
        vec![
            rounds("replicated write, 1 command", &self.bare_write),
            rounds("replicated write, 256 commands", &self.bare_write_256),
            percentiles("TCP round trip, 64 bytes", &self.tcp_round_trip_us),
            percentiles("durable write, 4 KiB", &self.durable_write_us),
            percentiles(
                "durable write, 4 KiB, three at once",
                &self.durable_write_three_us,
            ),
        ]
    }
}

/// Column names of [`Floor::rows`].
pub(crate) const TABLE_HEADER: [&str; 4] = ["floor", "p50 µs", "p99 µs", "rounds/s"];

/// The histograms that the floor's ratios come from.
pub(crate) struct FloorLatencies {
    /// Of `bare_write`.
    pub(crate) bare_write: Latencies,
    /// Of `bare_write_256`.
    pub(crate) bare_write_256: Latencies,
}

impl FloorLatencies {
    /// Empty histograms.
    pub(crate) fn new() -> Self {
        let (bare_write, bare_write_256) = (histogram::latencies(), histogram::latencies());
        Self {
            bare_write,
            bare_write_256,
        }
    }
}

/// The baseline's follower processes, its file and its listener.
pub(crate) struct Baseline {
    file: File,
    followers: Vec<Child>,
    listener: TcpListener,
    address: SocketAddr,
    /// The faster sync method on this disk.
    pub(crate) sync: SyncMethod,
    payload_bytes: usize,
}

impl Baseline {
    /// Starts the followers, prepares the files and measures which sync method is faster. Blocks
    /// for seconds.
    ///
    /// # Errors
    /// When a follower can't be started or a file can't be prepared.
    pub(crate) fn start(data: &DataDirectory, payload_bytes: usize) -> Result<Self> {
        let mut followers = Vec::new();
        for number in 1..=FOLLOWERS {
            let mut child = Child::spawn("floor-follower", format!("baseline follower {number}"))?;
            let path = data.path().join(format!("floor-{number}"));
            let _: FollowerReply = child.ask(
                &FollowerRequest::Prepare {
                    path,
                    bytes: FILE_BYTES,
                    processor: placement::processor_of(number, 0, 1),
                },
                PATIENCE,
            )?;
            followers.push(child);
        }
        let file = prepare_file(&data.path().join("floor-0"), FILE_BYTES)?;
        let listener = TcpListener::bind("127.0.0.1:0").context("listening for the followers")?;
        let address = listener.local_addr()?;
        let mut baseline = Self {
            file: File {
                file,
                bytes: FILE_BYTES,
            },
            followers,
            listener,
            address,
            sync: SyncMethod::WriteDsync,
            payload_bytes,
        };
        baseline.sync = baseline.faster_sync_method()?;
        Ok(baseline)
    }

    /// The sync method with the lower median, in turns so that a busy disk affects both.
    ///
    /// Not `pontoon::storage::measure_drive`: that prefers DSYNC unless fdatasync is faster by a
    /// margin, because a linked fdatasync costs the engine throughput. A baseline measured with
    /// the engine's preference would be slower than the disk allows and flatter the engine.
    fn faster_sync_method(&self) -> Result<SyncMethod> {
        let methods = [SyncMethod::WriteDsync, SyncMethod::WriteThenFdatasync];
        let mut samples = [Vec::new(), Vec::new()];
        for _ in 0..SYNC_TURNS {
            for (method, samples) in methods.iter().zip(&mut samples) {
                let slice = durable_writes(
                    &self.file,
                    *method,
                    BLOCK_BYTES,
                    Content::Unchanged,
                    SYNC_SLICE,
                )?;
                samples.push(percentile_us(&slice.latencies, 50.0));
            }
        }
        let [dsync, fdatasync] = samples.map(median);
        Ok(methods[usize::from(fdatasync < dsync)])
    }

    /// Measures every figure once, for `time` or half of it each, and adds the latencies to `all`.
    ///
    /// # Errors
    /// When a follower or the disk fails.
    pub(crate) fn measure(&mut self, time: Duration, all: &mut FloorLatencies) -> Result<Floor> {
        let one = self.replicated_writes(1, time)?;
        let large = self.replicated_writes(COMMANDS_LARGE, time)?;
        all.bare_write.add(&one.latencies)?;
        all.bare_write_256.add(&large.latencies)?;
        let short = time.div_f64(2.0);
        Ok(Floor {
            bare_write: RoundFigures::of(&one),
            bare_write_256: RoundFigures::of(&large),
            tcp_round_trip_us: Percentiles::of(&self.round_trips(short)?),
            durable_write_us: Percentiles::of(&self.durable_writes(short)?),
            durable_write_three_us: Percentiles::of(&self.durable_writes_of_three(short)?),
        })
    }

    fn replicated_writes(&mut self, commands: usize, time: Duration) -> Result<RoundsResult> {
        let message = append_of(commands, self.payload_bytes);
        let followers = self.connect(FOLLOWERS, message)?;
        let sync = self.sync;
        let file = Some(&self.file);
        let measured = run_rounds(RoundsConfig {
            file,
            sync,
            followers,
            message,
            quorum: QUORUM,
            content: Content::Unchanged,
            time,
        })?;
        self.wait_disconnected(FOLLOWERS)?;
        Ok(measured)
    }

    fn round_trips(&mut self, time: Duration) -> Result<Latencies> {
        let message = Message {
            message_bytes: 64,
            answer_bytes: 64,
            write_bytes: 0,
        };
        let followers = self.connect(1, message)?;
        let sync = self.sync;
        let measured = run_rounds(RoundsConfig {
            file: None,
            sync,
            followers,
            message,
            quorum: 1,
            content: Content::Unchanged,
            time,
        })?;
        self.wait_disconnected(1)?;
        Ok(measured.latencies)
    }

    fn durable_writes(&self, time: Duration) -> Result<Latencies> {
        Ok(durable_writes(&self.file, self.sync, BLOCK_BYTES, Content::Unchanged, time)?.latencies)
    }

    fn durable_writes_of_three(&mut self, time: Duration) -> Result<Latencies> {
        let (seconds, bytes, sync) = (time.as_secs_f64(), BLOCK_BYTES, self.sync);
        for follower in &mut self.followers {
            follower.send(&FollowerRequest::Write {
                seconds,
                bytes,
                sync,
            })?;
        }
        let mut latencies = self.durable_writes(time)?;
        for follower in &mut self.followers {
            if let FollowerReply::Written(buckets) = follower.receive(PATIENCE)? {
                buckets.add_to(&mut latencies);
            }
        }
        Ok(latencies)
    }

    fn connect(&mut self, count: usize, message: Message) -> Result<Vec<TcpStream>> {
        let (address, sync) = (self.address, self.sync);
        let mut sockets = Vec::new();
        for follower in &mut self.followers[..count] {
            follower.send(&FollowerRequest::Serve {
                address,
                message,
                sync,
            })?;
            let (socket, _) = self.listener.accept().context("accepting a follower")?;
            socket.set_nodelay(true)?;
            sockets.push(socket);
        }
        Ok(sockets)
    }

    fn wait_disconnected(&mut self, count: usize) -> Result<()> {
        for follower in &mut self.followers[..count] {
            let _: FollowerReply = follower.receive(PATIENCE)?;
        }
        Ok(())
    }
}

impl RoundFigures {
    fn of(result: &RoundsResult) -> Self {
        let Percentiles { p50, p99 } = Percentiles::of(&result.latencies);
        Self {
            p50_us: p50,
            p99_us: p99,
            rounds_per_second: result.rounds_per_second,
        }
    }
}

impl Percentiles {
    fn of(latencies: &Latencies) -> Self {
        Self {
            p50: percentile_us(latencies, 50.0),
            p99: percentile_us(latencies, 99.0),
        }
    }
}

/// Lengths of one append of `commands` commands: on the wire, acknowledged, and on disk.
fn append_of(commands: usize, payload_bytes: usize) -> Message {
    let record_bytes = (RECORD_HEADER_BYTES + payload_bytes).next_multiple_of(16);
    let records_bytes = commands * record_bytes;
    Message {
        message_bytes: WIRE_HEADER_BYTES + HEAD_BYTES + records_bytes,
        answer_bytes: WIRE_HEADER_BYTES + HEAD_BYTES,
        write_bytes: (FRAME_HEADER_BYTES + records_bytes).next_multiple_of(BLOCK_BYTES),
    }
}

/// Runs the subcommand `floor`.
pub(crate) fn run(arguments: &FloorArguments) -> Result<()> {
    let data = DataDirectory::create(arguments.places.data.as_deref())?;
    let mut baseline = Baseline::start(&data, 256)?;
    let progress = output::progress(3);
    let mut measured = Vec::new();
    let mut latencies = FloorLatencies::new();
    for repetition in 1..=3 {
        progress.set_message(format!("floor, repetition {repetition}"));
        let time = Duration::from_secs_f64(arguments.seconds);
        measured.push(baseline.measure(time, &mut latencies)?);
        progress.inc(1);
    }
    progress.finish_and_clear();
    let floor = Floor::median(&measured);
    let environment = Environment::of(data.path(), baseline.sync);
    output::say(&environment.line());
    output::table(&TABLE_HEADER, &floor.rows());
    if let Some(path) = &arguments.places.json {
        let json = serde_json::json!({ "environment": environment, "floor": floor });
        write_result(path, &serde_json::to_string_pretty(&json)?)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_append_of_one_command_fills_one_block_and_one_of_256_nineteen() {
        let one = append_of(1, 256);
        assert_eq!((one.message_bytes, one.write_bytes), (32 + 96 + 288, 4096));
        assert_eq!(append_of(256, 256).write_bytes, 19 * 4096);
    }
}

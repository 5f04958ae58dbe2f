//! The floor: the dance of a replicated write without an engine.
//!
//! One process plays the leader over a plain ring, two others are followers. The leader sends the
//! bytes of an append to both and writes them itself at the same time; a round is over when two
//! of three are durable. Nothing spins. What an engine adds to this is its own.

pub(crate) mod follower;
pub(crate) mod leader;

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use self::follower::{Answer, Message, Order};
use self::leader::{Content, Dance, Danced, File, dance, durable_writes};
use crate::child::Child;
use crate::cli::FloorArguments;
use crate::data::{BLOCK_BYTES, DataDirectory, prepare_file, write_result};
use crate::environment::Environment;
use crate::histogram::{self, Latencies, median, percentile_us};
use crate::output;
use crate::placement;

/// A log frame's header, and what precedes the records of an append on the wire.
const FRAME_HEADER_BYTES: usize = 64;
const WIRE_HEADER_BYTES: usize = 32;
const HEAD_BYTES: usize = 96;
const RECORD_HEADER_BYTES: usize = 32;

/// As large as a segment, so that the file system has as much to look up.
const FILE_BYTES: u64 = 64 << 20;

const FOLLOWERS: usize = 2;
const QUORUM: usize = 2;
const SYNC_TURNS: usize = 5;
const SYNC_SLICE: Duration = Duration::from_millis(40);
const PATIENCE: Duration = Duration::from_secs(60);

/// Commands of a large round.
pub(crate) const COMMANDS_LARGE: usize = 256;

/// How a write is made durable; the engine may choose between the same two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum SyncMethod {
    /// One operation with RWF_DSYNC.
    WriteDsync,
    /// A write and an fdatasync linked to it.
    WriteThenFdatasync,
}

/// Rounds of one kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Rounds {
    /// Median of a round, microseconds.
    pub(crate) p50_us: f64,
    /// 99th percentile of a round, microseconds.
    pub(crate) p99_us: f64,
    /// Rounds in a second, one after the other.
    pub(crate) rounds_per_second: f64,
}

/// Two percentiles, microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Pair {
    /// The median.
    pub(crate) p50: f64,
    /// The 99th percentile.
    pub(crate) p99: f64,
}

/// All that is measured without an engine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Floor {
    /// The replicated write of one command.
    pub(crate) bare_write: Rounds,
    /// The replicated write of 256 commands.
    pub(crate) bare_write_256: Rounds,
    /// 64 bytes there and back; the leader parks in its ring, the follower in `read`.
    pub(crate) tcp_round_trip_us: Pair,
    /// A durable 4 KiB write with nothing beside it.
    pub(crate) durable_write_us: Pair,
    /// The same by three processes at once, each to its own file.
    pub(crate) durable_write_three_us: Pair,
}

impl Floor {
    /// The median of several measurements, figure by figure.
    pub(crate) fn median(measured: &[Self]) -> Self {
        let of = |figure: fn(&Self) -> f64| median(measured.iter().map(figure));
        Self {
            bare_write: Rounds {
                p50_us: of(|floor| floor.bare_write.p50_us),
                p99_us: of(|floor| floor.bare_write.p99_us),
                rounds_per_second: of(|floor| floor.bare_write.rounds_per_second),
            },
            bare_write_256: Rounds {
                p50_us: of(|floor| floor.bare_write_256.p50_us),
                p99_us: of(|floor| floor.bare_write_256.p99_us),
                rounds_per_second: of(|floor| floor.bare_write_256.rounds_per_second),
            },
            tcp_round_trip_us: Pair {
                p50: of(|floor| floor.tcp_round_trip_us.p50),
                p99: of(|floor| floor.tcp_round_trip_us.p99),
            },
            durable_write_us: Pair {
                p50: of(|floor| floor.durable_write_us.p50),
                p99: of(|floor| floor.durable_write_us.p99),
            },
            durable_write_three_us: Pair {
                p50: of(|floor| floor.durable_write_three_us.p50),
                p99: of(|floor| floor.durable_write_three_us.p99),
            },
        }
    }

    /// The rows of a table.
    pub(crate) fn rows(&self) -> Vec<Vec<String>> {
        let pair = |name: &str, pair: &Pair| {
            let figures = [
                format!("{:.0}", pair.p50),
                format!("{:.0}", pair.p99),
                "-".to_owned(),
            ];
            [name.to_owned()].into_iter().chain(figures).collect()
        };
        let rounds = |name: &str, rounds: &Rounds| {
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
            pair("TCP round trip, 64 bytes", &self.tcp_round_trip_us),
            pair("durable write, 4 KiB", &self.durable_write_us),
            pair(
                "durable write, 4 KiB, three at once",
                &self.durable_write_three_us,
            ),
        ]
    }
}

/// The heading of the table of `Floor::rows`.
pub(crate) const TABLE_HEADER: [&str; 4] = ["floor", "p50 µs", "p99 µs", "rounds/s"];

/// The histograms behind a floor's ratios.
pub(crate) struct FloorLatencies {
    /// Of `bare_write`.
    pub(crate) bare_write: Latencies,
    /// Of `bare_write_256`.
    pub(crate) bare_write_256: Latencies,
}

impl FloorLatencies {
    /// Nothing measured yet.
    pub(crate) fn new() -> Self {
        let (bare_write, bare_write_256) = (histogram::latencies(), histogram::latencies());
        Self {
            bare_write,
            bare_write_256,
        }
    }
}

/// The processes and files of the floor.
pub(crate) struct Stage {
    file: File,
    followers: Vec<Child>,
    listener: TcpListener,
    address: SocketAddr,
    /// The faster of the two on this disk.
    pub(crate) sync: SyncMethod,
    payload_bytes: usize,
}

impl Stage {
    /// Starts the followers, prepares the files and measures which sync method is faster.
    pub(crate) fn set(data: &DataDirectory, payload_bytes: usize) -> Result<Self> {
        let mut followers = Vec::new();
        for number in 1..=FOLLOWERS {
            let mut child =
                Child::spawn("floor-follower", format!("follower {number} of the floor"))?;
            let path = data.path().join(format!("floor-{number}"));
            let _: Answer = child.ask(
                &Order::Prepare {
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
        let mut stage = Self {
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
        stage.sync = stage.faster_sync_method()?;
        Ok(stage)
    }

    /// Both in turns, so that a busy moment of the disk counts against neither.
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

    /// Measures everything once, `time` each.
    pub(crate) fn measure(&mut self, time: Duration, all: &mut FloorLatencies) -> Result<Floor> {
        let one = self.replicated_writes(1, time)?;
        let large = self.replicated_writes(COMMANDS_LARGE, time)?;
        all.bare_write.add(&one.latencies)?;
        all.bare_write_256.add(&large.latencies)?;
        let short = time.div_f64(2.0);
        Ok(Floor {
            bare_write: rounds(&one),
            bare_write_256: rounds(&large),
            tcp_round_trip_us: pair(&self.round_trips(short)?),
            durable_write_us: pair(&self.durable_writes(short)?),
            durable_write_three_us: pair(&self.durable_writes_of_three(short)?),
        })
    }

    fn replicated_writes(&mut self, commands: usize, time: Duration) -> Result<Danced> {
        let message = append_of(commands, self.payload_bytes);
        let followers = self.connect(FOLLOWERS, message)?;
        let sync = self.sync;
        let file = Some(&self.file);
        let danced = dance(Dance {
            file,
            sync,
            followers,
            message,
            quorum: QUORUM,
            content: Content::Unchanged,
            time,
        })?;
        self.disconnected(FOLLOWERS)?;
        Ok(danced)
    }

    fn round_trips(&mut self, time: Duration) -> Result<Latencies> {
        let message = Message {
            message_bytes: 64,
            answer_bytes: 64,
            write_bytes: 0,
        };
        let followers = self.connect(1, message)?;
        let sync = self.sync;
        let danced = dance(Dance {
            file: None,
            sync,
            followers,
            message,
            quorum: 1,
            content: Content::Unchanged,
            time,
        })?;
        self.disconnected(1)?;
        Ok(danced.latencies)
    }

    fn durable_writes(&self, time: Duration) -> Result<Latencies> {
        Ok(durable_writes(&self.file, self.sync, BLOCK_BYTES, Content::Unchanged, time)?.latencies)
    }

    fn durable_writes_of_three(&mut self, time: Duration) -> Result<Latencies> {
        let (seconds, bytes, sync) = (time.as_secs_f64(), BLOCK_BYTES, self.sync);
        for follower in &mut self.followers {
            follower.send(&Order::Write {
                seconds,
                bytes,
                sync,
            })?;
        }
        let mut latencies = self.durable_writes(time)?;
        for follower in &mut self.followers {
            if let Answer::Written(buckets) = follower.receive(PATIENCE)? {
                buckets.add_to(&mut latencies);
            }
        }
        Ok(latencies)
    }

    fn connect(&mut self, count: usize, message: Message) -> Result<Vec<TcpStream>> {
        let (address, sync) = (self.address, self.sync);
        let mut sockets = Vec::new();
        for follower in &mut self.followers[..count] {
            follower.send(&Order::Serve {
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

    fn disconnected(&mut self, count: usize) -> Result<()> {
        for follower in &mut self.followers[..count] {
            let _: Answer = follower.receive(PATIENCE)?;
        }
        Ok(())
    }
}

fn rounds(danced: &Danced) -> Rounds {
    let Pair { p50, p99 } = pair(&danced.latencies);
    Rounds {
        p50_us: p50,
        p99_us: p99,
        rounds_per_second: danced.rounds_per_second,
    }
}

fn pair(latencies: &Latencies) -> Pair {
    Pair {
        p50: percentile_us(latencies, 50.0),
        p99: percentile_us(latencies, 99.0),
    }
}

/// The bytes of one append of `commands` commands: on the wire, back, and on disk.
fn append_of(commands: usize, payload_bytes: usize) -> Message {
    let record_bytes = (RECORD_HEADER_BYTES + payload_bytes).next_multiple_of(16);
    let records_bytes = commands * record_bytes;
    Message {
        message_bytes: WIRE_HEADER_BYTES + HEAD_BYTES + records_bytes,
        answer_bytes: WIRE_HEADER_BYTES + HEAD_BYTES,
        write_bytes: (FRAME_HEADER_BYTES + records_bytes).next_multiple_of(BLOCK_BYTES),
    }
}

/// The subcommand `floor`.
pub(crate) fn run(arguments: &FloorArguments) -> Result<()> {
    let data = DataDirectory::create(arguments.places.data.as_deref())?;
    let mut stage = Stage::set(&data, 256)?;
    let progress = output::progress(3);
    let mut measured = Vec::new();
    let mut latencies = FloorLatencies::new();
    for repetition in 1..=3 {
        progress.set_message(format!("floor, repetition {repetition}"));
        let time = Duration::from_secs_f64(arguments.seconds);
        measured.push(stage.measure(time, &mut latencies)?);
        progress.inc(1);
    }
    progress.finish_and_clear();
    let floor = Floor::median(&measured);
    let environment = Environment::of(data.path(), stage.sync);
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

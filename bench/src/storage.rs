//! The log's writer alone, beside plain durable writes of the same size in the same run.
//!
//! One frame after the other, nothing else on the disk. All three writers use a plain parked ring
//! and the same sync method, and take turns every quarter of a second, so that a disk whose speed
//! drifts affects all of them. One plain writer repeats the same bytes, which the log is compared
//! to; the other writes new bytes each time, which is the least a log has to do.

use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use io_uring::{IoUring, types};
use pontoon::driver::uring::disk;
use pontoon::storage::{
    DiskOp, EntryId, FileVolume, GroupId, LogConfig, LogIdentity, LogIndex, RecordKind, SegmentLog,
    SyncMethod, Term, Volume,
};
use serde::Serialize;

use crate::cli::StorageArguments;
use crate::data::{BLOCK_BYTES, DataDirectory, prepare_file, write_result};
use crate::environment::Environment;
use crate::floor::Baseline;
use crate::floor::leader::{Content, File, durable_writes};
use crate::histogram::{self, Latencies, median, percentile_us};
use crate::output;

const REPETITIONS: usize = 3;
const SLICE: Duration = Duration::from_millis(250);
const GROUP: GroupId = GroupId(1);
const TERM: Term = Term(1);

/// Frame sizes and their records, chosen to fill the frame's blocks nearly.
const SMALL: Frame = Frame {
    bytes: BLOCK_BYTES,
    commands: 1,
    payload_bytes: 3_840,
};
const LARGE: Frame = Frame {
    bytes: 256 << 10,
    commands: 247,
    payload_bytes: 1_024,
};

/// Targets of the log's writer: p50 against plain writes at 4 KiB, bandwidth at 256 KiB.
const LATENCY_RATIO_MAX: f64 = 1.1;
const BANDWIDTH_RATIO_MIN: f64 = 0.9;

#[derive(Clone, Copy)]
struct Frame {
    bytes: usize,
    commands: usize,
    payload_bytes: usize,
}

/// Figures of one frame size, the medians of the repetitions.
#[derive(Clone, Copy, Debug, Serialize)]
struct Comparison {
    frame_bytes: usize,
    plain_p50_us: f64,
    plain_p99_us: f64,
    new_bytes_p50_us: f64,
    log_p50_us: f64,
    log_p99_us: f64,
    plain_megabytes_per_second: f64,
    new_bytes_megabytes_per_second: f64,
    log_megabytes_per_second: f64,
    p50_ratio: f64,
    bandwidth_ratio: f64,
    bandwidth_ratio_to_new_bytes: f64,
}

#[derive(Debug, Serialize)]
struct StorageReport {
    environment: Environment,
    storage: Vec<Comparison>,
}

/// Runs the subcommand `storage`.
pub(crate) fn run(arguments: &StorageArguments) -> Result<()> {
    let data = DataDirectory::create(arguments.places.data.as_deref())?;
    let sync = Baseline::start(&data, 256)?.sync;
    let config = LogConfig::new(LogIdentity {
        cluster: 1,
        node: 1,
        core: 0,
        cores: 1,
    });
    let bytes = config.segment_bytes;
    let plain = File {
        file: prepare_file(&data.path().join("plain"), bytes)?,
        bytes,
    };
    let mut log = Writer::open(&data, config, sync)?;
    let progress = output::progress((2 * REPETITIONS) as u64);
    let mut comparisons = Vec::new();
    for frame in [SMALL, LARGE] {
        let mut repetitions = Vec::new();
        for _ in 0..REPETITIONS {
            progress.set_message(format!("frames of {} KiB", frame.bytes >> 10));
            repetitions.push(compare(&plain, &mut log, frame, sync, arguments.seconds)?);
            progress.inc(1);
        }
        comparisons.push(median_of(frame, &repetitions));
    }
    progress.finish_and_clear();
    let environment = Environment::of(data.path(), sync);
    print(&environment, &comparisons);
    if let Some(path) = &arguments.places.json {
        let report = StorageReport {
            environment,
            storage: comparisons,
        };
        write_result(path, &serde_json::to_string_pretty(&report)?)?;
    }
    Ok(())
}

struct Side {
    latencies: Latencies,
    seconds: f64,
}

impl Side {
    fn new() -> Self {
        Self {
            latencies: histogram::latencies(),
            seconds: 0.0,
        }
    }

    fn add(&mut self, slice: &Latencies, seconds: f64) -> Result<()> {
        self.seconds += seconds;
        Ok(self.latencies.add(slice)?)
    }

    fn megabytes_per_second(&self, frame: Frame) -> f64 {
        self.latencies.len() as f64 * frame.bytes as f64 / self.seconds / 1e6
    }
}

/// Writes of one size by each of the three writers.
struct Sides {
    plain: Side,
    new_bytes: Side,
    log: Side,
}

fn compare(
    file: &File,
    log: &mut Writer,
    frame: Frame,
    sync: SyncMethod,
    seconds: f64,
) -> Result<Sides> {
    let mut sides = Sides {
        plain: Side::new(),
        new_bytes: Side::new(),
        log: Side::new(),
    };
    while sides.plain.seconds < seconds {
        for (side, content) in [
            (&mut sides.plain, Content::Unchanged),
            (&mut sides.new_bytes, Content::New),
        ] {
            let slice = durable_writes(file, sync, frame.bytes, content, SLICE)?;
            let seconds = slice.latencies.len() as f64 / slice.rounds_per_second;
            side.add(&slice.latencies, seconds)?;
        }
        let begun = Instant::now();
        let slice = log.write_for(frame, SLICE)?;
        sides.log.add(&slice, begun.elapsed().as_secs_f64())?;
        log.prepare_segments()?;
    }
    Ok(sides)
}

fn median_of(frame: Frame, repetitions: &[Sides]) -> Comparison {
    let of = |figure: &dyn Fn(&Sides) -> f64| median(repetitions.iter().map(figure));
    let p50 = |side: &Side| percentile_us(&side.latencies, 50.0);
    let p99 = |side: &Side| percentile_us(&side.latencies, 99.0);
    let bandwidth = |side: &Side| side.megabytes_per_second(frame);
    Comparison {
        frame_bytes: frame.bytes,
        plain_p50_us: of(&|sides| p50(&sides.plain)),
        plain_p99_us: of(&|sides| p99(&sides.plain)),
        new_bytes_p50_us: of(&|sides| p50(&sides.new_bytes)),
        log_p50_us: of(&|sides| p50(&sides.log)),
        log_p99_us: of(&|sides| p99(&sides.log)),
        plain_megabytes_per_second: of(&|sides| bandwidth(&sides.plain)),
        new_bytes_megabytes_per_second: of(&|sides| bandwidth(&sides.new_bytes)),
        log_megabytes_per_second: of(&|sides| bandwidth(&sides.log)),
        p50_ratio: of(&|sides| p50(&sides.log) / p50(&sides.plain)),
        bandwidth_ratio: of(&|sides| bandwidth(&sides.log) / bandwidth(&sides.plain)),
        bandwidth_ratio_to_new_bytes: of(&|sides| {
            bandwidth(&sides.log) / bandwidth(&sides.new_bytes)
        }),
    }
}

fn print(environment: &Environment, comparisons: &[Comparison]) {
    output::say(&environment.line());
    let header = [
        "frame",
        "plain p50 µs",
        "new bytes p50",
        "log p50 µs",
        "ratio",
        "plain p99 µs",
        "log p99 µs",
        "plain MB/s",
        "new bytes",
        "log MB/s",
        "share",
        "of new bytes",
    ];
    let row = |each: &Comparison| {
        vec![
            format!("{} KiB", each.frame_bytes >> 10),
            format!("{:.0}", each.plain_p50_us),
            format!("{:.0}", each.new_bytes_p50_us),
            format!("{:.0}", each.log_p50_us),
            format!("{:.2}", each.p50_ratio),
            format!("{:.0}", each.plain_p99_us),
            format!("{:.0}", each.log_p99_us),
            format!("{:.1}", each.plain_megabytes_per_second),
            format!("{:.1}", each.new_bytes_megabytes_per_second),
            format!("{:.1}", each.log_megabytes_per_second),
            format!("{:.2}", each.bandwidth_ratio),
            format!("{:.2}", each.bandwidth_ratio_to_new_bytes),
        ]
    };
    output::table(&header, &comparisons.iter().map(row).collect::<Vec<_>>());
    let small = comparisons[0].p50_ratio <= LATENCY_RATIO_MAX;
    let large = comparisons[1].bandwidth_ratio >= BANDWIDTH_RATIO_MIN;
    output::say(&format!(
        "4 KiB: p50 at most {LATENCY_RATIO_MAX} x plain: {}; 256 KiB: at least {:.0} % of the \
         plain bandwidth: {}",
        verdict(small),
        BANDWIDTH_RATIO_MIN * 100.0,
        verdict(large)
    ));
}

fn verdict(reached: bool) -> &'static str {
    if reached { "yes" } else { "NO" }
}

/// A segment log, and a driver for it that waits for every write.
struct Writer {
    ring: IoUring,
    sync: SyncMethod,
    log: SegmentLog,
    volume: FileVolume,
    index: u64,
    payload: Vec<u8>,
}

impl Writer {
    fn open(data: &DataDirectory, config: LogConfig, sync: SyncMethod) -> Result<Self> {
        let directory = data.subdirectory("log")?;
        let mut volume = FileVolume::open(&directory, config.segment_bytes)?;
        for slot in 0..2 {
            volume.prepare(slot)?;
        }
        let (mut log, _) = SegmentLog::open(&mut volume, config)?;
        log.create_group(GROUP, b"bench")?;
        let ring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .build(8)
            .context("creating an io_uring")?;
        let mut writer = Self {
            ring,
            sync,
            log,
            volume,
            index: 0,
            payload: Vec::new(),
        };
        writer.prepare_segments()?;
        Ok(writer)
    }

    /// Writes frames one after the other for `time`. A large frame is staged while the previous one
    /// is written, as a core does; the latency of a small one includes its staging.
    fn write_for(&mut self, frame: Frame, time: Duration) -> Result<Latencies> {
        self.payload = vec![0x5a; frame.payload_bytes];
        let mut latencies = histogram::latencies();
        let begun = Instant::now();
        self.stage(frame)?;
        let mut start = begun;
        while begun.elapsed() < time {
            self.write(Some(frame))?;
            histogram::record(&mut latencies, start.elapsed());
            start = Instant::now();
            if frame.commands == 1 {
                self.stage(frame)?;
            }
        }
        self.write(None)?;
        Ok(latencies)
    }

    fn last(&self) -> EntryId {
        EntryId::new(LogIndex(self.index), TERM)
    }

    fn stage(&mut self, frame: Frame) -> Result<()> {
        // Compacts everything before, so that the log recycles its segments as it does under a
        // state machine that keeps its own state.
        self.log.compact(GROUP, self.last());
        for _ in 0..frame.commands {
            self.index += 1;
            let kind = RecordKind::Command;
            let entry = self.last();
            self.log.append_command(GROUP, entry, kind, &self.payload)?;
        }
        Ok(())
    }

    /// Writes the staged frame, after a new segment's header where one is due. If `next` is a large
    /// frame, stages it while the write is in flight.
    fn write(&mut self, next: Option<Frame>) -> Result<()> {
        let mut next = next.filter(|frame| frame.commands > 1);
        let number = self.log.open_frame();
        while self.log.durable_frame() < number {
            match self.log.seal() {
                Some(write) => {
                    // Staging is free only once the frame itself is the write in flight.
                    let meanwhile = if self.log.staged() { None } else { next.take() };
                    self.carry_out(write, meanwhile)?;
                }
                None => self.prepare_segments()?,
            }
        }
        Ok(())
    }

    fn carry_out(&mut self, mut write: DiskOp, meanwhile: Option<Frame>) -> Result<()> {
        let id = write.id();
        let file = self
            .volume
            .file(write.slot())
            .context("a write to an unknown slot")?;
        let descriptor = types::Fd(file.as_raw_fd());
        let (first, linked) = disk::entries(&mut write, descriptor, self.sync, false);
        let operations = 1 + usize::from(linked.is_some());
        for entry in [Some(first), linked].into_iter().flatten() {
            // SAFETY: `write` owns the memory the entry points to and lives until all completions
            // are reaped below; the volume keeps the descriptor open.
            let pushed = unsafe { self.ring.submission().push(&entry) };
            assert!(pushed.is_ok(), "the ring is empty between writes");
        }
        self.ring.submit().context("io_uring_enter")?;
        let staged = meanwhile.map_or(Ok(()), |frame| self.stage(frame));
        let mut results = Vec::with_capacity(operations);
        while results.len() < operations {
            match self.ring.submit_and_wait(operations - results.len()) {
                Err(error) if error.raw_os_error() != Some(libc::EINTR) => {
                    // The write in flight still reads the log's memory, so it must not be freed.
                    panic!("io_uring_enter: {error}");
                }
                _ => results.extend(self.ring.completion().map(|each| each.result())),
            }
        }
        drop(write);
        staged?;
        let failed = results.iter().find(|&&result| result < 0);
        let outcome = match failed {
            Some(&result) => Err(-result),
            None => Ok(results.iter().map(|&result| result as usize).sum()),
        };
        Ok(self.log.on_complete(id, outcome)?)
    }

    fn prepare_segments(&mut self) -> Result<()> {
        while let Some(slot) = self.log.segments_wanted() {
            self.volume.prepare(slot)?;
            self.log.on_prepared(slot, true);
        }
        ensure!(
            self.log.segments().1 > 0,
            "the log has no segment left to write to"
        );
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_writer_fills_exactly_the_frames_it_is_compared_by() {
        let data = DataDirectory::create(None).unwrap();
        let identity = LogIdentity {
            cluster: 1,
            node: 1,
            core: 0,
            cores: 1,
        };
        let config = LogConfig::new(identity);
        let mut log = Writer::open(&data, config, SyncMethod::WriteDsync).unwrap();
        log.write_for(SMALL, Duration::from_millis(20)).unwrap();
        for frame in [SMALL, LARGE] {
            let before = log.log.statistics();
            log.payload = vec![0; frame.payload_bytes];
            log.stage(frame).unwrap();
            log.write(None).unwrap();
            let after = log.log.statistics();
            assert_eq!(after.bytes - before.bytes, frame.bytes as u64);
            // The end of a slab may part a large one in two.
            let frames = after.frames - before.frames;
            assert!((1..=2).contains(&frames), "{frames} frames");
        }
    }
}

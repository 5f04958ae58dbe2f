//! What suits the drive: how its writes are made durable, and how many at once. Measured when a
//! log is opened, because neither can be told from what a drive says of itself.

use std::io;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use crate::blocking;
use crate::disk::SyncMethod;
use crate::slab::{ReadBuffer, SlabPool};

/// Writes of each kind.
const SAMPLES: usize = 15;

/// How much of a DSYNC write's time a write with fdatasync may take to be preferred: where two
/// methods are near each other here, the threads of the kernel behind a linked fdatasync cost more
/// than they save (14 % of the throughput at 256 in flight on the machine this was tried on), and
/// where a drive is slow at DSYNC, it is slow by a factor.
const FDATASYNC_ADVANTAGE: f64 = 0.6;

/// Writes in flight that are tried against one.
const WRITES_IN_FLIGHT: usize = 3;

/// How many times the writes of one after the other must be done in the same time, for several
/// in flight to be worth smaller frames.
const IN_FLIGHT_ADVANTAGE: f64 = 1.5;

/// How to write to a drive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DriveMethod {
    /// How a write is made durable.
    pub sync: SyncMethod,
    /// How many writes are under way at once.
    pub writes_in_flight: usize,
}

/// Compares ways to write, on a prepared segment that holds nothing.
///
/// Writes zeros over its zeros, so the segment stays as it was. Blocks for some milliseconds.
///
/// # Errors
/// When the drive can't be written, or there is no memory for a block.
pub fn measure_drive(file: BorrowedFd<'_>, block_bytes: usize) -> io::Result<DriveMethod> {
    let pool = SlabPool::new(block_bytes, block_bytes)?;
    let zeros = pool
        .read_buffer(block_bytes)
        .expect("the pool has one slab");
    let sync = faster_sync(file, &zeros)?;
    let writes_in_flight = probe_write_concurrency(file, zeros.as_ref(), sync)?;
    Ok(DriveMethod {
        sync,
        writes_in_flight,
    })
}

/// One durable write of zeros to the given block, not counting the first; how long it took.
fn write(
    file: BorrowedFd<'_>,
    block: usize,
    zeros: &[u8],
    sync: SyncMethod,
) -> io::Result<Duration> {
    let offset = ((1 + block) * zeros.len()) as u64;
    let begun = Instant::now();
    blocking::write(file, offset, zeros, sync).map_err(io::Error::from_raw_os_error)?;
    Ok(begun.elapsed())
}

fn faster_sync(file: BorrowedFd<'_>, zeros: &ReadBuffer) -> io::Result<SyncMethod> {
    // In turns, so that a busy moment of the disk counts against neither.
    let (mut dsync, mut fdatasync) = (Vec::new(), Vec::new());
    for sample in 0..SAMPLES {
        let once = |sync| write(file, sample % 8, zeros.as_ref(), sync);
        dsync.push(once(SyncMethod::WriteDsync)?);
        fdatasync.push(once(SyncMethod::WriteThenFdatasync)?);
    }
    let (dsync, fdatasync) = (median(dsync), median(fdatasync));
    tracing::info!(?dsync, ?fdatasync, "durable write of one block");
    // A linked fdatasync costs a ring a thread of the kernel that a lone write does not need, which
    // these calls do not show: it must be clearly faster to be worth that.
    Ok(if dsync.mul_f64(FDATASYNC_ADVANTAGE) <= fdatasync {
        SyncMethod::WriteDsync
    } else {
        SyncMethod::WriteThenFdatasync
    })
}

/// How many writes in flight the drive rewards: one, if it works on one after the other.
fn probe_write_concurrency(
    file: BorrowedFd<'_>,
    zeros: &[u8],
    sync: SyncMethod,
) -> io::Result<usize> {
    let (mut alone, mut together) = (Vec::new(), Vec::new());
    for _ in 0..SAMPLES {
        alone.push(write(file, 0, zeros, sync)?);
        together.push(write_together(file, zeros, sync)?);
    }
    let (alone, together) = (median(alone), median(together));
    let advantage =
        alone.as_secs_f64() * WRITES_IN_FLIGHT as f64 / together.as_secs_f64().max(1e-9);
    tracing::info!(?alone, ?together, advantage, "several writes in flight");
    Ok(if advantage >= IN_FLIGHT_ADVANTAGE {
        WRITES_IN_FLIGHT
    } else {
        1
    })
}

/// How long the slowest of several writes takes that begin together.
fn write_together(file: BorrowedFd<'_>, zeros: &[u8], sync: SyncMethod) -> io::Result<Duration> {
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..WRITES_IN_FLIGHT)
            .map(|block| scope.spawn(move || write(file, block, zeros, sync)))
            .collect();
        let mut slowest = Duration::ZERO;
        for thread in threads {
            let took = thread
                .join()
                .map_err(|_| io::Error::other("a write panicked"))?;
            slowest = slowest.max(took?);
        }
        Ok(slowest)
    })
}

fn median(mut samples: Vec<Duration>) -> Duration {
    samples.sort_unstable();
    samples[samples.len() / 2]
}

//! The leader of the baseline: one plain ring, a socket to each follower, a prepared file.

use std::net::TcpStream;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use io_uring::{IoUring, cqueue, opcode, squeue, types};
use pontoon::storage::SyncMethod;

use super::follower::Message;
use crate::data::AlignedBytes;
use crate::histogram::{self, Latencies};
use crate::placement;

/// Most rounds a replica outside the quorum may lag; the next round waits for it then.
const LAG_ROUNDS_MAX: u64 = 4;

const RING_ENTRIES: u32 = 32;
const WRITE: u64 = 1;
const SYNC: u64 = 2;
const SEND: u64 = 0x100;
const RECEIVE: u64 = 0x200;

/// The leader's prepared file.
pub(crate) struct File {
    /// Open for direct I/O.
    pub(crate) file: OwnedFd,
    /// Its length, zero-written; writes start over at its end.
    pub(crate) bytes: u64,
}

/// Participants of a round, its bytes, and when it is complete.
pub(crate) struct RoundsConfig<'a> {
    /// The leader's own copy; `None` when only followers take part.
    pub(crate) file: Option<&'a File>,
    /// How each write is made durable.
    pub(crate) sync: SyncMethod,
    /// A connection to each follower.
    pub(crate) followers: Vec<TcpStream>,
    /// The lengths of a round's bytes.
    pub(crate) message: Message,
    /// Replicas that must have finished a round before it is complete.
    pub(crate) quorum: usize,
    /// Content of the writes. `New` requires a leader without followers.
    pub(crate) content: Content,
    /// Duration of the whole measurement.
    pub(crate) time: Duration,
}

/// Latencies and rate of the rounds.
pub(crate) struct RoundsResult {
    /// One latency per round, from its first send or write to its quorum.
    pub(crate) latencies: Latencies,
    /// Over the whole time.
    pub(crate) rounds_per_second: f64,
}

/// Runs rounds one after the other until the configured time is over.
///
/// # Errors
/// When a socket or the file fails, or a follower closes its connection.
pub(crate) fn run_rounds(config: RoundsConfig<'_>) -> Result<RoundsResult> {
    // On a thread of its own, so that nothing else of this process is pinned with it.
    std::thread::scope(|scope| {
        let leader = scope.spawn(|| {
            // A leader without followers is compared to the log's writer, which is not pinned.
            if !config.followers.is_empty() {
                placement::pin(placement::processor_of(0, 0, 1));
            }
            lead(config)
        });
        let led = leader.join();
        led.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn lead(config: RoundsConfig<'_>) -> Result<RoundsResult> {
    let time = config.time;
    let mut leader = Leader::new(config)?;
    let mut latencies = histogram::latencies();
    let begun = Instant::now();
    while begun.elapsed() < time {
        let start = Instant::now();
        leader.round()?;
        histogram::record(&mut latencies, start.elapsed());
        leader.wait_for_stragglers(LAG_ROUNDS_MAX)?;
    }
    let seconds = begun.elapsed().as_secs_f64();
    leader.wait_for_stragglers(0)?;
    Ok(RoundsResult {
        rounds_per_second: latencies.len() as f64 / seconds,
        latencies,
    })
}

/// Content of a plain write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    /// The same bytes in the same memory, never touched.
    Unchanged,
    /// New bytes in every write, filled in while the previous write is in flight, as any real log
    /// must. They cost the device more: it fetches them from the cache of the CPU that wrote them.
    New,
}

/// Writes `bytes` bytes durably to one file, one write after the other, for `time`.
///
/// # Errors
/// When a write fails or is short.
pub(crate) fn durable_writes(
    file: &File,
    sync: SyncMethod,
    bytes: usize,
    content: Content,
    time: Duration,
) -> Result<RoundsResult> {
    let message = Message {
        message_bytes: 0,
        answer_bytes: 0,
        write_bytes: bytes,
    };
    run_rounds(RoundsConfig {
        file: Some(file),
        sync,
        followers: Vec::new(),
        message,
        quorum: 1,
        content,
        time,
    })
}

struct Follower {
    socket: TcpStream,
    started: u64,
    send_in_flight: bool,
    sent_bytes: usize,
    receive_in_flight: bool,
    received_bytes: u64,
    answers: Vec<u8>,
}

/// Invariant: what the kernel may read or write (`bytes`, the followers' `answers`) is neither
/// moved nor freed while `in_flight > 0`; `drop` waits for that.
struct Leader<'a> {
    ring: IoUring,
    in_flight: usize,
    file: Option<&'a File>,
    sync: SyncMethod,
    offset: u64,
    write_started: u64,
    write_durable: u64,
    write_in_flight: bool,
    followers: Vec<Follower>,
    message: Message,
    quorum: usize,
    bytes: AlignedBytes,
    /// Buffer of the next round, for [`Content::New`].
    next: Option<AlignedBytes>,
    round: u64,
}

impl<'a> Leader<'a> {
    fn new(config: RoundsConfig<'a>) -> Result<Self> {
        let ring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .build(RING_ENTRIES)
            .context("creating an io_uring")?;
        let answers = vec![0; config.message.answer_bytes.max(1) * LAG_ROUNDS_MAX as usize];
        let followers = config.followers.into_iter().map(|socket| Follower {
            socket,
            started: 0,
            send_in_flight: false,
            sent_bytes: 0,
            receive_in_flight: false,
            received_bytes: 0,
            answers: answers.clone(),
        });
        let length = config.message.message_bytes.max(config.message.write_bytes);
        Ok(Self {
            ring,
            in_flight: 0,
            file: config.file,
            sync: config.sync,
            offset: 0,
            write_started: 0,
            write_durable: 0,
            write_in_flight: false,
            followers: followers.collect(),
            message: config.message,
            quorum: config.quorum,
            bytes: AlignedBytes::new(length, 3),
            next: (config.content == Content::New).then(|| AlignedBytes::new(length, 4)),
            round: 0,
        })
    }

    /// Runs one round. Everything goes out in one system call; it ends when a quorum is done.
    fn round(&mut self) -> Result<()> {
        self.round += 1;
        if let Some(next) = &mut self.next {
            ensure!(self.in_flight == 0, "new bytes are for a leader alone");
            std::mem::swap(&mut self.bytes, next);
        }
        while self.replicas_done(self.round) < self.quorum {
            self.turn()?;
        }
        Ok(())
    }

    fn wait_for_stragglers(&mut self, lag: u64) -> Result<()> {
        let replicas = self.followers.len() + usize::from(self.file.is_some());
        while self.replicas_done(self.round.saturating_sub(lag)) < replicas {
            self.turn()?;
        }
        Ok(())
    }

    fn replicas_done(&self, round: u64) -> usize {
        let answer_bytes = self.message.answer_bytes as u64;
        let followers = self.followers.iter();
        let followers = followers
            .filter(|each| each.received_bytes >= round * answer_bytes)
            .count();
        followers + usize::from(self.file.is_some() && self.write_durable >= round)
    }

    fn turn(&mut self) -> Result<()> {
        for number in 0..self.followers.len() {
            self.start_send(number)?;
        }
        let write_started = self.start_write()?;
        for number in 0..self.followers.len() {
            self.start_receive(number)?;
        }
        if write_started && let Some(next) = &mut self.next {
            self.ring.submit().context("io_uring_enter")?;
            next.as_mut_slice().fill(self.round as u8);
        }
        self.ring.submit_and_wait(1).context("io_uring_enter")?;
        loop {
            let completion = self.ring.completion().next();
            let Some(completion) = completion else {
                return Ok(());
            };
            self.in_flight -= 1;
            self.complete(&completion)?;
        }
    }

    fn start_send(&mut self, number: usize) -> Result<()> {
        let follower = &mut self.followers[number];
        let resumes = follower.sent_bytes > 0;
        if follower.send_in_flight || (!resumes && follower.started == self.round) {
            return Ok(());
        }
        follower.started += u64::from(!resumes);
        follower.send_in_flight = true;
        let rest = &self.bytes.as_slice()[follower.sent_bytes..self.message.message_bytes];
        let socket = types::Fd(follower.socket.as_raw_fd());
        let entry = opcode::Send::new(socket, rest.as_ptr(), rest.len() as u32)
            .flags(libc::MSG_NOSIGNAL)
            .build();
        self.push(&entry.user_data(SEND + number as u64))
    }

    fn start_receive(&mut self, number: usize) -> Result<()> {
        let follower = &mut self.followers[number];
        if follower.receive_in_flight {
            return Ok(());
        }
        follower.receive_in_flight = true;
        let place = &mut follower.answers;
        let socket = types::Fd(follower.socket.as_raw_fd());
        let entry = opcode::Recv::new(socket, place.as_mut_ptr(), place.len() as u32).build();
        self.push(&entry.user_data(RECEIVE + number as u64))
    }

    /// Queues this round's write. False if there is nothing to write now.
    fn start_write(&mut self) -> Result<bool> {
        let Some(file) = self.file else {
            return Ok(false);
        };
        if self.write_in_flight || self.write_started == self.round {
            return Ok(false);
        }
        let length = self.message.write_bytes;
        if self.offset + length as u64 > file.bytes {
            self.offset = 0;
        }
        let offset = self.offset;
        self.offset += length as u64;
        self.write_started += 1;
        self.write_in_flight = true;
        let descriptor = types::Fd(file.file.as_raw_fd());
        let write = opcode::Write::new(descriptor, self.bytes.as_slice().as_ptr(), length as u32)
            .offset(offset);
        match self.sync {
            SyncMethod::WriteDsync => {
                self.push(&write.rw_flags(libc::RWF_DSYNC).build().user_data(WRITE))?;
            }
            SyncMethod::WriteThenFdatasync => {
                let write = write.build().flags(squeue::Flags::IO_LINK).user_data(WRITE);
                self.push(&write)?;
                let sync = opcode::Fsync::new(descriptor).flags(types::FsyncFlags::DATASYNC);
                self.push(&sync.build().user_data(SYNC))?;
            }
        }
        Ok(true)
    }

    fn push(&mut self, entry: &squeue::Entry) -> Result<()> {
        // SAFETY: the entry points into `bytes` or `answers`, which by this type's invariant stay
        // where they are until its completion; its descriptors are open as long.
        let pushed = unsafe { self.ring.submission().push(entry) };
        ensure!(pushed.is_ok(), "the submission queue is full");
        self.in_flight += 1;
        Ok(())
    }

    fn complete(&mut self, completion: &cqueue::Entry) -> Result<()> {
        let result = completion.result();
        if result < 0 {
            bail!(
                "operation failed: {}",
                std::io::Error::from_raw_os_error(-result)
            );
        }
        let number = (completion.user_data() & 0xff) as usize;
        match completion.user_data() {
            WRITE => {
                let whole = result as usize == self.message.write_bytes;
                ensure!(
                    whole,
                    "a write of {} bytes wrote {result}",
                    self.message.write_bytes
                );
                if self.sync == SyncMethod::WriteDsync {
                    self.on_durable();
                }
            }
            SYNC => self.on_durable(),
            tag if tag & RECEIVE != 0 => {
                let follower = &mut self.followers[number];
                follower.receive_in_flight = false;
                follower.received_bytes += result as u64;
                ensure!(
                    result > 0,
                    "a follower of the baseline closed its connection"
                );
            }
            _ => {
                let follower = &mut self.followers[number];
                follower.send_in_flight = false;
                follower.sent_bytes += result as usize;
                if follower.sent_bytes == self.message.message_bytes {
                    follower.sent_bytes = 0;
                }
            }
        }
        Ok(())
    }

    fn on_durable(&mut self) {
        self.write_in_flight = false;
        self.write_durable += 1;
    }
}

impl Drop for Leader<'_> {
    fn drop(&mut self) {
        for follower in &self.followers {
            // Completes the pending receive, and ends the follower's loop.
            let _ = follower.socket.shutdown(std::net::Shutdown::Both);
        }
        while self.in_flight > 0 {
            if let Err(error) = self.ring.submit_and_wait(1) {
                assert_eq!(error.kind(), std::io::ErrorKind::Interrupted, "{error}");
            }
            self.in_flight -= self.ring.completion().count();
        }
    }
}

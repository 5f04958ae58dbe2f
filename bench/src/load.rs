//! The client: one thread in the leader's process, with so many proposals outstanding.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use futures_util::FutureExt;
use pontoon::{Group, Proposal, ProposeError};
use serde::{Deserialize, Serialize};

use crate::histogram::{self, Buckets, Latencies};
use crate::machine::command;

/// What is proposed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Load {
    /// To these groups in turn.
    pub(crate) groups: u64,
    /// Proposals outstanding, over all groups.
    pub(crate) in_flight: usize,
    /// Bytes of a command.
    pub(crate) payload_bytes: usize,
    /// Open loop: so many proposals a second, each due at its time.
    pub(crate) rate: Option<f64>,
    /// How long it is measured.
    pub(crate) seconds: f64,
    /// How long it runs before that.
    pub(crate) warmup_seconds: f64,
}

/// What came of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Loaded {
    /// Latencies of the acknowledged proposals of the measured time.
    pub(crate) latencies: Buckets,
    /// How many those are.
    pub(crate) commits: u64,
    /// The measured time.
    pub(crate) seconds: f64,
    /// Proposals certainly not in the log.
    pub(crate) rejected: u64,
    /// Proposals of unknown outcome.
    pub(crate) unknown: u64,
}

/// One group's proposals, numbered from 1.
#[derive(Debug)]
pub(crate) struct Line {
    pub(crate) group: Group,
    /// Number of the last command proposed.
    pub(crate) proposed: u64,
    /// Commands acknowledged.
    pub(crate) acknowledged: u64,
}

struct Client<'a> {
    lines: &'a mut [Line],
    next_line: usize,
    payload_bytes: usize,
    latencies: Latencies,
    commits: u64,
    rejected: u64,
    unknown: u64,
    measured_from: Instant,
}

/// Runs a load to its end.
pub(crate) fn run(load: &Load, lines: &mut [Line]) -> Result<Loaded> {
    let groups = usize::try_from(load.groups)?;
    ensure!(
        (1..=lines.len()).contains(&groups),
        "there are {} groups",
        lines.len()
    );
    let begun = Instant::now();
    let measured_from = begun + Duration::from_secs_f64(load.warmup_seconds);
    let end = measured_from + Duration::from_secs_f64(load.seconds);
    let mut client = Client {
        lines: &mut lines[..groups],
        next_line: 0,
        payload_bytes: load.payload_bytes,
        latencies: histogram::latencies(),
        commits: 0,
        rejected: 0,
        unknown: 0,
        measured_from,
    };
    match load.rate {
        None => futures_executor::block_on(client.closed_loop(load.in_flight, end)),
        Some(rate) => client.open_loop(rate, load.in_flight, begun, end),
    }
    Ok(Loaded {
        latencies: Buckets::from(&client.latencies),
        commits: client.commits,
        seconds: load.seconds,
        rejected: client.rejected,
        unknown: client.unknown,
    })
}

impl Client<'_> {
    fn propose(&mut self) -> (usize, Proposal) {
        let position = self.next_line;
        self.next_line = (position + 1) % self.lines.len();
        let line = &mut self.lines[position];
        line.proposed += 1;
        let proposal = line
            .group
            .propose(command(line.proposed, self.payload_bytes));
        (position, proposal)
    }

    fn answered(
        &mut self,
        line: usize,
        due: Instant,
        now: Instant,
        outcome: Result<(), &ProposeError>,
        end: Option<Instant>,
    ) {
        match outcome {
            Ok(()) => {
                self.lines[line].acknowledged += 1;
                let counts = end.is_none_or(|end| now < end);
                if due >= self.measured_from && counts {
                    self.commits += 1;
                    histogram::record(&mut self.latencies, now - due);
                }
            }
            Err(ProposeError::Rejected(_)) => self.rejected += 1,
            Err(_) => self.unknown += 1,
        }
    }

    /// Each answer brings the next proposal. Each group's are awaited in the order of its log.
    async fn closed_loop(&mut self, in_flight: usize, end: Instant) {
        let mut outstanding: Vec<VecDeque<(Instant, Proposal)>> = Vec::new();
        outstanding.resize_with(self.lines.len(), VecDeque::new);
        for _ in 0..in_flight {
            let due = Instant::now();
            let (line, proposal) = self.propose();
            outstanding[line].push_back((due, proposal));
        }
        poll_fn(|context| self.poll_answers(&mut outstanding, end, context)).await;
    }

    /// Takes the answers that are there, until none is outstanding.
    fn poll_answers(
        &mut self,
        outstanding: &mut [VecDeque<(Instant, Proposal)>],
        end: Instant,
        context: &mut Context<'_>,
    ) -> Poll<()> {
        let mut answered = true;
        while answered {
            answered = false;
            for line in 0..outstanding.len() {
                while let Some((due, proposal)) = outstanding[line].front_mut()
                    && let Poll::Ready(outcome) = proposal.poll_unpin(context)
                {
                    let now = Instant::now();
                    self.answered(line, *due, now, outcome.as_ref().map(drop), Some(end));
                    outstanding[line].pop_front();
                    answered = true;
                    if now < end {
                        let (line, proposal) = self.propose();
                        outstanding[line].push_back((now, proposal));
                    }
                }
            }
        }
        match outstanding.iter().all(VecDeque::is_empty) {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    }

    /// Proposals are due at their times, whether earlier ones are answered or not; each counts
    /// from when it was due, so that waiting is not left out. At most `in_flight` are outstanding:
    /// what is due beyond that goes when it can, and counts all the same.
    fn open_loop(&mut self, rate: f64, in_flight: usize, begun: Instant, end: Instant) {
        let interval = Duration::from_secs_f64(1.0 / rate);
        let mut outstanding: VecDeque<(usize, Instant, Proposal)> = VecDeque::new();
        let mut due = begun;
        while due < end || !outstanding.is_empty() {
            let now = Instant::now();
            while due <= now && due < end && outstanding.len() < in_flight {
                let (line, proposal) = self.propose();
                outstanding.push_back((line, due, proposal));
                due += interval;
            }
            let next = if due < end && outstanding.len() < in_flight {
                Some(due)
            } else {
                None
            };
            // Answers of one group come in the order of its log.
            let Some((line, proposed, mut proposal)) = outstanding.pop_front() else {
                std::thread::sleep(due.saturating_duration_since(Instant::now()));
                continue;
            };
            match wait_until(&mut proposal, next) {
                Some(outcome) => {
                    let now = Instant::now();
                    self.answered(line, proposed, now, outcome.as_ref().map(drop), None);
                }
                None => outstanding.push_front((line, proposed, proposal)),
            }
        }
    }
}

/// Waits for an outcome, but not beyond `limit`.
fn wait_until(proposal: &mut Proposal, limit: Option<Instant>) -> Option<pontoon::Outcome> {
    let Some(limit) = limit else {
        return Some(futures_executor::block_on(proposal));
    };
    let waker = std::sync::Arc::new(Unpark(std::thread::current()));
    let waker = std::task::Waker::from(waker);
    let mut context = std::task::Context::from_waker(&waker);
    loop {
        let polled = std::pin::Pin::new(&mut *proposal).poll(&mut context);
        if let std::task::Poll::Ready(outcome) = polled {
            return Some(outcome);
        }
        let left = limit.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return None;
        }
        std::thread::park_timeout(left);
    }
}

struct Unpark(std::thread::Thread);

impl std::task::Wake for Unpark {
    fn wake(self: std::sync::Arc<Self>) {
        self.0.unpark();
    }
}

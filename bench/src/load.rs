//! The load generator: one thread in the leader's process, with a fixed number of proposals in
//! flight (closed loop) or a fixed rate (open loop).

use std::collections::VecDeque;
use std::future::poll_fn;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{self, Poll};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures_util::FutureExt;
use pontoon::{Group, Proposal, ProposeError};
use serde::{Deserialize, Serialize};

use crate::histogram::{self, Buckets, Latencies};
use crate::machine::{PAYLOAD_BYTES_MIN, command};

/// How long a closed loop waits after a refusal.
const BACK_OFF: Duration = Duration::from_millis(1);

/// A load: the groups, the proposals in flight and their size.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Load {
    /// First of the groups that are proposed to in turn.
    pub(crate) first_group: u64,
    /// Their number.
    pub(crate) groups: u64,
    /// Proposals outstanding over all groups.
    pub(crate) in_flight: usize,
    /// Bytes of a command.
    pub(crate) payload_bytes: usize,
    /// Open loop: proposals per second, each due at its time. `None` for a closed loop.
    pub(crate) rate: Option<f64>,
    /// Seconds that are measured.
    pub(crate) seconds: f64,
    /// Seconds before that, which are not measured.
    pub(crate) warmup_seconds: f64,
}

/// Result of a load.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Loaded {
    /// Latencies of the acknowledged proposals of the measured time; of an open loop, also of those
    /// acknowledged later.
    pub(crate) latencies: Buckets,
    /// Number of proposals that were due and acknowledged in that time.
    pub(crate) commits: u64,
    /// Seconds that were measured.
    pub(crate) seconds: f64,
    /// Proposals certainly not in the log.
    pub(crate) rejected: u64,
    /// Why the first of them was rejected.
    pub(crate) first_rejection: Option<String>,
    /// Proposals of unknown outcome.
    pub(crate) unknown: u64,
}

/// The client of one group; it numbers its commands from 1.
#[derive(Debug)]
pub(crate) struct GroupClient {
    pub(crate) group: Group,
    /// Number of the last command proposed.
    pub(crate) proposed: u64,
    /// Commands acknowledged.
    pub(crate) acknowledged: u64,
}

struct LoadGenerator<'a> {
    clients: &'a mut [GroupClient],
    next_client: usize,
    payload_bytes: usize,
    latencies: Latencies,
    commits: u64,
    rejected: u64,
    first_rejection: Option<String>,
    unknown: u64,
    measured_from: Instant,
    /// Whether proposals have a time at which they are due.
    is_open: bool,
    /// Ends the load before its time.
    cut: &'a AtomicBool,
}

impl Load {
    /// Its groups' clients, out of those of all groups from 1.
    ///
    /// # Errors
    /// When there are not so many.
    pub(crate) fn range(&self, clients: usize) -> Result<Range<usize>> {
        let first = usize::try_from(self.first_group)?;
        let range = first - 1..first - 1 + usize::try_from(self.groups)?;
        ensure!(
            !range.is_empty() && range.end <= clients,
            "there are {clients} groups"
        );
        Ok(range)
    }
}

/// Runs a load to its end on the calling thread, with its groups' clients.
pub(crate) fn run(load: &Load, clients: &mut [GroupClient], cut: &AtomicBool) -> Loaded {
    let begun = Instant::now();
    let measured_from = begun + Duration::from_secs_f64(load.warmup_seconds);
    let end = measured_from + Duration::from_secs_f64(load.seconds);
    let mut generator = LoadGenerator {
        clients,
        next_client: 0,
        payload_bytes: load.payload_bytes,
        latencies: histogram::latencies(),
        commits: 0,
        rejected: 0,
        first_rejection: None,
        unknown: 0,
        measured_from,
        is_open: load.rate.is_some(),
        cut,
    };
    match load.rate {
        None => futures_executor::block_on(generator.closed_loop(load.in_flight, end)),
        Some(rate) => generator.open_loop(rate, load.in_flight, begun, end),
    }
    let ended = end.min(Instant::now());
    Loaded {
        latencies: Buckets::from(&generator.latencies),
        commits: generator.commits,
        seconds: ended.saturating_duration_since(measured_from).as_secs_f64(),
        rejected: generator.rejected,
        first_rejection: generator.first_rejection,
        unknown: generator.unknown,
    }
}

/// Proposes a number of small commands in each group, many groups at a time.
///
/// # Errors
/// When one is not applied.
pub(crate) fn fill(clients: &mut [GroupClient], entries: u64) -> Result<()> {
    const IN_FLIGHT: usize = 256;
    for _ in 0..entries {
        for clients in clients.chunks_mut(IN_FLIGHT) {
            let propose = |client: &mut GroupClient| {
                client.proposed += 1;
                let command = command(client.proposed, PAYLOAD_BYTES_MIN);
                client.group.propose(command)
            };
            let proposals: Vec<_> = clients.iter_mut().map(propose).collect();
            for (client, proposal) in clients.iter_mut().zip(proposals) {
                let group = client.group.id();
                let applied = proposal.wait();
                applied.with_context(|| format!("a command to group {group}"))?;
                client.acknowledged += 1;
            }
        }
    }
    Ok(())
}

impl LoadGenerator<'_> {
    fn propose(&mut self) -> (usize, Proposal) {
        let position = self.next_client;
        self.next_client = (position + 1) % self.clients.len();
        let client = &mut self.clients[position];
        client.proposed += 1;
        let proposal = client
            .group
            .propose(command(client.proposed, self.payload_bytes));
        (position, proposal)
    }

    fn answered(
        &mut self,
        client: usize,
        due: Instant,
        now: Instant,
        outcome: Result<(), &ProposeError>,
        end: Instant,
    ) {
        match outcome {
            Ok(()) => {
                self.clients[client].acknowledged += 1;
                let (measured, in_time) = (due >= self.measured_from, now < end);
                self.commits += u64::from(measured && in_time);
                if measured && (in_time || self.is_open) {
                    histogram::record(&mut self.latencies, now - due);
                }
            }
            Err(ProposeError::Rejected(reason)) => {
                self.rejected += 1;
                self.first_rejection
                    .get_or_insert_with(|| reason.to_string());
            }
            Err(_) => self.unknown += 1,
        }
    }

    /// Proposes once for each answer. Proposals of a group are awaited in the order of its log.
    async fn closed_loop(&mut self, in_flight: usize, end: Instant) {
        let mut outstanding: Vec<VecDeque<(Instant, Proposal)>> = Vec::new();
        outstanding.resize_with(self.clients.len(), VecDeque::new);
        for _ in 0..in_flight {
            let due = Instant::now();
            let (client, proposal) = self.propose();
            outstanding[client].push_back((due, proposal));
        }
        poll_fn(|context| self.poll_answers(&mut outstanding, end, context)).await;
    }

    /// Takes the answers that have arrived; ready once none is outstanding.
    fn poll_answers(
        &mut self,
        outstanding: &mut [VecDeque<(Instant, Proposal)>],
        end: Instant,
        context: &mut task::Context<'_>,
    ) -> Poll<()> {
        let mut answered = true;
        while answered {
            answered = false;
            let rejected = self.rejected;
            for client in 0..outstanding.len() {
                while let Some((due, proposal)) = outstanding[client].front_mut()
                    && let Poll::Ready(outcome) = proposal.poll_unpin(context)
                {
                    let now = Instant::now();
                    self.answered(client, *due, now, outcome.as_ref().map(drop), end);
                    outstanding[client].pop_front();
                    answered = true;
                    if now < end && !self.cut.load(Relaxed) {
                        let (client, proposal) = self.propose();
                        outstanding[client].push_back((now, proposal));
                    }
                }
            }
            if self.rejected > rejected {
                // Proposing at once what was refused would only take the processor from the core.
                std::thread::sleep(BACK_OFF);
            }
        }
        match outstanding.iter().all(VecDeque::is_empty) {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    }

    /// Proposes at a fixed rate, whether earlier proposals are answered or not. A latency counts
    /// from the time its proposal was due, so queueing is included (no coordinated omission). At
    /// most `in_flight` are outstanding; a proposal due beyond that waits, and its wait counts.
    fn open_loop(&mut self, rate: f64, in_flight: usize, begun: Instant, end: Instant) {
        let interval = Duration::from_secs_f64(1.0 / rate);
        let mut outstanding: VecDeque<(usize, Instant, Proposal)> = VecDeque::new();
        let (mut due, mut end) = (begun, end);
        while due < end || !outstanding.is_empty() {
            let now = Instant::now();
            if self.cut.load(Relaxed) {
                end = begun;
            }
            while due <= now && due < end && outstanding.len() < in_flight {
                let (client, proposal) = self.propose();
                outstanding.push_back((client, due, proposal));
                due += interval;
            }
            let next = if due < end && outstanding.len() < in_flight {
                Some(due)
            } else {
                None
            };
            // Answers of one group come in the order of its log.
            let Some((client, proposed, mut proposal)) = outstanding.pop_front() else {
                std::thread::sleep(due.saturating_duration_since(Instant::now()));
                continue;
            };
            match wait_until(&mut proposal, next) {
                Some(outcome) => {
                    let now = Instant::now();
                    self.answered(client, proposed, now, outcome.as_ref().map(drop), end);
                }
                None => outstanding.push_front((client, proposed, proposal)),
            }
        }
    }
}

/// Waits for an outcome until `limit`, or without end if that is `None`.
fn wait_until(proposal: &mut Proposal, limit: Option<Instant>) -> Option<pontoon::Outcome> {
    let Some(limit) = limit else {
        return Some(futures_executor::block_on(proposal));
    };
    let waker = std::sync::Arc::new(Unpark(std::thread::current()));
    let waker = task::Waker::from(waker);
    let mut context = task::Context::from_waker(&waker);
    loop {
        let polled = std::pin::Pin::new(&mut *proposal).poll(&mut context);
        if let Poll::Ready(outcome) = polled {
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

impl task::Wake for Unpark {
    fn wake(self: std::sync::Arc<Self>) {
        self.0.unpark();
    }
}

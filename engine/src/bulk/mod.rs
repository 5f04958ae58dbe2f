//! The bulk lane: work that may wait, off the cores. One thread accepts, dials and exchanges
//! hellos, and one for each core prepares its segments; each result is sent to the core that needs
//! it.

mod handshake;
mod handshakes;
mod pending;
mod prepare;
mod reactor;
mod refused;
mod turnstile;

use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded, unbounded};
use pontoon_raft::NodeId;
use pontoon_storage::{LogDirectory, PrepareError};
use pontoon_transport::Hello;
use rustix::event::{EventfdFlags, eventfd};

use crate::doorbell::Doorbell;
use crate::rate_limited::RateLimited;
use handshakes::Handshakes;
use prepare::SegmentPreparer;
use reactor::Reactor;
pub use refused::Refused;

/// What a core asks for. At most one of each kind per peer or slot is under way.
#[derive(Debug)]
pub(crate) enum BulkRequest {
    Dial { peer: NodeId },
    Prepare(WantedSegment),
}

/// A segment to be made, and where. The core may end meanwhile, or fail: its directory is given
/// back only when nobody works in it any more.
#[derive(Debug)]
pub(crate) struct WantedSegment {
    pub(crate) slot: u32,
    pub(crate) directory: LogDirectory,
}

/// What a core is told.
#[derive(Debug)]
pub(crate) enum BulkEvent {
    /// Hellos were exchanged; the stream is at its first frame.
    Connected {
        peer: NodeId,
        stream: TcpStream,
    },
    DialFailed {
        peer: NodeId,
    },
    /// A segment is ready, or could not be made.
    Prepared {
        slot: u32,
        file: Result<OwnedFd, PrepareError>,
    },
}

/// What a bulk lane needs to know of its node.
#[derive(Debug)]
pub struct BulkConfig {
    /// What this node says of itself; core and expected peer are filled in.
    pub hello: Hello,
    /// Where the node listens.
    pub listener: TcpListener,
    /// Where the other nodes are.
    pub peers: BTreeMap<NodeId, SocketAddr>,
    /// Bytes of a segment.
    pub segment_bytes: u64,
    /// A handshake that takes longer is given up, and so is a connection on which nothing sent is
    /// acknowledged for as long, five seconds at least.
    pub hello_deadline: Duration,
}

/// Most events that wait for a core when another accepted connection is handed to it.
const EVENTS_MAX: usize = 64;

/// A core's end of the lane. The channels are short by their use: a core asks for one dial per peer
/// and one segment at a time, and a connection that was accepted is refused while it takes none.
#[derive(Debug)]
pub struct BulkLink {
    core: u16,
    requests: Sender<(u16, BulkRequest)>,
    wake: Arc<OwnedFd>,
    events: Receiver<BulkEvent>,
}

impl BulkLink {
    pub(crate) fn request(&self, request: BulkRequest) {
        // A lane that has stopped answers nothing; so has the node, then.
        if self.requests.send((self.core, request)).is_ok() {
            wake(&self.wake);
        }
    }

    pub(crate) fn next_event(&self) -> Option<BulkEvent> {
        self.events.try_recv().ok()
    }

    /// Whether something waits to be taken.
    #[must_use]
    pub fn has_events(&self) -> bool {
        !self.events.is_empty()
    }
}

/// The way back to the cores.
#[derive(Clone, Debug)]
struct Cores {
    events: Vec<Sender<BulkEvent>>,
    doorbells: Vec<Arc<Doorbell>>,
}

impl Cores {
    /// Whether so little waits for a core that it may be given another connection.
    fn takes_connections(&self, core: u16) -> bool {
        self.events[usize::from(core)].len() < EVENTS_MAX
    }

    fn tell(&self, core: u16, event: BulkEvent) {
        let core = usize::from(core);
        if self.events[core].send(event).is_ok() {
            // Also when the core holds proposals back: a connection must not wait for the disk.
            self.doorbells[core].ring_always();
        }
    }
}

fn wake(eventfd: &OwnedFd) {
    // The counter can't overflow: it is read whenever it is not zero.
    let _ = rustix::io::write(eventfd, &1_u64.to_ne_bytes());
}

/// Longest wait for the threads of the lane: one may be in a call that a frozen file system holds.
const END_LIMIT: Duration = Duration::from_secs(5);

/// The threads of the lane. Dropping it stops and joins them at once, whatever they are doing; one
/// that hangs in the kernel is left behind.
#[derive(Debug)]
pub struct BulkLane {
    refused: Arc<Refused>,
    /// Dropped to stop the threads.
    running: Option<Sender<()>>,
    wake: Arc<OwnedFd>,
    threads: Vec<JoinHandle<()>>,
    /// Nothing is sent: it is disconnected when the last thread has ended.
    ended: Receiver<()>,
    ending: Option<Sender<()>>,
}

impl BulkLane {
    /// Starts listening; gives each core its link.
    ///
    /// # Errors
    /// If the system has no thread or descriptor left.
    pub fn start(
        config: BulkConfig,
        doorbells: &[Arc<Doorbell>],
    ) -> io::Result<(Self, Vec<BulkLink>)> {
        config.listener.set_nonblocking(true)?;
        let wake = Arc::new(eventfd(0, EventfdFlags::CLOEXEC)?);
        let (requests, incoming) = unbounded();
        let (events, receivers): (Vec<_>, Vec<_>) = doorbells.iter().map(|_| unbounded()).unzip();
        let cores = Cores {
            events,
            doorbells: doorbells.to_vec(),
        };
        let link = |(core, events)| BulkLink {
            core,
            requests: requests.clone(),
            wake: Arc::clone(&wake),
            events,
        };
        let links = (0_u16..).zip(receivers).map(link).collect();
        let (running, stopping) = bounded(0);
        let mut segments = Vec::new();
        let mut preparers = Vec::new();
        for (core, _) in (0..).zip(doorbells) {
            let (sender, wanted) = unbounded();
            segments.push(sender);
            preparers.push(SegmentPreparer {
                core,
                segment_bytes: config.segment_bytes,
                cores: cores.clone(),
                wanted,
                running: stopping.clone(),
            });
        }
        let refused = Arc::new(Refused::default());
        let handshakes = Handshakes {
            hello: config.hello,
            peers: config.peers,
            listener: config.listener,
            cores,
            refused: Arc::clone(&refused),
            hello_deadline: config.hello_deadline,
            turnstile: turnstile::Turnstile::default(),
            pending: Vec::new(),
            accept_at: None,
            lines: RateLimited::default(),
            started: std::time::Instant::now(),
        };
        let reactor = Reactor {
            handshakes,
            requests: incoming,
            segments,
            running: stopping,
            wake: Arc::clone(&wake),
        };
        let (ending, ended) = bounded(0);
        let mut lane = Self {
            refused,
            running: Some(running),
            wake,
            threads: Vec::new(),
            ended,
            ending: Some(ending),
        };
        lane.spawn("pontoon-reactor", move || reactor.run())?;
        for preparer in preparers {
            lane.spawn("pontoon-prepare", move || preparer.run())?;
        }
        Ok((lane, links))
    }

    fn spawn(&mut self, name: &str, run: impl FnOnce() + Send + 'static) -> io::Result<()> {
        let builder = std::thread::Builder::new().name(name.to_owned());
        let ending = self.ending.clone();
        let run = move || {
            run();
            drop(ending);
        };
        self.threads.push(builder.spawn(run)?);
        Ok(())
    }

    /// How many connections were refused, by reason.
    #[must_use]
    pub fn refused(&self) -> BTreeMap<&'static str, u64> {
        self.refused.counts()
    }
}

impl Drop for BulkLane {
    fn drop(&mut self) {
        self.running = None;
        self.ending = None;
        wake(&self.wake);
        if self.ended.recv_timeout(END_LIMIT) == Err(RecvTimeoutError::Timeout) {
            tracing::error!("a thread of the bulk lane hangs in a call for a file: left behind");
            return;
        }
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a thread of the bulk lane panicked");
            }
        }
    }
}

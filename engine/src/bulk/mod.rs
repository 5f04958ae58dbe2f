//! The bulk lane: whatever may wait runs here, off the cores. It accepts and dials, exchanges
//! hellos, and makes segments ready; what it brings about is handed to the core it is for.

mod connect;
mod prepare;
mod refused;

use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Sender, unbounded};
use pontoon_core::NodeId;
use pontoon_transport::Hello;

use crate::doorbell::Doorbell;
use connect::Lobby;
pub use refused::Refused;

/// What a core asks for. At most one of each kind per peer or slot is under way.
#[derive(Debug)]
pub(crate) enum BulkRequest {
    Dial { peer: NodeId },
    Prepare { slot: u32 },
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
        file: Option<OwnedFd>,
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
    /// Each core's directory of segments.
    pub directories: Vec<PathBuf>,
    /// Bytes of a segment.
    pub segment_bytes: u64,
}

/// A core's end of the lane. The channels are unbounded, and short by their use: a core asks for
/// one dial per peer and one segment at a time.
#[derive(Debug)]
pub struct BulkLink {
    core: u16,
    requests: Sender<(u16, BulkRequest)>,
    events: Receiver<BulkEvent>,
}

impl BulkLink {
    pub(crate) fn request(&self, request: BulkRequest) {
        // A lane that has stopped answers nothing; so has the node, then.
        let _ = self.requests.send((self.core, request));
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
    fn tell(&self, core: u16, event: BulkEvent) {
        let core = usize::from(core);
        if self.events[core].send(event).is_ok() {
            self.doorbells[core].ring();
        }
    }
}

/// The threads of the lane. Dropping it stops and joins them.
#[derive(Debug)]
pub struct BulkLane {
    lobby: Arc<Lobby>,
    requests: Option<Sender<(u16, BulkRequest)>>,
    threads: Vec<JoinHandle<()>>,
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
        let (requests, incoming) = unbounded();
        let (senders, receivers): (Vec<_>, Vec<_>) = doorbells.iter().map(|_| unbounded()).unzip();
        let cores = Cores {
            events: senders,
            doorbells: doorbells.to_vec(),
        };
        let link = |(core, events)| BulkLink {
            core,
            requests: requests.clone(),
            events,
        };
        let links = (0_u16..).zip(receivers).map(link).collect();
        let (segments, to_prepare) = unbounded();
        let preparing = prepare::Preparing {
            directories: config.directories,
            segment_bytes: config.segment_bytes,
            cores: cores.clone(),
        };
        let lobby = Arc::new(Lobby::new(config.hello, config.peers, cores)?);
        let mut lane = Self {
            lobby: Arc::clone(&lobby),
            requests: Some(requests),
            threads: Vec::new(),
        };
        let listener = config.listener;
        lane.spawn("listen", move || connect::listen(&lobby, &listener))?;
        let lobby = Arc::clone(&lane.lobby);
        lane.spawn("requests", move || serve(&incoming, &lobby, &segments))?;
        lane.spawn("prepare", move || preparing.run(&to_prepare))?;
        Ok((lane, links))
    }

    fn spawn(&mut self, name: &str, run: impl FnOnce() + Send + 'static) -> io::Result<()> {
        let builder = std::thread::Builder::new().name(format!("pontoon-{name}"));
        self.threads.push(builder.spawn(run)?);
        Ok(())
    }

    /// How many connections were refused, by reason.
    #[must_use]
    pub fn refused(&self) -> BTreeMap<&'static str, u64> {
        self.lobby.refused.counts()
    }
}

/// Hands requests on until every core, and the lane, have let go of their ends.
fn serve(
    incoming: &Receiver<(u16, BulkRequest)>,
    lobby: &Arc<Lobby>,
    segments: &Sender<(u16, u32)>,
) {
    for (core, request) in incoming {
        match request {
            BulkRequest::Dial { peer } => connect::dial(lobby, core, peer),
            BulkRequest::Prepare { slot } => {
                // The other end lives as long as this one.
                let _ = segments.send((core, slot));
            }
        }
    }
}

impl Drop for BulkLane {
    /// The links must be gone before, or their requests keep a thread alive.
    fn drop(&mut self) {
        self.lobby.close();
        self.requests = None;
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a thread of the bulk lane panicked");
            }
        }
        self.lobby.wait_until_empty();
    }
}

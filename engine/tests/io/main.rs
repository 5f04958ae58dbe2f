//! A core's driver and the bulk lane over real files, sockets and strangers.
#![allow(clippy::unwrap_used, reason = "a failed step of a test is its failure")]

mod dials;
mod exchange;
mod strangers;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pontoon::NodeId;
use pontoon::bulk::{BulkConfig, BulkLane};
use pontoon::doorbell::Doorbell;
use pontoon::driver::{Driver, UringConfig, UringDriver, Wait};
use pontoon::port::{Completion, Operation, SocketId};
use pontoon::storage::{
    EntryId, FileVolume, GroupId, LogConfig, LogIdentity, LogIndex, RecordKind, SegmentLog,
    SyncMethod, Term,
};
use pontoon::transport::{
    FORMAT_FINGERPRINT, Features, Hello, Purpose, WIRE_VERSION, WIRE_VERSION_MIN,
};

/// Nothing takes longer.
const PATIENCE: Duration = Duration::from_secs(60);

const SEGMENT_BYTES: u64 = 8 << 20;
const FRAME_BYTES_MAX: u32 = 1 << 20;

/// A directory on the disk that the build is on.
fn directory() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

fn listener() -> TcpListener {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap()
}

/// What a node of the cluster says to another.
fn hello(node: u64, expected_peer: u64) -> Hello {
    Hello {
        version_min: WIRE_VERSION_MIN,
        version_max: WIRE_VERSION,
        core: 0,
        cores: 1,
        cluster: 5,
        node,
        expected_peer,
        incarnation: 0,
        purpose: Purpose::Replication,
        features: Features::NONE,
        fingerprint: FORMAT_FINGERPRINT,
        frame_bytes_max: FRAME_BYTES_MAX,
    }
}

/// How a core is made.
struct Making<'a> {
    node: u64,
    directory: &'a Path,
    segment_bytes: u64,
    peers: BTreeMap<NodeId, SocketAddr>,
    sync: SyncMethod,
    ring_entries: u32,
    hello_deadline: Duration,
    /// Stands in for every segment.
    file: Option<&'a str>,
}

impl<'a> Making<'a> {
    fn new(node: u64, directory: &'a Path) -> Self {
        Self {
            node,
            directory,
            segment_bytes: SEGMENT_BYTES,
            peers: BTreeMap::new(),
            sync: SyncMethod::WriteDsync,
            ring_entries: 16,
            hello_deadline: Duration::from_secs(2),
            file: None,
        }
    }

    fn peer(mut self, peer: u64, address: SocketAddr) -> Self {
        self.peers.insert(NodeId(peer), address);
        self
    }

    fn make(self) -> Core {
        let listener = listener();
        let address = listener.local_addr().unwrap();
        let doorbell = Arc::new(Doorbell::new().unwrap());
        let config = BulkConfig {
            hello: hello(self.node, 0),
            listener,
            peers: self.peers,
            segment_bytes: self.segment_bytes,
            hello_deadline: self.hello_deadline,
        };
        let (lane, mut links) = BulkLane::start(config, &[Arc::clone(&doorbell)]).unwrap();
        let (log, volume) = open_log(self.node, self.directory, self.file);
        let driver = UringDriver::open(UringConfig {
            volume,
            sync: self.sync,
            arena: log.pool().arena(),
            bulk: links.remove(0),
            doorbell: Arc::clone(&doorbell),
            ring_entries: self.ring_entries,
        });
        Core {
            driver: driver.unwrap(),
            log,
            lane,
            doorbell,
            address,
            operations: Vec::new(),
            completions: Vec::new(),
        }
    }
}

fn open_log(node: u64, directory: &Path, file: Option<&str>) -> (SegmentLog, FileVolume) {
    use pontoon::storage::Volume;
    let mut volume = FileVolume::open(directory, SEGMENT_BYTES).unwrap();
    let config = LogConfig {
        segment_bytes: SEGMENT_BYTES,
        ..LogConfig::new(LogIdentity {
            cluster: 5,
            node,
            core: 0,
            cores: 1,
        })
    };
    let (mut log, _) = SegmentLog::open(&mut volume, config).unwrap();
    while let Some(slot) = log.segments_wanted() {
        volume.prepare(slot).unwrap();
        log.on_prepared(slot, true);
    }
    log.create_group(GroupId(1), b"").unwrap();
    if let Some(path) = file {
        for slot in volume.slots() {
            let file = std::fs::File::options().write(true).open(path).unwrap();
            volume.add(slot, file.into());
        }
    }
    (log, volume)
}

/// One core's driver and log, and the lane beside it.
struct Core {
    driver: UringDriver,
    log: SegmentLog,
    lane: BulkLane,
    doorbell: Arc<Doorbell>,
    address: SocketAddr,
    operations: Vec<Operation>,
    completions: Vec<Completion>,
}

impl Core {
    fn exchange(&mut self, wait: Wait) {
        let (operations, completions) = (&mut self.operations, &mut self.completions);
        self.driver.exchange(operations, completions, wait).unwrap();
    }

    /// Exchanges, as a host does, until a completion is there.
    fn next(&mut self) -> Completion {
        let deadline = Instant::now() + PATIENCE;
        while self.completions.is_empty() {
            assert!(Instant::now() < deadline, "nothing completes");
            self.doorbell.park();
            let wait = if self.driver.has_events() {
                Wait::No
            } else {
                Wait::For(PATIENCE)
            };
            self.exchange(wait);
            self.doorbell.unpark();
        }
        self.completions.remove(0)
    }

    fn append(&mut self, index: u64, payload: &[u8]) {
        let kind = RecordKind::Command;
        let entry = EntryId::new(LogIndex(index), Term(1));
        self.log
            .append_command(GroupId(1), entry, kind, payload)
            .unwrap();
    }

    /// The result of the log's next write.
    fn write(&mut self) -> Result<usize, i32> {
        let write = self.log.seal().unwrap();
        self.operations.push(Operation::Disk(write));
        let Completion::Written { id, result } = self.next() else {
            panic!("a write was submitted");
        };
        let _ = self.log.on_complete(id, result);
        result
    }

    fn connected(&mut self, expected: u64) -> SocketId {
        match self.next() {
            Completion::Connected { peer, socket } if peer.0 == expected => socket,
            other => panic!("not connected to {expected}: {other:?}"),
        }
    }

    fn refused(&self, reason: &str) -> u64 {
        self.lane.refused().get(reason).copied().unwrap_or(0)
    }

    /// Refusals are counted a moment after the connection is closed.
    fn wait_for_refusals(&self, reason: &str, count: u64) {
        wait_until(
            || self.refused(reason) >= count,
            || format!("{reason}: {:?}", self.lane.refused()),
        );
        assert_eq!(self.refused(reason), count, "{:?}", self.lane.refused());
    }
}

fn wait_until(condition: impl Fn() -> bool, message: impl Fn() -> String) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "{}", message());
        std::thread::yield_now();
    }
}

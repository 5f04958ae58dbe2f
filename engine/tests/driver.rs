//! The driver over real files and sockets.
#![allow(clippy::unwrap_used, reason = "a failed step of a test is its failure")]

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use pontoon::NodeId;
use pontoon::bulk::{BulkConfig, BulkLane, BulkLink};
use pontoon::doorbell::Doorbell;
use pontoon::driver::{Driver, UringConfig, UringDriver, Wait};
use pontoon::port::{Completion, Operation, SocketId};
use pontoon::storage::{
    CacheRead, EntryId, FileVolume, GroupId, LogConfig, LogIdentity, LogIndex, OpenError,
    RecordBytes, RecordKind, SegmentLog, SyncMethod, Term, Volume, segment_path,
};
use pontoon::transport::{
    Connection, FORMAT_FINGERPRINT, Features, FrameLimits, Head, Hello, Purpose, WIRE_VERSION,
    WIRE_VERSION_MIN,
};

const LIMIT: Wait = Wait::For(Duration::from_secs(60));

fn hello(node: u64) -> Hello {
    Hello {
        version_min: WIRE_VERSION_MIN,
        version_max: WIRE_VERSION,
        core: 0,
        cores: 1,
        cluster: 5,
        node,
        expected_peer: 0,
        incarnation: 0,
        purpose: Purpose::Replication,
        features: Features::NONE,
        fingerprint: FORMAT_FINGERPRINT,
        frame_bytes_max: 1 << 20,
    }
}

/// One core's driver with a log, and the lane beside it.
struct Bench {
    driver: UringDriver,
    log: SegmentLog,
    doorbell: Arc<Doorbell>,
    operations: Vec<Operation>,
    completions: Vec<Completion>,
    // Last, so that the links are gone before it.
    _lane: BulkLane,
}

fn lane(
    node: u64,
    listener: TcpListener,
    peers: BTreeMap<NodeId, SocketAddr>,
) -> (BulkLane, BulkLink, Arc<Doorbell>) {
    let doorbell = Arc::new(Doorbell::new().unwrap());
    let config = BulkConfig {
        hello_deadline: Duration::from_secs(2),
        hello: hello(node),
        listener,
        peers,
        segment_bytes: 8 << 20,
    };
    let (lane, mut links) = BulkLane::start(config, &[Arc::clone(&doorbell)]).unwrap();
    (lane, links.remove(0), doorbell)
}

impl Bench {
    fn new(node: u64, directory: &Path, sync: SyncMethod, entries: u32) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        Self::with_peers(node, directory, sync, entries, listener, BTreeMap::new())
    }

    fn with_peers(
        node: u64,
        directory: &Path,
        sync: SyncMethod,
        ring_entries: u32,
        listener: TcpListener,
        peers: BTreeMap<NodeId, SocketAddr>,
    ) -> Self {
        let (lane, bulk, doorbell) = lane(node, listener, peers);
        let mut volume = FileVolume::open(directory, 8 << 20).unwrap();
        let config = LogConfig {
            segment_bytes: 8 << 20,
            cache_bytes: 1 << 20,
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
        let driver = UringDriver::open(UringConfig {
            volume,
            sync,
            arena: log.pool().arena(),
            bulk,
            doorbell: Arc::clone(&doorbell),
            ring_entries,
        });
        Self {
            driver: driver.unwrap(),
            log,
            doorbell,
            operations: Vec::new(),
            completions: Vec::new(),
            _lane: lane,
        }
    }

    /// Exchanges until a completion is there.
    fn next(&mut self) -> Completion {
        for _ in 0..1000 {
            if !self.completions.is_empty() {
                return self.completions.remove(0);
            }
            self.doorbell.park();
            let wait = if self.driver.has_events() {
                Wait::No
            } else {
                LIMIT
            };
            self.driver
                .exchange(&mut self.operations, &mut self.completions, wait)
                .unwrap();
            self.doorbell.unpark();
        }
        panic!("nothing completes");
    }

    fn append(&mut self, index: u64, payload: &[u8]) {
        let kind = RecordKind::Command;
        let entry = EntryId::new(LogIndex(index), Term(1));
        self.log
            .append_command(GroupId(1), entry, kind, payload)
            .unwrap();
    }

    fn write_all(&mut self) {
        while let Some(operation) = self.log.seal() {
            self.operations.push(Operation::Disk(operation));
            let Completion::Written { id, result } = self.next() else {
                panic!("a write was submitted");
            };
            self.log.on_complete(id, result).unwrap();
        }
    }
}

fn written_is_read_back(sync: SyncMethod) {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let mut bench = Bench::new(1, directory.path(), sync, 8);
    let payload = |index: u64| index.to_le_bytes().repeat(30_000);
    for index in 1..=40 {
        bench.append(index, &payload(index));
        bench.write_all();
    }
    let mut pieces = Vec::new();
    let first = LogIndex(1);
    let cached = bench.log.cached(GroupId(1), first..=first, 1, &mut pieces);
    assert_eq!(cached, CacheRead::Miss, "9.6 MB do not fit the cache");
    let read = bench.log.read(GroupId(1), first..=first, 1).unwrap();
    bench.operations.push(Operation::Disk(read));
    let Completion::Read { id, buffer, result } = bench.next() else {
        panic!("a read was submitted");
    };
    let records = bench.log.on_read(id, buffer, result).unwrap();
    assert!(records.as_ref().ends_with(&payload(1)));
}

#[test]
fn what_was_written_with_dsync_is_read_back() {
    written_is_read_back(SyncMethod::WriteDsync);
}

#[test]
fn what_was_written_and_synced_is_read_back() {
    written_is_read_back(SyncMethod::WriteThenFdatasync);
}

#[test]
fn a_segment_that_can_t_be_made_ready_is_told_and_one_that_can_is_usable() {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let mut bench = Bench::new(1, directory.path(), SyncMethod::WriteDsync, 8);
    // A directory where the file should go.
    std::fs::create_dir(directory.path().join("preparing-0007")).unwrap();
    bench.operations.push(Operation::Prepare { slot: 7 });
    let Completion::Prepared { slot: 7, ready } = bench.next() else {
        panic!("a segment was asked for");
    };
    assert!(!ready);
    bench.operations.push(Operation::Prepare { slot: 8 });
    assert!(matches!(
        bench.next(),
        Completion::Prepared {
            slot: 8,
            ready: true
        }
    ));
}

#[test]
fn a_wait_ends_when_the_doorbell_rings_and_takes_one_system_call() {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let mut bench = Bench::new(1, directory.path(), SyncMethod::WriteDsync, 8);
    bench.doorbell.park();
    let doorbell = Arc::clone(&bench.doorbell);
    let ringer = std::thread::spawn(move || doorbell.ring());
    let before = bench.driver.statistics().enters;
    bench
        .driver
        .exchange(&mut bench.operations, &mut bench.completions, LIMIT)
        .unwrap();
    assert_eq!(bench.driver.statistics().enters, before + 1);
    ringer.join().unwrap();
    assert!(bench.completions.is_empty());
}

fn limits() -> FrameLimits {
    FrameLimits {
        frame_bytes_max: 1 << 20,
        receive_ahead_bytes: 64 << 10,
    }
}

/// Two drivers that have found each other: dialler and acceptor, with their sockets.
fn connected(directory: &Path) -> [(Bench, SocketId); 2] {
    let listeners: Vec<_> = (0..2)
        .map(|_| TcpListener::bind("127.0.0.1:0").unwrap())
        .collect();
    let addresses: Vec<_> = listeners.iter().map(|l| l.local_addr().unwrap()).collect();
    let mut benches = Vec::new();
    for (node, listener) in (1_u64..).zip(listeners) {
        let peer = NodeId(3 - node);
        let peers = BTreeMap::from([(peer, addresses[peer.0 as usize - 1])]);
        let own = directory.join(node.to_string());
        let sync = SyncMethod::WriteDsync;
        benches.push(Bench::with_peers(node, &own, sync, 2, listener, peers));
    }
    let mut acceptor = benches.remove(1);
    let mut dialler = benches.remove(0);
    dialler.operations.push(Operation::Dial { peer: NodeId(2) });
    let Completion::Connected { peer, socket } = dialler.next() else {
        panic!("node 2 listens");
    };
    assert_eq!(peer, NodeId(2));
    // The acceptor is given the connection once something was said on it.
    let mut said: Connection<RecordBytes> = Connection::new(limits());
    said.ping(1);
    let batch = said.send().unwrap();
    dialler.operations.push(Operation::Send { socket, batch });
    assert!(matches!(dialler.next(), Completion::Sent { .. }));
    let Completion::Connected {
        peer,
        socket: accepted,
    } = acceptor.next()
    else {
        panic!("node 1 has dialled");
    };
    assert_eq!(peer, NodeId(1));
    let mut heard: Connection<RecordBytes> = Connection::new(limits());
    let buffer = heard.receive().unwrap();
    acceptor.operations.push(Operation::Receive {
        socket: accepted,
        buffer,
    });
    assert!(matches!(acceptor.next(), Completion::Received { .. }));
    [(dialler, socket), (acceptor, accepted)]
}

#[test]
fn a_frame_of_a_hundred_pieces_crosses_two_rings_of_two_entries() {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let [(mut dialler, socket), (mut acceptor, accepted)] = connected(directory.path());
    let mut sender: Connection<RecordBytes> = Connection::new(limits());
    let mut expected = Vec::new();
    sender.push_head(&Head {
        group: 77,
        count: 100,
        ..Head::default()
    });
    for index in 1..=100 {
        dialler.append(index, &[index as u8; 1000]);
        let mut pieces = Vec::new();
        let index = LogIndex(index);
        dialler
            .log
            .cached(GroupId(1), index..=index, 1 << 20, &mut pieces);
        for piece in pieces {
            expected.extend_from_slice(piece.as_ref());
            sender.push_piece(piece);
        }
    }
    sender.finish_frame();
    let mut receiver: Connection<RecordBytes> = Connection::new(limits());
    let received = loop {
        if let Some(batch) = sender.send() {
            dialler.operations.push(Operation::Send { socket, batch });
            let Completion::Sent { batch, result, .. } = dialler.next() else {
                panic!("a send was submitted");
            };
            sender.on_sent(batch, result).unwrap();
        }
        if let Some(buffer) = receiver.receive() {
            let socket = accepted;
            acceptor
                .operations
                .push(Operation::Receive { socket, buffer });
        }
        let Completion::Received { buffer, result, .. } = acceptor.next() else {
            panic!("a receive was submitted");
        };
        receiver.on_received(buffer, result).unwrap();
        if let Some(frame) = receiver.next_frame().unwrap() {
            break frame.records().to_vec();
        }
    };
    assert_eq!(received, expected);
}

#[test]
fn closing_ends_what_is_under_way_at_both_ends() {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let [(mut dialler, socket), (mut acceptor, accepted)] = connected(directory.path());
    let mut ends: [Connection<RecordBytes>; 2] =
        [Connection::new(limits()), Connection::new(limits())];
    let benches = [(&mut dialler, socket), (&mut acceptor, accepted)];
    for ((bench, socket), end) in benches.into_iter().zip(&mut ends) {
        let buffer = end.receive().unwrap();
        bench.operations.push(Operation::Receive { socket, buffer });
        bench
            .driver
            .exchange(&mut bench.operations, &mut bench.completions, Wait::No)
            .unwrap();
    }
    dialler.operations.push(Operation::Close { socket });
    for bench in [&mut dialler, &mut acceptor] {
        let Completion::Received { result, .. } = bench.next() else {
            panic!("a receive was under way");
        };
        assert!(matches!(result, Ok(0) | Err(_)), "{result:?}");
    }
}

#[test]
fn a_driver_that_is_dropped_waits_for_what_is_under_way() {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let [(mut dialler, socket), (acceptor, _)] = connected(directory.path());
    let mut end: Connection<RecordBytes> = Connection::new(limits());
    let buffer = end.receive().unwrap();
    dialler
        .operations
        .push(Operation::Receive { socket, buffer });
    dialler.append(1, &[1; 5000]);
    let write = dialler.log.seal().unwrap();
    dialler.operations.push(Operation::Disk(write));
    dialler
        .driver
        .exchange(&mut dialler.operations, &mut dialler.completions, Wait::No)
        .unwrap();
    drop(dialler);
    drop(acceptor);
    // Nothing was lost on the way down: the log opens and its frame is whole or absent.
    let mut volume = FileVolume::open(&directory.path().join("1"), 8 << 20).unwrap();
    assert!(volume.slots().len() >= 3);
    let mut block = vec![0; 8192];
    let start = block.as_ptr().align_offset(4096);
    assert!(
        volume
            .read_at(0, 0, &mut block[start..start + 4096])
            .is_ok()
    );
}

/// Otherwise the next start removes what is being made, or makes it a second time.
#[test]
fn a_directory_is_not_given_back_while_a_segment_is_being_made_in_it() {
    let data = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let mut bench = Bench::new(1, data.path(), SyncMethod::WriteDsync, 32);
    bench.operations.push(Operation::Prepare { slot: 9 });
    let exchanged = bench
        .driver
        .exchange(&mut bench.operations, &mut bench.completions, Wait::No);
    exchanged.unwrap();
    drop(bench.driver);
    loop {
        match FileVolume::open(data.path(), 8 << 20) {
            Ok(_) => break,
            Err(OpenError::InUse { .. }) => std::thread::yield_now(),
            Err(error) => panic!("{error}"),
        }
    }
    assert!(segment_path(data.path(), 9).exists(), "it was not ready");
}

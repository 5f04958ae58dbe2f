//! A cluster in one thread: what drives its shards, and what a test can do to them.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use pontoon_raft::{GroupId, NodeId, Status, Time};
use pontoon_storage::memory::{BadSector, MemoryVolume, SectorFate};
use pontoon_storage::{DiskOp, LogConfig, LogIdentity, RecordBytes, Recovery, SegmentLog, Volume};
use pontoon_transport::{FrameLimits, SendBatch};

use super::machine::{Journal, SharedJournal, recorders};
use super::wire::Wire;
use crate::doorbell::Doorbell;
use crate::group::Group;
use crate::inbox::{CoreHandle, InboxLimits, channel};
use crate::outcome::{Outcome, Proposal};
use crate::port::{Completion, Operation, SocketId};
use crate::reason::DropReason;
use crate::shard::{Mutants, Shard, ShardConfig};

const SEGMENT_BYTES: u64 = 256 << 10;
const MILLISECOND: u64 = 1_000_000;
pub(super) const GROUP: GroupId = GroupId(7);

pub(super) fn log_config(node: usize) -> LogConfig {
    let identity = LogIdentity {
        cluster: 1,
        node: node as u64 + 1,
        core: 0,
        cores: 1,
    };
    LogConfig {
        segment_bytes: SEGMENT_BYTES,
        frame_bytes_max: 16 << 10,
        slab_bytes: 32 << 10,
        staging_bytes: 256 << 10,
        cache_bytes: 32 << 10,
        read_bytes: 64 << 10,
        segments_max: 8,
        state_bytes_per_frame: 1024,
        ..LogConfig::new(identity)
    }
}

pub(super) fn shard_config(node: usize, nodes: usize) -> ShardConfig {
    ShardConfig {
        node: NodeId(node as u64 + 1),
        peers: (1..=nodes as u64).map(NodeId).collect(),
        seed: node as u64 + 1,
        election_timeout: 1000 * MILLISECOND,
        heartbeat_interval: 100 * MILLISECOND,
        frame_limits: FrameLimits {
            frame_bytes_max: 32 << 10,
            receive_ahead_bytes: 16 << 10,
        },
        command_bytes_max: 4 << 10,
        reply_bytes_max: 8 << 10,
        peer_queue_bytes_max: 128 << 10,
        in_flight_bytes_max: 4 << 20,
        in_flight_messages_max: 64,
        round_trip_max: 150 * MILLISECOND,
        lag_bytes_max: 1 << 30,
        groups_max: 16,
        mutants: Mutants::default(),
    }
}

/// What differs from the usual sizes and times.
#[derive(Clone, Copy)]
pub(super) struct Settings {
    pub(super) log: fn(&mut LogConfig),
    pub(super) shard: fn(&mut ShardConfig),
    pub(super) inbox: InboxLimits,
}

/// 64 KiB of commands of 4 KiB.
pub(super) const INBOX: InboxLimits = InboxLimits {
    proposals_max: 64,
    bytes_max: 64 << 10,
    replies_bytes_max: 16 << 10,
    command_bytes_max: 4 << 10,
};

impl Settings {
    pub(super) const USUAL: Self = Self {
        log: |_| {},
        shard: |_| {},
        inbox: INBOX,
    };

    pub(super) fn log_config(self, node: usize) -> LogConfig {
        let mut config = log_config(node);
        (self.log)(&mut config);
        config
    }
}

/// One node: its process, if it runs, and its disk.
pub(super) struct TestNode {
    pub(super) shard: Option<Shard>,
    core: CoreHandle,
    pub(super) volume: MemoryVolume,
    completions: Vec<Completion>,
    /// Writes that were submitted and are not durable, while the disk is held.
    held: Vec<u64>,
    pub(super) disk_is_held: bool,
    /// Reads that are carried out and not answered, while they are held.
    held_reads: Vec<Completion>,
    pub(super) reads_are_held: bool,
    /// Segments that are asked for do not come.
    pub(super) prepares_are_held: bool,
    /// There is no file descriptor for another.
    pub(super) lacks_descriptors: bool,
    /// So many were asked for in vain.
    pub(super) held_prepares: usize,
    /// So many reads fail from now on.
    pub(super) reads_to_fail: usize,
    pub(super) journal: SharedJournal,
    /// Grows with every change of the durable image.
    pub(super) image_version: u64,
}

impl TestNode {
    fn start(
        (node, nonce): (usize, u64),
        nodes: usize,
        settings: Settings,
        journal: Journal,
        mut volume: MemoryVolume,
        now: Time,
    ) -> Self {
        let journal = Rc::new(RefCell::new(journal));
        let doorbell = Arc::new(Doorbell::new().unwrap());
        let mut config = shard_config(node, nodes);
        (settings.shard)(&mut config);
        let (core, inbox) = channel(config.node, doorbell, settings.inbox);
        let mut log_config = settings.log_config(node);
        log_config.nonce = nonce;
        let (log, recovery) = SegmentLog::open(&mut volume, log_config).unwrap();
        let machines = recorders(&journal);
        let shard = Shard::open(config, log, &recovery, machines, inbox, now).unwrap();
        Self {
            shard: Some(shard),
            core,
            volume,
            completions: Vec::new(),
            held: Vec::new(),
            disk_is_held: false,
            held_reads: Vec::new(),
            reads_are_held: false,
            prepares_are_held: false,
            lacks_descriptors: false,
            held_prepares: 0,
            reads_to_fail: 0,
            journal,
            image_version: 0,
        }
    }

    /// What a start would find if the power failed now.
    pub(super) fn durable_image(&self, node: usize) -> Recovery {
        let mut volume = self.volume.clone();
        volume.power_loss(|_| SectorFate::Old);
        SegmentLog::open(&mut volume, log_config(node)).unwrap().1
    }
}

/// What a test looks at when bytes leave a node: (cluster, node, socket, bytes).
type Watch = Box<dyn FnMut(&Cluster, usize, SocketId, &[u8])>;

/// Nodes 0, 1, 2 … with ids 1, 2, 3 ….
pub(super) struct Cluster {
    pub(super) nodes: Vec<TestNode>,
    pub(super) wire: Wire,
    pub(super) now: Time,
    pub(super) watch: Option<Watch>,
    /// Most bytes one send takes.
    pub(super) send_bytes_max: usize,
    /// Bytes that go from one node to another in a millisecond; those not named are not limited.
    pub(super) bandwidth: BTreeMap<(usize, usize), usize>,
    /// Sends under way where the bandwidth is limited.
    sending: Vec<(usize, SocketId, SendBatch<RecordBytes>)>,
    /// Dials so far.
    pub(super) dials: usize,
    /// Starts of nodes so far: the random number of each.
    starts: u64,
    pub(super) settings: Settings,
}

impl Cluster {
    /// Nodes without groups.
    pub(super) fn new(nodes: usize) -> Self {
        Self::with(nodes, Settings::USUAL)
    }

    /// Nodes without groups that differ from the usual.
    pub(super) fn with(nodes: usize, settings: Settings) -> Self {
        let now = Time(MILLISECOND);
        let start = |node| {
            let volume = MemoryVolume::new(settings.log_config(node).segment_bytes);
            let start = (node, node as u64 + 1);
            TestNode::start(start, nodes, settings, Journal::default(), volume, now)
        };
        Self {
            nodes: (0..nodes).map(start).collect(),
            wire: Wire::default(),
            now,
            watch: None,
            send_bytes_max: usize::MAX,
            bandwidth: BTreeMap::new(),
            sending: Vec::new(),
            dials: 0,
            starts: nodes as u64,
            settings,
        }
    }

    /// Nodes with `GROUP` on all of them, led by node 0.
    pub(super) fn led_by_first(nodes: usize) -> Self {
        Self::led_by_first_with(nodes, Settings::USUAL)
    }

    pub(super) fn led_by_first_with(nodes: usize, settings: Settings) -> Self {
        let mut cluster = Self::with(nodes, settings);
        cluster.create(GROUP);
        cluster.elect(0);
        cluster
    }

    pub(super) fn members(&self) -> Vec<NodeId> {
        (1..=self.nodes.len() as u64).map(NodeId).collect()
    }

    pub(super) fn create(&mut self, group: GroupId) {
        let members = self.members();
        self.create_on(group, &members);
    }

    pub(super) fn create_on(&mut self, group: GroupId, members: &[NodeId]) {
        for id in members {
            let node = id.0 as usize - 1;
            let core = &self.nodes[node].core;
            let mut answer = core.create_group(group, "recorder", members);
            self.until("the group is created", |_| {
                poll(&mut answer) == Some(Ok(()))
            });
        }
        self.until("its members have met", |cluster| {
            members.iter().all(|id| cluster.is_founded(id.0 as usize - 1, group))
        });
    }

    /// Whether a node has met all members of a group; also if it is off, or not with it.
    pub(super) fn is_founded(&self, node: usize, group: GroupId) -> bool {
        let shard = self.nodes[node].shard.as_ref();
        let replica = shard.and_then(|shard| shard.groups.replica(group));
        replica.is_none_or(|replica| replica.raft.is_founded())
    }

    pub(super) fn elect(&mut self, node: usize) {
        self.run(3);
        drop(self.group(node).campaign());
        self.until("the candidate leads", |cluster| {
            cluster.status(node).is_some_and(|s| s.leader == Some(s.id))
        });
    }

    pub(super) fn group(&self, node: usize) -> Group {
        Group::new(GROUP, self.nodes[node].core.clone())
    }

    pub(super) fn core(&self, node: usize) -> CoreHandle {
        self.nodes[node].core.clone()
    }

    pub(super) fn other_group(&self, node: usize, group: GroupId) -> Group {
        Group::new(group, self.nodes[node].core.clone())
    }

    /// Asked of the replica itself: a question through the inbox would need a turn.
    pub(super) fn status(&self, node: usize) -> Option<Status> {
        self.status_of(node, GROUP)
    }

    pub(super) fn status_of(&self, node: usize, group: GroupId) -> Option<Status> {
        let shard = self.nodes[node].shard.as_ref()?;
        Some(shard.groups.replica(group)?.raft.status())
    }

    /// One turn of one node; carries out what it asks for.
    pub(super) fn turn(&mut self, node: usize) {
        let arrivals = self.wire.arrivals(node);
        let this = &mut self.nodes[node];
        let Some(shard) = &mut this.shard else { return };
        this.completions.extend(arrivals);
        let mut operations = Vec::new();
        shard.turn(self.now, &mut this.completions, &mut operations);
        for operation in operations {
            self.carry(node, operation);
        }
    }

    fn carry(&mut self, node: usize, operation: Operation) {
        let completion = match operation {
            Operation::Disk(operation) => return self.carry_disk(node, operation),
            Operation::Send { socket, batch } if self.bandwidth_of(node, socket).is_some() => {
                return self.sending.push((node, socket, batch));
            }
            Operation::Send { socket, batch } => {
                let bytes: Vec<u8> = batch.slices().flatten().copied().collect();
                if let Some(mut watch) = self.watch.take() {
                    watch(self, node, socket, &bytes);
                    self.watch = Some(watch);
                }
                self.wire.send(socket, batch, self.send_bytes_max)
            }
            Operation::Receive { socket, buffer } => return self.wire.receive(socket, buffer),
            Operation::Close { socket } => return self.wire.close(socket),
            Operation::Dial { peer } => {
                self.dials += 1;
                self.dial(node, peer)
            }
            Operation::Prepare { .. } if self.nodes[node].prepares_are_held => {
                self.nodes[node].held_prepares += 1;
                return;
            }
            Operation::Prepare { slot } if self.nodes[node].lacks_descriptors => {
                Completion::NoDescriptors { slot }
            }
            Operation::Prepare { slot } => {
                let ready = self.nodes[node].volume.prepare(slot).is_ok();
                self.nodes[node].image_version += 1;
                Completion::Prepared { slot, ready }
            }
        };
        self.nodes[node].completions.push(completion);
    }

    fn bandwidth_of(&self, node: usize, socket: SocketId) -> Option<usize> {
        let way = (node, self.wire.peer_of(socket));
        self.bandwidth.get(&way).copied()
    }

    /// Sends of slow ways end with what passed in a millisecond; where nothing passes, they hang.
    fn move_slow_sends(&mut self) {
        for (node, socket, batch) in std::mem::take(&mut self.sending) {
            let passes = self.bandwidth_of(node, socket).unwrap_or(usize::MAX);
            if passes == 0 && !self.wire.is_closed(socket) {
                self.sending.push((node, socket, batch));
            } else {
                let sent = self.wire.send(socket, batch, passes);
                self.nodes[node].completions.push(sent);
            }
        }
    }

    fn dial(&mut self, node: usize, peer: NodeId) -> Completion {
        let acceptor = peer.0 as usize - 1;
        if self.wire.is_cut(node, acceptor) || self.nodes[acceptor].shard.is_none() {
            return Completion::DialFailed { peer };
        }
        let (socket, accepted) = self.wire.connect(node, acceptor);
        self.nodes[acceptor]
            .completions
            .push(Completion::Connected {
                peer: NodeId(node as u64 + 1),
                socket: accepted,
            });
        Completion::Connected { peer, socket }
    }

    /// Somebody connects to a node in the name of another; gives the end that nobody reads.
    pub(super) fn connect_stranger(&mut self, name: usize, to: usize) -> SocketId {
        let (ours, socket) = self.wire.connect(name, to);
        let peer = NodeId(name as u64 + 1);
        let connected = Completion::Connected { peer, socket };
        self.nodes[to].completions.push(connected);
        ours
    }

    fn carry_disk(&mut self, node: usize, mut operation: DiskOp) {
        let this = &mut self.nodes[node];
        let submitted = this.volume.submit(&mut operation);
        match operation {
            DiskOp::Write { id, .. } => {
                submitted.unwrap();
                this.held.push(id);
                if !this.disk_is_held {
                    self.release(node);
                }
            }
            DiskOp::Read { id, buffer, .. } => {
                let fails = this.reads_to_fail > 0 || submitted.is_err();
                this.reads_to_fail = this.reads_to_fail.saturating_sub(usize::from(fails));
                let length = buffer.len();
                let result = if fails { Err(libc::EIO) } else { Ok(length) };
                this.held_reads
                    .push(Completion::Read { id, buffer, result });
                if !this.reads_are_held {
                    this.completions.append(&mut this.held_reads);
                }
            }
        }
    }

    /// How many reads are held.
    pub(super) fn held_reads(&self, node: usize) -> usize {
        self.nodes[node].held_reads.len()
    }

    /// Reads that a node's log began so far.
    pub(super) fn reads(&self, node: usize) -> u64 {
        let shard = self.nodes[node].shard.as_ref();
        shard.map_or(0, |shard| shard.statistics().log.reads)
    }

    /// Connections that a node closed for this reason.
    pub(super) fn closed(&self, node: usize, reason: &str) -> u64 {
        let shard = self.nodes[node].shard.as_ref().expect("it runs");
        let closed = shard.statistics().connections_closed;
        let of_reason = closed.iter().filter(|(each, _)| each.label() == reason);
        of_reason.map(|(_, count)| *count).sum()
    }

    /// Messages that a node dropped for this reason.
    pub(super) fn dropped(&self, node: usize, reason: DropReason) -> u64 {
        let shard = self.nodes[node].shard.as_ref().expect("it runs");
        let dropped = shard.statistics().messages_dropped;
        dropped.get(&reason).copied().unwrap_or(0)
    }

    /// Answers the reads that were held, and holds none any more.
    pub(super) fn release_reads(&mut self, node: usize) {
        let this = &mut self.nodes[node];
        this.reads_are_held = false;
        this.completions.append(&mut this.held_reads);
    }

    /// Damages every place on a node's disk where these bytes are.
    pub(super) fn rot(&mut self, node: usize, bytes: &[u8]) {
        let found = self.rot_everywhere(node, bytes);
        assert_eq!(found, 1, "the bytes are on the disk in one place");
    }

    /// Wherever these bytes are on a node's disk, one bit of them flips. Gives in how many places.
    pub(super) fn rot_everywhere(&mut self, node: usize, bytes: &[u8]) -> usize {
        let volume = &mut self.nodes[node].volume;
        let mut found = 0;
        for slot in volume.slots() {
            let image = volume.image_mut(slot).unwrap();
            let place = |image: &[u8]| image.windows(bytes.len()).position(|it| it == bytes);
            while let Some(place) = place(image) {
                image[place] ^= 1;
                found += 1;
            }
        }
        found
    }

    /// Flips a bit of what a group is on a node's disk, in every record that says it.
    pub(super) fn rot_definition(&mut self, node: usize, group: GroupId) {
        let volume = &mut self.nodes[node].volume;
        let mut found = 0;
        for slot in volume.slots() {
            let image = volume.image_mut(slot).unwrap();
            // A record's header is 32 bytes long and begins with the group; of a group's state 64
            // more precede its definition.
            for start in (0..image.len() - 256).step_by(16) {
                let of_group = image[start..start + 8] == group.0.to_le_bytes();
                if of_group && image[start + 27] == 17 && image[start + 96..].starts_with(b"{") {
                    image[start + 97] ^= 1;
                    found += 1;
                }
            }
        }
        assert!(found > 0, "the group's state is on the disk");
    }

    /// The sector of the node's disk that holds these bytes, which lie on it in one place, can't be
    /// read any more.
    pub(super) fn spoil(&mut self, node: usize, bytes: &[u8]) {
        let volume = &mut self.nodes[node].volume;
        let found = volume.slots().into_iter().filter_map(|slot| {
            let mut places = volume.image(slot)?.windows(bytes.len());
            Some((slot, places.position(|window| window == bytes)? as u64))
        });
        let found: Vec<_> = found.collect();
        assert_eq!(found.len(), 1, "the bytes are on the disk in one place");
        volume.spoil(found[0].0, found[0].1, BadSector::Dead);
    }

    /// Makes durable what the disk was given so far, and says so in the node's next turn.
    pub(super) fn release(&mut self, node: usize) {
        let this = &mut self.nodes[node];
        for id in this.held.drain(..) {
            let bytes = this.volume.make_durable(id).unwrap();
            this.image_version += 1;
            let result = Ok(bytes);
            this.completions.push(Completion::Written { id, result });
        }
    }

    /// The disk fails what it was given with this error number.
    pub(super) fn fail_writes(&mut self, node: usize, errno: i32) {
        let this = &mut self.nodes[node];
        for id in this.held.drain(..) {
            let result = Err(errno);
            this.completions.push(Completion::Written { id, result });
        }
    }

    /// So many rounds of one millisecond, each a turn of every node.
    pub(super) fn run(&mut self, rounds: usize) {
        for _ in 0..rounds {
            self.now = self.now.after(MILLISECOND);
            self.wire.next_round();
            for node in 0..self.nodes.len() {
                self.turn(node);
            }
            self.move_slow_sends();
        }
    }

    /// Runs until something is so; 20 simulated seconds are too long.
    pub(super) fn until(&mut self, what: &str, mut is_so: impl FnMut(&Self) -> bool) {
        for _ in 0..20_000 {
            if is_so(self) {
                return;
            }
            self.run(1);
        }
        panic!("it did not come about that {what}");
    }

    pub(super) fn wait(&mut self, mut proposal: Proposal) -> Outcome {
        let mut outcome = None;
        self.until("the proposal is answered", |_| {
            outcome = poll(&mut proposal);
            outcome.is_some()
        });
        outcome.unwrap()
    }

    /// The process ends; the power fails as well: what is not durable is lost.
    pub(super) fn power_off(&mut self, node: usize) {
        let this = &mut self.nodes[node];
        this.shard = None;
        this.completions.clear();
        this.held.clear();
        this.volume.power_loss(|_| SectorFate::Old);
        this.image_version += 1;
        self.sending.retain(|(sender, _, _)| *sender != node);
        self.wire.close_all_of(node);
    }

    pub(super) fn power_on(&mut self, node: usize) {
        let nodes = self.nodes.len();
        let (volume, version) = (
            self.nodes[node].volume.clone(),
            self.nodes[node].image_version,
        );
        let journal = self.nodes[node].journal.borrow().of_next_life();
        let settings = self.settings;
        self.starts += 1;
        let start = (node, self.starts);
        self.nodes[node] = TestNode::start(start, nodes, settings, journal, volume, self.now);
        self.nodes[node].image_version = version + 1;
    }

    /// Commands applied on a node, in order.
    pub(super) fn applied(&self, node: usize) -> Vec<Vec<u8>> {
        self.applied_of(node, GROUP)
    }

    pub(super) fn applied_of(&self, node: usize, group: GroupId) -> Vec<Vec<u8>> {
        let journal = self.nodes[node].journal.borrow();
        let applied: &BTreeMap<_, _> = &journal.applied;
        applied.get(&group.0).map_or_else(Vec::new, |entries| {
            entries
                .iter()
                .map(|(_, _, payload)| payload.clone())
                .collect()
        })
    }
}

/// Looks at a future once.
pub(super) fn poll<F: Future + Unpin>(future: &mut F) -> Option<F::Output> {
    let mut context = Context::from_waker(Waker::noop());
    match std::pin::Pin::new(future).poll(&mut context) {
        Poll::Ready(output) => Some(output),
        Poll::Pending => None,
    }
}

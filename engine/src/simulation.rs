//! What the simulator sees of a core that no program needs: the shard itself, on a clock, disk and
//! network of somebody else's. Only with the feature `simulation`.

use std::sync::Arc;

use pontoon_raft::{GroupId, Message, NodeId, Raft, Time};
use pontoon_storage::{Life, Poisoned, Recovery, SegmentLog};
use pontoon_transport::Head;

use crate::doorbell::Doorbell;
use crate::driver::DriverError;
use crate::group::Group;
use crate::inbox::{CoreHandle, InboxLimits, channel};
use crate::machine::Machines;
use crate::pending::Pending;
use crate::port::{Completion, Operation, SocketId};
use crate::request::CreateError;
use crate::shard::{Shard, ShardConfig, ShardOpenError, Turn};
use crate::statistics::CoreStatistics;
use crate::wire::Greeting;

pub use crate::shard::Gauge;
pub use crate::shard::Mutant as ShardMutant;
pub use pontoon_raft::Mutant as RaftMutant;
pub use pontoon_storage::Mutant as StorageMutant;

/// A rule to break.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutant {
    /// One of Raft's.
    Raft(RaftMutant),
    /// One of the shard's.
    Shard(ShardMutant),
    /// One of the log's: the configuration of its log says so.
    Storage(StorageMutant),
}

/// A shard and the way to it.
#[derive(Debug)]
pub struct SimulatedCore {
    shard: Shard,
    core: CoreHandle,
}

impl SimulatedCore {
    /// Reopens what a log held.
    ///
    /// # Errors
    /// If a group can't be opened as it was.
    ///
    /// # Panics
    /// If the process has no file descriptor left.
    pub fn open(
        mut config: ShardConfig,
        log: SegmentLog,
        recovery: &Recovery,
        machines: Machines,
        mutant: Option<Mutant>,
        now: Time,
    ) -> Result<Self, ShardOpenError> {
        let doorbell = Arc::new(Doorbell::new().expect("a file descriptor"));
        let limits = InboxLimits {
            proposals_max: 256,
            bytes_max: 64 << 10,
            replies_bytes_max: 16 << 10,
            command_bytes_max: config.command_bytes_max,
        };
        let (core, mut inbox) = channel(config.node, doorbell, limits);
        inbox.leaves_full = mutant == Some(Mutant::Shard(ShardMutant::LeavesInboxFull));
        match mutant {
            Some(Mutant::Raft(mutant)) => config.mutants.raft = Some(mutant),
            Some(Mutant::Shard(mutant)) => config.mutants.shard = Some(mutant),
            Some(Mutant::Storage(_)) | None => {}
        }
        let shard = Shard::open(config, log, recovery, machines, inbox, now)?;
        Ok(Self { shard, core })
    }

    /// Which life of its log it is in, once peers may be told.
    #[must_use]
    pub fn life(&self) -> Option<Life> {
        self.shard.life()
    }

    /// The peers whose words of groups it believes, and the life each is in.
    pub fn believed(&self) -> impl Iterator<Item = (NodeId, Life)> {
        self.shard.believed()
    }

    /// Whether another connection took the place of this one.
    #[must_use]
    pub fn was_replaced(&self, socket: SocketId) -> bool {
        self.shard.was_replaced(socket)
    }

    /// The connection by which it hears of a peer.
    #[must_use]
    pub fn connection(&self, peer: NodeId) -> Option<SocketId> {
        self.shard.connection(peer)
    }

    /// One turn of the shard.
    pub fn turn(
        &mut self,
        now: Time,
        completions: &mut Vec<Completion>,
        operations: &mut Vec<Operation>,
    ) -> Turn {
        self.shard.turn(now, completions, operations)
    }

    /// Makes a group.
    pub fn create_group(
        &self,
        group: GroupId,
        kind: &str,
        members: &[NodeId],
    ) -> Pending<Result<(), CreateError>> {
        self.core.create_group(group, kind, members)
    }

    /// A handle as applications have it.
    #[must_use]
    pub fn group(&self, group: GroupId) -> Group {
        Group::new(group, self.core.clone())
    }

    /// Tells the core to end, as the stop of its node does.
    pub fn stop(&self) {
        self.core.stop();
    }

    /// Whether it has ended.
    #[must_use]
    pub fn stopped(&self) -> bool {
        self.shard.stopped()
    }

    /// Its driver fails: it takes no further turn.
    pub fn fail_driver(&mut self) {
        let (what, errno) = ("an exchange, as it was drawn", 5);
        let source = std::io::Error::from_raw_os_error(errno);
        self.shard.fail(&DriverError::Failed { what, source });
    }

    /// Every replica of the core.
    pub fn replicas(&self) -> impl Iterator<Item = (GroupId, &Raft)> {
        self.shard.rafts()
    }

    /// Whether everything that a group has written so far is durable.
    #[must_use]
    pub fn is_settled(&self, group: GroupId) -> bool {
        self.shard.is_settled(group)
    }

    /// Whether the log has at most one more segment for entries.
    #[must_use]
    pub fn is_nearly_full(&self) -> bool {
        self.shard.is_nearly_full()
    }

    /// A slot of the log that holds nothing that is needed.
    #[must_use]
    pub fn free_slot(&self) -> Option<u32> {
        self.shard.free_slot()
    }

    /// Whether more segments can be made, as far as is known.
    #[must_use]
    pub fn can_grow(&self) -> bool {
        self.shard.can_grow()
    }

    /// Whether few segments are free and no more can be made.
    #[must_use]
    pub fn is_short_of_room(&self) -> bool {
        self.shard.is_short_of_room()
    }

    /// Whether the log takes no commands: it is full, or its next segment has not come.
    #[must_use]
    pub fn takes_no_commands(&self) -> bool {
        self.shard.takes_no_commands()
    }

    /// Why the log is closed, so that nothing is acknowledged any more, if it is.
    #[must_use]
    pub fn failure(&self) -> Option<&Poisoned> {
        self.shard.failure()
    }

    /// The connection to another node that messages pass, and none that is on trial.
    #[must_use]
    pub fn connection_to(&self, node: NodeId) -> Option<SocketId> {
        self.shard.connection_to(node)
    }

    /// Bytes of a group's entries in the log that are not committed, as far as it knows.
    #[must_use]
    pub fn uncommitted_bytes(&self, group: GroupId) -> u64 {
        self.shard.uncommitted_bytes(group)
    }

    /// What every queue holds between two turns, and the most that it may.
    #[must_use]
    pub fn gauges(&self) -> Vec<Gauge> {
        self.shard.gauges()
    }

    /// Counts so far.
    #[must_use]
    pub fn statistics(&self) -> CoreStatistics {
        self.shard.statistics()
    }
}

/// What a head on the wire says.
#[must_use]
pub fn message(head: &Head) -> Option<Message> {
    crate::wire::message(head)
}

/// A message as a head on the wire.
#[must_use]
pub fn head(group: GroupId, message: &Message) -> Head {
    crate::wire::head(group, message)
}

/// What a core that was never met before, or knows nothing of the other end, says of itself on a
/// connection: each head is a frame of its own.
#[must_use]
pub fn greetings(own: Life) -> [Head; 2] {
    let introduction = Greeting::Introduction { own, met: None };
    [introduction, Greeting::Recognised].map(crate::wire::greeting_head)
}

/// The core that a group lives on.
#[must_use]
pub fn core_of(group: GroupId, cores: u16) -> u16 {
    crate::placement::core_of(group, cores)
}

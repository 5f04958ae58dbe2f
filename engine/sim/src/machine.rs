//! The state machine of every simulated group: registers, watched by an oracle that knows what
//! every replica has ever applied.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pontoon::{Batch, GroupId, LogIndex, MachineError, Machines, StateMachine};

use crate::random::Random;
use crate::swarm::{MachineKind, Swarm};

/// What a client asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Command {
    /// Unique in a run.
    pub(crate) operation: u64,
    pub(crate) key: u64,
    /// `None` reads.
    pub(crate) write: Option<u64>,
}

impl Command {
    pub(crate) fn encode(self, padding: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(25 + padding);
        bytes.extend(self.operation.to_le_bytes());
        bytes.extend(self.key.to_le_bytes());
        bytes.push(u8::from(self.write.is_some()));
        bytes.extend(self.write.unwrap_or(0).to_le_bytes());
        bytes.resize(25 + padding, 0xAB);
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let number = |at: usize| Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
        Some(Self {
            operation: number(0)?,
            key: number(8)?,
            write: if *bytes.get(16)? == 1 {
                Some(number(17)?)
            } else {
                None
            },
        })
    }
}

/// The registers of one replica, and how far they are.
#[derive(Clone, Debug, Default)]
pub(crate) struct Registers {
    pub(crate) applied: LogIndex,
    values: BTreeMap<u64, u64>,
}

/// What all replicas have ever applied, over all crashes: State Machine Safety is checked here.
#[derive(Debug, Default)]
pub(crate) struct Oracle {
    /// By group and index: term and operation.
    canonical: BTreeMap<(u64, u64), (u64, u64)>,
    /// The time, for machines whose state is durable late.
    pub(crate) now: u64,
    /// State that machines keep over a crash, by node and group.
    kept: BTreeMap<(usize, u64), Registers>,
    /// The disk under the machine that is called now is full: it saves nothing there.
    pub(crate) full: bool,
    /// Machines may fail now.
    pub(crate) may_fail: bool,
    /// When machines failed that were not made anew since, by node and group, and how many ever.
    pub(crate) failed: BTreeMap<(usize, u64), u64>,
    pub(crate) failures: u64,
    /// How many could not be made at a start.
    pub(crate) not_made: u64,
    /// How many were asked for since that was last looked at.
    pub(crate) asked_for: u64,
    /// Machines that fail at the next command, by node and group.
    pub(crate) doomed: BTreeSet<(usize, u64)>,
    /// The first thing that went wrong.
    pub(crate) violation: Option<String>,
}

pub(crate) type SharedOracle = Arc<Mutex<Oracle>>;

pub(crate) fn lock(oracle: &SharedOracle) -> MutexGuard<'_, Oracle> {
    oracle.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Oracle {
    /// Thesis 3.6.3, State Machine Safety: no two servers apply different commands at one index.
    fn applied(&mut self, node: usize, group: u64, index: u64, what: (u64, u64)) {
        let known = *self.canonical.entry((group, index)).or_insert(what);
        if known != what && self.violation.is_none() {
            self.violation = Some(format!(
                "node {node} applied operation {} of term {} at index {index} of group {group}, \
                 where operation {} of term {} was applied before",
                what.1, what.0, known.1, known.0
            ));
        }
    }

    /// Whether an operation was applied at this place.
    pub(crate) fn holds(&self, group: u64, index: u64, operation: u64) -> bool {
        let found = self.canonical.get(&(group, index));
        found.is_some_and(|(_, applied)| *applied == operation)
    }
}

struct Replica {
    node: usize,
    group: u64,
    kind: MachineKind,
    registers: Registers,
    /// What of it is durable, and since when.
    durable: LogIndex,
    durable_at: u64,
    /// Of a million commands.
    failure: u64,
    oracle: SharedOracle,
}

impl Replica {
    /// Whether the machine fails at this entry, now: drawn anew at each try.
    fn fails(&self, oracle: &Oracle, index: LogIndex) -> bool {
        let place = (self.node as u64) << 48 ^ self.group << 32 ^ index.0;
        let draw = || Random::new(place ^ oracle.now.rotate_left(20)).happens(self.failure);
        let doomed = oracle.doomed.contains(&(self.node, self.group));
        oracle.may_fail && (doomed || self.failure > 0 && draw())
    }

    /// Whether its state is to be made durable now.
    fn is_due(&self, now: u64) -> bool {
        match self.kind {
            MachineKind::Volatile => false,
            MachineKind::Prompt | MachineKind::Hoarder => true,
            MachineKind::Late { after, entries } => {
                let behind = self.registers.applied.0 - self.durable.0;
                now >= self.durable_at + after || behind >= entries
            }
        }
    }
}

impl StateMachine for Replica {
    fn durable_index(&self) -> Option<LogIndex> {
        let durable = self.kind != MachineKind::Volatile;
        durable.then_some(self.durable)
    }

    fn released_index(&self) -> LogIndex {
        match self.kind {
            MachineKind::Hoarder | MachineKind::Volatile => LogIndex(0),
            MachineKind::Prompt | MachineKind::Late { .. } => self.durable,
        }
    }

    fn apply(&mut self, batch: &mut Batch<'_>) -> Result<(), MachineError> {
        let mut oracle = lock(&self.oracle);
        while let Some(command) = batch.next() {
            let (index, term) = (command.index, command.term);
            let Some(command) = Command::decode(command.payload) else {
                oracle.violation = Some(format!("entry {index} is no command of ours"));
                return Ok(());
            };
            if self.fails(&oracle, index) {
                let now = oracle.now;
                oracle.failed.insert((self.node, self.group), now);
                oracle.doomed.remove(&(self.node, self.group));
                oracle.failures += 1;
                return Err("as it was drawn".into());
            }
            if index <= self.registers.applied && oracle.violation.is_none() {
                let node = self.node;
                oracle.violation = Some(format!("node {node} applied entry {index} twice"));
            }
            oracle.applied(self.node, self.group, index.0, (term.0, command.operation));
            if let Some(value) = command.write {
                self.registers.values.insert(command.key, value);
            }
            self.registers.applied = index;
            let value = self.registers.values.get(&command.key).copied();
            batch.reply(value.unwrap_or(0).to_le_bytes().to_vec());
        }
        if self.is_due(oracle.now) && !oracle.full {
            let place = (self.node, self.group);
            oracle.kept.insert(place, self.registers.clone());
            (self.durable, self.durable_at) = (self.registers.applied, oracle.now);
        }
        Ok(())
    }
}

/// Of a million machines that are made at a start, where machines fail.
const NOT_MADE: u64 = 30_000;

/// Whether the machine of a group that was there before can't be made now: drawn anew at each try.
fn is_not_made(oracle: &mut Oracle, node: usize, group: u64, swarm: &Swarm) -> bool {
    let before = oracle.canonical.range((group, 0)..(group + 1, 0)).next();
    if !oracle.may_fail || swarm.machine_failure == 0 || before.is_none() {
        return false;
    }
    let place = !((node as u64) << 48 ^ group << 32);
    let fails = Random::new(place ^ oracle.now.rotate_left(20)).happens(NOT_MADE);
    if fails {
        oracle.failed.insert((node, group), oracle.now);
        oracle.not_made += 1;
    }
    fails
}

/// The machines of one generation of a node.
pub(crate) fn machines(oracle: &SharedOracle, node: usize, swarm: &Swarm) -> Machines {
    let oracle = Arc::clone(oracle);
    let swarm = swarm.clone();
    Machines::new().register("registers", move |group: GroupId| {
        lock(&oracle).asked_for += 1;
        if is_not_made(&mut lock(&oracle), node, group.0, &swarm) {
            return Err("as it was drawn".into());
        }
        let kind = swarm.machine(group.0);
        let kept = if kind != MachineKind::Volatile {
            let oracle = lock(&oracle);
            oracle.kept.get(&(node, group.0)).cloned()
        } else {
            lock(&oracle).kept.remove(&(node, group.0));
            None
        };
        let registers = kept.unwrap_or_default();
        lock(&oracle).failed.remove(&(node, group.0));
        Ok(Box::new(Replica {
            node,
            group: group.0,
            kind,
            durable: registers.applied,
            durable_at: lock(&oracle).now,
            registers,
            failure: swarm.machine_failure,
            oracle: Arc::clone(&oracle),
        }))
    })
}

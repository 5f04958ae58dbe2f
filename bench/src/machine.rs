//! The state machine under load: it checks the order of its commands and keeps nothing else.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use pontoon::{Batch, GroupId, LogIndex, MachineError, Machines, StateMachine};
use serde::{Deserialize, Serialize};

/// Smallest payload: the number of the command, counted from 1 in each group.
pub(crate) const PAYLOAD_BYTES_MIN: usize = 8;

/// What a machine lets go of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Kind {
    /// Everything it has applied, as a machine with snapshots does; not to be restarted.
    Releasing,
    /// Nothing: it is built anew from the log at every start.
    Keeping,
}

impl Kind {
    /// The kind's name in the registry of machines.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Releasing => "bench",
            Self::Keeping => "bench-keeping",
        }
    }
}

/// Progress of one group's machine; its core writes it, the requests' thread reads it.
#[derive(Debug, Default)]
struct Seen {
    applied: AtomicU64,
    last: AtomicU64,
    misplaced: AtomicU64,
    checksum: AtomicU64,
    last_index: AtomicU64,
}

/// A snapshot of it, to be compared between nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Applied {
    /// Number of commands applied.
    pub(crate) commands: u64,
    /// Number of the last one.
    pub(crate) last: u64,
    /// Commands whose number was not higher than the one before.
    pub(crate) misplaced: u64,
    /// Checksum over index and number of every command, in order.
    pub(crate) checksum: u64,
    /// Index of the last command.
    pub(crate) last_index: u64,
}

/// The progress of all machines of a node.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ledger {
    groups: Arc<Mutex<BTreeMap<u64, Arc<Seen>>>>,
}

impl Ledger {
    /// Registers machines of each kind, which record their progress here.
    pub(crate) fn machines(&self) -> Machines {
        let register = |machines: Machines, kind: Kind| {
            let groups = Arc::clone(&self.groups);
            machines.register(kind.name(), move |group: GroupId| {
                let mut groups = groups.lock().unwrap_or_else(PoisonError::into_inner);
                let seen = Arc::clone(groups.entry(group.0).or_default());
                Ok(Box::new(Checker { seen, kind }))
            })
        };
        let kinds = [Kind::Releasing, Kind::Keeping];
        kinds.into_iter().fold(Machines::new(), register)
    }

    /// The progress of a group's machine so far.
    pub(crate) fn of(&self, group: u64) -> Applied {
        let groups = self.groups.lock().unwrap_or_else(PoisonError::into_inner);
        groups
            .get(&group)
            .map_or_else(Applied::default, |seen| Applied {
                commands: seen.applied.load(Relaxed),
                last: seen.last.load(Relaxed),
                misplaced: seen.misplaced.load(Relaxed),
                checksum: seen.checksum.load(Relaxed),
                last_index: seen.last_index.load(Relaxed),
            })
    }
}

struct Checker {
    seen: Arc<Seen>,
    kind: Kind,
}

impl StateMachine for Checker {
    /// A releasing machine's last applied index: nothing is rebuilt from the log, which may
    /// therefore recycle its segments.
    fn released_index(&self) -> LogIndex {
        match self.kind {
            Kind::Releasing => LogIndex(self.seen.last_index.load(Relaxed)),
            Kind::Keeping => LogIndex(0),
        }
    }

    fn apply(&mut self, batch: &mut Batch<'_>) -> Result<(), MachineError> {
        let seen = &self.seen;
        let mut last = seen.last.load(Relaxed);
        let (mut checksum, mut count, mut misplaced) = (seen.checksum.load(Relaxed), 0, 0);
        let mut last_index = seen.last_index.load(Relaxed);
        while let Some(command) = batch.next() {
            let number = number_of(command.payload);
            misplaced += u64::from(number <= last);
            (last, last_index) = (number, command.index.0);
            // Any mixing that depends on the order does.
            checksum = (checksum ^ number ^ last_index << 32)
                .wrapping_mul(0x9e37_79b9_7f4a_7c15)
                .rotate_left(31);
            count += 1;
        }
        seen.last.store(last, Relaxed);
        seen.checksum.store(checksum, Relaxed);
        seen.misplaced.fetch_add(misplaced, Relaxed);
        seen.last_index.store(last_index, Relaxed);
        seen.applied.fetch_add(count, Relaxed);
        Ok(())
    }
}

fn number_of(payload: &[u8]) -> u64 {
    payload
        .first_chunk()
        .map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

/// A command of `bytes` bytes.
pub(crate) fn command(number: u64, bytes: usize) -> Vec<u8> {
    let mut command = vec![0x5a; bytes];
    command[..PAYLOAD_BYTES_MIN].copy_from_slice(&number.to_le_bytes());
    command
}

//! The state machine: a store over redb that keeps, with its data, how far the log is in it.
//!
//! A core must not wait for a disk, so `apply` only hands over. A thread writes what is there in
//! one transaction, and says afterwards how far the store is durable: the log may let go of that.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use pontoon::{Batch, LogIndex, MachineError, Made, StateMachine};
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};

use crate::{GROUPS, Result};

/// The value of each write, by group and number.
const WRITES: TableDefinition<'_, (u64, u64), &[u8]> = TableDefinition::new("writes");

/// For each group: the index of the last entry in the store, and a checksum over all of them.
const APPLIED: TableDefinition<'_, u64, (u64, u64)> = TableDefinition::new("applied");

/// Batches on their way to the disk; a core waits when a disk is that far behind.
const BATCHES_MAX: usize = 1_024;

/// A command: its number, then bytes that follow from it.
const COMMAND_BYTES: usize = 256;

/// The command of that number.
pub(crate) fn command(number: u64) -> Vec<u8> {
    let words = (0..COMMAND_BYTES as u64 / 8).map(|word| match word {
        0 => number,
        _ => mix(number ^ word << 48),
    });
    words.flat_map(u64::to_le_bytes).collect()
}

fn mix(number: u64) -> u64 {
    number.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(31)
}

/// Commands that were applied together.
struct Applied {
    group: u64,
    commands: Vec<(LogIndex, Vec<u8>)>,
}

/// The store of a node, for all its groups.
pub(crate) struct Store {
    database: Arc<Database>,
    writer: SyncSender<Applied>,
    durable: BTreeMap<u64, Arc<AtomicU64>>,
}

/// What the store holds of a group.
pub(crate) struct Holding {
    /// Index of the last entry in it.
    pub(crate) applied: u64,
    /// Over index and content of every entry, in order.
    pub(crate) checksum: u64,
    /// Numbers of the writes, as ranges with both ends.
    pub(crate) numbers: Vec<(u64, u64)>,
}

impl Store {
    /// Opens the store, or makes an empty one, and starts the thread that writes.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let database = Arc::new(Database::create(path)?);
        let transaction = database.begin_write()?;
        let mut durable = BTreeMap::new();
        {
            transaction.open_table(WRITES)?;
            let applied = transaction.open_table(APPLIED)?;
            for group in 1..=GROUPS {
                let index = applied.get(group)?.map_or(0, |entry| entry.value().0);
                durable.insert(group, Arc::new(AtomicU64::new(index)));
            }
        }
        transaction.commit()?;
        let (writer, batches) = sync_channel(BATCHES_MAX);
        let thread = (Arc::clone(&database), durable.clone());
        std::thread::spawn(move || {
            let (database, durable) = thread;
            if let Err(error) = write(&database, &batches, &durable) {
                crate::fail(&format!("the store can't go on: {error}"));
            }
        });
        Ok(Self {
            database,
            writer,
            durable,
        })
    }

    /// The machine of a group.
    pub(crate) fn machine(&self, group: u64) -> Made {
        let durable = self.durable.get(&group).ok_or("there is no such group")?;
        Ok(Box::new(Machine {
            group,
            durable: Arc::clone(durable),
            writer: self.writer.clone(),
        }))
    }

    /// Index up to which the group's entries are durable in the store.
    pub(crate) fn durable(&self, group: u64) -> u64 {
        self.durable[&group].load(Ordering::Acquire)
    }

    /// Reads everything of a group, and compares each value with what it must be.
    pub(crate) fn holding(&self, group: u64) -> Result<Holding> {
        let transaction = self.database.begin_read()?;
        let applied = transaction.open_table(APPLIED)?.get(group)?;
        let (applied, checksum) = applied.map_or((0, 0), |entry| entry.value());
        let mut numbers: Vec<(u64, u64)> = Vec::new();
        for entry in transaction
            .open_table(WRITES)?
            .range((group, 0)..=(group, u64::MAX))?
        {
            let (key, value) = entry?;
            let (_, number) = key.value();
            if value.value() != command(number) {
                return Err(format!("write {number} of group {group} has another value").into());
            }
            match numbers.last_mut() {
                // Every group has every GROUPS-th number.
                Some((_, last)) if *last + GROUPS == number => *last = number,
                _ => numbers.push((number, number)),
            }
        }
        Ok(Holding {
            applied,
            checksum,
            numbers,
        })
    }
}

struct Machine {
    group: u64,
    durable: Arc<AtomicU64>,
    writer: SyncSender<Applied>,
}

impl StateMachine for Machine {
    fn durable_index(&self) -> Option<LogIndex> {
        Some(LogIndex(self.durable.load(Ordering::Acquire)))
    }

    fn apply(&mut self, batch: &mut Batch<'_>) -> std::result::Result<(), MachineError> {
        let mut commands = Vec::new();
        while let Some(command) = batch.next() {
            commands.push((command.index, command.payload.to_vec()));
        }
        let group = self.group;
        if self.writer.send(Applied { group, commands }).is_err() {
            crate::fail("the store has ended");
        }
        Ok(())
    }
}

/// Writes whatever is there in one durable transaction, until no machine is left.
fn write(
    database: &Database,
    batches: &Receiver<Applied>,
    durable: &BTreeMap<u64, Arc<AtomicU64>>,
) -> Result<()> {
    while let Ok(first) = batches.recv() {
        let mut reached = BTreeMap::new();
        let transaction = database.begin_write()?;
        {
            let mut writes = transaction.open_table(WRITES)?;
            let mut applied = transaction.open_table(APPLIED)?;
            for batch in std::iter::once(first).chain(batches.try_iter().take(BATCHES_MAX)) {
                let group = batch.group;
                let mut last = applied.get(group)?.map_or((0, 0), |entry| entry.value());
                for (index, payload) in batch.commands {
                    last = (
                        index.0,
                        insert(&mut writes, group, last, index.0, &payload)?,
                    );
                }
                applied.insert(group, last)?;
                reached.insert(group, last.0);
            }
        }
        transaction.commit()?;
        for (group, index) in reached {
            durable[&group].store(index, Ordering::Release);
        }
    }
    Ok(())
}

/// Inserts one write. Gives the checksum with it.
fn insert(
    writes: &mut redb::Table<'_, (u64, u64), &'static [u8]>,
    group: u64,
    (last, checksum): (u64, u64),
    index: u64,
    payload: &[u8],
) -> Result<u64> {
    let number = payload.first_chunk().ok_or("a command is cut short")?;
    let number = u64::from_le_bytes(*number);
    if index <= last {
        return Err(format!("entry {index} of group {group} was applied behind {last}").into());
    }
    if writes.insert((group, number), payload)?.is_some() {
        return Err(format!("write {number} of group {group} was applied twice").into());
    }
    Ok(mix(checksum ^ mix(number) ^ index))
}

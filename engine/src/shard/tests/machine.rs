//! A state machine that remembers all it was given.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Mutex;

use pontoon_raft::{GroupId, LogIndex, Term};

use crate::machine::{Batch, Event, MachineError, Machines, StateMachine};

/// What the machines of one node have been given, by group. Shared with the test.
#[derive(Clone, Debug, Default)]
pub(super) struct Journal {
    pub(super) applied: BTreeMap<u64, Vec<(LogIndex, Term, Vec<u8>)>>,
    pub(super) events: Vec<(u64, Event)>,
    /// The machines can do without everything that they have applied.
    pub(super) releases: bool,
    /// But these groups' machines can't.
    pub(super) keeps: Vec<u64>,
    /// These groups' machines are durable, and save what they have applied with every tenth call.
    pub(super) saves_late: Vec<u64>,
    /// These groups' machines fail when they are given this command.
    pub(super) fails_at: Option<(u64, Vec<u8>)>,
    /// These groups' machines can't be made at a start.
    pub(super) not_made: Vec<u64>,
    /// The machines reply with so many bytes instead of the command.
    pub(super) reply_bytes: Option<usize>,
    /// These groups' machines claim to hold this durably.
    pub(super) claims: Option<(u64, LogIndex)>,
    /// The same, from the next start on.
    pub(super) claims_at_start: Option<(u64, LogIndex)>,
}

impl Journal {
    /// What a node's machines begin with after a restart: they are volatile.
    pub(super) fn of_next_life(&self) -> Self {
        Self {
            releases: self.releases,
            keeps: self.keeps.clone(),
            saves_late: self.saves_late.clone(),
            not_made: self.not_made.clone(),
            claims: self.claims_at_start,
            ..Self::default()
        }
    }
}

pub(super) type SharedJournal = Rc<RefCell<Journal>>;

struct Recorder {
    group: u64,
    journal: SharedJournal,
    calls: usize,
    saved: LogIndex,
}

impl StateMachine for Recorder {
    fn durable_index(&self) -> Option<LogIndex> {
        let journal = self.journal.borrow();
        if let Some((group, index)) = journal.claims
            && group == self.group
        {
            return Some(index);
        }
        journal.saves_late.contains(&self.group).then_some(self.saved)
    }

    fn apply(&mut self, batch: &mut Batch<'_>) -> Result<(), MachineError> {
        self.calls += 1;
        let mut journal = self.journal.borrow_mut();
        while let Some(command) = batch.next() {
            let fails_at = journal.fails_at.as_ref();
            if fails_at.is_some_and(|at| *at == (self.group, command.payload.to_vec())) {
                return Err("the table is gone".into());
            }
            let applied = journal.applied.entry(self.group).or_default();
            applied.push((command.index, command.term, command.payload.to_vec()));
            batch.reply(match journal.reply_bytes {
                Some(bytes) => vec![7; bytes],
                None => command.payload.iter().rev().copied().collect(),
            });
        }
        if self.calls.is_multiple_of(10)
            && let Some((index, _, _)) = journal.applied.entry(self.group).or_default().last()
        {
            self.saved = *index;
        }
        Ok(())
    }

    fn released_index(&self) -> LogIndex {
        let journal = self.journal.borrow();
        if journal.saves_late.contains(&self.group) {
            return self.saved;
        }
        let applied = journal
            .applied
            .get(&self.group)
            .filter(|_| journal.releases && !journal.keeps.contains(&self.group));
        let last = applied.and_then(|applied| applied.last());
        last.map_or(LogIndex(0), |(index, _, _)| *index)
    }

    fn event(&mut self, event: Event) {
        self.journal.borrow_mut().events.push((self.group, event));
    }
}

/// Journals on their way to the factory, which must be `Send`; tests have one thread.
struct OneThread<T>(T);

// SAFETY: the factory is made, called and dropped on the one thread of its test.
#[allow(unsafe_code)]
unsafe impl<T> Send for OneThread<T> {}

impl<T: Clone> OneThread<T> {
    fn get(&self) -> T {
        self.0.clone()
    }
}

/// Machines of kind "recorder" that write into this journal.
pub(super) fn recorders(journal: &SharedJournal) -> Machines {
    let journal = Mutex::new(OneThread(Rc::clone(journal)));
    Machines::new().register("recorder", move |group: GroupId| {
        let journal = journal.lock().expect("one thread").get();
        if journal.borrow().not_made.contains(&group.0) {
            return Err("its table can't be opened".into());
        }
        Ok(Box::new(Recorder {
            group: group.0,
            journal,
            calls: 0,
            saved: LogIndex(0),
        }))
    })
}

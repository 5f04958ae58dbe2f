//! A log that was really written, with all that was ever in it, frame by frame.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use pontoon::storage::memory::MemoryVolume;
use pontoon::storage::{
    DiskOp, EntryId, GroupId, LogConfig, LogIndex, NodeId, RecordKind, Term, Volume,
};

use super::bytes::Bytes;
use super::open_log::{Entry, OpenLog};

use crate::settings::SEGMENT_BYTES;

/// A group as the log should hold it.
#[derive(Clone, Default, PartialEq, Eq)]
pub(super) struct Group {
    pub(super) definition: Vec<u8>,
    pub(super) term: u64,
    pub(super) vote: Option<u64>,
    pub(super) compacted: (u64, u64),
    /// Those after the compacted ones.
    pub(super) entries: Vec<Entry>,
}

impl fmt::Debug for Group {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stamp = |payload: &[u8]| payload.first().copied();
        let entries = self
            .entries
            .iter()
            .map(|(term, payload)| (term, stamp(payload)));
        let Self {
            term,
            vote,
            compacted,
            ..
        } = self;
        write!(
            formatter,
            "term {term} vote {vote:?} compacted {compacted:?} entries (term, stamp) {:?}",
            entries.collect::<Vec<_>>()
        )
    }
}

impl Group {
    fn last(&self) -> (u64, u64) {
        let term = self.entries.last().map_or(self.compacted.1, |last| last.0);
        (self.compacted.0 + self.entries.len() as u64, term)
    }

    /// Keeps the entries up to `index`, which is not compacted.
    fn keep(&mut self, index: u64) {
        let kept = usize::try_from(index - self.compacted.0).expect("a short log");
        self.entries.truncate(kept);
    }
}

/// All groups.
pub(super) type Groups = BTreeMap<u64, Group>;

/// One write, as it was when it was durable.
pub(super) struct Write {
    pub(super) slot: u32,
    pub(super) start: usize,
    pub(super) bytes: Vec<u8>,
    /// What lay there before.
    pub(super) before: Vec<u8>,
    /// The frame that it says was durable, as was every one before it.
    pub(super) witnesses: u64,
}

/// The log and what was written.
pub(super) struct WrittenLog {
    pub(super) open: OpenLog,
    pub(super) groups: Groups,
    /// What the log holds once a frame is durable.
    pub(super) after_frame: BTreeMap<u64, Groups>,
    /// Every entry that was ever staged, with its group and index.
    pub(super) entries: BTreeSet<(u64, u64, Entry)>,
    pub(super) writes: Vec<Write>,
    stamp: u64,
    /// The least term of a group's next entry.
    next_terms: BTreeMap<u64, u64>,
}

/// Groups of a script.
const GROUPS: usize = 4;

impl WrittenLog {
    pub(super) fn new(config: &LogConfig) -> Self {
        let volume = MemoryVolume::new(SEGMENT_BYTES);
        let open = OpenLog::open(volume, config).expect("an empty disk opens");
        let mut written = Self {
            groups: Groups::new(),
            after_frame: BTreeMap::from([(open.log.durable_frame(), Groups::new())]),
            open,
            entries: BTreeSet::new(),
            writes: Vec::new(),
            stamp: 0,
            next_terms: BTreeMap::new(),
        };
        written.note_epoch(&MemoryVolume::new(SEGMENT_BYTES));
        written
    }

    /// Does what the next bytes of a script say.
    pub(super) fn step(&mut self, script: &mut Bytes<'_>, config: &LogConfig) {
        let (what, how) = (script.byte(), script.byte());
        let id = 1 + u64::from(how) % GROUPS as u64;
        let how = how / GROUPS as u8;
        if !self.groups.contains_key(&id) {
            return self.create(id);
        }
        match what % 16 {
            0..=4 => self.append(id, 0, 1 + how % 4, usize::from(how / 4) * 40),
            5 => self.append(id, 0, 1 + how % 4, 3_000),
            6 => self.append(id, 1 + u64::from(how % 4), 1 + how / 4 % 4, 20),
            7 => self.save_hard_state(id, u64::from(how)),
            8 => self.truncate(id, u64::from(how % 4)),
            9 => self.compact(id, u64::from(how % 8)),
            10 if how == 0 => self.drop_group(id),
            10..=13 => self.flush(1 + usize::from(how % 3)),
            14 => self.idle(),
            _ => self.reopen(config),
        }
    }

    /// What is staged now is in the log once its frame is durable.
    fn note(&mut self) {
        if self.open.log.staged() {
            let frame = self.open.log.open_frame();
            self.after_frame.insert(frame, self.groups.clone());
        }
    }

    fn create(&mut self, id: u64) {
        let definition = format!("definition of group {id}").into_bytes();
        if self.open.log.create_group(GroupId(id), &definition).is_ok() {
            let group = Group {
                definition,
                ..Group::default()
            };
            self.groups.insert(id, group);
            self.note();
        }
    }

    fn drop_group(&mut self, id: u64) {
        if self.open.log.drop_group(GroupId(id)).is_ok() {
            self.groups.remove(&id);
            // Another life begins with its first term again.
            self.next_terms.remove(&id);
            self.note();
        }
    }

    /// Appends entries beginning `back` before the end, in a new term if they override.
    fn append(&mut self, id: u64, back: u64, count: u8, length: usize) {
        for position in 0..u64::from(count) {
            let group = self.groups.get_mut(&id).expect("it was made");
            let (last, term) = group.last();
            let back = if position == 0 { back } else { 0 };
            let index = (last + 1).saturating_sub(back).max(group.compacted.0 + 1);
            // As in Raft: an index holds one entry of a term, ever.
            let next_term = self.next_terms.entry(id).or_insert(1);
            *next_term = (*next_term).max(term + u64::from(index <= last));
            let term = *next_term;
            self.stamp += 1;
            let mut payload = self.stamp.to_le_bytes().to_vec();
            payload.resize(8 + length, self.stamp as u8);
            let kind = RecordKind::Command;
            let log = &mut self.open.log;
            let entry = EntryId::new(LogIndex(index), Term(term));
            if log
                .append_command(GroupId(id), entry, kind, &payload)
                .is_err()
            {
                return;
            }
            group.keep(index - 1);
            group.entries.push((term, payload.clone()));
            self.entries.insert((id, index, (term, payload)));
            self.note();
        }
    }

    fn save_hard_state(&mut self, id: u64, vote: u64) {
        let group = self.groups.get_mut(&id).expect("it was made");
        let (term, vote) = (group.term + 1, (!vote.is_multiple_of(3)).then_some(vote));
        let (durable_term, voted_for) = (Term(term), vote.map(NodeId));
        let log = &mut self.open.log;
        if log
            .save_hard_state(GroupId(id), durable_term, voted_for)
            .is_ok()
        {
            (group.term, group.vote) = (term, vote);
            self.note();
        }
    }

    fn truncate(&mut self, id: u64, back: u64) {
        let group = self.groups.get_mut(&id).expect("it was made");
        let index = group.last().0.saturating_sub(back).max(group.compacted.0);
        let mut kept = group.clone();
        kept.keep(index);
        let last = EntryId::new(LogIndex(index), Term(kept.last().1));
        if self.open.log.truncate_suffix(GroupId(id), last).is_ok() {
            let next_term = self.next_terms.entry(id).or_insert(1);
            *next_term = (*next_term).max(group.last().1 + 1);
            *group = kept;
            self.note();
        }
    }

    fn compact(&mut self, id: u64, keep: u64) {
        let group = self.groups.get_mut(&id).expect("it was made");
        let index = group.last().0.saturating_sub(keep);
        if index > group.compacted.0 {
            let gone = usize::try_from(index - group.compacted.0).expect("a short log");
            let term = group.entries[gone - 1].0;
            group.entries.drain(..gone);
            group.compacted = (index, term);
            let compacted = EntryId::new(LogIndex(index), Term(term));
            self.open.log.compact(GroupId(id), compacted);
            self.note();
        }
    }

    /// Writes what is staged, with so many writes under way at once.
    fn flush(&mut self, places: usize) {
        self.open.log.set_writes_in_flight(places);
        loop {
            let mut under_way = Vec::new();
            while let Some(write) = self.seal() {
                under_way.push(write);
            }
            if under_way.is_empty() {
                return;
            }
            for write in under_way {
                self.carry_out(write);
            }
            self.open.prepare();
        }
    }

    fn seal(&mut self) -> Option<(DiskOp, u64)> {
        let witnesses = self.open.log.durable_frame();
        self.open.log.seal().map(|write| (write, witnesses))
    }

    fn idle(&mut self) {
        self.flush(1);
        loop {
            let witnesses = self.open.log.durable_frame();
            let Some(mark) = self.open.log.idle() else {
                return;
            };
            self.carry_out((mark, witnesses));
        }
    }

    fn carry_out(&mut self, (mut write, witnesses): (DiskOp, u64)) {
        if let DiskOp::Write {
            slot,
            offset,
            bytes,
            ..
        } = &write
        {
            let (start, bytes) = (*offset as usize, bytes.as_ref().to_vec());
            let image = self.open.volume.image(*slot).expect("it was prepared");
            let before = image[start..start + bytes.len()].to_vec();
            self.writes.push(Write {
                slot: *slot,
                start,
                bytes,
                before,
                witnesses,
            });
        }
        let result = self.open.volume.run(&mut write);
        let taken = self.open.log.on_complete(write.id(), result);
        assert_eq!(taken, Ok(()), "the disk is sound");
    }

    /// The process ends and starts again: what was not written is gone.
    fn reopen(&mut self, config: &LogConfig) {
        let before = self.open.volume.clone();
        let durable = self.open.log.durable_frame();
        self.after_frame.retain(|frame, _| *frame <= durable);
        let last = self.after_frame.last_key_value();
        self.groups = last.expect("there is always one").1.clone();
        let mut open = OpenLog::open(before.clone(), config).expect("a sound log opens");
        assert!(
            open.recovery.report.damage.is_empty(),
            "nothing was damaged"
        );
        assert_eq!(found(&mut open), self.groups, "what was durable is there");
        self.open = open;
        self.after_frame
            .insert(self.open.log.durable_frame(), self.groups.clone());
        self.note_epoch(&before);
    }

    /// The header of a new epoch was written by recovery.
    fn note_epoch(&mut self, before: &MemoryVolume) {
        const BLOCK: usize = 4096;
        for slot in self.open.volume.slots() {
            let image = &self.open.volume.image(slot).expect("it was listed")[..BLOCK];
            let blank = [0; BLOCK];
            let was = before
                .image(slot)
                .map_or(&blank[..], |image| &image[..BLOCK]);
            if image != was {
                self.writes.push(Write {
                    slot,
                    start: 0,
                    bytes: image.to_vec(),
                    before: was.to_vec(),
                    witnesses: self.open.log.durable_frame(),
                });
            }
        }
    }

    /// The log is closed with everything written.
    pub(super) fn finish(&mut self) {
        self.flush(1);
    }
}

/// What a log was found to hold, tainted groups included.
pub(super) fn found(open: &mut OpenLog) -> Groups {
    let contents = open.contents();
    let groups = open.recovery.groups.iter().zip(contents);
    let found = groups.map(|(group, (id, entries))| {
        let held = Group {
            definition: group.definition.clone(),
            term: group.current_term.0,
            vote: group.voted_for.map(|node| node.0),
            compacted: (group.compacted.index.0, group.compacted.term.0),
            entries,
        };
        (id, held)
    });
    found.collect()
}

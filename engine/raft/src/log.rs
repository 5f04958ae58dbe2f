//! A replica's log without its bytes: terms by runs, sizes of the newest entries, what is durable.
//!
//! ```text
//!  compacted | runs of equal terms            | last_index
//!  ----------+-----------+---------+----------+
//!       gone | 3 3 3 3 3 | 5 5 5 5 | 6 6 6 6  |
//!  ----------+-----------+---------+----^-----+
//!                                       durable_index: an acknowledged write holds it
//! ```

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use crate::config::Boot;
use crate::message::EntryMeta;
use crate::sizes::{EntryRun, Sizes};
use pontoon_types::{EntryId, LogIndex, Term, WriteSequence};

/// One replica's log without its bytes.
#[derive(Clone, Debug)]
pub(crate) struct Log {
    /// Last entry the log no longer holds.
    compacted: EntryId,
    /// First entry of each run of equal terms. Invariant: indexes and terms strictly ascend.
    runs: Vec<EntryId>,
    last_index: LogIndex,
    sizes: Sizes,
    /// Number of the newest write.
    sequence: WriteSequence,
    /// Writes not yet durable, with the last index each holds that no later one replaced.
    writes: VecDeque<Write>,
    durable_index: LogIndex,
    /// Writes that were acknowledged after some of what they held had been replaced.
    stale_acknowledgements: u64,
}

/// A write that is not durable yet.
#[derive(Clone, Copy, Debug)]
struct Write {
    sequence: WriteSequence,
    /// The last index it holds that no later one replaced.
    last: LogIndex,
    /// Something that it held was replaced: its acknowledgement does not speak for that.
    clipped: bool,
}

impl Log {
    pub(crate) fn new(boot: &Boot) -> Self {
        let log = Self {
            compacted: boot.compacted,
            runs: boot.terms.clone(),
            last_index: boot.last_index,
            sizes: Sizes::new(boot.compacted.index, &boot.sizes),
            sequence: WriteSequence(0),
            writes: VecDeque::new(),
            durable_index: boot.last_index,
            stale_acknowledgements: 0,
        };
        log.check_invariants();
        log
    }

    pub(crate) fn last_index(&self) -> LogIndex {
        self.last_index
    }

    pub(crate) fn last_term(&self) -> Term {
        self.runs.last().map_or(self.compacted.term, |run| run.term)
    }

    /// The last entry.
    pub(crate) fn last(&self) -> EntryId {
        EntryId::new(self.last_index, self.last_term())
    }

    /// The entry before the first.
    pub(crate) fn compacted(&self) -> EntryId {
        self.compacted
    }

    pub(crate) fn durable_index(&self) -> LogIndex {
        self.durable_index
    }

    pub(crate) fn sequence(&self) -> WriteSequence {
        self.sequence
    }

    /// The term of the entry at `index`, unless it is compacted or not there yet.
    pub(crate) fn term_at(&self, index: LogIndex) -> Option<Term> {
        if index == self.compacted.index {
            return Some(self.compacted.term);
        }
        if index < self.compacted.index || index > self.last_index {
            return None;
        }
        let run = self.runs.partition_point(|run| run.index <= index);
        Some(self.runs[run - 1].term)
    }

    /// The last entry at or below `limit` of a term at or below `term`: where two logs may still
    /// agree. Skips whole terms (thesis 3.5, the optimisation at its end).
    pub(crate) fn find_conflict_by_term(&self, limit: LogIndex, term: Term) -> EntryId {
        let limit = limit.min(self.last_index);
        let mut end = limit;
        for run in self.runs.iter().rev() {
            if run.index > limit {
                continue;
            }
            if run.term <= term {
                return EntryId::new(end, run.term);
            }
            end = run.index.previous();
        }
        self.compacted
    }

    /// Adds one entry at the end. Every entry comes through here: a leader's own, a proposed and
    /// a received one.
    pub(crate) fn append(&mut self, entry: EntryMeta) {
        let EntryMeta { term, bytes, .. } = entry;
        assert!(term >= self.last_term(), "terms never decrease along a log");
        self.last_index = self.last_index.next();
        if self.runs.last().is_none_or(|run| run.term < term) {
            self.runs.push(EntryId::new(self.last_index, term));
        }
        self.sizes.push(EntryRun {
            last: self.last_index,
            bytes: u64::from(bytes),
        });
    }

    /// Forgets the entries from `first` on. They stop being durable: an acknowledgement of the
    /// write that held them speaks only for what stands before.
    ///
    /// `keep_writes` is a mutant: then a late acknowledgement speaks for what replaced them.
    pub(crate) fn truncate(&mut self, first: LogIndex, keep_writes: bool) {
        assert!(
            first > self.compacted.index,
            "a compacted entry is committed"
        );
        self.sizes.truncate(first);
        self.last_index = first.previous();
        while self.runs.last().is_some_and(|run| run.index >= first) {
            self.runs.pop();
        }
        self.durable_index = self.durable_index.min(self.last_index);
        if keep_writes {
            return;
        }
        for write in &mut self.writes {
            write.clipped |= write.last > self.last_index;
            write.last = write.last.min(self.last_index);
        }
    }

    /// Everything given to be persisted since the last call is one write.
    pub(crate) fn begin_write(&mut self) -> WriteSequence {
        self.sequence.0 += 1;
        self.writes.push_back(Write {
            sequence: self.sequence,
            last: self.last_index,
            clipped: false,
        });
        self.sequence
    }

    /// All writes up to this one are durable. Late and repeated calls change nothing.
    pub(crate) fn on_persisted(&mut self, sequence: WriteSequence) {
        assert!(
            sequence <= self.sequence,
            "the disk acknowledged a write never made"
        );
        while let Some(write) = self.writes.front().copied() {
            if write.sequence > sequence {
                break;
            }
            self.durable_index = self.durable_index.max(write.last.min(self.last_index));
            self.stale_acknowledgements += u64::from(write.clipped);
            self.writes.pop_front();
        }
    }

    /// Whether a write has been acknowledged, and everything before it.
    pub(crate) fn is_persisted(&self, sequence: WriteSequence) -> bool {
        self.writes
            .front()
            .is_none_or(|oldest| sequence < oldest.sequence)
    }

    pub(crate) fn stale_acknowledgements(&self) -> u64 {
        self.stale_acknowledgements
    }

    /// Forgets the entries up to `index`.
    pub(crate) fn compact(&mut self, index: LogIndex) {
        let Some(term) = self.term_at(index) else {
            return;
        };
        let first_kept = index.next();
        // The run that holds `index` loses its beginning, or all of it if the next run, or nothing,
        // follows `index`.
        let begun = self.runs.partition_point(|run| run.index <= index);
        let next_run = self.runs.get(begun).map(|run| run.index);
        let whole = index == self.last_index || next_run == Some(first_kept);
        self.runs.drain(
            ..if whole {
                begun
            } else {
                begun.saturating_sub(1)
            },
        );
        if !whole && let Some(run) = self.runs.first_mut() {
            run.index = run.index.max(first_kept);
        }
        self.compacted = EntryId::new(index, term);
        self.sizes.compact(index);
    }

    /// How many entries from `first` on, and their bytes, make a message within these bounds.
    pub(crate) fn batch(&self, first: LogIndex, count_max: u64, bytes_max: u64) -> (u64, u64) {
        self.sizes.batch(first, count_max, bytes_max)
    }

    pub(crate) fn check_invariants(&self) {
        assert!(
            self.compacted.index <= self.last_index,
            "a log ends at or after its compacted point"
        );
        assert!(
            self.durable_index <= self.last_index,
            "what is not there can't be durable"
        );
        assert_eq!(
            self.runs.is_empty(),
            self.compacted.index == self.last_index,
            "every entry has a term"
        );
        if let Some(first) = self.runs.first() {
            assert_eq!(
                first.index,
                self.compacted.index.next(),
                "the first run begins the log"
            );
            assert!(
                first.term >= self.compacted.term,
                "terms never decrease along a log"
            );
        }
        for pair in self.runs.windows(2) {
            let ascend = pair[0].index < pair[1].index && pair[0].term < pair[1].term;
            assert!(ascend, "runs ascend");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::EntryKind;

    /// The door for an entry that means something to Raft itself, such as a membership: whoever
    /// made it, it is appended here, with its kind.
    #[test]
    fn an_entry_of_any_kind_comes_through_append_and_goes_with_truncate() {
        let mut log = Log::new(&Boot::default());
        let kinds = [EntryKind::Noop, EntryKind::Command, EntryKind::Membership];
        for kind in kinds {
            let (term, bytes) = (Term(1), 48);
            log.append(EntryMeta { term, bytes, kind });
        }
        assert_eq!(log.last(), EntryId::new(LogIndex(3), Term(1)));
        log.truncate(LogIndex(3), false);
        assert_eq!(log.last(), EntryId::new(LogIndex(2), Term(1)));
        log.check_invariants();
    }
}

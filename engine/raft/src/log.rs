//! What the core knows of its log: terms by runs, sizes of the newest entries, and what is durable.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use crate::config::Boot;
use pontoon_types::{LogIndex, Term, WriteSequence};

/// Sizes are kept for this many of the newest entries.
const SIZES_MAX: usize = 1 << 16;

/// Assumed size of an entry too old for its own to be known: large, so that few go at once.
const OLD_ENTRY_BYTES: u32 = 16 << 10;

/// One replica's log without its bytes.
#[derive(Clone, Debug)]
pub(crate) struct Log {
    /// Last entry the log no longer holds.
    compacted: (LogIndex, Term),
    /// First index and term of each run of equal terms. Invariant: both strictly ascend.
    runs: Vec<(LogIndex, Term)>,
    last_index: LogIndex,
    /// Sizes of the newest entries, the last one last.
    sizes: VecDeque<u32>,
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
            sizes: VecDeque::new(),
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
        self.runs.last().map_or(self.compacted.1, |&(_, term)| term)
    }

    pub(crate) fn compacted(&self) -> (LogIndex, Term) {
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
        if index == self.compacted.0 {
            return Some(self.compacted.1);
        }
        if index < self.compacted.0 || index > self.last_index {
            return None;
        }
        let run = self.runs.partition_point(|&(first, _)| first <= index);
        Some(self.runs[run - 1].1)
    }

    /// The greatest index not above `limit` whose term is not above `term`, and its term: where
    /// two logs may still agree. Skips whole terms (thesis 3.5, the optimisation at its end).
    pub(crate) fn last_not_above(&self, limit: LogIndex, term: Term) -> (LogIndex, Term) {
        let limit = limit.min(self.last_index);
        let mut end = limit;
        for &(first, run_term) in self.runs.iter().rev() {
            if first > limit {
                continue;
            }
            if run_term <= term {
                return (end, run_term);
            }
            end = first.previous();
        }
        self.compacted
    }

    pub(crate) fn append(&mut self, term: Term, bytes: u32) {
        assert!(term >= self.last_term(), "terms never decrease along a log");
        self.last_index = self.last_index.next();
        if self.runs.last().is_none_or(|&(_, last)| last < term) {
            self.runs.push((self.last_index, term));
        }
        if self.sizes.len() == SIZES_MAX {
            self.sizes.pop_front();
        }
        self.sizes.push_back(bytes);
    }

    /// Forgets the entries from `first` on. They stop being durable: an acknowledgement of the
    /// write that held them speaks only for what stands before.
    ///
    /// `keep_writes` is a mutant: then a late acknowledgement speaks for what replaced them.
    pub(crate) fn truncate(&mut self, first: LogIndex, keep_writes: bool) {
        assert!(first > self.compacted.0, "a compacted entry is committed");
        let removed = self.last_index.0 + 1 - first.0;
        let kept = self
            .sizes
            .len()
            .saturating_sub(usize::try_from(removed).unwrap_or(usize::MAX));
        self.sizes.truncate(kept);
        self.last_index = first.previous();
        while self.runs.last().is_some_and(|&(run, _)| run >= first) {
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
    pub(crate) fn wrote(&mut self) -> WriteSequence {
        self.sequence.0 += 1;
        self.writes.push_back(Write {
            sequence: self.sequence,
            last: self.last_index,
            clipped: false,
        });
        self.sequence
    }

    /// All writes up to this one are durable. Late and repeated calls change nothing.
    pub(crate) fn persisted(&mut self, sequence: WriteSequence) {
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

    pub(crate) fn stale_acknowledgements(&self) -> u64 {
        self.stale_acknowledgements
    }

    pub(crate) fn compact(&mut self, index: LogIndex) {
        let Some(term) = self.term_at(index) else {
            return;
        };
        let gone = self.runs.partition_point(|&(first, _)| first <= index);
        if gone > 0 {
            self.runs.drain(..gone - 1);
            if index == self.last_index {
                self.runs.clear();
            } else {
                self.runs[0].0 = self.runs[0].0.max(index.next());
                if self
                    .runs
                    .get(1)
                    .is_some_and(|&(first, _)| first == index.next())
                {
                    self.runs.remove(0);
                }
            }
        }
        self.compacted = (index, term);
    }

    pub(crate) fn size_at(&self, index: LogIndex) -> u32 {
        let from_end = usize::try_from(self.last_index.0 - index.0).unwrap_or(usize::MAX);
        let position = self.sizes.len().checked_sub(from_end.saturating_add(1));
        position.map_or(OLD_ENTRY_BYTES, |position| self.sizes[position])
    }

    pub(crate) fn check_invariants(&self) {
        assert!(
            self.compacted.0 <= self.last_index,
            "a log ends at or after its compacted point"
        );
        assert!(
            self.durable_index <= self.last_index,
            "what is not there can't be durable"
        );
        assert_eq!(
            self.runs.is_empty(),
            self.compacted.0 == self.last_index,
            "every entry has a term"
        );
        if let Some(&(first, term)) = self.runs.first() {
            assert_eq!(
                first,
                self.compacted.0.next(),
                "the first run begins the log"
            );
            assert!(term >= self.compacted.1, "terms never decrease along a log");
        }
        for pair in self.runs.windows(2) {
            assert!(
                pair[0].0 < pair[1].0 && pair[0].1 < pair[1].1,
                "runs ascend"
            );
        }
    }
}

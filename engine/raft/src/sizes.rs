//! How many bytes entries have: exactly for large ones, on average for runs of small ones, so that
//! it costs little memory however many there are.

use alloc::collections::VecDeque;

use pontoon_types::LogIndex;

/// A run ends with the entry that brings it to so many bytes, or to so many entries. An entry of so
/// many bytes is a run of its own.
const RUN_BYTES: u64 = 64 << 10;
const RUN_ENTRIES: u64 = 1024;

/// Bytes of some entries that follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryRun {
    /// Index of the last one.
    pub last: LogIndex,
    /// Bytes of all of them.
    pub bytes: u64,
}

/// Sizes of all entries of a log.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sizes {
    /// Everything up to here is compacted.
    before: LogIndex,
    /// Ascending, each from the one before, or from `before`. The last one still grows.
    runs: VecDeque<EntryRun>,
}

impl Sizes {
    pub(crate) fn new(before: LogIndex, runs: &[EntryRun]) -> Self {
        let mut sizes = Self {
            before,
            runs: VecDeque::new(),
        };
        for run in runs {
            sizes.push(*run);
        }
        sizes
    }

    /// Adds entries behind the last ones.
    pub(crate) fn push(&mut self, added: EntryRun) {
        if added.last <= self.before {
            return;
        }
        let first = self.first_of(self.runs.len().saturating_sub(1));
        match self.runs.back_mut() {
            Some(run)
                if run.bytes + added.bytes <= RUN_BYTES && added.last.0 - first.0 < RUN_ENTRIES =>
            {
                run.last = added.last;
                run.bytes += added.bytes;
            }
            _ => self.runs.push_back(added),
        }
    }

    /// Index of the first entry of a run.
    fn first_of(&self, position: usize) -> LogIndex {
        let before = position.checked_sub(1).map(|before| self.runs[before].last);
        before.unwrap_or(self.before).next()
    }

    /// Forgets the entries from `first` on.
    pub(crate) fn truncate(&mut self, first: LogIndex) {
        while let Some(run) = self.runs.back().copied() {
            let begins = self.first_of(self.runs.len() - 1);
            if run.last < first {
                return;
            }
            self.runs.pop_back();
            if begins < first {
                let (kept, all) = (first.0 - begins.0, run.last.0 + 1 - begins.0);
                self.runs.push_back(EntryRun {
                    last: first.previous(),
                    bytes: run.bytes * kept / all,
                });
            }
        }
    }

    /// Forgets the entries up to `index`.
    pub(crate) fn compact(&mut self, index: LogIndex) {
        while let Some(run) = self.runs.front().filter(|run| run.last <= index) {
            self.before = run.last;
            self.runs.pop_front();
        }
        if let Some(run) = self.runs.front_mut()
            && self.before < index
        {
            let (kept, all) = (run.last.0 - index.0, run.last.0 - self.before.0);
            run.bytes = run.bytes * kept / all;
        }
        self.before = self.before.max(index);
    }

    /// Bytes of an entry, or the average of the run of small ones that it is in.
    pub(crate) fn size_at(&self, index: LogIndex) -> u64 {
        // Mostly it is one of the last that were added.
        let last = self.runs.len().saturating_sub(1);
        let position = if index >= self.first_of(last) {
            last
        } else {
            self.runs.partition_point(|run| run.last < index)
        };
        let Some(run) = self.runs.get(position) else {
            return 0;
        };
        let count = run.last.0 + 1 - self.first_of(position).0;
        run.bytes.div_ceil(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(index: u64, bytes: u64) -> EntryRun {
        let last = LogIndex(index);
        EntryRun { last, bytes }
    }

    #[test]
    fn large_entries_keep_their_size_and_small_ones_share_an_average() {
        let mut sizes = Sizes::new(LogIndex(0), &[]);
        for index in 1..=10 {
            sizes.push(entry(index, if index == 5 { 256 << 10 } else { 100 }));
        }
        assert_eq!(sizes.size_at(LogIndex(3)), 100);
        assert_eq!(sizes.size_at(LogIndex(5)), 256 << 10);
        assert_eq!(sizes.size_at(LogIndex(10)), 100);
        assert_eq!(sizes.runs.len(), 3);
        sizes.truncate(LogIndex(9));
        assert_eq!(sizes.size_at(LogIndex(8)), 100);
        sizes.push(entry(9, 300));
        assert_eq!(sizes.size_at(LogIndex(9)), 150);
        sizes.compact(LogIndex(5));
        assert_eq!(sizes.runs.len(), 1);
        sizes.compact(LogIndex(8));
        assert_eq!(sizes.size_at(LogIndex(9)), 150);
    }

    #[test]
    fn a_million_small_entries_cost_little() {
        let mut sizes = Sizes::new(LogIndex(0), &[]);
        for index in 1..=1_000_000 {
            sizes.push(entry(index, 48));
        }
        assert!(sizes.runs.len() <= 1_000);
        sizes.compact(LogIndex(1_000_000));
        assert!(sizes.runs.is_empty());
        assert_eq!(sizes.size_at(LogIndex(1_000_001)), 0);
    }

    #[test]
    fn what_a_disk_held_is_known_after_a_restart() {
        let runs = [entry(100, 25_600_000), entry(200, 4_800)];
        let sizes = Sizes::new(LogIndex(50), &runs);
        assert!(sizes.size_at(LogIndex(70)) >= 256_000);
        assert_eq!(sizes.size_at(LogIndex(150)), 48);
    }
}

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
    /// Ascending and without gaps, from the entry after `before` on. The last one still grows.
    runs: VecDeque<Run>,
}

/// Entries that follow each other.
#[derive(Clone, Copy, Debug)]
struct Run {
    first: LogIndex,
    last: LogIndex,
    /// Bytes of all of them.
    bytes: u64,
}

impl Run {
    fn count(&self) -> u64 {
        self.last.0 + 1 - self.first.0
    }

    /// Bytes of each, on average.
    fn average(&self) -> u64 {
        self.bytes.div_ceil(self.count())
    }

    /// Keeps the entries `first..=last` of it, and their part of the bytes.
    fn clip(&mut self, first: LogIndex, last: LogIndex) {
        let all = self.count();
        (self.first, self.last) = (first, last);
        self.bytes = self.bytes * self.count() / all;
    }
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
        let EntryRun { last, bytes } = added;
        match self.runs.back_mut() {
            Some(run) if run.bytes + bytes <= RUN_BYTES && last.0 - run.first.0 < RUN_ENTRIES => {
                (run.last, run.bytes) = (last, run.bytes + bytes);
            }
            back => {
                let first = back.map_or(self.before, |run| run.last).next();
                if first <= last {
                    self.runs.push_back(Run { first, last, bytes });
                }
            }
        }
    }

    /// Forgets the entries from `first` on.
    pub(crate) fn truncate(&mut self, first: LogIndex) {
        while self.runs.back().is_some_and(|run| run.first >= first) {
            self.runs.pop_back();
        }
        if let Some(run) = self.runs.back_mut().filter(|run| run.last >= first) {
            run.clip(run.first, first.previous());
        }
    }

    /// Forgets the entries up to `index`.
    pub(crate) fn compact(&mut self, index: LogIndex) {
        while self.runs.front().is_some_and(|run| run.last <= index) {
            self.runs.pop_front();
        }
        if let Some(run) = self.runs.front_mut().filter(|run| run.first <= index) {
            run.clip(index.next(), run.last);
        }
        self.before = self.before.max(index);
    }

    /// How many entries from `first` on, at most `count_max`, have `bytes_max` bytes together, and
    /// how many they have: at least one, if there is one.
    pub(crate) fn batch(&self, first: LogIndex, count_max: u64, bytes_max: u64) -> (u64, u64) {
        let (mut count, mut bytes) = (0, 0);
        for run in self.runs.range(self.position(first)..) {
            let average = run.average();
            let left = (run.last.0 + 1 - first.0 - count).min(count_max - count);
            let fit = bytes_max.saturating_sub(bytes).checked_div(average);
            let taken = fit.map_or(left, |fit| left.min(fit.max(u64::from(count == 0))));
            (count, bytes) = (count + taken, bytes + taken * average);
            if first.plus(count) <= run.last {
                break;
            }
        }
        (count, bytes)
    }

    /// Position of the run that an entry is in.
    fn position(&self, index: LogIndex) -> usize {
        // Mostly it is the last one.
        let last = self.runs.len().saturating_sub(1);
        if self.runs.back().is_none_or(|run| run.first <= index) {
            last
        } else {
            self.runs.partition_point(|run| run.last < index)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Sizes {
        fn size_at(&self, index: LogIndex) -> u64 {
            self.batch(index, 1, 0).1
        }
    }

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

    /// Runs of 64 KiB in small entries, with a large one between them.
    #[test]
    fn a_batch_is_what_fits_and_never_nothing() {
        let mut sizes = Sizes::new(LogIndex(0), &[]);
        for index in 1..=2000 {
            sizes.push(entry(index, if index == 1000 { 256 << 10 } else { 100 }));
        }
        let batch = |first, count, bytes| sizes.batch(LogIndex(first), count, bytes);
        assert_eq!(batch(1, 4096, 450), (4, 400));
        assert_eq!(batch(1, 3, 450), (3, 300), "no more than there may be");
        assert_eq!(batch(1, 4096, 10), (1, 100), "one always goes");
        assert_eq!(
            batch(600, 4096, 60_000),
            (400, 40_000),
            "up to the large one"
        );
        assert_eq!(batch(1000, 4096, 60_000), (1, 256 << 10));
        assert_eq!(
            batch(999, 4096, 1 << 20),
            (1002, 100 + (256 << 10) + 100_000)
        );
        assert_eq!(batch(2000, 4096, 1 << 20), (1, 100));
        assert_eq!(batch(2001, 4096, 1 << 20), (0, 0), "there is none");
    }
}

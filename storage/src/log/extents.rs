//! Where a group's entries are: extents of entries that follow one another in one frame.

use std::collections::VecDeque;

use pontoon_types::LogIndex;

use super::frames::Frames;

/// Entries of one group in one frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Extent {
    /// Index of the first of them.
    pub(crate) first: LogIndex,
    /// How many there are.
    pub(crate) count: u32,
    /// Number of the frame.
    pub(crate) frame: u64,
    /// Where the first record begins, in bytes from the start of the frame.
    pub(crate) offset: u32,
    /// Bytes from there to the end of the last record; other groups' records may lie between.
    pub(crate) bytes: u32,
    /// Some of the records in these bytes were overridden, so no entry can be added.
    clipped: bool,
}

impl Extent {
    /// The index after the last entry.
    pub(crate) fn end(&self) -> LogIndex {
        self.first.plus(u64::from(self.count))
    }
}

/// Where one record lies.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RecordLocation {
    /// Number of the frame.
    pub(crate) frame: u64,
    /// In bytes from the start of the frame.
    pub(crate) offset: u32,
    /// Its length, padding included.
    pub(crate) bytes: u32,
}

/// All extents of a group, ascending and without gaps. Each holds its frame.
#[derive(Debug, Default)]
pub(crate) struct Extents(VecDeque<Extent>);

impl Extents {
    /// True when no entry is kept.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The oldest extent.
    pub(crate) fn first(&self) -> Option<&Extent> {
        self.0.front()
    }

    /// The extent that holds an index.
    pub(crate) fn of(&self, index: LogIndex) -> Option<&Extent> {
        let position = self.0.partition_point(|extent| extent.end() <= index);
        self.0.get(position).filter(|extent| extent.first <= index)
    }

    /// The last entry of each extent, and the extent's bytes.
    pub(crate) fn runs(&self) -> impl Iterator<Item = (LogIndex, u64)> {
        let extents = self.0.iter();
        extents.map(|extent| (extent.end().previous(), u64::from(extent.bytes)))
    }

    /// Bytes of the extents from the one that holds `first` on.
    pub(crate) fn bytes_from(&self, first: LogIndex) -> u64 {
        let after = self
            .0
            .iter()
            .rev()
            .take_while(|extent| extent.end() > first);
        after.map(|extent| u64::from(extent.bytes)).sum()
    }

    /// Adds an entry above all others: to the last extent, if it follows that in the same frame,
    /// else as a new one.
    pub(crate) fn push(&mut self, index: LogIndex, location: RecordLocation, frames: &mut Frames) {
        let RecordLocation {
            frame,
            offset,
            bytes,
        } = location;
        match self.0.back_mut() {
            Some(last) if last.frame == frame && last.end() == index && !last.clipped => {
                last.count += 1;
                last.bytes = offset + bytes - last.offset;
            }
            _ => {
                frames.hold(frame);
                self.0.push_back(Extent {
                    first: index,
                    count: 1,
                    frame,
                    offset,
                    bytes,
                    clipped: false,
                });
            }
        }
    }

    /// Cuts off the entries from `index` on, and releases the frames of extents that are gone.
    pub(crate) fn truncate(&mut self, index: LogIndex, frames: &mut Frames) {
        while let Some(extent) = self.0.back_mut() {
            if extent.first >= index {
                frames.release(extent.frame);
                self.0.pop_back();
                continue;
            }
            if extent.end() > index {
                extent.count = (index.0 - extent.first.0) as u32;
                extent.clipped = true;
            }
            break;
        }
    }

    /// Forgets extents up to `index`, and releases their frames.
    pub(crate) fn forget(&mut self, index: LogIndex, frames: &mut Frames) {
        while let Some(extent) = self.0.front().filter(|first| first.end() <= index.next()) {
            frames.release(extent.frame);
            self.0.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn location(frame: u64, position: u32) -> RecordLocation {
        RecordLocation {
            frame,
            offset: 64 + 100 * position,
            bytes: 100,
        }
    }

    /// Three extents of four entries each, in frames 1 to 3.
    fn three_extents() -> (Extents, Frames) {
        let (mut extents, mut frames) = (Extents::default(), Frames::new(1));
        for index in 1..=12_u64 {
            let frame = index.div_ceil(4);
            if index % 4 == 1 {
                frames.push(frame);
            }
            let position = ((index - 1) % 4) as u32;
            extents.push(LogIndex(index), location(frame, position), &mut frames);
        }
        (extents, frames)
    }

    fn held(frames: &Frames) -> [u32; 3] {
        [1, 2, 3].map(|frame| frames.extents_in(frame))
    }

    #[test]
    fn entries_that_follow_one_another_in_a_frame_are_one_extent() {
        let (extents, frames) = three_extents();
        let second = extents.of(LogIndex(6)).unwrap();
        assert_eq!((second.first, second.end()), (LogIndex(5), LogIndex(9)));
        assert_eq!((second.frame, second.offset, second.bytes), (2, 64, 400));
        assert_eq!(held(&frames), [1, 1, 1]);
    }

    #[test]
    fn truncation_clips_the_last_extent_and_releases_the_frames_of_those_that_are_gone() {
        let (mut extents, mut frames) = three_extents();
        extents.truncate(LogIndex(7), &mut frames);
        assert_eq!(held(&frames), [1, 1, 0]);
        let clipped = extents.of(LogIndex(6)).map(|extent| extent.count);
        assert_eq!(clipped, Some(2));
        assert_eq!(extents.of(LogIndex(7)), None);
        extents.forget(LogIndex(4), &mut frames);
        assert_eq!(held(&frames), [0, 1, 0]);
    }

    #[test]
    fn nothing_is_added_to_an_extent_that_was_clipped_or_ends_elsewhere() {
        let (mut extents, mut frames) = three_extents();
        extents.truncate(LogIndex(12), &mut frames);
        extents.push(LogIndex(12), location(3, 4), &mut frames);
        assert_eq!(extents.of(LogIndex(12)).map(|it| it.count), Some(1));
        // Compaction may have moved the end of the log while its record waits for memory.
        extents.push(LogIndex(20), location(3, 5), &mut frames);
        assert_eq!(
            extents.of(LogIndex(20)).map(|it| it.first),
            Some(LogIndex(20))
        );
        assert_eq!(held(&frames), [1, 1, 3]);
    }
}

//! Where a group's entries are: extents of entries that follow one another in one frame.

use std::collections::VecDeque;

use pontoon_types::{GroupId, LogIndex};

use super::frames::{Frames, Holder};

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
    /// Bytes of the group's own records among them.
    pub(crate) own_bytes: u32,
    /// Some of the records in these bytes don't belong to the extent, so no entry can be added.
    pub(crate) clipped: bool,
}

impl Extent {
    /// The index after the last entry.
    pub(crate) fn end(&self) -> LogIndex {
        self.first.plus(u64::from(self.count))
    }

    /// Takes in relocated entries, if they are the next ones and lie right behind; false if not.
    pub(crate) fn take_in(&mut self, next: &Self) -> bool {
        let end = (self.frame, self.end(), self.offset + self.bytes);
        let follows = end == (next.frame, next.first, next.offset);
        if follows {
            self.count += next.count;
            self.bytes += next.bytes;
            self.own_bytes += next.own_bytes;
        }
        follows
    }

    /// The extent as its frame's holder.
    fn holder(&self, group: GroupId) -> Holder {
        Holder {
            frame: self.frame,
            group,
            first: self.first,
        }
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

/// All extents of a group, by ascending index and without gaps. Each holds its frame.
#[derive(Debug, Default)]
pub(crate) struct Extents(VecDeque<Extent>);

impl Extents {
    /// True when no entry is kept.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
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
    pub(crate) fn push(
        &mut self,
        (group, index): (GroupId, LogIndex),
        location: RecordLocation,
        frames: &mut Frames,
    ) {
        let RecordLocation {
            frame,
            offset,
            bytes,
        } = location;
        match self.0.back_mut() {
            Some(last) if last.frame == frame && last.end() == index && !last.clipped => {
                last.count += 1;
                last.bytes = offset + bytes - last.offset;
                last.own_bytes += bytes;
            }
            _ => {
                let extent = Extent {
                    first: index,
                    count: 1,
                    frame,
                    offset,
                    bytes,
                    own_bytes: bytes,
                    clipped: false,
                };
                frames.hold(extent.holder(group));
                self.0.push_back(extent);
            }
        }
        frames.grow(frame, bytes);
    }

    /// Says that some entries lie elsewhere from now on: in `moved`, all of them and no others.
    ///
    /// An extent that only has a part of them keeps the rest, in up to two pieces. How many bytes
    /// of records each piece has is not known then, so the later one is counted with all of them.
    pub(crate) fn relocate(&mut self, group: GroupId, moved: Extent, frames: &mut Frames) {
        let (first, end) = (moved.first, moved.end());
        let begin = self.0.partition_point(|extent| extent.end() <= first);
        let behind = self.0.partition_point(|extent| extent.first < end);
        frames.hold(moved.holder(group));
        frames.grow(moved.frame, moved.own_bytes);
        let mut pieces = vec![moved];
        for old in self.0.drain(begin..behind) {
            let (before, after) = (old.first < first, old.end() > end);
            if before {
                frames.shrink(old.frame, old.own_bytes);
                let front = Extent {
                    count: (first.0 - old.first.0) as u32,
                    own_bytes: 0,
                    clipped: true,
                    ..old
                };
                pieces.insert(0, front);
            } else {
                frames.release(old.frame, old.own_bytes);
            }
            if after {
                let back = Extent {
                    first: end,
                    count: (old.end().0 - end.0) as u32,
                    clipped: true,
                    ..old
                };
                frames.hold(back.holder(group));
                frames.grow(back.frame, back.own_bytes);
                pieces.push(back);
            }
        }
        let before = begin.checked_sub(1).map(|before| &mut self.0[before]);
        if pieces[0] == moved && before.is_some_and(|before| before.take_in(&moved)) {
            frames.release(moved.frame, 0);
            pieces.remove(0);
        }
        for (position, piece) in (begin..).zip(pieces) {
            self.0.insert(position, piece);
        }
    }

    /// The extent that a holder names, if it is still there.
    pub(crate) fn held_by(&self, holder: &Holder) -> Option<&Extent> {
        let found = self.of(holder.first);
        found.filter(|extent| (extent.first, extent.frame) == (holder.first, holder.frame))
    }

    /// Cuts off the entries from `index` on, and releases the frames of extents that are gone.
    pub(crate) fn truncate(&mut self, index: LogIndex, frames: &mut Frames) {
        while let Some(extent) = self.0.back_mut() {
            if extent.first >= index {
                frames.release(extent.frame, extent.own_bytes);
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
            frames.release(extent.frame, extent.own_bytes);
            self.0.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GROUP: GroupId = GroupId(7);

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
            extents.push(
                (GROUP, LogIndex(index)),
                location(frame, position),
                &mut frames,
            );
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
        extents.push((GROUP, LogIndex(12)), location(3, 4), &mut frames);
        assert_eq!(extents.of(LogIndex(12)).map(|it| it.count), Some(1));
        // Compaction may have moved the end of the log while its record waits for memory.
        extents.push((GROUP, LogIndex(20)), location(3, 5), &mut frames);
        assert_eq!(
            extents.of(LogIndex(20)).map(|it| it.first),
            Some(LogIndex(20))
        );
        assert_eq!(held(&frames), [1, 1, 3]);
    }

    /// Entries in one frame, 100 bytes each.
    fn moved(first: u64, count: u32, frame: u64) -> Extent {
        Extent {
            first: LogIndex(first),
            count,
            frame,
            offset: 64,
            bytes: 100 * count,
            own_bytes: 100 * count,
            clipped: true,
        }
    }

    fn ranges(extents: &Extents) -> Vec<(u64, u64, u64)> {
        let ranges = extents.0.iter();
        ranges
            .map(|it| (it.first.0, it.end().0, it.frame))
            .collect()
    }

    #[test]
    fn relocated_entries_release_the_frames_they_lay_in() {
        let (mut extents, mut frames) = three_extents();
        frames.push(4);
        extents.relocate(GROUP, moved(1, 8, 4), &mut frames);
        assert_eq!(ranges(&extents), [(1, 9, 4), (9, 13, 3)]);
        assert_eq!(held(&frames), [0, 0, 1]);
        assert!(extents.held_by(&moved(1, 8, 4).holder(GROUP)).is_some());
        assert!(extents.held_by(&moved(5, 4, 2).holder(GROUP)).is_none());
    }

    #[test]
    fn what_is_not_relocated_of_an_extent_stays_where_it_is() {
        let (mut extents, mut frames) = three_extents();
        frames.push(4);
        extents.relocate(GROUP, moved(6, 2, 4), &mut frames);
        let expected = [(1, 5, 1), (5, 6, 2), (6, 8, 4), (8, 9, 2), (9, 13, 3)];
        assert_eq!(ranges(&extents), expected);
        assert_eq!(held(&frames), [1, 2, 1]);
        let frames_held = frames.holders().iter().map(|it| (it.frame, it.first.0));
        let expected = [(1, 1), (2, 5), (2, 8), (3, 9), (4, 6)];
        assert_eq!(frames_held.collect::<Vec<_>>(), expected);
        extents.forget(LogIndex(12), &mut frames);
        assert_eq!((held(&frames), frames.live_bytes()), ([0, 0, 0], 0));
    }
}

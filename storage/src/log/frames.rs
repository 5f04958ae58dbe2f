//! The table of frames: where each is on the disk, which extents of entries it holds, and how much
//! of each segment is still needed for that reason.

use std::collections::{BTreeMap, VecDeque};

use pontoon_types::{GroupId, LogIndex};

/// Extents that are gone are not left out of the list of holders while it is shorter than this.
const HOLDERS_MIN: usize = 4096;

/// Where frames are, by number, and what each still holds.
#[derive(Debug, Default)]
pub(crate) struct Frames {
    first: u64,
    locations: VecDeque<FrameLocation>,
    /// Bytes of records of entries that each segment holds, by sequence; none that holds nothing.
    live_bytes: BTreeMap<u64, u64>,
    /// The extents of all frames, by ascending frame. Some are gone.
    holders: VecDeque<Holder>,
    /// How many of them are not gone.
    held: usize,
    /// How long `holders` may grow before those that are gone are left out.
    holders_max: usize,
}

/// An extent of entries, as it was when it was put into a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Holder {
    pub(crate) frame: u64,
    pub(crate) group: GroupId,
    /// Index of the first entry.
    pub(crate) first: LogIndex,
}

/// Where a frame is.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct FrameLocation {
    pub(crate) slot: u32,
    pub(crate) sequence: u64,
    pub(crate) offset: u64,
    live_extents: u32,
    /// Bytes of the records of these extents.
    live_bytes: u64,
}

impl Frames {
    /// An empty table whose first frame will be `first`.
    pub(crate) fn new(first: u64) -> Self {
        Self {
            first,
            ..Self::default()
        }
    }

    /// Adds a frame. Numbers that were skipped hold nothing.
    pub(crate) fn push(&mut self, number: u64) {
        let end = self.first + self.locations.len() as u64;
        assert!(number >= end, "frame numbers ascend");
        if self.locations.is_empty() {
            self.first = number;
        } else {
            self.locations
                .extend((end..number).map(|_| FrameLocation::default()));
        }
        self.locations.push_back(FrameLocation::default());
    }

    pub(crate) fn get(&self, number: u64) -> Option<&FrameLocation> {
        self.locations
            .get(usize::try_from(number.checked_sub(self.first)?).ok()?)
    }

    /// How many extents a frame holds.
    #[cfg(test)]
    pub(super) fn extents_in(&self, number: u64) -> u32 {
        self.get(number).map_or(0, |frame| frame.live_extents)
    }

    fn get_mut(&mut self, number: u64) -> &mut FrameLocation {
        let position = number
            .checked_sub(self.first)
            .expect("a frame that is held stays listed");
        &mut self.locations[position as usize]
    }

    /// Says where a frame is.
    pub(crate) fn set_location(&mut self, number: u64, slot: u32, sequence: u64, offset: u64) {
        let location = self.get_mut(number);
        (location.slot, location.sequence, location.offset) = (slot, sequence, offset);
        let bytes = location.live_bytes;
        self.change_live_bytes(sequence, 0, bytes);
    }

    /// One more extent is in a frame; records are added to it by [`grow`](Self::grow).
    pub(crate) fn hold(&mut self, holder: Holder) {
        self.get_mut(holder.frame).live_extents += 1;
        self.held += 1;
        let ascends = self.holders.back();
        if ascends.is_none_or(|last| last.frame <= holder.frame) {
            self.holders.push_back(holder);
        } else {
            let position = self.holders.partition_point(|it| it.frame <= holder.frame);
            self.holders.insert(position, holder);
        }
    }

    /// An extent of the frame has got `bytes` more of records.
    pub(crate) fn grow(&mut self, number: u64, bytes: u32) {
        let location = self.get_mut(number);
        location.live_bytes += u64::from(bytes);
        let sequence = location.sequence;
        self.change_live_bytes(sequence, 0, bytes.into());
    }

    /// An extent of the frame has lost `bytes` of records.
    pub(crate) fn shrink(&mut self, number: u64, bytes: u32) {
        let location = self.get_mut(number);
        location.live_bytes -= u64::from(bytes);
        let sequence = location.sequence;
        self.change_live_bytes(sequence, bytes.into(), 0);
    }

    /// One extent of the frame, with `bytes` of records, is gone.
    pub(crate) fn release(&mut self, number: u64, bytes: u32) {
        self.shrink(number, bytes);
        let location = self.get_mut(number);
        location.live_extents = location
            .live_extents
            .checked_sub(1)
            .expect("an extent is released once");
        self.held -= 1;
    }

    /// What a segment holds has changed; one of sequence 0 is that of frames without a place yet.
    fn change_live_bytes(&mut self, sequence: u64, less: u64, more: u64) {
        if sequence == 0 || less == more {
            return;
        }
        let bytes = self.live_bytes.entry(sequence).or_default();
        *bytes = *bytes + more - less;
        if *bytes == 0 {
            self.live_bytes.remove(&sequence);
        }
    }

    /// Bytes of records of entries that a segment holds.
    pub(crate) fn live_bytes_of(&self, sequence: u64) -> u64 {
        self.live_bytes.get(&sequence).copied().unwrap_or(0)
    }

    /// Bytes of records of entries that all segments hold.
    pub(crate) fn live_bytes(&self) -> u64 {
        self.live_bytes.values().sum()
    }

    /// The extents of all frames, by ascending frame. Some are gone.
    pub(crate) fn holders(&self) -> &VecDeque<Holder> {
        &self.holders
    }

    /// Leaves out the first holder, which is gone.
    pub(crate) fn drop_first_holder(&mut self) {
        self.holders.pop_front();
    }

    /// Whether more than half of the holders are gone, and should be left out. To look for them
    /// costs a search in the extents of its group for each.
    pub(crate) fn has_many_holders(&self) -> bool {
        self.holders.len() >= HOLDERS_MIN.max(2 * self.held).max(self.holders_max)
    }

    /// Leaves out the holders that are gone.
    pub(crate) fn retain_holders(&mut self, is_there: impl Fn(&Holder) -> bool) {
        self.holders.retain(is_there);
        self.holders_max = 2 * self.holders.len();
    }

    /// Forgets durable frames at the front that hold nothing; gives the first that is left.
    pub(crate) fn first_held(&mut self, durable_frame: u64) -> u64 {
        while self.first <= durable_frame
            && self
                .locations
                .front()
                .is_some_and(|location| location.live_extents == 0)
        {
            self.locations.pop_front();
            self.first += 1;
        }
        while self.holders.front().is_some_and(|it| it.frame < self.first) {
            self.holders.pop_front();
        }
        if self.locations.is_empty() {
            u64::MAX
        } else {
            self.first
        }
    }
}

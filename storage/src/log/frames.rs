//! The table of frames: where each is on the disk, and how many extents of entries it holds.

use std::collections::VecDeque;

/// Where frames are, by number, and how many extents of entries each still holds.
#[derive(Debug, Default)]
pub(crate) struct Frames {
    first: u64,
    locations: VecDeque<FrameLocation>,
}

/// Where a frame is.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct FrameLocation {
    pub(crate) slot: u32,
    pub(crate) sequence: u64,
    pub(crate) offset: u64,
    live_extents: u32,
}

impl Frames {
    /// An empty table whose first frame will be `first`.
    pub(crate) fn new(first: u64) -> Self {
        Self {
            first,
            locations: VecDeque::new(),
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
    }

    /// One more extent is in the frame.
    pub(crate) fn hold(&mut self, number: u64) {
        self.get_mut(number).live_extents += 1;
    }

    /// One extent of the frame is gone.
    pub(crate) fn release(&mut self, number: u64) {
        let location = self.get_mut(number);
        location.live_extents = location
            .live_extents
            .checked_sub(1)
            .expect("an extent is released once");
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
        if self.locations.is_empty() {
            u64::MAX
        } else {
            self.first
        }
    }
}

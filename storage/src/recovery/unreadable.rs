//! Places that the disk can't read: damage like rot, and no larger than it is.
//!
//! A read that fails is made once more, then in pieces of one block. A piece that can't be read is
//! taken for zeros, which no frame, header or record is.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use crate::disk::Volume;
use crate::error::OpenError;

/// Bytes of a segment that can't be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unreadable {
    /// The segment (file `segment-NNNN`).
    pub slot: u32,
    /// Where in it.
    pub offset: u64,
    /// How many.
    pub bytes: u64,
}

/// What can't be read, or not be written, as far as an opening has come.
#[derive(Debug, Default)]
pub(super) struct BadPlaces {
    /// Offsets of blocks by slot.
    unreadable: BTreeMap<u32, BTreeSet<u64>>,
    /// Slots into which an epoch could not be begun.
    unwritable: BTreeSet<u32>,
    /// Something could be read.
    any_read: bool,
    first_error: Option<OpenError>,
}

impl BadPlaces {
    /// Fills a part of a segment, as far as it can be read, with zeros where not.
    pub(super) fn read(
        &mut self,
        volume: &mut dyn Volume,
        (slot, start): (u32, u64),
        part: &mut [u8],
        block: usize,
    ) -> Result<(), OpenError> {
        let segment = volume.segment_name(slot);
        let named = |offset| OpenError::io(format!("reading {segment} at {offset}"));
        match read_twice(volume, slot, start, part) {
            Ok(()) => {
                self.any_read = true;
                return Ok(());
            }
            Err(error) if !is_of_the_medium(&error) => return Err(named(start)(error)),
            Err(_) => {}
        }
        for (offset, piece) in (start..).step_by(block).zip(part.chunks_mut(block)) {
            match read_twice(volume, slot, offset, piece) {
                Ok(()) => self.any_read = true,
                Err(error) if !is_of_the_medium(&error) => return Err(named(offset)(error)),
                Err(error) => {
                    piece.fill(0);
                    self.first_error.get_or_insert_with(|| named(offset)(error));
                    self.unreadable.entry(slot).or_default().insert(offset);
                }
            }
        }
        Ok(())
    }

    /// A disk of which nothing at all can be read is not damaged in places: it is not there.
    pub(super) fn refuse_dead_disk(&mut self) -> Result<(), OpenError> {
        let dead = self.first_error.take().filter(|_| !self.any_read);
        dead.map_or(Ok(()), Err)
    }

    /// A slot could not be written.
    pub(super) fn note_unwritable(&mut self, slot: u32) {
        self.unwritable.insert(slot);
    }

    /// How many there are of these.
    pub(super) fn unwritable(&self) -> usize {
        self.unwritable.len()
    }

    /// Whether a slot can't be read, or not be written, from an offset on.
    pub(super) fn are_behind(&self, slot: u32, offset: u64) -> bool {
        let mut unreadable = self.unreadable.get(&slot).into_iter().flatten();
        self.unwritable.contains(&slot) || unreadable.any(|bad| *bad >= offset)
    }

    /// The slots that have any.
    pub(super) fn slots(&self) -> BTreeSet<u32> {
        let unreadable = self.unreadable.keys();
        unreadable.chain(&self.unwritable).copied().collect()
    }

    /// All that can't be read, as runs of blocks.
    pub(super) fn list(&self, block: usize) -> Vec<Unreadable> {
        let mut list = Vec::<Unreadable>::new();
        for (&slot, offsets) in &self.unreadable {
            for &offset in offsets {
                match list.last_mut() {
                    Some(last) if last.slot == slot && last.offset + last.bytes == offset => {
                        last.bytes += block as u64;
                    }
                    _ => list.push(Unreadable {
                        slot,
                        offset,
                        bytes: block as u64,
                    }),
                }
            }
        }
        list
    }
}

/// What fails once may go well a moment later.
fn read_twice(volume: &mut dyn Volume, slot: u32, at: u64, part: &mut [u8]) -> io::Result<()> {
    let first = volume.read_at(slot, at, part);
    first.or_else(|_| volume.read_at(slot, at, part))
}

/// Whether an error says that these sectors are bad, by the names that Linux has for it. All others
/// are of the file, the process or the way to the disk.
pub(super) fn is_of_the_medium(error: &io::Error) -> bool {
    let errnos = [libc::EIO, libc::ENODATA, libc::EILSEQ, libc::EREMOTEIO];
    error
        .raw_os_error()
        .is_some_and(|errno| errnos.contains(&errno))
}

//! A volume whose reads or syncs go wrong while a log is opened on it.

use std::collections::BTreeMap;
use std::io;

use pontoon::storage::Volume;
use pontoon::storage::memory::MemoryVolume;

use crate::settings::EIO;

/// What goes wrong while a log is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mishap {
    /// The read after so many fails, and so does the next one, which tries it again.
    Read(usize),
    /// Of the segments that are read whole a second time the first gives wrong bytes then, at this
    /// place. What was right when it was looked at first can't be taken for a torn write.
    WrongSecondRead(usize),
    /// Whatever is synced is not: the power fails at that moment.
    Sync,
}

/// The volume, for one opening.
pub(crate) struct Flaky<'a> {
    volume: &'a mut MemoryVolume,
    mishap: Option<Mishap>,
    reads: usize,
    /// How often each segment was read whole.
    whole: BTreeMap<u32, usize>,
    /// It went wrong.
    pub(crate) failed: bool,
}

impl<'a> Flaky<'a> {
    pub(crate) fn new(volume: &'a mut MemoryVolume, mishap: Option<Mishap>) -> Self {
        Self {
            volume,
            mishap,
            reads: 0,
            whole: BTreeMap::new(),
            failed: false,
        }
    }

    fn fail(&mut self) -> io::Result<()> {
        self.failed = true;
        Err(io::Error::from_raw_os_error(EIO))
    }
}

impl Volume for Flaky<'_> {
    fn block_bytes(&self) -> usize {
        self.volume.block_bytes()
    }

    fn segment_bytes(&self) -> u64 {
        self.volume.segment_bytes()
    }

    fn slots(&self) -> Vec<u32> {
        self.volume.slots()
    }

    fn read_at(&mut self, slot: u32, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.reads += 1;
        let failing = |reads| self.mishap == Some(Mishap::Read(reads));
        if failing(self.reads - 1) || self.reads > 1 && failing(self.reads - 2) {
            return self.fail();
        }
        self.volume.read_at(slot, offset, buffer)?;
        if buffer.len() as u64 == self.volume.segment_bytes() {
            let whole = self.whole.entry(slot).or_default();
            *whole += 1;
            if let Some(Mishap::WrongSecondRead(place)) = self.mishap
                && *whole == 2
                && !self.failed
            {
                buffer[place] ^= 4;
                self.failed = true;
            }
        }
        Ok(())
    }

    fn write_at(&mut self, slot: u32, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.volume.write_at(slot, offset, bytes)
    }

    fn sync(&mut self, slot: u32) -> io::Result<()> {
        if self.mishap == Some(Mishap::Sync) {
            return self.fail();
        }
        self.volume.sync(slot)
    }

    fn prepare(&mut self, slot: u32) -> io::Result<()> {
        self.volume.prepare(slot)
    }

    fn open_witness(&mut self) -> io::Result<u128> {
        self.volume.open_witness()
    }

    fn replace_witness(&mut self) -> io::Result<u128> {
        self.volume.replace_witness()
    }

    fn unsound(&self) -> Vec<u32> {
        self.volume.unsound()
    }

    fn mark_unsound(&mut self, slot: u32) -> io::Result<()> {
        self.volume.mark_unsound(slot)
    }

    fn set_aside(&mut self, slot: u32) -> io::Result<()> {
        self.volume.set_aside(slot)
    }
}

//! Segments written with zeros ahead of their use: each core's by a thread of its own, one at a
//! time, at half speed unless the core waits for it.

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, TryRecvError, select};
use pontoon_storage::{LogDirectory, PrepareError, prepare_segment_paced};

use super::{BulkEvent, Cores, WantedSegment};

/// The thread that makes a core's segments ready.
#[derive(Debug)]
pub(super) struct SegmentPreparer {
    pub(super) core: u16,
    pub(super) segment_bytes: u64,
    pub(super) cores: Cores,
    /// One at a time. One that is being prepared comes once more when the core waits for it.
    pub(super) wanted: Receiver<WantedSegment>,
    /// Disconnected once the lane stops.
    pub(super) running: Receiver<()>,
}

impl SegmentPreparer {
    /// Runs until the lane stops, and leaves no partial segment behind.
    pub(super) fn run(self) {
        let core = self.core;
        let mut made = BTreeSet::new();
        for WantedSegment { slot, directory } in &self.wanted {
            // What was asked for before the lane stopped may still be waiting here.
            if self.running.try_recv() == Err(TryRecvError::Disconnected) {
                return;
            }
            // Asked for once more, and ready meanwhile: the core has it, or will have.
            if made.contains(&slot) {
                continue;
            }
            let file = match self.prepare(&directory, slot) {
                Err(PrepareError::Stopped { .. }) => return,
                prepared => prepared.inspect_err(|error| {
                    tracing::warn!(%error, core, "the log gets no further segment");
                }),
            };
            made.extend(file.is_ok().then_some(slot));
            self.cores.tell(core, BulkEvent::Prepared { slot, file });
        }
    }

    /// After each piece of zeros the disk is left alone for as long as that took, so that the
    /// durable writes of the cores meet it idle half of the time; not any more once the core waits.
    fn prepare(&self, directory: &LogDirectory, slot: u32) -> Result<OwnedFd, PrepareError> {
        let mut begun = Instant::now();
        let mut hurried = false;
        prepare_segment_paced(directory, slot, self.segment_bytes, &mut || {
            let rest = if hurried {
                Duration::ZERO
            } else {
                begun.elapsed()
            };
            let goes_on = select! {
                recv(self.running) -> _ => false,
                recv(self.wanted) -> again => {
                    hurried = true;
                    again.is_ok()
                }
                default(rest) => true,
            };
            begun = Instant::now();
            goes_on
        })
    }
}

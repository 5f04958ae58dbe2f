//! Segments written with zeros ahead of their use, one at a time and at half speed.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Instant;

use crossbeam_channel::{Receiver, RecvTimeoutError, TryRecvError};
use pontoon_storage::{PrepareError, prepare_segment_paced};

use super::{BulkEvent, Cores};

/// The thread that makes segments ready.
#[derive(Debug)]
pub(super) struct SegmentPreparer {
    pub(super) directories: Vec<PathBuf>,
    pub(super) segment_bytes: u64,
    pub(super) cores: Cores,
    pub(super) wanted: Receiver<(u16, u32)>,
    /// Disconnected once the lane stops.
    pub(super) running: Receiver<()>,
}

impl SegmentPreparer {
    /// Runs until the lane stops, and leaves no partial segment behind.
    pub(super) fn run(self) {
        for (core, slot) in &self.wanted {
            // What was asked for before the lane stopped may still be waiting here.
            if self.running.try_recv() == Err(TryRecvError::Disconnected) {
                return;
            }
            let file = match self.prepare(core, slot) {
                Ok(file) => Some(file),
                Err(PrepareError::Stopped { .. }) => return,
                Err(error) => {
                    tracing::warn!(%error, core, "the log gets no further segment");
                    None
                }
            };
            self.cores.tell(core, BulkEvent::Prepared { slot, file });
        }
    }

    /// After each piece of zeros the disk is left alone for as long as that took, so that the
    /// durable writes of the cores meet it idle half of the time.
    fn prepare(&self, core: u16, slot: u32) -> Result<OwnedFd, PrepareError> {
        let directory = &self.directories[usize::from(core)];
        let mut begun = Instant::now();
        prepare_segment_paced(directory, slot, self.segment_bytes, &mut || {
            let waited = self.running.recv_timeout(begun.elapsed());
            begun = Instant::now();
            waited == Err(RecvTimeoutError::Timeout)
        })
    }
}

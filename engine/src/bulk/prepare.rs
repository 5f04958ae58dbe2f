//! Segments are zero-written ahead of their use, one at a time and not at full speed.

use std::path::PathBuf;

use crossbeam_channel::Receiver;
use pontoon_storage::prepare_segment;

use super::{BulkEvent, Cores};

pub(super) struct Preparing {
    pub(super) directories: Vec<PathBuf>,
    pub(super) segment_bytes: u64,
    pub(super) cores: Cores,
}

impl Preparing {
    pub(super) fn run(&self, wanted: &Receiver<(u16, u32)>) {
        for (core, slot) in wanted {
            let directory = &self.directories[usize::from(core)];
            let file = match prepare_segment(directory, slot, self.segment_bytes) {
                Ok(file) => Some(file),
                Err(error) => {
                    tracing::warn!(%error, core, "the log gets no further segment");
                    None
                }
            };
            self.cores.tell(core, BulkEvent::Prepared { slot, file });
        }
    }
}

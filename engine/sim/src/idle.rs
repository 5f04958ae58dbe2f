//! The end of a steady run: without load nothing grows, and little is done.

use crate::costs::Usage;
use crate::settings::{HEARTBEAT_INTERVAL, MILLISECOND};
use crate::world::World;

/// How long nobody asks for anything.
const IDLE: u64 = 1_000 * MILLISECOND;

/// After so many of these what load has left behind is done: entries that followers lacked, marks,
/// and what is left of a way round of relocation, which moves a frame at a time through all of the
/// log.
const PERIODS: usize = 8;

/// Most bytes that an idle log writes in a second.
const WRITTEN_MAX: u64 = 64 << 10;

/// Messages of a heartbeat and its response, and of a try to send a full follower entries, which
/// goes in pieces.
const MESSAGES_PER_BEAT: u64 = 4;

impl World {
    /// After the healing: nobody asks for anything, and all falls silent.
    pub(crate) fn idle(&mut self) {
        self.pass(IDLE);
        let pairs = self.swarm.groups * (self.swarm.nodes as u64 - 1);
        let beats = IDLE / HEARTBEAT_INTERVAL + 1;
        let most = pairs * beats * MESSAGES_PER_BEAT + 20;
        for period in 0..PERIODS {
            let before = self.messages();
            for place in &mut self.places {
                place.usage = Usage::default();
            }
            self.pass(IDLE);
            // A log that is full is tried again and again, and what holds it is relocated.
            let full = (0..self.places.len()).any(|place| self.has_full_log(place));
            if self.failure.is_some() || full {
                return;
            }
            let sent = self.messages() - before;
            let written = self.places.iter().map(|place| place.usage.bytes_written);
            let written = written.max().unwrap_or(0);
            if sent <= most && written <= WRITTEN_MAX {
                return;
            }
            if period + 1 == PERIODS {
                self.fail(format!(
                    "after {PERIODS} seconds without load {sent} messages are sent in one, \
                     {most} are enough, and a place writes {written} bytes"
                ));
            }
        }
    }

    fn pass(&mut self, time: u64) {
        let until = self.now + time;
        while self.now < until && self.failure.is_none() {
            self.step();
        }
    }

    fn messages(&self) -> u64 {
        let shards = self.places.iter().filter_map(|place| place.shard.as_ref());
        shards.map(|shard| shard.statistics().messages_sent).sum()
    }
}

//! The end of a steady run: without load nothing grows, and little is done.

use crate::settings::{HEARTBEAT_INTERVAL, MILLISECOND};
use crate::world::World;

/// How long nobody asks for anything.
const IDLE: u64 = 1_000 * MILLISECOND;

/// After this what load has left behind is done: marks, relocated records, freed segments.
const AFTERWARDS: u64 = 1_000 * MILLISECOND;

/// Most bytes that an idle log writes in a second: the rest of a way round of relocation.
const WRITTEN_MAX: u64 = 1 << 20;

/// Messages of a heartbeat and its response, and of a try to send a full follower entries, which
/// goes in pieces.
const MESSAGES_PER_BEAT: u64 = 10;

impl World {
    /// After the healing: nobody asks for anything.
    pub(crate) fn idle(&mut self) {
        self.pass(AFTERWARDS);
        let before = self.messages();
        for place in &mut self.places {
            place.usage = crate::costs::Usage::default();
        }
        self.pass(IDLE);
        // A log that is full is tried again and again, and what holds it is relocated.
        let full = (0..self.places.len()).any(|place| self.has_full_log(place));
        if self.failure.is_some() || full {
            return;
        }
        let sent = self.messages() - before;
        let pairs = self.swarm.groups * (self.swarm.nodes as u64 - 1);
        let beats = IDLE / HEARTBEAT_INTERVAL + 1;
        let most = pairs * beats * MESSAGES_PER_BEAT + 20;
        if sent > most {
            self.fail(format!(
                "{sent} messages are sent in a second without load, {most} are enough"
            ));
        }
        for position in 0..self.places.len() {
            let usage = &self.places[position].usage;
            let written = usage.bytes_written;
            if written > WRITTEN_MAX {
                self.fail(format!(
                    "place {position} writes {written} bytes in a second without load"
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

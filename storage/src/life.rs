//! Which life of a core's log this is: what a disk that forgot is found out by.

use std::collections::BTreeMap;

use pontoon_types::NodeId;

use crate::layout::NUMBER_MAX;
use crate::record::{u32_at, u64_at};

/// How many of its own lives a log remembers. Those that no peer was told of go first: however
/// often a node starts in vain, it knows the lives in which it was met.
const LIVES_MAX: usize = 64;

/// Bytes of a record's payload before its lists.
const FIXED_BYTES: usize = 24;

/// Of a life's epoch in a record: peers were told of it.
const TOLD: u64 = 1 << 63;

/// One life of a core's log: from one opening to the next.
///
/// It is told to peers, who keep it durably and say it when they meet again. A log that does not
/// remember what they say has lost it: it was emptied, cut short, or an old copy of it came back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Life {
    /// How often the log was found to have forgotten something, and 1. Whatever an earlier
    /// generation had promised was repaired, or does not count.
    pub generation: u64,
    /// How often the log was opened.
    pub epoch: u64,
    /// A random number of that opening: two copies of a log that are opened part here.
    pub nonce: u64,
}

impl Life {
    /// One number that grows with every life: what a group's answers say they are of.
    #[must_use]
    pub fn number(&self) -> u64 {
        // Neither comes so far: whoever says that it did is not believed.
        (self.generation.min(u64::from(u32::MAX)) << 32) | self.epoch.min(u64::from(u32::MAX))
    }
}

/// What a log remembers beside its groups: its own lives, and those of its peers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Lives {
    pub(crate) generation: u64,
    /// Its latest lives, oldest first.
    own: Vec<OwnLife>,
    /// The epoch of the last life that peers were told of and that is not in the list any more.
    /// Those up to it are taken to be its own.
    dropped: u64,
    /// The last life in which each peer was met.
    met: BTreeMap<NodeId, Life>,
}

/// A life of the log itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct OwnLife {
    epoch: u64,
    nonce: u64,
    /// Peers were told of it.
    told: bool,
}

impl Default for Lives {
    fn default() -> Self {
        Self {
            generation: 1,
            own: Vec::new(),
            dropped: 0,
            met: BTreeMap::new(),
        }
    }
}

impl Lives {
    /// A life begins.
    pub(crate) fn begin(&mut self, epoch: u64, nonce: u64) {
        if self.own.len() == LIVES_MAX {
            let untold = self.own.iter().position(|life| !life.told);
            let oldest = self.own.remove(untold.unwrap_or(0));
            if oldest.told {
                self.dropped = oldest.epoch;
            }
        }
        self.own.push(OwnLife {
            epoch,
            nonce,
            told: false,
        });
    }

    /// Peers are told of the life that began last. False if that is known.
    pub(crate) fn tell(&mut self) -> bool {
        let current = self.own.last_mut();
        current.is_some_and(|current| !std::mem::replace(&mut current.told, true))
    }

    /// The life that began last.
    pub(crate) fn current(&self) -> Life {
        let (epoch, nonce) = self
            .own
            .last()
            .map_or((0, 0), |life| (life.epoch, life.nonce));
        Life {
            generation: self.generation,
            epoch,
            nonce,
        }
    }

    /// Whether nothing that was promised in that life is forgotten.
    pub(crate) fn remembers(&self, life: Life) -> bool {
        let is_this = |own: &OwnLife| (own.epoch, own.nonce) == (life.epoch, life.nonce);
        let own = life.epoch <= self.dropped || self.own.iter().any(is_this);
        life.generation < self.generation || (life.generation == self.generation && own)
    }

    pub(crate) fn met(&self, node: NodeId) -> Option<Life> {
        self.met.get(&node).copied()
    }

    pub(crate) fn note_met(&mut self, node: NodeId, life: Life) {
        self.met.insert(node, life);
    }

    /// A record's payload.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let bytes = FIXED_BYTES + 16 * self.own.len() + 32 * self.met.len();
        let mut bytes = Vec::with_capacity(bytes);
        bytes.extend_from_slice(&self.generation.to_le_bytes());
        bytes.extend_from_slice(&(self.own.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&(self.met.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&self.dropped.to_le_bytes());
        let told = |life: &OwnLife| if life.told { TOLD } else { 0 };
        let own = self.own.iter();
        let own = own.flat_map(|life| [life.epoch | told(life), life.nonce]);
        let met = self.met.iter();
        let met = met.flat_map(|(node, life)| [node.0, life.generation, life.epoch, life.nonce]);
        for number in own.chain(met) {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        bytes
    }

    /// `None` if no log writes such a payload.
    pub(crate) fn decode(payload: &[u8]) -> Option<Self> {
        let (fixed, rest) = payload.split_at_checked(FIXED_BYTES)?;
        let (own, met) = (u32_at(fixed, 8) as usize, u32_at(fixed, 12) as usize);
        let (own, met) = rest
            .split_at_checked(own.checked_mul(16)?)
            .filter(|(_, rest)| met.checked_mul(32).is_some_and(|bytes| bytes == rest.len()))?;
        let lives = Self {
            generation: u64_at(fixed, 0),
            own: own.chunks_exact(16).map(own_at).collect(),
            dropped: u64_at(fixed, 16),
            met: met.chunks_exact(32).map(met_at).collect(),
        };
        (1..=NUMBER_MAX)
            .contains(&lives.generation)
            .then_some(lives)
    }
}

fn own_at(bytes: &[u8]) -> OwnLife {
    let epoch = u64_at(bytes, 0);
    OwnLife {
        epoch: epoch & !TOLD,
        nonce: u64_at(bytes, 8),
        told: epoch & TOLD != 0,
    }
}

fn met_at(bytes: &[u8]) -> (NodeId, Life) {
    let life = Life {
        generation: u64_at(bytes, 8),
        epoch: u64_at(bytes, 16),
        nonce: u64_at(bytes, 24),
    };
    (NodeId(u64_at(bytes, 0)), life)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn life(generation: u64, epoch: u64, nonce: u64) -> Life {
        Life {
            generation,
            epoch,
            nonce,
        }
    }

    #[test]
    fn lives_come_back_as_they_were_written_and_nonsense_does_not() {
        let mut lives = Lives::default();
        for epoch in 1..=70 {
            lives.begin(epoch, 1000 + epoch);
            assert!(lives.tell() && !lives.tell());
        }
        lives.begin(71, 0);
        lives.note_met(NodeId(3), life(2, 5, 8));
        lives.generation = 4;
        let bytes = lives.encode();
        assert_eq!(Lives::decode(&bytes), Some(lives));
        for length in [0, 23, 24, 100, bytes.len() - 1] {
            assert_eq!(Lives::decode(&bytes[..length]), None, "{length} bytes");
        }
    }

    #[test]
    fn a_log_remembers_its_own_lives_and_not_those_of_a_copy_that_went_on() {
        let mut lives = Lives::default();
        lives.begin(1, 11);
        let mut copy = lives.clone();
        lives.begin(2, 12);
        copy.begin(2, 22);
        assert!(copy.remembers(life(1, 1, 11)) && copy.remembers(copy.current()));
        assert!(
            !copy.remembers(lives.current()),
            "the copy knows nothing of it"
        );
        copy.generation = 2;
        assert!(
            copy.remembers(lives.current()),
            "it was told, and was repaired since"
        );
        assert!(!copy.remembers(life(3, 1, 1)), "nor of a later generation");
    }

    /// A roll-out that fails starts again and again, before any peer hears of it.
    #[test]
    fn starts_in_vain_do_not_make_a_log_forget_in_which_lives_it_was_met() {
        let mut lives = Lives::default();
        lives.begin(1, 11);
        lives.tell();
        for epoch in 2..500 {
            lives.begin(epoch, 0);
        }
        assert!(lives.remembers(life(1, 1, 11)));
        assert!(
            !lives.remembers(life(1, 1, 12)),
            "an emptied disk that starts in vain"
        );
        assert_eq!(Lives::decode(&lives.encode()), Some(lives));
    }

    /// It comes back and names a life of long ago. It must not stop the others.
    #[test]
    fn a_peer_that_was_away_for_long_knows_nothing_that_was_forgotten() {
        let mut lives = Lives::default();
        for epoch in 1..500 {
            lives.begin(epoch, 10 + epoch);
            lives.tell();
        }
        assert!(lives.remembers(life(1, 5, 15)) && lives.remembers(life(1, 499, 509)));
        assert!(!lives.remembers(life(1, 499, 1)));
    }
}

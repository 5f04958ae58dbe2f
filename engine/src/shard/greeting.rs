//! Before a connection carries anything of a group, its two ends introduce themselves.
//!
//! ```text
//! one end                                            the other
//!   introduction: my life, and in which I last met you  -->
//!                                                    <--  introduction
//!   recognised: I remember that life                    -->
//!                                                    <--  recognised
//!   (the other's life is made durable)              (the same)
//!   messages of groups                                <-->
//! ```
//!
//! An end that does not remember the life in which it was met has lost it: its disk was emptied,
//! cut short, or an old copy of it came back. It is honest, so it is told, and takes part in
//! nothing until it was repaired: it begins a new generation of its log, and introduces itself
//! anew. Nothing that an end promises is believed before it is durable who promised it: whoever
//! counts a promise knows later that it was given.

use pontoon_raft::NodeId;
use pontoon_storage::Life;
use pontoon_transport::Frame;

use super::groups::Groups;
use super::link::Link;
use super::mutant::Mutant;
use super::persist::Source;
use crate::reason::FrameError;
use crate::wire::{self, Greeting};

/// No log is opened, or forgets, more often than this.
const NUMBER_MAX: u64 = 1 << 31;

/// A peer that met a log in a generation further ahead than this is not believed.
const GENERATIONS_AHEAD_MAX: u64 = 1 << 20;

/// How far the two ends of a connection know each other.
#[derive(Debug, Default)]
pub(super) struct Acquaintance {
    /// Our introduction was sent.
    introduced: bool,
    /// Which life of its log the other end is in.
    life: Option<Life>,
    /// A life of ours which it remembers and we do not.
    forgotten: Option<Life>,
    /// We have said that we remember how it met us: it may be told of groups.
    may_send: bool,
    /// It has said the same.
    recognised: bool,
    /// The frame with which it is durable that it was met in this life.
    met_by: Option<u64>,
    /// What it says of groups is believed.
    believed: bool,
}

impl Acquaintance {
    /// Whether the other end has introduced itself.
    pub(super) fn is_introduced(&self) -> bool {
        self.life.is_some()
    }

    /// The life it is in, if what it says of groups is believed.
    #[cfg(feature = "simulation")]
    pub(super) fn believed_life(&self) -> Option<Life> {
        self.life.filter(|_| self.believed)
    }

    pub(super) fn may_send(&self) -> bool {
        self.may_send
    }

    pub(super) fn is_believed(&self) -> bool {
        self.believed
    }

    /// Whether what came is left where it is until the disk has moved.
    pub(super) fn waits(&self) -> bool {
        self.recognised && !self.believed || self.forgotten.is_some()
    }

    pub(super) fn forgotten(&self) -> Option<Life> {
        self.forgotten
    }

    /// Takes a frame of greetings.
    ///
    /// # Errors
    /// If it is none, or says what was said before.
    pub(super) fn take(&mut self, frame: &Frame<'_>, groups: &Groups) -> Result<(), FrameError> {
        if !frame.records().is_empty() {
            return Err(FrameError::NotIntroduced);
        }
        for head in frame.heads() {
            match wire::greeting(&head) {
                Some(Greeting::Introduction { own, met })
                    if self.life.is_none() && groups.may_be(own) && groups.may_be_met(met) =>
                {
                    self.life = Some(own);
                    let forgotten = met.filter(|met| !groups.log.remembers(*met));
                    self.forgotten = forgotten.filter(|_| !groups.is(Mutant::ForgetsUnnoticed));
                }
                Some(Greeting::Recognised) if self.life.is_some() && !self.recognised => {
                    self.recognised = true;
                }
                _ => return Err(FrameError::NotIntroduced),
            }
        }
        Ok(())
    }
}

impl Groups {
    /// Sees to it that this life of the log becomes durable, so that peers can be told of it.
    pub(super) fn save_life(&mut self) {
        if self.life_by.is_some() || self.failed {
            return;
        }
        if self.log.life_is_durable() {
            self.life_by = Some(0);
        } else if self.log.save_life().is_ok() {
            self.life_by = Some(self.log.open_frame());
        }
    }

    /// Whether a log can be in such a life.
    fn may_be(&self, life: Life) -> bool {
        (1..=NUMBER_MAX).contains(&life.generation) && life.epoch <= NUMBER_MAX
    }

    /// Whether a peer can have met this log in such a life. One forged number must not use up all
    /// the generations there are.
    fn may_be_met(&self, life: Option<Life>) -> bool {
        let most = self.log.life().generation + GENERATIONS_AHEAD_MAX;
        life.is_none_or(|life| self.may_be(life) && life.generation <= most)
    }

    /// This life of the log, once it is durable.
    pub(super) fn told_life(&self) -> Option<Life> {
        let durable = self.log.durable_frame();
        let is_durable = self.life_by.is_some_and(|frame| frame <= durable);
        is_durable.then(|| self.log.life())
    }

    /// Greets the other end of a connection as far as is possible now. True once what it says of
    /// groups is believed from now on.
    ///
    /// # Errors
    /// If no correct peer would say what it said.
    pub(super) fn greet(&mut self, peer: NodeId, link: &mut Link) -> Result<bool, FrameError> {
        if self.failed {
            return Ok(false);
        }
        let durable = self.log.durable_frame();
        let known = self.log.met(peer);
        if let Some(own) = self.told_life().filter(|_| !link.acquaintance.introduced) {
            link.acquaintance.introduced = true;
            self.log.tell_life();
            link.push_greeting(Greeting::Introduction { own, met: known });
        }
        let Acquaintance {
            introduced,
            life,
            forgotten,
            may_send,
            recognised,
            ..
        } = link.acquaintance;
        let Some(life) = life.filter(|_| introduced && forgotten.is_none()) else {
            return Ok(false);
        };
        if !may_send {
            link.acquaintance.may_send = true;
            link.push_greeting(Greeting::Recognised);
        }
        if recognised && link.acquaintance.met_by.is_none() {
            link.acquaintance.met_by = self.meet(peer, life, known)?;
        }
        let met_by = link.acquaintance.met_by;
        link.acquaintance.believed = met_by.is_some_and(|frame| frame <= durable);
        Ok(link.acquaintance.believed)
    }

    /// Notes in which life a peer was met, unless that is known. Gives the frame that makes it
    /// durable; `None` if the log has no room for it now.
    fn meet(
        &mut self,
        peer: NodeId,
        life: Life,
        known: Option<Life>,
    ) -> Result<Option<u64>, FrameError> {
        if known == Some(life) || self.is(Mutant::MeetsInPassing) {
            // Perhaps over a connection that ended before that was durable.
            return Ok(Some(self.met_by));
        }
        // It has said that it remembers what is known, so that it is later than that.
        if known.is_some_and(|known| life <= known) || life.generation == 0 {
            return Err(FrameError::NotIntroduced);
        }
        if self.log.save_met(peer, life).is_err() {
            return Ok(None);
        }
        self.met_by = self.log.open_frame();
        if known.is_some_and(|known| known.generation < life.generation) {
            tracing::warn!(
                node = %self.config.node, %peer, ?known, ?life,
                "node {peer} forgot what it had promised: its disk was emptied, cut short, or an \
                 old copy of it came back; it counts in no group before it is repaired there"
            );
        }
        Ok(Some(self.met_by))
    }

    /// A peer remembers a life of this log that it does not remember itself. Whatever was promised
    /// in that is lost: groups with other members are repaired by them before they count again.
    pub(super) fn forget(&mut self, peer: NodeId, remembered: Life) {
        tracing::error!(
            node = %self.config.node, %peer, ?remembered, own = ?self.log.life(),
            "this node has forgotten what it had promised: its disk was emptied, cut short, or an \
             old copy of it came back; it takes part again once the others have repaired it"
        );
        self.log.forget(remembered);
        // Nobody hears of it before that is durable, however long the log has no room for it.
        self.life_by = None;
        let life = self.log.life().number();
        self.outbox.clear();
        self.durability.drop_responses();
        for slot in self.replicas.slots() {
            let replica = &mut self.replicas[slot];
            replica.held_responses.clear();
            // A machine that outlived its log is not given again what it holds.
            let held = replica.machine.as_ref().and_then(|machine| machine.durable_index());
            replica.applied = replica.applied.max(held.unwrap_or_default());
            if !replica.definition.is_alone() {
                replica.raft.forget(self.now, life, &mut self.output);
                self.process_output(slot, Source::None);
            }
        }
    }
}

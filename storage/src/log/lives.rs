//! What the log remembers beside its groups: its own lives, and those of its peers.

use pontoon_types::{EntryId, GroupId, NodeId};

use super::SegmentLog;
use crate::error::AppendError;
use crate::life::{Life, Lives};
use crate::mutant::Mutant;
use crate::record::{self, RecordKind};

impl SegmentLog {
    /// This life of the log. Peers may be told of it once it is durable: at once if
    /// [`life_is_durable`](Self::life_is_durable), otherwise with the frame that
    /// [`save_life`](Self::save_life) has staged it in.
    #[must_use]
    pub fn life(&self) -> Life {
        self.lives.current()
    }

    /// Whether this life became durable when the log was opened.
    #[must_use]
    pub fn life_is_durable(&self) -> bool {
        self.life_is_durable
    }

    /// Whether the log has forgotten nothing that it promised in a life which a peer remembers.
    #[must_use]
    pub fn remembers(&self, life: Life) -> bool {
        if self.config.is(Mutant::IgnoresNonces) {
            return life.epoch <= self.life().epoch;
        }
        self.lives.remembers(life)
    }

    /// The life in which a peer was last met.
    #[must_use]
    pub fn met(&self, node: NodeId) -> Option<Life> {
        self.lives.met(node)
    }

    /// Stages that this life has begun.
    ///
    /// # Errors
    /// [`Poisoned`](AppendError::Poisoned) once the log is closed,
    /// [`NoSpace`](AppendError::NoSpace) and [`StagingFull`](AppendError::StagingFull).
    pub fn save_life(&mut self) -> Result<(), AppendError> {
        self.change_lives(|_| {})
    }

    /// Peers are told of this life: notes that, once, if the log has room for it. A life that is
    /// not noted is the first to be dropped from what the log remembers.
    pub fn tell_life(&mut self) {
        let mut lives = self.lives.clone();
        if lives.tell() {
            let _ = self.change_lives(|known| *known = lives);
        }
    }

    /// Stages that a peer was met in a life of its own.
    ///
    /// # Errors
    /// As [`save_life`](Self::save_life).
    pub fn save_met(&mut self, node: NodeId, life: Life) -> Result<(), AppendError> {
        self.change_lives(|lives| lives.note_met(node, life))
    }

    /// A peer remembers a life of this log that it does not remember itself: a new generation
    /// begins, later than that life, and all groups [have forgotten](Self::has_forgotten) from now
    /// on. Peers may be told of it once [`save_life`](Self::save_life) has made it durable.
    pub fn forget(&mut self, remembered: Life) {
        self.lives.generation = self.lives.generation.max(remembered.generation) + 1;
        self.life_is_durable = false;
        self.generation_by = None;
    }

    fn change_lives(&mut self, change: impl FnOnce(&mut Lives)) -> Result<(), AppendError> {
        let mut lives = self.lives.clone();
        change(&mut lives);
        let record = lives_record(&lives);
        self.check_headroom(record.len())?;
        self.stage(&[&record], record.len())?;
        self.lives = lives;
        let staged_in = self.open_frame();
        self.generation_by.get_or_insert(staged_in);
        Ok(())
    }
}

/// A record of what is remembered.
pub(crate) fn lives_record(lives: &Lives) -> Vec<u8> {
    let nothing = (GroupId(0), EntryId::default());
    record::encode(nothing.0, nothing.1, RecordKind::Lives, &[&lives.encode()])
}

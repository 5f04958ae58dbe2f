//! Groups: how one is made, changed and dropped, and its term and vote.

use pontoon_types::{EntryId, GroupId, LogIndex, NodeId, Term};

use super::SegmentLog;
use super::group::{Group, GroupState};
use crate::error::AppendError;
use crate::record::{self, RecordKind};

impl SegmentLog {
    /// Makes a group. `definition` is the engine's and comes back at recovery.
    ///
    /// If damage was found when the log was opened, the group is tainted: it may have been in this
    /// log before, and everything about it be lost. For the same reason it
    /// [has forgotten](Self::has_forgotten) in a log that forgot.
    ///
    /// # Errors
    /// [`GroupExists`](AppendError::GroupExists), [`TooLarge`](AppendError::TooLarge) when the
    /// definition needs more than half a frame, and those of [`admit`](Self::admit).
    pub fn create_group(&mut self, group: GroupId, definition: &[u8]) -> Result<(), AppendError> {
        self.make_group(group, definition, false)
    }

    /// The same for one that is to meet all its members before it promises anything:
    /// [`set_tainted`](Self::set_tainted) says that it has.
    ///
    /// # Errors
    /// As [`create_group`](Self::create_group).
    pub fn create_unfounded(
        &mut self,
        group: GroupId,
        definition: &[u8],
    ) -> Result<(), AppendError> {
        self.make_group(group, definition, true)
    }

    fn make_group(
        &mut self,
        group: GroupId,
        definition: &[u8],
        unfounded: bool,
    ) -> Result<(), AppendError> {
        if self.groups.contains_key(&group) {
            return Err(AppendError::GroupExists { group });
        }
        let state = GroupState {
            incarnation: self.next_incarnation,
            definition: definition.to_vec(),
            tainted: self.damaged,
            unfounded,
            sound_in: u64::from(self.lives.generation == 1),
            ..GroupState::default()
        };
        self.admit(self.state_bytes(&state)?)?;
        self.stage_state(group, &state)?;
        self.next_incarnation += 1;
        self.groups.insert(
            group,
            Group {
                state,
                ..Group::default()
            },
        );
        Ok(())
    }

    /// Replaces what the engine keeps with a group, for instance after its members changed.
    ///
    /// # Errors
    /// [`UnknownGroup`](AppendError::UnknownGroup), [`TooLarge`](AppendError::TooLarge) when the
    /// definition needs more than half a frame, [`Poisoned`](AppendError::Poisoned) once the log is
    /// closed, [`NoSpace`](AppendError::NoSpace) and [`StagingFull`](AppendError::StagingFull).
    pub fn define_group(&mut self, group: GroupId, definition: &[u8]) -> Result<(), AppendError> {
        self.change_state(group, |state| state.definition = definition.to_vec())
    }

    /// Gives a group back its definition, which was lost with other durable data. It is tainted.
    /// Without `keeps`, what is left of its entries is let go of: none of them counts any more.
    ///
    /// # Errors
    /// As [`define_group`](Self::define_group).
    pub fn define_lost_group(
        &mut self,
        group: GroupId,
        definition: &[u8],
        keeps: bool,
    ) -> Result<(), AppendError> {
        self.change_state(group, |state| {
            state.definition = definition.to_vec();
            state.tainted = true;
            if !keeps {
                (state.compacted, state.last) = (EntryId::default(), EntryId::default());
                state.commit_index = LogIndex(0);
            }
        })?;
        if !keeps {
            let group = self.groups.get_mut(&group).expect("it has a state");
            group.truncate(LogIndex(0), &mut self.frames);
        }
        Ok(())
    }

    /// Marks a group as tainted, or as repaired: then it has forgotten nothing either, and is
    /// founded.
    ///
    /// # Errors
    /// As [`define_group`](Self::define_group).
    pub fn set_tainted(&mut self, group: GroupId, tainted: bool) -> Result<(), AppendError> {
        let generation = self.lives.generation;
        self.change_state(group, |state| {
            state.tainted = tainted;
            state.unfounded &= tainted;
            state.sound_in = if tainted { state.sound_in } else { generation };
        })
    }

    /// Whether the log has forgotten something that the group may have promised, and the group was
    /// not repaired since.
    #[must_use]
    pub fn has_forgotten(&self, group: GroupId) -> bool {
        let group = self.groups.get(&group);
        group.is_some_and(|group| group.state.sound_in < self.lives.generation)
    }

    /// Whether the group was made and has not met all its members.
    #[must_use]
    pub fn is_unfounded(&self, group: GroupId) -> bool {
        let group = self.groups.get(&group);
        group.is_some_and(|group| group.state.unfounded)
    }

    fn change_state(
        &mut self,
        group: GroupId,
        change: impl FnOnce(&mut GroupState),
    ) -> Result<(), AppendError> {
        let mut state = self.group(group)?.state.clone();
        change(&mut state);
        self.check_headroom(self.state_bytes(&state)?)?;
        self.stage_state(group, &state)?;
        self.groups.get_mut(&group).expect("looked up above").state = state;
        Ok(())
    }

    /// Drops a group and all its entries.
    ///
    /// # Errors
    /// [`UnknownGroup`](AppendError::UnknownGroup), and those of [`admit`](Self::admit).
    pub fn drop_group(&mut self, group: GroupId) -> Result<(), AppendError> {
        let incarnation = self.group(group)?.state.incarnation.to_le_bytes();
        self.admit(record::encoded_bytes(incarnation.len()))?;
        self.stage_record(
            group,
            EntryId::default(),
            RecordKind::GroupDropped,
            &[&incarnation],
        )?;
        let mut dropped = self.groups.remove(&group).expect("looked up above");
        dropped.truncate(LogIndex(0), &mut self.frames);
        Ok(())
    }

    /// Stages a group's term and vote.
    ///
    /// # Errors
    /// [`UnknownGroup`](AppendError::UnknownGroup), [`Poisoned`](AppendError::Poisoned) once the
    /// log is closed, [`NoSpace`](AppendError::NoSpace) when even the space kept back for votes is
    /// used up, and [`StagingFull`](AppendError::StagingFull).
    pub fn save_hard_state(
        &mut self,
        group: GroupId,
        term: Term,
        voted_for: Option<NodeId>,
    ) -> Result<(), AppendError> {
        self.group(group)?;
        self.check_headroom(0)?;
        let vote = voted_for.unwrap_or_default().0.to_le_bytes();
        let flags = u64::from(voted_for.is_some()).to_le_bytes();
        let entry = EntryId::new(LogIndex(0), term);
        self.stage_record(group, entry, RecordKind::HardState, &[&vote, &flags])?;
        let state = &mut self.groups.get_mut(&group).expect("looked up above").state;
        (state.current_term, state.voted_for) = (term, voted_for);
        Ok(())
    }

    /// Remembers a commit index; it is written with the group's next repeated state, as a hint.
    pub fn save_commit(&mut self, group: GroupId, commit_index: LogIndex) {
        if let Some(group) = self.groups.get_mut(&group) {
            group.state.commit_index = group.state.commit_index.max(commit_index);
        }
    }

    pub(super) fn group(&self, group: GroupId) -> Result<&Group, AppendError> {
        self.groups
            .get(&group)
            .ok_or(AppendError::UnknownGroup { group })
    }

    fn state_bytes(&self, state: &GroupState) -> Result<usize, AppendError> {
        let bytes = state.record_bytes();
        let limit = self.config.record_bytes_max() / 2;
        if bytes > limit {
            Err(AppendError::TooLarge { bytes, limit })
        } else {
            Ok(bytes)
        }
    }

    /// Stages a record that is not an entry; its payload comes in parts.
    pub(super) fn stage_record(
        &mut self,
        group: GroupId,
        entry: EntryId,
        kind: RecordKind,
        parts: &[&[u8]],
    ) -> Result<(), AppendError> {
        let record = record::encode(group, entry, kind, parts);
        self.stage(&[&record], record.len()).map(drop)
    }

    fn stage_state(&mut self, group: GroupId, state: &GroupState) -> Result<(), AppendError> {
        let record = state_record(group, state);
        self.stage(&[&record], record.len()).map(drop)
    }
}

/// A record that says what a group is.
pub(super) fn state_record(group: GroupId, state: &GroupState) -> Vec<u8> {
    let entry = EntryId::new(LogIndex(0), state.current_term);
    let parts: [&[u8]; 3] = [&state.encode(), &state.definition, &state.generation()];
    record::encode(group, entry, RecordKind::GroupState, &parts)
}

//! One group during the replay: its entries, what is missing of them, and what can be relied on.
//!
//! After damage a group is clean only if a later state record agrees with what was replayed, no
//! entry is missing, and none may have been overridden by a record that is. Every other group is
//! tainted.

use pontoon_types::{EntryId, LogIndex, Term};

use crate::log::extents::RecordLocation;
use crate::log::frames::Frames;
use crate::log::group::{Group, GroupState};
use crate::record::Record;

/// A group while it is being replayed.
#[derive(Debug)]
pub(super) struct Replayed {
    pub(super) group: Group,
    /// The first entry of each run of equal term, ascending.
    pub(super) terms: Vec<EntryId>,
    /// Missing entries: from the first up to but without the second.
    gaps: Vec<(LogIndex, LogIndex)>,
    /// Entries below this one may have been overridden by records that are missing.
    suspect_below: LogIndex,
    knowledge: Knowledge,
    /// How many times frames that were durable were found to be missing, as far as is noticed.
    damages: u64,
}

/// What the records replayed so far tell about a group's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Knowledge {
    /// No state record has been replayed: the records begin in the middle of the group's life.
    Unknown,
    /// A state record has been replayed, and nothing since has put it in doubt.
    Stated,
    /// Durable frames are missing (or a state record contradicts what was replayed, which shows
    /// the same), and no state record since agrees with what was replayed.
    AfterDamage {
        /// A state record has been replayed, before the damage or after it.
        stated: bool,
        continuity: Continuity,
    },
}

/// Whether the next entry must show that it continues the entries from before the damage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Continuity {
    /// The last entry is from before the damage: a missing record may have overridden it.
    Unproven,
    /// There was none before, or the first entry after the damage has been examined.
    Examined,
}

/// How a state record fits the entries that were replayed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Agreement {
    /// It names the last entry that was replayed, and none before it is missing.
    Agrees,
    /// Entries are missing, perhaps because a later record overrides them and their segment was
    /// freed for that reason. The list of gaps says which, so that the state itself is no more in
    /// doubt than before.
    EntriesMissing,
    /// No entry is missing, and yet its last entry is another one.
    Contradicts,
}

impl Knowledge {
    const AFTER_LOST_STATE: Self = Self::AfterDamage {
        stated: false,
        continuity: Continuity::Examined,
    };

    fn is_stated(self) -> bool {
        match self {
            Self::Unknown => false,
            Self::Stated => true,
            Self::AfterDamage { stated, .. } => stated,
        }
    }

    /// Durable frames are missing.
    fn after_damage(self) -> Self {
        Self::AfterDamage {
            stated: self.is_stated(),
            continuity: Continuity::Unproven,
        }
    }

    /// A state record has been replayed.
    fn after_state(self, agreement: Agreement) -> Self {
        match (agreement, self) {
            (Agreement::Agrees, _) | (Agreement::EntriesMissing, Self::Unknown | Self::Stated) => {
                Self::Stated
            }
            (Agreement::Contradicts, Self::Unknown | Self::Stated) => Self::AfterDamage {
                stated: true,
                continuity: Continuity::Examined,
            },
            (
                Agreement::EntriesMissing | Agreement::Contradicts,
                Self::AfterDamage { continuity, .. },
            ) => Self::AfterDamage {
                stated: true,
                continuity,
            },
        }
    }
}

impl Replayed {
    /// A group of which no record has been replayed. So many times durable frames before its first
    /// record are missing.
    pub(super) fn new(damages: u64) -> Self {
        Self {
            group: Group::default(),
            terms: Vec::new(),
            gaps: Vec::new(),
            suspect_below: LogIndex(0),
            damages,
            knowledge: if damages > 0 {
                Knowledge::AFTER_LOST_STATE
            } else {
                Knowledge::Unknown
            },
        }
    }

    /// So many times frames that were durable were missing up to here.
    pub(super) fn notice_damage(&mut self, damages: u64) {
        if damages > self.damages {
            self.damages = damages;
            self.knowledge = self.knowledge.after_damage();
        }
    }

    /// Replays an entry.
    pub(super) fn entry(
        &mut self,
        record: &Record<'_>,
        location: RecordLocation,
        frames: &mut Frames,
    ) {
        let index = record.index;
        self.assume_compacted_below(index);
        self.examine_continuity(record.entry());
        let last = self.group.state.last.index;
        let leaves_gap = index > last.next();
        if index <= last {
            self.truncate(index, frames);
        } else if leaves_gap {
            self.gaps.push((last.next(), index));
        }
        let same_term = self.terms.last().is_some_and(|run| run.term == record.term);
        if !same_term || leaves_gap {
            self.terms.push(record.entry());
        }
        self.group.state.last = record.entry();
        self.group
            .extents
            .push((record.group, index), location, frames);
    }

    /// Replays a copy of an entry that lay in an older frame: at this place in the log, it was the
    /// entry of its index. True if the index is to point to it.
    ///
    /// It overrides nothing. If another entry is known there, what replaced that one is missing.
    pub(super) fn relocated(&mut self, entry: EntryId) -> bool {
        let index = entry.index;
        if !self.knowledge.is_stated() {
            self.assume_kept(index);
        }
        let state = &mut self.group.state;
        if index <= state.compacted.index {
            return false;
        }
        let last = state.last.index;
        if index > last {
            if self.knowledge.is_stated() {
                self.knowledge = self.knowledge.after_state(Agreement::Contradicts);
            }
            let leaves_gap = index > last.next();
            if leaves_gap {
                self.gaps.push((last.next(), index));
            }
            let same_term = self.terms.last().is_some_and(|run| run.term == entry.term);
            if !same_term || leaves_gap {
                self.terms.push(entry);
            }
            self.group.state.last = entry;
            return true;
        }
        let missing = self.fill_gap(index);
        if missing {
            self.set_term(entry);
        }
        let known = if index == last {
            self.group.state.last.term
        } else {
            self.term_at(index)
        };
        if known != entry.term {
            self.knowledge = self.knowledge.after_state(Agreement::Contradicts);
        }
        missing || known == entry.term
    }

    /// Takes an index out of the missing ones; false if it is none of them.
    fn fill_gap(&mut self, index: LogIndex) -> bool {
        let position = self.gaps.partition_point(|(_, to)| *to <= index);
        let Some((from, to)) = self.gaps.get(position).copied() else {
            return false;
        };
        if index < from {
            return false;
        }
        let left = [(from, index), (index.next(), to)];
        let left = left.into_iter().filter(|(from, to)| from < to);
        self.gaps.splice(position..=position, left);
        true
    }

    /// Enters the term of an entry that was missing among those of the others.
    fn set_term(&mut self, entry: EntryId) {
        let (index, next) = (entry.index, entry.index.next());
        let last = self.group.state.last.index;
        let position = self.terms.partition_point(|run| run.index <= index);
        let covering = position.checked_sub(1).map(|covering| self.terms[covering]);
        if covering.is_some_and(|run| run.term == entry.term) {
            return;
        }
        let starts_here = covering.is_some_and(|run| run.index == index);
        let start = position - usize::from(starts_here);
        let before = start.checked_sub(1).map(|before| self.terms[before].term);
        let mut runs = Vec::with_capacity(2);
        if before != Some(entry.term) {
            runs.push(entry);
        }
        let next_starts = self
            .terms
            .get(position)
            .is_some_and(|run| run.index == next);
        if let Some(covering) = covering.filter(|_| !next_starts && next <= last) {
            runs.push(EntryId::new(next, covering.term));
        }
        self.terms.splice(start..position, runs);
    }

    /// Replays that the entries above `last` are gone.
    pub(super) fn truncate_suffix(&mut self, last: EntryId, frames: &mut Frames) {
        self.assume_compacted_below(last.index.next());
        let known = self.group.state.last.index;
        if last.index < known {
            self.truncate(last.index.next(), frames);
        }
        // Where only the index was assumed, this says the term, too.
        if last.index < known || (last.index == known && !self.knowledge.is_stated()) {
            self.group.state.last = last;
        }
    }

    /// Replays that the entries up to `compacted` need not be kept.
    pub(super) fn compact(&mut self, compacted: EntryId, frames: &mut Frames) {
        let state = &mut self.group.state;
        if compacted.index < state.compacted.index {
            return;
        }
        state.compacted = compacted;
        if compacted.index > state.last.index {
            state.last = compacted;
        }
        self.group.forget(compacted.index, frames);
        self.gaps.retain(|(_, to)| *to > compacted.index.next());
        if let Some((from, _)) = self.gaps.first_mut() {
            *from = compacted.index.next().max(*from);
        }
    }

    /// Replays a state record.
    pub(super) fn apply_state(&mut self, state: GroupState, frames: &mut Frames) {
        let another_life = state.incarnation != self.group.state.incarnation;
        if another_life && self.knowledge.is_stated() {
            // What dropped the group and made it again is missing: its life before is over.
            self.group.truncate(LogIndex(0), frames);
            *self = Self {
                damages: self.damages,
                ..Self::new(1)
            };
        }
        self.adopt_compacted(state.compacted, frames);
        let last = self.group.state.last;
        if last.index < state.last.index {
            self.gaps.push((last.index.next(), state.last.index.next()));
            self.group.state.last = state.last;
        }
        let agreement = if !self.gaps.is_empty() {
            Agreement::EntriesMissing
        } else if last == state.last {
            Agreement::Agrees
        } else {
            Agreement::Contradicts
        };
        self.knowledge = self.knowledge.after_state(agreement);
        self.group.state = GroupState {
            last: self.group.state.last,
            compacted: self.group.state.compacted,
            ..state
        };
    }

    /// Takes over what a state record says about the entries that are not kept.
    fn adopt_compacted(&mut self, compacted: EntryId, frames: &mut Frames) {
        let own = &mut self.group.state;
        if self.group.extents.is_empty() && self.gaps.is_empty() && own.last.index == LogIndex(0) {
            // Nothing is known of any entry, so there must be none above the compacted ones.
            own.last = compacted;
            own.compacted = compacted;
        } else if compacted.index < own.compacted.index {
            // More was assumed to be compacted than is: those entries are missing.
            self.gaps
                .insert(0, (compacted.index.next(), own.compacted.index.next()));
            own.compacted = compacted;
        } else {
            self.compact(compacted, frames);
        }
    }

    /// Ends the replay: cuts off what follows the first gap, and what can't follow in one log, and
    /// says whether the group is tainted.
    pub(super) fn finish(&mut self, frames: &mut Frames) {
        let gap = self.gaps.first().map(|(from, _)| *from);
        self.cut(gap, frames);
        let suspect = self.suspect_below > self.group.state.compacted.index.next();
        self.trim_terms();
        let descent = self.first_descent();
        self.cut(descent, frames);
        let incomplete = gap.is_some() || descent.is_some();
        self.group.state.tainted |= incomplete || suspect || self.knowledge != Knowledge::Stated;
        self.trim_terms();
    }

    /// The first entry of an earlier term than the one before it. No log holds such: a missing
    /// record has overridden entries before it.
    fn first_descent(&self) -> Option<LogIndex> {
        let mut before = self.group.state.compacted.term;
        let descends = |run: &&EntryId| std::mem::replace(&mut before, run.term) > run.term;
        let run = self.terms.iter().find(descends);
        run.map(|run| run.index)
    }

    /// Cuts off the entries from one on, if there is one.
    fn cut(&mut self, from: Option<LogIndex>, frames: &mut Frames) {
        let Some(from) = from else {
            return;
        };
        let compacted = self.group.state.compacted;
        self.truncate(from, frames);
        let kept = EntryId::new(from.previous(), self.term_at(from.previous()));
        self.group.state.last = if kept.index <= compacted.index {
            compacted
        } else {
            kept
        };
    }

    /// Cuts the terms to the entries that are kept.
    fn trim_terms(&mut self) {
        let state = &self.group.state;
        let (first, last) = (state.compacted.index.next(), state.last.index);
        self.terms.dedup_by_key(|run| run.term);
        let position = self.terms.partition_point(|run| run.index <= first);
        self.terms.drain(..position.saturating_sub(1));
        if let Some(run) = self.terms.first_mut() {
            run.index = run.index.max(first);
        }
        if last < first {
            self.terms.clear();
        }
    }

    /// An entry comes at `index`, and what came before the oldest segment is not known: as long as
    /// no state record has said more, all below it is taken for compacted.
    fn assume_compacted_below(&mut self, index: LogIndex) {
        let state = &mut self.group.state;
        let unknown = self.group.extents.is_empty() && index > state.last.index;
        if !self.knowledge.is_stated() && (unknown || index <= state.compacted.index) {
            state.compacted = EntryId::new(index.previous(), Term(0));
            state.last.index = state.last.index.max(index.previous());
        }
    }

    /// The entry of `index` is kept, and what came before the oldest segment is not known: nothing
    /// from it on is compacted, whatever was assumed.
    fn assume_kept(&mut self, index: LogIndex) {
        let state = &mut self.group.state;
        let (compacted, last) = (state.compacted.index, state.last.index);
        if index <= compacted {
            state.compacted = EntryId::new(index.previous(), Term(0));
            self.gaps.insert(0, (index, compacted.next()));
        } else if index > last && last == compacted && self.gaps.is_empty() {
            state.compacted = EntryId::new(index.previous(), Term(0));
            state.last = state.compacted;
        }
    }

    /// After damage, an entry is known to follow the one before it only if both are of one term:
    /// its leader's log held only one entry there. Otherwise that one, and others before it, may
    /// have been overridden by a missing record.
    fn examine_continuity(&mut self, entry: EntryId) {
        let Knowledge::AfterDamage { continuity, .. } = &mut self.knowledge else {
            return;
        };
        if std::mem::replace(continuity, Continuity::Examined) == Continuity::Unproven {
            let before = entry.index.previous();
            let kept = before > self.group.state.compacted.index;
            if kept && self.term_at(before) != entry.term {
                self.suspect_below = entry.index;
            }
        }
    }

    /// Cuts off the entries from `index` on.
    fn truncate(&mut self, index: LogIndex, frames: &mut Frames) {
        self.group.truncate(index, frames);
        self.suspect_below = self.suspect_below.min(index);
        while self.terms.last().is_some_and(|run| run.index >= index) {
            self.terms.pop();
        }
        self.gaps.retain(|(from, _)| *from < index);
        if let Some((_, to)) = self.gaps.last_mut() {
            *to = index.min(*to);
        }
    }

    fn term_at(&self, index: LogIndex) -> Term {
        let position = self.terms.partition_point(|run| run.index <= index);
        position
            .checked_sub(1)
            .map_or(Term(0), |position| self.terms[position].term)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_record_settles_what_is_known_only_if_it_agrees_or_nothing_was_in_doubt() {
        let after_damage = |stated, continuity| Knowledge::AfterDamage { stated, continuity };
        let examined = after_damage(true, Continuity::Examined);
        let unproven = after_damage(true, Continuity::Unproven);
        // Before; then after a record that agrees, one with entries missing, and a contradiction.
        let stated = Knowledge::Stated;
        let cases = [
            (Knowledge::Unknown, [stated, stated, examined]),
            (Knowledge::Stated, [stated, stated, examined]),
            (Knowledge::AFTER_LOST_STATE, [stated, examined, examined]),
            (examined, [stated, examined, examined]),
            (
                after_damage(false, Continuity::Unproven),
                [stated, unproven, unproven],
            ),
            (unproven, [stated, unproven, unproven]),
        ];
        for (before, [agrees, missing, contradicts]) in cases {
            assert_eq!(before.after_state(Agreement::Agrees), agrees);
            assert_eq!(before.after_state(Agreement::EntriesMissing), missing);
            assert_eq!(before.after_state(Agreement::Contradicts), contradicts);
            let damaged = after_damage(before.is_stated(), Continuity::Unproven);
            assert_eq!(before.after_damage(), damaged);
        }
    }
}

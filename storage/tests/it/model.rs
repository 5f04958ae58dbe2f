//! What a log should hold: plain maps, no disk.

use std::collections::BTreeMap;

use pontoon_storage::{RecordKind, SegmentLog};

use pontoon_types::{GroupId, NodeId, Term};

use crate::harness::{Bench, entry_id, payload};

/// A group of the model.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ModelGroup {
    pub(crate) definition: Vec<u8>,
    pub(crate) term: u64,
    pub(crate) vote: Option<u64>,
    pub(crate) compacted: (u64, u64),
    pub(crate) entries: BTreeMap<u64, (u64, Vec<u8>)>,
}

impl ModelGroup {
    pub(crate) fn last(&self) -> (u64, u64) {
        let last = self.entries.last_key_value();
        last.map_or(self.compacted, |(index, (term, _))| (*index, *term))
    }
}

/// All groups.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Model {
    pub(crate) groups: BTreeMap<u64, ModelGroup>,
}

/// Something that is done to a log.
#[derive(Clone, Debug)]
pub(crate) enum Change {
    Create {
        group: u64,
    },
    Drop {
        group: u64,
    },
    /// Appends `count` entries beginning `back` before the end, in a new term if it overrides.
    Append {
        group: u64,
        back: u64,
        count: u64,
        length: usize,
    },
    Truncate {
        group: u64,
        back: u64,
    },
    HardState {
        group: u64,
        vote: Option<u64>,
    },
    Compact {
        group: u64,
        keep: u64,
    },
}

impl Model {
    /// Does the change to the log and, as far as the log takes it, to the model.
    pub(crate) fn apply(
        &mut self,
        log: &mut SegmentLog,
        change: &Change,
        mut step: impl FnMut(&SegmentLog, &Self),
    ) {
        match *change {
            Change::Create { group } => {
                let definition = format!("definition of {group}").into_bytes();
                if log.create_group(GroupId(group), &definition).is_ok() {
                    let created = ModelGroup {
                        definition,
                        ..ModelGroup::default()
                    };
                    assert_eq!(self.groups.insert(group, created), None);
                }
            }
            Change::Drop { group } => {
                if log.drop_group(GroupId(group)).is_ok() {
                    assert!(self.groups.remove(&group).is_some());
                }
            }
            Change::Append {
                group,
                back,
                count,
                length,
            } => {
                self.append(log, group, back, count, length, &mut step);
            }
            Change::Truncate { group, back } => self.truncate(log, group, back),
            Change::HardState { group, vote } => {
                let Some(found) = self.groups.get_mut(&group) else {
                    return;
                };
                if log
                    .save_hard_state(GroupId(group), Term(found.term + 1), vote.map(NodeId))
                    .is_ok()
                {
                    (found.term, found.vote) = (found.term + 1, vote);
                }
            }
            Change::Compact { group, keep } => {
                let Some(found) = self.groups.get_mut(&group) else {
                    return;
                };
                let index = found.last().0.saturating_sub(keep);
                if index > found.compacted.0 {
                    let term = found.entries[&index].0;
                    log.compact(GroupId(group), entry_id(index, term));
                    found.compacted = (index, term);
                    found.entries = found.entries.split_off(&(index + 1));
                }
            }
        }
        step(log, self);
    }

    fn truncate(&mut self, log: &mut SegmentLog, group: u64, back: u64) {
        let Some(found) = self.groups.get_mut(&group) else {
            return;
        };
        let index = found.last().0.saturating_sub(back).max(found.compacted.0);
        let term = found
            .entries
            .get(&index)
            .map_or(found.compacted.1, |entry| entry.0);
        if log
            .truncate_suffix(GroupId(group), entry_id(index, term))
            .is_ok()
        {
            found.entries.split_off(&(index + 1));
        }
    }

    fn append(
        &mut self,
        log: &mut SegmentLog,
        group: u64,
        back: u64,
        count: u64,
        length: usize,
        step: &mut impl FnMut(&SegmentLog, &Self),
    ) {
        let Some(found) = self.groups.get(&group) else {
            return;
        };
        let first = (found.last().0 + 1)
            .saturating_sub(back)
            .max(found.compacted.0 + 1);
        let term = if back > 0 {
            found.last().1 + 1
        } else {
            found.last().1.max(1)
        };
        for index in first..first + count {
            let mut bytes = payload(group, index, term);
            bytes.resize(bytes.len().max(length), index as u8);
            let kind = RecordKind::Command;
            if log
                .append_command(GroupId(group), entry_id(index, term), kind, &bytes)
                .is_err()
            {
                return;
            }
            let found = self.groups.get_mut(&group).unwrap();
            found.entries.split_off(&index);
            found.entries.insert(index, (term, bytes));
            step(log, self);
        }
    }

    /// What a log holds, read entry by entry.
    pub(crate) fn of(bench: &mut Bench) -> Self {
        let mut model = Self::default();
        let recovered = bench.recovery.groups.clone();
        for group in recovered {
            let mut entries = BTreeMap::new();
            for index in group.compacted.index.0 + 1..=group.last_index.0 {
                let entry = bench.entry(group.group.0, index);
                entries.insert(
                    index,
                    entry.expect("an entry that recovery found is readable"),
                );
            }
            assert_terms(&group, &entries);
            let held = ModelGroup {
                definition: group.definition,
                term: group.current_term.0,
                vote: group.voted_for.map(|node| node.0),
                compacted: (group.compacted.index.0, group.compacted.term.0),
                entries,
            };
            model.groups.insert(group.group.0, held);
        }
        model
    }
}

/// The term runs that recovery gives are those of the entries.
fn assert_terms(group: &pontoon_storage::RecoveredGroup, entries: &BTreeMap<u64, (u64, Vec<u8>)>) {
    let mut runs: Vec<(u64, u64)> = Vec::new();
    for (index, (term, _)) in entries {
        if runs.last().is_none_or(|run| run.1 != *term) {
            runs.push((*index, *term));
        }
    }
    let found = group.terms.iter().map(|run| (run.index.0, run.term.0));
    assert_eq!(
        found.collect::<Vec<_>>(),
        runs,
        "term runs of group {}",
        group.group
    );
}

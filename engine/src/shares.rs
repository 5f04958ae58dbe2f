//! Each group's share of what may wait for a core, so that one that floods it leaves places.
//!
//! A group's share is found once, when a handle to it is made; who proposes counts in it alone.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use pontoon_raft::GroupId;

use crate::budget::{Budget, WeakBudget};

/// With so many groups nobody looks yet which of them nobody uses any more.
const LOOK_AT_MIN: usize = 64;

/// The shares that are in use.
#[derive(Debug, Default)]
pub(crate) struct Shares(Mutex<InUse>);

#[derive(Debug, Default)]
struct InUse {
    by_group: BTreeMap<GroupId, WeakBudget>,
    /// Invariant: twice as many as the last look left, so that a look costs each that came little.
    look_at: usize,
}

impl Shares {
    /// The share that all handles to a group have in common.
    pub(crate) fn of(&self, group: GroupId, whole: &Budget) -> Budget {
        let mut in_use = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let found = in_use.by_group.get(&group).and_then(WeakBudget::upgrade);
        found.unwrap_or_else(|| in_use.add(group, whole.share()))
    }
}

impl InUse {
    fn add(&mut self, group: GroupId, share: Budget) -> Budget {
        if self.by_group.len() >= self.look_at {
            self.by_group.retain(|_, share| share.upgrade().is_some());
            self.look_at = (2 * self.by_group.len()).max(LOOK_AT_MIN);
        }
        self.by_group.insert(group, share.downgrade());
        share
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handles_to_one_group_share_and_groups_that_nobody_uses_are_forgotten() {
        let (whole, shares) = (Budget::new(100), Shares::default());
        let first = shares.of(GroupId(1), &whole);
        for id in 2..10_000 {
            drop(shares.of(GroupId(id), &whole));
        }
        assert!(shares.0.lock().unwrap().by_group.len() <= LOOK_AT_MIN);
        let command = first.take(60).unwrap();
        assert_eq!(command.join_queue(60, 0, || 0), Ok(()));
        let (again, other) = (shares.of(GroupId(1), &whole), shares.of(GroupId(2), &whole));
        let (of_first, of_other) = (again.take(1).unwrap(), other.take(1).unwrap());
        assert_eq!(
            of_first.join_queue(1, 0, || 59),
            Err(59),
            "60 wait, and 59 are left"
        );
        assert_eq!(of_other.join_queue(1, 0, || 59), Ok(()));
    }
}

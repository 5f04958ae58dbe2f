//! Tagged integers: a term is not an index, a node is not a group.

use core::fmt;

macro_rules! tagged {
    ($(#[$meta:meta])* $name:ident) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(formatter)
            }
        }
    };
}

tagged! {
    /// A member of the cluster. Never reused; by convention at least 1.
    NodeId
}
tagged! {
    /// One Raft group among the many of a node.
    GroupId
}
tagged! {
    /// Raft's logical clock (thesis 3.3). 0 is before the first election.
    Term
}
tagged! {
    /// Position of an entry in a group's log. The first entry has index 1; 0 is the empty log.
    LogIndex
}
tagged! {
    /// Numbers everything one group gave to be made durable, in order.
    ///
    /// An acknowledgement from disk names a write, not an index: the same (term, index) can be
    /// written, replaced and written again, and the first write's late acknowledgement must not
    /// speak for the last.
    WriteSequence
}
tagged! {
    /// Nanoseconds since an origin of the caller's choice; never goes back.
    Time
}

/// An entry: its place in the log, and the term of the leader that made it.
///
/// Ordered by term first: of two logs the one whose last entry is greater is the more up-to-date
/// (thesis 3.6.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct EntryId {
    /// Its place in the log.
    pub index: LogIndex,
    /// The term of the leader that made it.
    pub term: Term,
}

impl EntryId {
    /// The entry at `index`, of `term`.
    #[must_use]
    pub const fn new(index: LogIndex, term: Term) -> Self {
        Self { index, term }
    }
}

impl Ord for EntryId {
    fn cmp(&self, other: &Self) -> core::cmp::Ordering {
        (self.term, self.index).cmp(&(other.term, other.index))
    }
}

impl PartialOrd for EntryId {
    fn partial_cmp(&self, other: &Self) -> Option<core::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for EntryId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} of term {}", self.index, self.term)
    }
}

impl LogIndex {
    /// The index after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }

    /// The index before this one; that of the empty log for the first.
    #[must_use]
    pub fn previous(self) -> Self {
        Self(self.0.saturating_sub(1))
    }

    /// The index `count` entries later.
    #[must_use]
    pub fn plus(self, count: u64) -> Self {
        Self(self.0.saturating_add(count))
    }
}

impl Term {
    /// The term after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl Time {
    /// This moment plus a duration in nanoseconds.
    #[must_use]
    pub fn after(self, nanoseconds: u64) -> Self {
        Self(self.0.saturating_add(nanoseconds))
    }

    /// Nanoseconds passed since an earlier moment; 0 if that lies ahead.
    #[must_use]
    pub fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

#[cfg(test)]
mod tests {
    use super::{EntryId, LogIndex, Term};

    #[test]
    fn the_more_up_to_date_of_two_logs_has_the_later_term_or_is_longer() {
        let entry = |index, term| EntryId::new(LogIndex(index), Term(term));
        assert!(
            entry(1, 3) > entry(9, 2),
            "the later term wins, whatever the length"
        );
        assert!(
            entry(9, 2) > entry(8, 2),
            "of equal terms the longer log wins"
        );
        assert_eq!(entry(4, 4).max(entry(4, 4)), entry(4, 4));
    }
}

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

//! What two ends agree on before they talk: the purpose of a connection, versions, features.

use std::fmt;

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Messages and log records between two cores with the same number.
    Replication,
    /// The state of a group, streamed to a replica that can't be brought up to date by its log.
    Snapshot,
    /// Questions and orders of an operator.
    Admin,
    /// Something that only newer versions know, by its code on the wire.
    Unknown(u32),
}

impl Purpose {
    pub(crate) fn from_code(code: u32) -> Self {
        match code {
            1 => Self::Replication,
            2 => Self::Snapshot,
            3 => Self::Admin,
            code => Self::Unknown(code),
        }
    }

    pub(crate) fn code(self) -> u32 {
        match self {
            Self::Replication => 1,
            Self::Snapshot => 2,
            Self::Admin => 3,
            Self::Unknown(code) => code,
        }
    }
}

impl fmt::Display for Purpose {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Replication => formatter.write_str("replication"),
            Self::Snapshot => formatter.write_str("snapshots"),
            Self::Admin => formatter.write_str("administration"),
            Self::Unknown(code) => write!(formatter, "unknown purpose {code}"),
        }
    }
}

/// Optional features of the wire, one bit each. Bits without a meaning are kept and ignored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Features(pub u64);

impl Features {
    /// No feature.
    pub const NONE: Self = Self(0);

    /// The features of both.
    #[must_use]
    pub fn intersection(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
}

/// The versions of the wire that a node speaks, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VersionRange {
    /// The oldest.
    pub min: u16,
    /// The newest.
    pub max: u16,
}

impl VersionRange {
    /// The newest version that both speak. `None` if there is none, or a range is empty.
    #[must_use]
    pub fn newest_common(self, other: Self) -> Option<u16> {
        let newest = self.max.min(other.max);
        (newest >= self.min && newest >= other.min).then_some(newest)
    }
}

impl fmt::Display for VersionRange {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.min == self.max {
            write!(formatter, "version {}", self.min)
        } else {
            write!(formatter, "versions {} to {}", self.min, self.max)
        }
    }
}

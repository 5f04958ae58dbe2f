//! Why messages were dropped and connections closed: what metrics and log lines are keyed by.

use std::fmt;

use pontoon_transport::ConnectionError;

/// Why a frame was refused, although its transport found it intact: a correct peer never sends
/// one. The connection is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// A head is of no kind this version knows, or contradicts itself.
    #[error("a head has no meaning")]
    Head,
    /// A record is cut short or its checksum is wrong.
    #[error("a record is damaged")]
    Record,
    /// A record is of a kind that is no log entry.
    #[error("a record is no log entry")]
    RecordKind,
    /// A record is of another group, at another index or of a later term than its head says.
    #[error("a record is not the entry its head announced")]
    RecordMismatch,
    /// There are more bytes than the heads announced.
    #[error("bytes follow the last record")]
    TrailingBytes,
    /// It came before the introduction of its sender, or contradicts what that said before.
    #[error("its sender has not introduced itself")]
    NotIntroduced,
}

impl FrameError {
    /// The label in metrics, in snake_case.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Head => "bad_head",
            Self::Record => "bad_record",
            Self::RecordKind => "bad_record_kind",
            Self::RecordMismatch => "record_mismatch",
            Self::TrailingBytes => "trailing_bytes",
            Self::NotIntroduced => "not_introduced",
        }
    }
}

/// Why a message for a group was dropped, as if the network had lost it. Raft sends it again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum DropReason {
    /// The group is not on this node.
    UnknownGroup,
    /// No state machine of the group's kind is registered on this node.
    NoStateMachine,
    /// The sender is not a member of the group.
    NotAMember,
    /// The log has no room for what the message would make this node persist.
    LogFull,
    /// The log of this core has failed.
    LogFailed,
}

impl DropReason {
    /// The label in metrics, in snake_case.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::UnknownGroup => "unknown_group",
            Self::NoStateMachine => "no_state_machine",
            Self::NotAMember => "not_a_member",
            Self::LogFull => "log_full",
            Self::LogFailed => "log_failed",
        }
    }
}

/// Why an established connection was closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum CloseReason {
    /// Another connection of the same peer took its place.
    Replaced,
    /// Another connection of the same peer works, and kept its place.
    Superfluous,
    /// It said nothing at all after the hellos.
    Mute,
    /// The peer took too little of what was sent to it in a period, or nothing of it for
    /// long while others needed the memory that it pinned.
    SendTimeout,
    /// The peer took everything, owed an answer for long and said nothing.
    Silent,
    /// This node has forgotten what it had promised, and introduces itself anew.
    Forgot,
    /// A frame was refused.
    Frame(FrameError),
    /// The transport ended it. Holds the label of its [`ConnectionError`].
    Transport(&'static str),
}

impl CloseReason {
    /// The label in metrics, in snake_case.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Replaced => "replaced",
            Self::Superfluous => "superfluous",
            Self::Mute => "mute",
            Self::SendTimeout => "send_timeout",
            Self::Silent => "silent",
            Self::Forgot => "forgot",
            Self::Frame(error) => error.label(),
            Self::Transport(label) => label,
        }
    }
}

impl From<FrameError> for CloseReason {
    fn from(error: FrameError) -> Self {
        Self::Frame(error)
    }
}

impl From<&ConnectionError> for CloseReason {
    fn from(error: &ConnectionError) -> Self {
        Self::Transport(error.label())
    }
}

impl fmt::Display for DropReason {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.label())
    }
}

impl fmt::Display for CloseReason {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.label())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_reason_has_a_label_of_its_own_in_snake_case() {
        let frames = [
            FrameError::Head,
            FrameError::Record,
            FrameError::RecordKind,
            FrameError::RecordMismatch,
            FrameError::TrailingBytes,
        ];
        let closed = [
            CloseReason::Replaced,
            CloseReason::Superfluous,
            CloseReason::Mute,
            CloseReason::SendTimeout,
            CloseReason::Silent,
        ]
        .into_iter()
        .chain(frames.map(CloseReason::Frame))
        .chain([CloseReason::from(&ConnectionError::Closed)]);
        let dropped = [
            DropReason::UnknownGroup,
            DropReason::NoStateMachine,
            DropReason::NotAMember,
            DropReason::LogFull,
            DropReason::LogFailed,
        ];
        let labels: Vec<_> = closed
            .map(CloseReason::label)
            .chain(dropped.map(DropReason::label))
            .collect();
        let snake = |byte: u8| byte.is_ascii_lowercase() || byte == b'_';
        for label in &labels {
            assert!(label.bytes().all(snake), "{label}");
        }
        let distinct: BTreeSet<_> = labels.iter().collect();
        assert_eq!(distinct.len(), labels.len());
    }
}

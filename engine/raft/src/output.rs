//! What a call asks of its caller: records to persist, messages to send.

use alloc::vec::Vec;

use crate::message::Message;
use pontoon_types::{EntryId, LogIndex, NodeId, Term};

/// Term and vote: what must survive a crash besides the log (figure 3.1). One record on disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HardState {
    /// Latest term this node has seen.
    pub current_term: Term,
    /// Candidate that received this node's vote in `current_term`.
    pub voted_for: Option<NodeId>,
}

/// Entries the caller has to stage for the disk before its next call.
///
/// The only way of an entry to the disk, whoever made it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Appended {
    /// The empty entry of a new leader.
    Noop(EntryId),
    /// All entries given to [`propose`](crate::Raft::propose), in order.
    Proposed {
        /// Index of the first one.
        first_index: LogIndex,
        /// Term of all of them.
        term: Term,
        /// How many they are.
        count: u32,
    },
    /// A part of the entries that came with the message being stepped. Entries at or above
    /// `first_index` that were there before are overridden.
    Received {
        /// Index of the first one.
        first_index: LogIndex,
        /// How many of the message's entries come before it.
        skip: u32,
        /// How many to take.
        count: u32,
    },
}

/// A message to be sent.
///
/// An `AppendEntries` names the entries after `prev_log`; the caller puts them in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outgoing {
    /// Who it is for.
    pub to: NodeId,
    /// What it says.
    pub message: Message,
    /// Hold it until everything this group gave to be persisted so far is durable.
    pub after_persist: bool,
}

/// Everything one or more calls ask for. The caller owns, drains and reuses it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Output {
    /// Term and vote to persist; the latest counts.
    pub hard_state: Option<HardState>,
    /// The damage is repaired, or the replica is founded: to be persisted like term and vote.
    pub repaired: bool,
    /// Entries to persist, in order.
    pub appended: Vec<Appended>,
    /// Messages to send, in order for each peer.
    pub messages: Vec<Outgoing>,
    /// Followers that lack what they had acknowledged: the operator should know. They are sent it
    /// again.
    pub forgot: Vec<Forgot>,
    /// A member that holds another definition of the group: the operator should know.
    pub differs: Option<NodeId>,
}

/// A follower whose answer to its leader takes back what it had acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forgot {
    /// The follower.
    pub peer: NodeId,
    /// It had acknowledged everything up to this entry.
    pub held: LogIndex,
}

impl Output {
    /// Forgets everything and keeps the memory.
    pub fn clear(&mut self) {
        self.hard_state = None;
        self.repaired = false;
        self.appended.clear();
        self.messages.clear();
        self.forgot.clear();
        self.differs = None;
    }

    pub(crate) fn send_now(&mut self, to: NodeId, message: Message) {
        self.messages.push(Outgoing {
            to,
            message,
            after_persist: false,
        });
    }

    /// Sends a message whose promises are durable already, or holds it until they are.
    pub(crate) fn send_once(&mut self, durable: bool, to: NodeId, message: Message) {
        self.messages.push(Outgoing {
            to,
            message,
            after_persist: !durable,
        });
    }

    pub(crate) fn send_after_persist(&mut self, to: NodeId, message: Message) {
        self.messages.push(Outgoing {
            to,
            message,
            after_persist: true,
        });
    }
}

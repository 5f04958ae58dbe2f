//! What the log keeps with a group, so that it can be reopened: its kind and its members.

use pontoon_raft::{Membership, NodeId};
use serde::{Deserialize, Serialize};

/// JSON in the group's state record: small, rarely written, and readable in a dump.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Definition {
    pub(crate) kind: String,
    voters: Vec<u64>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    voters_outgoing: Vec<u64>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    learners: Vec<u64>,
}

impl Definition {
    pub(crate) fn new(kind: &str, members: &Membership) -> Self {
        let plain = |nodes: &[NodeId]| nodes.iter().map(|node| node.0).collect();
        Self {
            kind: kind.to_owned(),
            voters: plain(&members.voters),
            voters_outgoing: plain(&members.voters_outgoing),
            learners: plain(&members.learners),
        }
    }

    pub(crate) fn membership(&self) -> Membership {
        let tagged = |nodes: &[u64]| {
            let mut nodes: Vec<_> = nodes.iter().copied().map(NodeId).collect();
            nodes.sort_unstable();
            nodes.dedup();
            nodes
        };
        Membership {
            voters: tagged(&self.voters),
            voters_outgoing: tagged(&self.voters_outgoing),
            learners: tagged(&self.learners),
        }
    }

    /// What is left of a group whose definition the disk lost: nobody is a member, and nothing is
    /// done for it.
    pub(crate) fn lost() -> Self {
        Self::new("", &Membership::default())
    }

    pub(crate) fn is_lost(&self) -> bool {
        self.voters.is_empty()
    }

    /// Whether it has no more than one member.
    pub(crate) fn is_alone(&self) -> bool {
        self.voters.len() <= 1 && self.voters_outgoing.is_empty() && self.learners.is_empty()
    }

    /// Whether a node receives the group's log or votes.
    pub(crate) fn has_member(&self, node: NodeId) -> bool {
        let lists = [&self.voters, &self.voters_outgoing, &self.learners];
        lists.into_iter().any(|list| list.contains(&node.0))
    }

    /// Tells definitions apart that differ, however their members are listed.
    pub(crate) fn digest(&self) -> u64 {
        let bytes = Self::new(&self.kind, &self.membership()).encode();
        let backwards: Vec<u8> = bytes.iter().rev().copied().collect();
        u64::from(crc32c::crc32c(&bytes)) << 32 | u64::from(crc32c::crc32c(&backwards))
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("strings and integers are always JSON")
    }

    /// `None` if the bytes are of no version this program knows.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok()
    }
}

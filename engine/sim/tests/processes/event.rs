//! What parent and nodes say to each other, and what is written down of it: lines of JSON.

use serde::{Deserialize, Serialize};

/// What a node is asked for, on its standard input: no cut of the network is in the way of that.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) enum Order {
    /// Proposes an operation.
    Propose(Operation),
    /// Says how far it is.
    Summary,
    /// Says what it has applied.
    Applied,
}

/// An operation on a register. Reads go through the log as writes do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Operation {
    /// Unique in a run.
    pub(crate) number: u64,
    pub(crate) key: u64,
    /// The value, or `None` for a read.
    pub(crate) write: Option<u64>,
}

/// How an operation ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Outcome {
    /// Applied at this index, when the register held this value.
    Acknowledged { index: u64, value: u64 },
    /// It will never be applied.
    Refused { leader: Option<u64>, reason: String },
    /// It may be applied or not.
    Unknown { reason: String },
}

/// What a node says.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Said {
    Leads { term: u64 },
    LeadsNoMore,
    Ended { number: u64, outcome: Outcome },
    Summary(Summary),
    Applied(Vec<(u64, u64)>),
}

/// How far a node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Summary {
    /// Commands applied.
    pub(crate) applied: u64,
    /// Over all of them in their order, and over what the registers hold.
    pub(crate) digest: u64,
    /// Connections that have ended since its start.
    pub(crate) connections_closed: u64,
}

/// A line of the history.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Event {
    /// Nanoseconds since the start, by the parent's clock.
    pub(crate) at: u64,
    pub(crate) what: What,
}

/// What happened. Nodes are named by their place, from 0.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum What {
    /// A client is about to ask a node.
    Asks {
        node: usize,
        operation: Operation,
    },
    /// Without this an operation's outcome is unknown.
    Ended {
        number: u64,
        outcome: Outcome,
    },
    Leads {
        node: usize,
        term: u64,
    },
    LeadsNoMore {
        node: usize,
    },
    /// The node is cut off by now.
    Cut {
        node: usize,
    },
    /// The node is about to be joined again.
    Healed {
        node: usize,
    },
    Started {
        node: usize,
    },
    /// SIGKILL has done its work.
    Killed {
        node: usize,
    },
    /// SIGSTOP has done its work.
    Stopped {
        node: usize,
    },
    /// SIGCONT is about to be sent.
    Continued {
        node: usize,
    },
    /// Every index and number of operation that a node has applied in its last life.
    Applied {
        node: usize,
        entries: Vec<(u64, u64)>,
    },
}

//! The requests a node's process takes over its standard input, and its replies.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::histogram::Buckets;
use crate::load::{Load, Loaded};
use crate::machine::{Applied, Kind};
use crate::usage::Usage;

/// What runs the cores of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Host {
    /// A plain thread.
    Thread,
    /// The same, with a glommio executor beside it.
    Glommio,
}

/// Settings of one node.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Setup {
    pub(crate) node: u64,
    /// Its data directory.
    pub(crate) data: PathBuf,
    /// The other nodes' addresses.
    pub(crate) peers: BTreeMap<u64, SocketAddr>,
    pub(crate) cores: u16,
    pub(crate) host: Host,
    /// Microseconds that a core polls before it waits in the kernel.
    pub(crate) spin_us: u64,
    /// The CPU of each core; empty to pin none.
    pub(crate) pin: Vec<usize>,
}

/// A request to a node.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum ChildRequest {
    /// Listen on a free port.
    Listen,
    /// Start the node.
    Start(Setup),
    /// Create `count` groups from `first` on, each with these members.
    Create {
        first: u64,
        count: u64,
        members: Vec<u64>,
        kind: Kind,
    },
    /// The groups 1 to `count` are there from an earlier start.
    Adopt { count: u64 },
    /// Campaign in all groups.
    Campaign,
    /// Hand all groups that this node leads over to that one.
    HandOver { to: u64 },
    /// Become the leader of all groups, and say whether that came off.
    Lead,
    /// Wait until every group has a leader and has applied its log.
    AwaitLeaders,
    /// Propose this many commands in each group; for the node that leads.
    Fill { entries: u64 },
    /// Run a load; for the node that leads.
    Load(Load),
    /// Run a load beside 1 kHz timers on the executors of all cores.
    LoadBesideTimer(Load),
    /// Start these loads, side by side, of groups that follow each other.
    StartLoads(Vec<Load>),
    /// Report the results of these loads when they have ended; end them `now`.
    FinishLoads { now: bool },
    /// Report the last index applied in each group.
    Progress,
    /// Report the resources used so far.
    Usage,
    /// Report the commands each group has applied.
    Check,
}

/// A reply of a node.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum ChildReply {
    /// The address the node will be reached at.
    Listening(SocketAddr),
    /// The request is carried out.
    Done,
    /// Whether this node leads all groups.
    Leads(bool),
    /// The result of the load.
    Loaded(Loaded),
    /// The result of the load, and the lateness of the timer's ticks.
    LoadedBesideTimer(Loaded, Buckets),
    /// The results of the loads that were started.
    LoadsFinished(Vec<Loaded>),
    /// For each group: the index of the last command applied.
    Progress(Vec<u64>),
    /// Resources used since the process began.
    Usage(Usage),
    /// For each group from 1: what was applied, and the number of commands acknowledged here.
    Checked(Vec<(Applied, u64)>),
}

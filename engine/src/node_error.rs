//! Why a node did not start, or did not end as it should.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use pontoon_raft::GroupId;
use pontoon_storage::OpenError;

use crate::config::ConfigError;
use crate::driver::DriverError;
use crate::health::CoreFailure;
use crate::shard::ShardOpenError;

/// Why a node did not start. Nothing is left running.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The configuration can't work.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The address to listen on can't be had.
    #[error("listening on {address}: {source}; choose another `listen` address")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// A core's log can't be opened.
    #[error("core {core}: {source}")]
    Log {
        /// The core.
        core: u16,
        /// What is wrong with its log.
        source: OpenError,
    },
    /// A core's groups can't be reopened.
    #[error("core {core}: {source}")]
    Groups {
        /// The core.
        core: u16,
        /// What is wrong with them.
        source: ShardOpenError,
    },
    /// A group lies on the log of another core than the one that it lives on: the directory is of a
    /// build that spread groups differently. Nothing was changed.
    #[error(
        "core {core}: group {group} is on its log and lives on core {lives_on}: another build, \
         which spread groups over {cores} cores differently, wrote this directory; start it with \
         that build"
    )]
    Placement {
        /// The core whose log holds it.
        core: u16,
        /// The group.
        group: GroupId,
        /// The core it lives on.
        lives_on: u16,
        /// Cores of this node.
        cores: u16,
    },
    /// One core has no directory, beside others that have: what its groups had promised is lost, or
    /// elsewhere. Nothing was changed.
    #[error(
        "the directory of core {core}, {}, is missing beside those of other cores; put it back, or \
         move all of them away, so that the other members fill this node again", path.display()
    )]
    CoreDirectoryMissing {
        /// The core.
        core: u16,
        /// Where it should be.
        path: PathBuf,
    },
    /// A core's driver can't be made.
    #[error("core {core}: {source}")]
    Driver {
        /// The core.
        core: u16,
        /// What the kernel said.
        source: DriverError,
    },
    /// The system has no thread or descriptor left.
    #[error("{what}: {source}")]
    System {
        /// What was being done.
        what: &'static str,
        /// What it said.
        source: io::Error,
    },
    /// A core's thread ended before it was ready.
    #[error("core {core} ended while it was started; see its panic above")]
    CoreLost {
        /// The core.
        core: u16,
    },
}

/// How a node ended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StopError {
    /// A core's driver failed while it ran.
    #[error("core {core} had failed: {source}")]
    Driver {
        /// The core.
        core: u16,
        /// The driver's error.
        source: DriverError,
    },
    /// It was stopped on a core's own thread (by a state machine), which can't wait for itself. It
    /// ends all the same.
    #[error("stopped on a core's own thread: the node ends in the background; stop it elsewhere")]
    OnCore,
    /// This is a forked child of the process that runs the node, which goes on there.
    #[error("this is a forked child; the node runs in its parent, which must stop it")]
    Forked,
    /// A core's thread did not end in time: its state machine, or a call into the kernel, hangs.
    /// Whoever waits for the core is answered; should it go on after all, it ends.
    #[error("core {core} had not ended {seconds} s after the stop; it is left behind as it is")]
    Hung {
        /// The core.
        core: u16,
        /// How long was waited for it, in seconds.
        seconds: u64,
    },
    /// A core's log had failed while it ran.
    #[error(transparent)]
    Failed(#[from] CoreFailure),
    /// Tasks of `spawn_on` did not yield. Whoever waits for a task there is answered.
    #[error(
        "tasks beside core(s) {cores:?} had not yielded {seconds} s after the stop; their \
         executors are left behind as they are"
    )]
    Tasks {
        /// The cores.
        cores: Vec<u16>,
        /// How long was waited for all of them, in seconds.
        seconds: u64,
    },
    /// A core panicked: a broken invariant, or a state machine.
    #[error("core {core} panicked; see its message above")]
    Panic {
        /// The core.
        core: u16,
    },
}

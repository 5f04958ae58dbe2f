//! Why a peer is refused or a connection closed, each with a label to count it under.

use crate::negotiation::{Purpose, VersionRange};

/// Why a hello was not accepted. The connection is closed; the node lives on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HelloError {
    /// Something else talks to this port: HTTP, TLS, garbage.
    #[error("these are not the first bytes of a Pontoon node: {first:02x?}")]
    NotPontoon {
        /// What came instead of the magic.
        first: [u8; 8],
    },
    /// The hello was damaged on its way.
    #[error("the hello's checksum is wrong")]
    Checksum,
    /// No version of the wire is spoken by both.
    #[error("the peer speaks wire {theirs}, this node {ours}; upgrade the older")]
    Version {
        /// The peer's range.
        theirs: VersionRange,
        /// This node's range.
        ours: VersionRange,
    },
    /// The peer lays out its messages differently.
    #[error("the peer's format fingerprint is {theirs:#018x}, ours {ours:#018x}")]
    Fingerprint {
        /// The peer's.
        theirs: u64,
        /// This node's.
        ours: u64,
    },
    /// The peer belongs to another cluster.
    #[error("the peer is of cluster {theirs:x}, this node of {ours:x}; check its addresses")]
    WrongCluster {
        /// The peer's cluster.
        theirs: u128,
        /// This node's cluster.
        ours: u128,
    },
    /// Another node answers at this address, or the peer looks for another one.
    #[error("node {theirs} was found where node {expected} was expected; check the addresses")]
    WrongNode {
        /// Who it is.
        theirs: u64,
        /// Who it should be.
        expected: u64,
    },
    /// The peer is not in the configuration.
    #[error("node {theirs} is not a known peer; add it to the configuration")]
    UnknownNode {
        /// Who it is.
        theirs: u64,
    },
    /// The connection is for something that this node does not serve.
    #[error("the peer connects for {purpose}, which this node does not serve")]
    Purpose {
        /// What the peer wants.
        purpose: Purpose,
    },
    /// The nodes were built or configured with different sizes of frames.
    #[error("the peer takes frames of {theirs} bytes, this node of {ours}; configure the same")]
    FrameBytes {
        /// The peer's limit.
        theirs: u32,
        /// This node's limit.
        ours: u32,
    },
    /// The nodes have different numbers of cores, so that their groups lie on different ones.
    #[error("the peer runs core {core} of {theirs}, this node {ours} cores; configure the same")]
    Cores {
        /// The core the peer connects.
        core: u16,
        /// The peer's number of cores.
        theirs: u16,
        /// This node's number of cores.
        ours: u16,
    },
}

impl HelloError {
    /// The reason as a short label in `snake_case`, for counts and log lines.
    #[must_use]
    pub fn label(&self) -> &'static str {
        match self {
            Self::NotPontoon { .. } => "not_pontoon",
            Self::Checksum => "hello_checksum",
            Self::Version { .. } => "version",
            Self::Fingerprint { .. } => "fingerprint",
            Self::WrongCluster { .. } => "wrong_cluster",
            Self::WrongNode { .. } => "wrong_node",
            Self::UnknownNode { .. } => "unknown_node",
            Self::Purpose { .. } => "purpose",
            Self::Cores { .. } => "cores",
            Self::FrameBytes { .. } => "frame_bytes",
        }
    }
}

/// Why an established connection must be closed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectionError {
    /// The peer closed it.
    #[error("the peer closed the connection")]
    Closed,
    /// The kernel reported an error.
    #[error("the socket failed with errno {errno}")]
    Socket {
        /// The error number, see errno(3).
        errno: i32,
    },
    /// The bytes are no frame of this version.
    #[error("bad {field} in the header of frame {sequence}")]
    BadHeader {
        /// Which field.
        field: &'static str,
        /// The frame, counted from 0.
        sequence: u64,
    },
    /// The frame is larger than was agreed.
    #[error("frame {sequence} has {bytes} bytes, the limit is {limit}")]
    TooLarge {
        /// The frame, counted from 0.
        sequence: u64,
        /// Its size.
        bytes: u64,
        /// The limit.
        limit: u32,
    },
    /// The frame was damaged on its way.
    #[error("the checksum of frame {sequence} is wrong")]
    Checksum {
        /// The frame, counted from 0.
        sequence: u64,
    },
}

impl ConnectionError {
    /// The reason as a short label in `snake_case`, for counts and log lines.
    #[must_use]
    pub fn label(&self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Socket { .. } => "socket",
            Self::BadHeader { .. } => "bad_header",
            Self::TooLarge { .. } => "too_large",
            Self::Checksum { .. } => "frame_checksum",
        }
    }
}

//! Whose log it is.

/// The owner of a log. It is written into every segment; another owner's log is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogIdentity {
    /// The cluster.
    pub cluster: u128,
    /// The node of the cluster.
    pub node: u64,
    /// The core of the node.
    pub core: u16,
    /// How many cores the node has: groups are placed by it.
    pub cores: u16,
}

//! Three shards in one thread, over disks and sockets in memory, driven through the public API.

mod cluster;
mod machine;
mod persist_before_reply;
mod protocol;
mod restart;
mod wire;

/// Faults that the tests must be able to catch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mutant {
    /// An answer leaves before what it promises is durable.
    AnswersBeforeDurable,
    /// The leader counts its own entries before they are durable.
    LeaderCountsOwnUndurable,
}

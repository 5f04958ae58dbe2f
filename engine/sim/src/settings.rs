//! Sizes, times and error numbers that all simulations share.

use pontoon::transport::FrameLimits;

/// In nanoseconds.
pub(crate) const MILLISECOND: u64 = 1_000_000;

/// The cluster of every simulation.
pub(crate) const CLUSTER: u128 = 9;
/// So small that logs go through many segments.
pub(crate) const SEGMENT_BYTES: u64 = 64 << 10;
pub(crate) const LIMITS: FrameLimits = FrameLimits {
    frame_bytes_max: 12 << 10,
    receive_ahead_bytes: 8 << 10,
};

/// Of the Raft groups of a simulation, in nanoseconds.
pub(crate) const ELECTION_TIMEOUT: u64 = 150 * MILLISECOND;
pub(crate) const HEARTBEAT_INTERVAL: u64 = 40 * MILLISECOND;

/// Linux: the device failed.
pub(crate) const EIO: i32 = 5;
/// Linux: the other end of the connection is gone.
pub(crate) const EPIPE: i32 = 32;

//! Which core a group lives on.

use pontoon_raft::GroupId;

/// The same core on every node with as many cores: a multiplicative hash (Knuth, TAOCP 6.4)
/// spreads neighbouring ids.
pub(crate) fn core_of(group: GroupId, cores: u16) -> u16 {
    let hash = group.0.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    u16::try_from(hash % u64::from(cores)).expect("below the number of cores")
}

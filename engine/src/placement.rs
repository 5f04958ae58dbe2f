//! Which core a group lives on.

use pontoon_raft::GroupId;

/// The same core on every node with as many cores, whatever the ids have in common: of bits that
/// differ in one place, each bit of the hash depends.
///
/// **Logs depend on it**: what is on the log of a core is looked for there. A core refuses a group
/// on its log that belongs to another core. **Peers depend on it** as well: whatever changes it
/// raises the wire's version.
pub(crate) fn core_of(group: GroupId, cores: u16) -> u16 {
    let product = u128::from(mixed(group.0)) * u128::from(cores);
    u16::try_from(product >> 64).expect("below the number of cores")
}

/// The finalizer of SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators,
/// OOPSLA 2014), after one step of its sequence.
fn mixed(id: u64) -> u64 {
    let mut hash = id.wrapping_add(0x9e37_79b9_7f4a_7c15);
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of ids that differ in high bits only, all were on core 0.
    #[test]
    fn ids_spread_over_the_cores_whatever_bits_they_differ_in() {
        for cores in [2, 3, 4, 8, 64] {
            for shift in 0..=54 {
                let mut groups = vec![0_u32; usize::from(cores)];
                for id in 0..1024 {
                    groups[usize::from(core_of(GroupId(id << shift), cores))] += 1;
                }
                let fair = 1024 / u32::from(cores);
                let most = groups.iter().max().expect("a core");
                assert!(
                    *most <= 2 * fair + 16,
                    "{cores} cores, << {shift}: {groups:?}"
                );
            }
        }
    }

    /// A log written today is read tomorrow, and a node of today talks to one of tomorrow.
    #[test]
    fn the_place_of_a_group_is_fixed() {
        let places = [0, 1, 7, 1 << 40, u64::MAX].map(|id| core_of(GroupId(id), 1000));
        assert_eq!(places, [883, 566, 389, 124, 893]);
    }
}

//! The CPU of each thread, when one machine runs several nodes.
//!
//! Every core of a node is pinned. Unpinned, the kernel wakes the threads of all nodes on the CPU
//! that woke them and leaves the others idle. The baseline's processes are placed by the same rule.

use core_affinity::CoreId;

/// The CPU for a core of a node, both counted from 0; node 0 leads. `None` on a single CPU.
///
/// The leader's cores have CPUs of their own, on which its load generator may also run; the
/// followers share the rest.
pub(crate) fn processor_of(node: usize, core: usize, cores: usize) -> Option<usize> {
    let processors = core_affinity::get_core_ids()?;
    let place = place(node, core, cores, processors.len())?;
    Some(processors[place].id)
}

fn place(node: usize, core: usize, cores: usize, processors: usize) -> Option<usize> {
    if processors < 2 {
        return None;
    }
    if node == 0 || cores >= processors {
        return Some((node * cores + core) % processors);
    }
    let left = processors - cores;
    Some(cores + ((node - 1) * cores + core) % left)
}

/// Pins the calling thread to a CPU. If the kernel refuses, it stays unpinned.
pub(crate) fn pin(processor: Option<usize>) {
    if let Some(id) = processor {
        core_affinity::set_for_current(CoreId { id });
    }
}

#[cfg(test)]
mod tests {
    use super::place;

    #[test]
    fn the_leader_has_processors_of_its_own_and_the_followers_share_the_rest() {
        let places = |cores, processors| -> Vec<_> {
            (0..3)
                .flat_map(|node| (0..cores).map(move |core| place(node, core, cores, processors)))
                .map(|place| place.unwrap())
                .collect()
        };
        assert_eq!(places(1, 2), [0, 1, 1]);
        assert_eq!(places(1, 4), [0, 1, 2]);
        assert_eq!(places(2, 8), [0, 1, 2, 3, 4, 5]);
        assert_eq!(places(2, 4), [0, 1, 2, 3, 2, 3]);
        assert_eq!(places(2, 2), [0, 1, 0, 1, 0, 1]);
        assert_eq!(place(0, 0, 1, 1), None);
    }
}

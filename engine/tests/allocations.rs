//! A shard's thread allocates for turns, not for entries, and enters the kernel once per turn.
#![allow(clippy::unwrap_used, reason = "a failed step of a test is its failure")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use pontoon::{
    Batch, Config, CoreStatistics, Group, GroupId, Machines, Node, NodeId, ProposeError,
    StateMachine,
};

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

/// Counts the allocations of each thread.
struct Counting;

// SAFETY: everything is handed to the system's allocator as it came.
#[allow(unsafe_code)]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // A thread that is ending has no counter any more.
        let _ = ALLOCATIONS.try_with(|count| count.set(count.get() + 1));
        // SAFETY: the caller keeps the rules of the trait.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the rules of the trait.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Tells what its thread, which is the shard's, has allocated so far.
struct Witness {
    allocations: Arc<AtomicU64>,
}

impl StateMachine for Witness {
    fn apply(&mut self, batch: &mut Batch<'_>) {
        while batch.next().is_some() {}
        self.allocations.store(ALLOCATIONS.get(), Relaxed);
    }
}

struct Measured {
    allocations: u64,
    statistics: CoreStatistics,
}

fn look(node: &Node, allocations: &AtomicU64) -> Measured {
    Measured {
        allocations: allocations.load(Relaxed),
        statistics: node.statistics().wait().remove(0).unwrap(),
    }
}

/// So many bursts of so many proposals; each is taken in a few turns.
fn burst(group: &Group, bursts: usize, size: usize) {
    for _ in 0..bursts {
        let proposals: Vec<_> = (0..size).map(|_| group.propose(vec![7; 64])).collect();
        for proposal in proposals {
            proposal.wait().unwrap();
        }
    }
}

fn start(data: &std::path::Path, allocations: &Arc<AtomicU64>) -> (Node, Group) {
    let mut config = Config::new(1, 1, data, "127.0.0.1:0".parse().unwrap());
    config.log.segment_bytes = bytesize::ByteSize::mib(16);
    let allocations = Arc::clone(allocations);
    let machines = Machines::new().register("witness", move |_| {
        let allocations = Arc::clone(&allocations);
        Ok(Box::new(Witness { allocations }))
    });
    let node = Node::start(config, machines).unwrap();
    let group = node
        .create_group(GroupId(1), "witness", &[NodeId(1)])
        .wait()
        .unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    while let Err(error) = group.propose(vec![0]).wait() {
        let early = matches!(error, ProposeError::Rejected(_));
        assert!(early && Instant::now() < deadline, "{error}");
    }
    (node, group)
}

#[test]
fn allocations_and_system_calls_depend_on_turns_and_not_on_entries() {
    const BURSTS: usize = 50;
    let data = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let allocations = Arc::new(AtomicU64::new(0));
    let (node, group) = start(data.path(), &allocations);
    // Queues and scratch grow to their size.
    burst(&group, BURSTS, 800);
    let mut per_turn = Vec::new();
    for size in [8, 800] {
        let before = look(&node, &allocations);
        burst(&group, BURSTS, size);
        let after = look(&node, &allocations);
        let turns = after.statistics.turns - before.statistics.turns;
        let made = after.allocations - before.allocations;
        let enters = after.statistics.enters - before.statistics.enters;
        // One exchange between two turns; the first and the last may lie outside.
        assert!(
            enters <= turns + 1,
            "{enters} system calls in {turns} turns"
        );
        per_turn.push(made as f64 / turns as f64);
    }
    let [small, large] = per_turn[..] else {
        unreachable!("two sizes")
    };
    // A hundred times the entries; a longer queue now and then is no entry.
    assert!(
        large < small + 1.0,
        "{small} allocations a turn with 8 entries, {large} with 800"
    );
    node.stop().unwrap();
}

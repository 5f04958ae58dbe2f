//! Histories that once broke something, under the name of what they found.
//!
//! A seed stands for its history only as long as the swarm draws the same: these failed without
//! their fixes in the simulator of the day (2026-11-25), and go on as further seeds since. What a
//! rule or a log alone can show has a test there as well.

use pontoon_sim::{Options, run};

fn holds(seed: u64) {
    if let Err(failure) = run(&Options::new(seed)) {
        panic!(
            "seed {seed}, event {}: {}\nreplay it: cargo run --release -p pontoon-tools -- \
             simulate --seed {seed}",
            failure.event, failure.message
        );
    }
}

/// Entries for a follower waited to be read back while every member came to hold them and the log
/// was compacted: the read never began, and nothing else was sent behind it.
#[test]
fn a_follower_goes_on_after_what_it_was_to_be_sent_is_compacted() {
    [8486, 10683, 10765, 17694].into_iter().for_each(holds);
}

/// A node whose disk had lost what a group is did not start at all.
#[test]
fn a_node_starts_without_a_group_whose_definition_is_lost() {
    [418, 790, 878].into_iter().for_each(holds);
}

/// A leader said that everybody held what its own disk did not: others compacted it, and after a
/// crash nobody could give it back.
#[test]
fn a_leader_with_the_slowest_disk_gets_its_entries_back() {
    [798].into_iter().for_each(holds);
}

//! Histories that once broke something: each seed under the name of what it found.

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
    [3013, 4671, 8820].into_iter().for_each(holds);
}

/// What was admitted to the log together was refused one by one.
#[test]
fn a_nearly_full_log_takes_what_it_admitted() {
    [1273, 1298].into_iter().for_each(holds);
}

/// A node whose disk had lost what a group is did not start at all.
#[test]
fn a_node_starts_without_a_group_whose_definition_is_lost() {
    [363, 1937, 3298].into_iter().for_each(holds);
}

/// A leader said that everybody held what its own disk did not: others compacted it, and after a
/// crash nobody could give it back.
#[test]
fn a_leader_with_the_slowest_disk_gets_its_entries_back() {
    [798].into_iter().for_each(holds);
}

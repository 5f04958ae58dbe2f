//! Real processes under load, killed: nothing acknowledged is missing afterwards.
//!
//! A kill proves nothing about durability, for the kernel keeps what was written (that is the
//! in-memory driver's part). It proves recovery, reconnection and elections of whole nodes.
#![allow(clippy::unwrap_used, reason = "a failed step of a test is its failure")]

mod child;
mod cluster;

use cluster::Cluster;

/// So often in a row.
const KILLS: usize = 20;
/// Acknowledgements to be seen before each kill.
const ACKNOWLEDGED_BETWEEN: usize = 50;

#[test]
fn node_process() {
    child::serve_if_told();
}

#[test]
fn the_leader_is_killed_twenty_times_and_nothing_acknowledged_is_lost() {
    let mut cluster = Cluster::start();
    for _ in 0..KILLS {
        let leader = cluster.load_until(ACKNOWLEDGED_BETWEEN);
        cluster.kill(leader);
        cluster.load_until(ACKNOWLEDGED_BETWEEN);
        cluster.restart(leader);
    }
    cluster.verify();
}

#[test]
fn all_nodes_are_killed_at_once_twenty_times_and_nothing_acknowledged_is_lost() {
    let mut cluster = Cluster::start();
    for _ in 0..KILLS {
        cluster.load_until(ACKNOWLEDGED_BETWEEN);
        for node in 0..3 {
            cluster.kill(node);
        }
        for node in 0..3 {
            cluster.restart(node);
        }
    }
    cluster.load_until(ACKNOWLEDGED_BETWEEN);
    cluster.verify();
}

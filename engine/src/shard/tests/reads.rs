//! Entries that are read back from the disk: late, in vain, or not at all.

use super::cluster::{Cluster, GROUP};
use crate::machine::Event;

/// Commands that together are larger than a node's cache.
fn commands() -> Vec<Vec<u8>> {
    let command = |number: u32| number.to_le_bytes().repeat(100);
    (1..=200).map(command).collect()
}

fn propose_all(cluster: &mut Cluster, node: usize, commands: &[Vec<u8>]) {
    let group = cluster.group(node);
    for command in commands {
        let proposal = group.propose(command.clone());
        cluster.wait(proposal).unwrap();
    }
}

/// A read that fails once is made again, by whatever comes next to the group.
#[test]
fn entries_to_be_applied_are_read_again_after_a_failure() {
    let mut cluster = Cluster::led_by_first(1);
    propose_all(&mut cluster, 0, &commands());
    cluster.power_off(0);
    cluster.power_on(0);
    // Its election is over, and nothing else happens in this group any more.
    cluster.until("some are applied again", |cluster| {
        cluster.applied(0).len() > 100
    });
    cluster.nodes[0].reads_to_fail = 1;
    cluster.until("all is applied again", |cluster| {
        cluster.applied(0) == commands()
    });
    assert_eq!(cluster.nodes[0].reads_to_fail, 0, "a read has failed");
    assert!(!has_failed(&cluster, 0));
}

/// A leader that can't read what a follower lacks is no leader for it: its log is closed, and
/// another one, whose disk still has it, takes over.
#[test]
fn a_leader_that_has_lost_what_a_follower_lacks_gives_up() {
    let mut cluster = Cluster::led_by_first(3);
    cluster.run(5);
    cluster.power_off(2);
    propose_all(&mut cluster, 0, &commands());
    cluster.rot(0, &commands()[20]);
    cluster.power_on(2);
    cluster.until("it has caught up", |cluster| {
        cluster.applied(2) == commands()
    });
    assert!(has_failed(&cluster, 0));
    assert_ne!(cluster.status(2).unwrap().leader.map(|id| id.0), Some(1));
    // Started again it finds the damage, and gets back what it lost.
    cluster.power_off(0);
    cluster.power_on(0);
    assert!(cluster.status(0).unwrap().tainted);
    cluster.until("the damage is repaired", |cluster| {
        !cluster.status(0).unwrap().tainted && cluster.applied(0) == commands()
    });
}

/// The same of a follower that can't read what it is to apply.
#[test]
fn a_follower_that_has_lost_what_it_is_to_apply_gives_up() {
    let mut cluster = Cluster::led_by_first(3);
    cluster.run(5);
    propose_all(&mut cluster, 0, &commands());
    cluster.run(200);
    cluster.power_off(2);
    cluster.power_on(2);
    cluster.rot(2, &commands()[20]);
    cluster.until("it gives up", |cluster| has_failed(cluster, 2));
    cluster.power_off(2);
    cluster.power_on(2);
    assert!(cluster.status(2).unwrap().tainted);
    cluster.until("the damage is repaired", |cluster| {
        !cluster.status(2).unwrap().tainted && cluster.applied(2) == commands()
    });
}

fn has_failed(cluster: &Cluster, node: usize) -> bool {
    let journal = cluster.nodes[node].journal.borrow();
    journal.events.contains(&(GROUP.0, Event::Failed))
}

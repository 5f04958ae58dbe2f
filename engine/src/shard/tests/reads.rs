//! Entries that are read back from the disk: late, in vain, or not at all.

use pontoon_raft::{GroupId, LogIndex};

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

const OTHER: GroupId = GroupId(8);

/// Three nodes with two groups, both led by the first.
fn two_groups() -> Cluster {
    let mut cluster = Cluster::led_by_first(3);
    cluster.create(OTHER);
    drop(cluster.other_group(0, OTHER).campaign());
    cluster.run(10);
    cluster
}

/// The other group is served by the first node as ever.
fn other_goes_on(cluster: &mut Cluster) {
    let proposal = cluster.other_group(0, OTHER).propose(b"x".to_vec());
    assert!(cluster.wait(proposal).is_ok());
    let status = cluster.status_of(0, OTHER).unwrap();
    assert_eq!(status.leader, Some(status.id));
}

/// How a disk loses an entry: it reads as another one, or not at all.
const LOSSES: [fn(&mut Cluster, usize, &[u8]); 2] = [Cluster::rot, Cluster::spoil];

/// A leader that can't read what a follower lacks is no leader for it: another one, whose disk
/// still has it, takes over. The other groups stay as they are.
#[test]
fn a_leader_that_has_lost_what_a_follower_lacks_gives_up_that_group() {
    for lose in LOSSES {
        let mut cluster = two_groups();
        cluster.power_off(2);
        propose_all(&mut cluster, 0, &commands());
        lose(&mut cluster, 0, &commands()[20]);
        cluster.power_on(2);
        cluster.until("it has caught up", |cluster| {
            cluster.applied(2) == commands()
        });
        assert!(!has_failed(&cluster, 0));
        assert_ne!(cluster.status(2).unwrap().leader.map(|id| id.0), Some(1));
        other_goes_on(&mut cluster);
        // Started again it finds the damage, and gets back what it lost.
        cluster.power_off(0);
        cluster.power_on(0);
        assert!(cluster.status(0).unwrap().tainted);
        cluster.until("the damage is repaired", |cluster| {
            !cluster.status(0).unwrap().tainted && cluster.applied(0) == commands()
        });
    }
}

/// The same of a follower that can't read what it is to apply: its machine goes no further.
#[test]
fn a_follower_that_has_lost_what_it_is_to_apply_gives_up_that_group() {
    for lose in LOSSES {
        let mut cluster = two_groups();
        propose_all(&mut cluster, 0, &commands());
        cluster.run(200);
        cluster.power_off(2);
        cluster.power_on(2);
        lose(&mut cluster, 2, &commands()[20]);
        let failed = |cluster: &Cluster| {
            let shard = cluster.nodes[2].shard.as_ref().unwrap();
            shard.groups.status(GROUP).unwrap().machine_error
        };
        cluster.until("it gives up", |cluster| failed(cluster).is_some());
        let error = failed(&cluster).unwrap();
        assert!(error.starts_with("segment-0") && error.contains("can't be read"), "{error}");
        assert!(!has_failed(&cluster, 2));
        other_goes_on(&mut cluster);
        cluster.until("it has the other group's", |cluster| {
            cluster.applied_of(2, OTHER) == [b"x"]
        });
        cluster.power_off(2);
        cluster.power_on(2);
        assert!(cluster.status(2).unwrap().tainted);
        cluster.until("the damage is repaired", |cluster| {
            !cluster.status(2).unwrap().tainted && cluster.applied(2) == commands()
        });
    }
}

/// Found by the simulator (seed 8486): entries for a follower waited to be read back while it came
/// to hold them and the log was compacted beyond them. The read never began, and nothing else was
/// sent behind it.
///
/// A follower has entries and its disk is slow to say so. Its connection breaks, and the leader is
/// to send them again, from its disk. One group takes the read buffer that is not kept for
/// applying, the others wait for it. The follower's disk is done, so that everybody holds the
/// entries, and the log lets go of them.
#[test]
fn a_follower_goes_on_after_what_it_was_to_be_sent_is_compacted() {
    let groups = [GROUP, GroupId(100), GroupId(101)];
    let mut cluster = Cluster::led_by_first(3);
    for group in &groups[1..] {
        cluster.create(*group);
        drop(cluster.other_group(0, *group).campaign());
    }
    cluster.run(10);
    // More than the segments that a log keeps without compacting, and nothing is released yet.
    propose_to_all(&mut cluster, &groups, 50);
    cluster.run(200);
    let before = groups.map(|group| cluster.status_of(0, group).unwrap().last_index);
    cluster.nodes[2].disk_is_held = true;
    propose_to_all(&mut cluster, &groups, 10);
    let after = groups.map(|group| cluster.status_of(2, group).unwrap().last_index);
    assert_eq!(after, before.map(|index| index.plus(10)), "it has them all");
    cluster.wire.end_between(0, 2);
    cluster.nodes[0].reads_are_held = true;
    cluster.run(100);
    // They are connected again, and a new entry makes the leader begin anew.
    propose_to_all(&mut cluster, &groups, 1);
    assert_eq!(cluster.held_reads(0), 1, "as many as there are buffers, but one");
    for group in groups {
        let leader = cluster.status_of(0, group).unwrap();
        assert_eq!(leader.leader, Some(leader.id));
    }
    cluster.nodes[2].disk_is_held = false;
    cluster.release(2);
    cluster.nodes[0].journal.borrow_mut().releases = true;
    cluster.until("the leader has compacted the entries", |cluster| {
        let compacted = |group| cluster.status_of(0, group).unwrap().first_index.previous();
        let mut positions = 0..groups.len();
        positions.all(|position| compacted(groups[position]) >= after[position])
    });
    cluster.release_reads(0);
    propose_to_all(&mut cluster, &groups, 1);
    let held = |cluster: &Cluster, group, index: LogIndex| {
        cluster.status_of(2, group).unwrap().durable_index >= index
    };
    for (group, index) in groups.into_iter().zip(after) {
        cluster.until("the follower has what came after", |cluster| {
            held(cluster, group, index.plus(2))
        });
    }
}

/// So many large commands to each group, one after the other.
fn propose_to_all(cluster: &mut Cluster, groups: &[GroupId], count: usize) {
    for _ in 0..count {
        for group in groups {
            let proposal = cluster.other_group(0, *group).propose(vec![7; 4000]);
            cluster.wait(proposal).unwrap();
        }
    }
}

fn has_failed(cluster: &Cluster, node: usize) -> bool {
    let journal = cluster.nodes[node].journal.borrow();
    journal.events.contains(&(GROUP.0, Event::Failed))
}

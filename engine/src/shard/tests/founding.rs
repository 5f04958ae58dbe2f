//! A group is founded by all its members, and by none that hold another definition of it.

use std::ops::Range;

use pontoon_raft::{GroupId, NodeId, RoleName};
use pontoon_storage::memory::MemoryVolume;

use super::cluster::{Cluster, GROUP, log_config, poll};
use super::lines::warnings;

fn make(cluster: &mut Cluster, node: usize, kind: &str, members: &[NodeId]) {
    let mut made = cluster.core(node).create_group(GROUP, kind, members);
    cluster.until("the group is made", |_| poll(&mut made) == Some(Ok(())));
}

fn wipe(cluster: &mut Cluster, node: usize) {
    cluster.power_off(node);
    cluster.nodes[node].volume = MemoryVolume::new(log_config(node).segment_bytes);
}

fn leads(cluster: &Cluster, node: usize) -> bool {
    let status = cluster.nodes[node].shard.is_some().then(|| cluster.status(node)).flatten();
    status.is_some_and(|status| status.role == RoleName::Leader)
}

fn acknowledge(cluster: &mut Cluster, leader: usize, commands: Range<u8>) -> Vec<Vec<u8>> {
    let commands = commands.map(|number| {
        let proposal = cluster.group(leader).propose(vec![number]);
        cluster.wait(proposal).expect("a majority is there");
        vec![number]
    });
    commands.collect()
}

#[test]
fn nobody_leads_before_all_members_have_met_and_the_status_names_who_is_missing() {
    let mut cluster = Cluster::new(3);
    let members = cluster.members();
    cluster.power_off(2);
    for node in [0, 1] {
        make(&mut cluster, node, "recorder", &members);
    }
    cluster.run(5_000);
    for node in [0, 1] {
        let status = cluster.status(node).unwrap();
        assert_eq!((status.leader, status.awaits), (None, vec![NodeId(3)]));
    }
    cluster.power_on(2);
    make(&mut cluster, 2, "recorder", &members);
    cluster.until("somebody leads", |cluster| (0..3).any(|node| leads(cluster, node)));
    assert!(cluster.status(0).unwrap().awaits.is_empty());
}

/// It was always away, so that it can tell nobody what was promised.
#[test]
fn one_that_forgot_founds_nothing_with_one_that_never_was_there() {
    let mut cluster = Cluster::led_by_first(3);
    // The third made the group, met the others, and has nothing of it on its disk.
    wipe(&mut cluster, 2);
    let all = acknowledge(&mut cluster, 0, 0..20);
    cluster.power_off(0);
    wipe(&mut cluster, 1);
    let members = cluster.members();
    for node in [1, 2] {
        cluster.power_on(node);
        make(&mut cluster, node, "recorder", &members);
    }
    for _ in 0..100 {
        cluster.run(100);
        assert!(!leads(&cluster, 1) && !leads(&cluster, 2), "what was acknowledged is not there");
    }
    assert_eq!(cluster.applied(0), all);
}

#[test]
fn after_a_majority_was_founded_any_majority_goes_on() {
    let mut cluster = Cluster::led_by_first(3);
    let mut all = acknowledge(&mut cluster, 0, 0..3);
    for away in [0, 1, 2] {
        cluster.power_off(away);
        cluster.until("another leads", |cluster| (0..3).any(|node| leads(cluster, node)));
        let leader = (0..3).find(|node| leads(&cluster, *node)).unwrap();
        let first = 10 * (away as u8 + 1);
        all.extend(acknowledge(&mut cluster, leader, first..first + 3));
        cluster.power_on(away);
        cluster.until("it is level", |cluster| cluster.applied(away) == all);
    }
}

/// Each of them was damaged once, and was repaired since: what they hold of a new group is all
/// there ever was.
#[test]
fn a_group_that_is_new_to_all_is_founded_by_nodes_that_forgot_once() {
    let mut cluster = Cluster::led_by_first(3);
    let members = cluster.members();
    for node in [2, 1, 0] {
        wipe(&mut cluster, node);
        cluster.power_on(node);
        make(&mut cluster, node, "recorder", &members);
        cluster.until("it was repaired", |cluster| {
            cluster.status(node).is_some_and(|status| !status.tainted)
        });
    }
    let new = GroupId(9);
    cluster.create(new);
    cluster.until("somebody leads the new group", |cluster| {
        cluster.status_of(0, new).is_some_and(|status| status.leader.is_some())
    });
}

#[test]
fn members_that_hold_other_definitions_never_lead_and_are_told() {
    let mut cluster = Cluster::new(3);
    let members = cluster.members();
    let told = warnings(|| {
        make(&mut cluster, 0, "recorder", &members);
        make(&mut cluster, 1, "recorder", &members);
        make(&mut cluster, 2, "recorder", &members[1..]);
        cluster.run(5_000);
    });
    for node in 0..3 {
        assert_eq!(cluster.status(node).unwrap().leader, None);
    }
    assert_eq!(cluster.status(1).unwrap().differs, [NodeId(3)]);
    let line = told.iter().find(|line| line.contains("another definition"));
    let line = line.expect("it is told");
    assert!(line.contains("group=7"), "{line}");
}

/// What they list is the same, in another order.
#[test]
fn the_order_in_which_members_are_listed_makes_no_difference() {
    let mut cluster = Cluster::new(3);
    let mut members = cluster.members();
    for node in 0..3 {
        make(&mut cluster, node, "recorder", &members);
        members.rotate_left(1);
    }
    cluster.until("somebody leads", |cluster| (0..3).any(|node| leads(cluster, node)));
}

/// It had met nobody when it was started again.
#[test]
fn a_restart_before_the_founding_changes_nothing() {
    let mut cluster = Cluster::new(3);
    let members = cluster.members();
    cluster.power_off(2);
    for node in [0, 1] {
        make(&mut cluster, node, "recorder", &members);
    }
    cluster.run(300);
    cluster.power_off(1);
    cluster.power_on(1);
    cluster.power_on(2);
    cluster.run(2_000);
    assert!((0..3).all(|node| !leads(&cluster, node)), "the third has not made it");
    make(&mut cluster, 2, "recorder", &members);
    cluster.until("somebody leads", |cluster| (0..3).any(|node| leads(cluster, node)));
}

//! Logs without room, disks that stand still, and who goes on meanwhile.

use pontoon_raft::{GroupId, LogIndex, NodeId};

use super::cluster::{Cluster, GROUP, INBOX, Settings, poll};
use crate::outcome::{Proposal, ProposeError, Rejection};

/// A log that holds far more than what is proposed.
pub(super) const LARGE_LOG: Settings = Settings {
    log: |log| log.segments_max = 60,
    shard: |_| {},
    inbox: INBOX,
};

/// A command of 4 kB with a number.
pub(super) fn numbered(number: u32) -> Vec<u8> {
    number.to_le_bytes().repeat(1000)
}

pub(super) fn leader(cluster: &Cluster) -> Option<usize> {
    let leads = |node: &usize| cluster.status(*node).is_some_and(|s| s.leader == Some(s.id));
    (0..cluster.nodes.len()).find(leads)
}

#[test]
fn a_follower_whose_disk_was_full_catches_up_under_load() {
    let mut cluster = Cluster::led_by_first_with(3, LARGE_LOG);
    cluster.run(300);
    cluster.nodes[2].volume.set_slots_max(3);
    for number in 0..400 {
        drop(cluster.group(0).propose(numbered(number)));
        cluster.run(5);
    }
    let full = cluster.status(2).unwrap();
    assert!(full.last_index.0 < 300, "its disk holds no more: {full:?}");
    assert_eq!(full.leader, Some(NodeId(1)), "it hears its leader all the same");
    let sent = cluster.wire.carried[&(0, 2)];
    cluster.run(2_000);
    let in_vain = cluster.wire.carried[&(0, 2)] - sent;
    assert!(in_vain < 20 * 300, "heartbeats and no entries: {in_vain} bytes");
    cluster.nodes[2].volume.set_slots_max(60);
    for _ in 0..300 {
        drop(cluster.group(0).propose(vec![2; 10]));
        cluster.run(20);
    }
    let (leader, back) = (cluster.status(0).unwrap(), cluster.status(2).unwrap());
    assert!(back.last_index.0 + 3 >= leader.last_index.0, "{back:?}");
}

#[test]
fn a_node_whose_disk_is_full_still_votes() {
    let mut cluster = Cluster::led_by_first_with(3, LARGE_LOG);
    cluster.nodes[2].volume.set_slots_max(3);
    for number in 0..400 {
        let proposal = cluster.group(0).propose(numbered(number));
        cluster.wait(proposal).unwrap();
    }
    cluster.run(3_000);
    // The full one lacks entries: it can't lead, and its vote is needed.
    cluster.power_off(0);
    cluster.until("the other one leads", |cluster| leader(cluster) == Some(1));
}

#[test]
fn any_number_of_elections_find_room_in_a_full_log() {
    let mut cluster = Cluster::led_by_first(3);
    for number in 0.. {
        let proposal = cluster.group(0).propose(numbered(number));
        if cluster.wait(proposal).is_err() {
            break;
        }
    }
    let leads = |cluster: &Cluster, node: usize| {
        cluster.status(node).unwrap().leader == Some(NodeId(node as u64 + 1))
    };
    for round in 0..100 {
        let old = round % 3;
        let others = [(old + 1) % 3, (old + 2) % 3];
        cluster.wire.cut = others.map(|node| (node, old)).to_vec();
        cluster.until("one of the others leads", |cluster| {
            others.iter().any(|&node| leads(cluster, node))
        });
        cluster.wire.cut.clear();
        cluster.run(500);
    }
}

/// Its disk is full and theirs are not: whoever can take proposals shall.
#[test]
fn a_leader_without_room_hands_over_to_one_that_has() {
    let mut cluster = Cluster::led_by_first_with(3, LARGE_LOG);
    cluster.run(300);
    cluster.nodes[0].volume.set_slots_max(3);
    let mut answered = 0;
    for number in 0..2_000 {
        let Some(leads) = leader(&cluster) else {
            cluster.run(5);
            continue;
        };
        let mut proposal = cluster.group(leads).propose(numbered(number));
        cluster.run(5);
        answered += usize::from(matches!(poll(&mut proposal), Some(Ok(_))));
    }
    assert_ne!(leader(&cluster), Some(0), "it has no room");
    assert!(answered > 1_000, "{answered}");
}

/// Two of three disks are full: nothing more can be committed, and everybody is told.
#[test]
fn every_proposal_has_an_outcome_when_a_majority_has_no_room() {
    let mut cluster = Cluster::led_by_first_with(3, LARGE_LOG);
    cluster.run(300);
    for node in [1, 2] {
        cluster.nodes[node].volume.set_slots_max(3);
    }
    let mut outcomes = Vec::new();
    for number in 0..1_000 {
        let proposal = cluster.group(0).propose(numbered(number));
        outcomes.push(cluster.wait(proposal));
    }
    assert_eq!(outcomes.pop(), Some(Err(Rejection::NoRoomElsewhere.into())));
    for node in [1, 2] {
        cluster.nodes[node].volume.set_slots_max(60);
    }
    // The longest wait before a segment is tried again.
    cluster.run(33_000);
    let proposal = cluster.group(0).propose(numbered(1));
    cluster.wait(proposal).unwrap();
}

#[test]
fn a_leader_whose_disk_stands_still_hands_over() {
    let mut cluster = Cluster::led_by_first(3);
    cluster.run(300);
    cluster.nodes[0].disk_is_held = true;
    drop(cluster.group(0).propose(numbered(1)));
    cluster.until("another one leads", |cluster| leader(cluster).is_some_and(|node| node != 0));
    let proposal = cluster.group(leader(&cluster).unwrap()).propose(numbered(2));
    cluster.wait(proposal).unwrap();
}

/// No other candidate could do better, and heartbeats promise nothing that is not durable.
#[test]
fn a_majority_whose_disks_stand_still_costs_no_election() {
    let mut cluster = Cluster::led_by_first(3);
    cluster.run(300);
    let term = cluster.status(0).unwrap().current_term;
    for node in [1, 2] {
        cluster.nodes[node].disk_is_held = true;
    }
    let mut proposal = cluster.group(0).propose(numbered(1));
    cluster.run(8_000);
    assert!(poll(&mut proposal).is_none());
    assert_eq!(cluster.status(0).unwrap().current_term, term);
    assert_eq!(leader(&cluster), Some(0));
    for node in [1, 2] {
        cluster.nodes[node].disk_is_held = false;
        cluster.release(node);
    }
    cluster.wait(proposal).unwrap();
}

/// Under a light load too: what is sent all the time waits for the disks, and so do its answers.
/// Without a question between them that waits for none, nothing would be heard.
#[test]
fn a_light_load_does_not_hide_that_followers_answer() {
    for pause in [10, 50, 99] {
        let mut cluster = Cluster::led_by_first(3);
        cluster.run(300);
        let term = cluster.status(0).unwrap().current_term;
        for node in [1, 2] {
            cluster.nodes[node].disk_is_held = true;
        }
        for _ in 0..4_000 / pause {
            drop(cluster.group(0).propose(b"a little".to_vec()));
            cluster.run(pause);
        }
        let status = cluster.status(0).unwrap();
        assert_eq!((status.current_term, leader(&cluster)), (term, Some(0)), "each {pause} ms");
        for peer in status.peers {
            let silent_for = cluster.now.since(peer.responded_at);
            assert!(silent_for < 250_000_000, "a heartbeat interval is 100 ms: {peer:?}");
        }
    }
}

#[test]
fn a_dead_member_does_not_fill_the_log() {
    let mut cluster = Cluster::led_by_first(3);
    for node in 0..3 {
        cluster.nodes[node].journal.borrow_mut().releases = true;
    }
    cluster.power_off(2);
    for number in 0..3_000 {
        let proposal = cluster.group(0).propose(numbered(number));
        cluster.wait(proposal).unwrap();
        if number % 20 == 0 {
            cluster.run(60);
        }
    }
    let peers = cluster.status(0).unwrap().peers;
    let dead = peers.iter().find(|peer| peer.id == NodeId(3)).unwrap();
    assert!(dead.left_behind, "the operator sees that it needs a snapshot");
}

/// The dead node is a member of some groups; the others have nothing to do with it.
#[test]
fn a_dead_node_does_not_stop_groups_it_is_no_member_of() {
    let mut cluster = Cluster::new(4);
    let with_dead = GroupId(8);
    cluster.create_on(GROUP, &[NodeId(1), NodeId(2), NodeId(3)]);
    cluster.create_on(with_dead, &[NodeId(1), NodeId(2), NodeId(4)]);
    for node in 0..4 {
        cluster.nodes[node].journal.borrow_mut().releases = true;
    }
    cluster.elect(0);
    drop(cluster.other_group(0, with_dead).campaign());
    cluster.run(300);
    cluster.power_off(3);
    for number in 0..1_500 {
        let mut both = [GROUP, with_dead].map(|group| {
            let group = cluster.other_group(0, group);
            group.propose(numbered(number))
        });
        cluster.run(20);
        for proposal in &mut both {
            assert!(matches!(poll(proposal), Some(Ok(_))), "at {number}");
        }
    }
}

/// Machines that save their index every 300 ms, and only while they apply, beside others that
/// release at once: the logs of all three nodes fill, and empty again.
#[test]
fn machines_that_save_late_do_not_wedge_three_healthy_nodes() {
    let mut cluster = Cluster::new(3);
    cluster.create(GROUP);
    let late = GroupId(8);
    cluster.create(late);
    for node in 0..3 {
        let mut journal = cluster.nodes[node].journal.borrow_mut();
        journal.releases = true;
        journal.saves_late = vec![late.0];
    }
    cluster.elect(0);
    drop(cluster.other_group(0, late).campaign());
    cluster.run(300);
    for number in 0..2_000 {
        for group in [GROUP, late] {
            drop(cluster.other_group(0, group).propose(numbered(number)));
        }
        if number % 8 == 0 {
            cluster.run(1);
        }
    }
    // After the load, too: an answer to everything, and room for more.
    cluster.run(2_000);
    for group in [GROUP, late] {
        let proposal = cluster.other_group(0, group).propose(numbered(1));
        cluster.wait(proposal).unwrap();
    }
}

#[test]
fn answers_held_for_a_hung_disk_are_bounded() {
    let mut cluster = Cluster::led_by_first(3);
    cluster.run(300);
    cluster.nodes[2].disk_is_held = true;
    let proposal = cluster.group(0).propose(numbered(1));
    cluster.wait(proposal).unwrap();
    for number in 0..300 {
        drop(cluster.group(0).propose(numbered(number)));
        cluster.run(100);
    }
    let shard = cluster.nodes[2].shard.as_ref().unwrap();
    let held = shard.groups.durability.held_responses();
    assert!(held < 64, "{held} answers are held");
}

/// It has no memory for what comes, which is not a full log: it is asked again now and then, and
/// once its disk moves it is sent all it lacks.
#[test]
fn a_follower_whose_disk_hangs_is_not_taken_for_full() {
    let mut cluster = Cluster::led_by_first_with(3, LARGE_LOG);
    cluster.run(300);
    cluster.nodes[2].disk_is_held = true;
    for number in 0..300 {
        drop(cluster.group(0).propose(numbered(number)));
        cluster.run(5);
    }
    let sent = cluster.wire.carried[&(0, 2)];
    cluster.run(3_000);
    let in_vain = cluster.wire.carried[&(0, 2)] - sent;
    assert!(in_vain < 30 * (64 << 10), "about a message a heartbeat: {in_vain} bytes");
    let hung = cluster.status(2).unwrap();
    assert!(hung.last_index.0 < 200, "it has no memory for more: {hung:?}");
    assert_eq!(hung.leader, Some(NodeId(1)), "it hears its leader all the same");
    let leader = cluster.status(0).unwrap();
    assert!(leader.peers.iter().all(|peer| !peer.log_full), "{leader:?}");
    cluster.nodes[2].disk_is_held = false;
    cluster.release(2);
    cluster.run(1_000);
    assert_eq!(cluster.status(2).unwrap().last_index, leader.last_index);
    let again = cluster.status(0).unwrap();
    assert_eq!((again.current_term, again.last_index), (leader.current_term, leader.last_index));
}

#[test]
fn a_stop_ends_while_a_write_hangs() {
    let mut cluster = Cluster::led_by_first(1);
    cluster.run(300);
    cluster.nodes[0].disk_is_held = true;
    let _hangs = cluster.group(0).propose(b"x".to_vec());
    cluster.run(5);
    let mut waits = cluster.group(0).propose(b"y".to_vec());
    cluster.core(0).stop();
    // The witness is waited for, an election timeout at most.
    cluster.run(2_000);
    let shard = cluster.nodes[0].shard.as_ref().unwrap();
    assert!(shard.stopped());
    let outcome = poll(&mut waits);
    assert!(outcome.is_some_and(|outcome| outcome.is_err()), "everybody is answered");
}

/// What waits to be taken counts against the same limit as what was taken.
#[test]
fn the_inbox_is_bounded_by_bytes() {
    let mut cluster = Cluster::led_by_first(1);
    cluster.run(300);
    let group = cluster.group(0);
    let propose = |number| group.propose(numbered(number));
    let mut waiting: Vec<Proposal> = (0..60).map(propose).collect();
    // 64 KiB hold 16 commands of 4 kB; one group may have half of them waiting.
    let refused = waiting.iter_mut().filter_map(|proposal| {
        let limit = "limits.proposals_pending_bytes_max";
        let overloaded = ProposeError::from(Rejection::Overloaded { limit });
        (poll(proposal) == Some(Err(overloaded))).then_some(())
    });
    assert_eq!(refused.count(), 52);
    cluster.run(10);
    let again = cluster.group(0).propose(numbered(1));
    cluster.wait(again).unwrap();
}

/// A group whose other members are gone holds what it was given, and not what others need.
#[test]
fn a_stuck_group_leaves_room_for_others() {
    let mut cluster = Cluster::led_by_first(3);
    let alone = GroupId(8);
    cluster.create_on(alone, &[NodeId(1)]);
    cluster.run(300);
    for node in [1, 2] {
        cluster.nodes[node].disk_is_held = true;
    }
    for number in 0..100 {
        drop(cluster.group(0).propose(numbered(number)));
        cluster.run(1);
    }
    for number in 0..100 {
        let proposal = cluster.other_group(0, alone).propose(numbered(number));
        cluster.wait(proposal).unwrap();
    }
}

/// Only the log's own limit is to be blamed when it is full.
#[test]
fn an_idle_group_does_not_fill_the_log() {
    let mut cluster = Cluster::new(3);
    let idle = GroupId(8);
    cluster.create(GROUP);
    cluster.create(idle);
    for node in 0..3 {
        cluster.nodes[node].journal.borrow_mut().releases = true;
    }
    cluster.elect(0);
    drop(cluster.other_group(0, idle).campaign());
    cluster.run(300);
    for number in 0..1_500 {
        let proposal = cluster.group(0).propose(numbered(number));
        cluster.wait(proposal).unwrap();
        cluster.run(2);
    }
    let status = cluster.status_of(0, idle).unwrap();
    assert_eq!(status.last_applied, LogIndex(1), "a leader's empty entry");
}

/// Rot of a last frame that no mark witnesses can't be told from a torn write.
#[test]
fn a_frame_that_took_long_to_write_is_marked_too() {
    let mut cluster = Cluster::led_by_first(1);
    cluster.run(1_000);
    let marks = |cluster: &Cluster| {
        let shard = cluster.nodes[0].shard.as_ref().unwrap();
        shard.statistics().log.marks
    };
    let before = marks(&cluster);
    cluster.nodes[0].disk_is_held = true;
    drop(cluster.group(0).propose(numbered(1)));
    cluster.run(150);
    cluster.nodes[0].disk_is_held = false;
    cluster.release(0);
    cluster.run(1_000);
    assert_eq!(marks(&cluster), before + 1);
}

#[test]
fn a_core_whose_log_failed_sleeps() {
    let mut cluster = Cluster::led_by_first(3);
    cluster.run(1_000);
    cluster.nodes[0].disk_is_held = true;
    drop(cluster.group(0).propose(numbered(1)));
    cluster.run(5);
    cluster.fail_writes(0, libc::EIO);
    cluster.run(1_000);
    let now = cluster.now;
    let shard = cluster.nodes[0].shard.as_mut().unwrap();
    let turn = shard.turn(now, &mut Vec::new(), &mut Vec::new());
    assert!(!turn.more && turn.deadline > now, "{turn:?}");
}

/// It was told as if the disk were full: only the node's log lines said what was lacking.
#[test]
fn a_log_that_gets_no_descriptor_says_so_until_it_does() {
    let mut cluster = Cluster::led_by_first(1);
    cluster.nodes[0].lacks_descriptors = true;
    let refused = (0..400).find_map(|number| {
        let proposal = cluster.group(0).propose(numbered(number));
        cluster.wait(proposal).err()
    });
    assert_eq!(refused, Some(Rejection::NoDescriptors.into()));
    cluster.nodes[0].lacks_descriptors = false;
    cluster.run(1_100);
    let again = cluster.group(0).propose(numbered(1));
    cluster.wait(again).expect("there is another segment");
}

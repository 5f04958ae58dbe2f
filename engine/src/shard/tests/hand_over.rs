//! Hand-overs that are asked for in vain, and called off. The election timeout is 1,000 rounds.

use pontoon_raft::{GroupId, NodeId, RoleName, TransferRejection};

use super::cluster::{Cluster, GROUP, poll};
use super::room::{LARGE_LOG, leader, numbered};
use crate::request::TransferError;

/// Asked for every tenth of an election timeout, it refused proposals for as long as it was asked.
#[test]
fn a_hand_over_to_a_silent_node_is_given_up_however_often_it_is_asked_for() {
    let mut cluster = Cluster::led_by_first(3);
    cluster.power_off(2);
    let mut refused = 0;
    for _ in 0..50 {
        drop(cluster.group(0).transfer_leadership(NodeId(3)));
        let mut proposal = cluster.group(0).propose(b"now".to_vec());
        cluster.run(100);
        refused += usize::from(!matches!(poll(&mut proposal), Some(Ok(_))));
    }
    assert!((1..=10).contains(&refused), "{refused} tenths");
    let mut answer = cluster.group(0).transfer_leadership(NodeId(3));
    cluster.run(5);
    let unavailable = TransferRejection::Unavailable { to: NodeId(3) };
    assert_eq!(poll(&mut answer), Some(Err(TransferError::Rejected(unavailable))));
}

#[test]
fn a_hand_over_is_seen_in_the_status_and_called_off_by_one_to_the_leader_itself() {
    let mut cluster = Cluster::led_by_first(3);
    cluster.power_off(2);
    drop(cluster.group(0).transfer_leadership(NodeId(3)));
    cluster.run(5);
    let transfer = cluster.status(0).and_then(|status| status.transfer);
    assert_eq!(transfer.map(|transfer| transfer.to), Some(NodeId(3)));
    let mut answer = cluster.group(0).transfer_leadership(NodeId(1));
    let proposal = cluster.group(0).propose(b"now".to_vec());
    cluster.wait(proposal).expect("it leads as before");
    assert_eq!(poll(&mut answer), Some(Ok(())));
    assert_eq!(cluster.status(0).and_then(|status| status.transfer), None);
}

/// The state machine of a follower fails; it follows, persists and votes as ever.
fn fail_machine(cluster: &mut Cluster, node: usize) {
    cluster.nodes[node].journal.borrow_mut().fails_at = Some((GROUP.0, b"bad".to_vec()));
    let proposal = cluster.group(0).propose(b"bad".to_vec());
    cluster.wait(proposal).unwrap();
    cluster.run(300);
    let shard = cluster.nodes[node].shard.as_ref().unwrap();
    assert!(shard.groups.replica(GROUP).unwrap().machine_error().is_some());
}

/// Of two followers with the whole log one can't lead, whichever it is.
#[test]
fn a_full_leader_hands_over_to_a_member_that_can_lead() {
    for (failed, sound) in [(1, 2), (2, 1)] {
        let mut cluster = Cluster::led_by_first_with(3, LARGE_LOG);
        cluster.run(300);
        fail_machine(&mut cluster, failed);
        cluster.nodes[0].volume.set_slots_max(3);
        for number in 0..400 {
            let leads = leader(&cluster).unwrap_or(0);
            drop(cluster.group(leads).propose(numbered(number)));
            cluster.run(10);
        }
        assert_eq!(leader(&cluster), Some(sound));
    }
}

#[test]
fn a_node_that_stops_hands_over_to_a_member_that_can_lead() {
    for (failed, sound) in [(1, 2), (2, 1)] {
        let mut cluster = Cluster::led_by_first(3);
        cluster.run(300);
        fail_machine(&mut cluster, failed);
        cluster.core(0).stop();
        let begun = cluster.now;
        cluster.until("it has stopped", |cluster| {
            cluster.nodes[0].shard.as_ref().unwrap().stopped()
        });
        assert!(cluster.now.since(begun) < 1_000_000_000, "it waits for nobody in vain");
        cluster.run(10);
        assert_eq!(leader(&cluster), Some(sound));
    }
}

/// It could not get what it lacks: proposals would be refused in vain.
#[test]
fn a_hand_over_to_a_member_whose_log_is_full_is_refused() {
    let mut cluster = Cluster::led_by_first_with(3, LARGE_LOG);
    cluster.run(300);
    cluster.nodes[2].volume.set_slots_max(3);
    for number in 0..400 {
        drop(cluster.group(0).propose(numbered(number)));
        cluster.run(5);
    }
    let mut answer = cluster.group(0).transfer_leadership(NodeId(3));
    let proposal = cluster.group(0).propose(b"now".to_vec());
    cluster.wait(proposal).expect("it leads as before");
    let unavailable = TransferRejection::Unavailable { to: NodeId(3) };
    assert_eq!(poll(&mut answer), Some(Err(TransferError::Rejected(unavailable))));
}

/// What an administrator asked for and called off keeps no node that stops from handing over.
#[test]
fn a_stop_soon_after_a_hand_over_that_was_called_off_hands_over() {
    let mut cluster = Cluster::led_by_first(3);
    cluster.run(300);
    cluster.wire.cut = vec![(0, 2), (2, 0)];
    drop(cluster.group(0).transfer_leadership(NodeId(3)));
    cluster.run(5);
    drop(cluster.group(0).transfer_leadership(NodeId(1)));
    cluster.run(1_200);
    cluster.core(0).stop();
    cluster.run(50);
    assert!(cluster.nodes[0].shard.as_ref().unwrap().stopped());
    assert_eq!(leader(&cluster), Some(1));
}

/// It has heard nobody yet: who has room is known after a round trip, and waited for.
#[test]
fn a_node_that_stops_in_the_turn_in_which_it_is_elected_hands_over() {
    let mut cluster = Cluster::new(3);
    cluster.create(GROUP);
    cluster.run(3);
    drop(cluster.group(0).campaign());
    while leader(&cluster).is_none() {
        cluster.turn(0);
        if leader(&cluster).is_none() {
            cluster.run(1);
        }
    }
    cluster.core(0).stop();
    cluster.run(50);
    assert!(cluster.nodes[0].shard.as_ref().unwrap().stopped());
    let next = leader(&cluster);
    assert!(next.is_some_and(|node| node != 0), "{next:?}");
}

/// The disks of all members are slow, each a write in one and a half election timeouts; gives how
/// many terms that costs in a hundred of them.
fn terms_while_all_disks_are_slow(cluster: &mut Cluster) -> u64 {
    let term = |cluster: &Cluster| {
        let terms = (0..3).filter_map(|node| cluster.status(node)).map(|it| it.current_term.0);
        terms.max().expect("they run")
    };
    let before = term(cluster);
    for node in 0..3 {
        cluster.nodes[node].disk_is_held = true;
    }
    for step in 0..1_000 {
        // At other times each.
        for node in 0..3 {
            if (step + 5 * node) % 15 == 0 {
                cluster.release(node);
            }
        }
        if let Some(leads) = leader(cluster) {
            drop(cluster.group(leads).propose(b"a little".to_vec()));
        }
        cluster.run(100);
    }
    term(cluster) - before
}

/// Nobody was better: the leader gave its office away, and so did the next one, without end.
#[test]
fn a_leader_among_members_as_slow_as_itself_stays() {
    let mut cluster = Cluster::led_by_first(3);
    cluster.run(300);
    let terms = terms_while_all_disks_are_slow(&mut cluster);
    assert!(terms <= 12, "{terms} terms in a hundred election timeouts");
}

/// Only large commands find no room, and nobody proposes small ones: they were refused for ever.
#[test]
fn a_leader_whose_log_takes_no_large_commands_hands_over() {
    for small in 0..4 {
        let mut cluster = Cluster::led_by_first_with(3, LARGE_LOG);
        cluster.run(300);
        cluster.nodes[0].volume.set_slots_max(3);
        for _ in 0..small {
            let proposal = cluster.group(0).propose(vec![7]);
            cluster.wait(proposal).unwrap();
        }
        for _ in 0..400 {
            let leads = leader(&cluster).unwrap_or(0);
            drop(cluster.group(leads).propose(vec![7; 4 << 10]));
            cluster.run(10);
        }
        assert!(leader(&cluster).is_some_and(|node| node != 0), "after {small} small ones");
    }
}

/// Seed 3992 of the simulator: each group was given away when somebody was known to be faster, one
/// after the other, and the pause after each was that of all, and twice as long as before.
#[test]
fn groups_are_given_away_when_each_could_be_however_many_were_before() {
    let mut cluster = Cluster::led_by_first(3);
    let others: Vec<GroupId> = (20..26).map(GroupId).collect();
    for group in &others {
        cluster.create(*group);
        drop(cluster.other_group(0, *group).campaign());
    }
    cluster.run(300);
    cluster.nodes[0].disk_is_held = true;
    for group in &others {
        drop(cluster.other_group(0, *group).propose(b"known to be durable elsewhere".to_vec()));
        cluster.run(3_500);
        let leads = |node: usize| {
            let status = cluster.status_of(node, *group);
            status.is_some_and(|status| status.role == RoleName::Leader)
        };
        assert!(leads(1) || leads(2), "{group} is led by node 1, whose disk stands still");
    }
}

/// Seed 9306: all that its members lack lies on the disk that stands still, so that nobody could
/// take over, and what they have is enough for one of them.
#[test]
fn a_leader_whose_successors_wait_for_its_disk_resigns() {
    let mut cluster = Cluster::led_by_first_with(3, LARGE_LOG);
    for node in 0..3 {
        cluster.nodes[node].journal.borrow_mut().releases = false;
    }
    cluster.run(300);
    cluster.wire.cut = vec![(0, 1), (1, 0), (0, 2), (2, 0)];
    for number in 0..40 {
        drop(cluster.group(0).propose(numbered(number)));
        cluster.run(5);
    }
    cluster.nodes[0].reads_are_held = true;
    cluster.nodes[0].disk_is_held = true;
    cluster.wire.cut.clear();
    cluster.run(12_000);
    let leads = leader(&cluster);
    assert!(leads.is_some_and(|node| node != 0), "{leads:?}");
    let proposal = cluster.group(leads.unwrap()).propose(b"goes on".to_vec());
    cluster.wait(proposal).expect("two members are sound");
}

//! Nobody is left behind: followers that come back, lag or take little, while load goes on.

use super::cluster::{Cluster, GROUP, INBOX, Settings, poll};
use crate::inbox::InboxLimits;
use crate::outcome::Proposal;
use pontoon_raft::{GroupId, NodeId};

const MILLISECOND: u64 = 1_000_000;

/// Entries of 3 kB that no cache holds, and a patient election timeout.
const FOR_SLOW_WAYS: Settings = Settings {
    log: |log| {
        log.segment_bytes = 2 << 20;
        log.frame_bytes_max = 64 << 10;
        log.slab_bytes = 128 << 10;
        log.staging_bytes = 1 << 20;
        log.cache_bytes = 128 << 10;
        log.read_bytes = 512 << 10;
        log.segments_max = 64;
    },
    shard: |shard| {
        shard.frame_limits.frame_bytes_max = 64 << 10;
        shard.peer_queue_bytes_max = 1 << 20;
        shard.election_timeout = 3000 * MILLISECOND;
    },
    inbox: InboxLimits {
        bytes_max: 2 << 20,
        ..INBOX
    },
};

/// A command of 3 kB with a number.
fn numbered(number: u32) -> Vec<u8> {
    number.to_le_bytes().repeat(750)
}

#[test]
fn a_leader_that_was_killed_comes_back_while_load_goes_on() {
    let mut cluster = Cluster::led_by_first(3);
    cluster.power_off(0);
    let leads = |cluster: &Cluster, node: usize| {
        cluster.status(node).is_some_and(|status| status.leader == Some(status.id))
    };
    cluster.until("another leads", |cluster| leads(cluster, 1) || leads(cluster, 2));
    let leader = 1 + usize::from(leads(&cluster, 2));
    cluster.power_on(0);
    // A proposal every 20 ms: the leader never has nothing to say.
    for number in 0..150 {
        drop(cluster.group(leader).propose(numbered(number % 10)));
        cluster.run(20);
    }
    let (leader, back) = (cluster.status(leader).unwrap(), cluster.status(0).unwrap());
    assert_eq!(back.leader, Some(leader.id));
    assert!(back.last_index.0 + 3 >= leader.last_index.0, "{back:?}");
}

/// What catching up costs is what is lacked: over any way, nothing is sent or read twice.
#[test]
fn catching_up_over_a_slow_way_carries_every_entry_once() {
    for bytes_per_ms in [300, 1_000, 20_000] {
        let mut cluster = Cluster::led_by_first_with(3, FOR_SLOW_WAYS);
        cluster.power_off(2);
        let mut needed = 0;
        for number in 0..400_u32 {
            needed += numbered(number).len() + 48;
            drop(cluster.group(0).propose(numbered(number)));
            if number % 50 == 0 {
                cluster.run(3);
            }
        }
        cluster.run(200);
        let before = cluster.wire.carried[&(0, 2)];
        cluster.power_on(2);
        cluster.bandwidth.insert((0, 2), bytes_per_ms);
        let reads = cluster.reads(0);
        let best = needed / bytes_per_ms;
        cluster.run(best * 11 / 10 + 300);
        let level = cluster.status(2).unwrap().last_index;
        assert_eq!(level, cluster.status(0).unwrap().last_index, "{bytes_per_ms}");
        let carried = cluster.wire.carried[&(0, 2)] - before;
        assert!(
            carried * 10 <= needed * 11,
            "{carried} bytes for {needed} at {bytes_per_ms} B/ms"
        );
        let reads = cluster.reads(0) - reads;
        assert!(reads <= 400, "{reads} reads for 400 entries");
    }
}

/// Node 1 leads two groups whose machines release what they hold; node 3 is a member of the first
/// only.
fn with_a_group_that_has_no_member_on_node_3() -> (Cluster, GroupId) {
    let mut cluster = Cluster::new(3);
    cluster.create(GROUP);
    let other = GroupId(8);
    cluster.create_on(other, &[NodeId(1), NodeId(2)]);
    for node in &cluster.nodes {
        node.journal.borrow_mut().releases = true;
    }
    cluster.elect(0);
    drop(cluster.other_group(0, other).campaign());
    cluster.run(300);
    (cluster, other)
}

#[test]
fn a_slow_peer_does_not_refuse_groups_that_have_no_member_there() {
    let (mut cluster, other) = with_a_group_that_has_no_member_on_node_3();
    // Node 3 takes 7.5 KB/s of what comes from the leader.
    cluster.bandwidth.insert((0, 2), 7);
    let mut refused = 0;
    for _ in 0..1_000 {
        let _small = cluster.group(0).propose(vec![2; 100]);
        let propose = |_| cluster.other_group(0, other).propose(vec![1; 4000]);
        let mut large: Vec<Proposal> = (0..7).map(propose).collect();
        cluster.run(20);
        for proposal in &mut large {
            refused += usize::from(matches!(poll(proposal), Some(Err(_))));
        }
    }
    assert_eq!(refused, 0);
}

/// A peer that takes nothing at all holds a send and the memory of it; others need that.
#[test]
fn a_peer_that_hangs_is_cut_off_when_others_need_its_memory() {
    let (mut cluster, other) = with_a_group_that_has_no_member_on_node_3();
    cluster.bandwidth.insert((0, 2), 0);
    let mut answered = 0;
    for _ in 0..200 {
        let _small = cluster.group(0).propose(vec![2; 100]);
        let propose = |_| cluster.other_group(0, other).propose(vec![1; 4000]);
        let mut large: Vec<Proposal> = (0..7).map(propose).collect();
        cluster.run(20);
        let is_done = |proposal: &mut Proposal| matches!(poll(proposal), Some(Ok(_)));
        answered += large.iter_mut().filter_map(|each| is_done(each).then_some(())).count();
    }
    assert!(answered >= 1_000, "{answered} of 1400");
}

/// Of a peer that takes a hundred bytes every nine seconds nothing is to be hoped.
#[test]
fn a_drip_does_not_keep_a_connection() {
    let mut cluster = Cluster::led_by_first(3);
    cluster.bandwidth.insert((0, 2), 0);
    let closed = |cluster: &Cluster| cluster.closed(0, "send_timeout");
    for number in 0..30_u32 {
        drop(cluster.group(0).propose(numbered(number % 10)));
        cluster.run(880);
        if number % 10 == 9 {
            cluster.bandwidth.insert((0, 2), 100);
            cluster.run(1);
            cluster.bandwidth.insert((0, 2), 0);
        }
    }
    assert!(closed(&cluster) >= 1);
}

/// Something in between acknowledges every byte and hands none on.
#[test]
fn a_connection_that_leads_nowhere_is_replaced() {
    let mut cluster = Cluster::led_by_first(3);
    cluster.run(300);
    cluster.wire.deafen(0, 2);
    for number in 0..450_u32 {
        drop(cluster.group(0).propose(vec![number as u8; 10]));
        cluster.run(100);
    }
    assert!(cluster.closed(0, "silent") >= 1);
    let (leader, back) = (cluster.status(0).unwrap(), cluster.status(2).unwrap());
    assert!(back.last_index.0 + 3 >= leader.last_index.0, "{back:?}");
}

/// Two ways of 1 MB/s, a group that uses all of it, and one that has nothing to say.
#[test]
fn heartbeats_do_not_wait_behind_the_entries_of_other_groups() {
    let mut cluster = Cluster::led_by_first_with(3, FOR_SLOW_WAYS);
    let idle = GroupId(8);
    cluster.create(idle);
    drop(cluster.other_group(0, idle).campaign());
    cluster.run(300);
    for to in [1, 2] {
        cluster.bandwidth.insert((0, to), 1_000);
    }
    let term = cluster.status_of(0, idle).unwrap().current_term;
    for number in 0..10_000_u32 {
        drop(cluster.group(0).propose(numbered(number)));
        cluster.run(1);
        for node in 1..3 {
            let status = cluster.status_of(0, idle).unwrap();
            let peer = status.peers.iter().find(|peer| peer.id == NodeId(node + 1)).unwrap();
            let silence = cluster.now.since(peer.responded_at) / MILLISECOND;
            assert!(silence < 1_000, "{silence} ms without an answer at {number}");
        }
    }
    assert_eq!(cluster.status_of(0, idle).unwrap().current_term, term);
}

#[test]
fn a_follower_hears_its_leader_while_its_entries_are_read_back() {
    let mut cluster = Cluster::led_by_first_with(3, FOR_SLOW_WAYS);
    cluster.power_off(2);
    for number in 0..200_u32 {
        drop(cluster.group(0).propose(numbered(number)));
        cluster.run(1);
    }
    cluster.nodes[0].reads_are_held = true;
    cluster.power_on(2);
    cluster.run(100);
    let term = cluster.status(0).unwrap().current_term;
    // Nearly an election timeout, after which it hands over: the leader's disk reads nothing.
    for _ in 0..28 {
        cluster.run(100);
        let status = cluster.status(2).unwrap();
        assert_eq!(status.leader, Some(NodeId(1)));
        assert_eq!(status.current_term, term);
    }
    cluster.release_reads(0);
    cluster.until("it is level", |cluster| {
        cluster.status(2).unwrap().last_index == cluster.status(0).unwrap().last_index
    });
}

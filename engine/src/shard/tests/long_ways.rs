//! Long ways: leaders last, the window is used, and what is too long is told.

use std::time::Duration;

use pontoon_raft::NodeId;

use super::cluster::{Cluster, INBOX, Settings};
use super::lines::warnings;
use crate::inbox::InboxLimits;

const MILLISECOND: u64 = 1_000_000;

/// A window of 256 KiB, and an election timeout for round trips up to 600 ms.
const FOR_LONG_WAYS: Settings = Settings {
    log: |log| {
        log.segment_bytes = 2 << 20;
        log.frame_bytes_max = 64 << 10;
        log.slab_bytes = 128 << 10;
        log.staging_bytes = 1 << 20;
        log.cache_bytes = 1 << 20;
        log.read_bytes = 512 << 10;
        log.segments_max = 64;
    },
    shard: |shard| {
        shard.frame_limits.frame_bytes_max = 64 << 10;
        shard.peer_queue_bytes_max = 1 << 20;
        shard.in_flight_bytes_max = 256 << 10;
        shard.election_timeout = 4_000 * MILLISECOND;
        shard.round_trip_max = 650 * MILLISECOND;
    },
    inbox: InboxLimits {
        proposals_max: 1024,
        bytes_max: 4 << 20,
        ..INBOX
    },
};

#[test]
fn a_group_replicates_a_window_in_a_round_trip_and_keeps_its_leader() {
    for each_way in [10_u64, 100, 300] {
        let mut cluster = Cluster::with(3, FOR_LONG_WAYS);
        for node in &cluster.nodes {
            node.journal.borrow_mut().releases = true;
        }
        cluster.create(super::cluster::GROUP);
        cluster.elect(0);
        cluster.wire.delay = each_way;
        cluster.run(1_000);
        let before = cluster.status(0).unwrap();
        let rounds = 12_000;
        for _ in 0..rounds {
            let waiting = |cluster: &Cluster| {
                let status = cluster.status(0).unwrap();
                status.last_index.0 - status.commit_index.0
            };
            while waiting(&cluster) < 200 {
                drop(cluster.group(0).propose(vec![5; 4_000]));
                cluster.turn(0);
            }
            cluster.run(1);
        }
        let after = cluster.status(0).unwrap();
        assert_eq!(after.current_term, before.current_term, "{each_way} ms");
        let bytes = (after.commit_index.0 - before.commit_index.0) * 4_032;
        let best = (256 << 10) * rounds as u64 / (2 * each_way + 2);
        assert!(bytes * 10 >= best * 8, "{bytes} of {best} at {each_way} ms");
    }
}

#[test]
fn the_way_to_each_peer_is_measured() {
    let mut cluster = Cluster::with(3, FOR_LONG_WAYS);
    cluster.wire.delay = 40;
    cluster.run(20_000);
    let shard = cluster.nodes[0].shard.as_ref().unwrap();
    let round_trips = shard.statistics().round_trips;
    assert_eq!(round_trips.len(), 2, "{round_trips:?}");
    let expected = Duration::from_millis(80)..Duration::from_millis(90);
    for peer in [2, 3] {
        assert!(expected.contains(&round_trips[&NodeId(peer)]), "{round_trips:?}");
    }
}

/// A way that the election timeout is too short for is said once for each peer, with the figures
/// and the key to raise; again only after it was good.
#[test]
fn a_way_that_is_too_long_is_warned_of_once() {
    let told = |cluster: &mut Cluster, each_way| {
        cluster.wire.delay = each_way;
        let lines = warnings(|| cluster.run(30_000));
        let of_the_way = lines.into_iter().filter(|line| line.contains("the way to a peer"));
        of_the_way.filter(|line| line.contains("node=1")).collect::<Vec<_>>()
    };
    let mut cluster = Cluster::with(3, FOR_LONG_WAYS);
    assert_eq!(told(&mut cluster, 310), [""; 0], "650 ms is what it is good for");
    let lines = told(&mut cluster, 400);
    assert_eq!(lines.len(), 2, "{lines:?}");
    for (line, peer) in lines.iter().zip(["peer=2", "peer=3"]) {
        assert!(line.contains("most=650ms") && line.contains("round_trip=80"), "{line}");
        assert!(line.contains(peer) && line.contains("raft.election_timeout"), "{line}");
    }
    assert_eq!(told(&mut cluster, 400), [""; 0]);
    assert_eq!(told(&mut cluster, 100), [""; 0]);
    assert_eq!(told(&mut cluster, 400).len(), 2);
}

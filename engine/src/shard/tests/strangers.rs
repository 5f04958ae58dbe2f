//! Whoever knows the ids can connect in a peer's name: that displaces nobody who works.

use pontoon_raft::NodeId;
use pontoon_transport::Connection;

use super::cluster::{Cluster, GROUP, shard_config};
use crate::port::SocketId;

/// The first bytes of a connection: a ping.
fn ping() -> Vec<u8> {
    let mut connection: Connection<Vec<u8>> = Connection::new(shard_config(0, 3).frame_limits);
    connection.ping(7);
    let batch = connection.send().unwrap();
    batch.slices().flatten().copied().collect()
}

/// One connection to each node in the name of each of the others.
fn strangers(cluster: &mut Cluster, words: &[u8]) -> Vec<SocketId> {
    let ways = [(0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1)];
    let connect = |(name, to)| {
        let socket = cluster.connect_stranger(name, to);
        cluster.wire.say(socket, words);
        socket
    };
    ways.map(connect).to_vec()
}

/// Strangers come in all names for ten seconds; the cluster works as if they had not.
fn a_cluster_among(words: &[u8]) -> Cluster {
    let mut cluster = Cluster::led_by_first(3);
    cluster.run(50);
    let before = cluster.status(0).unwrap();
    for number in 0..100_u32 {
        strangers(&mut cluster, words);
        let proposal = cluster.group(0).propose(number.to_le_bytes().to_vec());
        cluster.run(99);
        cluster.wait(proposal).unwrap();
    }
    let after = cluster.status(0).unwrap();
    assert_eq!(after.leader, Some(NodeId(1)));
    assert_eq!(after.current_term, before.current_term, "no election");
    for node in 0..3 {
        assert_eq!(cluster.closed(node, "replaced"), 0);
    }
    cluster
}

#[test]
fn idle_connections_displace_no_peer_that_talks() {
    let cluster = a_cluster_among(&[]);
    assert!(cluster.closed(0, "superfluous") > 0);
}

#[test]
fn connections_that_talk_displace_no_peer_that_talks() {
    a_cluster_among(&ping());
}

#[test]
fn a_connection_that_says_nothing_is_closed_in_time_and_keeps_no_peer_out() {
    let mut cluster = Cluster::new(3);
    let sockets = strangers(&mut cluster, &[]);
    cluster.create(GROUP);
    cluster.elect(0);
    let proposal = cluster.group(0).propose(b"heard".to_vec());
    cluster.wait(proposal).unwrap();
    cluster.run(2_500);
    let closed = sockets.iter().all(|socket| cluster.wire.is_closed(*socket));
    assert!(closed, "whoever says nothing");
}

/// A broken connection of which one end has not learned: the peer connects anew, and is heard.
#[test]
fn a_connection_takes_the_place_of_one_that_fell_silent() {
    let mut cluster = Cluster::led_by_first(3);
    cluster.run(50);
    for (from, to) in [(0, 1), (1, 0)] {
        cluster.wire.deafen(from, to);
    }
    cluster.run(500);
    let socket = cluster.connect_stranger(0, 1);
    cluster.wire.say(socket, &ping());
    cluster.run(2_000);
    assert_eq!(cluster.closed(1, "replaced"), 1);
    assert!(!cluster.wire.is_closed(socket));
}

//! Whoever knows the ids can connect in a peer's name: that displaces nobody who works.

use pontoon_raft::NodeId;
use pontoon_transport::Connection;

use super::cluster::{Cluster, GROUP, poll, shard_config};
use super::room::leader;
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

/// A stranger that says again and again that it is there.
struct Talker {
    socket: SocketId,
    connection: Connection<Vec<u8>>,
    /// It answers whoever asks whether it is there.
    answers: bool,
}

impl Talker {
    fn new(socket: SocketId, answers: bool) -> Self {
        let connection = Connection::new(shard_config(0, 3).frame_limits);
        Self { socket, connection, answers }
    }

    fn talk(&mut self, cluster: &mut Cluster) {
        let heard = cluster.wire.hear(self.socket);
        if self.answers {
            self.take(&heard);
        }
        self.connection.ping(cluster.now.0);
        while let Some(batch) = self.connection.send() {
            let words: Vec<u8> = batch.slices().flatten().copied().collect();
            cluster.wire.say(self.socket, &words);
            self.connection.on_sent(batch, Ok(words.len())).expect("it is whole");
        }
    }

    /// Pings among these bytes are answered by the connection itself.
    fn take(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let mut buffer = self.connection.receive().expect("one receive at a time");
            let count = buffer.free().len().min(bytes.len());
            buffer.free()[..count].copy_from_slice(&bytes[..count]);
            bytes = &bytes[count..];
            self.connection.on_received(buffer, Ok(count)).expect("a frame");
            while let Ok(Some(_)) = self.connection.next_frame() {}
        }
    }
}

/// Whoever came first in a peer's name kept it out for 30 s, or for good if it answered pings.
#[test]
fn connections_that_only_say_that_they_are_there_give_way_to_one_that_answers() {
    for answers in [false, true] {
        let mut cluster = Cluster::new(3);
        let sockets = strangers(&mut cluster, &[]).into_iter();
        let mut talkers: Vec<_> = sockets.map(|socket| Talker::new(socket, answers)).collect();
        cluster.create(GROUP);
        for _ in 0..100 {
            for talker in &mut talkers {
                talker.talk(&mut cluster);
            }
            cluster.run(100);
        }
        let leads = leader(&cluster).expect("ten election timeouts are enough");
        let mut proposal = cluster.group(leads).propose(b"heard".to_vec());
        cluster.run(50);
        assert!(matches!(poll(&mut proposal), Some(Ok(_))), "answers: {answers}");
    }
}

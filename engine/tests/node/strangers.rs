//! Strangers on the port: closed with a counted reason, while real peers get through.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Instant;

use pontoon::transport::{
    Connection, FORMAT_FINGERPRINT, Features, FrameLimits, HELLO_BYTES, Hello, Purpose,
    WIRE_VERSION, WIRE_VERSION_MIN,
};
use pontoon::{Config, Node};

use crate::{PATIENCE, alone, config, directory, propose};

/// A node that knows of a node 2, which is nowhere.
fn with_peer(config: Config) -> Config {
    config.peer(2, "127.0.0.1:9".parse().unwrap())
}

/// The hello that the node would accept.
pub(crate) fn good_hello() -> Hello {
    Hello {
        version_min: WIRE_VERSION_MIN,
        version_max: WIRE_VERSION,
        core: 0,
        cores: 1,
        cluster: 0xABC,
        node: 2,
        expected_peer: 1,
        incarnation: 0,
        purpose: Purpose::Replication,
        features: Features::NONE,
        fingerprint: FORMAT_FINGERPRINT,
        frame_bytes_max: 1 << 20,
    }
}

/// What a peer says first.
fn ping() -> Vec<u8> {
    let mut connection: Connection<Vec<u8>> = Connection::new(FrameLimits {
        frame_bytes_max: 1 << 20,
        receive_ahead_bytes: 64 << 10,
    });
    connection.ping(1);
    let batch = connection.send().unwrap();
    batch.slices().flatten().copied().collect()
}

/// Says something and reads until the node closes.
fn say(address: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    // The node may close before all is written.
    let _ = stream.write_all(bytes);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    answer
}

fn wait_for_refusal(node: &Node, reason: &str) {
    let deadline = Instant::now() + PATIENCE;
    while !node.refused_connections().contains_key(reason) {
        let seen = node.refused_connections();
        assert!(Instant::now() < deadline, "{reason} is not among {seen:?}");
        std::thread::yield_now();
    }
}

fn wait_for_closed(node: &Node, reason: &str) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let seen = node
            .statistics()
            .wait()
            .remove(0)
            .unwrap()
            .connections_closed;
        if seen.keys().any(|closed| closed.label() == reason) {
            return;
        }
        assert!(Instant::now() < deadline, "{reason} is not among {seen:?}");
    }
}

#[test]
fn whoever_is_no_peer_is_turned_away_with_a_counted_reason() {
    let data = directory();
    let (node, group) = alone(with_peer(config(data.path())));
    let address = node.local_addr();
    let good = good_hello();
    let mut damaged = good.encode();
    damaged[40] ^= 1;
    let strangers: [(&str, Vec<u8>); 9] = [
        ("not_pontoon", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec()),
        ("not_pontoon", vec![0x16; 200]),
        ("hello_checksum", damaged.to_vec()),
        (
            "wrong_cluster",
            Hello { cluster: 1, ..good }.encode().to_vec(),
        ),
        (
            "wrong_node",
            Hello {
                expected_peer: 5,
                ..good
            }
            .encode()
            .to_vec(),
        ),
        ("unknown_node", Hello { node: 9, ..good }.encode().to_vec()),
        ("cores", Hello { cores: 4, ..good }.encode().to_vec()),
        (
            "frame_bytes",
            Hello {
                frame_bytes_max: 5,
                ..good
            }
            .encode()
            .to_vec(),
        ),
        (
            "version",
            Hello {
                version_min: 7,
                version_max: 9,
                ..good
            }
            .encode()
            .to_vec(),
        ),
    ];
    for (reason, bytes) in strangers {
        // The only peer it knows is 2, so that another id is "wrong" rather than "unknown".
        let reason = if reason == "unknown_node" {
            "wrong_node"
        } else {
            reason
        };
        assert!(
            say(address, &bytes).is_empty(),
            "nothing is said to {reason}"
        );
        wait_for_refusal(&node, reason);
    }
    drop(TcpStream::connect(address).unwrap());
    wait_for_refusal(&node, "hello_incomplete");
    assert_eq!(propose(&group, b"alive").reply, b"alive");
    node.stop().unwrap();
}

#[test]
fn a_peer_that_sends_no_frames_but_garbage_is_cut_off_with_a_counted_reason() {
    let data = directory();
    let (node, group) = alone(with_peer(config(data.path())));
    let mut oversized = [0; 32];
    oversized[..4].copy_from_slice(b"PTNf");
    oversized[4] = 1;
    oversized[6] = 1;
    oversized[8..12].copy_from_slice(&u32::MAX.to_le_bytes());
    for (reason, mut frame) in [("bad_header", [0xA5; 32]), ("too_large", oversized)] {
        let hello = good_hello().encode();
        say(node.local_addr(), &[&hello[..], &frame].concat());
        wait_for_refusal(&node, reason);
        // Behind a sound frame it is the core that finds out; this is the connection's second one.
        frame[12] = 1;
        let answer = say(node.local_addr(), &[&hello[..], &ping(), &frame].concat());
        assert!(answer.len() >= HELLO_BYTES, "the hello was answered");
        wait_for_closed(&node, reason);
    }
    assert_eq!(propose(&group, b"alive").reply, b"alive");
    node.stop().unwrap();
}

#[test]
fn silent_strangers_do_not_keep_a_node_from_stopping() {
    let data = directory();
    let (node, _) = alone(with_peer(config(data.path())));
    let silent: Vec<_> = (0..100)
        .map(|_| TcpStream::connect(node.local_addr()).unwrap())
        .collect();
    wait_for_refusal(&node, "half_open");
    node.stop().unwrap();
    drop(silent);
}

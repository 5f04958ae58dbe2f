//! Arbitrary bytes as a peer's hello: accepted or refused by name.

use pontoon::transport::{
    Agreement, FORMAT_FINGERPRINT, Features, HELLO_BYTES, Handshake, Hello, HelloError, Purpose,
    WIRE_VERSION, WIRE_VERSION_MIN,
};

use super::bytes::Bytes;
use super::fix_checksums;

use crate::settings::{CLUSTER, LIMITS};

/// Nodes of the cluster; larger than any simulated one.
const NODES: u64 = 7;

/// The first byte says who listens: bit 0 dials, bit 1 has the magic and the checksum fixed,
/// bits 2-3 the number of cores, bits 4-6 the node. Then come 80 bytes, or fewer and zeros.
pub fn hello(input: &[u8]) {
    let mut input = Bytes::new(input);
    let mode = input.byte();
    let mut bytes = [0; HELLO_BYTES];
    let given = input.take(HELLO_BYTES);
    bytes[..given.len()].copy_from_slice(given);
    if mode & 2 != 0 {
        fix_checksums::hello(&mut bytes);
    }
    let node = 1 + u64::from(mode >> 4) % NODES;
    let ours = Hello {
        version_min: WIRE_VERSION_MIN,
        version_max: WIRE_VERSION,
        core: 0,
        cores: 1 + u16::from(mode >> 2 & 3) % 3,
        cluster: CLUSTER,
        node,
        expected_peer: if mode & 1 != 0 { 1 + node % NODES } else { 0 },
        incarnation: 1,
        purpose: Purpose::Replication,
        features: Features::NONE,
        fingerprint: FORMAT_FINGERPRINT,
        frame_bytes_max: LIMITS.frame_bytes_max,
    };
    check_decoding(&bytes);
    let (handshake, known) = if mode & 1 != 0 {
        (Handshake::dial(ours), vec![ours.expected_peer])
    } else {
        let known: Vec<u64> = (1..=NODES).filter(|peer| *peer != node).collect();
        (
            Handshake::accept(ours, known.clone(), &[Purpose::Replication]),
            known,
        )
    };
    match handshake.receive(&bytes) {
        Ok(agreed) => check_accepted(&handshake, &ours, &known, &agreed),
        Err(refusal) => {
            assert!(!refusal.label().is_empty() && !refusal.to_string().is_empty());
        }
    }
}

/// What is decoded is what was sent, and something else is found out no later by its beginning.
fn check_decoding(bytes: &[u8; HELLO_BYTES]) {
    let decoded = Hello::decode(bytes);
    if let Ok(hello) = &decoded {
        assert_eq!(hello.encode(), *bytes, "a hello comes back as it was");
    }
    let foreign = matches!(decoded, Err(HelloError::NotPontoon { .. }));
    let mut refused = false;
    for length in 0..=HELLO_BYTES {
        let now = Hello::check_prefix(&bytes[..length]).is_err();
        assert!(now || !refused, "more bytes don't make it a hello again");
        refused = now;
    }
    assert_eq!(refused, foreign, "the beginning tells who it is");
}

/// Nobody is accepted who does not belong here, and the answer is for whoever asked.
fn check_accepted(handshake: &Handshake, ours: &Hello, known: &[u64], agreed: &Agreement) {
    let theirs = &agreed.peer;
    let version = agreed.version;
    assert!(theirs.version_min <= version && version <= theirs.version_max);
    assert!((WIRE_VERSION_MIN..=WIRE_VERSION).contains(&version));
    assert!(theirs.fingerprint == FORMAT_FINGERPRINT || theirs.version_max > WIRE_VERSION);
    assert_eq!(theirs.purpose, Purpose::Replication);
    assert_eq!(agreed.features, Features::NONE);
    assert_eq!(theirs.cluster, ours.cluster);
    assert!(known.contains(&theirs.node) && theirs.node != ours.node);
    assert!(theirs.expected_peer == 0 || theirs.expected_peer == ours.node);
    assert!(theirs.cores == ours.cores && theirs.core < ours.cores);
    assert_eq!(theirs.frame_bytes_max, ours.frame_bytes_max);
    let answer = Hello::decode(&handshake.answer(agreed).encode()).expect("our own hello");
    assert_eq!(
        (answer.node, answer.expected_peer),
        (ours.node, theirs.node)
    );
}

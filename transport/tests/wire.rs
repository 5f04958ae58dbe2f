//! What arrives is what was sent, however it is cut; and what was not sent is refused.

use pontoon_transport::{
    Connection, ConnectionError, FORMAT_FINGERPRINT, FrameLimits, HELLO_BYTES, Handshake, Head,
    Hello, HelloError, WIRE_VERSION,
};
use proptest::prelude::*;

const LIMITS: FrameLimits = FrameLimits {
    frame_bytes_max: 4096,
    receive_ahead_bytes: 512,
};

type Wire = Connection<Vec<u8>>;

/// A frame as a test says it: heads by their group, and records.
type Said = Vec<(u64, Vec<u8>)>;

fn frames() -> impl Strategy<Value = Vec<Said>> {
    let record = prop::collection::vec(any::<u8>(), 0..300);
    prop::collection::vec(prop::collection::vec((any::<u64>(), record), 1..8), 1..6)
}

/// Sends frames, with the kernel taking only so many bytes at once.
fn send_all(frames: &[Said], at_once: usize) -> Vec<u8> {
    let mut sender = Wire::new(LIMITS);
    let mut bytes = Vec::new();
    for said in frames {
        for (group, record) in said {
            sender.push_head(&Head {
                group: *group,
                count: 1,
                ..Head::default()
            });
            sender.push_piece(record.clone());
        }
        sender.finish_frame();
        while let Some(batch) = sender.send() {
            let flat: Vec<u8> = batch.slices().flatten().copied().collect();
            assert_eq!(flat.len(), batch.bytes());
            let sent = flat.len().min(at_once);
            bytes.extend_from_slice(&flat[..sent]);
            sender.on_sent(batch, Ok(sent)).expect("a sound socket");
        }
    }
    bytes
}

/// Receives bytes in pieces of these sizes, in turn.
fn receive_all(bytes: &[u8], pieces: &[usize]) -> Result<Vec<Said>, ConnectionError> {
    let mut receiver = Wire::new(LIMITS);
    let mut frames = Vec::new();
    let mut rest = bytes;
    for &piece in pieces.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let mut buffer = receiver.receive().expect("no receive is under way");
        let count = piece.min(rest.len()).min(buffer.free().len());
        assert!(count > 0, "a connection always makes room");
        buffer.free()[..count].copy_from_slice(&rest[..count]);
        rest = &rest[count..];
        receiver.on_received(buffer, Ok(count))?;
        while let Some(frame) = receiver.next_frame()? {
            let groups: Vec<u64> = frame.heads().map(|head| head.group).collect();
            frames.push(vec![(groups.len() as u64, frame.records().to_vec())]);
        }
    }
    Ok(frames)
}

/// What `receive_all` makes of frames: the number of heads, and all records together.
fn flattened(frames: &[Said]) -> Vec<Said> {
    let flat = frames.iter().map(|said| {
        let records: Vec<u8> = said.iter().flat_map(|(_, record)| record.clone()).collect();
        vec![(said.len() as u64, records)]
    });
    flat.collect()
}

proptest! {
    #[test]
    fn frames_arrive_as_they_were_sent_in_whatever_pieces(
        frames in frames(),
        at_once in 1_usize..5_000,
        pieces in prop::collection::vec(1_usize..700, 1..20),
    ) {
        let bytes = send_all(&frames, at_once);
        prop_assert_eq!(receive_all(&bytes, &pieces), Ok(flattened(&frames)));
    }

    #[test]
    fn arbitrary_bytes_in_arbitrary_pieces_close_the_connection_at_most(
        bytes in prop::collection::vec(any::<u8>(), 0..3_000),
        pieces in prop::collection::vec(1_usize..700, 1..20),
    ) {
        let frames = receive_all(&bytes, &pieces);
        prop_assert!(bytes.len() < 32 || frames.is_err());
    }

    #[test]
    fn a_flipped_bit_in_a_header_or_head_is_refused(frames in frames(), place in any::<u64>()) {
        let mut bytes = send_all(&frames, usize::MAX);
        let covered = 32 + 64 * frames[0].len();
        let place = usize::try_from(place % (covered as u64 * 8)).expect("small");
        bytes[place / 8] ^= 1 << (place % 8);
        let received = receive_all(&bytes, &[512]);
        // A length that grew may leave the receiver waiting for more; never a wrong frame.
        prop_assert!(received.is_err() || received == Ok(Vec::new()), "{:?}", received);
    }

    #[test]
    fn a_damaged_hello_is_refused(place in 0_usize..HELLO_BYTES * 8) {
        let mut bytes = hello(1, 2).encode();
        bytes[place / 8] ^= 1 << (place % 8);
        prop_assert!(Hello::decode(&bytes).is_err());
    }
}

fn hello(node: u64, expected_peer: u64) -> Hello {
    Hello {
        version_min: WIRE_VERSION,
        version_max: WIRE_VERSION,
        core: 0,
        cores: 2,
        cluster: 7,
        node,
        expected_peer,
        incarnation: 1,
        features: 0,
        fingerprint: FORMAT_FINGERPRINT,
        frame_bytes_max: 1 << 20,
    }
}

#[test]
fn an_oversized_frame_is_refused_by_its_header_alone() {
    let mut bytes = send_all(&[vec![(1, vec![0; 64])]], usize::MAX);
    bytes[8..12].copy_from_slice(&u32::MAX.to_le_bytes());
    let refused = receive_all(&bytes[..32], &[32]);
    let bytes = 32 + 64 + u64::from(u32::MAX);
    assert_eq!(
        refused,
        Err(ConnectionError::TooLarge {
            sequence: 0,
            bytes,
            limit: 4096
        })
    );
}

#[test]
fn a_frame_that_is_repeated_or_left_out_is_refused() {
    let bytes = send_all(&[vec![(1, vec![1])]], usize::MAX);
    let twice = [bytes.clone(), bytes].concat();
    let refused = receive_all(&twice, &[512]);
    assert_eq!(
        refused,
        Err(ConnectionError::BadHeader {
            field: "sequence",
            sequence: 1
        })
    );
}

#[test]
fn a_closed_or_broken_socket_ends_the_connection() {
    let mut wire = Wire::new(LIMITS);
    let buffer = wire.receive().expect("no receive is under way");
    assert!(wire.receive().is_none(), "one receive at a time");
    assert_eq!(
        wire.on_received(buffer, Ok(0)),
        Err(ConnectionError::Closed)
    );
    let mut wire = Wire::new(LIMITS);
    wire.push_head(&Head::default());
    wire.finish_frame();
    let batch = wire.send().expect("a frame is waiting");
    assert!(wire.send().is_none(), "one send at a time");
    let broken = wire.on_sent(batch, Err(104));
    assert_eq!(broken, Err(ConnectionError::Socket { errno: 104 }));
}

#[test]
fn two_nodes_of_one_cluster_accept_each_other() {
    let dialler = Handshake::dial(hello(1, 2));
    let acceptor = Handshake::accept(hello(2, 0), vec![1, 3]);
    let theirs = acceptor.receive(&dialler.to_send(2)).expect("a good hello");
    assert_eq!(theirs.node, 1);
    let answer = dialler
        .receive(&acceptor.to_send(theirs.node))
        .expect("a good answer");
    assert_eq!(answer.node, 2);
}

#[test]
fn who_does_not_belong_here_is_refused_with_the_reason() {
    let acceptor = Handshake::accept(hello(2, 0), vec![1, 3]);
    let cases = [
        (
            Hello {
                cluster: 8,
                ..hello(1, 2)
            },
            "wrong_cluster",
        ),
        (
            Hello {
                expected_peer: 9,
                ..hello(1, 2)
            },
            "wrong_node",
        ),
        (hello(4, 2), "unknown_node"),
        (
            Hello {
                version_min: 2,
                version_max: 3,
                ..hello(1, 2)
            },
            "version",
        ),
        (
            Hello {
                fingerprint: 0,
                ..hello(1, 2)
            },
            "fingerprint",
        ),
        (
            Hello {
                cores: 4,
                ..hello(1, 2)
            },
            "cores",
        ),
        (
            Hello {
                core: 2,
                ..hello(1, 2)
            },
            "cores",
        ),
        (
            Hello {
                frame_bytes_max: 1 << 19,
                ..hello(1, 2)
            },
            "frame_bytes",
        ),
    ];
    for (theirs, reason) in cases {
        let refused = acceptor.receive(&theirs.encode()).expect_err(reason);
        assert_eq!(refused.reason(), reason);
    }
    let other = Handshake::dial(hello(1, 2)).receive(&hello(3, 1).encode());
    assert_eq!(
        other,
        Err(HelloError::WrongNode {
            theirs: 3,
            expected: 2
        })
    );
}

#[test]
fn http_and_tls_are_recognised_as_not_pontoon() {
    for start in [
        &b"GET / HTTP/1.1\r\nHost: x\r\n"[..],
        &[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc],
    ] {
        let mut bytes = [0; HELLO_BYTES];
        bytes[..start.len()].copy_from_slice(start);
        let refused = Hello::decode(&bytes).expect_err("no hello");
        assert_eq!(refused.reason(), "not_pontoon");
    }
}

#[test]
fn nodes_with_frames_of_different_sizes_refuse_each_other_with_both_sizes() {
    let small = Hello {
        frame_bytes_max: 1 << 19,
        ..hello(1, 2)
    };
    let refused = Handshake::accept(hello(2, 0), vec![1, 3]).receive(&small.encode());
    let (theirs, ours) = (1 << 19, 1 << 20);
    assert_eq!(refused, Err(HelloError::FrameBytes { theirs, ours }));
    let refused = Handshake::dial(small).receive(&hello(2, 1).encode());
    let (theirs, ours) = (1 << 20, 1 << 19);
    assert_eq!(refused, Err(HelloError::FrameBytes { theirs, ours }));
}

#[test]
fn something_else_is_found_out_by_its_first_byte() {
    assert_eq!(Hello::check_prefix(b""), Ok(()));
    let ours = hello(1, 2).encode();
    for length in 0..=HELLO_BYTES {
        assert_eq!(Hello::check_prefix(&ours[..length]), Ok(()));
    }
    let refused = Hello::check_prefix(b"G").expect_err("no hello");
    assert_eq!(refused.reason(), "not_pontoon");
}

//! What arrives is what was sent, however it is cut; and what was not sent is refused.

use pontoon_transport::{
    Connection, ConnectionError, FORMAT_FINGERPRINT, Features, FrameLimits, HELLO_BYTES, Handshake,
    Head, Hello, HelloError, Purpose, VersionRange, WIRE_VERSION, WIRE_VERSION_MIN,
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
        version_min: WIRE_VERSION_MIN,
        version_max: WIRE_VERSION,
        core: 0,
        cores: 2,
        cluster: 7,
        node,
        expected_peer,
        incarnation: 1,
        purpose: Purpose::Replication,
        features: Features::NONE,
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

/// Node 2, which knows of nodes 1 and 3.
fn acceptor() -> Handshake {
    Handshake::accept(hello(2, 0), vec![1, 3], &[Purpose::Replication])
}

/// What node 2 makes of a hello of node 1 with this range of versions.
fn offered(min: u16, max: u16) -> Result<u16, HelloError> {
    let theirs = Hello {
        version_min: min,
        version_max: max,
        ..hello(1, 2)
    };
    let agreed = acceptor().receive(&theirs.encode());
    agreed.map(|agreed| agreed.version)
}

#[test]
fn two_nodes_of_one_cluster_accept_each_other() {
    let dialler = Handshake::dial(hello(1, 2));
    let acceptor = acceptor();
    let greeting = dialler.greeting().encode();
    let accepted = acceptor.receive(&greeting).expect("a good hello");
    assert_eq!((accepted.peer.node, accepted.version), (1, 4));
    let answer = acceptor.answer(&accepted).encode();
    let answered = dialler.receive(&answer).expect("a good answer");
    assert_eq!((answered.peer.node, answered.peer.expected_peer), (2, 1));
    assert_eq!(answered.peer.purpose, Purpose::Replication);
}

#[test]
fn who_does_not_belong_here_is_refused_with_the_reason() {
    let acceptor = acceptor();
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
                version_min: 5,
                version_max: 6,
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
        assert_eq!(refused.label(), reason);
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
        assert_eq!(refused.label(), "not_pontoon");
    }
}

#[test]
fn nodes_with_frames_of_different_sizes_refuse_each_other_with_both_sizes() {
    let small = Hello {
        frame_bytes_max: 1 << 19,
        ..hello(1, 2)
    };
    let refused = acceptor().receive(&small.encode());
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
    assert_eq!(refused.label(), "not_pontoon");
}

#[test]
fn the_newest_common_version_is_agreed_on() {
    assert_eq!(offered(4, 4), Ok(4));
    assert_eq!(offered(1, 4), Ok(4));
    assert_eq!(offered(4, 7), Ok(4));
    let rolling = VersionRange { min: 3, max: 6 };
    let newer = VersionRange { min: 4, max: 9 };
    assert_eq!(rolling.newest_common(newer), Some(6));
    assert_eq!(newer.newest_common(rolling), Some(6));
}

#[test]
fn nodes_without_a_common_version_name_both_ranges() {
    let ours = VersionRange { min: 4, max: 4 };
    for (min, max) in [(1, 1), (5, 9), (9, 4), (4, 1)] {
        let theirs = VersionRange { min, max };
        let refused = offered(min, max);
        assert_eq!(refused, Err(HelloError::Version { theirs, ours }));
    }
    let message = offered(5, 9).expect_err("no common version").to_string();
    let expected = "the peer speaks wire versions 5 to 9, this node version 4; upgrade the older";
    assert_eq!(message, expected);
}

/// A node of version 3 does not introduce itself: it would be taken in, and closed as mute.
#[test]
fn a_node_from_before_introductions_is_refused_by_name() {
    let message = offered(3, 3).expect_err("another version").to_string();
    let expected = "the peer speaks wire version 3, this node version 4; upgrade the older";
    assert_eq!(message, expected);
}

#[test]
fn a_newer_peer_that_still_speaks_our_version_may_have_another_newest_layout() {
    let newer = Hello {
        version_max: 7,
        fingerprint: 99,
        ..hello(1, 2)
    };
    let agreed = acceptor().receive(&newer.encode()).expect("version 4");
    assert_eq!(agreed.version, 4);
}

#[test]
fn only_features_of_both_sides_are_agreed_on() {
    let ours = Hello {
        features: Features(0b0110),
        ..hello(2, 0)
    };
    let acceptor = Handshake::accept(ours, vec![1], &[Purpose::Replication]);
    let theirs = Hello {
        features: Features(1 << 63 | 0b1100),
        ..hello(1, 2)
    };
    let agreed = acceptor.receive(&theirs.encode()).expect("a good hello");
    assert_eq!(agreed.features, Features(0b0100));
}

#[test]
fn a_connection_for_what_is_not_served_is_refused_by_its_purpose() {
    for purpose in [Purpose::Snapshot, Purpose::Admin, Purpose::Unknown(40)] {
        let theirs = Hello {
            purpose,
            ..hello(1, 2)
        };
        let refused = acceptor().receive(&theirs.encode());
        assert_eq!(refused, Err(HelloError::Purpose { purpose }));
        let ours = [Purpose::Replication, purpose];
        let serves = Handshake::accept(hello(2, 0), vec![1, 3], &ours);
        let accepted = serves.receive(&theirs.encode()).expect("it is served");
        assert_eq!(serves.answer(&accepted).purpose, purpose);
    }
}

/// Turns the frame that these bytes are into one of another kind, with flags of its own.
fn change_kind(frame: &mut [u8], kind: u8, flags: u8) {
    (frame[4], frame[5]) = (kind, flags);
    let heads_end = 32 + 64 * usize::from(u16::from_le_bytes([frame[6], frame[7]]));
    let checksum = crc32c::crc32c(&frame[..28]);
    let checksum = crc32c::crc32c_append(checksum, &frame[32..heads_end]);
    frame[28..32].copy_from_slice(&checksum.to_le_bytes());
}

proptest! {
    #[test]
    fn frames_of_unknown_kinds_are_skipped_and_counted(
        sent in frames(),
        kinds in prop::collection::vec(prop_oneof![Just(1_u8), 4_u8..], 6),
        pieces in prop::collection::vec(1_usize..700, 1..20),
    ) {
        let mut bytes = Vec::new();
        let mut known = Vec::new();
        let stream = send_all(&sent, usize::MAX);
        let mut rest = &stream[..];
        for (said, kind) in sent.iter().zip(kinds) {
            let records: usize = said.iter().map(|(_, record)| record.len()).sum();
            let (frame, behind) = rest.split_at(32 + 64 * said.len() + records);
            rest = behind;
            let mut frame = frame.to_vec();
            change_kind(&mut frame, kind, if kind == 1 { 0 } else { kind });
            bytes.extend(frame);
            if kind == 1 {
                known.push(said.clone());
            }
        }
        prop_assert_eq!(receive_all(&bytes, &pieces), Ok(flattened(&known)));

        let mut receiver = Wire::new(LIMITS);
        let mut rest = &bytes[..];
        let mut taken = 0;
        while !rest.is_empty() {
            let mut buffer = receiver.receive().expect("no receive is under way");
            let count = rest.len().min(buffer.free().len());
            buffer.free()[..count].copy_from_slice(&rest[..count]);
            rest = &rest[count..];
            receiver.on_received(buffer, Ok(count)).expect("a sound socket");
            while receiver.next_frame().expect("sound frames").is_some() {
                taken += 1;
            }
        }
        let skipped = receiver.skipped_frames();
        prop_assert_eq!((taken, skipped), (known.len() as u64, (sent.len() - known.len()) as u64));
    }
}

#[test]
fn a_frame_of_unknown_kind_is_checked_and_bounded_like_any_other() {
    let mut frame = send_all(&[vec![(1, vec![7; 8])]], usize::MAX);
    change_kind(&mut frame, 9, 1);
    assert_eq!(receive_all(&frame, &[512]), Ok(Vec::new()));
    let mut damaged = frame.clone();
    damaged[40] ^= 1;
    let refused = receive_all(&damaged, &[512]);
    assert_eq!(refused, Err(ConnectionError::Checksum { sequence: 0 }));
    frame[8..12].copy_from_slice(&u32::MAX.to_le_bytes());
    let refused = receive_all(&frame, &[512]).expect_err("no such frame");
    assert_eq!(refused.label(), "too_large");
}

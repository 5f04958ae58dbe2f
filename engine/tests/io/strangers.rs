//! Who connects to a node and is no peer of it is turned away, while peers get through.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream};

use pontoon::NodeId;
use pontoon::driver::Driver;
use pontoon::port::{Completion, Operation};
use pontoon::storage::RecordBytes;
use pontoon::transport::{Connection, FrameLimits, HELLO_BYTES, Hello, Purpose};
use rustix::net::{AddressFamily, SocketType};

use crate::{Core, FRAME_BYTES_MAX, Making, PATIENCE, directory, hello, wait_until};

/// A port where nobody is.
const NOWHERE: ([u8; 4], u16) = ([127, 0, 0, 1], 9);

/// More than are let in at the same time.
const CROWD: usize = 200;

/// Node 2, which knows of nodes 1 and 3.
fn making(directory: &std::path::Path) -> Making<'_> {
    let making = Making::new(2, directory);
    making.peer(1, NOWHERE.into()).peer(3, NOWHERE.into())
}

fn core(directory: &std::path::Path) -> Core {
    making(directory).make()
}

/// One that gives strangers more time than a crowd of them takes to come, on any machine.
fn patient_core(directory: &std::path::Path) -> Core {
    let mut making = making(directory);
    making.hello_deadline = PATIENCE;
    making.make()
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// The same from an address where no peer is.
fn connect_from_elsewhere(address: SocketAddr) -> TcpStream {
    let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    let elsewhere = SocketAddrV4::new(Ipv4Addr::new(127, 0, 0, 2), 0);
    rustix::net::bind(&socket, &elsewhere).unwrap();
    rustix::net::connect(&socket, &address).unwrap();
    socket.into()
}

/// Whether the node closes, having said nothing.
fn is_closed_in_silence(mut stream: TcpStream) -> bool {
    let mut byte = [0];
    match stream.read(&mut byte) {
        Ok(count) => count == 0,
        Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
    }
}

fn read_hello(stream: &mut TcpStream) -> Hello {
    let mut bytes = [0; HELLO_BYTES];
    stream.read_exact(&mut bytes).unwrap();
    Hello::decode(&bytes).unwrap()
}

/// What a peer says first.
fn first_words() -> Vec<u8> {
    let mut connection: Connection<Vec<u8>> = Connection::new(limits());
    connection.ping(1);
    let batch = connection.send().unwrap();
    batch.slices().flatten().copied().collect()
}

#[test]
fn each_stranger_is_refused_and_counted_by_its_reason() {
    let directory = directory();
    let mut core = core(directory.path());
    let good = hello(1, 2);
    let wrong = |hello: Hello| hello.encode().to_vec();
    let mut damaged = good.encode();
    damaged[33] ^= 4;
    let strangers = [
        ("not_pontoon", b"GET / HTTP/1.1\r\n\r\n".to_vec()),
        ("not_pontoon", vec![0x16, 3, 1]),
        ("not_pontoon", vec![0xA5; 300]),
        ("hello_checksum", damaged.to_vec()),
        ("wrong_cluster", wrong(Hello { cluster: 6, ..good })),
        ("wrong_node", wrong(hello(1, 7))),
        ("unknown_node", wrong(hello(9, 2))),
        (
            "fingerprint",
            wrong(Hello {
                fingerprint: 1,
                ..good
            }),
        ),
        (
            "purpose",
            wrong(Hello {
                purpose: Purpose::Snapshot,
                ..good
            }),
        ),
        ("cores", wrong(Hello { cores: 2, ..good })),
        ("cores", wrong(Hello { core: 1, ..good })),
        (
            "frame_bytes",
            wrong(Hello {
                frame_bytes_max: 1,
                ..good
            }),
        ),
        (
            "version",
            wrong(Hello {
                version_min: 8,
                version_max: 9,
                ..good
            }),
        ),
    ];
    for (place, (reason, bytes)) in strangers.iter().enumerate() {
        let mut stream = connect(core.address);
        stream.write_all(bytes).unwrap();
        assert!(is_closed_in_silence(stream), "nothing is said to {reason}");
        let so_far = strangers[..=place].iter();
        let count = so_far.filter(|(other, _)| other == reason).count();
        core.wait_for_refusals(reason, count as u64);
    }
    drop(connect(core.address));
    core.wait_for_refusals("hello_incomplete", 1);

    let mut peer = connect(core.address);
    peer.write_all(&good.encode()).unwrap();
    let answer = read_hello(&mut peer);
    peer.write_all(&first_words()).unwrap();
    core.connected(1);
    assert_eq!((answer.node, answer.expected_peer), (2, 1));
}

#[test]
fn a_crowd_of_silent_strangers_keeps_no_peer_out() {
    let directory = directory();
    let mut core = core(directory.path());
    let crowd: Vec<_> = (0..CROWD).map(|_| connect(core.address)).collect();
    let mut peer = connect(core.address);
    peer.write_all(&hello(3, 2).encode()).unwrap();
    assert_eq!(read_hello(&mut peer).node, 2);
    peer.write_all(&first_words()).unwrap();
    core.connected(3);
    for stranger in crowd {
        assert!(is_closed_in_silence(stranger));
    }
    let refused = || core.refused("half_open") + core.refused("hello_deadline");
    wait_until(
        || refused() >= CROWD as u64,
        || format!("{:?}", core.lane.refused()),
    );
    assert_eq!(refused(), CROWD as u64);
    assert!(core.refused("half_open") >= (CROWD - 64) as u64);
}

/// A hello costs nothing to whoever knows the ids: those who say no more are a crowd like others.
#[test]
fn a_crowd_that_says_a_valid_hello_and_no_more_keeps_no_peer_out() {
    let directory = directory();
    let mut core = core(directory.path());
    let crowd: Vec<_> = (0..CROWD)
        .map(|_| {
            let mut stranger = connect(core.address);
            stranger.write_all(&hello(3, 2).encode()).unwrap();
            stranger
        })
        .collect();
    let mut peer = connect(core.address);
    peer.write_all(&[&hello(1, 2).encode()[..], &first_words()].concat())
        .unwrap();
    core.connected(1);
    assert_eq!(read_hello(&mut peer).node, 2);
    wait_until(
        || core.refused("half_open") >= (CROWD - 64) as u64,
        || format!("{:?}", core.lane.refused()),
    );
    drop(crowd);
    assert!(!core.driver.has_events(), "the core hears of none of them");
}

/// Over a long way a peer's first words come long after its hello. It was the oldest of the
/// half-open ones then, and a restarted node stayed out for as long as strangers came.
#[test]
fn a_peer_whose_words_take_long_outlives_the_crowds_behind_it() {
    let directory = directory();
    let mut core = patient_core(directory.path());
    let mut peer = connect(core.address);
    peer.write_all(&hello(3, 2).encode()).unwrap();
    read_hello(&mut peer);
    let silent: Vec<_> = (0..CROWD).map(|_| connect(core.address)).collect();
    core.wait_for_refusals("half_open", (CROWD - 64) as u64);
    drop(silent);
    core.wait_for_refusals("hello_incomplete", 64);
    let greeting: Vec<_> = (0..CROWD)
        .map(|_| {
            let mut stranger = connect_from_elsewhere(core.address);
            stranger.write_all(&hello(3, 2).encode()).unwrap();
            stranger
        })
        .collect();
    // The peer is one of the 64 that stay.
    core.wait_for_refusals("half_open", (CROWD - 64 + CROWD - 63) as u64);
    peer.write_all(&first_words()).unwrap();
    core.connected(3);
    drop(greeting);
}

/// They used up the places that a core gives to a peer in a second, and the peer stayed out.
#[test]
fn who_begins_no_frame_takes_none_of_the_places_of_a_peer() {
    let directory = directory();
    let mut core = patient_core(directory.path());
    for _ in 0..CROWD {
        let mut stranger = connect(core.address);
        stranger
            .write_all(&[&hello(3, 2).encode()[..], b"P"].concat())
            .unwrap();
    }
    core.wait_for_refusals("hello_incomplete", CROWD as u64);
    let mut stranger = connect(core.address);
    stranger
        .write_all(&[&hello(3, 2).encode()[..], &[0xA5; 32]].concat())
        .unwrap();
    core.wait_for_refusals("bad_header", 1);
    let mut peer = connect(core.address);
    let (first, rest) = (&first_words()[..5], &first_words()[5..]);
    peer.write_all(&[&hello(3, 2).encode()[..], first].concat())
        .unwrap();
    read_hello(&mut peer);
    peer.write_all(rest).unwrap();
    core.connected(3);
    assert!(!core.driver.has_events(), "the core hears of none of them");
}

/// Those who say something as well reach the core, so many a second.
#[test]
fn one_peer_is_let_in_so_often_in_a_second() {
    let directory = directory();
    let mut core = core(directory.path());
    let words = [&hello(3, 2).encode()[..], &first_words()].concat();
    let crowd: Vec<_> = (0..CROWD)
        .map(|_| {
            let mut stranger = connect(core.address);
            stranger.write_all(&words).unwrap();
            stranger
        })
        .collect();
    core.connected(3);
    wait_until(
        || core.refused("hello_rate") > 0,
        || format!("{:?}", core.lane.refused()),
    );
    drop(crowd);
}

#[test]
fn a_hello_may_come_in_pieces_and_what_follows_it_is_for_the_core() {
    let directory = directory();
    let mut core = core(directory.path());
    let mut frames: Connection<Vec<u8>> = Connection::new(limits());
    frames.push_head(&pontoon::transport::Head {
        group: 4,
        ..Default::default()
    });
    frames.finish_frame();
    let frame: Vec<u8> = frames.send().unwrap().slices().flatten().copied().collect();
    let bytes = hello(1, 2).encode();
    let mut peer = connect(core.address);
    peer.set_nodelay(true).unwrap();
    for piece in bytes[..HELLO_BYTES - 1].chunks(13) {
        peer.write_all(piece).unwrap();
    }
    let rest = [&bytes[HELLO_BYTES - 1..], &frame[..]].concat();
    peer.write_all(&rest).unwrap();
    let socket = core.connected(1);

    let mut receiver: Connection<RecordBytes> = Connection::new(limits());
    let buffer = receiver.receive().unwrap();
    core.operations.push(Operation::Receive { socket, buffer });
    let Completion::Received { buffer, result, .. } = core.next() else {
        panic!("a receive was submitted");
    };
    receiver.on_received(buffer, result).unwrap();
    let frame = receiver.next_frame().unwrap().expect("it was sent whole");
    assert_eq!(frame.heads().next().unwrap().group, 4);
}

#[test]
fn a_node_stops_while_strangers_are_silent_and_dials_and_segments_under_way() {
    let directory = directory();
    // It listens, and never accepts.
    let silent = crate::listener();
    let mut making = Making::new(2, directory.path()).peer(3, silent.local_addr().unwrap());
    making.segment_bytes = 4 << 30;
    let mut core = making.make();
    let _stranger = connect(core.address);
    core.operations.push(Operation::Dial { peer: NodeId(3) });
    core.operations.push(Operation::Prepare { slot: 40 });
    core.operations.push(Operation::Prepare { slot: 41 });
    core.exchange(pontoon::driver::Wait::No);
    let partial = directory.path().join("preparing-0040");
    wait_until(|| partial.exists(), || "no segment is prepared".to_owned());

    let (done, stopped) = std::sync::mpsc::channel();
    let Core { driver, lane, .. } = core;
    let stopping = std::thread::spawn(move || {
        drop(lane);
        done.send(()).unwrap();
    });
    // The driver, and its end of the lane, still live.
    stopped.recv_timeout(PATIENCE).expect("the lane stops");
    stopping.join().unwrap();
    assert!(!partial.exists(), "nothing half done is left");
    for unfinished in ["segment-0040", "segment-0041", "preparing-0041"] {
        assert!(!directory.path().join(unfinished).exists(), "{unfinished}");
    }
    drop(driver);
}

fn limits() -> FrameLimits {
    FrameLimits {
        frame_bytes_max: FRAME_BYTES_MAX,
        receive_ahead_bytes: 64 << 10,
    }
}

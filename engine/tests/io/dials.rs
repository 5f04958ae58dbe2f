//! Whom a node dials may be down, silent, or somebody else.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread::JoinHandle;

use pontoon::NodeId;
use pontoon::driver::Wait;
use pontoon::port::{Completion, Operation};
use pontoon::transport::{HELLO_BYTES, Hello};

use crate::{Core, Making, PATIENCE, directory, hello, listener};

/// Answers the hello of a connection so; gives the hello.
fn answer(mut stream: TcpStream, answer: Vec<u8>) -> JoinHandle<Hello> {
    std::thread::spawn(move || {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut bytes = [0; HELLO_BYTES];
        stream.read_exact(&mut bytes).unwrap();
        stream.write_all(&answer).unwrap();
        Hello::decode(&bytes).unwrap()
    })
}

/// The same for the first connection that comes.
fn accept_and_answer(listener: TcpListener, bytes: Vec<u8>) -> JoinHandle<Hello> {
    std::thread::spawn(move || answer(listener.accept().unwrap().0, bytes).join().unwrap())
}

fn dial(core: &mut Core) -> Completion {
    core.operations.push(Operation::Dial { peer: NodeId(2) });
    core.next()
}

fn assert_dial_fails(core: &mut Core) {
    let completion = dial(core);
    let failed = matches!(completion, Completion::DialFailed { peer: NodeId(2) });
    assert!(failed, "{completion:?}");
}

#[test]
fn whoever_answers_a_dial_must_be_the_peer() {
    let answers = [
        ("wrong_node", hello(3, 1).encode().to_vec()),
        ("wrong_node", hello(2, 4).encode().to_vec()),
        ("not_pontoon", b"SSH-2.0-OpenSSH_9.6\r\n".to_vec()),
        ("hello_incomplete", Vec::new()),
    ];
    for (reason, bytes) in answers {
        let (directory, listener) = (directory(), listener());
        let address = listener.local_addr().unwrap();
        let mut core = Making::new(1, directory.path()).peer(2, address).make();
        let answering = accept_and_answer(listener, bytes);
        assert_dial_fails(&mut core);
        core.wait_for_refusals(reason, 1);
        let heard = answering.join().unwrap();
        assert_eq!((heard.node, heard.expected_peer), (1, 2));
    }
    let (directory, listener) = (directory(), listener());
    let address = listener.local_addr().unwrap();
    let mut core = Making::new(1, directory.path()).peer(2, address).make();
    let answering = accept_and_answer(listener, hello(2, 1).encode().to_vec());
    core.operations.push(Operation::Dial { peer: NodeId(2) });
    core.connected(2);
    answering.join().unwrap();
    assert!(core.lane.refused().is_empty());
}

#[test]
fn a_peer_that_is_down_silent_or_unknown_is_not_reached() {
    let directory = directory();
    let closed = listener().local_addr().unwrap();
    let mut core = Making::new(1, directory.path()).peer(2, closed).make();
    assert_dial_fails(&mut core);
    drop(core);

    let silent = listener();
    let address = silent.local_addr().unwrap();
    let mut core = Making::new(1, directory.path()).peer(2, address).make();
    assert_dial_fails(&mut core);
    assert!(
        core.lane.refused().is_empty(),
        "a peer that is down is no stranger"
    );
    drop(core);

    let mut core = Making::new(1, directory.path()).make();
    assert_dial_fails(&mut core);
}

#[test]
fn a_crowd_at_the_door_does_not_keep_a_node_from_dialling() {
    let (directory, listener) = (directory(), listener());
    let address = listener.local_addr().unwrap();
    let mut core = Making::new(1, directory.path()).peer(2, address).make();
    core.operations.push(Operation::Dial { peer: NodeId(2) });
    core.exchange(Wait::No);
    let (dialled, _) = listener.accept().unwrap();
    let connect = |_| TcpStream::connect(core.address).unwrap();
    let crowd: Vec<_> = (0..100).map(connect).collect();
    core.wait_for_refusals("half_open", 36);
    // The dial is the oldest of all, and still there.
    let answering = answer(dialled, hello(2, 1).encode().to_vec());
    core.connected(2);
    answering.join().unwrap();
    drop(crowd);
}

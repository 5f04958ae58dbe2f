//! What one exchange submits, waits for and brings back.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use pontoon::NodeId;
use pontoon::driver::{Driver, Wait};
use pontoon::port::{Completion, Operation, SocketId};
use pontoon::storage::{RecordBytes, SyncMethod};
use pontoon::transport::{Connection, FrameLimits, Head};

use crate::{Core, FRAME_BYTES_MAX, Making, PATIENCE, directory};

const BOTH: [SyncMethod; 2] = [SyncMethod::WriteDsync, SyncMethod::WriteThenFdatasync];

type Wire = Connection<RecordBytes>;

fn wire() -> Wire {
    Wire::new(FrameLimits {
        frame_bytes_max: FRAME_BYTES_MAX,
        receive_ahead_bytes: 64 << 10,
    })
}

/// Node 1, which has dialled node 2.
fn pair(directory: &std::path::Path, ring_entries: u32, sync: SyncMethod) -> [(Core, SocketId); 2] {
    let (first, second) = (directory.join("1"), directory.join("2"));
    let nowhere = ([127, 0, 0, 1], 9).into();
    let mut acceptor = Making::new(2, &second).peer(1, nowhere).make();
    let making = Making {
        ring_entries,
        sync,
        ..Making::new(1, &first).peer(2, acceptor.address)
    };
    let mut dialler = making.make();
    dialler.operations.push(Operation::Dial { peer: NodeId(2) });
    let socket = dialler.connected(2);
    // The acceptor is given the connection once something was said on it: that is taken here.
    let (mut said, mut heard) = (wire(), wire());
    said.ping(1);
    let batch = said.send().unwrap();
    dialler.operations.push(Operation::Send { socket, batch });
    assert!(matches!(dialler.next(), Completion::Sent { .. }));
    let accepted = acceptor.connected(1);
    let buffer = heard.receive().unwrap();
    let receive = Operation::Receive {
        socket: accepted,
        buffer,
    };
    acceptor.operations.push(receive);
    assert!(matches!(acceptor.next(), Completion::Received { .. }));
    [(dialler, socket), (acceptor, accepted)]
}

/// A write, a send and a receive at once; gives the results in this order.
fn all_kinds_at_once(core: &mut Core, socket: SocketId, wire: &mut Wire) {
    core.append(1, &[7; 5000]);
    let write = core.log.seal().unwrap();
    wire.push_head(&Head::default());
    wire.finish_frame();
    let batch = wire.send().unwrap();
    let buffer = wire.receive().unwrap();
    core.operations.push(Operation::Receive { socket, buffer });
    core.operations.push(Operation::Send { socket, batch });
    core.operations.push(Operation::Disk(write));
}

#[test]
fn a_write_a_send_and_a_receive_cost_one_system_call() {
    for sync in BOTH {
        let directory = directory();
        let [(mut core, socket), _other] = pair(directory.path(), 16, sync);
        let mut wire = wire();
        all_kinds_at_once(&mut core, socket, &mut wire);
        let before = core.driver.statistics();
        core.exchange(Wait::For(PATIENCE));
        let after = core.driver.statistics();
        assert_eq!(after.enters - before.enters, 1);
        assert_eq!(after.full_queues, 0);
        // The bell may have been read by then, and is armed again.
        let sync_entries = u64::from(sync == SyncMethod::WriteThenFdatasync);
        let entries = after.entries - before.entries - sync_entries;
        assert!((3..=4).contains(&entries), "{entries} entries");
    }
}

#[test]
fn a_ring_that_is_too_short_takes_everything_all_the_same() {
    let directory = directory();
    let sync = SyncMethod::WriteThenFdatasync;
    let [(mut core, socket), (mut other, accepted)] = pair(directory.path(), 2, sync);
    let mut wire = wire();
    all_kinds_at_once(&mut core, socket, &mut wire);
    let mut written = false;
    let mut sent = false;
    while !written || !sent {
        match core.next() {
            Completion::Written { result, .. } => {
                assert_eq!(result, Ok(8192));
                written = true;
            }
            Completion::Sent { batch, result, .. } => {
                wire.on_sent(batch, result).unwrap();
                sent = true;
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(core.driver.statistics().full_queues > 0);
    let buffer = self::wire().receive().unwrap();
    let socket = accepted;
    other.operations.push(Operation::Receive { socket, buffer });
    let received = other.next();
    let whole = matches!(received, Completion::Received { result: Ok(96), .. });
    assert!(whole, "{received:?}");
}

#[test]
fn a_write_that_fails_is_told_with_its_error() {
    for sync in BOTH {
        let directory = directory();
        let mut core = Making {
            sync,
            file: Some("/dev/full"),
            ..Making::new(1, directory.path())
        }
        .make();
        core.append(1, b"lost");
        assert_eq!(core.write(), Err(libc::ENOSPC));
        assert!(core.log.seal().is_none(), "the log is closed for good");
    }
}

#[test]
fn a_write_whose_sync_fails_is_told_with_the_error_of_the_sync() {
    let directory = directory();
    // It takes every byte, and can't be synced.
    let mut core = Making {
        sync: SyncMethod::WriteThenFdatasync,
        file: Some("/dev/null"),
        ..Making::new(1, directory.path())
    }
    .make();
    core.append(1, b"lost");
    assert_eq!(core.write(), Err(libc::EINVAL));
}

#[test]
fn operations_on_a_closed_socket_come_back_with_an_error() {
    let directory = directory();
    let sync = SyncMethod::WriteDsync;
    let [(mut core, socket), _other] = pair(directory.path(), 16, sync);
    let buffer = wire().receive().unwrap();
    core.operations.push(Operation::Close { socket });
    core.operations.push(Operation::Receive { socket, buffer });
    let received = core.next();
    let failed = matches!(
        received,
        Completion::Received {
            result: Err(libc::EBADF),
            ..
        }
    );
    assert!(failed, "{received:?}");
    // Twice is as good as once.
    core.operations.push(Operation::Close { socket });
    core.exchange(Wait::No);
}

#[test]
fn a_segment_for_a_directory_that_is_gone_is_not_ready() {
    let directory = directory();
    let mut core = Making::new(1, directory.path()).make();
    std::fs::remove_dir_all(directory.path()).unwrap();
    core.operations.push(Operation::Prepare { slot: 9 });
    let completion = core.next();
    let told = matches!(
        completion,
        Completion::Prepared {
            slot: 9,
            ready: false
        }
    );
    assert!(told, "{completion:?}");
}

#[test]
fn the_longest_wait_there_is_ends_with_the_doorbell_and_not_before() {
    let directory = directory();
    let mut core = Making::new(1, directory.path()).make();
    for wait in [Wait::Forever, Wait::For(Duration::from_nanos(u64::MAX))] {
        let rung = Arc::new(AtomicBool::new(false));
        core.doorbell.park();
        let (doorbell, by_ringer) = (Arc::clone(&core.doorbell), Arc::clone(&rung));
        let ringer = std::thread::spawn(move || {
            for _ in 0..1000 {
                std::thread::yield_now();
            }
            by_ringer.store(true, Ordering::SeqCst);
            doorbell.ring();
        });
        core.exchange(wait);
        assert!(rung.load(Ordering::SeqCst), "{wait:?} ended by itself");
        core.doorbell.unpark();
        ringer.join().unwrap();
    }
}

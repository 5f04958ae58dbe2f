//! Handles of a node in a forked child of its process: told, and never waiting.

use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, ExitStatus};
use std::sync::atomic::{AtomicBool, Ordering};

use pontoon::{
    Batch, CreateError, Group, MachineError, Machines, Node, NodeId, Proposal, ProposeError,
    Rejection, RequestError, StateMachine, StopError, Unknown,
};

use crate::{GROUP, alone, config, directory, propose};

/// Names the directory to the process of its own in which a test forks.
const VARIABLE: &str = "PONTOON_FORKING_CHILD";

/// A child that hangs is killed after so many seconds.
const ALARM: u32 = 60;

/// Runs `child` in a forked child, and gives how that ended: with 0 if it returned.
#[allow(unsafe_code)]
fn fork(child: impl FnOnce()) -> ExitStatus {
    // SAFETY: the child runs on this thread alone, and calls nothing that waits for another one.
    match unsafe { libc::fork() } {
        -1 => panic!("no process: {}", std::io::Error::last_os_error()),
        0 => {
            // SAFETY: it takes no pointer.
            unsafe { libc::alarm(ALARM) };
            let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(child));
            // SAFETY: nothing of the parent's is run or flushed.
            unsafe { libc::_exit(i32::from(done.is_err())) }
        }
        pid => {
            let mut status = 0;
            // SAFETY: `status` outlives the call.
            let waited = unsafe { libc::waitpid(pid, &raw mut status, 0) };
            assert_eq!(waited, pid);
            ExitStatus::from_raw(status)
        }
    }
}

/// Runs a test of this file in a process of its own: forks of this one would have all threads of
/// the other tests behind them.
fn in_own_process(name: &str) {
    let data = directory();
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", &format!("forked::{name}")])
        .env(VARIABLE, data.path())
        .output()
        .unwrap();
    assert!(child.status.success(), "{child:?}");
}

/// What is asked of the node of a parent, and how it is answered.
fn ask_in_child(node: &Node, group: &Group) {
    let proposed = group.propose(b"child".to_vec());
    assert_eq!(
        proposed.wait(),
        Err(ProposeError::Rejected(Rejection::Forked))
    );
    assert_eq!(group.status().wait(), Err(RequestError::Forked));
    assert_eq!(group.leader().wait(), Err(RequestError::Forked));
    assert!(group.campaign().wait().is_err());
    assert!(group.transfer_leadership(NodeId(1)).wait().is_err());
    let made = node.create_group(GROUP, "echo", &[NodeId(1)]).wait();
    assert!(matches!(
        made,
        Err(CreateError::Request(RequestError::Forked))
    ));
    assert_eq!(node.failed().wait(), Err(RequestError::Forked));
    assert!(node.refused_connections().is_empty());
    let statistics = node.statistics().wait();
    assert!(matches!(statistics[..], [Err(RequestError::Forked)]));
    #[cfg(feature = "glommio")]
    assert!(node.spawn_on(0, || async {}).wait().is_err());
}

#[test]
fn asking_process() {
    let Ok(data) = std::env::var(VARIABLE) else {
        return;
    };
    let (node, group) = alone(config(Path::new(&data)));
    propose(&group, b"before");
    let mut node = Some(node);
    for stops in [true, false] {
        // What is under way when the process is forked.
        let proposal = group.propose(b"under way".to_vec());
        let (status, failed) = (group.status(), node.as_ref().unwrap().failed());
        let mut under_way = Some((proposal, status, failed));
        let ended = fork(|| {
            let node = node.take().unwrap();
            ask_in_child(&node, &group);
            let (proposal, status, failed) = under_way.take().unwrap();
            let unknown = Err(ProposeError::Unknown(Unknown::Forked));
            assert_eq!(proposal.wait(), unknown);
            assert_eq!(status.wait(), Err(RequestError::Forked));
            assert_eq!(failed.wait(), Err(RequestError::Forked));
            if stops {
                assert!(matches!(node.stop(), Err(StopError::Forked)));
            }
        });
        assert!(ended.success(), "{ended:?}");
        let (proposal, status, _) = under_way.unwrap();
        assert_eq!(proposal.wait().unwrap().reply, b"under way");
        status.wait().unwrap();
        propose(&group, b"after");
    }
    node.unwrap().stop().unwrap();
}

#[test]
fn a_forked_child_is_told_and_its_parent_goes_on() {
    in_own_process("asking_process");
}

#[test]
fn busy_process() {
    let Ok(data) = std::env::var(VARIABLE) else {
        return;
    };
    let data = Path::new(&data);
    let (node, group) = alone(config(&data.join("parent")));
    propose(&group, b"before");
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    let _ = group.propose(b"load".to_vec()).wait();
                    group.status().wait().unwrap();
                }
            });
        }
        for round in 0..40 {
            let under_way: Vec<Proposal> = (0..20).map(|_| group.propose(vec![1])).collect();
            let mut under_way = Some(under_way);
            let ended = fork(|| {
                drop(under_way.take());
                let group = group.clone();
                ask_in_child(&node, &group);
                drop(group);
                // It has nothing of its parent's, and so may have a node of its own.
                if round == 0 {
                    let (node, group) = alone(config(&data.join("child")));
                    propose(&group, b"own");
                    node.stop().unwrap();
                }
            });
            assert!(ended.success(), "round {round}: {ended:?}");
        }
        done.store(true, Ordering::Relaxed);
    });
    node.stop().unwrap();
}

/// Locks and queues are found in whatever state other threads had them in.
#[test]
fn a_child_that_is_forked_in_the_middle_of_calls_hangs_on_nothing() {
    in_own_process("busy_process");
}

struct Forks;

impl StateMachine for Forks {
    fn apply(&mut self, batch: &mut Batch<'_>) -> Result<(), MachineError> {
        while let Some(command) = batch.next() {
            if command.payload == b"fork" {
                return_from_fork(batch);
            }
        }
        Ok(())
    }
}

/// The child goes on with its parent's core unless something stops it; the reply says how it ended.
#[allow(unsafe_code)]
fn return_from_fork(batch: &mut Batch<'_>) {
    // SAFETY: the child returns to the loop of its core, which is what the test is about.
    let pid = unsafe { libc::fork() };
    if pid > 0 {
        let mut status = 0;
        // SAFETY: `status` outlives the call.
        unsafe { libc::waitpid(pid, &raw mut status, 0) };
        batch.reply(status.to_le_bytes().to_vec());
    }
}

#[test]
fn forking_core_process() {
    let Ok(data) = std::env::var(VARIABLE) else {
        return;
    };
    let machines = Machines::new().register("forks", |_| Ok(Box::new(Forks)));
    let node = Node::start(config(Path::new(&data)), machines).unwrap();
    let group = node
        .create_group(GROUP, "forks", &[NodeId(1)])
        .wait()
        .unwrap();
    propose(&group, b"go");
    let applied = group.propose(b"fork".to_vec()).wait().unwrap();
    let status = applied.reply.first_chunk().copied().map(i32::from_le_bytes);
    let status = ExitStatus::from_raw(status.unwrap());
    assert_eq!(status.signal(), Some(libc::SIGABRT));
    propose(&group, b"after");
    node.stop().unwrap();
}

#[test]
fn a_child_that_is_forked_on_a_core_never_runs_it() {
    in_own_process("forking_core_process");
}

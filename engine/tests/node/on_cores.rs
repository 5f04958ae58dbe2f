//! What happens on a core's own thread and must not hang: panics, waiting, the end of the node.

use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, mpsc};

use pontoon::{
    Batch, Config, Group, GroupId, MachineError, Machines, Node, NodeId, ProposeError, Rejection,
    RequestError, StateMachine, StopError, Unknown,
};

use crate::{GROUP, PATIENCE, config, directory, propose};

const VARIABLE: &str = "PONTOON_PANICKING_CHILD";

/// Panics when it is told to, and leaves a file behind when it is dropped.
struct Panics(PathBuf);

impl StateMachine for Panics {
    fn apply(&mut self, batch: &mut Batch<'_>) -> Result<(), MachineError> {
        while let Some(command) = batch.next() {
            assert_ne!(command.payload, b"panic", "as it was told");
        }
        Ok(())
    }
}

impl Drop for Panics {
    fn drop(&mut self) {
        std::fs::write(&self.0, b"").unwrap();
    }
}

/// The child of the next test.
#[test]
fn panicking_process() {
    let Ok(directory) = std::env::var(VARIABLE) else {
        return;
    };
    let dropped = Path::new(&directory).join("dropped");
    let machines =
        Machines::new().register("panics", move |_| Ok(Box::new(Panics(dropped.clone()))));
    let node = Node::start(config(&Path::new(&directory).join("data")), machines).unwrap();
    let group = node
        .create_group(GROUP, "panics", &[NodeId(1)])
        .wait()
        .unwrap();
    propose(&group, b"go");
    let _ = group.propose(b"panic".to_vec()).wait();
    panic!("it was answered");
}

#[test]
fn a_panic_on_a_core_ends_the_process_before_its_machines_are_dropped() {
    let data = directory();
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "on_cores::panicking_process"])
        .env(VARIABLE, data.path())
        .output()
        .unwrap();
    assert_eq!(child.status.signal(), Some(libc::SIGABRT), "{child:?}");
    assert!(!data.path().join("dropped").exists());
}

/// What a machine does on its core, once.
type Deed = Box<dyn FnOnce() + Send>;

struct Does(Arc<Mutex<Option<Deed>>>);

impl StateMachine for Does {
    fn apply(&mut self, batch: &mut Batch<'_>) -> Result<(), MachineError> {
        while batch.next().is_some() {
            if let Some(deed) = self.0.lock().unwrap().take() {
                deed();
            }
        }
        Ok(())
    }
}

fn node(config: Config) -> (Node, Group, Arc<Mutex<Option<Deed>>>) {
    let deed: Arc<Mutex<Option<Deed>>> = Arc::default();
    let shared = Arc::clone(&deed);
    let machines =
        Machines::new().register("does", move |_| Ok(Box::new(Does(Arc::clone(&shared)))));
    let node = Node::start(config, machines).unwrap();
    let group = node
        .create_group(GROUP, "does", &[NodeId(1)])
        .wait()
        .unwrap();
    propose(&group, b"go");
    (node, group, deed)
}

#[test]
fn waiting_on_a_core_is_told_at_once() {
    let data = directory();
    let (node, group, deed) = node(config(data.path()).cores(2));
    let node = Arc::new(node);
    let (sender, told) = mpsc::channel();
    let on_core = (Arc::clone(&node), group.clone());
    *deed.lock().unwrap() = Some(Box::new(move || {
        let (node, group) = on_core;
        let outcome = group.propose(b"more".to_vec()).wait();
        let answers = (group.status().wait(), node.failed().wait());
        let statistics = node.statistics().wait();
        drop(node);
        sender.send((outcome, answers, statistics)).unwrap();
    }));
    propose(&group, b"do");
    let (outcome, (status, failed), statistics) = told.recv_timeout(PATIENCE).unwrap();
    assert_eq!(outcome, Err(ProposeError::Unknown(Unknown::WaitOnCore)));
    assert_eq!(status, Err(RequestError::WaitOnCore));
    assert_eq!(failed, Err(RequestError::WaitOnCore), "it has not stopped");
    let each = Err(RequestError::WaitOnCore);
    assert_eq!(statistics, [each.clone(), each], "one answer for each core");
    // The command was taken all the same.
    propose(&group, b"after");
    Arc::into_inner(node).unwrap().stop().unwrap();
}

/// It was left behind, and whoever had asked it, or asked it afterwards, waited for ever.
#[test]
fn a_core_that_hangs_is_left_behind_and_whoever_waits_for_it_is_answered() {
    let data = directory();
    let (node, group, deed) = node(config(data.path()));
    let (gate, held) = mpsc::channel::<()>();
    let (begun, beginning) = mpsc::channel();
    *deed.lock().unwrap() = Some(Box::new(move || {
        begun.send(()).unwrap();
        let _ = held.recv();
    }));
    let hangs = group.propose(b"hang".to_vec());
    beginning.recv_timeout(PATIENCE).unwrap();
    let (waits, status) = (group.propose(b"waits".to_vec()), group.status());
    let created = node.create_group(GroupId(9), "does", &[NodeId(1)]);
    let stopped = node.stop();
    let hung = matches!(stopped, Err(StopError::Hung { core: 0, .. }));
    assert!(hung, "{stopped:?}");
    assert_eq!(hangs.wait(), Err(Unknown::Stopped.into()));
    assert_eq!(waits.wait(), Err(Rejection::Stopped.into()));
    assert_eq!(status.wait(), Err(RequestError::Stopped));
    assert_eq!(created.wait().err(), Some(RequestError::Stopped.into()));
    let late = group.propose(b"late".to_vec()).wait();
    assert_eq!(late, Err(Rejection::Stopped.into()));
    assert_eq!(group.leader().wait(), Err(RequestError::Stopped));
    drop(gate);
}

#[test]
fn a_node_that_is_stopped_on_its_own_core_ends_in_the_background() {
    let data = directory();
    let (node, group, deed) = node(config(data.path()));
    let (sender, told) = mpsc::channel();
    *deed.lock().unwrap() = Some(Box::new(move || sender.send(node.stop()).unwrap()));
    let _ = group.propose(b"do".to_vec()).wait();
    let stopped = told.recv_timeout(PATIENCE).unwrap();
    assert!(matches!(stopped, Err(StopError::OnCore)), "{stopped:?}");
    let deadline = std::time::Instant::now() + PATIENCE;
    // The directory is locked until the node has ended.
    while let Err(error) = Node::start(config(data.path()), Machines::new()) {
        assert!(std::time::Instant::now() < deadline, "{error}");
        std::thread::yield_now();
    }
}

//! The same life under both hosts.
#![cfg(feature = "glommio")]

use std::future::poll_fn;
use std::sync::mpsc;
use std::task::{Poll, Waker};

use pontoon::{HostKind, Node, Pending, RequestError, SpawnError, StopError};

use crate::{PATIENCE, alone, config, directory, machines, propose};

#[test]
fn under_glommio_a_node_serves_and_stops() {
    let data = directory();
    let (node, group) = alone(config(data.path()).host(HostKind::Glommio));
    for number in 0..100_u8 {
        assert_eq!(propose(&group, &[number]).reply, [number]);
    }
    node.stop().unwrap();
}

#[test]
fn a_task_of_the_application_runs_beside_a_busy_shard() {
    let data = directory();
    let (node, group) = alone(config(data.path()).host(HostKind::Glommio));
    propose(&group, b"go");
    let (sender, ticks) = mpsc::channel();
    let beside = group.clone();
    let ticking = node.spawn_on(0, move || async move {
        for tick in 0..20 {
            beside.propose(vec![tick]).await.expect("its node leads");
            if sender.send(tick).is_err() {
                return "unheard";
            }
        }
        "done"
    });
    // The shard has something to do all the time, until the task is done.
    let mut ticks_seen = 0;
    let deadline = std::time::Instant::now() + PATIENCE;
    while ticks_seen < 20 {
        let proposals: Vec<_> = (0..64).map(|_| group.propose(vec![1; 100])).collect();
        for proposal in proposals {
            proposal.wait().unwrap();
        }
        ticks_seen += ticks.try_iter().count();
        assert!(std::time::Instant::now() < deadline, "the task starved");
    }
    assert_eq!(ticking.wait(), Ok("done"));
    let nowhere = node.spawn_on(7, || async {});
    assert_eq!(nowhere.wait(), Err(SpawnError::NoExecutor { core: 7 }));
    let endless = node.spawn_on(0, std::future::pending::<()>);
    node.stop().unwrap();
    assert_eq!(endless.wait(), Err(RequestError::Stopped.into()));
}

/// As one that awaits many proposals with a waker of its own for each does.
#[test]
fn a_task_may_be_woken_by_more_than_glommio_counts() {
    let data = directory();
    let (node, _) = alone(config(data.path()).host(HostKind::Glommio));
    let mut is_first = true;
    let woken = node.spawn_on(0, move || {
        poll_fn(move |context| {
            if !std::mem::take(&mut is_first) {
                return Poll::Ready(());
            }
            let wakers: Vec<_> = (0..70_000).map(|_| context.waker().clone()).collect();
            // From another thread each would wait to be heard.
            let elsewhere = std::thread::spawn(|| wakers.into_iter().for_each(Waker::wake));
            elsewhere.join().expect("it panics nowhere");
            Poll::Pending
        })
    });
    assert_eq!(woken.wait(), Ok(()));
    node.stop().unwrap();
}

#[test]
fn tasks_that_come_while_another_one_blocks_all_run() {
    /// More than glommio counts wake-ups of one task.
    const TASKS: usize = 40_000;
    let data = directory();
    let mut config = config(data.path()).host(HostKind::Glommio);
    // The one that blocks may still wait itself.
    config.limits.requests_waiting_max = TASKS + 1;
    let (node, _) = alone(config);
    let (go_on, gate) = mpsc::channel::<()>();
    let blocking = node.spawn_on(0, move || async move { gate.recv().unwrap() });
    let tasks: Vec<_> = (0..TASKS)
        .map(|task| node.spawn_on(0, move || async move { task }))
        .collect();
    go_on.send(()).unwrap();
    assert_eq!(blocking.wait(), Ok(()));
    for (number, task) in tasks.into_iter().enumerate() {
        assert_eq!(task.wait(), Ok(number));
    }
    node.stop().unwrap();
}

/// Blocks the executor beside a core, until the sender is dropped.
fn block(node: &Node, core: u16) -> (mpsc::Sender<()>, Task) {
    let (gate, held) = mpsc::channel();
    let (begun, beginning) = mpsc::channel();
    let task = node.spawn_on(core, move || async move {
        begun.send(()).unwrap();
        let _: Result<(), _> = held.recv();
    });
    beginning.recv_timeout(PATIENCE).unwrap();
    (gate, task)
}

type Task = Pending<Result<(), SpawnError>>;

#[test]
fn tasks_that_wait_to_begin_have_a_limit_with_a_name() {
    let data = directory();
    let mut config = config(data.path()).host(HostKind::Glommio);
    config.limits.requests_waiting_max = 10;
    let (node, _) = alone(config);
    let (gate, blocking) = block(&node, 0);
    let waiting: Vec<Task> = (0..10).map(|_| node.spawn_on(0, || async {})).collect();
    let refused = node.spawn_on(0, || async {}).wait();
    let limit = "limits.requests_waiting_max";
    assert_eq!(refused, Err(SpawnError::Overloaded { core: 0, limit }));
    drop(gate);
    for task in std::iter::once(blocking).chain(waiting) {
        assert_eq!(task.wait(), Ok(()));
    }
    assert_eq!(node.spawn_on(0, || async {}).wait(), Ok(()));
    node.stop().unwrap();
}

/// Each of them was waited for in turn, ten seconds, then the stop was said to have gone well, and
/// whoever waited for the tasks was never answered.
#[test]
fn executors_that_tasks_keep_from_ending_are_left_behind_together_and_named() {
    let data = directory();
    let config = config(data.path()).cores(2).host(HostKind::Glommio);
    let node = Node::start(config, machines()).unwrap();
    let (gates, mut tasks): (Vec<_>, Vec<_>) =
        [0, 1].map(|core| block(&node, core)).into_iter().unzip();
    tasks.extend([0, 1].map(|core| node.spawn_on(core, || async {})));
    match node.stop() {
        Err(StopError::Tasks { cores, seconds: 10 }) => assert_eq!(cores, [0, 1]),
        stopped => panic!("{stopped:?}"),
    }
    for task in tasks {
        assert_eq!(task.wait(), Err(RequestError::Stopped.into()));
    }
    drop(gates);
}

#[test]
fn a_stop_ends_the_tasks_that_are_not_done_and_waits_for_it() {
    struct Told(mpsc::Sender<()>);
    impl Drop for Told {
        fn drop(&mut self) {
            self.0.send(()).unwrap();
        }
    }
    let data = directory();
    let (node, _) = alone(config(data.path()).host(HostKind::Glommio));
    let (sender, ended) = mpsc::channel();
    let (begun, beginning) = mpsc::channel();
    let endless = node.spawn_on(0, move || async move {
        let _told = Told(sender);
        begun.send(()).unwrap();
        std::future::pending::<()>().await;
    });
    beginning.recv_timeout(PATIENCE).unwrap();
    node.stop().unwrap();
    assert_eq!(ended.try_recv(), Ok(()), "its destructors have run");
    assert_eq!(endless.wait(), Err(RequestError::Stopped.into()));
}

#[test]
fn a_task_may_drop_the_last_handle_to_its_node() {
    let data = directory();
    let (node, _) = alone(config(data.path()).host(HostKind::Glommio));
    let node = std::sync::Arc::new(node);
    let (own, other) = (
        std::sync::Arc::clone(&node),
        std::sync::Arc::downgrade(&node),
    );
    let (sender, dropped) = mpsc::channel();
    let (go_on, gate) = mpsc::channel::<()>();
    let dropping = node.spawn_on(0, move || async move {
        gate.recv().unwrap();
        drop(own);
        sender.send(()).unwrap();
    });
    drop((node, dropping));
    go_on.send(()).unwrap();
    dropped.recv_timeout(PATIENCE).unwrap();
    assert!(other.upgrade().is_none());
}

/// Each waited ten seconds for the other's executor, which waited for it.
#[test]
fn two_tasks_may_stop_each_others_nodes() {
    let barrier = std::sync::Arc::new(std::sync::Barrier::new(2));
    let (sender, stopped) = mpsc::channel();
    let (directories, nodes): (Vec<_>, Vec<Node>) = (0..2)
        .map(|_| {
            let data = directory();
            let config = config(data.path()).host(HostKind::Glommio);
            (data, alone(config).0)
        })
        .unzip();
    let mut give: Vec<mpsc::Sender<Node>> = Vec::new();
    for node in &nodes {
        let (giver, given) = mpsc::channel::<Node>();
        let (sender, barrier) = (sender.clone(), std::sync::Arc::clone(&barrier));
        drop(node.spawn_on(0, move || async move {
            let other = given.recv().unwrap();
            barrier.wait();
            sender.send(other.stop()).unwrap();
        }));
        give.push(giver);
    }
    for (node, giver) in nodes.into_iter().zip(give.into_iter().rev()) {
        giver.send(node).unwrap();
    }
    for _ in 0..2 {
        let stopped = stopped.recv_timeout(PATIENCE).unwrap();
        assert!(stopped.is_ok(), "{stopped:?}");
    }
    drop(directories);
}

#[test]
fn a_node_of_threads_runs_no_tasks() {
    let data = directory();
    let (node, _) = alone(config(data.path()));
    let nowhere = node.spawn_on(0, || async {});
    assert_eq!(nowhere.wait(), Err(SpawnError::NoExecutor { core: 0 }));
}

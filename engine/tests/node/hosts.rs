//! The same life under both hosts.
#![cfg(feature = "glommio")]

use std::sync::mpsc;
use std::time::Duration;

use pontoon::{HostKind, RequestError, SpawnError};

use crate::{PATIENCE, alone, config, directory, propose};

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
    let ticking = node.spawn_on(0, move || async move {
        for tick in 0..20 {
            pontoon::glommio::timer::sleep(Duration::from_millis(1)).await;
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

#[test]
fn tasks_that_come_while_another_one_blocks_all_run() {
    /// More than glommio counts wake-ups of one task.
    const TASKS: usize = 40_000;
    let data = directory();
    let (node, _) = alone(config(data.path()).host(HostKind::Glommio));
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

#[test]
fn a_node_of_threads_runs_no_tasks() {
    let data = directory();
    let (node, _) = alone(config(data.path()));
    let nowhere = node.spawn_on(0, || async {});
    assert_eq!(nowhere.wait(), Err(SpawnError::NoExecutor { core: 0 }));
}

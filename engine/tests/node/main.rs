//! Whole nodes over real files and sockets: life, bad input, refusals.
#![allow(clippy::unwrap_used, reason = "a failed step of a test is its failure")]

mod forbidden;
mod forked;
mod frozen;
mod hostile;
mod hosts;
mod on_cores;
mod refusals;
mod strangers;

use std::path::Path;
use std::time::{Duration, Instant};

use pontoon::{
    Applied, Batch, Config, Group, GroupId, MachineError, Machines, Node, NodeId, ProposeError,
    StateMachine,
};

const GROUP: GroupId = GroupId(3);
const PATIENCE: Duration = Duration::from_secs(60);

/// Replies with what it was told.
struct Echo;

impl StateMachine for Echo {
    fn apply(&mut self, batch: &mut Batch<'_>) -> Result<(), MachineError> {
        while let Some(command) = batch.next() {
            batch.reply(command.payload.to_vec());
        }
        Ok(())
    }
}

fn machines() -> Machines {
    Machines::new().register("echo", |_| Ok(Box::new(Echo)))
}

/// A directory on the disk that the build is on.
fn directory() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

/// A node alone, with small segments, on a free port.
fn config(data: &Path) -> Config {
    let mut config = Config::new(1, 0xABC, data, "127.0.0.1:0".parse().unwrap());
    config.log.segment_bytes = bytesize::ByteSize::mib(8);
    config
}

fn alone(config: Config) -> (Node, Group) {
    let node = Node::start(config, machines()).unwrap();
    let group = node
        .create_group(GROUP, "echo", &[NodeId(1)])
        .wait()
        .unwrap();
    (node, group)
}

/// Proposes until somebody leads.
fn propose(group: &Group, command: &[u8]) -> Applied {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match group.propose(command.to_vec()).wait() {
            Ok(applied) => return applied,
            Err(ProposeError::Rejected(_)) if Instant::now() < deadline => {
                std::thread::yield_now();
            }
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn a_node_starts_serves_stops_and_comes_back_with_what_it_had() {
    let data = directory();
    let (node, group) = alone(config(data.path()));
    let first = propose(&group, b"first");
    assert_eq!(first.reply, b"first");
    node.stop().unwrap();
    assert!(
        group.propose(b"late".to_vec()).wait().is_err(),
        "its node has stopped"
    );

    let node = Node::start(config(data.path()), machines()).unwrap();
    let group = node.group(GROUP);
    let second = propose(&group, b"second");
    assert!(second.index > first.index);
    let status = group.status().wait().unwrap();
    assert_eq!(status.kind, "echo");
    assert!(status.has_machine);
    assert_eq!(status.raft.last_index, second.index);
    node.stop().unwrap();
}

#[test]
fn groups_are_spread_over_the_cores_and_each_keeps_its_order() {
    let data = directory();
    let node = Node::start(config(data.path()).cores(2), machines()).unwrap();
    let groups: Vec<Group> = (1..=8)
        .map(|group| {
            let group = GroupId(group);
            node.create_group(group, "echo", &[NodeId(1)])
                .wait()
                .unwrap()
        })
        .collect();
    for group in &groups {
        propose(group, b"go");
    }
    let proposals: Vec<_> = (0..800_u32)
        .map(|number| groups[number as usize % 8].propose(number.to_le_bytes().to_vec()))
        .collect();
    let mut last = [pontoon::LogIndex(0); 8];
    for (number, proposal) in (0..800_u32).zip(proposals) {
        let applied = proposal.wait().unwrap();
        assert_eq!(applied.reply, number.to_le_bytes());
        let last = &mut last[number as usize % 8];
        assert!(applied.index > *last, "in the order they were proposed");
        *last = applied.index;
    }
    let statistics = node.statistics().wait();
    assert_eq!(statistics.len(), 2);
    assert!(
        statistics
            .iter()
            .all(|core| core.as_ref().unwrap().proposals > 0)
    );
    node.stop().unwrap();
}

#[test]
fn a_proposal_is_a_future_for_any_executor() {
    let data = directory();
    let (node, group) = alone(config(data.path()));
    propose(&group, b"go");
    let applied = futures_executor::block_on(group.propose(b"plain".to_vec())).unwrap();
    assert_eq!(applied.reply, b"plain");
    let tokio = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let applied = tokio.block_on(group.propose(b"tokio".to_vec())).unwrap();
    assert_eq!(applied.reply, b"tokio");
    #[cfg(feature = "glommio")]
    {
        let group = group.clone();
        let executor = pontoon::glommio::LocalExecutorBuilder::default()
            .io_memory(64 << 10)
            .spawn(move || async move { group.propose(b"glommio".to_vec()).await });
        let applied = executor.unwrap().join().unwrap().unwrap();
        assert_eq!(applied.reply, b"glommio");
    }
    node.stop().unwrap();
}

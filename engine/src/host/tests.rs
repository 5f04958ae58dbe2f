//! The loop of a core over a driver in memory: what it carries out, and when it waits.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use pontoon_raft::{GroupId, NodeId, Time};
use pontoon_storage::SegmentLog;
use pontoon_storage::memory::MemoryVolume;

use super::{CoreLoop, Next};
use crate::config::Config;
use crate::core_builder::shard_config;
use crate::doorbell::Doorbell;
use crate::driver::Wait;
use crate::driver::memory::MemoryDriver;
use crate::group::Group;
use crate::health::Health;
use crate::inbox::{CoreHandle, InboxLimits, channel};
use crate::machine::{Batch, MachineError, Machines, StateMachine};
use crate::request::RequestError;
use crate::shard::Shard;

const GROUP: GroupId = GroupId(7);

struct Silent;

impl StateMachine for Silent {
    fn apply(&mut self, batch: &mut Batch<'_>) -> Result<(), MachineError> {
        while batch.next().is_some() {
            batch.reply(Vec::new());
        }
        Ok(())
    }
}

/// The only node of its cluster.
fn core(spin: Duration) -> (CoreLoop<MemoryDriver>, CoreHandle) {
    core_of(&Health::default(), spin)
}

fn core_of(health: &Health, spin: Duration) -> (CoreLoop<MemoryDriver>, CoreHandle) {
    let mut config = Config::new(1, 1, Path::new("unused"), ([127, 0, 0, 1], 0).into());
    config.log.segment_bytes = bytesize::ByteSize::mib(8);
    let log_config = config.log_config(0);
    let mut volume = MemoryVolume::new(log_config.segment_bytes);
    let (log, recovery) = SegmentLog::open(&mut volume, log_config).expect("an empty volume");
    let doorbell = Arc::new(Doorbell::new().expect("a descriptor"));
    let (handle, mut inbox) = channel(
        NodeId(1),
        Arc::clone(&doorbell),
        InboxLimits {
            proposals_max: 8,
            bytes_max: 64 << 10,
            replies_bytes_max: 16 << 10,
            command_bytes_max: 1 << 10,
        },
    );
    inbox.set_health(health.clone(), 3);
    let machines = Machines::new().register("silent", |_| Ok(Box::new(Silent)));
    let shard = shard_config(&config);
    let shard = Shard::open(shard, log, &recovery, machines, inbox, Time(0));
    let shard = shard.expect("no group is there yet");
    let driver = MemoryDriver::new(volume);
    let core_loop = CoreLoop::new(shard, driver, doorbell, Instant::now(), spin);
    (core_loop, handle)
}

/// Turns until the core has nothing to do but to wait.
fn settle(core_loop: &mut CoreLoop<MemoryDriver>) {
    for _ in 0..1_000 {
        let next = core_loop.turn();
        core_loop.exchange(next).expect("memory does not fail");
        if matches!(next, Next::Wait(_)) && !core_loop.has_work() {
            return;
        }
    }
    panic!("the core never rests");
}

#[test]
fn the_loop_creates_a_group_over_any_driver_and_then_waits_in_it() {
    let (mut core_loop, handle) = core(Duration::ZERO);
    let created = handle.create_group(GROUP, "silent", &[NodeId(1)]);
    settle(&mut core_loop);
    assert_eq!(created.now_or_never(), Some(Ok(())));
    let last = core_loop.driver.waits.last();
    assert!(matches!(last, Some(Wait::For(_))), "{last:?}");
}

#[test]
fn while_a_write_is_under_way_the_loop_waits_instead_of_polling() {
    let (mut core_loop, handle) = core(Duration::from_secs(3600));
    settle_polling(&mut core_loop);
    assert_eq!(core_loop.turn(), Next::Turn, "it polls: it was just busy");
    core_loop.driver.holds_writes = true;
    let created = handle.create_group(GROUP, "silent", &[NodeId(1)]);
    settle(&mut core_loop);
    assert_eq!(created.now_or_never(), None, "it is not durable");
}

/// At its first use, while the group is made, while it has no leader, and in the middle of a load.
#[test]
fn a_driver_that_fails_in_any_exchange_leaves_nobody_without_an_answer() {
    let mut acknowledged = 0;
    for fails_after in 0..32 {
        let health = Health::default();
        let mut failed = health.failed();
        let (mut core_loop, handle) = core_of(&health, Duration::from_secs(3600));
        core_loop.driver.fails_after = Some(fails_after);
        let created = handle.create_group(GROUP, "silent", &[NodeId(1)]);
        let group = Group::new(GROUP, handle);
        let mut statuses = Vec::new();
        let mut proposals = Vec::new();
        let error = loop {
            // It leads as soon as its group is made.
            drop(group.campaign());
            statuses.push(group.status());
            proposals.push(group.propose(vec![7]));
            let next = core_loop.turn();
            if let Err(error) = core_loop.exchange(next) {
                break error;
            }
        };
        assert!(error.to_string().contains("entering the ring"), "{error}");
        let created = created
            .now_or_never()
            .expect("answered before the core is dropped");
        assert!(created.is_ok() || created == Err(RequestError::Failed.into()));
        for status in statuses {
            let status = status.now_or_never().expect("answered");
            let told = status.err();
            let unmade = [None, Some(RequestError::UnknownGroup)].contains(&told);
            assert!(unmade || told == Some(RequestError::Failed), "{told:?}");
        }
        for proposal in proposals {
            match proposal.now_or_never().expect("answered") {
                Ok(_) => acknowledged += 1,
                Err(error) => assert!(!error.to_string().contains("stopped"), "{error}"),
            }
        }
        let told = failed.wait_timeout(Duration::ZERO);
        let told = told.expect("the owner is told").expect("a failure");
        assert!(
            told.core == 3 && told.reason.contains("entering the ring"),
            "{told}"
        );
        let late = group.status().now_or_never();
        assert_eq!(late.map(Result::err), Some(Some(RequestError::Failed)));
    }
    assert!(
        acknowledged > 0,
        "some of them failed in the middle of a load"
    );
}

/// Carries out what the start of a shard asks for.
fn settle_polling(core_loop: &mut CoreLoop<MemoryDriver>) {
    for _ in 0..100 {
        let next = core_loop.turn();
        core_loop.exchange(next).expect("memory does not fail");
    }
}

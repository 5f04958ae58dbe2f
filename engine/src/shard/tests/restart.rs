//! What a node finds when it starts again, and what it does when its disk fails or is full.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use pontoon_raft::{GroupId, LogIndex, Time};
use pontoon_storage::SegmentLog;
use pontoon_storage::memory::MemoryVolume;

use super::cluster::{Cluster, GROUP, INBOX, log_config, poll, shard_config};
use super::lines::warnings;
use super::machine::{Journal, recorders};
use crate::doorbell::Doorbell;
use crate::inbox::channel;
use crate::machine::{Event, Machines};
use crate::outcome::{ProposeError, Rejection, Unknown};
use crate::shard::{Shard, ShardOpenError};

#[test]
fn a_node_that_lost_power_comes_back_with_all_it_acknowledged() {
    let mut cluster = Cluster::led_by_first(1);
    for number in 0..20_u8 {
        let proposal = cluster.group(0).propose(vec![number]);
        cluster.wait(proposal).unwrap();
    }
    cluster.power_off(0);
    cluster.power_on(0);
    cluster.until("all is applied again", |cluster| {
        cluster.applied(0).len() == 20
    });
    let expected: Vec<Vec<u8>> = (0..20_u8).map(|number| vec![number]).collect();
    assert_eq!(cluster.applied(0), expected);
    let status = cluster.status(0).unwrap();
    assert_eq!(status.current_term.0, 2, "elected again, in a later term");
}

#[test]
fn a_log_that_is_used_in_a_circle_for_long_keeps_its_end() {
    let mut cluster = Cluster::led_by_first(3);
    // The machines are volatile, so nothing is compacted: the log fills up, and says so.
    let mut refused = None;
    let mut taken = 0_u32;
    while refused.is_none() {
        let command = taken.to_le_bytes().repeat(500);
        let proposal = cluster.group(0).propose(command);
        match cluster.wait(proposal) {
            Ok(_) => taken += 1,
            Err(error) => refused = Some(error),
        }
        assert!(
            taken < 5_000,
            "8 segments of 256 KiB hold no more than 1,000"
        );
    }
    assert_eq!(refused, Some(Rejection::NoSpace.into()));
    assert!(taken > 300);
    // Heartbeats go on, and nobody campaigns.
    let term = cluster.status(0).unwrap().current_term;
    cluster.run(3_000);
    assert_eq!(cluster.status(0).unwrap().current_term, term);
    for node in 0..3 {
        cluster.power_off(node);
    }
    for node in 0..3 {
        cluster.power_on(node);
    }
    cluster.run(200);
    assert_eq!(
        cluster.status(1).unwrap().last_index,
        LogIndex(u64::from(taken) + 1)
    );
}

/// Only an entry of its own term tells a leader that what was acknowledged before it is committed.
/// Its empty one needs little room, and that is there: on its own disk and on those of the others.
#[test]
fn what_was_acknowledged_is_applied_again_after_a_restart_with_full_logs() {
    let mut cluster = Cluster::led_by_first(3);
    for node in &mut cluster.nodes {
        node.volume.set_slots_max(5);
    }
    let mut taken = 0_u32;
    loop {
        let proposal = cluster.group(0).propose(taken.to_le_bytes().repeat(500));
        match cluster.wait(proposal) {
            Ok(_) => taken += 1,
            Err(error) => break assert_eq!(error, Rejection::NoSpace.into()),
        }
    }
    for round in 0..3 {
        for node in 0..3 {
            cluster.power_off(node);
            cluster.run(10 * round);
            cluster.power_on(node);
            cluster.run(10 * round);
        }
        cluster.until("all that was acknowledged is applied again", |cluster| {
            // A log that was full a few frames earlier than the others lacks what they took last.
            let applied = (0..3).map(|node| cluster.applied(node).len());
            applied.filter(|count| *count == taken as usize).count() >= 2
        });
    }
}

#[test]
fn service_resumes_when_the_disk_has_space_again() {
    let mut cluster = Cluster::led_by_first(1);
    cluster.nodes[0].volume.set_slots_max(3);
    let mut refused = false;
    for number in 0..400_u32 {
        let proposal = cluster.group(0).propose(number.to_le_bytes().repeat(500));
        refused |= cluster.wait(proposal) == Err(Rejection::NoSpace.into());
    }
    assert!(refused, "3 segments of 256 KiB do not hold 800 KiB");
    cluster.nodes[0].volume.set_slots_max(8);
    cluster.run(2_000);
    let proposal = cluster.group(0).propose(b"again".to_vec());
    assert!(cluster.wait(proposal).is_ok());
}

#[test]
fn after_a_failed_write_nothing_more_is_acknowledged_and_others_take_over() {
    let mut cluster = Cluster::led_by_first(3);
    cluster.run(5);
    cluster.nodes[0].disk_is_held = true;
    // Followers that hear nothing can't make a majority without the leader's disk.
    cluster.wire.cut = vec![(0, 1), (0, 2)];
    let mut proposal = cluster.group(0).propose(b"doomed".to_vec());
    cluster.run(1);
    cluster.fail_writes(0, libc::EIO);
    cluster.run(1);
    assert_eq!(poll(&mut proposal), Some(Err(Unknown::Failed.into())));
    let next = cluster.group(0).propose(b"next".to_vec());
    assert_eq!(cluster.wait(next), Err(Rejection::Failed.into()));
    let events = cluster.nodes[0].journal.borrow().events.clone();
    assert!(events.contains(&(GROUP.0, Event::Failed)));
    cluster.wire.cut.clear();
    cluster.until("another node leads", |cluster| {
        [1, 2].iter().any(|&node| {
            let status = cluster.status(node).unwrap();
            status.leader == Some(status.id)
        })
    });
    let status = cluster.status(0).unwrap();
    assert_eq!(status.current_term.0, 1, "it takes no part any more");
}

#[test]
fn a_group_without_its_machine_is_shown_and_takes_no_part() {
    let mut cluster = Cluster::led_by_first(3);
    cluster.run(5);
    cluster.power_off(2);
    let volume = cluster.nodes[2].volume.clone();
    cluster.power_on(2);
    let (shard, status) = open_without_machines(volume);
    assert_eq!(status, (false, "recorder".to_owned()));
    cluster.nodes[2].shard = Some(shard);
    cluster.power_off(1);
    let mut proposal = cluster.group(0).propose(b"x".to_vec());
    cluster.run(500);
    assert_eq!(poll(&mut proposal), None, "one acknowledgement of three");
}

fn open_without_machines(
    mut volume: pontoon_storage::memory::MemoryVolume,
) -> (Shard, (bool, String)) {
    let (log, recovery) = SegmentLog::open(&mut volume, log_config(2)).unwrap();
    let config = shard_config(2, 3);
    let doorbell = Arc::new(Doorbell::new().unwrap());
    let (_, inbox) = channel(config.node, doorbell, INBOX);
    let machines = Machines::new();
    let shard = Shard::open(config, log, &recovery, machines, inbox, Time(1)).unwrap();
    let status = shard.groups.status(GROUP).unwrap();
    (shard, (status.has_machine, status.kind))
}

#[test]
fn a_damaged_group_without_another_copy_refuses_to_open_and_names_the_place() {
    let mut cluster = Cluster::led_by_first(1);
    for number in 0..5_u8 {
        let proposal = cluster.group(0).propose(vec![number; 3000]);
        cluster.wait(proposal).unwrap();
    }
    cluster.power_off(0);
    let mut volume = cluster.nodes[0].volume.clone();
    for slot in 0..8 {
        if let Some(image) = volume.image_mut(slot)
            && image[8192..12288].iter().any(|byte| *byte != 0)
        {
            image[8192..12288].fill(0xEE);
        }
    }
    let (log, recovery) = SegmentLog::open(&mut volume, log_config(0)).unwrap();
    let config = shard_config(0, 1);
    let doorbell = Arc::new(Doorbell::new().unwrap());
    let (_, inbox) = channel(config.node, doorbell, INBOX);
    let machines = recorders(&Rc::new(RefCell::new(Journal::default())));
    let refused = Shard::open(config, log, &recovery, machines, inbox, Time(1)).unwrap_err();
    let ShardOpenError::Damaged { group, place } = refused else {
        panic!("refused for another reason: {refused}");
    };
    assert_eq!(group, GROUP);
    assert!(place.starts_with("segment-0"), "{place}");
}

/// Found by the simulator (seed 418): the disk had lost what a group is, and the node did not
/// start at all. The group stays out of it, named, and other groups run. Made again with its kind
/// and members it is whole, once the others have repaired it.
#[test]
fn a_group_whose_definition_is_lost_is_whole_once_it_is_made_again() {
    let mut cluster = Cluster::led_by_first(3);
    let other = GroupId(8);
    cluster.create(other);
    drop(cluster.other_group(0, other).campaign());
    let proposal = cluster.group(0).propose(b"before".to_vec());
    cluster.wait(proposal).unwrap();
    cluster.run(200);
    cluster.power_off(2);
    let group = GROUP;
    cluster.rot_definition(2, group);
    let lines = warnings(|| cluster.power_on(2));
    assert!(lines.iter().any(|line| line.contains("definition is lost")), "{lines:?}");
    let status = cluster.status(2).unwrap();
    assert!(status.tainted && status.membership.members().is_empty());
    assert_eq!(status.last_index, LogIndex(2), "its entries are kept");
    // The other group runs there, and this one elsewhere.
    let proposal = cluster.other_group(0, other).propose(b"x".to_vec());
    cluster.wait(proposal).unwrap();
    cluster.until("the other group runs", |cluster| cluster.applied_of(2, other) == [b"x"]);
    let proposal = cluster.group(0).propose(b"meanwhile".to_vec());
    cluster.wait(proposal).unwrap();
    assert!(cluster.applied(2).is_empty());
    // Nobody else could give a group with one member what it had.
    let mut alone = cluster.core(2).create_group(group, "recorder", &[pontoon_raft::NodeId(3)]);
    cluster.run(2);
    assert_eq!(poll(&mut alone), Some(Err(crate::CreateError::Damaged { group })));
    let members = cluster.members();
    let mut made = cluster.core(2).create_group(group, "recorder", &members);
    cluster.until("it is made", |_| poll(&mut made) == Some(Ok(())));
    assert!(cluster.status(2).unwrap().tainted, "it promises nothing yet");
    let whole = |cluster: &Cluster| {
        let all: [&[u8]; 2] = [b"before", b"meanwhile"];
        cluster.applied(2) == all && !cluster.status(2).unwrap().tainted
    };
    cluster.until("it is whole", whole);
    cluster.power_off(2);
    cluster.power_on(2);
    cluster.until("it is whole after another start", whole);
}

/// A follower comes back with an empty disk: its leader says so, and fills it again.
#[test]
fn a_follower_that_forgot_is_named() {
    let mut cluster = Cluster::led_by_first(3);
    let proposal = cluster.group(0).propose(b"x".to_vec());
    cluster.wait(proposal).unwrap();
    cluster.run(200);
    cluster.power_off(2);
    cluster.nodes[2].volume = MemoryVolume::new(log_config(2).segment_bytes);
    cluster.power_on(2);
    let members = cluster.members();
    let mut made = cluster.core(2).create_group(GROUP, "recorder", &members);
    let lines = warnings(|| {
        cluster.until("it is made", |_| poll(&mut made) == Some(Ok(())));
        cluster.until("it has everything", |cluster| cluster.applied(2) == [b"x"]);
    });
    let told = lines.iter().filter(|line| line.contains("node 3 forgot")).count();
    assert_eq!(told, 2, "both of the others say so: {lines:?}");
}

#[test]
fn a_group_is_created_once_with_one_definition() {
    let mut cluster = Cluster::led_by_first(1);
    let members = cluster.members();
    let core = cluster.core(0);
    let mut again = core.create_group(GROUP, "recorder", &members);
    let mut other = core.create_group(GROUP, "another", &members);
    let mut unknown = core.create_group(GroupId(8), "unknown", &members);
    cluster.run(2);
    assert_eq!(poll(&mut again), Some(Ok(())));
    let group = GROUP;
    assert_eq!(
        poll(&mut other),
        Some(Err(crate::CreateError::Exists { group }))
    );
    let kind = "unknown".to_owned();
    assert_eq!(
        poll(&mut unknown),
        Some(Err(crate::CreateError::UnknownKind { kind }))
    );
    let mut stranger = core.create_group(GroupId(9), "recorder", &[pontoon_raft::NodeId(77)]);
    assert!(matches!(
        poll(&mut stranger),
        Some(Err(crate::CreateError::Members { .. }))
    ));
}

#[test]
fn a_proposal_to_a_node_that_stopped_has_an_answer() {
    let mut cluster = Cluster::led_by_first(3);
    cluster.run(5);
    cluster.wire.cut = vec![(0, 1), (0, 2)];
    let mut proposal = cluster.group(0).propose(b"x".to_vec());
    cluster.run(1);
    cluster.core(0).stop();
    cluster.until("node 0 has stopped", |cluster| {
        cluster.nodes[0].shard.as_ref().unwrap().stopped()
    });
    assert!(cluster.nodes[0].shard.as_ref().unwrap().stopped());
    assert_eq!(
        poll(&mut proposal),
        Some(Err(ProposeError::Unknown(Unknown::Stopped)))
    );
}

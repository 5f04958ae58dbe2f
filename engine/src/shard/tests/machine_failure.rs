//! State machines that can't go on: their group stops on that node, and nothing else does.

use pontoon_raft::{GroupId, LogIndex, NodeId};

use super::cluster::{Cluster, GROUP, poll};
use crate::outcome::{ProposeError, Rejection, Unknown};
use crate::request::{CampaignError, CreateError, GroupStatus, RequestError, TransferError};

const OTHER: GroupId = GroupId(8);

/// Three nodes with two groups, both led by the first, whose machine of `GROUP` fails at "bad".
fn cluster(nodes: usize) -> Cluster {
    let mut cluster = Cluster::led_by_first(nodes);
    cluster.create(OTHER);
    drop(cluster.other_group(0, OTHER).campaign());
    cluster.until("it leads the other group too", |cluster| {
        let status = cluster.status_of(0, OTHER);
        status.is_some_and(|status| status.leader == Some(status.id))
    });
    fail_at(&cluster, 0, b"bad");
    cluster
}

fn fail_at(cluster: &Cluster, node: usize, command: &[u8]) {
    let mut journal = cluster.nodes[node].journal.borrow_mut();
    journal.fails_at = Some((GROUP.0, command.to_vec()));
}

fn group_status(cluster: &mut Cluster, node: usize) -> GroupStatus {
    let mut answer = cluster.group(node).status();
    let mut status = None;
    cluster.until("the status is known", |_| {
        status = poll(&mut answer);
        status.is_some()
    });
    status.expect("answered").expect("the group is on the node")
}

fn leads(cluster: &Cluster, node: usize) -> bool {
    cluster.status(node).is_some_and(|status| status.leader == Some(status.id))
}

/// A machine that fails within a batch: every command of it is told so, the ones before the bad
/// one too; the others take over, and the failed member goes on to hold and acknowledge the log.
#[test]
fn a_machine_that_fails_stops_its_group_on_that_node_alone() {
    let mut cluster = cluster(3);
    let group = cluster.group(0);
    let commands: [&[u8]; 3] = [b"good", b"bad", b"late"];
    let pending = commands.map(|command| group.propose(command.to_vec()));
    for proposal in pending {
        let unknown = Err(ProposeError::Unknown(Unknown::MachineFailed));
        assert_eq!(cluster.wait(proposal), unknown);
    }
    let status = group_status(&mut cluster, 0);
    assert!(status.has_machine);
    assert_eq!(status.machine_error.as_deref(), Some("the table is gone"));
    assert!(status.raft.last_applied < status.raft.commit_index);
    cluster.until("another one leads", |cluster| leads(cluster, 1) || leads(cluster, 2));
    let (leader, third) = if leads(&cluster, 1) { (1, 2) } else { (2, 1) };
    cluster.run(200);
    // Whoever asks the failed one is told whom to ask.
    let told = cluster.wait(cluster.group(0).propose(b"more".to_vec()));
    let leader_id = Some(NodeId(leader as u64 + 1));
    let asks = Rejection::NotLeader { leader: leader_id };
    assert_eq!(told, Err(asks.into()));
    // With the third member away the failed one is needed for the majority.
    cluster.power_off(third);
    let applied = cluster.wait(cluster.group(leader).propose(b"more".to_vec()));
    applied.unwrap();
    let other = cluster.wait(cluster.other_group(0, OTHER).propose(b"other".to_vec()));
    other.expect("the other group goes on");
    assert_eq!(cluster.applied(0), [b"good"], "nothing was applied after the failure");
}

#[test]
fn a_failed_machine_is_made_anew_at_the_next_start() {
    let mut cluster = cluster(1);
    let commands: [&[u8]; 2] = [b"good", b"bad"];
    for command in commands {
        let _ = cluster.wait(cluster.group(0).propose(command.to_vec()));
    }
    // A lone node has nobody to hand over to.
    let told = cluster.wait(cluster.group(0).propose(b"more".to_vec()));
    let message = "the table is gone".to_owned();
    assert_eq!(told, Err(Rejection::MachineFailed { message }.into()));
    assert!(!leads(&cluster, 0));
    cluster.run(5_000);
    assert!(!leads(&cluster, 0), "it does not campaign");
    cluster.power_off(0);
    cluster.power_on(0);
    cluster.until("everything is applied", |cluster| cluster.applied(0) == commands);
    let proposal = cluster.group(0).propose(b"more".to_vec());
    cluster.wait(proposal).unwrap();
    assert_eq!(group_status(&mut cluster, 0).machine_error, None);
}

/// A group whose machine can't be made at a restart stays closed by name on that node, for clients:
/// the other groups run, and the others of its own have its vote and its copy of the log.
#[test]
fn a_machine_that_can_not_be_made_at_a_restart_closes_its_group_alone() {
    let mut cluster = cluster(3);
    let proposal = cluster.group(0).propose(b"before".to_vec());
    cluster.wait(proposal).unwrap();
    cluster.power_off(0);
    cluster.nodes[0].journal.borrow_mut().not_made.push(GROUP.0);
    cluster.power_on(0);
    cluster.until("another one leads", |cluster| leads(cluster, 1) || leads(cluster, 2));
    let (leader, third) = if leads(&cluster, 1) { (1, 2) } else { (2, 1) };
    let status = group_status(&mut cluster, 0);
    assert_eq!(status.machine_error.as_deref(), Some("its table can't be opened"));
    // With the third member away it is needed for the majority.
    cluster.until("it follows", |cluster| {
        cluster.status(0).is_some_and(|status| status.leader.is_some())
    });
    cluster.power_off(third);
    let proposal = cluster.group(leader).propose(b"after".to_vec());
    cluster.wait(proposal).unwrap();
    let refused = cluster.group(0).propose(b"more".to_vec());
    assert!(cluster.wait(refused).is_err());
    assert!(cluster.applied(0).is_empty());
    // Without a leader it does not take over, although it has everything.
    cluster.power_off(leader);
    cluster.power_on(third);
    cluster.run(5_000);
    assert!(!leads(&cluster, 0));
    cluster.power_on(leader);
    let other = cluster.other_group(0, OTHER);
    drop(other.campaign());
    cluster.until("it leads the other group", |cluster| {
        let status = cluster.status_of(0, OTHER);
        status.is_some_and(|status| status.leader == Some(status.id))
    });
    let proposal = other.propose(b"other".to_vec());
    cluster.wait(proposal).expect("the other group goes on");
    // Mended, the next start has everything.
    cluster.nodes[0].journal.borrow_mut().not_made.clear();
    cluster.power_off(0);
    cluster.power_on(0);
    cluster.until("everything is applied", |cluster| {
        cluster.applied(0) == [b"before".to_vec(), b"after".to_vec()]
    });
    assert_eq!(group_status(&mut cluster, 0).machine_error, None);
}

/// A member whose machine failed does not take leadership that is offered to it.
#[test]
fn a_member_whose_machine_failed_is_no_candidate() {
    let mut cluster = Cluster::led_by_first(3);
    fail_at(&cluster, 1, b"bad");
    cluster.wait(cluster.group(0).propose(b"bad".to_vec())).unwrap();
    cluster.until("its machine fails", |cluster| {
        let shard = cluster.nodes[1].shard.as_ref().expect("it runs");
        let replica = shard.groups.replica(GROUP).expect("it is there");
        replica.machine_error().is_some()
    });
    let term = cluster.status(0).unwrap().current_term;
    let mut asked = cluster.group(0).transfer_leadership(NodeId(2));
    cluster.until("it is asked", |_| poll(&mut asked).is_some());
    drop(cluster.group(1).campaign());
    cluster.run(3_000);
    assert!(leads(&cluster, 0));
    assert_eq!(cluster.status(0).unwrap().current_term, term);
    assert!(!cluster.nodes[1].journal.borrow().applied.contains_key(&GROUP.0));
}

#[test]
fn a_machine_whose_durable_index_can_not_be_has_failed() {
    let claims = [(50, "its durable index is 50, it was given"), (1, "went back from 3 to 1")];
    for (claim, told) in claims {
        let mut cluster = cluster(1);
        let propose = |cluster: &mut Cluster| {
            let proposal = cluster.group(0).propose(b"good".to_vec());
            cluster.wait(proposal)
        };
        propose(&mut cluster).unwrap();
        let claims = |cluster: &Cluster, index| {
            let mut journal = cluster.nodes[0].journal.borrow_mut();
            journal.claims = Some((GROUP.0, LogIndex(index)));
        };
        claims(&cluster, 3);
        propose(&mut cluster).unwrap();
        claims(&cluster, claim);
        let unknown = Err(ProposeError::Unknown(Unknown::MachineFailed));
        assert_eq!(propose(&mut cluster), unknown);
        let error = group_status(&mut cluster, 0).machine_error.expect("it failed");
        assert!(error.contains(told), "{error}");
    }
}

/// A log was emptied or an old copy of it came back, and its machine stayed as it was. Its group is
/// closed by name, with both as they were; others run.
#[test]
fn a_machine_that_is_ahead_of_its_log_closes_its_group_alone() {
    let mut cluster = cluster(3);
    let proposal = cluster.group(0).propose(b"first".to_vec());
    cluster.wait(proposal).unwrap();
    cluster.run(200);
    cluster.power_off(2);
    cluster.nodes[2].journal.borrow_mut().claims_at_start = Some((GROUP.0, LogIndex(50)));
    cluster.power_on(2);
    let before = group_status(&mut cluster, 2);
    assert!(!before.has_machine);
    let error = before.machine_error.unwrap();
    assert!(error.contains("up to 50, and the log of its group ends with 2"), "{error}");
    let proposal = cluster.other_group(0, OTHER).propose(b"other".to_vec());
    cluster.wait(proposal).unwrap();
    cluster.until("the other group runs", |cluster| cluster.applied_of(2, OTHER) == [b"other"]);
    let proposal = cluster.group(0).propose(b"more".to_vec());
    cluster.wait(proposal).expect("the group runs elsewhere");
    cluster.run(2_000);
    assert!(cluster.applied(2).is_empty());
    let after = group_status(&mut cluster, 2);
    assert_eq!(after.raft.last_index, before.raft.last_index, "nothing is done for it");
    // Nobody campaigns there, and no vote comes from there.
    cluster.power_off(0);
    cluster.power_off(1);
    cluster.run(3_000);
    assert_eq!(cluster.status(2).unwrap().current_term, before.raft.current_term);
    // Mended, it goes on.
    cluster.power_off(2);
    cluster.nodes[2].journal.borrow_mut().claims_at_start = None;
    for node in 0..3 {
        cluster.power_on(node);
    }
    cluster.until("it goes on", |cluster| {
        cluster.applied(2) == [b"first".to_vec(), b"more".to_vec()]
    });
}

/// A machine that outlived its log was given entry 2 as the next one after its sixth.
#[test]
fn a_group_is_not_made_with_a_machine_that_holds_more_than_its_log() {
    let mut cluster = Cluster::led_by_first(1);
    let group = GroupId(9);
    cluster.nodes[0].journal.borrow_mut().claims = Some((group.0, LogIndex(6)));
    let members = cluster.members();
    let mut made = cluster.core(0).create_group(group, "recorder", &members);
    cluster.run(5);
    let Some(Err(CreateError::OtherMachine { group: named, message })) = poll(&mut made) else {
        panic!("it is made")
    };
    assert_eq!(named, group);
    assert!(message.contains("up to 6, and the log of its group ends with 0"), "{message}");
    assert!(cluster.status_of(0, group).is_none());
    cluster.nodes[0].journal.borrow_mut().claims = Some((group.0, LogIndex(0)));
    let mut made = cluster.core(0).create_group(group, "recorder", &members);
    cluster.until("it is made", |_| poll(&mut made) == Some(Ok(())));
}

/// `leader()` of a lone group whose machine had failed waited for ever, however it was asked.
#[test]
fn whoever_waits_for_a_leader_that_can_not_be_is_told_that_the_machine_failed() {
    let mut cluster = cluster(3);
    for node in [1, 2] {
        cluster.power_off(node);
    }
    // Without the others nothing is committed: the machine fails at its next start.
    cluster.power_off(0);
    cluster.nodes[0].journal.borrow_mut().not_made.push(GROUP.0);
    cluster.power_on(0);
    every_call_is_told_that_the_machine_failed(&mut cluster);
}

#[test]
fn whoever_waits_for_a_lone_group_to_be_led_is_told_that_its_machine_failed() {
    let mut cluster = cluster(1);
    let _ = cluster.wait(cluster.group(0).propose(b"bad".to_vec()));
    every_call_is_told_that_the_machine_failed(&mut cluster);
}

fn every_call_is_told_that_the_machine_failed(cluster: &mut Cluster) {
    let failed = RequestError::MachineFailed;
    for _ in 0..2 {
        let group = cluster.group(0);
        let (mut leader, mut campaign) = (group.leader(), group.campaign());
        let mut transfer = group.transfer_leadership(NodeId(2));
        cluster.until("whoever waits is told", |_| poll(&mut leader) == Some(Err(failed)));
        assert_eq!(poll(&mut campaign), Some(Err(CampaignError::Request(failed))));
        assert_eq!(poll(&mut transfer), Some(Err(TransferError::Request(failed))));
        assert!(!leads(cluster, 0));
    }
}

/// Where others can lead they are waited for, and the one that gives up leadership is not named.
#[test]
fn whoever_asks_for_the_leader_when_a_machine_fails_is_told_who_takes_over() {
    let mut cluster = cluster(3);
    let told = cluster.wait(cluster.group(0).propose(b"bad".to_vec()));
    assert_eq!(told, Err(ProposeError::Unknown(Unknown::MachineFailed)));
    let mut leader = cluster.group(0).leader();
    let mut told = None;
    cluster.until("it is told", |_| {
        told = poll(&mut leader);
        told.is_some()
    });
    let next = told.unwrap().expect("one of the others");
    assert_ne!(next, NodeId(1));
}

//! Talks of several cores as text: what is done to them, and every message and write that follows.
//!
//! `UPDATE_EXPECT=1 cargo test -p pontoon-raft` writes the scripts anew.

use expect_test::expect_file;
use pontoon_raft::{NodeId, Time};

use crate::cluster::Cluster;

fn campaign(cluster: &mut Cluster, id: u64) {
    cluster.transcript.push_str(&format!("{id} campaigns\n"));
    cluster.call(NodeId(id), &[], |raft, now, output| {
        raft.campaign(now, output)
    });
    cluster.settle();
}

fn propose(cluster: &mut Cluster, id: u64, count: u64) {
    cluster
        .transcript
        .push_str(&format!("{id} proposes {count}\n"));
    cluster.propose(NodeId(id), count);
    cluster.settle();
}

#[test]
fn three_cores_elect_a_leader_and_commit() {
    let mut cluster = Cluster::new(3, 0);
    campaign(&mut cluster, 1);
    propose(&mut cluster, 1, 2);
    assert_eq!(cluster.raft(1).commit_index().0, 3);
    expect_file!["../script/elect_and_commit.txt"].assert_eq(&cluster.transcript);
}

#[test]
fn a_new_leader_replaces_what_an_old_one_could_not_commit() {
    let mut cluster = Cluster::new(3, 0);
    campaign(&mut cluster, 1);
    cluster
        .transcript
        .push_str("1 proposes 4 that reach nobody\n");
    cluster.propose(NodeId(1), 4);
    cluster.persist_one(NodeId(1));
    cluster.disconnect(NodeId(1), NodeId(2));
    cluster.disconnect(NodeId(1), NodeId(3));
    cluster.now = Time(5_000);
    campaign(&mut cluster, 2);
    propose(&mut cluster, 2, 1);
    assert_eq!(cluster.raft(2).commit_index().0, 3);
    assert_eq!(cluster.raft(1).last_index(), cluster.raft(2).last_index());
    expect_file!["../script/replace_uncommitted.txt"].assert_eq(&cluster.transcript);
}

//! A replica whose node can't serve what it leads gives up leadership, and keeps its vote.

use pontoon_raft::TransferRejection;

use crate::cluster::Cluster;
use crate::rules::{ONE, THREE, TWO};

#[test]
fn a_leader_that_renounces_hands_over_and_never_leads_again() {
    let mut cluster = Cluster::new(3, 1);
    cluster.call(ONE, &[], |raft, now, output| raft.campaign(now, output));
    cluster.settle();
    cluster.propose(ONE, 5);
    cluster.settle();
    cluster.call(ONE, &[], |raft, now, output| raft.renounce(now, output));
    cluster.settle();
    assert!(cluster.raft(2).is_leader() || cluster.raft(3).is_leader());
    let leader = if cluster.raft(2).is_leader() {
        TWO
    } else {
        THREE
    };
    // Neither by itself nor because it is asked to.
    cluster.call(leader, &[], |raft, now, output| {
        let asked = raft.transfer_leadership(now, ONE, output);
        assert_eq!(asked, Err(TransferRejection::Unavailable { to: ONE }));
    });
    cluster.call(ONE, &[], |raft, now, output| raft.campaign(now, output));
    cluster.settle();
    assert!(!cluster.raft(1).is_leader() && cluster.raft(leader.0).is_leader());
    // It holds and acknowledges the log as before.
    cluster.propose(leader, 1);
    cluster.settle();
    assert_eq!(
        cluster.raft(1).last_index(),
        cluster.raft(leader.0).commit_index()
    );
}

#[test]
fn a_lone_leader_that_renounces_steps_down_at_once() {
    let mut cluster = Cluster::new(1, 1);
    cluster.call(ONE, &[], |raft, now, output| raft.campaign(now, output));
    cluster.settle();
    assert!(cluster.raft(1).is_leader());
    cluster.call(ONE, &[], |raft, now, output| raft.renounce(now, output));
    assert!(!cluster.raft(1).is_leader());
}

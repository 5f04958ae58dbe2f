//! Hand-overs that are asked for in vain, and called off. The election timeout is 1,000 rounds.

use pontoon_raft::{NodeId, TransferRejection};

use super::cluster::{Cluster, poll};
use crate::request::TransferError;

/// Asked for every tenth of an election timeout, it refused proposals for as long as it was asked.
#[test]
fn a_hand_over_to_a_silent_node_is_given_up_however_often_it_is_asked_for() {
    let mut cluster = Cluster::led_by_first(3);
    cluster.power_off(2);
    let mut refused = 0;
    for _ in 0..50 {
        drop(cluster.group(0).transfer_leadership(NodeId(3)));
        let mut proposal = cluster.group(0).propose(b"now".to_vec());
        cluster.run(100);
        refused += usize::from(!matches!(poll(&mut proposal), Some(Ok(_))));
    }
    assert!((1..=10).contains(&refused), "{refused} tenths");
    let mut answer = cluster.group(0).transfer_leadership(NodeId(3));
    cluster.run(5);
    let unavailable = TransferRejection::Unavailable { to: NodeId(3) };
    assert_eq!(poll(&mut answer), Some(Err(TransferError::Rejected(unavailable))));
}

#[test]
fn a_hand_over_is_seen_in_the_status_and_called_off_by_one_to_the_leader_itself() {
    let mut cluster = Cluster::led_by_first(3);
    cluster.power_off(2);
    drop(cluster.group(0).transfer_leadership(NodeId(3)));
    cluster.run(5);
    let transfer = cluster.status(0).and_then(|status| status.transfer);
    assert_eq!(transfer.map(|transfer| transfer.to), Some(NodeId(3)));
    let mut answer = cluster.group(0).transfer_leadership(NodeId(1));
    let proposal = cluster.group(0).propose(b"now".to_vec());
    cluster.wait(proposal).expect("it leads as before");
    assert_eq!(poll(&mut answer), Some(Ok(())));
    assert_eq!(cluster.status(0).and_then(|status| status.transfer), None);
}

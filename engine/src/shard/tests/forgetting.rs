//! Nodes whose disks forgot what they had promised: emptied, or an old copy came back.

use std::ops::Range;

use pontoon_raft::{GroupId, NodeId, RoleName};
use pontoon_storage::Volume;
use pontoon_storage::memory::MemoryVolume;

use super::cluster::{Cluster, GROUP, log_config, poll};
use super::lines::warnings;

/// Proposes to whom leads; gives what was acknowledged.
fn acknowledge(cluster: &mut Cluster, leader: usize, commands: Range<u8>) -> Vec<Vec<u8>> {
    let mut acknowledged = Vec::new();
    for number in commands {
        let proposal = cluster.group(leader).propose(vec![number]);
        cluster.wait(proposal).expect("a majority is there");
        acknowledged.push(vec![number]);
    }
    acknowledged
}

/// Its node starts on an empty disk, and the application makes the group again.
fn wipe(cluster: &mut Cluster, node: usize) {
    cluster.power_off(node);
    cluster.nodes[node].volume = MemoryVolume::new(log_config(node).segment_bytes);
    cluster.power_on(node);
    make_again(cluster, node);
}

fn make_again(cluster: &mut Cluster, node: usize) {
    let members = cluster.members();
    let mut made = cluster.core(node).create_group(GROUP, "recorder", &members);
    cluster.until("the group is made again", |_| poll(&mut made) == Some(Ok(())));
}

fn leads(cluster: &Cluster, node: usize) -> bool {
    let status = cluster.nodes[node].shard.is_some().then(|| cluster.status(node)).flatten();
    status.is_some_and(|status| status.role == RoleName::Leader)
}

fn counts(cluster: &Cluster, node: usize) -> bool {
    cluster.status(node).is_some_and(|status| !status.tainted)
}

/// Seen with real nodes: its leader ignored it in silence for as long as it led.
#[test]
fn a_wiped_follower_is_found_at_once_and_filled_again() {
    let mut cluster = Cluster::led_by_first(3);
    let all = acknowledge(&mut cluster, 0, 0..20);
    cluster.run(300);
    let told = warnings(|| {
        wipe(&mut cluster, 2);
        cluster.until("it has everything", |cluster| cluster.applied(2) == all);
        cluster.until("it counts again", |cluster| counts(cluster, 2));
    });
    assert_eq!(told.iter().filter(|line| line.contains("has forgotten")).count(), 1, "{told:?}");
    let more = acknowledge(&mut cluster, 0, 20..30);
    cluster.until("it goes on", |cluster| cluster.applied(2).ends_with(&more));
}

/// One after the other, and the leader itself: those that were repaired count for the next.
#[test]
fn members_that_forget_one_after_another_lose_nothing() {
    let mut cluster = Cluster::led_by_first(3);
    let mut all = acknowledge(&mut cluster, 0, 0..5);
    cluster.run(300);
    for (round, node) in [2, 1, 0, 2].into_iter().enumerate() {
        wipe(&mut cluster, node);
        cluster.until("somebody leads", |cluster| (0..3).any(|node| leads(cluster, node)));
        let leader = (0..3).find(|node| leads(&cluster, *node)).unwrap();
        let first = 10 * (round as u8 + 1);
        all.extend(acknowledge(&mut cluster, leader, first..first + 5));
        cluster.until("all have everything", |cluster| {
            (0..3).all(|node| cluster.applied(node) == all)
        });
        // Before the next one forgets: with two at once nobody could tell what is lost.
        cluster.until("it counts again", |cluster| counts(cluster, node));
    }
}

/// Seen with real nodes: with whoever had been away it elected a leader that overwrote what was
/// acknowledged.
#[test]
fn a_wiped_member_elects_nobody_with_one_that_was_away() {
    let mut cluster = Cluster::led_by_first(3);
    cluster.run(300);
    cluster.power_off(2);
    let all = acknowledge(&mut cluster, 0, 0..20);
    cluster.power_off(0);
    wipe(&mut cluster, 1);
    cluster.power_on(2);
    for _ in 0..100 {
        cluster.run(100);
        assert!(!leads(&cluster, 1) && !leads(&cluster, 2), "what was acknowledged is not there");
    }
    cluster.power_on(0);
    cluster.until("all have everything", |cluster| {
        (0..3).all(|node| cluster.applied(node).starts_with(&all))
    });
    cluster.until("it counts again", |cluster| counts(cluster, 1));
}

/// It was in a life that only others remember. Afterwards it counted as in step.
#[test]
fn an_old_copy_of_a_disk_is_told_by_whoever_met_its_node_since() {
    let mut cluster = Cluster::led_by_first(3);
    cluster.run(300);
    cluster.power_off(1);
    let copy = cluster.nodes[1].volume.clone();
    cluster.power_on(1);
    cluster.run(300);
    cluster.power_off(2);
    let all = acknowledge(&mut cluster, 0, 0..20);
    cluster.power_off(0);
    cluster.power_off(1);
    cluster.nodes[1].volume = copy;
    cluster.power_on(1);
    cluster.power_on(2);
    for _ in 0..100 {
        cluster.run(100);
        assert!(!leads(&cluster, 1) && !leads(&cluster, 2), "what was acknowledged is not there");
    }
    cluster.power_on(0);
    cluster.until("all have everything", |cluster| {
        (0..3).all(|node| cluster.applied(node).starts_with(&all))
    });
}

/// Nobody else holds anything of it, so that nobody could tell, or give it back.
#[test]
fn a_group_with_one_member_goes_on_beside_one_that_was_forgotten() {
    let mut cluster = Cluster::led_by_first(3);
    let alone = GroupId(8);
    cluster.create_on(alone, &[NodeId(2)]);
    cluster.run(300);
    cluster.power_off(1);
    let copy = cluster.nodes[1].volume.clone();
    cluster.power_on(1);
    cluster.run(300);
    cluster.power_off(1);
    cluster.nodes[1].volume = copy;
    cluster.power_on(1);
    cluster.run(50);
    for again in [false, true] {
        if again {
            cluster.power_off(1);
            cluster.power_on(1);
        }
        cluster.run(50);
        let proposal = cluster.other_group(1, alone).propose(b"alone".to_vec());
        cluster.wait(proposal).expect("it needs nobody");
    }
}

/// Seen with real nodes: nobody who was there remembered what was promised in the same life.
#[test]
fn a_log_that_ends_before_its_witness_elects_nobody_with_one_that_was_away() {
    for lost in [Lost::NewestWrites, Lost::AllSegments, Lost::IsCopy] {
        let mut cluster = Cluster::led_by_first(3);
        cluster.run(300);
        cluster.power_off(2);
        let copy = cluster.nodes[1].volume.clone();
        let all = acknowledge(&mut cluster, 0, 0..20);
        // The witness follows at a distance.
        cluster.run(1_500);
        cluster.power_off(0);
        cluster.power_off(1);
        lost.lose(&mut cluster.nodes[1].volume, copy);
        cluster.power_on(1);
        cluster.power_on(2);
        make_again_if_lost(&mut cluster, 1);
        for _ in 0..100 {
            cluster.run(100);
            let elected = leads(&cluster, 1) || leads(&cluster, 2);
            assert!(!elected, "{lost:?}: what was acknowledged is not there");
        }
        cluster.power_on(0);
        cluster.until("all have everything", |cluster| {
            (0..3).all(|node| cluster.applied(node).starts_with(&all))
        });
        cluster.until("it counts again", |cluster| counts(cluster, 1));
    }
}

/// What becomes of a disk while its node is off.
#[derive(Clone, Copy, Debug)]
enum Lost {
    NewestWrites,
    AllSegments,
    IsCopy,
}

impl Lost {
    fn lose(self, volume: &mut MemoryVolume, copy: MemoryVolume) {
        match self {
            Self::NewestWrites => {
                let is_used = |slot: &u32| {
                    let image = volume.image(*slot).unwrap();
                    image.iter().any(|byte| *byte != 0)
                };
                let newest = volume.slots().into_iter().rfind(is_used);
                let image = volume.image_mut(newest.unwrap()).unwrap();
                let last = image.chunks(4096).rposition(|block| block.iter().any(|it| *it != 0));
                image[(last.unwrap() - 3) * 4096..].fill(0);
            }
            Self::AllSegments => volume.slots().into_iter().for_each(|slot| volume.remove(slot)),
            Self::IsCopy => {
                *volume = copy;
                volume.copied();
            }
        }
    }
}

fn make_again_if_lost(cluster: &mut Cluster, node: usize) {
    if cluster.status(node).is_none() {
        make_again(cluster, node);
    }
}

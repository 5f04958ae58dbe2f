//! Random histories: lost connections, lost power, late disks, and everything checked at each step.

use pontoon_raft::{NodeId, Time};
use rand_pcg::Pcg32;
use rand_pcg::rand_core::{RngCore, SeedableRng};

use crate::cluster::Cluster;

const SEEDS: u64 = 600;
const STEPS: u32 = 3_000;

#[test]
#[cfg_attr(miri, ignore = "takes Miri longer than a minute")]
fn no_random_history_of_three_or_five_breaks_a_property_of_raft() {
    let mut committed = 0;
    for seed in 0..SEEDS {
        let size = if seed % 2 == 0 { 3 } else { 5 };
        let run = std::panic::catch_unwind(|| history(size, seed));
        committed += run.unwrap_or_else(|_| panic!("seed {seed} with {size} cores breaks a rule"));
    }
    assert!(
        committed > SEEDS as usize * 10,
        "the histories hardly commit: {committed}"
    );
}

/// Runs one history and returns how many entries were committed in it.
fn history(size: u64, seed: u64) -> usize {
    let mut random = Pcg32::seed_from_u64(seed);
    let mut cluster = Cluster::new(size, seed);
    // Each run draws its own world: how fast time goes, how often disks and power fail.
    let pace = [10, 60, 400][seed as usize % 3];
    let persist = [8, 15, 25][seed as usize / 3 % 3];
    let faults = [1, 4, 12][seed as usize / 9 % 3];
    for _ in 0..STEPS {
        let pick = |random: &mut Pcg32| NodeId(1 + u64::from(random.next_u32()) % size);
        let node = pick(&mut random);
        match random.next_u32() % 100 {
            dice if dice < faults => fault(&mut cluster, &mut random, node, pick),
            dice if dice < faults + persist => cluster.persist_one(node),
            60..75 => {
                cluster.now = Time(cluster.now.0 + u64::from(random.next_u32() % pace));
                cluster.call(node, &[], |raft, now, output| raft.tick(now, output));
            }
            75..85 if cluster.raft(node.0).is_leader() => cluster.propose(node, 1 + seed % 4),
            _ => deliver_any(&mut cluster, &mut random),
        }
    }
    heal(&mut cluster, size);
    cluster.committed.len()
}

fn fault(
    cluster: &mut Cluster,
    random: &mut Pcg32,
    node: NodeId,
    pick: impl Fn(&mut Pcg32) -> NodeId,
) {
    let other = pick(random);
    match random.next_u32() % 4 {
        0 => cluster.restart(node),
        1 => cluster.call(node, &[], |raft, now, output| raft.campaign(now, output)),
        2 => cluster.call(node, &[], |raft, now, output| {
            // Refused unless this node leads, which the test does not care about.
            let _ = raft.transfer_leadership(now, other, output);
        }),
        _ if other != node => cluster.disconnect(node, other),
        _ => {}
    }
}

fn deliver_any(cluster: &mut Cluster, random: &mut Pcg32) {
    let busy: Vec<_> = cluster
        .links
        .iter()
        .filter(|(_, link)| !link.is_empty())
        .map(|(&ends, _)| ends)
        .collect();
    if !busy.is_empty() {
        let (from, to) = busy[random.next_u32() as usize % busy.len()];
        cluster.deliver_one(from, to);
    }
}

/// The second phase: with all faults gone a leader emerges, and all agree on a fresh command.
fn heal(cluster: &mut Cluster, size: u64) {
    for _ in 0..4_000 {
        cluster.now = Time(cluster.now.0 + 25);
        for id in 1..=size {
            cluster.call(NodeId(id), &[], |raft, now, output| raft.tick(now, output));
        }
        cluster.settle();
        let leader = (1..=size).find(|&id| cluster.raft(id).is_leader());
        let Some(leader) = leader else { continue };
        cluster.propose(NodeId(leader), 1);
        cluster.settle();
        let last = cluster.raft(leader).last_index();
        if (1..=size).all(|id| cluster.raft(id).commit_index().0 + 1 >= last.0 && last.0 > 1) {
            return;
        }
    }
    panic!("a healed cluster does not agree");
}

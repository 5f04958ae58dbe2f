//! Which faults happen, in an order drawn from the seed. Each is done under load, and goes on when
//! what it must lead to has been seen: no step waits for time to pass.

use rand_pcg::Pcg64Mcg;
use rand_pcg::rand_core::{RngCore, SeedableRng};

use crate::cluster::{Cluster, NODES};
use crate::event::Outcome;
use crate::state::Leader;

/// Operations to be acknowledged before the next step.
const ENOUGH: usize = 40;

/// Operations that are asked of a node which can't carry them out.
const IN_VAIN: usize = 6;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    CutLeader,
    CutFollower,
    CutEveryone,
    KillLeader,
    KillEveryone,
    KillLeaderWhileCut,
    KillLeaderWhileFollowerCut,
    StopLeader,
}

const FAULTS: [Fault; 13] = [
    Fault::CutLeader,
    Fault::CutLeader,
    Fault::CutFollower,
    Fault::CutEveryone,
    Fault::KillLeader,
    Fault::KillLeader,
    Fault::KillEveryone,
    Fault::KillEveryone,
    Fault::KillLeaderWhileCut,
    Fault::KillLeaderWhileFollowerCut,
    Fault::StopLeader,
    Fault::StopLeader,
    Fault::StopLeader,
];

/// What has been seen.
#[derive(Default)]
pub(crate) struct Seen {
    pub(crate) faults: usize,
    /// New leaders because the old one was cut off, killed, or stopped.
    pub(crate) leaders_after_cut: usize,
    pub(crate) leaders_after_kill: usize,
    pub(crate) leaders_after_stop: usize,
    /// Operations that two nodes acknowledged while the third was cut off.
    pub(crate) acknowledged_while_cut: usize,
    /// Operations asked of a leader that had been stopped, or cut off, and refused or unknown.
    pub(crate) asked_in_vain: usize,
}

impl std::fmt::Display for Seen {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            formatter,
            "{} faults, new leaders after cuts {}, kills {}, stops {}; {} acknowledged while a \
             node is cut off; {} asked of a deposed leader in vain",
            self.faults,
            self.leaders_after_cut,
            self.leaders_after_kill,
            self.leaders_after_stop,
            self.acknowledged_while_cut,
            self.asked_in_vain
        )
    }
}

struct Script<'a> {
    cluster: &'a mut Cluster,
    random: Pcg64Mcg,
    seen: Seen,
}

/// Runs the script of a seed. All nodes live and are joined afterwards, and have a leader.
pub(crate) fn run(cluster: &mut Cluster, seed: u64) -> Seen {
    let mut script = Script {
        cluster,
        random: Pcg64Mcg::seed_from_u64(seed),
        seen: Seen::default(),
    };
    let mut faults = FAULTS;
    for end in (1..faults.len()).rev() {
        faults.swap(end, script.draw(end + 1));
    }
    script.progress();
    for fault in faults {
        script.apply(fault);
        script.seen.faults += 1;
        script.progress();
    }
    script.seen
}

impl Script<'_> {
    fn draw(&mut self, end: usize) -> usize {
        usize::try_from(self.random.next_u64() % end as u64).unwrap()
    }

    fn apply(&mut self, fault: Fault) {
        match fault {
            Fault::CutLeader => self.cut_leader(),
            Fault::CutFollower => self.cut_follower(),
            Fault::CutEveryone => self.cut_everyone(),
            Fault::KillLeader => self.kill_leader(),
            Fault::KillEveryone => self.kill_everyone(),
            Fault::KillLeaderWhileCut => self.kill_leader_while_cut(),
            Fault::KillLeaderWhileFollowerCut => self.kill_leader_while_follower_cut(),
            Fault::StopLeader => self.stop_leader(),
        }
    }

    fn cut_leader(&mut self) {
        let old = self.leader();
        let before = self.now();
        self.cluster.cut(old.node);
        let asked = self.ask_in_vain(old.node);
        self.seen.leaders_after_cut += self.await_other_leader(old, before);
        self.seen.acknowledged_while_cut += self.progress();
        self.cluster.heal(old.node);
        self.hear_in_vain(&asked);
        self.maybe_catch_up(old.node);
    }

    fn cut_follower(&mut self) {
        let follower = (self.leader().node + 1 + self.draw(NODES - 1)) % NODES;
        self.cluster.cut(follower);
        self.seen.acknowledged_while_cut += self.progress();
        self.cluster.heal(follower);
        self.maybe_catch_up(follower);
    }

    fn cut_everyone(&mut self) {
        for node in 0..NODES {
            self.cluster.cut(node);
        }
        let nobody = |state: &crate::state::State| state.leader().is_none().then_some(());
        let shared = &self.cluster.shared;
        shared.await_that("a leader whom nobody hears gives up", nobody);
        let first = self.draw(NODES);
        for node in 0..NODES {
            self.cluster.heal((first + node) % NODES);
        }
    }

    fn kill_leader(&mut self) {
        let old = self.leader();
        let before = self.now();
        self.cluster.kill(&[old.node]);
        self.seen.leaders_after_kill += self.await_other_leader(old, before);
        self.progress();
        self.cluster.start_node(old.node);
        self.maybe_catch_up(old.node);
    }

    fn kill_everyone(&mut self) {
        let nodes: Vec<usize> = (0..NODES).collect();
        self.cluster.kill(&nodes);
        let first = self.draw(NODES);
        for node in 0..NODES {
            self.cluster.start_node((first + node) % NODES);
        }
    }

    /// What the old leader appended alone is overridden after its restart.
    fn kill_leader_while_cut(&mut self) {
        let old = self.leader();
        let before = self.now();
        self.cluster.cut(old.node);
        self.ask_in_vain(old.node);
        self.seen.leaders_after_cut += self.await_other_leader(old, before);
        self.seen.acknowledged_while_cut += self.progress();
        self.cluster.kill(&[old.node]);
        self.cluster.start_node(old.node);
        self.cluster.heal(old.node);
        self.maybe_catch_up(old.node);
    }

    /// Nothing can be decided before the leader is there again, with what it had acknowledged.
    fn kill_leader_while_follower_cut(&mut self) {
        let leader = self.leader().node;
        let follower = (leader + 1 + self.draw(NODES - 1)) % NODES;
        self.cluster.cut(follower);
        self.seen.acknowledged_while_cut += self.progress();
        self.cluster.kill(&[leader]);
        self.cluster.start_node(leader);
        self.seen.acknowledged_while_cut += self.progress();
        self.cluster.heal(follower);
        self.maybe_catch_up(follower);
    }

    /// The old leader wakes up as one, and finds operations to carry out: it must not tell what
    /// was, nor acknowledge what only it knows of.
    fn stop_leader(&mut self) {
        let old = self.leader();
        let before = self.now();
        self.cluster.stop(old.node);
        self.seen.leaders_after_stop += self.await_other_leader(old, before);
        self.progress();
        let asked = self.ask_in_vain(old.node);
        self.cluster.resume(old.node);
        self.hear_in_vain(&asked);
        self.maybe_catch_up(old.node);
    }

    fn now(&self) -> u64 {
        self.cluster.shared.lock().now()
    }

    fn leader(&self) -> Leader {
        let shared = &self.cluster.shared;
        shared.await_that("somebody leads", |state| state.leader())
    }

    /// Waits for another leader; 1 if it came after `before`, 0 if leadership had moved already.
    fn await_other_leader(&self, old: Leader, before: u64) -> usize {
        let shared = &self.cluster.shared;
        let new = shared.await_that("the others have a new leader", |state| {
            let leader = state.leader();
            leader.filter(|new| new.term > old.term && new.node != old.node)
        });
        usize::from(new.since > before)
    }

    /// Waits until some operations that are asked for from now on are acknowledged.
    fn progress(&self) -> usize {
        let mark = self.now();
        let shared = &self.cluster.shared;
        shared.await_that("operations are acknowledged", |state| {
            let acknowledged = state.acknowledged_since(mark);
            (acknowledged >= ENOUGH).then_some(acknowledged)
        })
    }

    /// Reads and writes, at this node, what has been read or written last.
    fn ask_in_vain(&mut self, node: usize) -> Vec<u64> {
        self.cluster.shared.change(|state| {
            let newest = state.acknowledged.iter().rev().take(IN_VAIN);
            let keys: Vec<u64> = newest.map(|one| one.operation.key).collect();
            let keys = keys.into_iter().enumerate();
            let ask = |(place, key)| state.ask(node, key, place % 3 == 2).expect("it lives");
            keys.map(ask).collect()
        })
    }

    /// Waits for their outcomes. Whether what was acknowledged was right, the checker says.
    fn hear_in_vain(&mut self, asked: &[u64]) {
        for number in asked {
            let shared = &self.cluster.shared;
            let heard = shared.await_that("a deposed leader says what became of an operation", {
                |state| state.outcome(*number)
            });
            let acknowledged = matches!(heard, Some(Outcome::Acknowledged { .. }));
            self.seen.asked_in_vain += usize::from(!acknowledged);
        }
    }

    /// Every other time the next fault comes while this node is still behind.
    fn maybe_catch_up(&mut self, node: usize) {
        if self.draw(2) == 0 {
            self.cluster.catch_up(node);
        }
    }
}

//! The nodes of the loads, each a process of its own, seen from the process that starts them.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};

use crate::child::Child;
use crate::data::DataDirectory;
use crate::histogram::Buckets;
use crate::load::{Load, Loaded};
use crate::machine::Applied;
use crate::node::{Answer, Host, Order, Setup};
use crate::placement;
use crate::usage::Usage;

const PATIENCE: Duration = Duration::from_secs(120);

/// How the nodes run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) nodes: u64,
    pub(crate) cores: u16,
    pub(crate) host: Host,
    pub(crate) spin_us: u64,
    pub(crate) groups: u64,
}

/// Running nodes; the first leads every group. Dropping them ends them.
pub(crate) struct Cluster {
    nodes: Vec<Child>,
}

impl Cluster {
    /// Starts the nodes with empty data, makes the groups, and lets the first node lead them.
    pub(crate) fn start(data: &DataDirectory, name: &str, shape: Shape) -> Result<Self> {
        let mut nodes = Vec::new();
        let mut addresses = BTreeMap::new();
        for node in 1..=shape.nodes {
            let mut child = Child::spawn("node", format!("node {node}"))?;
            let Answer::Listening(address) = child.ask(&Order::Listen, PATIENCE)? else {
                bail!("node {node} did not say where it listens");
            };
            addresses.insert(node, address);
            nodes.push(child);
        }
        let mut cluster = Self { nodes };
        let mut orders = Vec::new();
        for node in 1..=shape.nodes {
            let peers = addresses.iter().filter(|(peer, _)| **peer != node);
            orders.push(Order::Start(Setup {
                node,
                data: data.subdirectory(&format!("{name}-{node}"))?,
                peers: peers.map(|(peer, address)| (*peer, *address)).collect(),
                cores: shape.cores,
                host: shape.host,
                spin_us: shape.spin_us,
                pin: pins(node, shape.cores),
            }));
        }
        cluster.tell_each(&orders)?;
        let create = Order::Create {
            groups: shape.groups,
            members: (1..=shape.nodes).collect(),
        };
        cluster.tell_each(&vec![create; cluster.nodes.len()])?;
        let _: Answer = cluster.nodes[0].ask(&Order::Lead, PATIENCE)?;
        Ok(cluster)
    }

    /// Gives all nodes an order each, at the same time.
    fn tell_each(&mut self, orders: &[Order]) -> Result<Vec<Answer>> {
        for (node, order) in self.nodes.iter_mut().zip(orders) {
            node.send(order)?;
        }
        let answers = self.nodes.iter_mut().map(|node| node.receive(PATIENCE));
        answers.collect()
    }

    /// Runs a load in the leader's process.
    pub(crate) fn load(&mut self, load: &Load) -> Result<Loaded> {
        match self.nodes[0].ask(&Order::Load(load.clone()), PATIENCE)? {
            Answer::Loaded(loaded) => Ok(loaded),
            other => bail!("the leader answered {other:?}"),
        }
    }

    /// The same with a timer beside it on the leader's executor.
    pub(crate) fn load_beside_timer(&mut self, load: &Load) -> Result<(Loaded, Buckets)> {
        match self.nodes[0].ask(&Order::LoadBesideTimer(load.clone()), PATIENCE)? {
            Answer::LoadedBesideTimer(loaded, lateness) => Ok((loaded, lateness)),
            other => bail!("the leader answered {other:?}"),
        }
    }

    /// What all nodes together have used since they started.
    pub(crate) fn usage(&mut self) -> Result<Usage> {
        let answers = self.tell_each(&vec![Order::Usage; self.nodes.len()])?;
        let mut sum = Usage::default();
        for answer in answers {
            let Answer::Usage(usage) = answer else {
                bail!("a node did not say what it used");
            };
            sum = sum.plus(usage);
        }
        Ok(sum)
    }

    /// Whether every replica has applied the same commands, each acknowledged one exactly once
    /// and in order. Gives how many commands that are.
    pub(crate) fn check(&mut self, unknown: u64) -> Result<u64> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let answers = self.tell_each(&vec![Order::Check; self.nodes.len()])?;
            let mut checked = Vec::new();
            for answer in answers {
                let Answer::Checked(groups) = answer else {
                    bail!("a node did not say what it applied");
                };
                checked.push(groups);
            }
            match verdict(&checked, unknown) {
                Ok(commands) => return Ok(commands),
                Err(error) if Instant::now() > deadline => return Err(error),
                // Followers hear of the last commit with the next heartbeat.
                Err(_) => std::thread::sleep(Duration::from_millis(50)),
            }
        }
    }
}

/// The processor of each core of a node.
fn pins(node: u64, cores: u16) -> Vec<usize> {
    let (node, cores) = (node as usize - 1, usize::from(cores));
    let processors = (0..cores).map(|core| placement::processor_of(node, core, cores));
    processors.collect::<Option<_>>().unwrap_or_default()
}

/// Compares the replicas: the first node has the clients.
fn verdict(nodes: &[Vec<(Applied, u64)>], unknown: u64) -> Result<u64> {
    let mut commands = 0;
    let mut excess = 0;
    for (group, (leader, acknowledged)) in (1..).zip(&nodes[0]) {
        for (node, replica) in (1..).zip(nodes) {
            let (applied, _) = &replica[group - 1];
            ensure!(
                applied == leader,
                "group {group}: node {node} has applied {applied:?}, node 1 {leader:?}"
            );
        }
        ensure!(
            leader.misplaced == 0,
            "group {group}: {} commands were applied twice or out of order",
            leader.misplaced
        );
        ensure!(
            leader.commands >= *acknowledged,
            "group {group}: {acknowledged} commands were acknowledged and {} applied",
            leader.commands
        );
        excess += leader.commands - acknowledged;
        commands += leader.commands;
    }
    ensure!(
        excess <= unknown,
        "{excess} commands were applied without an acknowledgement, {unknown} were unknown"
    );
    Ok(commands)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn applied(commands: u64) -> Applied {
        Applied {
            commands,
            last: commands,
            misplaced: 0,
            checksum: commands * 7,
            last_index: commands + 1,
        }
    }

    #[test]
    fn equal_replicas_with_every_acknowledged_command_pass() {
        let node = vec![(applied(3), 3), (applied(4), 3)];
        let nodes = vec![node.clone(), node.clone(), node];
        assert_eq!(verdict(&nodes, 1).unwrap(), 7);
        assert!(verdict(&nodes, 0).is_err(), "one was never acknowledged");
    }

    #[test]
    fn a_lost_a_doubled_and_a_different_command_are_found() {
        let good = vec![(applied(3), 3)];
        let lost = vec![vec![(applied(2), 3)], vec![(applied(2), 0)]];
        assert!(verdict(&lost, 5).is_err());
        let mut twice = good.clone();
        twice[0].0.misplaced = 1;
        assert!(verdict(&[twice.clone(), twice], 5).is_err());
        let mut different = good.clone();
        different[0].0.checksum += 1;
        assert!(verdict(&[good, different], 5).is_err());
    }
}

//! The nodes under load, each in a process of its own, as their parent sees them.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};

use crate::child::Child;
use crate::data::DataDirectory;
use crate::histogram::Buckets;
use crate::load::{Load, Loaded};
use crate::machine::Applied;
use crate::placement;
use crate::requests::{ChildReply, ChildRequest, Host, Setup};
use crate::usage::Usage;

const PATIENCE: Duration = Duration::from_secs(120);

/// Settings common to all nodes of a cluster.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) nodes: u64,
    pub(crate) cores: u16,
    pub(crate) host: Host,
    pub(crate) spin_us: u64,
    pub(crate) groups: u64,
}

/// Running nodes; the first one leads every group. Dropping the cluster kills them.
pub(crate) struct Cluster {
    nodes: Vec<Child>,
}

impl Cluster {
    /// Starts the nodes with empty data, creates the groups, and makes the first node their leader.
    ///
    /// # Errors
    /// When a node can't start, or does not lead in time.
    pub(crate) fn start(data: &DataDirectory, name: &str, shape: Shape) -> Result<Self> {
        let mut nodes = Vec::new();
        let mut addresses = BTreeMap::new();
        for node in 1..=shape.nodes {
            let mut child = Child::spawn("node", format!("node {node}"))?;
            let ChildReply::Listening(address) = child.ask(&ChildRequest::Listen, PATIENCE)? else {
                bail!("node {node} did not say where it listens");
            };
            addresses.insert(node, address);
            nodes.push(child);
        }
        let mut cluster = Self { nodes };
        let mut requests = Vec::new();
        for node in 1..=shape.nodes {
            let peers = addresses.iter().filter(|(peer, _)| **peer != node);
            requests.push(ChildRequest::Start(Setup {
                node,
                data: data.subdirectory(&format!("{name}-{node}"))?,
                peers: peers.map(|(peer, address)| (*peer, *address)).collect(),
                cores: shape.cores,
                host: shape.host,
                spin_us: shape.spin_us,
                pin: pins(node, shape.cores),
            }));
        }
        cluster.ask_each(&requests)?;
        let create = ChildRequest::Create {
            groups: shape.groups,
            members: (1..=shape.nodes).collect(),
        };
        cluster.ask_each(&vec![create; cluster.nodes.len()])?;
        let _: ChildReply = cluster.nodes[0].ask(&ChildRequest::Lead, PATIENCE)?;
        Ok(cluster)
    }

    /// Sends each node its request, then waits for all replies.
    fn ask_each(&mut self, requests: &[ChildRequest]) -> Result<Vec<ChildReply>> {
        for (node, request) in self.nodes.iter_mut().zip(requests) {
            node.send(request)?;
        }
        let replies = self.nodes.iter_mut().map(|node| node.receive(PATIENCE));
        replies.collect()
    }

    /// Runs a load in the leader's process.
    ///
    /// # Errors
    /// When the leader's process fails.
    pub(crate) fn load(&mut self, load: &Load) -> Result<Loaded> {
        match self.nodes[0].ask(&ChildRequest::Load(load.clone()), PATIENCE)? {
            ChildReply::Loaded(loaded) => Ok(loaded),
            other => bail!("the leader answered {other:?}"),
        }
    }

    /// Runs a load beside a 1 kHz timer on the leader's executor. Also gives the ticks' lateness.
    ///
    /// # Errors
    /// When the leader's process fails, or its core 0 is not run by glommio.
    pub(crate) fn load_beside_timer(&mut self, load: &Load) -> Result<(Loaded, Buckets)> {
        match self.nodes[0].ask(&ChildRequest::LoadBesideTimer(load.clone()), PATIENCE)? {
            ChildReply::LoadedBesideTimer(loaded, lateness) => Ok((loaded, lateness)),
            other => bail!("the leader answered {other:?}"),
        }
    }

    /// The sum of what all nodes have used since they started.
    ///
    /// # Errors
    /// When a node's process fails.
    pub(crate) fn usage(&mut self) -> Result<Usage> {
        let replies = self.ask_each(&vec![ChildRequest::Usage; self.nodes.len()])?;
        let mut sum = Usage::default();
        for reply in replies {
            let ChildReply::Usage(usage) = reply else {
                bail!("a node did not say what it used");
            };
            sum = sum.plus(usage);
        }
        Ok(sum)
    }

    /// Checks that all replicas have applied the same commands, and each acknowledged one exactly
    /// once and in order. Gives their number.
    ///
    /// # Errors
    /// When they still differ after two minutes, or more commands were applied without an
    /// acknowledgement than the outcomes reported as `unknown` explain.
    pub(crate) fn check(&mut self, unknown: u64) -> Result<u64> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let replies = self.ask_each(&vec![ChildRequest::Check; self.nodes.len()])?;
            let mut checked = Vec::new();
            for reply in replies {
                let ChildReply::Checked(groups) = reply else {
                    bail!("a node did not say what it applied");
                };
                checked.push(groups);
            }
            match verdict(&checked, unknown) {
                Ok(commands) => return Ok(commands),
                Err(error) if Instant::now() > deadline => return Err(error),
                // Followers learn the last commit index with the next heartbeat.
                Err(_) => std::thread::sleep(Duration::from_millis(50)),
            }
        }
    }
}

/// The CPU of each core of a node; empty where there are too few to choose from.
fn pins(node: u64, cores: u16) -> Vec<usize> {
    let (node, cores) = (node as usize - 1, usize::from(cores));
    let processors = (0..cores).map(|core| placement::processor_of(node, core, cores));
    processors.collect::<Option<_>>().unwrap_or_default()
}

/// Compares the replicas. Only the first node knows how many commands were acknowledged.
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

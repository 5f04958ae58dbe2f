//! The nodes under load, each in a process of its own, as their parent sees them.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};

use crate::child::Child;
use crate::data::DataDirectory;
use crate::histogram::Buckets;
use crate::link::Link;
use crate::load::{Load, Loaded};
use crate::machine::{Applied, Kind};
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
    /// What each was started with, to start it again.
    setups: Vec<Setup>,
}

/// Groups and where they are.
#[derive(Clone, Debug)]
pub(crate) struct Groups {
    /// The first one's id; the others follow it.
    pub(crate) first: u64,
    pub(crate) count: u64,
    pub(crate) members: Vec<u64>,
    pub(crate) kind: Kind,
}

impl Cluster {
    /// Starts the nodes with empty data, creates the groups, and makes the first node their leader.
    ///
    /// # Errors
    /// When a node can't start, or does not lead in time.
    pub(crate) fn start(data: &DataDirectory, name: &str, shape: Shape) -> Result<Self> {
        let mut cluster = Self::start_bare(data, name, shape)?;
        cluster.create(&Groups {
            first: 1,
            count: shape.groups,
            members: (1..=shape.nodes).collect(),
            kind: Kind::Releasing,
        })?;
        cluster.lead()?;
        Ok(cluster)
    }

    /// Starts the nodes with the data of that name, of an earlier cluster or empty.
    ///
    /// # Errors
    /// When a node can't start.
    pub(crate) fn start_bare(data: &DataDirectory, name: &str, shape: Shape) -> Result<Self> {
        let (nodes, addresses) = spawn(shape.nodes)?;
        Self::launch(data, name, shape, nodes, &addresses, None)
    }

    /// The same with the last node behind a link.
    ///
    /// # Errors
    /// When a node can't start, or the link can't be laid.
    pub(crate) fn start_linked(
        data: &DataDirectory,
        name: &str,
        shape: Shape,
    ) -> Result<(Self, Link)> {
        let (nodes, addresses) = spawn(shape.nodes)?;
        let link = Link::around(shape.nodes, &addresses)?;
        let cluster = Self::launch(data, name, shape, nodes, &addresses, Some(&link))?;
        Ok((cluster, link))
    }

    fn launch(
        data: &DataDirectory,
        name: &str,
        shape: Shape,
        nodes: Vec<Child>,
        addresses: &BTreeMap<u64, SocketAddr>,
        link: Option<&Link>,
    ) -> Result<Self> {
        let mut setups = Vec::new();
        for node in 1..=shape.nodes {
            let peers = addresses.iter().filter(|(peer, _)| **peer != node);
            let route = |(&peer, &address): (&u64, &SocketAddr)| {
                let linked = link.and_then(|link| link.address(node, peer));
                (peer, linked.unwrap_or(address))
            };
            setups.push(Setup {
                node,
                data: data.subdirectory(&format!("{name}-{node}"))?,
                peers: peers.map(route).collect(),
                cores: shape.cores,
                host: shape.host,
                spin_us: shape.spin_us,
                pin: pins(node, shape.cores),
            });
        }
        let requests: Vec<_> = setups.iter().cloned().map(ChildRequest::Start).collect();
        let mut cluster = Self { nodes, setups };
        cluster.ask_each(&requests)?;
        Ok(cluster)
    }

    /// Creates groups on their members.
    ///
    /// # Errors
    /// When a member refuses.
    pub(crate) fn create(&mut self, groups: &Groups) -> Result<()> {
        let create = ChildRequest::Create {
            first: groups.first,
            count: groups.count,
            members: groups.members.clone(),
            kind: groups.kind,
        };
        for &member in &groups.members {
            self.node(member).send(&create)?;
        }
        for &member in &groups.members {
            let _: ChildReply = self.node(member).receive(PATIENCE)?;
        }
        Ok(())
    }

    /// Makes the first node the leader of all its groups.
    ///
    /// # Errors
    /// When it does not lead in time.
    pub(crate) fn lead(&mut self) -> Result<()> {
        let _: ChildReply = self.nodes[0].ask(&ChildRequest::Campaign, PATIENCE)?;
        self.await_leaders()?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            // Another node may have been elected first, where making the groups took long, or hand
            // over to another than this one.
            for node in &mut self.nodes[1..] {
                let _: ChildReply = node.ask(&ChildRequest::HandOver { to: 1 }, PATIENCE)?;
            }
            match self.nodes[0].ask(&ChildRequest::Lead, PATIENCE)? {
                ChildReply::Leads(true) => return Ok(()),
                _ if Instant::now() > deadline => {
                    bail!("node 1 does not lead all groups after {PATIENCE:?}")
                }
                _ => {}
            }
        }
    }

    /// Tells a node that was started again which groups it has.
    ///
    /// # Errors
    /// When its process fails.
    pub(crate) fn adopt(&mut self, node: u64, count: u64) -> Result<()> {
        let _: ChildReply = self
            .node(node)
            .ask(&ChildRequest::Adopt { count }, PATIENCE)?;
        Ok(())
    }

    /// Tells all nodes.
    ///
    /// # Errors
    /// When a node's process fails.
    pub(crate) fn adopt_all(&mut self, count: u64) -> Result<()> {
        self.ask_each(&vec![ChildRequest::Adopt { count }; self.nodes.len()])?;
        Ok(())
    }

    /// Waits until each node knows a leader of all its groups and has applied their logs.
    ///
    /// # Errors
    /// When a group is not there in time.
    pub(crate) fn await_leaders(&mut self) -> Result<()> {
        self.ask_each(&vec![ChildRequest::AwaitLeaders; self.nodes.len()])?;
        Ok(())
    }

    /// Proposes this many commands in each group.
    ///
    /// # Errors
    /// When one is refused or its outcome unknown.
    pub(crate) fn fill(&mut self, entries: u64) -> Result<()> {
        let _: ChildReply = self.nodes[0].ask(&ChildRequest::Fill { entries }, PATIENCE)?;
        Ok(())
    }

    fn node(&mut self, node: u64) -> &mut Child {
        let position = usize::try_from(node).expect("few nodes") - 1;
        &mut self.nodes[position]
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
        match self.nodes[0].ask(&ChildRequest::Load(load.clone()), patience(load))? {
            ChildReply::Loaded(loaded) => Ok(loaded),
            other => bail!("the leader answered {other:?}"),
        }
    }

    /// Runs a load beside 1 kHz timers on the leader's executors. Also gives the ticks' lateness.
    ///
    /// # Errors
    /// When the leader's process fails, or its host is not glommio.
    pub(crate) fn load_beside_timer(&mut self, load: &Load) -> Result<(Loaded, Buckets)> {
        match self.nodes[0].ask(&ChildRequest::LoadBesideTimer(load.clone()), patience(load))? {
            ChildReply::LoadedBesideTimer(loaded, lateness) => Ok((loaded, lateness)),
            other => bail!("the leader answered {other:?}"),
        }
    }

    /// Starts loads side by side in the leader's process, in the order of their groups, and comes
    /// back at once.
    ///
    /// # Errors
    /// When the leader's process fails.
    pub(crate) fn start_loads(&mut self, loads: &[Load]) -> Result<()> {
        let _: ChildReply =
            self.nodes[0].ask(&ChildRequest::StartLoads(loads.to_vec()), PATIENCE)?;
        Ok(())
    }

    /// Waits for the end of these loads, which is now if `now` says so.
    ///
    /// # Errors
    /// When the leader's process fails.
    pub(crate) fn finish_loads(&mut self, now: bool) -> Result<Vec<Loaded>> {
        match self.nodes[0].ask(&ChildRequest::FinishLoads { now }, PATIENCE)? {
            ChildReply::LoadsFinished(loaded) => Ok(loaded),
            other => bail!("the leader answered {other:?}"),
        }
    }

    /// The index of the last command that a node has applied in each of its groups.
    ///
    /// # Errors
    /// When its process fails.
    pub(crate) fn progress(&mut self, node: u64) -> Result<Vec<u64>> {
        match self.node(node).ask(&ChildRequest::Progress, PATIENCE)? {
            ChildReply::Progress(indexes) => Ok(indexes),
            other => bail!("node {node} answered {other:?}"),
        }
    }

    /// Kills a node.
    pub(crate) fn kill(&mut self, node: u64) {
        self.node(node).kill();
    }

    /// Starts the killed node behind the link again, with its data.
    ///
    /// # Errors
    /// When it can't start.
    pub(crate) fn restart(&mut self, node: u64, link: &Link) -> Result<()> {
        let (child, address) = spawn_node(node)?;
        *self.node(node) = child;
        link.node_moved(address);
        let setup = self.setups[usize::try_from(node)? - 1].clone();
        let _: ChildReply = self.node(node).ask(&ChildRequest::Start(setup), PATIENCE)?;
        Ok(())
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

/// Starts the nodes' processes. Also gives where they listen.
fn spawn(count: u64) -> Result<(Vec<Child>, BTreeMap<u64, SocketAddr>)> {
    let (mut nodes, mut addresses) = (Vec::new(), BTreeMap::new());
    for node in 1..=count {
        let (child, address) = spawn_node(node)?;
        addresses.insert(node, address);
        nodes.push(child);
    }
    Ok((nodes, addresses))
}

fn spawn_node(node: u64) -> Result<(Child, SocketAddr)> {
    let mut child = Child::spawn("node", format!("node {node}"))?;
    let ChildReply::Listening(address) = child.ask(&ChildRequest::Listen, PATIENCE)? else {
        bail!("node {node} did not say where it listens");
    };
    Ok((child, address))
}

fn patience(load: &Load) -> Duration {
    PATIENCE + Duration::from_secs_f64(load.warmup_seconds + load.seconds)
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
        // Groups that are not on every node come last.
        let replicas = (1..).zip(nodes).filter_map(|(node, replica)| {
            let (applied, _) = replica.get(group - 1)?;
            Some((node, applied))
        });
        for (node, applied) in replicas {
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

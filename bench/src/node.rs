//! A node of the loads: a process of its own, told what to do over its standard input.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use pontoon::{Config, GroupId, HostKind, Node, NodeId};
use serde::{Deserialize, Serialize};

use crate::child;
use crate::load::{self, Line, Load, Loaded};
use crate::machine::{Applied, Ledger};
use crate::usage::Usage;

const CLUSTER: u128 = 0xbe4c;
const PATIENCE: Duration = Duration::from_secs(30);

/// Who runs the cores.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Host {
    /// A plain thread.
    Thread,
    /// A glommio executor.
    Glommio,
}

/// How a node is to run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Setup {
    pub(crate) node: u64,
    pub(crate) data: PathBuf,
    pub(crate) peers: BTreeMap<u64, SocketAddr>,
    pub(crate) cores: u16,
    pub(crate) host: Host,
    pub(crate) spin_us: u64,
    /// The processor of each core, or none.
    pub(crate) pin: Vec<usize>,
}

/// What a node is told.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Order {
    /// Listen on a free port.
    Listen,
    /// Start.
    Start(Setup),
    /// Make groups 1 to `groups`, each with these members.
    Create { groups: u64, members: Vec<u64> },
    /// Lead all of them.
    Lead,
    /// Run a load, on the node that leads.
    Load(Load),
    /// Run a load with a 1 kHz timer beside it, on a glommio executor.
    LoadBesideTimer(Load),
    /// What was used so far.
    Usage,
    /// What groups 1 to `groups` have applied.
    Check,
}

/// What it answers.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Answer {
    Listening(SocketAddr),
    Done,
    Loaded(Loaded),
    /// The load, and how late each tick of the timer came.
    LoadedBesideTimer(Loaded, crate::histogram::Buckets),
    Usage(Usage),
    /// By group from 1: what was applied, and how many were acknowledged here.
    Checked(Vec<(Applied, u64)>),
}

/// Answers orders until the parent is gone.
pub(crate) fn serve() -> Result<()> {
    let mut server = Server::default();
    child::answer_orders(|order| server.answer(order))
}

#[derive(Default)]
struct Server {
    listener: Option<TcpListener>,
    node: Option<Node>,
    ledger: Ledger,
    lines: Vec<Line>,
}

impl Server {
    fn answer(&mut self, order: Order) -> Result<Answer> {
        match order {
            Order::Listen => {
                let listener = TcpListener::bind("127.0.0.1:0")?;
                let address = listener.local_addr()?;
                self.listener = Some(listener);
                return Ok(Answer::Listening(address));
            }
            Order::Start(setup) => self.start(setup)?,
            Order::Create { groups, members } => self.create(groups, &members)?,
            Order::Lead => self.lead()?,
            Order::Load(load) => return Ok(Answer::Loaded(load::run(&load, &mut self.lines)?)),
            Order::LoadBesideTimer(load) => return self.load_beside_timer(&load),
            Order::Usage => return Ok(Answer::Usage(Usage::now(self.node()?)?)),
            Order::Check => return Ok(Answer::Checked(self.check())),
        }
        Ok(Answer::Done)
    }

    fn node(&self) -> Result<&Node> {
        self.node.as_ref().context("the node was not started")
    }

    fn start(&mut self, setup: Setup) -> Result<()> {
        let listener = self.listener.take().context("listen first")?;
        let address = listener.local_addr()?;
        let mut config = Config::new(setup.node, CLUSTER, &setup.data, address).cores(setup.cores);
        for (peer, address) in setup.peers {
            config = config.peer(peer, address);
        }
        config.spin = Duration::from_micros(setup.spin_us);
        config.pin = setup.pin;
        config.host = match setup.host {
            Host::Thread => HostKind::Thread,
            Host::Glommio => HostKind::Glommio,
        };
        self.node = Some(Node::start_on(listener, config, self.ledger.machines())?);
        Ok(())
    }

    fn create(&mut self, groups: u64, members: &[u64]) -> Result<()> {
        let members: Vec<_> = members.iter().copied().map(NodeId).collect();
        for group in 1..=groups {
            let group = self
                .node()?
                .create_group(GroupId(group), "bench", &members)?;
            self.lines.push(Line {
                group,
                proposed: 0,
                acknowledged: 0,
            });
        }
        Ok(())
    }

    /// Campaigns until this node leads every group; its connections may be a moment away.
    fn lead(&self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        for line in &self.lines {
            let mut campaigned = Instant::now() - PATIENCE;
            loop {
                let status = line.group.status().wait().flatten();
                let raft = status.context("the group is gone")?.raft;
                if raft.leader == Some(raft.id) && raft.commit_index == raft.last_index {
                    break;
                }
                if Instant::now() > deadline {
                    bail!("group {} did not get a leader", line.group.id());
                }
                let elsewhere = raft.leader.is_none_or(|leader| leader != raft.id);
                if elsewhere && campaigned.elapsed() > Duration::from_millis(200) {
                    campaigned = Instant::now();
                    line.group.campaign();
                }
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        Ok(())
    }

    fn load_beside_timer(&mut self, load: &Load) -> Result<Answer> {
        let lateness = crate::hosts::start_timer(self.node()?)?;
        let loaded = load::run(load, &mut self.lines)?;
        Ok(Answer::LoadedBesideTimer(loaded, lateness.stop()?))
    }

    fn check(&self) -> Vec<(Applied, u64)> {
        let lines = self.lines.iter();
        let seen = lines.map(|line| (self.ledger.of(line.group.id().0), line.acknowledged));
        seen.collect()
    }
}

//! The process of one node: it serves the requests of the benchmark over its standard input.

use std::net::TcpListener;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use pontoon::{Config, GroupId, HostKind, Node, NodeId, TransferError};

use crate::background::Background;
use crate::child;
use crate::load::{self, GroupClient, Load, Loaded};
use crate::machine::{Applied, Kind, Ledger};
use crate::requests::{ChildReply, ChildRequest, Host, Setup};
use crate::timer::Timers;
use crate::usage::Usage;

const CLUSTER: u128 = 0xbe4c;
const PATIENCE: Duration = Duration::from_secs(30);

/// After this whoever leads is asked once more.
const HAND_OVER_PATIENCE: Duration = Duration::from_secs(3);

/// Threads that create groups: each waits for one durable write after the other.
const CREATING_THREADS: usize = 16;

/// Serves requests until the parent is gone.
///
/// # Errors
/// When standard input or output fails; a failed request is reported to the parent instead.
pub(crate) fn serve() -> Result<()> {
    let mut server = Server::default();
    child::serve_requests(|request| server.serve(request))
}

#[derive(Default)]
struct Server {
    listener: Option<TcpListener>,
    node: Option<Node>,
    cores: u16,
    ledger: Ledger,
    /// Of all groups, in order; empty while loads run in the background.
    clients: Vec<GroupClient>,
    /// Ids of all groups, in order.
    groups: Vec<u64>,
    background: Background,
}

impl Server {
    fn serve(&mut self, request: ChildRequest) -> Result<ChildReply> {
        match request {
            ChildRequest::Listen => {
                let listener = TcpListener::bind("127.0.0.1:0")?;
                let address = listener.local_addr()?;
                self.listener = Some(listener);
                return Ok(ChildReply::Listening(address));
            }
            ChildRequest::Start(setup) => self.start(setup)?,
            ChildRequest::Create {
                first,
                count,
                members,
                kind,
            } => self.create(first, count, &members, kind)?,
            ChildRequest::Adopt { count } => self.adopt(1, count)?,
            ChildRequest::Campaign => {
                self.clients.iter().for_each(|it| drop(it.group.campaign()));
            }
            ChildRequest::HandOver { to } => self.hand_over(NodeId(to))?,
            ChildRequest::Lead => return Ok(ChildReply::Leads(self.lead()?)),
            ChildRequest::AwaitLeaders => self.await_leaders()?,
            ChildRequest::Fill { entries } => load::fill(&mut self.clients, entries)?,
            ChildRequest::Load(load) => return Ok(ChildReply::Loaded(self.load(&load)?)),
            ChildRequest::LoadBesideTimer(load) => return self.load_beside_timer(&load),
            ChildRequest::StartLoads(loads) => {
                let clients = std::mem::take(&mut self.clients);
                self.background.start(loads, clients)?;
            }
            ChildRequest::FinishLoads { now } => {
                let (loaded, clients) = self.background.finish(now)?;
                self.clients = clients;
                return Ok(ChildReply::LoadsFinished(loaded));
            }
            ChildRequest::Progress => return Ok(ChildReply::Progress(self.progress())),
            ChildRequest::Usage => return Ok(ChildReply::Usage(Usage::now(self.node()?)?)),
            ChildRequest::Check => return Ok(ChildReply::Checked(self.check())),
        }
        Ok(ChildReply::Done)
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
        self.cores = setup.cores;
        config.host = match setup.host {
            Host::Thread => HostKind::Thread,
            Host::Glommio => HostKind::Glommio,
        };
        self.node = Some(Node::start_on(listener, config, self.ledger.machines())?);
        Ok(())
    }

    /// Creates groups in several threads, which share durable writes.
    fn create(&mut self, first: u64, count: u64, members: &[u64], kind: Kind) -> Result<()> {
        let node = self.node()?;
        let members: Vec<_> = members.iter().copied().map(NodeId).collect();
        let create_every = |offset: u64| -> Result<()> {
            for group in (first + offset..first + count).step_by(CREATING_THREADS) {
                node.create_group(GroupId(group), kind.name(), &members)
                    .wait()?;
            }
            Ok(())
        };
        std::thread::scope(|scope| {
            let offsets = 0..CREATING_THREADS as u64;
            let threads: Vec<_> = offsets
                .map(|offset| scope.spawn(move || create_every(offset)))
                .collect();
            let mut ends = threads.into_iter().map(|thread| thread.join());
            ends.try_for_each(|end| end.expect("creating a group does not panic"))
        })?;
        self.adopt(first, count)
    }

    fn adopt(&mut self, first: u64, count: u64) -> Result<()> {
        for group in first..first + count {
            let group = self.node()?.group(GroupId(group));
            self.groups.push(group.id().0);
            self.clients.push(GroupClient {
                group,
                proposed: 0,
                acknowledged: 0,
            });
        }
        Ok(())
    }

    fn load(&mut self, load: &Load) -> Result<Loaded> {
        let range = load.range(self.clients.len())?;
        let cut = AtomicBool::new(false);
        Ok(load::run(load, &mut self.clients[range], &cut))
    }

    /// Waits a while until this node leads every group; campaigns where a hand-over did not come
    /// off, which is in vain as long as another leader is heard. Gives whether it leads all.
    fn lead(&self) -> Result<bool> {
        let begun = Instant::now();
        let deadline = begun + HAND_OVER_PATIENCE;
        for client in &self.clients {
            let mut campaigned = begun;
            loop {
                let status = client.group.status().wait();
                let raft = status.context("the group is gone")?.raft;
                if raft.leader == Some(raft.id) && raft.commit_index == raft.last_index {
                    break;
                }
                if Instant::now() > deadline {
                    return Ok(false);
                }
                let elsewhere = raft.leader.is_none_or(|leader| leader != raft.id);
                if elsewhere && campaigned.elapsed() > Duration::from_millis(200) {
                    campaigned = Instant::now();
                    drop(client.group.campaign());
                }
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        Ok(true)
    }

    fn hand_over(&self, to: NodeId) -> Result<()> {
        for client in &self.clients {
            match client.group.transfer_leadership(to).wait() {
                // Whoever is to lead campaigns where this does not come off.
                Ok(()) | Err(TransferError::Rejected(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn await_leaders(&self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        for client in &self.clients {
            loop {
                let status = client.group.status().wait();
                let raft = status.context("the group is gone")?.raft;
                if raft.leader.is_some() && raft.last_applied == raft.last_index {
                    break;
                }
                if Instant::now() > deadline {
                    bail!(
                        "group {} is not led and applied: {raft:?}",
                        client.group.id()
                    );
                }
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        Ok(())
    }

    fn load_beside_timer(&mut self, load: &Load) -> Result<ChildReply> {
        let timers = Timers::start(self.node()?, self.cores)?;
        let loaded = self.load(load)?;
        Ok(ChildReply::LoadedBesideTimer(loaded, timers.stop()?))
    }

    fn progress(&self) -> Vec<u64> {
        let groups = self.groups.iter();
        groups
            .map(|group| self.ledger.of(*group).last_index)
            .collect()
    }

    fn check(&self) -> Vec<(Applied, u64)> {
        let clients = self.clients.iter();
        let seen = clients.map(|client| (self.ledger.of(client.group.id().0), client.acknowledged));
        seen.collect()
    }
}

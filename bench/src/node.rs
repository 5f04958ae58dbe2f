//! The process of one node: it serves the requests of the benchmark over its standard input.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use pontoon::{Config, GroupId, HostKind, Node, NodeId};

use crate::child;
use crate::load::{self, GroupClient, Load};
use crate::machine::{Applied, Ledger};
use crate::requests::{ChildReply, ChildRequest, Host, Setup};
use crate::timer::Timer;
use crate::usage::Usage;

const CLUSTER: u128 = 0xbe4c;
const PATIENCE: Duration = Duration::from_secs(30);

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
    ledger: Ledger,
    clients: Vec<GroupClient>,
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
            ChildRequest::Create { groups, members } => self.create(groups, &members)?,
            ChildRequest::Lead => self.lead()?,
            ChildRequest::Load(load) => {
                return Ok(ChildReply::Loaded(load::run(&load, &mut self.clients)?));
            }
            ChildRequest::LoadBesideTimer(load) => return self.load_beside_timer(&load),
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
            self.clients.push(GroupClient {
                group,
                proposed: 0,
                acknowledged: 0,
            });
        }
        Ok(())
    }

    /// Campaigns until this node leads every group; its connections may not be up yet.
    fn lead(&self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        for client in &self.clients {
            let mut campaigned = Instant::now() - PATIENCE;
            loop {
                let status = client.group.status().wait();
                let raft = status.context("the group is gone")?.raft;
                if raft.leader == Some(raft.id) && raft.commit_index == raft.last_index {
                    break;
                }
                if Instant::now() > deadline {
                    bail!("group {} did not get a leader", client.group.id());
                }
                let elsewhere = raft.leader.is_none_or(|leader| leader != raft.id);
                if elsewhere && campaigned.elapsed() > Duration::from_millis(200) {
                    campaigned = Instant::now();
                    client.group.campaign();
                }
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        Ok(())
    }

    fn load_beside_timer(&mut self, load: &Load) -> Result<ChildReply> {
        let timer = Timer::start(self.node()?)?;
        let loaded = load::run(load, &mut self.clients)?;
        Ok(ChildReply::LoadedBesideTimer(loaded, timer.stop()?))
    }

    fn check(&self) -> Vec<(Applied, u64)> {
        let clients = self.clients.iter();
        let seen = clients.map(|client| (self.ledger.of(client.group.id().0), client.acknowledged));
        seen.collect()
    }
}

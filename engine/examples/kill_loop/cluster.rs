//! The three processes as their parent sees them: started, killed, started again.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, SocketAddrV4};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use crate::Result;

/// Something a node said.
pub(crate) enum Said {
    Line(String),
    /// It has opened its groups, and takes requests from now on.
    Ready,
    /// Its process has ended.
    Ended,
}

/// What a node said, and in which of its lives.
struct Event {
    node: u64,
    life: u64,
    said: Said,
}

/// The nodes. Dropping this kills them.
pub(crate) struct Cluster {
    data: PathBuf,
    addresses: BTreeMap<u64, SocketAddr>,
    /// Keep the ports of nodes that are down from everybody else.
    _reserved: Vec<OwnedFd>,
    running: BTreeMap<u64, Process>,
    lives: u64,
    events: Receiver<Event>,
    speaker: Sender<Event>,
}

struct Process {
    child: Child,
    input: ChildStdin,
    life: u64,
    /// It has said so.
    is_ready: bool,
}

impl Cluster {
    /// Starts nodes 1 to `nodes` with their data below `data`.
    pub(crate) fn start(data: PathBuf, nodes: u64) -> Result<Self> {
        let (mut addresses, mut reserved) = (BTreeMap::new(), Vec::new());
        for node in 1..=nodes {
            let (socket, address) = reserve_port()?;
            addresses.insert(node, address);
            reserved.push(socket);
        }
        let (speaker, events) = channel();
        let mut cluster = Self {
            data,
            addresses,
            _reserved: reserved,
            running: BTreeMap::new(),
            lives: 0,
            events,
            speaker,
        };
        for node in 1..=nodes {
            cluster.start_node(node)?;
        }
        Ok(cluster)
    }

    /// Starts a node that does not run, with the data it has.
    pub(crate) fn start_node(&mut self, node: u64) -> Result<()> {
        let peers = self.addresses.iter().filter(|(peer, _)| **peer != node);
        let mut child = Command::new(std::env::current_exe()?)
            .args([
                "node",
                &node.to_string(),
                &self.addresses[&node].to_string(),
            ])
            .arg(self.data.join(node.to_string()))
            .args(peers.map(|(peer, address)| format!("{peer}={address}")))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let input = child.stdin.take().expect("it was asked to be a pipe");
        let output = child.stdout.take().expect("it was asked to be a pipe");
        self.lives += 1;
        let (life, speaker) = (self.lives, self.speaker.clone());
        std::thread::spawn(move || {
            let lines = BufReader::new(output).lines().map_while(|line| line.ok());
            let lines = lines.map(|line| match line.as_str() {
                "ready" => Said::Ready,
                _ => Said::Line(line),
            });
            for said in lines.chain([Said::Ended]) {
                if speaker.send(Event { node, life, said }).is_err() {
                    return;
                }
            }
        });
        let process = Process {
            child,
            input,
            life,
            is_ready: false,
        };
        self.running.insert(node, process);
        Ok(())
    }

    /// Kills a node with SIGKILL. What it said before and was not heard yet is lost.
    pub(crate) fn kill(&mut self, node: u64) -> Result<()> {
        if let Some(mut process) = self.running.remove(&node) {
            process.child.kill()?;
            process.child.wait()?;
        }
        Ok(())
    }

    /// Sends a line; false if the node does not run, or is not ready.
    pub(crate) fn send(&mut self, node: u64, line: &str) -> bool {
        match self.running.get_mut(&node) {
            Some(process) if process.is_ready => writeln!(process.input, "{line}").is_ok(),
            _ => false,
        }
    }

    /// The nodes in order.
    pub(crate) fn nodes(&self) -> impl Iterator<Item = u64> + use<> {
        1..=self.addresses.len() as u64
    }

    /// What a running node says next; `None` if none does before `limit`.
    pub(crate) fn next(&mut self, limit: Instant) -> Option<(u64, Said)> {
        loop {
            let left = limit.saturating_duration_since(Instant::now());
            let event = match self.events.recv_timeout(left) {
                Ok(event) => event,
                Err(RecvTimeoutError::Timeout) => return None,
                Err(RecvTimeoutError::Disconnected) => unreachable!("the cluster has a sender"),
            };
            let Some(process) = self.running.get_mut(&event.node) else {
                continue;
            };
            match event.said {
                _ if event.life != process.life => {}
                Said::Ready => {
                    process.is_ready = true;
                    return Some((event.node, Said::Ready));
                }
                said => return Some((event.node, said)),
            }
        }
    }

    /// Waits until every node has opened its groups.
    pub(crate) fn await_ready(&mut self, patience: Duration) -> Result<()> {
        let deadline = Instant::now() + patience;
        while self.running.values().any(|process| !process.is_ready) {
            if let Some((node, Said::Ended)) = self.next(deadline) {
                return Err(format!("node {node} ended at its start").into());
            }
            if Instant::now() > deadline {
                return Err(format!("a node was not ready after {patience:?}").into());
            }
        }
        Ok(())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for (_, mut process) in std::mem::take(&mut self.running) {
            let _ = process.child.kill();
            let _ = process.child.wait();
        }
    }
}

/// Binds a free port without listening: a node may listen on it, nobody else is given it.
fn reserve_port() -> Result<(OwnedFd, SocketAddr)> {
    use rustix::net::{AddressFamily, SocketType, bind, getsockname, socket, sockopt};
    let socket = socket(AddressFamily::INET, SocketType::STREAM, None)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    bind(&socket, &SocketAddrV4::new([127, 0, 0, 1].into(), 0))?;
    let address = SocketAddr::try_from(getsockname(&socket)?)?;
    Ok((socket, address))
}

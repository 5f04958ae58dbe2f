//! A node's process: it serves lines of its standard input until that ends, with its parent.

use std::io::{BufRead, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};

use pontoon::{Config, GroupId, Machines, Node, NodeId, Proposal, ProposeError, Rejection};

use crate::store::{Store, command};
use crate::{CLUSTER, GROUPS, Result};

/// The node and the ways to those who wait for its proposals, a thread for each group.
struct Server {
    node: Node,
    store: Arc<Store>,
    waiting: Vec<Sender<(u64, Proposal)>>,
}

/// Runs node `arguments[0]`, which listens on `[1]` and keeps its data in `[2]`; the others are
/// its peers, as `id=address`.
pub(crate) fn serve(arguments: &[String]) -> Result<()> {
    let [id, listen, data, peers @ ..] = arguments else {
        return Err("a node needs its id, address, data directory and peers".into());
    };
    let data = Path::new(data);
    std::fs::create_dir_all(data)?;
    let mut config = Config::new(id.parse()?, CLUSTER, &data.join("log"), listen.parse()?);
    let mut members = vec![NodeId(config.node)];
    for peer in peers {
        let (id, address) = peer.split_once('=').ok_or("a peer is id=address")?;
        let address: SocketAddr = address.parse()?;
        members.push(NodeId(id.parse()?));
        config = config.peer(id.parse()?, address);
    }
    members.sort_unstable();
    let store = Arc::new(Store::open(&data.join("store.redb"))?);
    let machine = Arc::clone(&store);
    let machines = Machines::new().register("store", move |group| machine.machine(group.0));
    let node = Node::start(config, machines)?;
    let mut waiting = Vec::new();
    for group in 1..=GROUPS {
        node.create_group(GroupId(group), "store", &members)
            .wait()?;
        let (sender, proposals) = channel();
        std::thread::spawn(move || proposals.into_iter().for_each(answer));
        waiting.push(sender);
    }
    say("ready");
    let server = Server {
        node,
        store,
        waiting,
    };
    for line in std::io::stdin().lock().lines() {
        server.serve_line(&line?)?;
    }
    // The parent is gone, perhaps killed: so does this one end, at once.
    std::process::exit(0)
}

impl Server {
    fn serve_line(&self, line: &str) -> Result<()> {
        let mut words = line.split(' ');
        match (words.next(), words.next()) {
            (Some("write"), Some(number)) => {
                let number: u64 = number.parse()?;
                let group = number % GROUPS;
                let proposal = self.node.group(GroupId(group + 1)).propose(command(number));
                // It lives as long as this process.
                let _ = self.waiting[usize::try_from(group)?].send((number, proposal));
            }
            (Some("status"), None) => {
                let durable = (1..=GROUPS).map(|group| self.store.durable(group).to_string());
                say(&format!("status {}", durable.collect::<Vec<_>>().join(" ")));
            }
            (Some("dump"), None) => {
                for group in 1..=GROUPS {
                    let holding = self.store.holding(group)?;
                    let ranges = holding.numbers.iter();
                    let ranges: Vec<_> = ranges.map(|(from, to)| format!("{from}-{to}")).collect();
                    say(&format!(
                        "holds {group} {} {} {}",
                        holding.applied,
                        holding.checksum,
                        ranges.join(" ")
                    ));
                }
            }
            _ => return Err(format!("no request: {line:?}").into()),
        }
        Ok(())
    }
}

/// Waits for the outcome of a write, and tells the parent.
fn answer((number, proposal): (u64, Proposal)) {
    match proposal.wait() {
        Ok(_) => say(&format!("applied {number}")),
        Err(ProposeError::Rejected(rejection)) => {
            let leader = match rejection {
                Rejection::NotLeader { leader } => leader.map_or(0, |leader| leader.0),
                _ => 0,
            };
            say(&format!("rejected {number} {leader}"));
        }
        Err(_) => say(&format!("unknown {number}")),
    }
}

/// Writes a line to the parent. Ends with it.
fn say(line: &str) {
    if writeln!(std::io::stdout().lock(), "{line}").is_err() {
        std::process::exit(0);
    }
}

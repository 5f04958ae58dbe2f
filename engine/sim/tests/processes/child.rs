//! The node's process: this test's program once more, in a namespace of its own.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{BufRead, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use pontoon::{
    Applied, Batch, Config, Event, Group, GroupId, HostKind, Machines, Node, NodeId, ProposeError,
    Rejection, StateMachine,
};
use serde::Serialize;

use crate::event::{Operation, Order, Outcome, Said, Summary};

/// The variable that makes the test `node_process` a node: its id, its directory, all addresses.
pub(crate) const VARIABLE: &str = "PONTOON_TEST_PROCESS";

/// What lines for the parent begin with; the test's harness prints others.
pub(crate) const MARK: &str = "PONTOON ";

const GROUP: GroupId = GroupId(1);

#[derive(Default)]
struct Registers {
    values: BTreeMap<u64, u64>,
    /// Index and number of every operation.
    entries: Vec<(u64, u64)>,
}

/// Registers that are built anew from the log at every start.
struct Machine {
    registers: Arc<Mutex<Registers>>,
}

impl StateMachine for Machine {
    fn apply(&mut self, batch: &mut Batch<'_>) {
        let mut registers = self.registers.lock().unwrap();
        while let Some(command) = batch.next() {
            let operation: Operation = serde_json::from_slice(command.payload).unwrap();
            if let Some(value) = operation.write {
                registers.values.insert(operation.key, value);
            }
            registers.entries.push((command.index.0, operation.number));
            let value = registers.values.get(&operation.key).copied();
            batch.reply(value.unwrap_or(0).to_le_bytes().to_vec());
        }
    }

    fn event(&mut self, event: Event) {
        match event {
            Event::BecameLeader { term } => tell(&Said::Leads { term: term.0 }),
            Event::StoppedLeading { .. } => tell(&Said::LeadsNoMore),
            _ => {}
        }
    }
}

pub(crate) fn serve_if_told() {
    let Ok(told) = std::env::var(VARIABLE) else {
        return;
    };
    // Also while it is stopped it ends with its parent.
    let signal = Some(rustix::process::Signal::KILL);
    rustix::process::set_parent_process_death_signal(signal).unwrap();
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .init();
    let registers = Arc::new(Mutex::new(Registers::default()));
    let machines = Machines::new().register("registers", {
        let registers = Arc::clone(&registers);
        move |_| {
            let registers = Arc::clone(&registers);
            Ok(Box::new(Machine { registers }))
        }
    });
    let (config, members) = configured(&told);
    let node = Node::start(config, machines).unwrap();
    let group = node
        .create_group(GROUP, "registers", &members)
        .wait()
        .unwrap();
    for line in std::io::stdin().lock().lines().map_while(Result::ok) {
        match serde_json::from_str(&line).unwrap() {
            Order::Propose(operation) => propose(&group, operation),
            Order::Summary => tell(&Said::Summary(summary(&node, &registers))),
            Order::Applied => {
                let entries = registers.lock().unwrap().entries.clone();
                tell(&Said::Applied(entries));
            }
        }
    }
}

fn configured(told: &str) -> (Config, Vec<NodeId>) {
    let mut words = told.split(' ');
    let id: usize = words.next().unwrap().parse().unwrap();
    let data = PathBuf::from(words.next().unwrap());
    let addresses: Vec<SocketAddr> = words.map(|word| word.parse().unwrap()).collect();
    let mut config = Config::new(id as u64, 0x9A3E, &data, addresses[id - 1]);
    for (peer, address) in (1..).zip(&addresses).filter(|(peer, _)| *peer != id) {
        config = config.peer(peer as u64, *address);
    }
    config.host = HostKind::Thread;
    config.log.segment_bytes = bytesize::ByteSize::mib(8);
    config.raft.election_timeout = Duration::from_millis(300);
    config.raft.heartbeat_interval = Duration::from_millis(50);
    let members = (1..=addresses.len() as u64).map(NodeId).collect();
    (config, members)
}

/// The outcome is waited for by a thread of its own, so that no operation is behind another.
fn propose(group: &Group, operation: Operation) {
    let proposal = group.propose(serde_json::to_vec(&operation).unwrap());
    std::thread::spawn(move || {
        let outcome = match proposal.wait() {
            Ok(Applied { index, reply }) => Outcome::Acknowledged {
                index: index.0,
                value: u64::from_le_bytes(reply.try_into().unwrap()),
            },
            Err(ProposeError::Rejected(rejection)) => Outcome::Refused {
                reason: rejection.to_string(),
                leader: match rejection {
                    Rejection::NotLeader { leader } => leader.map(|leader| leader.0),
                    _ => None,
                },
            },
            Err(error) => Outcome::Unknown {
                reason: error.to_string(),
            },
        };
        let number = operation.number;
        tell(&Said::Ended { number, outcome });
    });
}

fn summary(node: &Node, registers: &Mutex<Registers>) -> Summary {
    // The core may be applying just now, so it is asked before the registers are locked.
    let statistics = node.statistics().wait();
    let closed = statistics
        .iter()
        .flatten()
        .flat_map(|core| core.connections_closed.values());
    let connections_closed = closed.sum();
    let registers = registers.lock().unwrap();
    let mut hasher = DefaultHasher::new();
    registers.entries.hash(&mut hasher);
    registers.values.hash(&mut hasher);
    Summary {
        applied: registers.entries.len() as u64,
        digest: hasher.finish(),
        connections_closed,
    }
}

fn tell(said: &impl Serialize) {
    let line = serde_json::to_string(said).unwrap();
    let mut output = std::io::stdout().lock();
    // The parent may have ended.
    let _ = writeln!(output, "{MARK}{line}").and_then(|()| output.flush());
}

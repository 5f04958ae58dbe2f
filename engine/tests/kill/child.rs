//! The node's process: this test's program once more, told what to do by its environment and by
//! lines on its standard input.

use std::io::{BufRead, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use pontoon::{
    Batch, Config, Group, GroupId, Machines, Node, NodeId, ProposeError, RoleName, StateMachine,
};

/// The variable that makes the test `node_process` a node: its id, its directory, all addresses.
pub(crate) const VARIABLE: &str = "PONTOON_TEST_NODE";

const GROUP: GroupId = GroupId(1);
const IN_FLIGHT: usize = 16;

/// Keeps every number it is given.
struct Numbers {
    applied: Arc<Mutex<Vec<u64>>>,
}

impl StateMachine for Numbers {
    fn apply(&mut self, batch: &mut Batch<'_>) {
        let mut applied = self.applied.lock().unwrap();
        while let Some(command) = batch.next() {
            applied.push(u64::from_le_bytes(command.payload.try_into().unwrap()));
        }
    }
}

pub(crate) fn serve_if_told() {
    let Ok(told) = std::env::var(VARIABLE) else {
        return;
    };
    let mut words = told.split(' ');
    let id: usize = words.next().unwrap().parse().unwrap();
    let data = PathBuf::from(words.next().unwrap());
    let addresses: Vec<SocketAddr> = words.map(|word| word.parse().unwrap()).collect();
    let mut config = Config::new(id as u64, 0x4411, &data, addresses[id - 1]);
    for (peer, address) in (1..).zip(&addresses).filter(|(peer, _)| *peer != id) {
        config = config.peer(peer as u64, *address);
    }
    config.log.segment_bytes = bytesize::ByteSize::mib(8);
    config.raft.election_timeout = Duration::from_millis(150);
    config.raft.heartbeat_interval = Duration::from_millis(30);

    let applied = Arc::new(Mutex::new(Vec::new()));
    let numbers = Arc::clone(&applied);
    let machines = Machines::new().register("numbers", move |_| {
        let applied = Arc::clone(&numbers);
        Ok(Box::new(Numbers { applied }))
    });
    let node = Node::start(config, machines).unwrap();
    let members: Vec<_> = (1..=addresses.len() as u64).map(NodeId).collect();
    let group = node
        .create_group(GROUP, "numbers", &members)
        .wait()
        .unwrap();
    tell("ready");
    for line in std::io::stdin().lock().lines().map_while(Result::ok) {
        match line.split_once(' ') {
            Some(("load", first)) => load(&group, first.parse().unwrap()),
            _ => tell(&format!("applied {:?}", applied.lock().unwrap())),
        }
    }
}

fn tell(line: &str) {
    let mut output = std::io::stdout().lock();
    // The parent may have ended.
    let _ = writeln!(output, "PONTOON {line}").and_then(|()| output.flush());
}

/// Proposes numbers from `first` on while this node leads, in a thread of its own.
fn load(group: &Group, first: u64) {
    let group = group.clone();
    std::thread::spawn(move || {
        let mut next = first;
        loop {
            let status = group.status().wait();
            if status.is_ok_and(|status| status.raft.role != RoleName::Leader) {
                std::thread::park_timeout(Duration::from_millis(5));
                continue;
            }
            let proposals: Vec<_> = (next..)
                .take(IN_FLIGHT)
                .map(|number| (number, group.propose(number.to_le_bytes().to_vec())))
                .collect();
            next += IN_FLIGHT as u64;
            for (number, proposal) in proposals {
                match proposal.wait() {
                    Ok(_) => tell(&format!("acknowledged {number}")),
                    Err(ProposeError::Rejected(_)) => tell(&format!("rejected {number}")),
                    Err(_) => {}
                }
            }
        }
    });
}

//! Three nodes in one process replicate a list of words; one of them is stopped on the way.
//!
//! `cargo run --release -p pontoon --example three_nodes`

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::Path;
use std::sync::{Arc, Mutex};

use pontoon::{
    Applied, Batch, Config, Group, GroupId, Machines, Node, NodeId, ProposeError, StateMachine,
};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

type Error = Box<dyn std::error::Error>;

/// Keeps what it is told where the example can look at it.
struct Words {
    words: Arc<Mutex<Vec<String>>>,
}

impl StateMachine for Words {
    fn apply(&mut self, batch: &mut Batch<'_>) {
        let mut words = self.words.lock().expect("nobody panics");
        while let Some(command) = batch.next() {
            words.push(String::from_utf8_lossy(command.payload).into_owned());
        }
    }
}

/// Proposes to whichever node leads.
fn propose(groups: &BTreeMap<u64, Group>, word: &str) -> Result<(u64, Applied), Error> {
    loop {
        for (node, group) in groups {
            match group.propose(word.into()).wait() {
                Ok(applied) => return Ok((*node, applied)),
                // Certainly not in the log: try the next one.
                Err(ProposeError::Rejected(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        std::thread::yield_now();
    }
}

/// Shows the engine's log on standard error. `PONTOON_LOG` holds the filter, by default `info`.
fn install_log() {
    let filter = EnvFilter::builder()
        .with_default_directive(LevelFilter::INFO.into())
        .with_env_var("PONTOON_LOG")
        .from_env_lossy();
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .init();
}

#[expect(clippy::print_stdout, reason = "an example talks to its reader")]
fn main() -> Result<(), Error> {
    install_log();
    let data = Path::new("target/three_nodes");
    if data.exists() {
        std::fs::remove_dir_all(data)?;
    }
    let members = [NodeId(1), NodeId(2), NodeId(3)];
    let mut listeners = BTreeMap::new();
    for id in 1..=3 {
        listeners.insert(id, TcpListener::bind("127.0.0.1:0")?);
    }
    let mut addresses = BTreeMap::new();
    for (id, listener) in &listeners {
        addresses.insert(*id, listener.local_addr()?);
    }

    let (mut nodes, mut groups, mut seen) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
    for (id, listener) in listeners {
        let mut config = Config::new(id, 7, &data.join(id.to_string()), addresses[&id]);
        for (peer, address) in addresses.iter().filter(|(peer, _)| **peer != id) {
            config = config.peer(*peer, *address);
        }
        let words = Arc::new(Mutex::new(Vec::new()));
        seen.insert(id, Arc::clone(&words));
        let machines = Machines::new().register("words", move |_| {
            let words = Arc::clone(&words);
            Ok(Box::new(Words { words }))
        });
        let node = Node::start_on(listener, config, machines)?;
        groups.insert(id, node.create_group(GroupId(1), "words", &members).wait()?);
        nodes.insert(id, node);
    }

    let (leader, _) = propose(&groups, "one")?;
    println!("node {leader} leads");
    propose(&groups, "two")?;
    groups.remove(&leader);
    nodes.remove(&leader).expect("it runs").stop()?;
    println!("node {leader} is stopped; the other two go on");
    let (leader, _) = propose(&groups, "three")?;
    println!("node {leader} leads");
    let (leader, applied) = propose(&groups, "four")?;
    let words = seen[&leader].lock().expect("nobody panics").join(" ");
    println!(
        "node {leader} has applied up to entry {}: {words}",
        applied.index
    );
    Ok(())
}

//! A counter that survives crashes: one node, one group.
//!
//! `cargo run --release -p pontoon --example counter`, and again: it goes on where it was.

use std::path::Path;

use pontoon::{Batch, Config, GroupId, Machines, Node, NodeId, StateMachine};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

/// Adds up what it is told. Volatile: it is built anew from the log at every start.
#[derive(Default)]
struct Counter {
    sum: u64,
}

impl StateMachine for Counter {
    fn apply(&mut self, batch: &mut Batch<'_>) {
        while let Some(command) = batch.next() {
            self.sum += u64::from(command.payload[0]);
            batch.reply(self.sum.to_le_bytes().to_vec());
        }
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
fn main() -> Result<(), Box<dyn std::error::Error>> {
    install_log();
    let data = Path::new("target/counter");
    let config = Config::new(1, 0xc0ffee, data, "127.0.0.1:0".parse()?);
    let machines = Machines::new().register("counter", |_| Ok(Box::new(Counter::default())));

    let node = Node::start(config, machines)?;
    let group = node
        .create_group(GroupId(7), "counter", &[NodeId(1)])
        .wait()?;
    for step in [1, 2, 3] {
        // A node that has just started is elected in a moment, so the first may come too early.
        let applied = loop {
            match group.propose(vec![step]).wait() {
                Ok(applied) => break applied,
                Err(pontoon::ProposeError::Rejected(_)) => std::thread::yield_now(),
                Err(error) => return Err(error.into()),
            }
        };
        let sum = u64::from_le_bytes(applied.reply.as_slice().try_into()?);
        println!("added {step} as entry {}: the sum is {sum}", applied.index);
    }
    node.stop()?;
    Ok(())
}

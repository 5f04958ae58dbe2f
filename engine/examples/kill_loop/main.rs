//! Three processes keep a store over redb; under a steady load, leaders are killed one after the
//! other. Nothing acknowledged may be lost, and who comes back must get level while the load lasts.
//!
//! `cargo run --release -p pontoon --example kill_loop -- --seconds 60`

mod check;
mod cluster;
mod load;
mod node;
mod store;

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

use crate::cluster::{Cluster, Said};
use crate::load::Load;

pub(crate) type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// The cluster's id, which all nodes share.
const CLUSTER: u128 = 0x6b11;

const NODES: u64 = 3;

/// Groups of the store; write N belongs to group N modulo this, plus one.
pub(crate) const GROUPS: u64 = 4;

/// How long a killed node stays away.
const DOWN: Duration = Duration::from_millis(500);

/// How long the group of a killed leader goes on after its next write, before the next kill.
const BETWEEN_KILLS: Duration = Duration::from_secs(1);

/// Longest wait for whatever must come: a start, a write, a level node.
const PATIENCE: Duration = Duration::from_secs(30);

/// Between two questions how far the nodes are.
const LOOK: Duration = Duration::from_millis(50);

fn main() -> ExitCode {
    install_log();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let done = match arguments.split_first() {
        Some((first, node)) if first == "node" => node::serve(node),
        _ => seconds(&arguments).and_then(run),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&error.to_string());
            ExitCode::FAILURE
        }
    }
}

fn seconds(arguments: &[String]) -> Result<Duration> {
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let seconds: u64 = match words[..] {
        [] => 60,
        ["--seconds", seconds] => seconds
            .parse()
            .map_err(|error| format!("--seconds {seconds:?}: {error}"))?,
        _ => return Err("usage: kill_loop [--seconds N]".into()),
    };
    if seconds == 0 {
        return Err("--seconds must be at least 1".into());
    }
    Ok(Duration::from_secs(seconds))
}

/// The load, the kills, the end, the check.
fn run(time: Duration) -> Result<()> {
    let data = Path::new("target/kill_loop");
    if data.exists() {
        std::fs::remove_dir_all(data)?;
    }
    let mut cluster = Cluster::start(data.to_path_buf(), NODES)?;
    cluster.await_ready(PATIENCE)?;
    let mut drill = Drill {
        cluster,
        load: Load::new(),
        durable: BTreeMap::new(),
    };
    let (kills, returned) = drill.kill_leaders(time)?;
    let level = drill.get_level(returned)?;
    drill.finish()?;
    check::check(&mut drill.cluster, &drill.load, PATIENCE)?;
    let load = &drill.load;
    let summary = format!(
        "{kills} kills, {} writes acknowledged and none lost, {} unknown; longest time without \
         one in a group {:.2} s; all nodes level {:.2} s after the last return, under load",
        load.acknowledged.len(),
        load.unknown.len(),
        load.silence.as_secs_f64(),
        level.as_secs_f64()
    );
    writeln!(std::io::stdout(), "{summary}")?;
    drop(drill);
    std::fs::remove_dir_all(data)?;
    Ok(())
}

/// The nodes under load.
struct Drill {
    cluster: Cluster,
    load: Load,
    /// What the nodes answered to the last look: for each group, the last index that is durable in
    /// the store.
    durable: BTreeMap<u64, Vec<u64>>,
}

impl Drill {
    /// Kills the leader of one group after the other. Gives how often, and when the last one was
    /// started again.
    fn kill_leaders(&mut self, time: Duration) -> Result<(u64, Instant)> {
        let end = Instant::now() + time;
        self.go_on(Instant::now() + BETWEEN_KILLS)?;
        for kills in 0.. {
            let group = kills % GROUPS;
            let victim = self.load.leader(group);
            self.cluster.kill(victim)?;
            self.load.node_ended(victim);
            self.go_on(Instant::now() + DOWN)?;
            self.cluster.start_node(victim)?;
            let returned = Instant::now();
            if returned >= end {
                return Ok((kills + 1, returned));
            }
            while !self.load.moved_since(group, returned) {
                if returned.elapsed() > PATIENCE {
                    return Err(format!("no write for {PATIENCE:?} after a kill").into());
                }
                self.go_on(Instant::now() + LOOK)?;
            }
            self.go_on(Instant::now() + BETWEEN_KILLS)?;
        }
        unreachable!("kills are counted without end")
    }

    /// Lets the load go on until every node has what one of them had a moment before. Gives how
    /// long that was after the last return.
    fn get_level(&mut self, returned: Instant) -> Result<Duration> {
        loop {
            let is_moving = (0..GROUPS).all(|group| self.load.moved_since(group, returned));
            let before = self.look()?;
            let level = returned.elapsed();
            let now = self.look()?;
            let behind = behind(&before, &now);
            if is_moving && behind.is_none() {
                return Ok(level);
            }
            if returned.elapsed() > PATIENCE {
                let reason = behind.unwrap_or_else(|| "a group takes no writes".to_owned());
                return Err(format!("not level after {PATIENCE:?} under load: {reason}").into());
            }
        }
    }

    /// Asks every node how far its store is, while the load goes on.
    fn look(&mut self) -> Result<BTreeMap<u64, Vec<u64>>> {
        self.durable.clear();
        for node in self.cluster.nodes() {
            // A node that is being started does not answer.
            let _ = self.cluster.send(node, "status");
        }
        self.go_on(Instant::now() + LOOK)?;
        Ok(std::mem::take(&mut self.durable))
    }

    /// The load goes on until then.
    fn go_on(&mut self, until: Instant) -> Result<()> {
        loop {
            let now = Instant::now();
            if now >= until {
                return Ok(());
            }
            let due = self.load.propose(&mut self.cluster, now);
            self.listen(due.min(until))?;
        }
    }

    /// Ends the load, and waits for the last outcomes.
    fn finish(&mut self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while self.load.is_pending() {
            let now = Instant::now();
            if now > deadline {
                return Err(format!("a write has no outcome after {PATIENCE:?}").into());
            }
            self.load.retry(&mut self.cluster, now);
            self.listen(now + LOOK)?;
        }
        // Answers to the last looks come before those of the check.
        self.listen(Instant::now() + LOOK)
    }

    /// Takes what the nodes say until then.
    fn listen(&mut self, until: Instant) -> Result<()> {
        while let Some((node, said)) = self.cluster.next(until) {
            let line = match said {
                Said::Line(line) => line,
                Said::Ready => continue,
                Said::Ended => {
                    return Err(format!("node {node} ended by itself; see above").into());
                }
            };
            match line.strip_prefix("status ") {
                Some(indexes) => {
                    let indexes: std::result::Result<_, _> =
                        indexes.split(' ').map(str::parse).collect();
                    self.durable.insert(node, indexes?);
                }
                None => self.load.answered(&self.cluster, node, &line)?,
            }
        }
        Ok(())
    }
}

/// The first node and group that have less than another node had before, in words.
fn behind(before: &BTreeMap<u64, Vec<u64>>, now: &BTreeMap<u64, Vec<u64>>) -> Option<String> {
    for node in 1..=NODES {
        let Some(has) = now.get(&node) else {
            return Some(format!("node {node} does not answer"));
        };
        for (group, has) in has.iter().enumerate() {
            let most = before.values().map(|node| node[group]).max().unwrap_or(0);
            if *has < most {
                return Some(format!(
                    "node {node} has entry {has} of group {}, another one has {most}",
                    group + 1
                ));
            }
        }
    }
    None
}

/// Shows the engine's log on standard error. `PONTOON_LOG` holds the filter, by default `error`:
/// that others miss a killed node is no news here.
fn install_log() {
    let filter = EnvFilter::builder()
        .with_default_directive(LevelFilter::ERROR.into())
        .with_env_var("PONTOON_LOG")
        .from_env_lossy();
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .init();
}

fn complain(message: &str) {
    let _ = writeln!(std::io::stderr(), "kill_loop: {message}");
}

/// Ends this process: a store that can't go on must not acknowledge anything more.
pub(crate) fn fail(message: &str) -> ! {
    complain(message);
    std::process::exit(1)
}

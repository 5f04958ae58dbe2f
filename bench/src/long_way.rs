//! A leader far from its followers: does a group replicate its window in every round trip, and does
//! the leader last? The leader is behind a link that delays everything; all nodes are in this
//! process. The same load without a delay says what the disks and processors carry.

use std::collections::{BTreeMap, VecDeque};
use std::net::{SocketAddr, TcpListener};
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use bytesize::ByteSize;
use pontoon::{Config, Group, GroupId, Node, NodeId, ProposeError, Rejection};
use serde::Serialize;

use crate::cli::LongWayArguments;
use crate::data::{DataDirectory, write_result};
use crate::link::Link;
use crate::machine::{Kind, Ledger};
use crate::output;

const GROUP: GroupId = GroupId(1);
const COMMAND_BYTES: usize = 64 << 10;
const PATIENCE: Duration = Duration::from_secs(120);

/// How long the load waits after a refusal.
const BACK_OFF: Duration = Duration::from_millis(1);

/// An election timeout of so many round trips, a second at least.
const ROUND_TRIPS: u32 = 8;

/// Before the measurement, in round trips: the windows fill.
const WARMUP_ROUND_TRIPS: u32 = 4;

/// What a group must carry of window / round trip, or of what it carries without a delay.
const SHARE_MIN: f64 = 0.8;

#[derive(Clone, Copy, Debug, Serialize)]
struct Way {
    each_way_ms: u64,
    election_timeout_ms: u64,
    megabytes_per_second: f64,
    /// Window / round trip, or what is carried without a delay if that is less.
    share: f64,
    leaderships_lost: u64,
}

/// Runs the subcommand `long-way`.
///
/// # Errors
/// When a node or the disk fails.
pub(crate) fn run(arguments: &LongWayArguments) -> Result<()> {
    let data = DataDirectory::create(arguments.places.data.as_deref())?;
    let here = measure(&data, arguments, 0, f64::INFINITY)?;
    let mut ways = Vec::new();
    for &each_way in &arguments.ways {
        ways.push(measure(
            &data,
            arguments,
            each_way,
            here.megabytes_per_second,
        )?);
    }
    let row = |way: &Way| {
        vec![
            format!("{}", way.each_way_ms),
            format!("{}", way.election_timeout_ms),
            format!("{:.1}", way.megabytes_per_second),
            format!("{:.2}", way.share),
            format!("{}", way.leaderships_lost),
        ]
    };
    let rows: Vec<_> = std::iter::once(&here).chain(&ways).map(row).collect();
    let header = [
        "ms each way",
        "election timeout ms",
        "MB/s",
        "share",
        "leaderships lost",
    ];
    output::table(&header, &rows);
    let least = ways
        .iter()
        .map(|way| way.share)
        .fold(f64::INFINITY, f64::min);
    let lost: u64 = ways.iter().map(|way| way.leaderships_lost).sum();
    output::say(&format!(
        "Least share of window / round trip {least:.2}, wanted {SHARE_MIN}: {}; leaderships lost \
         {lost}, wanted 0: {}",
        output::reached(least >= SHARE_MIN),
        output::reached(lost == 0),
    ));
    if let Some(path) = &arguments.places.json {
        write_result(path, &serde_json::to_string_pretty(&ways)?)?;
    }
    Ok(())
}

fn measure(
    data: &DataDirectory,
    arguments: &LongWayArguments,
    each_way_ms: u64,
    without_delay: f64,
) -> Result<Way> {
    let round_trip = Duration::from_millis(2 * each_way_ms);
    let election_timeout = (round_trip * ROUND_TRIPS).max(Duration::from_secs(1));
    let window = ByteSize::mib(arguments.window);
    let cluster = Three::start(data, each_way_ms, election_timeout, window)?;
    cluster.lead()?;
    let term = cluster.term();
    let in_flight = 2 * usize::try_from(window.0)? / COMMAND_BYTES;
    let mut load = Load::default();
    load.run(&cluster.leader, in_flight, round_trip * WARMUP_ROUND_TRIPS)?;
    let begun = Instant::now();
    let commits = load.run(
        &cluster.leader,
        in_flight,
        Duration::from_secs_f64(arguments.seconds),
    )?;
    let carried = (commits * COMMAND_BYTES as u64) as f64 / begun.elapsed().as_secs_f64() / 1e6;
    let possible = match each_way_ms {
        0 => carried,
        _ => (window.0 as f64 / round_trip.as_secs_f64() / 1e6).min(without_delay),
    };
    Ok(Way {
        each_way_ms,
        election_timeout_ms: u64::try_from(election_timeout.as_millis())?,
        megabytes_per_second: carried,
        share: carried / possible,
        leaderships_lost: cluster.term() - term,
    })
}

/// Three nodes, the first behind the link.
struct Three {
    leader: Group,
    _nodes: Vec<Node>,
    _link: Link,
}

impl Three {
    fn start(
        data: &DataDirectory,
        each_way_ms: u64,
        election_timeout: Duration,
        window: ByteSize,
    ) -> Result<Self> {
        let listeners = [0; 3].map(|_| TcpListener::bind("127.0.0.1:0"));
        let listeners: Vec<_> = listeners.into_iter().collect::<Result<_, _>>()?;
        let addresses = listeners.iter().map(TcpListener::local_addr);
        let addresses: Vec<SocketAddr> = addresses.collect::<Result<_, _>>()?;
        let addresses: BTreeMap<u64, SocketAddr> = (1..).zip(addresses).collect();
        let link = Link::delayed(1, &addresses, Duration::from_millis(each_way_ms))?;
        let mut nodes = Vec::new();
        for (id, listener) in (1..).zip(listeners) {
            let directory = data.subdirectory(&format!("long-way-{each_way_ms}-{id}"))?;
            let mut config = Config::new(id, 0xBE, &directory, addresses[&id]);
            for (&peer, &address) in addresses.iter().filter(|(peer, _)| **peer != id) {
                config = config.peer(peer, link.address(id, peer).unwrap_or(address));
            }
            config.raft.election_timeout = election_timeout;
            config.limits.in_flight_bytes_max = window;
            config.limits.proposals_pending_bytes_max = ByteSize::mib(256);
            config.log.segments_max = 16;
            let machines = Ledger::default().machines();
            nodes.push(Node::start_on(listener, config, machines)?);
        }
        let members = [1, 2, 3].map(NodeId);
        let create = |node: &Node| {
            let made = node.create_group(GROUP, Kind::Releasing.name(), &members);
            made.wait()
        };
        let groups: Vec<Group> = nodes.iter().map(create).collect::<Result<_, _>>()?;
        Ok(Self {
            leader: groups[0].clone(),
            _nodes: nodes,
            _link: link,
        })
    }

    /// Makes the first node the leader.
    fn lead(&self) -> Result<()> {
        let begun = Instant::now();
        drop(self.leader.campaign());
        let mut next = Instant::now();
        loop {
            let status = self.leader.status().wait();
            if status.is_ok_and(|status| status.raft.leader == Some(NodeId(1))) {
                return Ok(());
            }
            ensure!(begun.elapsed() < PATIENCE, "the first node does not lead");
            if next.elapsed() > Duration::from_secs(3) {
                drop(self.leader.campaign());
                next = Instant::now();
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn term(&self) -> u64 {
        let status = self.leader.status().wait();
        status.map_or(0, |status| status.raft.current_term.0)
    }
}

/// A closed loop of commands, numbered as the machine wants them.
#[derive(Default)]
struct Load {
    number: u64,
    outstanding: VecDeque<pontoon::Proposal>,
}

impl Load {
    /// Keeps so many outstanding for a time; gives how many ended in it.
    fn run(&mut self, group: &Group, in_flight: usize, time: Duration) -> Result<u64> {
        let (begun, mut commits) = (Instant::now(), 0);
        while begun.elapsed() < time {
            while self.outstanding.len() < in_flight {
                self.number += 1;
                let mut command = vec![7; COMMAND_BYTES];
                command[..8].copy_from_slice(&self.number.to_le_bytes());
                self.outstanding.push_back(group.propose(command));
            }
            let first = self.outstanding.pop_front();
            match first.map(pontoon::Proposal::wait) {
                Some(Ok(_)) => commits += 1,
                // It comes again: the leader waits for a segment, or for memory.
                Some(Err(ProposeError::Rejected(
                    Rejection::Overloaded { .. } | Rejection::Preparing,
                ))) => {
                    std::thread::sleep(BACK_OFF);
                }
                Some(Err(error)) => bail!("a command was not committed: {error}"),
                None => {}
            }
        }
        Ok(commits)
    }
}

//! One slow peer and the groups that have nothing to do with it: what does it take from them?
//!
//! Every other group has a member behind a link; the rest has members on the two other nodes only,
//! which lead and follow as before. The groups of the slow peer have an open loop, so that they ask
//! for the same in both settings, and more than the link carries; the other groups have a closed
//! loop, which takes whatever is left. Only the link's limit changes between the settings.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde::Serialize;

use crate::cli::SlowPeerArguments;
use crate::cluster::{Cluster, Groups, Shape};
use crate::data::{DataDirectory, write_result};
use crate::environment::Environment;
use crate::histogram::{self, Latencies, percentile_us};
use crate::link::Link;
use crate::load::{Load, Loaded};
use crate::machine::Kind;
use crate::output;
use crate::requests::Host;

/// The order of the settings: what drifts from one end to the other counts against neither.
const SLOW: [bool; 8] = [false, true, true, false, false, true, true, false];

/// Before each measurement, under the same load: a backlog for the slow peer arises.
const WARMUP_SECONDS_MAX: f64 = 1.0;

/// The node behind the link.
const SLOW_NODE: u64 = 3;

/// Longest wait for a level peer between two measurements.
const PATIENCE: Duration = Duration::from_secs(60);

/// How much the other groups must keep of their throughput.
const RATIO_MIN: f64 = 0.95;

/// What became of the proposals to some groups in one setting.
struct Part {
    latencies: Latencies,
    commits: u64,
    seconds: f64,
    refused: u64,
    first_refusal: Option<String>,
    unknown: u64,
}

#[derive(Clone, Copy, Debug, Serialize)]
struct Figures {
    commits_per_second: f64,
    p50_us: f64,
    p99_us: f64,
    refused: u64,
    unknown: u64,
}

/// Both parts of the groups in one setting.
#[derive(Clone, Copy, Debug, Serialize)]
struct Setting {
    with_the_peer: Figures,
    without_it: Figures,
}

#[derive(Serialize)]
struct SlowPeerReport {
    environment: Environment,
    groups: u64,
    link_bytes_per_second: u64,
    payload_bytes: usize,
    fast: Setting,
    slow: Setting,
    /// Throughput of the other groups beside a slow peer, divided by that beside a fast one.
    ratio: f64,
    refused: u64,
    /// Why the first of them was, in either setting.
    first_refusal: Option<String>,
    /// Bytes per second that the slow peer really took.
    carried_per_second: f64,
}

/// Runs the subcommand `slow-peer`.
///
/// # Errors
/// When a node or the disk fails, or replicas differ.
pub(crate) fn run(arguments: &SlowPeerArguments) -> Result<()> {
    let data = DataDirectory::create(arguments.places.data.as_deref())?;
    let environment = Environment::measured(&data)?;
    let progress = output::progress(SLOW.len() as u64);
    let (mut cluster, link) = start(&data, arguments)?;
    let mut parts = [false, true].map(|_| [Part::new(), Part::new()]);
    let (mut carried, mut carried_seconds) = (0, 0.0);
    for slow in SLOW {
        progress.set_message("waiting until all nodes are level");
        link.limit(None);
        await_level(&mut cluster)?;
        link.limit(slow.then_some(arguments.link));
        progress.set_message(if slow { "one slow peer" } else { "all fast" });
        let (before, begun) = (link.bytes_to_node(), Instant::now());
        let loaded = measure(&mut cluster, arguments)?;
        if slow {
            carried += link.bytes_to_node() - before;
            carried_seconds += begun.elapsed().as_secs_f64();
        }
        for (part, loaded) in parts[usize::from(slow)].iter_mut().zip(&loaded) {
            part.add(loaded);
        }
        progress.inc(1);
    }
    link.limit(None);
    let [fast, slow] = &parts;
    let unknown = fast.iter().chain(slow).map(|part| part.unknown).sum();
    cluster.check(unknown)?;
    let mut refusals = slow.iter().chain(fast).map(|part| &part.first_refusal);
    let first_refusal = refusals.find_map(Clone::clone);
    progress.finish_and_clear();
    let [fast, slow] = [fast, slow].map(|[with, without]| Setting {
        with_the_peer: with.figures(),
        without_it: without.figures(),
    });
    publish(
        arguments,
        &SlowPeerReport {
            environment,
            groups: arguments.groups,
            link_bytes_per_second: arguments.link,
            payload_bytes: arguments.payload,
            ratio: slow.without_it.commits_per_second / fast.without_it.commits_per_second,
            first_refusal,
            refused: slow.with_the_peer.refused + slow.without_it.refused,
            fast,
            slow,
            carried_per_second: carried as f64 / carried_seconds,
        },
    )
}

/// Groups with a member on the slow peer; they have the lower ids.
fn groups_with_peer(arguments: &SlowPeerArguments) -> u64 {
    arguments.groups / 2
}

fn start(data: &DataDirectory, arguments: &SlowPeerArguments) -> Result<(Cluster, Link)> {
    let shape = Shape {
        nodes: SLOW_NODE,
        cores: 1,
        host: Host::Thread,
        spin_us: 0,
        groups: arguments.groups,
    };
    let (mut cluster, link) = Cluster::start_linked(data, "slow-peer", shape)?;
    let with_peer = groups_with_peer(arguments);
    cluster.create(&Groups {
        first: 1,
        count: with_peer,
        members: vec![1, 2, SLOW_NODE],
        kind: Kind::Releasing,
    })?;
    cluster.create(&Groups {
        first: with_peer + 1,
        count: arguments.groups - with_peer,
        members: vec![1, 2],
        kind: Kind::Releasing,
    })?;
    cluster.lead()?;
    Ok((cluster, link))
}

/// Waits until the last node has applied what the first one has, without a load.
fn await_level(cluster: &mut Cluster) -> Result<()> {
    let begun = Instant::now();
    loop {
        let wanted = cluster.progress(1)?;
        let there = cluster.progress(SLOW_NODE)?;
        let mut groups = (1..).zip(there.iter().zip(&wanted));
        let Some((group, (there, wanted))) = groups.find(|(_, (there, wanted))| there < wanted)
        else {
            return Ok(());
        };
        ensure!(
            begun.elapsed() < PATIENCE,
            "the peer is not level {} s after its link is fast again, without a load: group \
             {group} is at entry {there} of {wanted}; {} more groups are behind",
            PATIENCE.as_secs(),
            groups.filter(|(_, (there, wanted))| there < wanted).count(),
        );
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// One measurement of both parts.
fn measure(cluster: &mut Cluster, arguments: &SlowPeerArguments) -> Result<Vec<Loaded>> {
    let with_peer = groups_with_peer(arguments);
    let open = Load {
        first_group: 1,
        groups: with_peer,
        in_flight: 4_096,
        payload_bytes: arguments.payload,
        rate: Some(arguments.rate),
        seconds: arguments.seconds,
        warmup_seconds: arguments.seconds.min(WARMUP_SECONDS_MAX),
    };
    let closed = Load {
        first_group: with_peer + 1,
        groups: arguments.groups - with_peer,
        in_flight: arguments.in_flight,
        rate: None,
        ..open.clone()
    };
    cluster.start_loads(&[open, closed])?;
    let loaded = cluster.finish_loads(false)?;
    ensure!(
        loaded.iter().any(|part| part.commits > 0),
        "no command was committed"
    );
    Ok(loaded)
}

impl Part {
    fn new() -> Self {
        Self {
            latencies: histogram::latencies(),
            commits: 0,
            seconds: 0.0,
            refused: 0,
            first_refusal: None,
            unknown: 0,
        }
    }

    fn add(&mut self, loaded: &Loaded) {
        loaded.latencies.add_to(&mut self.latencies);
        self.commits += loaded.commits;
        self.seconds += loaded.seconds;
        self.refused += loaded.rejected;
        let first = || loaded.first_rejection.clone();
        self.first_refusal = self.first_refusal.take().or_else(first);
        self.unknown += loaded.unknown;
    }

    fn figures(&self) -> Figures {
        Figures {
            commits_per_second: self.commits as f64 / self.seconds,
            p50_us: percentile_us(&self.latencies, 50.0),
            p99_us: percentile_us(&self.latencies, 99.0),
            refused: self.refused,
            unknown: self.unknown,
        }
    }
}

fn publish(arguments: &SlowPeerArguments, report: &SlowPeerReport) -> Result<()> {
    output::say(&report.environment.line());
    let row = |name: &str, figures: &Figures| {
        vec![
            name.to_owned(),
            output::thousands(figures.commits_per_second),
            format!("{:.0}", figures.p50_us),
            format!("{:.0}", figures.p99_us),
            output::thousands(figures.refused as f64),
            output::thousands(figures.unknown as f64),
        ]
    };
    let header = [
        "groups",
        "commits/s",
        "p50 µs",
        "p99 µs",
        "refused",
        "unknown",
    ];
    output::table(
        &header,
        &[
            row("others, all peers fast", &report.fast.without_it),
            row("others, one peer slow", &report.slow.without_it),
            row("the peer's, all peers fast", &report.fast.with_the_peer),
            row("the peer's, one peer slow", &report.slow.with_the_peer),
        ],
    );
    let (fast, slow) = (&report.fast.without_it, &report.slow.without_it);
    output::say(&format!(
        "The slow peer took {} bytes/s of a link of {}.",
        output::thousands(report.carried_per_second),
        output::thousands(report.link_bytes_per_second as f64),
    ));
    output::say(&format!(
        "Beside it the other groups keep {:.3} of their commits/s (p50 {:.2} x, p99 {:.2} x), \
         wanted {RATIO_MIN}: {}; refused {}, wanted 0: {}",
        report.ratio,
        slow.p50_us / fast.p50_us,
        slow.p99_us / fast.p99_us,
        output::reached(report.ratio >= RATIO_MIN),
        report.refused,
        output::reached(report.refused == 0),
    ));
    if let Some(reason) = &report.first_refusal {
        output::say(&format!("The first refusal: {reason}"));
    }
    if let Some(path) = &arguments.places.json {
        write_result(path, &serde_json::to_string_pretty(report)?)?;
    }
    Ok(())
}

//! The start of nodes with many groups: does ten times as many cost ten times as much?
//!
//! Each cluster is made once, then killed and started again several times. A group is open when its
//! node has started; it goes on when each of its members knows a leader and has applied its log,
//! which takes an election time-out whatever the number of groups. The processor's time counts
//! the work alone; what a single group takes is shown beside.

use std::time::Instant;

use anyhow::Result;
use serde::Serialize;

use crate::cli::GroupsRestartArguments;
use crate::cluster::{Cluster, Groups, Shape};
use crate::data::{DataDirectory, write_result};
use crate::environment::Environment;
use crate::histogram::median;
use crate::machine::Kind;
use crate::output;
use crate::requests::Host;

/// Starts of each cluster.
const REPETITIONS: usize = 3;

/// How many times as many groups the larger cluster has.
const FACTOR: u64 = 10;

/// How many times as long it may take: the work is linear, and a little for caches.
const RATIO_MAX: f64 = 11.0;

/// Figures of a start; of several, the medians.
#[derive(Clone, Copy, Debug, Serialize)]
struct Start {
    open_seconds: f64,
    applied_seconds: f64,
    cpu_seconds: f64,
}

#[derive(Debug, Serialize)]
struct GroupsRestartReport {
    environment: Environment,
    nodes: u64,
    entries: u64,
    /// The start with a single group: what does not depend on their number.
    one_group: Start,
    /// Number of groups, and their start.
    starts: [(u64, Start); 2],
}

/// Runs the subcommand `groups-restart`.
///
/// # Errors
/// When a node or the disk fails, or a group gets no leader.
pub(crate) fn run(arguments: &GroupsRestartArguments) -> Result<()> {
    let data = DataDirectory::create(arguments.places.data.as_deref())?;
    let environment = Environment::measured(&data)?;
    let sizes = [1, arguments.groups, FACTOR * arguments.groups];
    let progress = output::progress((sizes.len() * (1 + REPETITIONS)) as u64);
    let mut starts = Vec::new();
    for groups in sizes {
        let name = format!("restart-{groups}");
        progress.set_message(format!("making {groups} groups"));
        fill(&data, &name, arguments, groups)?;
        progress.inc(1);
        let mut repetitions = Vec::new();
        for _ in 0..REPETITIONS {
            progress.set_message(format!("starting with {groups} groups"));
            repetitions.push(start(&data, &name, arguments.nodes, groups)?);
            progress.inc(1);
        }
        starts.push((groups, Start::median(&repetitions)));
    }
    progress.finish_and_clear();
    publish(
        arguments,
        &GroupsRestartReport {
            environment,
            nodes: arguments.nodes,
            entries: arguments.entries,
            one_group: starts[0].1,
            starts: [starts[1], starts[2]],
        },
    )
}

fn shape(nodes: u64, groups: u64) -> Shape {
    Shape {
        nodes,
        cores: 1,
        host: Host::Thread,
        spin_us: 0,
        groups,
    }
}

/// Makes the groups and their entries, and kills the nodes.
fn fill(
    data: &DataDirectory,
    name: &str,
    arguments: &GroupsRestartArguments,
    groups: u64,
) -> Result<()> {
    let shape = shape(arguments.nodes, groups);
    let mut cluster = Cluster::start_bare(data, name, shape)?;
    cluster.create(&Groups {
        first: 1,
        count: groups,
        members: (1..=arguments.nodes).collect(),
        kind: Kind::Keeping,
    })?;
    cluster.lead()?;
    cluster.fill(arguments.entries)?;
    Ok(())
}

/// Starts all nodes once.
fn start(data: &DataDirectory, name: &str, nodes: u64, groups: u64) -> Result<Start> {
    let begun = Instant::now();
    let mut cluster = Cluster::start_bare(data, name, shape(nodes, groups))?;
    let open_seconds = begun.elapsed().as_secs_f64();
    cluster.adopt_all(groups)?;
    cluster.await_leaders()?;
    Ok(Start {
        open_seconds,
        applied_seconds: begun.elapsed().as_secs_f64(),
        cpu_seconds: cluster.usage()?.cpu_seconds,
    })
}

impl Start {
    fn median(starts: &[Self]) -> Self {
        let of = |figure: fn(&Self) -> f64| median(starts.iter().map(figure));
        Self {
            open_seconds: of(|start| start.open_seconds),
            applied_seconds: of(|start| start.applied_seconds),
            cpu_seconds: of(|start| start.cpu_seconds),
        }
    }
}

fn publish(arguments: &GroupsRestartArguments, report: &GroupsRestartReport) -> Result<()> {
    output::say(&report.environment.line());
    let [(few, _), (many, _)] = report.starts;
    let row = |name: &str, of: fn(&Start) -> f64| {
        let [few, many] = report.starts.map(|(_, start)| of(&start));
        vec![
            name.to_owned(),
            format!("{:.3} s", of(&report.one_group)),
            format!("{few:.3} s"),
            format!("{many:.3} s"),
            format!("{:.2}", many / few),
            output::reached(many / few <= RATIO_MAX).to_owned(),
        ]
    };
    let (few, many) = (format!("{few} groups"), format!("{many} groups"));
    let wanted = format!("at most {RATIO_MAX}");
    output::table(
        &["until", "1 group", &few, &many, "ratio", &wanted],
        &[
            row("every group is open", |start| start.open_seconds),
            row("it is led and applied", |start| start.applied_seconds),
            row("then, processor time", |start| start.cpu_seconds),
        ],
    );
    output::say(&format!(
        "{} started again with {} entries in each group",
        match report.nodes {
            1 => "One node".to_owned(),
            nodes => format!("{nodes} nodes"),
        },
        report.entries
    ));
    if let Some(path) = &arguments.places.json {
        write_result(path, &serde_json::to_string_pretty(report)?)?;
    }
    Ok(())
}

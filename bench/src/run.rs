//! The main job: the floor, the loads on real nodes, the check of all replicas, the floor again.

use std::time::Duration;

use anyhow::{Result, ensure};

use crate::cli::RunArguments;
use crate::cluster::{Cluster, Shape};
use crate::data::{DataDirectory, results_directory, write_result};
use crate::environment::Environment;
use crate::floor::{Baseline, Floor, FloorLatencies};
use crate::histogram::{self, Latencies, median};
use crate::load::{Load, Loaded};
use crate::output;
use crate::report::{LoadShape, Measured, Report};
use crate::usage::Usage;

const REPETITIONS: usize = 3;
const WARMUP_SECONDS: f64 = 0.3;

/// Groups and outstanding proposals of the loads run by default.
const LOADS: [(u64, usize); 3] = [(1, 1), (1, 256), (64, 256)];

/// One repetition of a load.
pub(crate) struct Repetition {
    pub(crate) loaded: Loaded,
    pub(crate) latencies: Latencies,
    usage: Usage,
}

/// Runs the subcommand `run`.
///
/// # Errors
/// When a node or the disk fails, replicas differ, or a result can't be written.
pub(crate) fn run(arguments: &RunArguments) -> Result<()> {
    let data = DataDirectory::create(arguments.places.data.as_deref())?;
    let time = Duration::from_secs_f64(arguments.seconds);
    let loads = loads(arguments);
    let steps = (3 * REPETITIONS) + loads.len() * REPETITIONS;
    let progress = output::progress(steps as u64);
    let mut baseline = Baseline::start(&data, arguments.payload)?;
    let mut floors = Vec::new();
    let mut floor_latencies = FloorLatencies::new();
    for _ in 0..REPETITIONS {
        progress.set_message("the floor");
        floors.push(baseline.measure(time, &mut floor_latencies)?);
        progress.inc(1);
    }
    progress.set_message("starting the nodes");
    let mut cluster = Cluster::start(&data, "node", shape(arguments, &loads))?;
    let mut measured: Vec<Vec<Repetition>> = loads.iter().map(|_| Vec::new()).collect();
    for _ in 0..REPETITIONS {
        for (load, repetitions) in loads.iter().zip(&mut measured) {
            let (groups, in_flight) = (load.groups, load.in_flight);
            progress.set_message(format!("{groups} groups, {in_flight} in flight"));
            // On a busy machine a group may have been handed over meanwhile.
            cluster.lead()?;
            repetitions.push(repeat(&mut cluster, load)?);
            progress.inc(1);
        }
    }
    let unknown = measured.iter().flatten().map(|each| each.loaded.unknown);
    let commands = cluster.check(unknown.sum())?;
    drop(cluster);
    for _ in 0..REPETITIONS {
        progress.set_message("the floor again");
        floors.push(baseline.measure(time, &mut floor_latencies)?);
        progress.inc(1);
    }
    progress.finish_and_clear();
    let report = Report {
        environment: Environment::of(data.path(), baseline.sync),
        floor: Floor::median(&floors),
        floor_before: Floor::median(&floors[..REPETITIONS]),
        floor_after: Floor::median(&floors[REPETITIONS..]),
        runs: joined(arguments, &loads, &measured),
        commands_checked: commands,
    };
    publish(arguments, &report, &floor_latencies, &measured)
}

fn loads(arguments: &RunArguments) -> Vec<Load> {
    let load = |(groups, in_flight)| Load {
        first_group: 1,
        groups,
        in_flight,
        payload_bytes: arguments.payload,
        rate: arguments.rate,
        seconds: arguments.seconds,
        warmup_seconds: WARMUP_SECONDS.min(arguments.seconds),
    };
    if arguments.groups.is_none() && arguments.in_flight.is_none() {
        return LOADS.into_iter().map(load).collect();
    }
    let groups = arguments.groups.unwrap_or(1);
    vec![load((groups, arguments.in_flight.unwrap_or(1)))]
}

fn shape(arguments: &RunArguments, loads: &[Load]) -> Shape {
    Shape {
        nodes: arguments.nodes,
        cores: arguments.cores,
        host: arguments.host,
        spin_us: arguments.spin_us,
        groups: loads.iter().map(|load| load.groups).max().unwrap_or(1),
    }
}

/// Runs a load once.
///
/// # Errors
/// When a node fails, or nothing was committed.
pub(crate) fn repeat(cluster: &mut Cluster, load: &Load) -> Result<Repetition> {
    let before = cluster.usage()?;
    let loaded = cluster.load(load)?;
    let usage = cluster.usage()?.since(before);
    ensure!(loaded.commits > 0, "no command was committed: {loaded:?}");
    let mut latencies = histogram::latencies();
    loaded.latencies.add_to(&mut latencies);
    Ok(Repetition {
        loaded,
        latencies,
        usage,
    })
}

fn joined(arguments: &RunArguments, loads: &[Load], all: &[Vec<Repetition>]) -> Vec<Measured> {
    let joined = |(load, repetitions): (&Load, &Vec<Repetition>)| {
        let shape = LoadShape {
            nodes: arguments.nodes,
            cores: arguments.cores,
            groups: load.groups,
            in_flight: load.in_flight,
            payload_bytes: load.payload_bytes,
            host: arguments.host,
        };
        Measured::of(shape, repetitions)
    };
    loads.iter().zip(all).map(joined).collect()
}

impl Measured {
    /// The medians of some repetitions, figure by figure.
    pub(crate) fn of(load: LoadShape, repetitions: &[Repetition]) -> Self {
        let of = |figure: &dyn Fn(&Repetition) -> f64| median(repetitions.iter().map(figure));
        let at = |percentile| of(&|each| histogram::percentile_us(&each.latencies, percentile));
        let payload = load.payload_bytes as f64;
        Self {
            load,
            commits_per_second: of(&|each| each.loaded.commits as f64 / each.loaded.seconds),
            p50_us: at(50.0),
            p90_us: at(90.0),
            p99_us: at(99.0),
            p999_us: at(99.9),
            max_us: at(100.0),
            cpu_seconds: of(&|each| each.usage.cpu_seconds),
            cpu_us_per_commit: of(&|each| {
                each.usage.cpu_seconds * 1e6 * payload / each.usage.payload_bytes.max(1.0)
            }),
            context_switches: of(&|each| each.usage.context_switches),
            bytes_written_per_payload_byte: of(&|each| {
                each.usage.log_bytes / each.usage.payload_bytes.max(1.0)
            }),
            rejected: repetitions.iter().map(|each| each.loaded.rejected).sum(),
            unknown: repetitions.iter().map(|each| each.loaded.unknown).sum(),
        }
    }
}

fn publish(
    arguments: &RunArguments,
    report: &Report,
    floor: &FloorLatencies,
    measured: &[Vec<Repetition>],
) -> Result<()> {
    let directory = results_directory();
    let mut curves = vec![
        ("floor, 1 command".to_owned(), floor.bare_write.clone()),
        (
            "floor, 256 commands".to_owned(),
            floor.bare_write_256.clone(),
        ),
    ];
    for (run, repetitions) in report.runs.iter().zip(measured) {
        let mut all = histogram::latencies();
        for repetition in repetitions {
            all.add(&repetition.latencies)?;
        }
        curves.push((run.load.name(), all));
    }
    for (name, latencies) in &curves {
        let file = name.replace([' ', ','], "-").replace("--", "-");
        histogram::write_log(&directory.join(format!("{file}.hlog")), latencies)?;
    }
    let html = directory.join("report.html");
    write_result(&html, &crate::html::page(report, &curves)?)?;
    let json = arguments.places.json.clone();
    let json = json.unwrap_or_else(|| directory.join("run.json"));
    write_result(&json, &serde_json::to_string_pretty(&report.json())?)?;
    report.print();
    output::say(&format!(
        "{} and {}, with .hlog files beside the first",
        html.display(),
        json.display()
    ));
    Ok(())
}

//! Both hosts side by side, and a 1 kHz timer beside a loaded shard.

use std::time::Duration;

use anyhow::Result;

use crate::cli::RunArguments;
use crate::cluster::{Cluster, Shape};
use crate::data::DataDirectory;
use crate::environment::Environment;
use crate::floor::{Baseline, Floor, FloorLatencies};
use crate::histogram::{self, Latencies, percentile_us};
use crate::load::Load;
use crate::output;
use crate::report::{LoadShape, Measured, Report};
use crate::requests::Host;
use crate::run::repeat;

const REPETITIONS: usize = 3;
const WARMUP_SECONDS: f64 = 0.3;

/// Target of the timer beside a loaded shard.
const LATENESS_P99_MAX_US: f64 = 5_000.0;

/// The hosts, in the order they are compared.
const HOSTS: [Host; 2] = [Host::Thread, Host::Glommio];

/// Runs the subcommand `hosts`.
///
/// # Errors
/// When a node or the disk fails, or replicas differ.
pub(crate) fn run(arguments: &RunArguments) -> Result<()> {
    let data = DataDirectory::create(arguments.places.data.as_deref())?;
    let mut baseline = Baseline::start(&data, arguments.payload)?;
    let time = Duration::from_secs_f64(arguments.seconds);
    let mut latencies = FloorLatencies::new();
    let floor = Floor::median(&[baseline.measure(time, &mut latencies)?]);
    let mut clusters = start_clusters(&data, arguments)?;
    let mut runs = Vec::new();
    for in_flight in [1, 256] {
        runs.extend(measure_in_turns(&mut clusters, arguments, in_flight)?);
    }
    let lateness = timer_beside_load(&mut clusters[1], arguments)?;
    let mut commands_checked = 0;
    for cluster in &mut clusters {
        commands_checked += cluster.check(0)?;
    }
    let report = Report {
        environment: Environment::of(data.path(), baseline.sync),
        floor,
        floor_before: floor,
        floor_after: floor,
        runs,
        commands_checked,
    };
    print(&report, &lateness);
    Ok(())
}

/// Starts a cluster for each of [`HOSTS`].
fn start_clusters(data: &DataDirectory, arguments: &RunArguments) -> Result<Vec<Cluster>> {
    let start = |host| {
        let shape = Shape {
            nodes: arguments.nodes,
            cores: arguments.cores,
            host,
            spin_us: arguments.spin_us,
            groups: 1,
        };
        Cluster::start(data, &format!("{host:?}"), shape)
    };
    HOSTS.into_iter().map(start).collect()
}

/// Repeats one load on all clusters, in turns so that a busy disk affects both hosts.
fn measure_in_turns(
    clusters: &mut [Cluster],
    arguments: &RunArguments,
    in_flight: usize,
) -> Result<Vec<Measured>> {
    let load = load(arguments, in_flight, arguments.rate, WARMUP_SECONDS);
    let mut repetitions = HOSTS.map(|_| Vec::new());
    for _ in 0..REPETITIONS {
        for (cluster, repetitions) in clusters.iter_mut().zip(&mut repetitions) {
            repetitions.push(repeat(cluster, &load)?);
        }
    }
    let measured = HOSTS
        .into_iter()
        .zip(&repetitions)
        .map(|(host, repetitions)| {
            let shape = LoadShape {
                nodes: arguments.nodes,
                cores: arguments.cores,
                groups: 1,
                in_flight,
                payload_bytes: arguments.payload,
                host,
            };
            Measured::of(shape, repetitions)
        });
    Ok(measured.collect())
}

fn load(
    arguments: &RunArguments,
    in_flight: usize,
    rate: Option<f64>,
    warmup_seconds: f64,
) -> Load {
    Load {
        first_group: 1,
        groups: 1,
        in_flight,
        payload_bytes: arguments.payload,
        rate,
        seconds: arguments.seconds,
        warmup_seconds,
    }
}

/// Runs a closed loop beside the timer; gives the lateness of the timer's ticks.
fn timer_beside_load(cluster: &mut Cluster, arguments: &RunArguments) -> Result<Latencies> {
    let (_, buckets) = cluster.load_beside_timer(&load(arguments, 256, None, 0.0))?;
    let mut lateness = histogram::latencies();
    buckets.add_to(&mut lateness);
    Ok(lateness)
}

fn print(report: &Report, lateness: &Latencies) {
    output::say(&report.environment.line());
    let header = [
        "host, load",
        "commits/s",
        "p50 µs",
        "p99 µs",
        "to the floor",
        "CPU µs/entry",
    ];
    let row = |run: &Measured| {
        let ratio = match (report.ratio_to_floor(run), report.share_of_floor(run)) {
            (Some((p50, p99)), _) => format!("p50 {p50:.2} x, p99 {p99:.2} x"),
            (None, Some(share)) => format!("{share:.2} of it"),
            (None, None) => "-".to_owned(),
        };
        vec![
            format!("{:?}, {}", run.load.host, run.load.name()),
            output::thousands(run.commits_per_second),
            format!("{:.0}", run.p50_us),
            format!("{:.0}", run.p99_us),
            ratio,
            format!("{:.1}", run.cpu_us_per_commit),
        ]
    };
    output::table(&header, &report.runs.iter().map(row).collect::<Vec<_>>());
    let p99 = percentile_us(lateness, 99.0);
    let reached = output::reached(p99 <= LATENESS_P99_MAX_US);
    output::say(&format!(
        "A 1 kHz timer beside the loaded shard (256 in flight) is late by p50 {:.0} µs, p99 \
         {p99:.0} µs, at most {:.0} µs; p99 within {LATENESS_P99_MAX_US} µs: {reached}",
        percentile_us(lateness, 50.0),
        percentile_us(lateness, 100.0),
    ));
}

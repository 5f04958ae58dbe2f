//! Both hosts side by side, and a 1 kHz timer beside each loaded shard. A long run looks for
//! stalls: `--cores 8 --seconds 120` on two processors takes ten minutes.

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

/// Longer measurements are made once: they look for stalls, not for medians.
const SHORT_SECONDS_MAX: f64 = 10.0;

/// Groups on each core, where there are several.
const GROUPS_PER_CORE: u64 = 8;

/// A proposal that takes longer has met a core that slept: elections take less, too.
const STALL_US: f64 = 5_000_000.0;

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
    let time = Duration::from_secs_f64(arguments.seconds.min(SHORT_SECONDS_MAX));
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

/// One group of one core; of several cores, so many that each of them has some.
fn groups(arguments: &RunArguments) -> u64 {
    let spread = match arguments.cores {
        1 => 1,
        cores => GROUPS_PER_CORE * u64::from(cores),
    };
    arguments.groups.unwrap_or(spread)
}

/// Starts a cluster for each of [`HOSTS`].
fn start_clusters(data: &DataDirectory, arguments: &RunArguments) -> Result<Vec<Cluster>> {
    let start = |host| {
        let shape = Shape {
            nodes: arguments.nodes,
            cores: arguments.cores,
            host,
            spin_us: arguments.spin_us,
            groups: groups(arguments),
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
    let repeated = arguments.seconds <= SHORT_SECONDS_MAX;
    for _ in 0..if repeated { REPETITIONS } else { 1 } {
        for (host, (cluster, repetitions)) in HOSTS
            .into_iter()
            .zip(clusters.iter_mut().zip(&mut repetitions))
        {
            // While the other one was measured, a stalled disk may have made it hand over.
            cluster.lead()?;
            let measured = repeat(cluster, &load)?;
            let longest = percentile_us(&measured.latencies, 100.0) / 1e3;
            let commits = measured.loaded.commits;
            // As it goes: a long run is not to be silent until its end.
            output::say(&format!(
                "{host:?}, {in_flight} in flight: {commits} commits, longest {longest:.1} ms"
            ));
            repetitions.push(measured);
        }
    }
    let measured = HOSTS
        .into_iter()
        .zip(&repetitions)
        .map(|(host, repetitions)| {
            let shape = LoadShape {
                nodes: arguments.nodes,
                cores: arguments.cores,
                groups: groups(arguments),
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
        groups: groups(arguments),
        in_flight,
        payload_bytes: arguments.payload,
        rate,
        seconds: arguments.seconds,
        warmup_seconds,
    }
}

/// Runs a closed loop beside the timer; gives the lateness of the timer's ticks.
fn timer_beside_load(cluster: &mut Cluster, arguments: &RunArguments) -> Result<Latencies> {
    cluster.lead()?;
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
    for host in HOSTS {
        let runs = report.runs.iter().filter(|run| run.load.host == host);
        let longest = runs.map(|run| run.max_us).fold(0.0, f64::max);
        let reached = output::reached(longest < STALL_US);
        output::say(&format!(
            "The longest proposal of host {host:?} took {:.1} ms; less than {:.0} ms: {reached}",
            longest / 1e3,
            STALL_US / 1e3,
        ));
    }
    let p99 = percentile_us(lateness, 99.0);
    output::say(&format!(
        "A 1 kHz timer beside each loaded shard (256 in flight) is late by p50 {:.0} µs, p99 \
         {p99:.0} µs, at most {:.0} µs",
        percentile_us(lateness, 50.0),
        percentile_us(lateness, 100.0),
    ));
    if report.runs.iter().all(|run| run.load.cores == 1) {
        // With more cores than processors, that says who had the processor.
        let reached = output::reached(p99 <= LATENESS_P99_MAX_US);
        output::say(&format!(
            "Its p99 within {LATENESS_P99_MAX_US} µs: {reached}"
        ));
    }
}

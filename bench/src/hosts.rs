//! Both hosts side by side, and a 1 kHz timer beside a loaded shard.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use crossbeam_channel::{Receiver, bounded};
use pontoon::Node;

use crate::cli::RunArguments;
use crate::cluster::{Cluster, Shape};
use crate::data::DataDirectory;
use crate::environment::Environment;
use crate::floor::{Floor, FloorLatencies, Stage};
use crate::histogram::{self, Buckets, percentile_us};
use crate::load::Load;
use crate::node::Host;
use crate::output;
use crate::report::{LoadShape, Measured, Report};
use crate::run::repeat;

const REPETITIONS: usize = 3;
const TICK: Duration = Duration::from_millis(1);

/// As it was asked of the timer.
const LATENESS_P99_MAX_US: f64 = 5_000.0;

/// A timer on a core's executor.
pub(crate) struct Timer {
    stop: Arc<AtomicBool>,
    lateness: Receiver<Buckets>,
}

/// Starts a task beside the shard of core 0 that sleeps a millisecond at a time.
pub(crate) fn start_timer(node: &Node) -> Result<Timer> {
    let stop = Arc::new(AtomicBool::new(false));
    let (sender, lateness) = bounded(1);
    let stopped = Arc::clone(&stop);
    let spawned = node.spawn_on(0, move || async move {
        let mut latencies = histogram::latencies();
        while !stopped.load(Relaxed) {
            let due = Instant::now() + TICK;
            pontoon::glommio::timer::sleep(TICK).await;
            histogram::record(&mut latencies, due.elapsed());
        }
        // Whoever started the timer may have given up.
        let _ = sender.send(Buckets::from(&latencies));
    });
    ensure!(spawned, "core 0 is not run by glommio");
    Ok(Timer { stop, lateness })
}

impl Timer {
    /// How late each tick came.
    pub(crate) fn stop(self) -> Result<Buckets> {
        self.stop.store(true, Relaxed);
        let lateness = self.lateness.recv_timeout(Duration::from_secs(10));
        lateness.context("the timer's task did not end")
    }
}

/// The subcommand `hosts`.
pub(crate) fn run(arguments: &RunArguments) -> Result<()> {
    let data = DataDirectory::create(arguments.places.data.as_deref())?;
    let mut stage = Stage::set(&data, arguments.payload)?;
    let time = Duration::from_secs_f64(arguments.seconds);
    let mut latencies = FloorLatencies::new();
    let floor = Floor::median(&[stage.measure(time, &mut latencies)?]);
    let hosts = [Host::Thread, Host::Glommio];
    let mut clusters = Vec::new();
    for host in hosts {
        let shape = Shape {
            nodes: arguments.nodes,
            cores: arguments.cores,
            host,
            spin_us: arguments.spin_us,
            groups: 1,
        };
        clusters.push(Cluster::start(&data, &format!("{host:?}"), shape)?);
    }
    let mut runs = Vec::new();
    let mut commands_checked = 0;
    for in_flight in [1, 256] {
        let load = Load {
            groups: 1,
            in_flight,
            payload_bytes: arguments.payload,
            rate: arguments.rate,
            seconds: arguments.seconds,
            warmup_seconds: 0.3,
        };
        let mut repetitions = [Vec::new(), Vec::new()];
        for _ in 0..REPETITIONS {
            for (cluster, repetitions) in clusters.iter_mut().zip(&mut repetitions) {
                repetitions.push(repeat(cluster, &load)?);
            }
        }
        for (host, repetitions) in hosts.into_iter().zip(&repetitions) {
            let shape = LoadShape {
                nodes: arguments.nodes,
                cores: arguments.cores,
                groups: 1,
                in_flight,
                payload_bytes: arguments.payload,
                host,
            };
            runs.push(Measured::of(shape, repetitions));
        }
    }
    let lateness = timer_beside_load(&mut clusters[1], arguments)?;
    for cluster in &mut clusters {
        commands_checked += cluster.check(0)?;
    }
    let report = Report {
        environment: Environment::of(data.path(), stage.sync),
        floor,
        floor_before: floor,
        floor_after: floor,
        runs,
        commands_checked,
    };
    print(&report, &lateness);
    Ok(())
}

fn timer_beside_load(
    cluster: &mut Cluster,
    arguments: &RunArguments,
) -> Result<histogram::Latencies> {
    let load = Load {
        groups: 1,
        in_flight: 256,
        payload_bytes: arguments.payload,
        rate: None,
        seconds: arguments.seconds,
        warmup_seconds: 0.0,
    };
    let (_, buckets) = cluster.load_beside_timer(&load)?;
    let mut lateness = histogram::latencies();
    buckets.add_to(&mut lateness);
    Ok(lateness)
}

fn print(report: &Report, lateness: &histogram::Latencies) {
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
    let reached = if p99 <= LATENESS_P99_MAX_US {
        "yes"
    } else {
        "NO"
    };
    output::say(&format!(
        "A 1 kHz timer beside the loaded shard (256 in flight) is late by p50 {:.0} µs, p99 \
         {p99:.0} µs, at most {:.0} µs; p99 within {LATENESS_P99_MAX_US} µs: {reached}",
        percentile_us(lateness, 50.0),
        percentile_us(lateness, 100.0),
    ));
}

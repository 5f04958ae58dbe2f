//! A node that was down gets level over a narrow link, while the load goes on.
//!
//! The node is killed, misses some megabytes, and is started again. It is level when it has applied
//! what the leader had applied a moment before. The best possible: the link carries the commands it
//! missed and those that come meanwhile, once each and nothing else.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde::Serialize;

use crate::cli::CatchUpArguments;
use crate::cluster::{Cluster, Groups, Shape};
use crate::data::{DataDirectory, write_result};
use crate::environment::Environment;
use crate::link::Link;
use crate::load::Load;
use crate::machine::Kind;
use crate::output;
use crate::requests::Host;

/// The node behind the link.
const RETURNING_NODE: u64 = 3;

/// Between two looks at the nodes' progress; a node that is so little behind is level.
const LOOK: Duration = Duration::from_millis(50);

/// Longest load, should nobody end it.
const LOAD_SECONDS_MAX: f64 = 3_600.0;

const TIME_RATIO_MAX: f64 = 1.2;
const BYTES_RATIO_MAX: f64 = 1.1;

#[derive(Debug, Serialize)]
struct CatchUpReport {
    environment: Environment,
    groups: u64,
    link_bytes_per_second: u64,
    load_bytes_per_second: f64,
    /// Commands' bytes that were missed while the node was down.
    missed_bytes: u64,
    /// From the start of the node, its recovery included.
    seconds: f64,
    seconds_possible: f64,
    /// Commands' bytes that were missed, or came before the node was level.
    needed_bytes: u64,
    carried_bytes: u64,
    refused: u64,
    unknown: u64,
}

/// Runs the subcommand `catch-up`.
///
/// # Errors
/// When the load is more than the link carries, a node or the disk fails, the returned node does
/// not get level, or replicas differ.
pub(crate) fn run(arguments: &CatchUpArguments) -> Result<()> {
    let load_bytes_per_second = arguments.rate * arguments.payload as f64;
    ensure!(
        load_bytes_per_second < 0.9 * arguments.link as f64,
        "a load of {load_bytes_per_second:.0} bytes/s leaves nothing of a link of {} bytes/s to \
         catch up with; lower --rate or --payload, or raise --link",
        arguments.link
    );
    let data = DataDirectory::create(arguments.places.data.as_deref())?;
    let environment = Environment::measured(&data)?;
    let progress = output::progress(3);
    let (mut cluster, link) = start(&data, arguments)?;
    progress.set_message("one node is down");
    let (at_kill, unknown_burst) = fall_behind(&mut cluster, arguments)?;
    progress.inc(1);
    cluster.start_loads(&[load(arguments, Some(arguments.rate))])?;
    progress.set_message("it catches up");
    link.limit(Some(arguments.link));
    let carried_before = link.bytes_to_node();
    let missed = sum(&cluster.progress(1)?) - at_kill;
    let begun = Instant::now();
    cluster.restart(RETURNING_NODE, &link)?;
    cluster.adopt(RETURNING_NODE, arguments.groups)?;
    let level = get_level(&mut cluster, arguments, begun);
    let seconds = begun.elapsed().as_secs_f64();
    let carried_bytes = link.bytes_to_node() - carried_before;
    let loaded = cluster.finish_loads(true)?.remove(0);
    progress.inc(1);
    let needed = level? - at_kill;
    link.limit(None);
    progress.set_message("the replicas are compared");
    cluster.check(loaded.unknown + unknown_burst)?;
    progress.finish_and_clear();
    let payload = arguments.payload as u64;
    let missed_bytes = missed * payload;
    publish(
        arguments,
        &CatchUpReport {
            environment,
            groups: arguments.groups,
            link_bytes_per_second: arguments.link,
            load_bytes_per_second,
            missed_bytes,
            seconds,
            seconds_possible: missed_bytes as f64 / (arguments.link as f64 - load_bytes_per_second),
            needed_bytes: needed * payload,
            carried_bytes,
            refused: loaded.rejected,
            unknown: loaded.unknown,
        },
    )
}

fn start(data: &DataDirectory, arguments: &CatchUpArguments) -> Result<(Cluster, Link)> {
    let shape = Shape {
        nodes: RETURNING_NODE,
        cores: 1,
        host: Host::Thread,
        spin_us: 0,
        groups: arguments.groups,
    };
    let (mut cluster, link) = Cluster::start_linked(data, "catch-up", shape)?;
    cluster.create(&Groups {
        first: 1,
        count: arguments.groups,
        members: (1..=RETURNING_NODE).collect(),
        kind: Kind::Keeping,
    })?;
    cluster.lead()?;
    Ok((cluster, link))
}

fn load(arguments: &CatchUpArguments, rate: Option<f64>) -> Load {
    Load {
        first_group: 1,
        groups: arguments.groups,
        in_flight: if rate.is_some() { 4_096 } else { 256 },
        payload_bytes: arguments.payload,
        rate,
        seconds: LOAD_SECONDS_MAX,
        warmup_seconds: 0.0,
    }
}

/// Kills the node, and proposes until it misses enough. Gives the entries it had, and how many
/// outcomes are unknown.
fn fall_behind(cluster: &mut Cluster, arguments: &CatchUpArguments) -> Result<(u64, u64)> {
    // One short load first, so that the node does not come back with nothing.
    let warmup = Load {
        seconds: 0.3,
        ..load(arguments, Some(arguments.rate))
    };
    let mut unknown = cluster.load(&warmup)?.unknown;
    cluster.check(unknown)?;
    let at_kill = sum(&cluster.progress(RETURNING_NODE)?);
    cluster.kill(RETURNING_NODE);
    cluster.start_loads(&[load(arguments, None)])?;
    let wanted = at_kill + arguments.behind / arguments.payload as u64;
    let deadline = Instant::now() + Duration::from_secs_f64(arguments.patience);
    while sum(&cluster.progress(1)?) < wanted && Instant::now() < deadline {
        std::thread::sleep(LOOK / 10);
    }
    unknown += cluster.finish_loads(true)?[0].unknown;
    let missed = sum(&cluster.progress(1)?);
    ensure!(
        missed >= wanted,
        "the two others committed only {missed} of {wanted} entries within {} s",
        arguments.patience
    );
    Ok((at_kill, unknown))
}

/// Waits until the node has applied what the leader had a look before. Gives the entries it has.
fn get_level(cluster: &mut Cluster, arguments: &CatchUpArguments, begun: Instant) -> Result<u64> {
    let patience = Duration::from_secs_f64(arguments.patience);
    loop {
        let wanted = cluster.progress(1)?;
        std::thread::sleep(LOOK);
        let there = cluster.progress(RETURNING_NODE)?;
        if there
            .iter()
            .zip(&wanted)
            .all(|(there, wanted)| there >= wanted)
        {
            return Ok(sum(&there));
        }
        ensure!(
            begun.elapsed() < patience,
            "the node is not level {} s after its return: it has {} entries, the leader {}",
            arguments.patience,
            sum(&there),
            sum(&wanted)
        );
    }
}

/// Entries in all groups.
fn sum(indexes: &[u64]) -> u64 {
    indexes.iter().sum()
}

fn publish(arguments: &CatchUpArguments, report: &CatchUpReport) -> Result<()> {
    let time = report.seconds / report.seconds_possible;
    let bytes = report.carried_bytes as f64 / report.needed_bytes as f64;
    output::say(&report.environment.line());
    let header = [
        "",
        "measured",
        "best possible",
        "ratio",
        "wanted",
        "reached",
    ];
    let megabytes = |bytes: u64| format!("{:.1} MB", bytes as f64 / 1e6);
    output::table(
        &header,
        &[
            vec![
                "time to level".to_owned(),
                format!("{:.2} s", report.seconds),
                format!("{:.2} s", report.seconds_possible),
                format!("{time:.2}"),
                format!("{TIME_RATIO_MAX}"),
                output::reached(time <= TIME_RATIO_MAX).to_owned(),
            ],
            vec![
                "carried to the node".to_owned(),
                megabytes(report.carried_bytes),
                megabytes(report.needed_bytes),
                format!("{bytes:.2}"),
                format!("{BYTES_RATIO_MAX}"),
                output::reached(bytes <= BYTES_RATIO_MAX).to_owned(),
            ],
        ],
    );
    output::say(&format!(
        "{} behind over {}/s, under a load of {}/s on {} groups; refused {}, unknown {}",
        megabytes(report.missed_bytes),
        megabytes(report.link_bytes_per_second),
        megabytes(report.load_bytes_per_second as u64),
        report.groups,
        report.refused,
        report.unknown
    ));
    if let Some(path) = &arguments.places.json {
        write_result(path, &serde_json::to_string_pretty(report)?)?;
    }
    Ok(())
}

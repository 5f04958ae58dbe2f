//! Single runs, campaigns, mutants, and the smallest number of events that fails.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use anyhow::{Context, Result};
use clap::Parser;
use pontoon_sim::edn;
use pontoon_sim::{
    Coverage, FAULTS, Failure, Faults, MUTANTS, Options, RARE_EVENTS, Report, Swarm,
};

use crate::quiet::simulate;
use crate::{fresh, output};

/// A campaign of fewer seeds need not meet every rare event.
const SEEDS_FOR_COVERAGE: u64 = 2_000;

/// Seeds within which a mutant must be noticed.
const MUTANT_SEEDS: u64 = 2_000;

/// Runs whole clusters on a simulated clock, network and disk. A seed replays a run exactly.
#[derive(Debug, Parser)]
#[command(name = "pontoon-sim", version)]
pub(crate) struct Arguments {
    /// One run, told event by event if it fails; PONTOON_LOG=debug adds the nodes' log lines.
    /// Example: pontoon-sim --seed 7
    #[arg(long, conflicts_with_all = ["seeds", "mutants", "minimize", "fresh"])]
    seed: Option<u64>,

    /// A campaign of so many seeds, on all processors. Example: pontoon-sim --seeds 5000
    #[arg(long, default_value_t = 1000)]
    seeds: u64,

    /// The campaign's first seed. Example: pontoon-sim --seeds 100 --from 5000
    #[arg(long, default_value_t = 0, conflicts_with_all = ["seed", "minimize"])]
    from: u64,

    /// Draw the campaign's first seed from the operating system, and say which it was.
    /// Example: pontoon-sim --seeds 1000 --fresh
    #[arg(long, conflicts_with_all = ["from", "minimize"])]
    fresh: bool,

    /// Break one rule after the other, and count the seeds until it is noticed.
    /// Example: pontoon-sim --mutants
    #[arg(long)]
    mutants: bool,

    /// With --mutants: only those with this in their names. Example: pontoon-sim --mutants
    /// --only room
    #[arg(long, value_name = "TEXT", requires = "mutants")]
    only: Option<String>,

    /// Find the smallest number of events with which this seed still fails.
    /// Example: pontoon-sim --minimize 7
    #[arg(long, value_name = "SEED", conflicts_with = "mutants")]
    minimize: Option<u64>,

    /// Events of the phase with faults. Example: pontoon-sim --seed 7 --events 500
    #[arg(long, default_value_t = 2_000)]
    events: u64,

    /// With --seed: write what happened to a file. Example: pontoon-sim --seed 7 --trace run.txt
    #[arg(long, value_name = "FILE", requires = "seed")]
    trace: Option<PathBuf>,

    /// With --seed: write what the clients saw to a file, as EDN for Knossos and porcupine.
    /// Example: pontoon-sim --seed 7 --history run.edn
    #[arg(long, value_name = "FILE", requires = "seed")]
    history: Option<PathBuf>,
}

impl Arguments {
    /// Whether one seed is run, whose log lines a person can read.
    pub(crate) fn is_single(&self) -> bool {
        self.seed.is_some()
    }
}

/// True if everything held (or every mutant was noticed).
pub(crate) fn run(arguments: &Arguments) -> Result<bool> {
    if let Some(seed) = arguments.seed {
        return one(arguments, seed);
    }
    if let Some(seed) = arguments.minimize {
        return Ok(minimize(arguments, seed));
    }
    let from = if arguments.fresh {
        let from = fresh::first_seed();
        output::say(&format!("fresh seeds {from}..{}", from + arguments.seeds));
        from
    } else {
        arguments.from
    };
    if arguments.mutants {
        return Ok(mutants(arguments, from));
    }
    Ok(campaign(arguments, from))
}

fn options(arguments: &Arguments, seed: u64) -> Options {
    Options {
        events: arguments.events,
        ..Options::new(seed)
    }
}

fn one(arguments: &Arguments, seed: u64) -> Result<bool> {
    let outcome = simulate(&Options {
        keep_trace: true,
        keep_history: arguments.history.is_some(),
        ..options(arguments, seed)
    });
    output::say(&format!("{:?}", Swarm::draw(seed)));
    let (trace, history, held) = match outcome {
        Ok(report) => {
            output::say(&format!(
                "seed {seed}: {} events, {:.1} simulated seconds, {} operations acknowledged, \
                 trace {:016x}",
                report.events,
                report.simulated as f64 / 1e9,
                report.acknowledged,
                report.trace_hash
            ));
            (report.trace, report.history, true)
        }
        Err(failure) => {
            for line in failure.trace.iter().rev().take(40).rev() {
                output::say(line);
            }
            tell(&failure, arguments);
            (failure.trace, failure.history, false)
        }
    };
    if let Some(path) = &arguments.trace {
        let mut text = String::new();
        for line in &trace {
            writeln!(text, "{line}")?;
        }
        write(path, &text)?;
    }
    if let Some(path) = &arguments.history {
        write(path, &edn(&history))?;
    }
    Ok(held)
}

fn write(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).with_context(|| format!("writing {}", path.display()))
}

fn tell(failure: &Failure, arguments: &Arguments) {
    output::complain(&format!(
        "seed {} failed at event {}: {}\nreplay it: cargo run --release -p pontoon-sim -- \
         --seed {} --events {}",
        failure.seed, failure.event, failure.message, failure.seed, arguments.events
    ));
}

/// What a campaign adds up.
#[derive(Default)]
struct Sum {
    runs: u64,
    events: u64,
    simulated: u64,
    acknowledged: u64,
    /// Sum of the traces' hashes: equal for equal behaviour, whatever order the seeds ran in.
    traces: u64,
    coverage: Coverage,
    faults: Faults,
    failures: Vec<Failure>,
}

impl Sum {
    fn add(&mut self, outcome: Result<Report, Failure>) {
        self.runs += 1;
        match outcome {
            Ok(report) => {
                self.events += report.events;
                self.simulated += report.simulated;
                self.acknowledged += report.acknowledged as u64;
                self.traces = self.traces.wrapping_add(report.trace_hash);
                self.coverage.join(&report.coverage);
                self.faults.join(&report.faults);
            }
            Err(failure) => self.failures.push(failure),
        }
    }
}

/// Runs seeds on all processors until they are done or `enough` says so.
fn run_seeds(
    seeds: std::ops::Range<u64>,
    run_one: impl Fn(u64) -> Result<Report, Failure> + Sync,
    enough: impl Fn(&Sum) -> bool + Sync,
    progress: &indicatif::ProgressBar,
) -> Sum {
    let next = AtomicU64::new(seeds.start);
    let stop = AtomicBool::new(false);
    let sum = Mutex::new(Sum::default());
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while !stop.load(Relaxed) {
                    let seed = next.fetch_add(1, Relaxed);
                    if seed >= seeds.end {
                        return;
                    }
                    let outcome = run_one(seed);
                    let mut sum = sum.lock().unwrap_or_else(PoisonError::into_inner);
                    sum.add(outcome);
                    progress.inc(1);
                    if enough(&sum) {
                        stop.store(true, Relaxed);
                    }
                }
            });
        }
    });
    sum.into_inner().unwrap_or_else(PoisonError::into_inner)
}

fn campaign(arguments: &Arguments, from: u64) -> bool {
    let begun = Instant::now();
    let progress = output::progress(arguments.seeds);
    let seeds = from..from + arguments.seeds;
    let sum = run_seeds(
        seeds,
        |seed| simulate(&options(arguments, seed)),
        |sum| sum.failures.len() >= 10,
        &progress,
    );
    progress.finish_and_clear();
    let seconds = begun.elapsed().as_secs_f64();
    output::say(&format!(
        "{} runs, {} events, {:.1} simulated hours, {} operations acknowledged; {:.0} runs/s; \
         traces {:016x}",
        sum.runs,
        sum.events,
        sum.simulated as f64 / 3.6e12,
        sum.acknowledged,
        sum.runs as f64 / seconds,
        sum.traces
    ));
    tabulate(&sum);
    for failure in &sum.failures {
        tell(failure, arguments);
    }
    let mut missing = sum.coverage.missing();
    missing.extend(sum.faults.missing());
    let covered = missing.is_empty() || arguments.seeds < SEEDS_FOR_COVERAGE;
    if !covered {
        output::complain(&format!("never met: {}", missing.join(", ")));
    }
    sum.failures.is_empty() && covered
}

/// What was done to the clusters, and what rare events they met.
fn tabulate(sum: &Sum) {
    let rows = FAULTS.iter().map(|(fault, name)| {
        let (times, runs) = sum.faults.of(*fault);
        vec![(*name).to_owned(), times.to_string(), runs.to_string()]
    });
    output::table(&["fault", "times", "runs"], &rows.collect::<Vec<_>>());
    let rows = RARE_EVENTS
        .iter()
        .map(|(event, label)| vec![(*label).to_owned(), sum.coverage.of(*event).to_string()]);
    output::table(&["rare event", "times"], &rows.collect::<Vec<_>>());
}

fn mutants(arguments: &Arguments, from: u64) -> bool {
    let mut rows = Vec::new();
    let mut all = true;
    let progress = output::progress(MUTANTS.len() as u64);
    let only = arguments.only.as_deref().unwrap_or_default();
    for named in MUTANTS.iter().filter(|named| named.name.contains(only)) {
        progress.set_message(named.name);
        let begun = Instant::now();
        let hidden = indicatif::ProgressBar::hidden();
        let sum = run_seeds(
            from..from + MUTANT_SEEDS,
            |seed| {
                let broken = simulate(&Options {
                    mutant: Some(named.mutant),
                    ..options(arguments, seed)
                });
                // A seed that fails by itself shows nothing of the mutant.
                broken.or_else(|failure| match simulate(&options(arguments, seed)) {
                    Ok(_) => Err(failure),
                    Err(_) => simulate(&Options {
                        events: 1,
                        ..options(arguments, 0)
                    }),
                })
            },
            |sum| !sum.failures.is_empty(),
            &hidden,
        );
        progress.inc(1);
        let first = sum.failures.first();
        all &= first.is_some();
        rows.push(vec![
            named.name.to_owned(),
            first.map_or_else(|| "SURVIVED".to_owned(), |_| sum.runs.to_string()),
            format!("{:.1}", begun.elapsed().as_secs_f64()),
            first.map_or_else(String::new, |failure| {
                let end = failure.message.char_indices().nth(60).map(|(at, _)| at);
                failure.message[..end.unwrap_or(failure.message.len())].to_owned()
            }),
        ]);
    }
    progress.finish_and_clear();
    output::table(&["mutant", "seeds", "seconds", "noticed by"], &rows);
    all
}

fn minimize(arguments: &Arguments, seed: u64) -> bool {
    let fails = |events| {
        simulate(&Options {
            events,
            ..Options::new(seed)
        })
        .err()
    };
    let Some(mut smallest) = fails(arguments.events) else {
        output::say(&format!("seed {seed} does not fail"));
        return true;
    };
    let (mut low, mut high) = (0, arguments.events);
    while low < high {
        let middle = low.midpoint(high);
        match fails(middle) {
            Some(failure) => (smallest, high) = (failure, middle),
            None => low = middle + 1,
        }
    }
    output::say(&format!("seed {seed} fails with {high} events"));
    tell(
        &smallest,
        &Arguments {
            events: high,
            seed: None,
            trace: None,
            history: None,
            only: None,
            ..*arguments
        },
    );
    false
}

//! The simulator over fixed seeds: histories hold, replay exactly, and show what is broken.

use pontoon_sim::{Coverage, Fault, Faults, MUTANTS, Options, RareEvent, run};

/// Every commit runs these; campaigns of `pontoon-sim` run others.
const SEEDS: std::ops::Range<u64> = 100_000..100_200;

#[test]
fn two_hundred_histories_hold() {
    let mut coverage = Coverage::default();
    let mut faults = Faults::default();
    for seed in SEEDS {
        match run(&Options::new(seed)) {
            Ok(report) => {
                coverage.join(&report.coverage);
                faults.join(&report.faults);
            }
            Err(failure) => panic!(
                "seed {seed}, event {}: {}\nreplay it: cargo run --release -p pontoon-sim -- \
                 --seed {seed}",
                failure.event, failure.message
            ),
        }
    }
    for mark in [
        RareEvent::TaintedReplica,
        RareEvent::LeaderChanged,
        RareEvent::OutcomeUnknown,
    ] {
        assert!(coverage.of(mark) > 0, "{mark:?} never happened");
    }
    for fault in [
        Fault::Crash,
        Fault::PauseInTurn,
        Fault::ForeignDisk,
        Fault::Clog,
    ] {
        let (times, runs) = faults.of(fault);
        assert!(times >= runs && runs > 0, "{fault:?} was never injected");
    }
}

#[test]
fn a_seed_replays_a_history_exactly() {
    for seed in (SEEDS.start..SEEDS.end).step_by(20) {
        let options = Options {
            keep_trace: true,
            ..Options::new(seed)
        };
        let (first, second) = (run(&options), run(&options));
        let (first, second) = (first.expect("it holds"), second.expect("it holds"));
        assert_eq!(first.trace, second.trace, "seed {seed}");
        assert_eq!(first.trace_hash, second.trace_hash, "seed {seed}");
    }
}

/// Rules whose breach shows within a few seeds. `pontoon-sim --mutants` tries all.
#[test]
fn broken_rules_are_noticed() {
    let quick = [
        "candidate counts its own vote early",
        "votes for a log that is behind",
        "answers before the frame is durable",
        "answers a resent append early",
        "leader counts its own undurable entry",
    ];
    for name in quick {
        let named = MUTANTS.iter().find(|named| named.name == name);
        let mutant = named.expect("it is in the list").mutant;
        let noticed = (0..200).any(|seed| {
            let options = Options {
                mutant: Some(mutant),
                ..Options::new(seed)
            };
            run(&options).is_err()
        });
        assert!(noticed, "{name}: nobody noticed in 200 seeds");
    }
}

/// Damage to durable data is fetched again from the others, in clusters of three and of five, and
/// no acknowledged operation is lost by it: that is checked in every run.
#[test]
fn damage_to_durable_data_is_repaired_from_peers() {
    for nodes in [3, 5] {
        let mut coverage = Coverage::default();
        let damaged = (200_000..)
            .filter(|seed| pontoon_sim::Swarm::draw(*seed).repairs(nodes))
            .take(240);
        for seed in damaged {
            match run(&Options::new(seed)) {
                Ok(report) => coverage.join(&report.coverage),
                Err(failure) => panic!("{nodes} nodes, seed {seed}: {}", failure.message),
            }
        }
        let repaired = coverage.of(RareEvent::DamageRefetched);
        assert!(repaired > 0, "{nodes} nodes: nothing was repaired");
    }
}

//! The command as a user runs it.

use std::process::{Command, Output};

fn simulate(arguments: &[&str]) -> Output {
    let command = Command::new(env!("CARGO_BIN_EXE_pontoon-sim"))
        .args(arguments)
        .output();
    command.expect("the command was built with this test")
}

#[test]
fn a_seed_writes_the_same_trace_twice() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let traces = ["a", "b"].map(|name| {
        let path = directory.path().join(name);
        let trace = path.to_str().expect("a plain path");
        let output = simulate(&["--seed", "7", "--trace", trace]);
        assert!(output.status.success(), "{output:?}");
        std::fs::read(path).expect("it was written")
    });
    assert!(!traces[0].is_empty());
    assert_eq!(traces[0], traces[1]);
}

#[test]
fn a_campaign_tells_what_it_met() {
    let output = simulate(&["--seeds", "20", "--from", "5"]);
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.starts_with("20 runs"), "{text}");
    for told in [
        "runs/s",
        "simulated hours",
        "node crashed",
        "write misdirected",
        "tainted replica",
    ] {
        assert!(text.contains(told), "{told} is not in {text}");
    }
}

#[test]
fn fresh_seeds_are_named_so_that_they_can_be_run_again() {
    let output = simulate(&["--seeds", "2", "--fresh"]);
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8_lossy(&output.stdout);
    let range = text
        .lines()
        .next()
        .and_then(|line| line.strip_prefix("fresh seeds "));
    let (from, to) = range
        .and_then(|range| range.split_once(".."))
        .expect("a range");
    let number = |text: &str| text.parse::<u64>().expect("a seed");
    assert_eq!(number(to) - number(from), 2);
}

#[test]
fn flags_that_contradict_each_other_are_refused() {
    for flags in [["--seed", "7", "--mutants"], ["--from", "7", "--fresh"]] {
        let output = simulate(&flags);
        assert_eq!(output.status.code(), Some(2), "{flags:?}");
    }
}

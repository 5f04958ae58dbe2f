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
fn flags_that_contradict_each_other_are_refused() {
    let output = simulate(&["--seed", "7", "--mutants"]);
    assert_eq!(output.status.code(), Some(2));
}

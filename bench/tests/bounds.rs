//! The subcommands that set a result beside its target, in short form: their figures add up.

use std::fs;
use std::process::Command;

use serde_json::Value;

/// Runs the program on a fresh directory of the real disk. Gives its table and its figures.
fn figures(arguments: &[&str]) -> (String, Value) {
    let scratch = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"));
    let scratch = scratch.expect("cargo made its parent");
    let json = scratch.path().join("figures.json");
    let output = Command::new(env!("CARGO_BIN_EXE_pontoon-bench"))
        .args(arguments)
        .arg("--data")
        .arg(scratch.path().join("data"))
        .arg("--json")
        .arg(&json)
        .output()
        .expect("the program was built for this test");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    let table = String::from_utf8(output.stdout).expect("a table is text");
    let json = fs::read_to_string(&json).expect("the figures were written");
    (table, serde_json::from_str(&json).expect("they are JSON"))
}

fn figure(figures: &Value, pointer: &str) -> f64 {
    let value = figures.pointer(pointer).and_then(Value::as_f64);
    value.unwrap_or_else(|| panic!("{pointer} is missing in {figures}"))
}

#[test]
fn a_long_way_is_measured_and_costs_no_leadership() {
    let arguments = ["long-way", "--ways", "5", "--seconds", "1", "--window", "1"];
    let (table, figures) = figures(&arguments);
    assert!(table.contains("leaderships lost"), "{table}");
    assert!(figure(&figures, "/0/share") > 0.0);
    assert_eq!(figure(&figures, "/0/leaderships_lost"), 0.0);
}

#[test]
fn a_slow_peer_is_measured_beside_a_fast_one() {
    let (table, figures) = figures(&[
        "slow-peer",
        "--groups",
        "6",
        "--seconds",
        "0.5",
        "--rate",
        "200",
    ]);
    assert!(table.contains("others, one peer slow"), "{table}");
    for setting in ["fast", "slow"] {
        for part in ["with_the_peer", "without_it"] {
            let of = |name: &str| figure(&figures, &format!("/{setting}/{part}/{name}"));
            assert!(of("commits_per_second") > 0.0, "{setting} {part}");
            assert!(of("p99_us") >= of("p50_us"), "{setting} {part}");
        }
    }
    assert!(figure(&figures, "/ratio") > 0.0);
}

#[test]
fn a_start_with_ten_times_as_many_groups_is_measured_beside_one_with_few() {
    let (table, figures) = figures(&["groups-restart", "--groups", "20", "--entries", "2"]);
    assert!(table.contains("200 groups"), "{table}");
    for start in ["/one_group", "/starts/0/1", "/starts/1/1"] {
        let of = |name: &str| figure(&figures, &format!("{start}/{name}"));
        assert!(of("applied_seconds") >= of("open_seconds"), "{start}");
    }
}

#[test]
fn a_load_that_fills_the_link_is_refused_with_the_remedy() {
    let output = Command::new(env!("CARGO_BIN_EXE_pontoon-bench"))
        .args(["catch-up", "--rate", "5000"])
        .output()
        .expect("the program was built for this test");
    assert_eq!(output.status.code(), Some(1));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(errors.contains("lower --rate"), "{errors}");
}

#[test]
fn a_node_that_was_down_gets_level_and_what_it_was_sent_is_counted() {
    let (table, figures) = figures(&[
        "catch-up", "--groups", "3", "--behind", "1000000", "--rate", "200",
    ]);
    assert!(table.contains("time to level"), "{table}");
    let missed = figure(&figures, "/missed_bytes");
    assert!(missed >= 1_000_000.0);
    assert!(figure(&figures, "/needed_bytes") >= missed);
    assert!(figure(&figures, "/carried_bytes") > 0.0);
    assert!(figure(&figures, "/seconds") > 0.0);
}

//! The program itself, in short form, on a real disk: its figures, its checks, its clean-up.

use std::fs;
use std::process::Command;

use serde_json::Value;

fn bench(arguments: &[&str]) -> std::process::Output {
    let program = env!("CARGO_BIN_EXE_pontoon-bench");
    Command::new(program)
        .args(arguments)
        .output()
        .expect("the program was built for this test")
}

#[test]
fn the_floor_is_measured_reported_and_cleaned_up_after() {
    let scratch = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let (data, json) = (
        scratch.path().join("data"),
        scratch.path().join("floor.json"),
    );
    let [data_text, json_text] = [&data, &json].map(|path| path.to_str().unwrap());
    let arguments = [
        "floor",
        "--seconds",
        "0.5",
        "--data",
        data_text,
        "--json",
        json_text,
    ];
    let output = bench(&arguments);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    let table = String::from_utf8_lossy(&output.stdout);
    assert!(table.contains("replicated write, 256 commands"), "{table}");

    let figures: Value = serde_json::from_str(&fs::read_to_string(&json).unwrap()).unwrap();
    let figure = |pointer: &str| figures.pointer(pointer).and_then(Value::as_f64).unwrap();
    assert!(figure("/floor/bare_write/rounds_per_second") > 0.0);
    assert!(figure("/floor/bare_write/p99_us") >= figure("/floor/bare_write/p50_us"));
    assert!(figure("/floor/tcp_round_trip_us/p50") > 0.0);
    assert!(figure("/floor/durable_write_three_us/p50") > 0.0);
    assert!(
        !data.exists(),
        "the data directory was made by the run and must go with it"
    );
}

#[test]
fn a_data_directory_that_is_a_file_is_refused_by_name() {
    let scratch = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let file = scratch.path().join("file");
    fs::write(&file, "not a directory").unwrap();
    let output = bench(&["floor", "--data", file.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(errors.contains(file.to_str().unwrap()), "{errors}");
}

#[test]
fn a_run_compares_the_loads_to_the_floor_and_checks_what_was_applied() {
    let scratch = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let (data, json) = (scratch.path().join("data"), scratch.path().join("run.json"));
    let [data_text, json_text] = [&data, &json].map(|path| path.to_str().unwrap());
    let output = bench(&[
        "run",
        "--seconds",
        "1.5",
        "--data",
        data_text,
        "--json",
        json_text,
    ]);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    let table = String::from_utf8_lossy(&output.stdout);
    assert!(table.contains("All replicas agree"), "{table}");

    let figures: Value = serde_json::from_str(&fs::read_to_string(&json).unwrap()).unwrap();
    let runs = figures["runs"].as_array().unwrap();
    assert_eq!(runs.len(), 3);
    let loads: Vec<_> = runs
        .iter()
        .map(|run| {
            (
                run["load"]["groups"].as_u64(),
                run["load"]["in_flight"].as_u64(),
            )
        })
        .collect();
    assert_eq!(
        loads,
        [
            (Some(1), Some(1)),
            (Some(1), Some(256)),
            (Some(64), Some(256))
        ]
    );
    for run in runs {
        assert!(run["commits_per_second"].as_f64().unwrap() > 0.0);
        assert!(run["latency_us"]["max"].as_f64() >= run["latency_us"]["p50"].as_f64());
        assert!(run["bytes_written_per_payload_byte"].as_f64().unwrap() > 1.0);
    }
    assert!(runs[0]["ratio_to_floor"]["p50"].as_f64().unwrap() > 0.0);
    assert!(runs[1]["share_of_floor"].as_f64().unwrap() > 0.0);
    assert!(!data.exists(), "the data is gone afterwards");
}

#[test]
fn an_open_loop_is_measured_as_well() {
    let scratch = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let (data, json) = (scratch.path().join("data"), scratch.path().join("run.json"));
    let [data_text, json_text] = [&data, &json].map(|path| path.to_str().unwrap());
    let output = bench(&[
        "run",
        "--seconds",
        "1.5",
        "--rate",
        "500",
        "--in-flight",
        "64",
        "--data",
        data_text,
        "--json",
        json_text,
    ]);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    let figures: Value = serde_json::from_str(&fs::read_to_string(&json).unwrap()).unwrap();
    assert_eq!(figures["runs"].as_array().unwrap().len(), 1);
}

#[test]
fn a_directory_where_no_file_can_be_is_refused_by_name() {
    let output = bench(&["run", "--data", "/proc/pontoon-bench"]);
    assert_eq!(output.status.code(), Some(1));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(errors.contains("/proc/pontoon-bench"), "{errors}");
}

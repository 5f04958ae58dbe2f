//! `pontoon-sim --history`: the file is a history that checkers for Knossos' format can read.

use std::collections::BTreeMap;
use std::process::Command;

use pontoon_sim::{Call, is_linearizable};

/// Together they have every kind of event, whatever the swarm draws.
const SEEDS: std::ops::Range<u64> = 0..30;

/// One line, as it is read back.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Line {
    process: u64,
    kind: String,
    function: String,
    key: u64,
    value: Option<u64>,
    time: u64,
    index: usize,
}

/// Writes the history of a seed and gives its text.
fn history(seed: u64) -> String {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("history.edn");
    let output = Command::new(env!("CARGO_BIN_EXE_pontoon-sim"))
        .args(["--seed", &seed.to_string(), "--history"])
        .arg(&path)
        .output();
    let output = output.expect("the command was built with this test");
    assert!(output.status.success(), "{output:?}");
    std::fs::read_to_string(path).expect("it was written")
}

/// An EDN map whose keys are keywords and whose values hold no comma and no map.
fn parse(line: &str) -> Line {
    let inner = line
        .strip_prefix('{')
        .and_then(|line| line.strip_suffix('}'));
    let pairs = inner.expect("a map").split(", ");
    let pairs: BTreeMap<&str, &str> = pairs
        .map(|pair| pair.split_once(' ').expect("a key and a value"))
        .collect();
    assert_eq!(pairs.len(), 6, "{line}");
    let number = |text: &str| text.parse::<u64>().expect("a number");
    let word = |key| pairs[key].strip_prefix(':').expect("a keyword").to_owned();
    let tuple = pairs[":value"].strip_prefix('[');
    let tuple = tuple.and_then(|tuple| tuple.strip_suffix(']'));
    let (key, value) = tuple
        .and_then(|tuple| tuple.split_once(' '))
        .expect("a pair");
    Line {
        process: number(pairs[":process"]),
        kind: word(":type"),
        function: word(":f"),
        key: number(key),
        value: (value != "nil").then(|| number(value)),
        time: number(pairs[":time"]),
        index: usize::try_from(number(pairs[":index"])).expect("few lines"),
    }
}

/// Each key's calls. Every completion must answer the invocation of its process.
fn calls(lines: &[Line]) -> BTreeMap<u64, Vec<Call>> {
    let mut open: BTreeMap<u64, Line> = BTreeMap::new();
    let mut calls: BTreeMap<u64, Vec<Call>> = BTreeMap::new();
    let mut ended = Vec::new();
    for line in lines {
        if line.kind == "invoke" {
            assert!(!ended.contains(&line.process), "a process ends with :info");
            let before = open.insert(line.process, line.clone());
            assert_eq!(before, None, "one operation is outstanding");
            assert_eq!(line.value.is_none(), line.function == "read");
            continue;
        }
        let invoked = open.remove(&line.process).expect("it was invoked");
        assert_eq!((&invoked.function, invoked.key), (&line.function, line.key));
        assert!(invoked.function == "read" || invoked.value == line.value);
        let answered = match line.kind.as_str() {
            "ok" => Some(line.time),
            "info" => {
                ended.push(line.process);
                None
            }
            "fail" => continue,
            other => panic!("{other} is no kind of event"),
        };
        let write = invoked.value;
        let read = line.value.filter(|_| write.is_none());
        let call = Call {
            invoked: invoked.time,
            answered,
            write,
            read,
        };
        calls.entry(line.key).or_default().push(call);
    }
    for (_, invoked) in open {
        let call = Call {
            invoked: invoked.time,
            answered: None,
            write: invoked.value,
            read: None,
        };
        calls.entry(invoked.key).or_default().push(call);
    }
    calls
}

#[test]
fn a_history_reads_back_as_one_that_registers_could_have_given() {
    let mut kinds = BTreeMap::<String, usize>::new();
    for seed in SEEDS {
        let text = history(seed);
        let lines: Vec<Line> = text.lines().map(parse).collect();
        for (position, pair) in lines.windows(2).enumerate() {
            assert_eq!(pair[0].index, position);
            assert!(pair[0].time <= pair[1].time);
        }
        for line in &lines {
            *kinds.entry(line.kind.clone()).or_default() += 1;
        }
        for (key, calls) in calls(&lines) {
            assert!(is_linearizable(&calls), "seed {seed}, key {key}: {calls:?}");
        }
    }
    for kind in ["invoke", "ok", "fail", "info"] {
        assert!(kinds.contains_key(kind), "no :{kind} in {kinds:?}");
    }
}

#[test]
fn a_history_that_was_tampered_with_is_noticed() {
    let read = |line: &Line| line.kind == "ok" && line.function == "read";
    let found = SEEDS.into_iter().find_map(|seed| {
        let lines: Vec<Line> = history(seed).lines().map(parse).collect();
        let position = lines.iter().position(read)?;
        Some((lines, position))
    });
    let (mut tampered, position) = found.expect("a read was answered");
    tampered[position].value = Some(987_654_321);
    let key = tampered[position].key;
    assert!(!is_linearizable(&calls(&tampered)[&key]));
}

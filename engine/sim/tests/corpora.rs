//! Every fuzz target over its corpus, and over seeded mutations of each of its inputs.
//!
//! A failure names the target, the file and the mutation; `replay` runs that one again.

use std::fs;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};

use pontoon_sim::fuzz::{TARGETS, Target};
use rand_pcg::Pcg32;
use rand_pcg::rand_core::{RngCore, SeedableRng};

/// Mutations of each input, by target: a few seconds of each.
const MUTATIONS: [(&str, u64); 5] = [
    ("frame_stream", 200),
    ("hello", 2_000),
    ("segment_open", 150),
    ("segment_mutate", 200),
    ("raft_step", 300),
];

/// The input itself.
const UNCHANGED: u64 = 0;

fn corpus(target: &str) -> PathBuf {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus");
    fuzz.join(target)
}

/// The files of a corpus and what they hold, in the order of their names.
fn inputs(target: &str) -> Vec<(String, Vec<u8>)> {
    let entries = fs::read_dir(corpus(target)).expect("every target has a corpus");
    let mut inputs: Vec<_> = entries
        .map(|entry| {
            let path = entry.expect("a readable entry").path();
            let name = path.file_name().expect("a file").to_string_lossy();
            let bytes = fs::read(&path).expect("a readable input");
            (name.into_owned(), bytes)
        })
        .collect();
    inputs.sort();
    inputs
}

/// The input as mutation `seed` has it: bits flipped, bytes set, cut short, or a piece of another
/// input in it.
fn mutated(input: &[u8], others: &[(String, Vec<u8>)], seed: u64) -> Vec<u8> {
    let mut bytes = input.to_vec();
    if seed == UNCHANGED {
        return bytes;
    }
    let mut random = Pcg32::seed_from_u64(seed);
    let mut below = |end: usize| random.next_u32() as usize % end.max(1);
    for _ in 0..=below(4) {
        if bytes.is_empty() {
            break;
        }
        let at = below(bytes.len());
        match below(8) {
            0..=2 => bytes[at] ^= 1 << below(8),
            3 => bytes[at] = [0, 1, 0x7f, 0x80, 0xff][below(5)],
            4 => bytes.truncate(at),
            5 => {
                bytes.remove(at);
            }
            // The flags of every target are in the first byte.
            6 => bytes[0] = below(256) as u8,
            _ => {
                let (_, other) = &others[below(others.len())];
                let from = below(other.len());
                let length = below(other.len() - from + 1).min(4096);
                let piece = other[from..from + length].to_vec();
                let end = bytes.len().min(at + below(2) * length);
                bytes.splice(at..end, piece);
            }
        }
    }
    bytes
}

/// Runs a target over its corpus and its mutations.
fn check(name: &str) {
    let target = TARGETS.iter().find(|target| target.name == name);
    let target = target.expect("a target of this name");
    let mutations = MUTATIONS.iter().find(|(of, _)| *of == name);
    let mutations = mutations.expect("a number of mutations").1;
    let inputs = inputs(name);
    assert!(!inputs.is_empty(), "{name} has an empty corpus");
    for (file, input) in &inputs {
        for seed in UNCHANGED..=mutations {
            run(target, file, seed, &mutated(input, &inputs, seed));
        }
    }
}

fn run(target: &Target, file: &str, seed: u64, input: &[u8]) {
    let run = target.run;
    if catch_unwind(|| run(input)).is_ok() {
        return;
    }
    let name = target.name;
    let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{file}-{seed}"));
    fs::write(&kept, input).expect("a writable target directory");
    panic!(
        "{name}, {file}, mutation {seed} does not hold; replay it:\n\
         PONTOON_REPLAY={name}/{file}/{seed} cargo test -p pontoon-sim --test corpora replay -- \
         --ignored\nor, where it is kept: cd engine && cargo +nightly fuzz run {name} {}",
        kept.display()
    );
}

#[test]
fn frame_streams_hold() {
    check("frame_stream");
}

#[test]
fn hellos_hold() {
    check("hello");
}

#[test]
fn opened_segments_hold() {
    check("segment_open");
}

#[test]
fn mutated_segments_hold() {
    check("segment_mutate");
}

#[test]
fn steps_of_cores_hold() {
    check("raft_step");
}

#[test]
#[ignore = "runs what PONTOON_REPLAY names: target/file/mutation, or target:path"]
fn replay() {
    let wanted = std::env::var("PONTOON_REPLAY").expect("PONTOON_REPLAY says what");
    let named = |name: &str| TARGETS.iter().find(|target| target.name == name);
    if let Some((name, path)) = wanted.split_once(':') {
        let input = fs::read(path).expect("a readable input");
        return (named(name).expect("a target").run)(&input);
    }
    let parts: Vec<&str> = wanted.split('/').collect();
    let [name, file, seed] = parts[..] else {
        panic!("{wanted} is not target/file/mutation");
    };
    let seed = seed.parse().expect("the mutation is a number");
    let inputs = inputs(name);
    let input = inputs.iter().find(|(of, _)| of == file);
    let (_, input) = input.expect("a file of the corpus");
    (named(name).expect("a target").run)(&mutated(input, &inputs, seed));
}

//! Writes the corpora of the fuzz targets anew, from simulated clusters:
//! `cargo run --release -p pontoon-sim --example corpora`. The same seeds give the same files, as
//! long as the simulator draws the same worlds.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use pontoon_sim::{Recording, Swarm, record};

/// Seeds that are looked through for worlds of use.
const SEEDS: std::ops::Range<u64> = 0..400;
const EVENTS: u64 = 1_500;
/// Most files of one target, most of them from one seed, and the largest.
const FILES_MAX: usize = 24;
const FILES_OF_SEED_MAX: usize = 3;
const FILE_BYTES_MAX: usize = 12 << 10;

/// Length of the header of a frame of the log, and of that of a record.
const FRAME_HEADER_BYTES: usize = 64;
const RECORD_HEADER_BYTES: usize = 32;

fn main() -> anyhow::Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus");
    let mut corpora = Corpora::new(root)?;
    for seed in SEEDS {
        let world = Swarm::draw(seed);
        if world.nodes == 3 && world.groups <= 3 {
            corpora.add_all(seed, &record(seed, EVENTS))?;
        }
    }
    for (target, files) in &corpora.written {
        ensure!(*files > 4, "{target} has only {files} inputs");
    }
    Ok(())
}

/// The folders of inputs.
struct Corpora {
    root: PathBuf,
    /// Files by target.
    written: Vec<(&'static str, usize)>,
    /// What has been written.
    known: BTreeSet<Vec<u8>>,
}

impl Corpora {
    fn new(root: PathBuf) -> anyhow::Result<Self> {
        for target in pontoon_sim::fuzz::TARGETS {
            let folder = root.join(target.name);
            fs::create_dir_all(&folder).context("making a corpus")?;
            for entry in fs::read_dir(&folder)? {
                let entry = entry?;
                // What once broke something stays.
                if !entry.file_name().to_string_lossy().starts_with("found-") {
                    fs::remove_file(entry.path()).context("emptying a corpus")?;
                }
            }
        }
        let targets = pontoon_sim::fuzz::TARGETS.iter();
        Ok(Self {
            root,
            written: targets.map(|target| (target.name, 0)).collect(),
            known: BTreeSet::new(),
        })
    }

    fn add_all(&mut self, seed: u64, recording: &Recording) -> anyhow::Result<()> {
        let lies = recording.streams.iter().map(|stream| lies_of(stream));
        let lies: Vec<Vec<u8>> = lies.collect();
        let scripts = recording.disks.iter().map(|disk| script_of(disk, seed));
        let scripts: Vec<Vec<u8>> = scripts.collect();
        self.add("frame_stream", seed, &recording.streams, 3)?;
        self.add("hello", seed, &recording.hellos, 1)?;
        self.add("segment_open", seed, &recording.disks, 2)?;
        self.add("segment_mutate", seed, &scripts, 1)?;
        self.add("raft_step", seed, std::slice::from_ref(&recording.steps), 1)?;
        self.add("raft_step", seed, &lies, 1)
    }

    /// Adds the inputs that say something, as long as there is room.
    fn add(
        &mut self,
        target: &'static str,
        seed: u64,
        inputs: &[Vec<u8>],
        bytes_min: usize,
    ) -> anyhow::Result<()> {
        let fitting = inputs
            .iter()
            .filter(|it| (bytes_min + 16..=FILE_BYTES_MAX).contains(&it.len()));
        for input in fitting.take(FILES_OF_SEED_MAX) {
            let count = self.written.iter_mut().find(|(name, _)| *name == target);
            let (_, count) = count.context("a target of that name")?;
            if *count < FILES_MAX && self.known.insert(input.clone()) {
                let file = self.root.join(target).join(format!("{seed:03}-{count:02}"));
                fs::write(&file, input).context("writing an input")?;
                *count += 1;
            }
        }
        Ok(())
    }
}

/// The steps that write a log like that of a disk, and damage to it; see `fuzz::segment_mutate`.
fn script_of(disk: &[u8], seed: u64) -> Vec<u8> {
    let (mut steps, mut rest) = (Vec::new(), &disk[2..]);
    while let [_, block, low, high, tail @ ..] = rest {
        let length = usize::from(u16::from_le_bytes([*low, *high])).min(tail.len());
        let (bytes, behind) = tail.split_at(length);
        rest = behind;
        if *block == 0 && !bytes.is_empty() {
            steps.push([15, 0]);
        } else if bytes.starts_with(b"PFRM") {
            frame_steps(bytes, &mut steps);
        }
    }
    steps.truncate(200);
    let mut script = vec![steps.len() as u8];
    script.extend(steps.concat());
    // Any damage, as long as it differs from seed to seed.
    for round in 0..1 + seed % 3 {
        let word = (seed + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (8 * round);
        script.extend(&word.to_le_bytes()[..5]);
    }
    script
}

fn frame_steps(frame: &[u8], steps: &mut Vec<[u8; 2]>) {
    let mut records = frame.get(FRAME_HEADER_BYTES..).unwrap_or_default();
    while let Some(header) = records.get(..RECORD_HEADER_BYTES) {
        let length = usize::from(header[24]) | usize::from(header[25]) << 8;
        let group = header[0].wrapping_sub(1) % 4;
        let amount = (length / 40).min(15) as u8 * 4;
        steps.push(match header[27] {
            1..=3 if length > 1_000 => [5, group],
            1..=3 => [0, group + 4 * amount],
            16 => [7, group + 4 * (header[16] % 8)],
            18 => [8, group + 4],
            19 => [9, group + 8],
            _ => [2, group],
        });
        let whole = (RECORD_HEADER_BYTES + length).next_multiple_of(16);
        records = records.get(whole..).unwrap_or_default();
    }
    steps.push([11, 0]);
}

/// The heads of a stream as what a liar says; see `fuzz::raft_step`. Numbers that are too large for
/// a liar become small.
fn lies_of(stream: &[u8]) -> Vec<u8> {
    let mut lies = vec![1];
    let mut rest = stream.get(3..).unwrap_or_default();
    while rest.starts_with(b"PTNf") && rest.len() >= 32 && lies.len() < 2_000 {
        let heads = usize::from(rest[6]);
        let records = usize::from(rest[8]) | usize::from(rest[9]) << 8;
        for head in rest[32..].chunks_exact(64).take(heads) {
            lie(head, &mut lies);
        }
        rest = rest.get(32 + 64 * heads + records..).unwrap_or_default();
    }
    lies
}

fn lie(head: &[u8], lies: &mut Vec<u8>) {
    let [kind, flags] = [head[8], head[9]];
    let [count, term, index, log_term] = [head[12] % 5, head[16], head[24], head[32]];
    let (commit, incarnation) = (head[40], head[56]);
    let granted = (flags & 1) << 5;
    match kind {
        1 => lies.extend([(flags >> 1 & 3) << 6, term % 64, index % 64, log_term % 64]),
        2 => lies.extend([1 | granted | (flags >> 1 & 3) << 6, term % 64]),
        3 => {
            lies.extend([2, term % 64, count, index % 64, log_term % 64, commit % 64]);
            lies.extend(vec![term % 64; count.into()]);
        }
        4 if granted != 0 => lies.extend([5 | granted, term % 64, index % 64, incarnation % 64, 1]),
        4 => {
            let hint = [commit % 64, log_term % 64, incarnation % 64, 1];
            lies.extend([5, term % 64, index % 64]);
            lies.extend(hint);
        }
        5 => lies.extend([7, term % 64]),
        _ => {}
    }
    // Its disk acknowledges, and now and then time passes.
    lies.push(10);
    if lies.len().is_multiple_of(7) {
        lies.push(0x18);
    }
}

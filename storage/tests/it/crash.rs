//! Crash points: after every write of a workload, every damage a power loss can do to it.
//!
//! For each image: the log opens (1), holds at least what was acknowledged (2, 4) and nothing but
//! a prefix of what was submitted (3), opens again to the same (5), also when the recovery was
//! itself interrupted (6).

use std::collections::BTreeMap;
use std::io;

use pontoon_storage::memory::{MemoryVolume, SectorFate};
use pontoon_storage::{DiskOp, LogConfig, SegmentLog, Volume};

use crate::harness::{Bench, small_config};
use crate::model::{Change, Model};

const SEGMENT_BYTES: u64 = 64 << 10;

fn config() -> LogConfig {
    LogConfig {
        segment_bytes: SEGMENT_BYTES,
        frame_bytes_max: 8 << 10,
        slab_bytes: 8 << 10,
        staging_bytes: 32 << 10,
        cache_bytes: 16 << 10,
        read_bytes: 16 << 10,
        segments_max: 6,
        ..small_config()
    }
}

/// Numbers that depend on the seed alone.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
}

/// A run of a workload: the log, and what it held after each frame.
struct Run {
    bench: Bench,
    model: Model,
    after_frame: BTreeMap<u64, Model>,
    chance: Chance,
    images: u64,
    rolls: u64,
    recycled: u64,
    relocated: u64,
    /// Only one in six writes is looked at.
    sampled: bool,
    seed: u64,
    /// Writes that may be in flight at once.
    places: usize,
    weights: [u64; 7],
}

impl Run {
    fn new(seed: u64, places: usize, weights: [u64; 7]) -> Self {
        let mut bench = Bench::open(MemoryVolume::new(SEGMENT_BYTES), config()).unwrap();
        bench.log.set_writes_in_flight(places);
        let after_frame = BTreeMap::from([(bench.log.durable_frame(), Model::default())]);
        let chance = Chance(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        Self {
            bench,
            model: Model::default(),
            after_frame,
            chance,
            images: 0,
            rolls: 0,
            recycled: 0,
            relocated: 0,
            sampled: false,
            seed,
            places,
            weights,
        }
    }

    fn any_change(&mut self) {
        let change = change(&mut self.chance, &self.weights);
        self.change(&change);
    }

    fn change(&mut self, change: &Change) {
        let after_frame = &mut self.after_frame;
        self.model.apply(&mut self.bench.log, change, |log, model| {
            if log.staged() {
                after_frame.insert(log.open_frame(), model.clone());
            }
        });
    }

    /// Writes what is staged, and crashes at every write. Where several may be in flight, more is
    /// staged meanwhile, and they complete in any order.
    fn flush(&mut self) {
        let mut in_flight = Vec::new();
        for round in 0.. {
            assert!(
                round < 2000,
                "what is staged is written, and relocation ends: {:?}",
                self.bench.log.statistics()
            );
            while let Some(operation) = self.bench.log.seal() {
                in_flight.push(self.submit(operation));
            }
            if in_flight.is_empty() {
                if self.bench.relocate() {
                    self.relocated += 1;
                    continue;
                }
                return;
            }
            self.crash_everywhere();
            if in_flight.len() < self.places && self.chance.below(2) == 0 {
                self.any_change();
            } else {
                let first = self.chance.below(in_flight.len() as u64) as usize;
                self.complete(in_flight.swap_remove(first));
            }
        }
    }

    fn mark(&mut self) {
        if let Some(operation) = self.bench.log.idle() {
            let id = self.submit(operation);
            self.crash_everywhere();
            self.complete(id);
        }
    }

    fn submit(&mut self, mut operation: DiskOp) -> u64 {
        if let DiskOp::Write {
            slot, offset: 0, ..
        } = &operation
        {
            let image = self.bench.volume.image(*slot).unwrap();
            self.rolls += 1;
            self.recycled += u64::from(image.iter().any(|byte| *byte != 0));
        }
        self.bench.volume.submit(&mut operation).unwrap();
        operation.id()
    }

    fn complete(&mut self, id: u64) {
        let durable = self.bench.volume.make_durable(id).unwrap();
        self.bench.log.on_complete(id, Ok(durable)).unwrap();
        self.bench.prepare();
    }

    /// What may be found after a crash now: the acknowledged state, or a later one.
    fn legal(&self) -> Vec<&Model> {
        let durable = self.bench.log.durable_frame();
        let acknowledged = self.after_frame.range(..=durable).next_back().unwrap().1;
        let later = self
            .after_frame
            .range(durable + 1..)
            .take(self.places)
            .map(|(_, model)| model);
        std::iter::once(acknowledged).chain(later).collect()
    }

    fn crash_everywhere(&mut self) {
        if self.sampled && self.chance.below(6) != 0 {
            return;
        }
        let sectors = self.bench.volume.pending_sectors();
        let mut subsets: Vec<Vec<bool>> = vec![vec![false; sectors], vec![true; sectors]];
        for at in 0..sectors {
            let shapes: [fn(usize, usize) -> bool; 4] = [
                |n, at| n == at,
                |n, at| n != at,
                |n, at| n < at,
                |n, at| n >= at,
            ];
            subsets.extend(shapes.map(|kept| (0..sectors).map(|n| kept(n, at)).collect()));
        }
        for _ in 0..8 {
            subsets.push((0..sectors).map(|_| self.chance.below(2) == 0).collect());
        }
        subsets.sort();
        subsets.dedup();
        for subset in subsets {
            let old = (0..4_u64).map(|lost| (lost, self.chance.next()));
            for (lost, seed) in old.collect::<Vec<_>>() {
                self.crash(&subset, lost, seed);
            }
        }
    }

    fn torn(&self, kept: &[bool], lost: u64, seed: u64) -> MemoryVolume {
        let mut volume = self.bench.volume.clone();
        let slots = volume.slots();
        volume.power_loss(|sector| match (kept[sector], lost) {
            (true, _) => SectorFate::Written,
            (_, 0) => SectorFate::Old,
            (_, 1) => SectorFate::Zero,
            (_, 2) => SectorFate::Garbage(seed ^ sector as u64),
            (_, _) => SectorFate::Copied {
                slot: slots[seed as usize % slots.len()],
                offset: (seed >> 8) % (SEGMENT_BYTES / 4096) * 4096 + sector as u64 % 8 * 512,
            },
        });
        volume
    }

    fn crash(&mut self, kept: &[bool], lost: u64, seed: u64) {
        self.images += 1;
        let volume = self.torn(kept, lost, seed);
        let named = format!("seed {}, image {}", self.seed, self.images);
        let mut bench = Bench::open(volume.clone(), config())
            .unwrap_or_else(|error| panic!("{named}: {error}"));
        assert_eq!(bench.recovery.report.damage, [], "{named}");
        assert!(
            bench.recovery.groups.iter().all(|group| !group.tainted),
            "{named}"
        );
        let found = Model::of(&mut bench);
        let legal = self.legal();
        assert!(
            legal.contains(&&found),
            "{named}: found {found:#?}\nacknowledged {:#?}",
            legal[0]
        );
        let mut again = Bench::open(bench.volume, config()).unwrap();
        assert_eq!(Model::of(&mut again), found, "{named}: opened again");
        if self.images.is_multiple_of(16) {
            interrupt_recovery(&volume, &found, seed, &named);
        }
    }

    /// The process dies in the middle of a write; the next one goes on with what is left.
    fn die(&mut self) {
        while let Some(operation) = self.bench.log.seal() {
            self.submit(operation);
            self.any_change();
        }
        let kept: Vec<_> = (0..self.bench.volume.pending_sectors())
            .map(|_| self.chance.below(3) > 0)
            .collect();
        let (lost, seed) = (self.chance.below(4), self.chance.next());
        let mut bench = Bench::open(self.torn(&kept, lost, seed), config()).unwrap();
        bench.log.set_writes_in_flight(self.places);
        self.model = Model::of(&mut bench);
        assert!(self.legal().contains(&&self.model), "seed {}", self.seed);
        self.after_frame = BTreeMap::from([(bench.log.durable_frame(), self.model.clone())]);
        self.bench = bench;
    }
}

/// A volume on which the process dies when it syncs.
struct Dying(MemoryVolume);

impl Volume for Dying {
    fn block_bytes(&self) -> usize {
        self.0.block_bytes()
    }
    fn segment_bytes(&self) -> u64 {
        self.0.segment_bytes()
    }
    fn slots(&self) -> Vec<u32> {
        self.0.slots()
    }
    fn read_at(&mut self, slot: u32, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.0.read_at(slot, offset, buffer)
    }
    fn write_at(&mut self, slot: u32, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.write_at(slot, offset, bytes)
    }
    fn sync(&mut self, _slot: u32) -> io::Result<()> {
        Err(io::Error::other("the power fails"))
    }
    fn prepare(&mut self, slot: u32) -> io::Result<()> {
        self.0.prepare(slot)
    }
    fn open_witness(&mut self) -> io::Result<u128> {
        self.0.open_witness()
    }

    fn replace_witness(&mut self) -> io::Result<u128> {
        self.0.replace_witness()
    }
}

fn interrupt_recovery(volume: &MemoryVolume, found: &Model, seed: u64, named: &str) {
    for fate in 0..3 {
        let mut chance = Chance(seed | 1);
        let mut dying = Dying(volume.clone());
        assert!(SegmentLog::open(&mut dying, config()).is_err(), "{named}");
        dying.0.power_loss(|_| match (chance.below(2), fate) {
            (0, _) => SectorFate::Written,
            (_, 0) => SectorFate::Old,
            (_, 1) => SectorFate::Zero,
            (_, _) => SectorFate::Garbage(seed),
        });
        let mut bench = Bench::open(dying.0, config()).unwrap();
        assert_eq!(
            &Model::of(&mut bench),
            found,
            "{named}: recovery was interrupted"
        );
        assert_eq!(
            bench.recovery.report.damage,
            [],
            "{named}: recovery was interrupted"
        );
    }
}

/// A random change, weighted by the workload.
fn change(chance: &mut Chance, weights: &[u64; 7]) -> Change {
    let mut draw = chance.below(weights.iter().sum());
    let kind = weights.iter().position(|weight| {
        let hit = draw < *weight;
        draw = draw.wrapping_sub(*weight);
        hit
    });
    let group = 1 + chance.below(3);
    match kind.unwrap() {
        0 => Change::Create { group },
        1 => Change::Drop { group },
        2 => {
            let length = chance.below(3000) as usize;
            Change::Append {
                group,
                back: 0,
                count: 1 + chance.below(4),
                length,
            }
        }
        3 => {
            let (back, count) = (1 + chance.below(4), 1 + chance.below(4));
            Change::Append {
                group,
                back,
                count,
                length: 100,
            }
        }
        4 => Change::Truncate {
            group,
            back: chance.below(3),
        },
        5 => Change::HardState {
            group,
            vote: Some(chance.below(5)),
        },
        _ => Change::Compact {
            group,
            keep: chance.below(4),
        },
    }
}

fn enumerate(seed: u64, places: usize, steps: u64, deaths: u64, weights: [u64; 7]) -> Run {
    let mut run = Run::new(seed, places, weights);
    for group in 1..=3 {
        run.change(&Change::Create { group });
    }
    run.flush();
    for _ in 0..steps {
        for _ in 0..=run.chance.below(3) {
            run.any_change();
        }
        match run.chance.below(60) {
            0..5 => {}
            5..10 => {
                run.flush();
                run.mark();
            }
            death if death >= 60 - deaths => run.die(),
            _ => run.flush(),
        }
    }
    run
}

#[test]
#[cfg_attr(miri, ignore = "too much for Miri: thousands of images")]
fn appending_and_overriding_survives_every_crash() {
    let run = enumerate(1, 1, 40, 4, [1, 1, 10, 6, 2, 4, 3]);
    assert!(run.images > 2000, "{} images", run.images);
}

/// The power fails in the middle of start after start, each of which finds what the one before it
/// has left, with writes of the last process in flight.
#[test]
#[cfg_attr(miri, ignore = "too much for Miri: thousands of images")]
fn power_losses_in_the_middle_of_many_starts_lose_nothing() {
    for seed in 1..=40 {
        let mut run = Run::new(seed, 3, [1, 1, 10, 6, 2, 4, 3]);
        for group in 1..=3 {
            run.change(&Change::Create { group });
        }
        for _ in 0..6 {
            for _ in 0..8 {
                run.any_change();
            }
            run.die();
            let slots = run.bench.volume.slots().len();
            let mut volume = run.bench.volume.clone();
            for _ in 0..12 {
                let mut dying = Dying(volume);
                assert!(SegmentLog::open(&mut dying, config()).is_err());
                let chance = &mut run.chance;
                dying.0.power_loss(|_| match chance.below(4) {
                    0 | 1 => SectorFate::Written,
                    2 => SectorFate::Old,
                    _ => SectorFate::Garbage(seed),
                });
                volume = dying.0;
            }
            run.bench = Bench::open(volume, config()).unwrap();
            run.bench.log.set_writes_in_flight(run.places);
            assert_eq!(Model::of(&mut run.bench), run.model, "seed {seed}");
            assert_eq!(run.bench.recovery.report.damage, [], "seed {seed}");
            assert!(run.bench.volume.slots().len() <= slots + 1, "seed {seed}");
            let durable = run.bench.log.durable_frame();
            run.after_frame = BTreeMap::from([(durable, run.model.clone())]);
        }
    }
}

#[test]
#[cfg_attr(miri, ignore = "too much for Miri: thousands of images")]
fn rolling_compacting_and_recycling_survives_every_crash() {
    let run = enumerate(2, 1, 240, 1, [2, 1, 12, 2, 0, 1, 24]);
    let seen = (run.images, run.rolls, run.recycled);
    assert!(
        run.images > 5000 && run.rolls >= 8 && run.recycled >= 5,
        "{seen:?}"
    );
}

#[test]
#[cfg_attr(miri, ignore = "too much for Miri: thousands of images")]
fn votes_creations_and_drops_survive_every_crash() {
    let run = enumerate(3, 1, 40, 6, [6, 4, 3, 1, 1, 10, 2]);
    assert!(run.images > 2000, "{} images", run.images);
}

#[test]
#[cfg_attr(miri, ignore = "too much for Miri: thousands of images")]
fn several_writes_in_flight_survive_every_crash() {
    let run = enumerate(4, 3, 40, 6, [2, 1, 10, 5, 2, 4, 8]);
    assert!(run.images > 5000, "{} images", run.images);
}

/// A group that is hardly used holds the oldest segment, time and again: its entries are relocated,
/// overridden, compacted, and read back, and the power fails at every write.
#[test]
#[cfg_attr(miri, ignore = "too much for Miri: thousands of images")]
fn relocation_survives_every_crash() {
    for seed in 5..7 {
        let mut run = Run::new(seed, 1 + seed as usize % 2, [1, 1, 12, 2, 0, 1, 24]);
        for group in 1..=4 {
            run.change(&Change::Create { group });
        }
        let mut relocated = 0;
        for step in 0..180 {
            let seldom = match step % 60 {
                10 => Some((0, 6, 300)),
                50 => Some((2, 1, 100)),
                _ => None,
            };
            if let Some((back, count, length)) = seldom {
                run.change(&Change::Append {
                    group: 4,
                    back,
                    count,
                    length,
                });
            }
            if step % 100 == 99 {
                run.change(&Change::Compact { group: 4, keep: 5 });
            }
            run.any_change();
            run.sampled = step % 8 != 0;
            run.flush();
            if run.chance.below(40) == 0 {
                relocated += run.bench.log.statistics().relocated_bytes;
                run.die();
            }
        }
        relocated += run.bench.log.statistics().relocated_bytes;
        assert!(relocated > 2000, "seed {seed}: {relocated} bytes");
        assert!(run.relocated > 5, "seed {seed}: {}", run.relocated);
        let mut bench = Bench::open(run.bench.volume, config()).unwrap();
        assert_eq!(Model::of(&mut bench), run.model, "seed {seed}");
    }
}

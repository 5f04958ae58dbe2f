//! The witness: a small file beside the segments that says how far the log came. A log that ends
//! before its witness is no torn tail: it lost what was durable.

use std::io;

use crate::config::LogConfig;
use crate::disk::{Volume, WITNESS_SLOT, WITNESS_STRIDE};
use crate::error::OpenError;
use crate::identity::LogIdentity;
use crate::layout::{BLOCK_BYTES_MIN, NUMBER_MAX};
use crate::life::Lives;
use crate::mutant::Mutant;
use crate::record::{u32_at, u64_at};
use crate::slab::SlabPool;

const MAGIC: u64 = u64::from_le_bytes(*b"PONTOWIT");
const VERSION: u32 = 1;
const CHECKSUM_AT: usize = BLOCK_BYTES_MIN - 4;

/// A place that can't be read is tried so often.
const READS_MAX: usize = 3;

/// What was durable in the log when the witness was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Witness {
    /// How often it was written: the higher one of two counts, and they take turns in two places.
    pub(crate) count: u64,
    pub(crate) generation: u64,
    /// The newest epoch.
    pub(crate) epoch: u64,
    /// The newest segment.
    pub(crate) sequence: u64,
    /// The newest frame.
    pub(crate) frame: u64,
    /// When and where the file was made: a copy of it was made elsewhere.
    pub(crate) birth: u128,
}

/// The witness of a log that is being opened.
#[derive(Debug)]
pub(crate) struct Testimony {
    /// When and where its file was made.
    pub(crate) birth: u128,
    found: Found,
    /// A part of it can't be read.
    is_bad: bool,
}

/// What was found of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Found {
    /// It was not there, or never written.
    Nothing,
    Witness(Witness),
    /// It was written, and none of it can be read.
    Unreadable,
}

/// How a log was found by its witness to have lost something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Forgetting {
    /// The log ends before what was durable.
    CutShort,
    /// The directory is a copy: the log may have gone on since, elsewhere.
    Copied,
    /// The witness can't be read.
    WitnessLost,
}

impl std::fmt::Display for Forgetting {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match self {
            Self::CutShort => "the log ends before what was durable",
            Self::Copied => {
                "the directory is a copy. If it was moved whole, and the node has not run \
                 elsewhere since, delete its file `witness` before the start"
            }
            Self::WitnessLost => "the file `witness` can't be read",
        })
    }
}

impl Testimony {
    /// What it saw in the log.
    pub(crate) fn seen(&self) -> Option<Witness> {
        match self.found {
            Found::Witness(witness) => Some(witness),
            Found::Nothing | Found::Unreadable => None,
        }
    }

    /// Whether the log has forgotten something.
    pub(crate) fn forgetting(&self, cut_short: bool) -> Option<Forgetting> {
        match self.found {
            Found::Unreadable => Some(Forgetting::WitnessLost),
            Found::Witness(_) if cut_short => Some(Forgetting::CutShort),
            Found::Witness(witness) if witness.birth != self.birth => Some(Forgetting::Copied),
            Found::Witness(_) | Found::Nothing => None,
        }
    }
}

impl Testimony {
    /// A new generation begins, which the witness knows before the log does: whatever becomes of
    /// this opening, the next one knows that something was forgotten.
    pub(crate) fn raise(
        &mut self,
        volume: &mut dyn Volume,
        config: &LogConfig,
        lives: &mut Lives,
    ) -> Result<(), OpenError> {
        let seen = self.seen().unwrap_or(Witness {
            count: 0,
            generation: 0,
            epoch: 0,
            sequence: 0,
            frame: 0,
            birth: self.birth,
        });
        lives.generation = lives.generation.max(seen.generation) + 1;
        let generation = lives.generation;
        self.rewrite(volume, config, Witness { generation, ..seen })
            .map(drop)
    }

    /// Writes what it says from now on, durably. One that can't be read or written is replaced, so
    /// that no bad sector keeps a log closed.
    pub(crate) fn rewrite(
        &mut self,
        volume: &mut dyn Volume,
        config: &LogConfig,
        witness: Witness,
    ) -> Result<Witness, OpenError> {
        let mut witness = Witness {
            count: witness.count + 1,
            ..witness
        };
        let mut written = write(volume, &config.identity, &witness);
        if self.is_bad || written.is_err() {
            let replaced = volume.replace_witness();
            self.birth = replaced.map_err(OpenError::io("replacing the witness"))?;
            (self.is_bad, witness.birth) = (false, self.birth);
            written = write(volume, &config.identity, &witness);
        }
        written?;
        self.found = Found::Witness(witness);
        Ok(witness)
    }
}

impl Witness {
    /// Whether a log that ends so lacks what this saw in it.
    pub(crate) fn outlasts(&self, epoch: u64, sequence: u64, frame: u64) -> bool {
        epoch < self.epoch || sequence < self.sequence || frame < self.frame
    }

    /// Whether it knows of a generation that the log has not noted.
    pub(crate) fn is_ahead_of(&self, lives: &Lives) -> bool {
        self.generation > lives.generation
    }

    /// Where it is written.
    pub(crate) fn offset(&self) -> u64 {
        self.count % 2 * WITNESS_STRIDE
    }

    /// As a whole block.
    pub(crate) fn encode(&self, identity: &LogIdentity, block: &mut [u8]) {
        block.fill(0);
        let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &MAGIC.to_le_bytes());
        put(8, &VERSION.to_le_bytes());
        put_identity(identity, &mut put);
        let numbers = [
            self.count,
            self.generation,
            self.epoch,
            self.sequence,
            self.frame,
        ];
        for (position, number) in numbers.iter().enumerate() {
            put(48 + 8 * position, &number.to_le_bytes());
        }
        put(88, &self.birth.to_le_bytes());
        let checksum = crc32c::crc32c(&block[..CHECKSUM_AT]);
        block[CHECKSUM_AT..BLOCK_BYTES_MIN].copy_from_slice(&checksum.to_le_bytes());
    }

    /// `None` if it is no witness of this log.
    fn decode(identity: &LogIdentity, block: &[u8]) -> Option<Self> {
        let block = &block[..BLOCK_BYTES_MIN];
        let sound = u64_at(block, 0) == MAGIC
            && u32_at(block, 8) == VERSION
            && u32_at(block, CHECKSUM_AT) == crc32c::crc32c(&block[..CHECKSUM_AT]);
        let mut owner = [0; BLOCK_BYTES_MIN];
        put_identity(identity, &mut |at, bytes| {
            owner[at..at + bytes.len()].copy_from_slice(bytes);
        });
        let witness = Self {
            count: u64_at(block, 48),
            generation: u64_at(block, 56),
            epoch: u64_at(block, 64),
            sequence: u64_at(block, 72),
            frame: u64_at(block, 80),
            birth: u128::from(u64_at(block, 88)) | u128::from(u64_at(block, 96)) << 64,
        };
        let numbers = [witness.count, witness.generation, witness.epoch];
        let numbers = numbers.into_iter().chain([witness.sequence, witness.frame]);
        (sound && owner[16..48] == block[16..48])
            .then_some(witness)
            .filter(|_| numbers.max().is_some_and(|most| most <= NUMBER_MAX))
    }
}

fn put_identity(identity: &LogIdentity, put: &mut impl FnMut(usize, &[u8])) {
    put(16, &identity.cluster.to_le_bytes());
    put(32, &identity.node.to_le_bytes());
    put(40, &identity.core.to_le_bytes());
    put(42, &identity.cores.to_le_bytes());
}

/// Opens the witness of a volume, or makes it. `None` where there is no room for one: the log does
/// without.
pub(crate) fn open(
    volume: &mut dyn Volume,
    config: &LogConfig,
) -> Result<Option<Testimony>, OpenError> {
    let birth = match volume.open_witness() {
        Ok(birth) => birth,
        Err(error) => {
            tracing::warn!(%error, "the log has no witness: that its end is lost is not noticed");
            return Ok(None);
        }
    };
    let bytes = volume.block_bytes();
    let refused = || OpenError::io("allocating for the witness");
    let pool = SlabPool::new(bytes, bytes).map_err(refused())?;
    let mut buffer = pool.read_buffer(bytes).expect("the pool has one slab");
    let (mut newest, mut blank, mut is_bad): (Option<Witness>, _, _) = (None, false, false);
    for offset in [0, WITNESS_STRIDE] {
        let block = buffer.as_mut_slice();
        if read(volume, offset, block).is_err() {
            is_bad = true;
            continue;
        }
        blank |= block.iter().all(|byte| *byte == 0);
        let found = Witness::decode(&config.identity, block);
        newest = newest
            .into_iter()
            .chain(found)
            .max_by_key(|found| found.count);
    }
    let found = match newest {
        _ if config.is(Mutant::IgnoresWitness) => Found::Nothing,
        Some(witness) => Found::Witness(witness),
        // The first write of all may be torn.
        None if blank && !is_bad => Found::Nothing,
        None => Found::Unreadable,
    };
    Ok(Some(Testimony {
        birth,
        found,
        is_bad,
    }))
}

fn read(volume: &mut dyn Volume, offset: u64, block: &mut [u8]) -> io::Result<()> {
    let mut outcome = Ok(());
    for _ in 0..READS_MAX {
        outcome = volume.read_at(WITNESS_SLOT, offset, block);
        if outcome.is_ok() {
            break;
        }
    }
    outcome
}

/// Lets the witness of a log that was just opened say what is in it, durably; gives what it says,
/// or none if the log does without. Not where the generation is not durable: then the witness is
/// what says so at the next opening.
pub(crate) fn renew(
    volume: &mut dyn Volume,
    config: &LogConfig,
    testimony: &mut Testimony,
    witness: Witness,
    generation_is_durable: bool,
) -> Option<Witness> {
    if !generation_is_durable {
        return Some(Witness {
            frame: 0,
            ..witness
        });
    }
    let rewritten = testimony.rewrite(volume, config, witness);
    rewritten
        .inspect_err(|error| {
            tracing::warn!(%error, "the log has no witness: that its end is lost is not noticed");
        })
        .ok()
}

/// Writes it durably, while the log is opened.
fn write(
    volume: &mut dyn Volume,
    identity: &LogIdentity,
    witness: &Witness,
) -> Result<(), OpenError> {
    let bytes = volume.block_bytes();
    let what = || OpenError::io("writing the witness");
    let pool = SlabPool::new(bytes, bytes).map_err(what())?;
    let mut buffer = pool.read_buffer(bytes).expect("the pool has one slab");
    witness.encode(identity, buffer.as_mut_slice());
    volume
        .write_at(WITNESS_SLOT, witness.offset(), buffer.as_ref())
        .map_err(what())?;
    volume.sync(WITNESS_SLOT).map_err(what())
}

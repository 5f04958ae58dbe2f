//! The log of one core: what it holds, and how a group is made, changed and dropped.
//!
//! Its verbs are in the files beside this one. Records: `groups` and `append` check them, `staging`
//! copies them into frames, `write` seals these and takes completions. Reading back: `cache` from
//! memory, `read` from the disk. Space: `compaction`, `checkpoint` and `relocation` make segments
//! superfluous, `segments` frees and recycles them. `witness` says how far it came.
//! `group`, `extents` and `frames` are the index.

mod append;
mod cache;
mod checkpoint;
mod compaction;
pub(crate) mod extents;
pub(crate) mod frames;
pub(crate) mod group;
mod groups;
pub(crate) mod lives;
mod read;
mod relocation;
pub(crate) mod segments;
mod staging;
pub(crate) mod witness;
mod write;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use pontoon_types::{EntryId, GroupId};

use crate::config::LogConfig;
use crate::disk::{Volume, segment_name};
use crate::error::{OpenError, Poisoned};
use crate::layout::Salt;
use crate::life::Lives;
use crate::recovery::{self, Recovery};
use crate::slab::SlabPool;

pub use cache::CacheRead;
use cache::EvictionOrder;
use checkpoint::Checkpoint;
use frames::Frames;
use group::Group;
use read::PendingRead;
use relocation::Relocation;
use segments::Space;
use staging::Staging;
use witness::Witnessing;
use write::Writer;

/// Counts since the log was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogStatistics {
    /// Frames sealed, marks included.
    pub frames: u64,
    /// Marks among them.
    pub marks: u64,
    /// Bytes of these frames as written, padding included.
    pub bytes: u64,
    /// Bytes of the records in them.
    pub record_bytes: u64,
    /// Bytes of the payloads of entries.
    pub payload_bytes: u64,
    /// Entries staged.
    pub entries: u64,
    /// Bytes of repeated group state.
    pub state_bytes: u64,
    /// Segments begun.
    pub segments: u64,
    /// Segments freed.
    pub segments_freed: u64,
    /// Calls to `cached` that were answered.
    pub cache_hits: u64,
    /// Reads from the disk asked for.
    pub reads: u64,
    /// Reads of entries that failed at a place where one had failed before.
    pub reads_lost: u64,
    /// Bytes of records that were written once more, so that their segment could be freed.
    pub relocated_bytes: u64,
}

/// The segment log of one core.
#[derive(Debug)]
pub struct SegmentLog {
    config: LogConfig,
    /// Where its segments are, for messages.
    directory: Option<PathBuf>,
    block: usize,
    salt: Salt,
    pool: SlabPool,
    read_pool: SlabPool,
    groups: BTreeMap<GroupId, Group>,
    lives: Lives,
    life_is_durable: bool,
    /// The frame with which it is durable of which generation the log is.
    generation_by: Option<u64>,
    witnessing: Witnessing,
    staging: Staging,
    writer: Writer,
    space: Space,
    frames: Frames,
    checkpoint: Checkpoint,
    eviction_order: EvictionOrder,
    /// Groups whose compaction is not in the log yet, for lack of memory.
    pending_compactions: Vec<GroupId>,
    reads: Vec<PendingRead>,
    relocation: Relocation,
    /// The buffer that relocation reads into.
    relocation_pool: SlabPool,
    /// Slot and offset of reads of which the last one failed.
    failed_reads: Vec<(u32, u64)>,
    next_id: u64,
    next_incarnation: u64,
    /// Durable data was found to be missing when the log was opened.
    damaged: bool,
    statistics: LogStatistics,
    cache_hits: Cell<u64>,
}

impl SegmentLog {
    /// Recovers what is on the volume and begins a new epoch, durably. Reads every segment once at
    /// least, and blocks while it does.
    ///
    /// # Errors
    /// [`Config`](OpenError::Config), [`Foreign`](OpenError::Foreign),
    /// [`Version`](OpenError::Version) and [`Geometry`](OpenError::Geometry) refuse without a
    /// change to the volume; [`NoSegment`](OpenError::NoSegment) and [`Io`](OpenError::Io) when the
    /// new epoch can't begin.
    pub fn open(volume: &mut dyn Volume, config: LogConfig) -> Result<(Self, Recovery), OpenError> {
        let block = volume.block_bytes();
        config.validate(block)?;
        if volume.segment_bytes() != config.segment_bytes {
            return Err(OpenError::Config {
                setting: "segment_bytes",
                reason: "must be what the volume was opened with",
            });
        }
        let recovered = recovery::recover(volume, &config)?;
        let recovery = recovered.recovery();
        let arena = config.staging_bytes + config.cache_bytes + config.slab_bytes;
        let pool = SlabPool::new(arena, config.slab_bytes)
            .map_err(OpenError::io("allocating the arena"))?;
        let frame = (config.frame_bytes_max as usize).max(recovered.frame_bytes_longest);
        let read_slab = frame + 2 * block;
        let read_pool = SlabPool::new(config.read_bytes.max(2 * read_slab), read_slab)
            .map_err(OpenError::io("allocating read buffers"))?;
        let relocation_pool = SlabPool::new(read_slab, read_slab)
            .map_err(OpenError::io("allocating a buffer for relocation"))?;
        let mut log = Self {
            directory: volume.directory().map(Path::to_path_buf),
            block,
            salt: Salt::new(&config.identity),
            staging: Staging::new(recovered.last.0 + 1),
            writer: Writer::new(recovered.last),
            space: recovered.space,
            frames: recovered.frames,
            groups: recovered.groups,
            lives: recovered.lives,
            life_is_durable: recovered.life_is_durable,
            generation_by: recovered.generation_is_durable.then_some(0),
            witnessing: Witnessing::new(recovered.witness),
            checkpoint: Checkpoint::new(),
            eviction_order: EvictionOrder::new(),
            pending_compactions: Vec::new(),
            reads: Vec::new(),
            relocation: Relocation::default(),
            relocation_pool,
            failed_reads: Vec::new(),
            next_id: 1,
            next_incarnation: recovered.next_incarnation,
            damaged: !recovery.report.damage.is_empty(),
            statistics: LogStatistics::default(),
            cache_hits: Cell::new(0),
            pool,
            read_pool,
            config,
        };
        if recovery.report.forgetting.is_some() && !log.life_is_durable {
            // Otherwise the next opening finds it out again.
            let _ = log.save_life();
        }
        Ok((log, recovery))
    }

    /// The memory of records, for registering its arena with a ring.
    #[must_use]
    pub fn pool(&self) -> &SlabPool {
        &self.pool
    }

    /// Number of the last frame such that it and all before it are durable.
    #[must_use]
    pub fn durable_frame(&self) -> u64 {
        self.writer.durable_frame
    }

    /// How many times this log was opened, this one included: higher at every start.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.space.epoch
    }

    /// The failure that closed the log, if one did.
    #[must_use]
    pub fn poisoned(&self) -> Option<&Poisoned> {
        self.writer.poisoned.as_ref()
    }

    /// Counts since the log was opened.
    #[must_use]
    pub fn statistics(&self) -> LogStatistics {
        LogStatistics {
            cache_hits: self.cache_hits.get(),
            ..self.statistics
        }
    }

    /// A group's last entry, staged ones included.
    #[must_use]
    pub fn last(&self, group: GroupId) -> Option<EntryId> {
        self.groups.get(&group).map(|group| group.state.last)
    }

    /// True when durable data was found to be missing when the log was opened.
    #[must_use]
    pub fn is_damaged(&self) -> bool {
        self.damaged
    }

    /// True when the group is in this log and has lost something durable, as far as is known.
    #[must_use]
    pub fn is_tainted(&self, group: GroupId) -> bool {
        self.groups
            .get(&group)
            .is_some_and(|group| group.state.tainted)
    }

    /// True when the group is in this log.
    #[must_use]
    pub fn contains(&self, group: GroupId) -> bool {
        self.groups.contains_key(&group)
    }

    /// The file of a slot, for messages.
    fn segment_name(&self, slot: u32) -> String {
        segment_name(self.directory.as_deref(), slot)
    }

    fn id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id - 1
    }
}

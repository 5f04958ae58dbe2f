//! Pontoon's segment log: one log per core for all of its Raft groups.
//!
//! A turn of the core stages the records of all groups that moved, seals them as one frame and
//! hands it to a driver as one durable write. This crate does no I/O on that path: it emits
//! [`DiskOp`]s and takes their completions. Only opening, recovery and preparing block, through
//! a [`Volume`]: [`FileVolume`] is real files past the page cache, [`memory::MemoryVolume`] is
//! sectors in memory that a power loss can tear.
//!
//! ```
//! use pontoon_storage::memory::MemoryVolume;
//! use pontoon_storage::{EntryId, GroupId, LogConfig, LogIdentity, LogIndex, RecordKind};
//! use pontoon_storage::{SegmentLog, Term};
//!
//! let identity = LogIdentity { cluster: 1, node: 1, core: 0, cores: 1 };
//! let config = LogConfig { segment_bytes: 8 << 20, ..LogConfig::new(identity) };
//! let mut volume = MemoryVolume::new(config.segment_bytes);
//! let (mut log, _) = SegmentLog::open(&mut volume, config.clone())?;
//! log.create_group(GroupId(7), b"definition")?;
//! let entry = EntryId::new(LogIndex(1), Term(1));
//! log.append_command(GroupId(7), entry, RecordKind::Command, b"hello")?;
//! let frame = log.open_frame();
//! while let Some(mut operation) = log.seal() {
//!     let result = volume.run(&mut operation);
//!     log.on_complete(operation.id(), result)?;
//! }
//! assert!(log.durable_frame() >= frame);
//!
//! let (_, recovery) = SegmentLog::open(&mut volume, config)?;
//! assert_eq!(recovery.groups[0].last_index, LogIndex(1));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # On the disk
//!
//! A core's directory holds `lock` and the files `segment-0000`, `segment-0001`, … All have the
//! same length, are written with zeros and synced before they get their name, and are used again
//! in place: nothing is created, renamed or truncated while the log is written. The number in the
//! name is only a slot; which segment it holds is said by the header. `unsound-0003` says that slot
//! 3 has bad sectors: it is empty while the segment is still needed, and then the segment itself,
//! set aside. A slot of that number is never made again. All numbers are
//! little-endian, all checksums CRC32C. A *block* is 4096 bytes, or more where the file's direct
//! I/O asks for more.
//!
//! ```text
//! segment   | header block | frame | frame | ...        | zeros, or what was there before |
//!           0              block   (every frame starts on a block)            segment_bytes
//!
//! header    0   "PONTOSEG"                 8   format version u32     12  block_bytes u32
//! block     16  cluster u128               32  node u64
//!           40  core u16   42  cores u16   44  zero u32
//!           48  segment_bytes u64          56  sequence u64
//!           64  epoch u64                  72  first frame u64
//!           80  durable frame u64          88  oldest live segment u64
//!           96  count of ends u32          100 zero
//!           112 at most 64 ends: epoch u64, sequence u64, frame u64, checksum u32, zero u32
//!           4092 checksum of bytes 0..4092
//!
//! frame     0   "PFRM"    4  version u8    5   kind u8   6  zero u16
//! (64 bytes 8   sequence u64               16  frame number u64
//! and       24  durable frame u64          32  payload length u32    36  record count u32
//! payload)  40  previous frame's checksum  44  checksum of the records' headers, xor the salt
//!           48  epoch u64                  56  segments back to the oldest live one u32
//!           60  checksum of bytes 0..60, begun with the salt
//!           64  records, then zeros to the next block
//!
//! record    0   group u64                  8   index u64
//! (padded   16  term u64                   24  payload length u24    27  kind u8
//! to 16)    28  checksum of bytes 0..28 and the payload              32  payload
//! ```
//!
//! Kinds of frames: 1 records, 2 mark (without records), 3 records of which the entries are copies
//! of such as lay in older frames.
//!
//! Kinds of records: 1 command, 2 noop, 3 membership (these are entries, and the same bytes go
//! over the wire); 16 hard state (vote u64, then 1 if there is one u64); 17 group state; 18
//! truncate: entries above `index` are gone; 19 compacted to (`index`, `term`); 20 snapshot mark;
//! 21 group dropped (incarnation u64); 22 epoch begun (at most 64 ends: epoch, sequence, frame and
//! checksum, all u64), first in its frame, with a record of kind 23 behind it where there is room;
//! 23 lives (generation u64; own count u32, met count u32; last epoch dropped u64; own lives:
//! epoch u64, with its highest bit set once peers were told, nonce u64; peers met: node,
//! generation, epoch and nonce, all u64). A group state is incarnation, vote, commit, compacted
//! index, compacted term, last index, last term, all u64; flags u32 (1 voted, 2 tainted, 4: the
//! generation follows the definition, 8 unfounded); definition length u32; definition;
//! generation u64; the current term is in the record's header.
//!
//! The file `witness` holds, in two blocks at 0 and 65536 that are written in turns:
//!
//! ```text
//! witness   0   "PONTOWIT"                 8   version u32 (1)       12  zero u32
//!           16  cluster u128               32  node u64
//!           40  core u16   42  cores u16   44  zero u32
//!           48  count of writes u64        56  generation u64        64  newest epoch u64
//!           72  newest sequence u64        80  newest durable frame u64
//!           88  birth of the file u128     4092 checksum of bytes 0..4092
//! ```
//!
//! Version 2 had no lives, and no generation in group states: such a log goes on in version 3.
//!
//! The *salt* of a frame is the checksum of cluster u128, node u64, core u16, epoch u64, sequence
//! u64 and offset u64: bytes of a frame that turn up anywhere else (in a payload, in a recycled
//! segment, in another node's log, at another offset) are no frame.
//!
//! # Rules
//!
//! - A segment's header is durable before a frame is written into it.
//! - **An epoch** begins whenever the log is opened: with a frame behind the last one that counts,
//!   in the rest of the newest segment, or, where that has no room or its header is damaged, in a
//!   segment of its own. That frame, or the segment's header, says where the epochs before it
//!   ended. What lies behind such an end does not count, ever; what lies before it was durable. So
//!   in one segment epochs ascend, and a frame behind one of a later epoch is left over.
//! - Writes under way hold at most two of the longest frames, and an epoch begins so far behind the
//!   last frame that counts: a write of the one before that lands after the start lands between.
//!   Only where no segment can be had does it begin right behind that frame.
//! - In the last epoch, a frame that is missing was durable if a later frame's *durable frame*
//!   covers it: that is damage, reported and never truncated. Otherwise it was never acknowledged:
//!   it and what follows are dropped.
//! - **What the disk can't read is damage like rot**, block by block, after one more try: in
//!   frames, headers and free segments. Nothing is written behind such a place in its segment, and
//!   a segment with one is never used again. Only a disk of which nothing at all can be read is
//!   refused. An epoch whose beginning can't be written begins in another place, with the next
//!   number.
//! - **A life** begins with each epoch, with a random nonce. The log remembers its latest ones, and
//!   for each peer the last one it was met in. A life that a peer remembers and the log does not is
//!   lost: a new *generation* begins, and every group has forgotten until it is repaired.
//! - **The witness** follows what is durable: it is written when the log is opened, when a segment
//!   was begun, and when [`SegmentLog::renew_witness`] is called. A log of an older epoch, without
//!   that segment or without that frame is cut short, and one whose witness was made elsewhere is a
//!   copy: a new generation begins. The witness notes it before the log does; a log of an earlier
//!   generation than its witness has forgotten, too. A log without a witness is taken as it is.
//! - When the log falls idle, [`SegmentLog::idle`] appends a mark that witnesses the last frame.
//!   **Until a mark or a later frame is durable, rot of the last frame can't be told from a torn
//!   write.**
//! - After damage a group is clean only if a later frame repeats its state and its last entry, no
//!   entry is missing, and none may have been overridden by what is: the first entry behind the
//!   damage must be of the term of the one before it, unless a state record has repeated that one.
//!   Every other group is tainted, until [`SegmentLog::set_tainted`] says otherwise.
//! - Entries are overridden by later ones. Segments are freed strictly oldest first, so a replay
//!   never brings back what was overridden; each new segment repeats the state of all groups, a
//!   part per frame; a freed segment is written again only after a durable frame has said that it
//!   is free.
//! - **A relocated entry** changes nothing but where its bytes lie. In a replay it fills an index
//!   that is missing, or one whose entry has its term; it overrides and truncates nothing. Where
//!   another entry is known, what replaced that one is missing: the group is tainted.
//! - Entries keep clear of two free segments. What must always find room uses them: term and vote,
//!   a leader's empty entry, state, compaction, marks. What these fill is not needed once the
//!   state of all groups is repeated, and comes back by relocating what lies before it.
//! - An error or a short count closes the log for good ([`Poisoned`]).
//!
//! Everything here belongs to one thread.
#![deny(unsafe_code)]

pub mod blocking;
mod config;
mod directory;
mod disk;
mod error;
mod file;
mod identity;
mod layout;
mod life;
mod log;
mod measure;
pub mod memory;
mod mutant;
mod read_only;
pub mod record;
mod recovery;
mod slab;
mod witness;

pub use config::LogConfig;
pub use directory::LogDirectory;
pub use disk::{DiskOp, SyncMethod, Volume, WITNESS_SLOT};
pub use error::{AppendError, OpenError, Poisoned, PrepareError, ReadError, WriteFailure};
pub use file::{FileVolume, prepare_segment, prepare_segment_paced, segment_path};
pub use identity::LogIdentity;
pub use life::Life;
pub use log::{CacheRead, LogStatistics, SegmentLog};
pub use measure::{DriveMethod, measure_drive};
#[cfg(feature = "mutants")]
pub use mutant::Mutant;
/// The ids this crate's interface is written in.
pub use pontoon_types::{EntryId, GroupId, LogIndex, NodeId, Term};
pub use read_only::owner_of;
pub use record::RecordKind;
pub use recovery::{
    Damage, FrameVerdict, InspectedFrame, InspectedSegment, Inspection, RecoveredGroup, Recovery,
    RecoveryReport, Unreadable, inspect,
};
pub use slab::{ReadBuffer, RecordBytes, SlabPool};
pub use witness::Forgetting;

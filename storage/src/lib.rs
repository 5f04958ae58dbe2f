//! Pontoon's segment log.
#![deny(unsafe_code)]

pub mod blocking;
pub mod config;
mod disk;
pub mod error;
mod file;
mod layout;
mod log;
pub mod memory;
pub mod record;
mod recovery;
mod slab;
pub mod uring;

pub use config::{Identity, LogConfig};
pub use disk::{DiskOp, SyncMethod, Volume};
pub use error::{AppendError, OpenError, Poisoned, PrepareError, ReadError, WriteFailure};
pub use file::{DirectoryLock, FileVolume, measure_sync_method, prepare_segment, segment_path};
pub use log::{CacheRead, LogStatistics, SegmentLog};
pub use record::RecordKind;
pub use recovery::{Damage, RecoveredGroup, Recovery, RecoveryReport};
pub use slab::{ReadBuffer, RecordBytes, SlabPool};

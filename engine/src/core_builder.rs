//! Construction of a core on its own thread: its log, its shard, and the driver that carries it.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use pontoon_raft::{GroupId, NodeId, Time};
use pontoon_storage::{DriveMethod, FileVolume, SegmentLog, SyncMethod, Volume, measure_drive};
use pontoon_transport::FrameLimits;

use crate::bulk::BulkLink;
use crate::config::{Config, FRAME_BYTES_MAX, RECEIVE_AHEAD_BYTES};
use crate::doorbell::Doorbell;
use crate::driver::{UringConfig, UringDriver};
use crate::host::CoreLoop;
use crate::inbox::Inbox;
use crate::machine::Machines;
use crate::node_error::StartError;
use crate::placement::core_of;
use crate::shard::{Mutants, Shard, ShardConfig};

/// Entries of a core's submission queue; a turn seldom needs more than two per peer and one write.
const RING_ENTRIES: u32 = 256;

/// Parts of a core on their way to its own thread.
pub(crate) struct CoreBuilder {
    pub(crate) config: Config,
    pub(crate) core: u16,
    pub(crate) machines: Machines,
    pub(crate) link: BulkLink,
    pub(crate) doorbell: Arc<Doorbell>,
    /// Time 0 of the core's clock.
    pub(crate) origin: Instant,
}

impl CoreBuilder {
    /// Opens the log, reopens its groups, and makes the driver. Call it on the core's own thread.
    /// Blocks while the log is recovered.
    ///
    /// # Errors
    /// If the log, a group or the driver can't be opened.
    pub(crate) fn build(self, inbox: Inbox) -> Result<CoreLoop<UringDriver>, StartError> {
        let core = self.core;
        let directory = self.config.directory(core);
        let mut log_config = self.config.log_config(core);
        log_config.nonce = random()?;
        let log_error = |source| StartError::Log { core, source };
        let mut volume =
            FileVolume::open(&directory, log_config.segment_bytes).map_err(log_error)?;
        let (mut log, recovery) = SegmentLog::open(&mut volume, log_config).map_err(log_error)?;
        let groups = recovery.groups.iter().map(|recovered| recovered.group);
        refuse_misplaced(core, self.config.cores, groups)?;
        prepare_reserve(&mut log, &mut volume);
        let method = drive_method(&log, &volume).map_err(|source| StartError::System {
            what: "measuring how the drive is written best",
            source,
        })?;
        log.set_writes_in_flight(method.writes_in_flight);
        let arena = log.pool().arena();
        let shard_config = shard_config(&self.config);
        let shard = Shard::open(shard_config, log, &recovery, self.machines, inbox, Time(0))
            .map_err(|source| StartError::Groups { core, source })?;
        let driver = UringDriver::open(UringConfig {
            volume,
            sync: method.sync,
            arena,
            bulk: self.link,
            doorbell: Arc::clone(&self.doorbell),
            ring_entries: RING_ENTRIES,
        })
        .map_err(|source| StartError::Driver { core, source })?;
        let spin = self.config.spin;
        Ok(CoreLoop::new(
            shard,
            driver,
            self.doorbell,
            self.origin,
            spin,
        ))
    }
}

/// A number that no other life of a log has.
fn random() -> Result<u64, StartError> {
    let mut bytes = [0; 8];
    let filled = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
    filled.map_err(|errno| StartError::System {
        what: "drawing a random number",
        source: errno.into(),
    })?;
    Ok(u64::from_le_bytes(bytes))
}

/// A group that lives on another core would be made there anew, without what it has promised.
fn refuse_misplaced(
    core: u16,
    cores: u16,
    groups: impl IntoIterator<Item = GroupId>,
) -> Result<(), StartError> {
    for group in groups {
        let lives_on = core_of(group, cores);
        if lives_on != core {
            return Err(StartError::Placement {
                core,
                group,
                lives_on,
                cores,
            });
        }
    }
    Ok(())
}

/// Prepares the first segments before anybody waits for them. A full disk is no error here: it is
/// met again, and logged, while the node runs.
fn prepare_reserve(log: &mut SegmentLog, volume: &mut FileVolume) {
    while let Some(slot) = log.segments_wanted() {
        let ready = volume.prepare(slot).is_ok();
        log.on_prepared(slot, ready);
        if !ready {
            return;
        }
    }
}

/// How the drive is written best, measured on a free segment. Without one, the method that every
/// drive is good at.
fn drive_method(log: &SegmentLog, volume: &FileVolume) -> io::Result<DriveMethod> {
    match log.free_slot().and_then(|slot| volume.file(slot)) {
        Some(file) => measure_drive(file, volume.block_bytes()),
        None => Ok(DriveMethod {
            sync: SyncMethod::WriteThenFdatasync,
            writes_in_flight: 1,
        }),
    }
}

pub(crate) fn shard_config(config: &Config) -> ShardConfig {
    let bytes = |size: bytesize::ByteSize| usize::try_from(size.0).expect("a 64-bit machine");
    let nanoseconds = |time: std::time::Duration| {
        u64::try_from(time.as_nanos()).expect("the configuration allows no centuries")
    };
    let limits = &config.limits;
    ShardConfig {
        node: NodeId(config.node),
        peers: config.peer_addresses().into_keys().collect(),
        seed: config.node,
        election_timeout: nanoseconds(config.raft.election_timeout),
        heartbeat_interval: nanoseconds(config.raft.heartbeat_interval),
        frame_limits: FrameLimits {
            frame_bytes_max: FRAME_BYTES_MAX,
            receive_ahead_bytes: RECEIVE_AHEAD_BYTES,
        },
        command_bytes_max: bytes(limits.command_bytes_max),
        reply_bytes_max: bytes(limits.reply_bytes_max),
        peer_queue_bytes_max: bytes(limits.peer_queue_bytes_max),
        in_flight_bytes_max: limits.in_flight_bytes_max.0,
        in_flight_messages_max: limits.in_flight_messages_max,
        round_trip_max: nanoseconds(config.round_trip_max()),
        lag_bytes_max: limits.lag_bytes_max.0,
        groups_max: limits.groups_max,
        mutants: Mutants::default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Before the ids were mixed well, `1 << 36` lay on core 0 whatever the number of cores.
    #[test]
    fn a_group_on_the_log_of_another_core_is_refused_by_name() {
        let group = GroupId(1 << 36);
        let lives_on = core_of(group, 64);
        assert!(refuse_misplaced(lives_on, 64, [group]).is_ok());
        let refused = refuse_misplaced(lives_on + 1, 64, [group]).expect_err("another core");
        let told = refused.to_string();
        assert!(
            told.contains("group 68719476736") && told.contains("64 cores"),
            "{told}"
        );
    }
}

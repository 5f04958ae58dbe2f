//! Arbitrary bytes as segments of a log: recovery gives a verdict, and the same one again.

use pontoon::storage::memory::MemoryVolume;
use pontoon::storage::{EntryId, LogConfig, LogIdentity, OpenError, RecordKind, Term, Volume};

use super::bytes::Bytes;
use super::fix_checksums;
use super::open_log::OpenLog;
use crate::settings::{CLUSTER, SEGMENT_BYTES};
use crate::sim_core::log_config;

const BLOCK: usize = 4096;
const SLOTS: usize = 8;

/// The first byte is a set of flags (bit 0 has checksums fixed), the second says whose log it is:
/// core and number of cores less 1 in two bits each, from below, and the node. Then come pieces:
/// a byte for the slot, one for the block, two for a length, and so many bytes. All else is zero.
pub fn segment_open(input: &[u8]) {
    let mut input = Bytes::new(input);
    let flags = input.byte();
    let config = log_config(identity(input.byte()));
    let mut volume = MemoryVolume::new(SEGMENT_BYTES);
    lay_out(&mut volume, input);
    let fixed = flags & 1 != 0;
    if fixed {
        for slot in volume.slots() {
            let image = volume.image_mut(slot).expect("it was listed");
            fix_checksums::segment(image, &config.identity);
        }
    }
    open_twice(volume, &config, fixed);
}

fn identity(byte: u8) -> LogIdentity {
    LogIdentity {
        cluster: CLUSTER,
        node: u64::from(byte >> 4),
        core: u16::from(byte & 3),
        cores: 1 + u16::from(byte >> 2 & 3),
    }
}

fn lay_out(volume: &mut MemoryVolume, mut input: Bytes<'_>) {
    while !input.is_empty() {
        let slot = input.below(SLOTS) as u32;
        let start = input.below(SEGMENT_BYTES as usize / BLOCK) * BLOCK;
        let length = input.short();
        let bytes = input.take(length);
        volume.prepare(slot).expect("there is space");
        let image = volume.image_mut(slot).expect("just prepared");
        let end = image.len().min(start + bytes.len());
        image[start..end].copy_from_slice(&bytes[..end - start]);
    }
}

fn open_twice(volume: MemoryVolume, config: &LogConfig, fixed: bool) {
    let before = volume.clone();
    let mut refused = volume.clone();
    let second = pontoon::storage::SegmentLog::open(&mut refused, config.clone());
    match OpenLog::open(volume, config) {
        Err(error) => {
            let again = second.err().map(|error| error.to_string());
            assert_eq!(again, Some(error.to_string()), "the same verdict");
            let io = matches!(error, OpenError::Io { .. });
            assert!(io || refused == before, "a refusal changes nothing");
        }
        Ok(mut open) => {
            let again = second.map(|(_, recovery)| recovery).ok();
            assert_eq!(again.as_ref(), Some(&open.recovery), "the same verdict");
            let found = open.contents();
            let groups = open.recovery.groups.clone();
            let mut open = OpenLog::open(open.volume, config).expect("it has opened before");
            // Sound checksums around nonsense are more than a disk can do.
            if !fixed {
                assert_eq!(open.recovery.groups, groups, "opened again");
                assert_eq!(open.contents(), found, "opened again");
            }
            go_on(open, config, !fixed);
        }
    }
}

/// Whatever was found, the log goes on behind it, and keeps that where a disk can have been so.
fn go_on(mut open: OpenLog, config: &LogConfig, keeps: bool) {
    let groups = open.recovery.groups.clone();
    let mut appended = Vec::new();
    for group in groups.iter().filter(|group| !group.tainted) {
        let (id, index) = (group.group, group.last_index.next());
        let entry = EntryId::new(index, Term(u64::MAX));
        let kind = RecordKind::Command;
        if open.log.append_command(id, entry, kind, b"on").is_ok() {
            appended.push((id, index));
        }
    }
    open.flush();
    let open = OpenLog::open(open.volume, config).expect("it has opened before");
    for (id, index) in appended {
        let found = open.recovery.groups.iter().find(|group| group.group == id);
        let last = found.map(|group| (group.last_index, group.tainted));
        let goes_on = last == Some((index, false));
        assert!(goes_on || !keeps, "group {id} goes on: {last:?}");
    }
}

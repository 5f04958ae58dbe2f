//! A log that was really written, and then damaged: nothing comes back that was not written, and
//! nothing durable is missing without a report.

use std::collections::BTreeMap;

use pontoon::storage::memory::{MemoryVolume, SECTOR_BYTES};
use pontoon::storage::{LogConfig, LogIdentity, OpenError};

use super::bytes::Bytes;
use super::log_writer::{Groups, Write, WrittenLog, found};
use super::open_log::OpenLog;
use crate::settings::CLUSTER;
use crate::sim_core::log_config;

/// Damages done to one log.
const DAMAGES_MAX: usize = 8;

/// The first byte is a number of steps; two bytes a step write the log (`WrittenLog::step`), then
/// five bytes each damage it: how, which write (two), where in it (two).
pub fn segment_mutate(input: &[u8]) {
    let mut input = Bytes::new(input);
    let steps = input.byte();
    let config = config();
    let mut written = WrittenLog::new(&config);
    for _ in 0..steps {
        written.step(&mut input, &config);
    }
    written.finish();
    for _ in 0..DAMAGES_MAX {
        if input.is_empty() {
            break;
        }
        damage(&mut written, &mut input);
    }
    check(&mut written, &config);
}

fn config() -> LogConfig {
    log_config(LogIdentity {
        cluster: CLUSTER,
        node: 1,
        core: 0,
        cores: 1,
    })
}

fn damage(written: &mut WrittenLog, input: &mut Bytes<'_>) {
    let (how, which, place) = (input.byte(), input.short(), input.short());
    let writes = &written.writes;
    let write = &writes[which % writes.len()];
    let volume = &mut written.open.volume;
    let within = place % write.bytes.len();
    let sector = within / SECTOR_BYTES * SECTOR_BYTES;
    let at = write.start + sector..write.start + sector + SECTOR_BYTES;
    let other = &writes[place % writes.len()];
    let image = volume.image_mut(write.slot).expect("it was written");
    match how % 8 {
        0 => image[write.start + within] ^= 1 << (how >> 5),
        1 => image[at].fill(0),
        2 => image[at].fill(how),
        3 => image[at].copy_from_slice(&other.bytes[..SECTOR_BYTES]),
        // A write that was lost, and one that went astray.
        4 => image[write.start..][..write.bytes.len()].copy_from_slice(&write.before),
        5 => {
            let length = other.bytes.len().min(image.len() - write.start);
            image[write.start..][..length].copy_from_slice(&other.bytes[..length]);
        }
        6 => image[write.start..][..write.bytes.len()].fill(0),
        _ => image.fill(0),
    }
}

fn is_intact(volume: &MemoryVolume, write: &Write) -> bool {
    let image = volume.image(write.slot);
    image.is_some_and(|image| image[write.start..][..write.bytes.len()] == write.bytes)
}

fn check(written: &mut WrittenLog, config: &LogConfig) {
    let volume = written.open.volume.clone();
    // What the disk still says was durable. Behind that, rot can't be told from torn writes.
    let intact = written.writes.iter().filter(|it| is_intact(&volume, it));
    let witnessed = intact.map(|write| write.witnesses).max().unwrap_or(0);
    let mut open = match OpenLog::open(volume.clone(), config) {
        Ok(open) => open,
        // Nothing that is left says that it was a log.
        Err(OpenError::Unrecognised { .. }) => {
            let intact = written.writes.iter().any(|it| is_intact(&volume, it));
            return assert!(!intact, "something of the log is left");
        }
        Err(error) => panic!("damage does not keep a log from opening: {error}"),
    };
    let found_now = found(&mut open);
    for (id, group) in &found_now {
        for (index, entry) in (group.compacted.0 + 1..).zip(&group.entries) {
            let was_written = written.entries.contains(&(*id, index, entry.clone()));
            assert!(was_written, "entry {index} of group {id} was never written");
        }
    }
    let tainted: Vec<u64> = open
        .recovery
        .groups
        .iter()
        .filter(|group| group.tainted)
        .map(|group| group.group.0)
        .collect();
    let reported = !open.recovery.report.damage.is_empty();
    assert!(
        reported || tainted.is_empty(),
        "groups {tainted:?} are tainted, and no damage is reported"
    );
    let legal = legal(&written.after_frame, witnessed);
    let agrees = |groups: &&Groups| {
        let sound = found_now.iter().filter(|(id, _)| !tainted.contains(id));
        let mut sound = sound.map(|(id, group)| groups.get(id) == Some(group));
        sound.all(|same| same) && (reported || groups.len() == found_now.len())
    };
    assert!(
        legal.iter().any(agrees),
        "a sound group is as it never was since frame {witnessed}, which was durable: {:#?}\n\
         tainted: {tainted:?}, report: {:?}\nwhat was durable: {:#?}",
        found_now,
        open.recovery.report,
        legal[0]
    );
    let groups = open.recovery.groups.clone();
    let mut again = OpenLog::open(open.volume, config).expect("it has opened before");
    assert_eq!(again.recovery.groups, groups, "opened again");
    assert_eq!(found(&mut again), found_now, "opened again");
}

/// What a log may hold whose frames up to `witnessed` are known to have been durable.
fn legal(after_frame: &BTreeMap<u64, Groups>, witnessed: u64) -> Vec<&Groups> {
    let acknowledged = after_frame.range(..=witnessed).next_back();
    let later = after_frame.range(witnessed + 1..);
    let both = acknowledged.into_iter().chain(later);
    both.map(|(_, groups)| groups).collect()
}

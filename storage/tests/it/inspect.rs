//! Inspection says what the next start would find, and leaves every byte as it was.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;

use pontoon_storage::{
    FrameVerdict, InspectedFrame, Inspection, OpenError, RecordKind, SyncMethod, inspect,
    segment_path,
};
use pontoon_types::{EntryId, GroupId, LogIndex, Term};

use crate::files::{Files, directory};
use crate::harness::small_config;

/// A log of two epochs, with two entries of group 1 in each and one frame per entry.
fn write_two_epochs(path: &Path) {
    for epoch in 0..2 {
        let mut files = Files::open(path, small_config()).unwrap();
        if epoch == 0 {
            files.log.create_group(GroupId(1), b"definition").unwrap();
        }
        for index in [1, 2].map(|position| 2 * epoch + position) {
            let kind = RecordKind::Command;
            files
                .log
                .append_command(
                    GroupId(1),
                    EntryId::new(LogIndex(index), Term(1)),
                    kind,
                    &[7; 100],
                )
                .unwrap();
            files.flush(SyncMethod::WriteDsync);
        }
        let mark = files.log.idle().unwrap();
        files.run(mark, SyncMethod::WriteDsync);
    }
}

fn bytes_of(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(path).unwrap().map(Result::unwrap);
    let read = |entry: fs::DirEntry| {
        let name = entry.file_name().into_string().unwrap();
        (name, fs::read(entry.path()).unwrap())
    };
    entries.map(read).collect()
}

fn flip(path: &Path, slot: u32, offset: u64) {
    let mut options = fs::File::options();
    let file = options.read(true).write(true);
    let file = file.open(segment_path(path, slot)).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).unwrap();
    file.write_all_at(&[byte[0] ^ 1], offset).unwrap();
    file.sync_all().unwrap();
}

/// The frames of the last epoch.
fn last_frames(inspection: &Inspection) -> (u32, &[InspectedFrame]) {
    let written = inspection.segments.iter().rev();
    let segment = written.filter(|segment| !segment.frames.is_empty());
    let segment = segment.max_by_key(|segment| segment.epoch).unwrap();
    (segment.slot, &segment.frames)
}

/// Inspects, and checks that the next start finds the same.
fn inspect_and_compare(path: &Path) -> Inspection {
    let before = bytes_of(path);
    let inspection = inspect(path).unwrap();
    assert_eq!(bytes_of(path), before, "inspection writes nothing");
    let found = Files::open(path, small_config()).unwrap().recovery;
    assert_eq!(inspection.recovery, found);
    inspection
}

#[test]
#[cfg_attr(miri, ignore = "needs a file system past the page cache")]
fn a_sound_log_is_inspected_as_it_will_be_recovered() {
    let directory = directory();
    write_two_epochs(directory.path());
    let inspection = inspect_and_compare(directory.path());
    assert!(inspection.is_sound());
    assert_eq!(inspection.identity, Some(small_config().identity));
    let live = inspection.segments.iter().filter(|segment| segment.live);
    let frames: Vec<_> = live.flat_map(|segment| &segment.frames).collect();
    assert!(frames.iter().all(|f| f.verdict == FrameVerdict::Counts));
    let numbers = frames.iter().map(|frame| frame.number);
    assert!(numbers.eq(1..=inspection.last_frame));
    assert!(frames.last().unwrap().mark, "the log fell idle");
    assert!(inspection.torn_tail().is_none());
    let found = inspection.recovery.groups[0].last_index;
    assert_eq!(found, LogIndex(4));
}

#[test]
#[cfg_attr(miri, ignore = "needs a file system past the page cache")]
fn a_rotten_payload_before_a_durable_frame_is_damage() {
    let directory = directory();
    write_two_epochs(directory.path());
    let sound = inspect(directory.path()).unwrap();
    let (slot, frames) = last_frames(&sound);
    let frame = frames[0].clone();
    flip(directory.path(), slot, frame.offset + 64 + 40);
    let inspection = inspect_and_compare(directory.path());
    assert!(!inspection.is_sound());
    let (_, frames) = last_frames(&inspection);
    assert_eq!(frames[0].number, frame.number);
    assert_eq!(frames[0].verdict, FrameVerdict::Damaged);
    let damage = inspection.recovery.report.damage[0];
    assert_eq!((damage.slot, damage.first_frame), (slot, frame.number));
}

#[test]
#[cfg_attr(miri, ignore = "needs a file system past the page cache")]
fn a_last_frame_that_nothing_witnessed_is_a_torn_tail() {
    let directory = directory();
    write_two_epochs(directory.path());
    let sound = inspect(directory.path()).unwrap();
    let (slot, frames) = last_frames(&sound);
    let [.., last, mark] = frames else {
        panic!("an entry and the mark after it: {frames:?}")
    };
    // Without the mark the entry's frame was the last one, and half of it never came.
    flip(directory.path(), slot, mark.offset);
    flip(directory.path(), slot, last.offset + 64 + 40);
    let number = last.number;
    let inspection = inspect_and_compare(directory.path());
    assert!(inspection.is_sound());
    assert_eq!(inspection.last_frame, number - 1);
    let (torn_slot, torn) = inspection.torn_tail().unwrap();
    assert_eq!((torn_slot, torn.number), (slot, number));
    let found = inspection.recovery.groups[0].last_index;
    assert_eq!(found, LogIndex(3));
}

#[test]
#[cfg_attr(miri, ignore = "needs a file system past the page cache")]
fn a_log_that_a_node_writes_is_refused() {
    let directory = directory();
    let files = Files::open(directory.path(), small_config()).unwrap();
    let refusal = inspect(directory.path()).unwrap_err();
    assert!(matches!(refusal, OpenError::InUse { .. }), "{refusal}");
    drop(files);
    inspect(directory.path()).unwrap();
}

#[test]
#[cfg_attr(miri, ignore = "needs a file system past the page cache")]
fn a_directory_without_a_log_holds_nothing_and_one_that_is_not_there_is_an_error() {
    let directory = directory();
    let inspection = inspect(directory.path()).unwrap();
    assert!(inspection.segments.is_empty() && inspection.identity.is_none());
    assert!(bytes_of(directory.path()).is_empty(), "not even a lock");
    let missing = directory.path().join("missing");
    let refusal = inspect(&missing).unwrap_err();
    assert!(refusal.to_string().contains("missing"), "{refusal}");
    assert!(!missing.exists());
}

//! The `pontoon` command over real logs: its output and its exit status.
#![allow(clippy::unwrap_used)]

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Output};

use pontoon::storage::{
    DiskOp, EntryId, FileVolume, GroupId, LogConfig, LogIdentity, LogIndex, RecordKind, SegmentLog,
    SyncMethod, Term, Volume, blocking, inspect, segment_path,
};

const SEGMENT_BYTES: u64 = 8 << 20;

fn pontoon(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pontoon"));
    command.args(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn scratch() -> tempfile::TempDir {
    // Beside the build, which is on a disk; the log needs O_DIRECT.
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

fn run(volume: &FileVolume, log: &mut SegmentLog, mut op: DiskOp) {
    let file = volume.file(op.slot()).unwrap();
    let result = blocking::run(&mut op, file, SyncMethod::WriteDsync);
    log.on_complete(op.id(), result).unwrap();
}

/// Core 0 of node 3: groups 7 and 8 with three entries each, a frame per entry, and a mark.
fn write_log(directory: &Path) -> (FileVolume, SegmentLog) {
    let identity = LogIdentity {
        cluster: 0xc0ffee,
        node: 3,
        core: 0,
        cores: 1,
    };
    let config = LogConfig {
        segment_bytes: SEGMENT_BYTES,
        ..LogConfig::new(identity)
    };
    let mut volume = FileVolume::open(directory, SEGMENT_BYTES).unwrap();
    for slot in 0..2 {
        volume.prepare(slot).unwrap();
    }
    let (mut log, _) = SegmentLog::open(&mut volume, config).unwrap();
    for group in [7, 8] {
        log.create_group(GroupId(group), b"definition").unwrap();
        for index in 1..=3 {
            let kind = RecordKind::Command;
            log.append_command(
                GroupId(group),
                EntryId::new(LogIndex(index), Term(1)),
                kind,
                &[1; 100],
            )
            .unwrap();
            while let Some(op) = log.seal() {
                run(&volume, &mut log, op);
            }
        }
    }
    let mark = log.idle().unwrap();
    run(&volume, &mut log, mark);
    (volume, log)
}

/// Flips a bit of the second frame's payload. Gives the file's name.
fn rot(directory: &Path) -> String {
    let inspection = inspect(directory).unwrap();
    let segment = &inspection.segments[0];
    let path = segment_path(directory, segment.slot);
    let file = File::options().read(true).write(true).open(&path).unwrap();
    let (mut byte, offset) = ([0], segment.frames[1].offset + 100);
    file.read_exact_at(&mut byte, offset).unwrap();
    file.write_all_at(&[byte[0] ^ 1], offset).unwrap();
    file.sync_all().unwrap();
    path.display().to_string()
}

#[test]
fn a_sound_log_verifies_and_its_groups_and_frames_are_listed() {
    let scratch = scratch();
    drop(write_log(&scratch.path().join("core-0")));
    let data = scratch.path().to_str().unwrap();
    let verified = pontoon(&["log", "verify", data]);
    assert_eq!(
        verified.status.code(),
        Some(0),
        "{}",
        text(&verified.stderr)
    );
    assert!(text(&verified.stdout).contains("core-0: sound; 2 groups"));

    let inspected = text(&pontoon(&["log", "inspect", data]).stdout);
    assert!(
        inspected.contains("cluster c0ffee, node 3, core 0 of 1"),
        "{inspected}"
    );
    assert!(inspected.contains("1..3"), "{inspected}");
    assert!(!inspected.contains("verdict"), "{inspected}");
    let framed = text(&pontoon(&["log", "inspect", data, "--frames"]).stdout);
    assert!(
        framed.contains("verdict") && framed.contains("mark"),
        "{framed}"
    );
}

#[test]
fn json_holds_only_the_group_that_is_asked_for() {
    let scratch = scratch();
    drop(write_log(scratch.path()));
    let core = scratch.path().to_str().unwrap();
    let output = pontoon(&["log", "inspect", core, "--json", "--frames", "--group", "8"]);
    let logs: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let groups = logs[0]["groups"].as_array().unwrap();
    assert_eq!(groups.len(), 1);
    assert_eq!(
        (&groups[0]["group"], &groups[0]["last_index"]),
        (&8.into(), &3.into())
    );
    let frames = logs[0]["frames"].as_array().unwrap();
    assert!(!frames.is_empty());
    let of_eight =
        |frame: &serde_json::Value| frame["groups"].as_array().unwrap().contains(&8.into());
    assert!(frames.iter().all(of_eight));
}

#[test]
fn damage_is_named_by_file_and_offset_and_nothing_is_repaired() {
    let scratch = scratch();
    drop(write_log(scratch.path()));
    let file = rot(scratch.path());
    let before = fs::read(&file).unwrap();
    let output = pontoon(&["log", "verify", scratch.path().to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    let lines = text(&output.stdout);
    assert!(lines.contains(&format!("{file} at ")), "{lines}");
    assert!(
        lines.contains("damage: frames 2 to 2 were durable"),
        "{lines}"
    );
    assert_eq!(fs::read(&file).unwrap(), before);
}

#[test]
fn a_log_in_use_and_a_directory_without_one_are_refused() {
    let scratch = scratch();
    let data = scratch.path().to_str().unwrap();
    let empty = pontoon(&["log", "verify", data]);
    assert_eq!(empty.status.code(), Some(2));
    assert!(text(&empty.stderr).contains("neither segments nor"));
    let _log = write_log(scratch.path());
    let used = pontoon(&["log", "verify", data]);
    assert_eq!(used.status.code(), Some(2));
    assert!(text(&used.stderr).contains("in use by another process"));
    assert_eq!(pontoon(&["log", "mend", data]).status.code(), Some(2));
}

#[test]
fn the_default_configuration_passes_the_check_and_a_wrong_key_does_not() {
    let scratch = scratch();
    let file = scratch.path().join("pontoon.toml");
    let default = pontoon(&["config", "default"]);
    fs::write(&file, &default.stdout).unwrap();
    let checked = pontoon(&["config", "check", file.to_str().unwrap()]);
    assert_eq!(checked.status.code(), Some(0), "{}", text(&checked.stderr));
    fs::write(&file, [b"colour = 1\n", &default.stdout[..]].concat()).unwrap();
    let refused = pontoon(&["config", "check", file.to_str().unwrap()]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(
        text(&refused.stderr).contains("colour"),
        "{}",
        text(&refused.stderr)
    );
}

/// A segment that was cut is damage of its core's log, named by file; the other cores are verified
/// all the same.
#[test]
fn a_cut_segment_is_damage_and_hides_no_other_core() {
    let scratch = scratch();
    for core in ["core-0", "core-1"] {
        drop(write_log(&scratch.path().join(core)));
    }
    let first = scratch.path().join("core-0");
    let cut = segment_path(&first, 1);
    let file = File::options().write(true).open(&cut).unwrap();
    file.set_len(file.metadata().unwrap().len() - 1).unwrap();
    let output = pontoon(&["log", "verify", scratch.path().to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    let lines = text(&output.stdout);
    assert!(lines.contains(&cut.display().to_string()), "{lines}");
    assert!(lines.contains("truncated or grown"), "{lines}");
    assert!(lines.contains("core-1: sound"), "{lines}");
}

/// A group that lost something is damage also when nothing on the disk shows it any more: a node
/// would not open such a log.
#[test]
fn a_tainted_group_is_no_sound_log() {
    let scratch = scratch();
    let (volume, mut log) = write_log(scratch.path());
    log.set_tainted(GroupId(7), true).unwrap();
    while let Some(op) = log.seal() {
        run(&volume, &mut log, op);
    }
    drop((volume, log));
    let output = pontoon(&["log", "verify", scratch.path().to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stdout));
    assert!(text(&output.stdout).contains("group 7 is tainted"));
}

/// Pipes, links and directories in the place of segments or of the lock are refused as a node
/// refuses them; above all nobody waits for a pipe's other end.
#[test]
fn what_is_no_regular_file_is_refused_at_once() {
    let scratch = scratch();
    drop(write_log(scratch.path()));
    let segment = segment_path(scratch.path(), 20);
    let refused = || {
        let output = pontoon(&["log", "verify", scratch.path().to_str().unwrap()]);
        assert_eq!(output.status.code(), Some(2), "{}", text(&output.stdout));
        assert!(text(&output.stderr).contains("segment-0020"));
    };
    let made = std::process::Command::new("mkfifo").arg(&segment).status();
    if made.is_ok_and(|status| status.success()) {
        refused();
        fs::remove_file(&segment).unwrap();
    }
    std::os::unix::fs::symlink(segment_path(scratch.path(), 0), &segment).unwrap();
    refused();
    fs::remove_file(&segment).unwrap();
    fs::create_dir(&segment).unwrap();
    refused();
}

/// A node's logs are sound only together: a core whose directory is gone is missed by the others.
#[test]
fn a_core_without_its_directory_is_missed() {
    let scratch = scratch();
    for core in ["core-0", "core-1"] {
        drop(write_log(&scratch.path().join(core)));
    }
    let output = pontoon(&["log", "verify", scratch.path().to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stdout));
    assert!(text(&output.stdout).contains("one of 1 cores"));
}

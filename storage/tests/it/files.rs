//! The log on real files.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use pontoon_storage::{
    DiskOp, FileVolume, LogConfig, LogDirectory, OpenError, PrepareError, RecordKind, Recovery,
    SegmentLog, SyncMethod, Volume, blocking, measure_drive, prepare_segment,
    prepare_segment_paced, segment_path,
};

use pontoon_types::{GroupId, LogIndex};

use crate::harness::{SEGMENT_BYTES, entry_id, small_config};

pub(crate) fn directory() -> tempfile::TempDir {
    // Beside the build, which is on a disk; the system's temporary directory may be in memory.
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

pub(crate) struct Files {
    pub(crate) volume: FileVolume,
    pub(crate) log: SegmentLog,
    pub(crate) recovery: Recovery,
}

impl Files {
    pub(crate) fn open(path: &Path, config: LogConfig) -> Result<Self, OpenError> {
        let mut volume = FileVolume::open(path, config.segment_bytes)?;
        let (log, recovery) = SegmentLog::open(&mut volume, config)?;
        let mut files = Self {
            volume,
            log,
            recovery,
        };
        files.prepare();
        Ok(files)
    }

    fn prepare(&mut self) {
        while let Some(slot) = self.log.segments_wanted() {
            let file = prepare_segment(self.volume.directory(), slot, SEGMENT_BYTES).unwrap();
            self.volume.add(slot, file);
            self.log.on_prepared(slot, true);
        }
    }

    pub(crate) fn flush(&mut self, sync: SyncMethod) {
        while let Some(operation) = self.log.seal() {
            self.run(operation, sync);
        }
    }

    pub(crate) fn run(&mut self, mut operation: DiskOp, sync: SyncMethod) {
        let file = self.volume.file(operation.slot()).unwrap();
        let result = blocking::run(&mut operation, file, sync);
        self.log.on_complete(operation.id(), result).unwrap();
        self.prepare();
    }
}

#[test]
#[cfg_attr(miri, ignore = "needs a file system past the page cache")]
fn a_log_on_files_goes_on_after_a_restart() {
    let directory = directory();
    let path = directory.path().join("core-0");
    let mut files = Files::open(&path, small_config()).unwrap();
    files.log.create_group(GroupId(1), b"definition").unwrap();
    for index in 1..=60 {
        let sync = if index % 2 == 0 {
            SyncMethod::WriteDsync
        } else {
            SyncMethod::WriteThenFdatasync
        };
        let bytes = vec![index as u8; 5000];
        files
            .log
            .append_command(GroupId(1), entry_id(index, 1), RecordKind::Command, &bytes)
            .unwrap();
        files.flush(sync);
    }
    drop(files);
    let mut files = Files::open(&path, small_config()).unwrap();
    assert_eq!(files.recovery.groups[0].last_index.0, 60);
    assert!(files.recovery.report.segments > 2);
    for index in 1..=60 {
        let mut operation = files
            .log
            .read(GroupId(1), LogIndex(index)..=LogIndex(index), usize::MAX)
            .unwrap();
        let file = files.volume.file(operation.slot()).unwrap();
        let result = blocking::run(&mut operation, file, SyncMethod::WriteDsync);
        let DiskOp::Read { id, buffer, .. } = operation else {
            panic!("a read")
        };
        let bytes = files.log.on_read(id, buffer, result).unwrap();
        assert_eq!(bytes.as_ref()[32..5032], vec![index as u8; 5000]);
    }
}

#[test]
#[cfg_attr(miri, ignore = "needs a file system past the page cache")]
fn a_directory_that_is_in_use_is_refused() {
    let directory = directory();
    let first = FileVolume::open(directory.path(), SEGMENT_BYTES).unwrap();
    let refusal = FileVolume::open(directory.path(), SEGMENT_BYTES).unwrap_err();
    assert!(matches!(refusal, OpenError::InUse { .. }), "{refusal}");
    // Whoever deletes the lock file lets nobody in.
    std::fs::remove_file(directory.path().join("lock")).unwrap();
    let refusal = FileVolume::open(directory.path(), SEGMENT_BYTES).unwrap_err();
    assert!(matches!(refusal, OpenError::InUse { .. }), "{refusal}");
    drop(first);
    FileVolume::open(directory.path(), SEGMENT_BYTES).unwrap();
}

#[test]
#[cfg_attr(miri, ignore = "needs a file system past the page cache")]
fn segments_of_another_size_are_refused_with_both_sizes() {
    let directory = directory();
    drop(Files::open(directory.path(), small_config()).unwrap());
    let refusal = FileVolume::open(directory.path(), 2 * SEGMENT_BYTES).unwrap_err();
    let OpenError::Geometry { theirs, ours, .. } = refusal else {
        panic!("{refusal}")
    };
    assert_eq!((theirs, ours), (SEGMENT_BYTES, 2 * SEGMENT_BYTES));
}

/// It was once blamed on the configuration, whichever segment it was.
#[test]
#[cfg_attr(miri, ignore = "needs a file system past the page cache")]
fn a_segment_that_was_truncated_or_grown_is_refused_by_its_name() {
    for length in [SEGMENT_BYTES / 2, SEGMENT_BYTES + 4096, 0] {
        for slot in [0, 1] {
            let directory = directory();
            drop(Files::open(directory.path(), small_config()).unwrap());
            let path = segment_path(directory.path(), slot);
            let file = std::fs::File::options().write(true).open(&path).unwrap();
            file.set_len(length).unwrap();
            let refusal = FileVolume::open(directory.path(), SEGMENT_BYTES).unwrap_err();
            let message = refusal.to_string();
            assert!(message.contains(&path.display().to_string()), "{message}");
            assert!(message.contains(&format!("{length} bytes")), "{message}");
            assert!(message.contains("truncated or grown"), "{message}");
        }
    }
}

#[test]
#[cfg_attr(miri, ignore = "needs a file system past the page cache")]
fn a_file_system_without_direct_io_is_refused_by_name() {
    // Linux: /proc never has O_DIRECT, and takes no files; either way the path is named.
    let refusal = FileVolume::open(Path::new("/proc/self"), SEGMENT_BYTES).unwrap_err();
    assert!(refusal.to_string().contains("/proc/self"), "{refusal}");
}

#[test]
#[cfg_attr(miri, ignore = "needs a file system past the page cache")]
fn preparing_is_done_once_and_leaves_nothing_half_done() {
    let directory = directory();
    std::fs::write(directory.path().join("preparing-0003"), b"of a crash").unwrap();
    let opened = LogDirectory::open(directory.path()).unwrap();
    for _ in 0..2 {
        prepare_segment(&opened, 3, SEGMENT_BYTES).unwrap();
        let bytes = std::fs::read(segment_path(directory.path(), 3)).unwrap();
        assert!(bytes.len() as u64 == SEGMENT_BYTES && bytes.iter().all(|byte| *byte == 0));
    }
    drop(opened);
    assert!(!directory.path().join("preparing-0003").exists());
    let volume = FileVolume::open(directory.path(), SEGMENT_BYTES).unwrap();
    assert_eq!(volume.slots(), [3]);
}

#[test]
#[cfg_attr(miri, ignore = "needs a file system past the page cache")]
fn preparing_that_is_stopped_leaves_nothing_behind() {
    let directory = directory();
    let mut pieces = 0;
    let mut pace = || {
        pieces += 1;
        pieces < 3
    };
    let opened = LogDirectory::open(directory.path()).unwrap();
    let stopped = prepare_segment_paced(&opened, 3, 64 << 20, &mut pace);
    assert!(matches!(stopped, Err(PrepareError::Stopped { .. })));
    assert_eq!(pieces, 3);
    assert_eq!(names(directory.path()), ["lock"]);
}

#[test]
#[cfg_attr(miri, ignore = "needs a file system past the page cache")]
fn measuring_leaves_a_prepared_segment_as_it_was() {
    let directory = directory();
    let opened = LogDirectory::open(directory.path()).unwrap();
    let file = prepare_segment(&opened, 0, SEGMENT_BYTES).unwrap();
    measure_drive(file.as_fd(), 4096).unwrap();
    let bytes = std::fs::read(segment_path(directory.path(), 0)).unwrap();
    assert!(bytes.len() as u64 == SEGMENT_BYTES && bytes.iter().all(|byte| *byte == 0));
}

/// The space is taken before a byte is written; what a process that was killed has left is removed.
#[test]
#[cfg_attr(miri, ignore = "needs a file system past the page cache")]
fn a_segment_that_has_no_space_is_not_begun() {
    let directory = directory();
    let left = directory.path().join("preparing-0003");
    std::fs::write(&left, b"zeros").unwrap();
    drop(FileVolume::open(directory.path(), SEGMENT_BYTES).unwrap());
    assert!(!left.exists());
    // More than any file system has.
    let mut written = 0;
    let opened = LogDirectory::open(directory.path()).unwrap();
    let outcome = prepare_segment_paced(&opened, 0, 1 << 62, &mut || {
        written += 1;
        false
    });
    assert!(
        matches!(outcome, Err(PrepareError::Io { .. })),
        "{outcome:?}"
    );
    assert_eq!(written, 0, "pieces of zeros");
    assert!(!directory.path().join("preparing-0000").exists());
}

/// A node started in a relative directory went on elsewhere after a chdir(2), where no later start
/// looked. A directory that is moved is the same case: its name leads elsewhere, or nowhere.
#[test]
#[cfg_attr(miri, ignore = "needs a file system past the page cache")]
fn a_log_stays_in_the_directory_that_was_opened_wherever_its_name_leads_by_then() {
    let data = directory();
    let (named, moved) = (data.path().join("core-0"), data.path().join("moved"));
    let mut volume = FileVolume::open(&named, SEGMENT_BYTES).unwrap();
    std::fs::rename(&named, &moved).unwrap();
    std::fs::create_dir(&named).unwrap();

    volume.prepare(0).unwrap();
    let stopped = prepare_segment_paced(volume.directory(), 1, SEGMENT_BYTES, &mut || false);
    assert!(matches!(stopped, Err(PrepareError::Stopped { .. })));
    assert_eq!(names(&moved), ["lock", "segment-0000"]);
    assert_eq!(names(&named), Vec::<String>::new());
    let refusal = FileVolume::open(&moved, SEGMENT_BYTES).unwrap_err();
    assert!(matches!(refusal, OpenError::InUse { .. }), "{refusal}");
}

/// Between its fork and its exec a child of another thread has a copy of every descriptor, and of
/// the lock's with them. It is not waited for: whoever stops and starts would be refused now and
/// then.
#[test]
#[cfg_attr(miri, ignore = "needs a file system past the page cache")]
fn a_copy_of_the_locks_descriptor_in_a_child_keeps_nobody_out() {
    let directory = directory();
    let lock = directory.path().join("lock");
    let first = FileVolume::open(directory.path(), SEGMENT_BYTES).unwrap();
    let is_lock = |number: &i32| {
        std::fs::read_link(format!("/proc/self/fd/{number}")).is_ok_and(|path| path == lock)
    };
    let number = (0..1024).find(is_lock).expect("it is open");
    // SAFETY: `first` keeps it open for as long as it is borrowed.
    #[allow(unsafe_code)]
    let copy = unsafe { BorrowedFd::borrow_raw(number) }
        .try_clone_to_owned()
        .unwrap();
    drop(first);
    FileVolume::open(directory.path(), SEGMENT_BYTES).unwrap();
    drop(copy);
}

/// The names in a directory, sorted.
fn names(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).unwrap();
    let mut names: Vec<_> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

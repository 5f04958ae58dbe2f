//! What a log that does not open says: which file, where in it, what is wrong, and what to do.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use pontoon_storage::{LogConfig, OpenError, SyncMethod, segment_path};
use pontoon_types::GroupId;

use crate::files::{Files, directory};
use crate::harness::{SEGMENT_BYTES, small_config};

/// A way to spoil a sound log, and what its message must then say.
struct Case {
    name: &'static str,
    spoil: fn(&Path),
    config: fn(&mut LogConfig),
    /// The file that is named, below the directory.
    file: &'static str,
    says: &'static [&'static str],
}

const USUAL: fn(&mut LogConfig) = |_| {};
const NOTHING: fn(&Path) = |_| {};

fn set_len(directory: &Path, length: u64) {
    let path = segment_path(directory, 0);
    let file = fs::File::options().write(true).open(path).unwrap();
    file.set_len(length).unwrap();
}

/// Something else takes a file's place.
fn replace(path: &Path, make: impl FnOnce(&Path)) {
    let _ = fs::remove_file(path);
    make(path);
}

/// Writes over a part of every segment's header, and makes its checksum right again if asked to.
fn overwrite_headers(directory: &Path, at: usize, bytes: &[u8], sound: bool) {
    for slot in 0..3 {
        let path = segment_path(directory, slot);
        let mut image = fs::read(&path).unwrap();
        if image[..8] == [0; 8] {
            continue;
        }
        image[at..at + bytes.len()].copy_from_slice(bytes);
        if sound {
            let checksum = crc32c::crc32c(&image[..4092]);
            image[4092..4096].copy_from_slice(&checksum.to_le_bytes());
        }
        fs::write(&path, image).unwrap();
    }
}

const CASES: &[Case] = &[
    Case {
        name: "cut to half",
        spoil: |directory| set_len(directory, SEGMENT_BYTES / 2),
        config: USUAL,
        file: "segment-0000",
        says: &[
            "has 65536 bytes and should have 131072",
            "truncated or grown",
            "from a backup",
        ],
    },
    Case {
        name: "cut to nothing",
        spoil: |directory| set_len(directory, 0),
        config: USUAL,
        file: "segment-0000",
        says: &["has 0 bytes", "truncated or grown", "from a backup"],
    },
    Case {
        name: "no whole blocks",
        spoil: |directory| set_len(directory, SEGMENT_BYTES - 100),
        config: USUAL,
        file: "segment-0000",
        says: &["has 130972 bytes", "truncated or grown", "from a backup"],
    },
    Case {
        name: "other size configured",
        spoil: NOTHING,
        config: |config| config.segment_bytes *= 2,
        file: "segment-0000",
        says: &[
            "at 0",
            "segment_bytes = 131072",
            "says 262144",
            "the former value",
        ],
    },
    Case {
        name: "a directory in a segment's place",
        spoil: |directory| {
            replace(&segment_path(directory, 1), |path| {
                fs::create_dir(path).unwrap()
            })
        },
        config: USUAL,
        file: "segment-0001",
        says: &["is not a regular file", "move it away"],
    },
    Case {
        name: "a link in a segment's place",
        spoil: |directory| {
            replace(&segment_path(directory, 1), |path| {
                symlink("segment-0000", path).unwrap()
            });
        },
        config: USUAL,
        file: "segment-0001",
        says: &["is not a regular file", "move it away"],
    },
    Case {
        name: "another format",
        spoil: |directory| overwrite_headers(directory, 8, &[99], true),
        config: USUAL,
        file: "segment-0000",
        says: &["at 0", "format version 99", "the program that wrote it"],
    },
    Case {
        name: "another node's",
        spoil: NOTHING,
        config: |config| config.identity.node = 77,
        file: "segment-0000",
        says: &[
            "at 0",
            "belongs to node 2",
            "this is node 77",
            "another directory",
        ],
    },
    Case {
        name: "another core's",
        spoil: NOTHING,
        config: |config| config.identity.core = 7,
        file: "segment-0000",
        says: &["belongs to core 0", "this is core 7", "another directory"],
    },
    Case {
        name: "another program's files",
        spoil: |directory| {
            for slot in 0..3 {
                let text = b"not a log ".repeat(SEGMENT_BYTES as usize);
                fs::write(
                    segment_path(directory, slot),
                    &text[..SEGMENT_BYTES as usize],
                )
                .unwrap();
            }
        },
        config: USUAL,
        file: "segment-0000",
        says: &[
            "at 36864",
            "holds a header or a frame of a log",
            "from a backup",
        ],
    },
    Case {
        name: "a directory in the lock's place",
        spoil: |directory| {
            replace(&directory.join("lock"), |path| {
                fs::create_dir(path).unwrap()
            })
        },
        config: USUAL,
        file: "lock",
        says: &[
            "opening",
            "Is a directory",
            "something else is in its place",
        ],
    },
    Case {
        name: "a directory among what is being prepared",
        spoil: |directory| fs::create_dir(directory.join("preparing-0007")).unwrap(),
        config: USUAL,
        file: "preparing-0007",
        says: &[
            "removing",
            "Is a directory",
            "something else is in its place",
        ],
    },
    Case {
        name: "a file in the directory's place",
        spoil: |directory| {
            fs::remove_dir_all(directory).unwrap();
            fs::write(directory, b"").unwrap();
        },
        config: USUAL,
        file: "",
        says: &[
            "File exists",
            "something else is in its place",
            "another directory",
        ],
    },
];

/// A log with one group.
fn small_log(directory: &Path) -> Files {
    let mut files = Files::open(directory, small_config()).unwrap();
    files.log.create_group(GroupId(1), b"").unwrap();
    files.flush(SyncMethod::WriteDsync);
    files
}

fn message(directory: &Path, config: LogConfig) -> String {
    match Files::open(directory, config) {
        Ok(_) => panic!("it opens"),
        Err(error) => error.to_string(),
    }
}

#[test]
#[cfg_attr(miri, ignore = "needs a file system past the page cache")]
fn every_refusal_names_the_file_what_is_wrong_and_the_remedy() {
    for case in CASES {
        let parent = directory();
        let directory = parent.path().join("core-0");
        drop(small_log(&directory));
        (case.spoil)(&directory);
        let mut config = small_config();
        (case.config)(&mut config);
        let message = message(&directory, config);
        let path = directory.join(case.file).display().to_string();
        let path = path.trim_end_matches('/');
        for said in [path].iter().chain(case.says) {
            assert!(
                message.contains(said),
                "{}: {said:?} is not in {message:?}",
                case.name
            );
        }
    }
}

#[test]
#[cfg_attr(miri, ignore = "needs a file system past the page cache")]
fn a_log_in_use_is_named() {
    let directory = directory();
    let _files = Files::open(directory.path(), small_config()).unwrap();
    let message = message(directory.path(), small_config());
    let lock = directory.path().join("lock").display().to_string();
    assert!(
        message.contains(&lock) && message.contains("one process per"),
        "{message}"
    );
}

/// A first header may be torn, with nothing behind it: that is no reason to refuse.
#[test]
#[cfg_attr(miri, ignore = "needs a file system past the page cache")]
fn a_torn_first_header_is_no_refusal() {
    let directory = directory();
    drop(Files::open(directory.path(), small_config()).unwrap());
    overwrite_headers(directory.path(), 100, b"torn", false);
    let path = segment_path(directory.path(), 0);
    let mut image = fs::read(&path).unwrap();
    image[4096..].fill(0);
    fs::write(&path, image).unwrap();
    let opened: Result<Files, OpenError> = Files::open(directory.path(), small_config());
    assert!(opened.is_ok());
}

/// Bad sectors are remembered by a file beside the segment, which the segment becomes.
#[test]
#[cfg_attr(miri, ignore = "needs a file system past the page cache")]
fn unsound_segments_are_remembered_and_set_aside() {
    use pontoon_storage::{FileVolume, Volume};
    let directory = directory();
    drop(small_log(directory.path()));
    let mut volume = FileVolume::open(directory.path(), SEGMENT_BYTES).unwrap();
    for slot in [0, 1] {
        volume.mark_unsound(slot).unwrap();
    }
    volume.set_aside(1).unwrap();
    assert_eq!(
        (volume.slots(), volume.unsound()),
        (vec![0, 2, 3], vec![0, 1])
    );
    drop(volume);
    let path = directory.path().join("unsound-0001");
    assert_eq!(
        fs::metadata(&path).unwrap().len(),
        SEGMENT_BYTES,
        "it keeps its sectors"
    );
    let files = Files::open(directory.path(), small_config()).unwrap();
    // The first one is needed; no other gets the second one's number.
    assert_eq!(files.volume.unsound(), [0, 1]);
    assert!(files.volume.slots().contains(&0) && !files.volume.slots().contains(&1));
}

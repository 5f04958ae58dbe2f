//! What can go wrong, one type per operation.

use std::fmt;
use std::io;
use std::path::PathBuf;

use pontoon_types::{GroupId, LogIndex};
use thiserror::Error;

use crate::layout::FORMAT_VERSION;

/// Why a log was not opened. Nothing was changed unless the message says so.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum OpenError {
    /// A setting can't work.
    #[error("{setting} {reason}")]
    Config {
        /// The setting.
        setting: &'static str,
        /// What it must be.
        reason: &'static str,
    },
    /// Another process (or another log of this one) has the directory.
    #[error("{} is in use by another process; one process per data directory", path.display())]
    InUse {
        /// The lock file.
        path: PathBuf,
    },
    /// The file system can't bypass the page cache, without which recovery can't be trusted.
    #[error(
        "{} is on a file system without O_DIRECT; put the data directory on ext4, XFS or a disk \
         of its own", path.display()
    )]
    NoDirectIo {
        /// What was opened.
        path: PathBuf,
    },
    /// The segments belong to somebody else.
    #[error(
        "{segment}, at 0: it belongs to {what} {theirs}, this is {what} {ours}; correct the \
         configuration or choose another directory"
    )]
    Foreign {
        /// The segment's file.
        segment: String,
        /// Which part of the identity differs.
        what: &'static str,
        /// What the segment says.
        theirs: String,
        /// What we were told.
        ours: String,
    },
    /// A segment was written by a version that this one can't read.
    #[error(
        "{segment}, at 0: it has format version {version}, this program reads version {}; start \
         it with the program that wrote it, or make the node anew from the others",
        FORMAT_VERSION
    )]
    Version {
        /// The segment's file.
        segment: String,
        /// Its version.
        version: u32,
    },
    /// A size differs from the one the segments were made with, as a segment's header says.
    #[error(
        "{segment}, at 0: segments were made with {setting} = {theirs}, the configuration says \
         {ours}; give it the former value"
    )]
    Geometry {
        /// The segment's file.
        segment: String,
        /// The setting.
        setting: &'static str,
        /// Bytes, as the segment says.
        theirs: u64,
        /// Bytes, as the configuration says.
        ours: u64,
    },
    /// Segments hold something, and nothing in any of them has the marks of a log.
    #[error(
        "{segment}, at {offset}: neither this nor any other segment holds a header or a frame of a \
         log, yet it is not empty; restore the data directory from a backup, or move its \
         segments away: the node then starts as one that forgot, and the others repair it"
    )]
    Unrecognised {
        /// The first such segment's file.
        segment: String,
        /// Where in it something lies.
        offset: u64,
    },
    /// Something that is no file has a segment's name.
    #[error(
        "{} is not a regular file; move it away, and restore the segment from a backup if there \
         was one", path.display()
    )]
    NoFile {
        /// The segment's path.
        path: PathBuf,
    },
    /// A segment's file is shorter or longer than it was made, and no header says that segments
    /// of this log were made with another size.
    #[error(
        "{} has {length} bytes and should have {expected}: it was truncated or grown after it was \
         made; restore the data directory from a backup", path.display()
    )]
    SegmentLength {
        /// The segment's file.
        path: PathBuf,
        /// Bytes it has.
        length: u64,
        /// Bytes of every segment, as the configuration says.
        expected: u64,
    },
    /// No segment is free for the new epoch and no more can be named.
    #[error(
        "all {segments} segments are in use, and no more can be named; give the groups more cores, \
         each of which has a log"
    )]
    NoSegment {
        /// How many there are.
        segments: u32,
    },
    /// The disk or the file system failed.
    #[error("{what}: {source}; {}", remedy(source))]
    Io {
        /// What was being done, and to what.
        what: String,
        /// What the system said.
        source: io::Error,
    },
}

/// What can be done about an error of the system.
fn remedy(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EACCES | libc::EPERM) => "let the user that the node runs as write there",
        Some(libc::EROFS) => "the file system is read-only: see why in the kernel's log",
        Some(libc::ENOSPC | libc::EDQUOT) => "free some space",
        Some(libc::EMFILE | libc::ENFILE) => "raise the limit of open files",
        Some(libc::ENOTDIR | libc::EEXIST | libc::EISDIR | libc::ELOOP) => {
            "something else is in its place: move that away, or choose another directory"
        }
        Some(libc::ENOENT) => "restore it from a backup, or choose another directory",
        Some(libc::ENOMEM) => "give the process more memory, or lower the log's sizes",
        _ => "the kernel's log says more; replace the disk if it is that",
    }
}

impl OpenError {
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }
}

/// Why a segment could not be made ready.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum PrepareError {
    /// There is no space; nothing is left behind, and it can be tried again.
    #[error("no space for {}; free some and the log goes on by itself", path.display())]
    NoSpace {
        /// The segment.
        path: PathBuf,
    },
    /// The process, or the system, has no file descriptor left; it can be tried again.
    #[error(
        "no descriptor for {}: raise the limit of open files (RLIMIT_NOFILE, fs.file-max)",
        path.display()
    )]
    NoDescriptors {
        /// The segment.
        path: PathBuf,
    },
    /// The file system can't bypass the page cache.
    #[error("{} is on a file system without O_DIRECT", path.display())]
    NoDirectIo {
        /// The segment.
        path: PathBuf,
    },
    /// The disk or the file system failed.
    #[error("preparing {}: {source}; {}", path.display(), remedy(source))]
    Io {
        /// The segment.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It was stopped before it was done; nothing is left behind.
    #[error("preparing {} was stopped", path.display())]
    Stopped {
        /// The segment.
        path: PathBuf,
    },
}

/// Why a record was not taken. Nothing was staged.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum AppendError {
    /// The log is closed for good.
    #[error(transparent)]
    Poisoned(#[from] Poisoned),
    /// No segment is free, and no more can be made: `segments_max` is reached, or the last one
    /// could not be prepared. Try again after compaction or when the disk has space.
    #[error(
        "the log's {segments} segments are full, and there may be no more (`log.segments_max`), or \
         none could be made: free disk space, or mend what the node's log lines name"
    )]
    NoSpace {
        /// Segments there are.
        segments: u32,
    },
    /// No segment is free, and the last one could not be prepared for want of file descriptors. Try
    /// again when there are some.
    #[error(
        "the log's {segments} segments are full, and no descriptor is left for another: raise the \
         limit of open files, or close some"
    )]
    NoDescriptors {
        /// Segments there are.
        segments: u32,
    },
    /// No segment is free until the next one is prepared; try again then.
    #[error("the log's {segments} segments are full until the next one is prepared; try again")]
    Preparing {
        /// Segments there are.
        segments: u32,
    },
    /// The record can never fit.
    #[error("a record of {bytes} bytes does not fit a frame, which takes {limit}")]
    TooLarge {
        /// Bytes of the record.
        bytes: usize,
        /// Longest record.
        limit: usize,
    },
    /// Too much waits to be written; try again after a completion.
    #[error("{free} bytes of staging memory are free, {bytes} are needed")]
    StagingFull {
        /// Bytes wanted.
        bytes: usize,
        /// Bytes there.
        free: usize,
    },
    /// The group was never created or is dropped.
    #[error("group {group} is not in this log")]
    UnknownGroup {
        /// The group.
        group: GroupId,
    },
    /// The group exists.
    #[error("group {group} is in this log already")]
    GroupExists {
        /// The group.
        group: GroupId,
    },
    /// The entry would leave a gap or reach below what is compacted.
    #[error("group {group} has entries {compacted} to {last}; {index} does not follow")]
    OutOfOrder {
        /// The group.
        group: GroupId,
        /// The entry's index.
        index: LogIndex,
        /// The last compacted index.
        compacted: LogIndex,
        /// The last index.
        last: LogIndex,
    },
    /// The bytes are a record, but not one of an entry.
    #[error("only entries may be appended as whole records")]
    NotAnEntry,
}

impl AppendError {
    /// Whether no segment is free and no more can be made, for whatever reason.
    #[must_use]
    pub fn is_full(&self) -> bool {
        matches!(self, Self::NoSpace { .. } | Self::NoDescriptors { .. })
    }
}

/// A write or a sync failed, or what was durable can't be read: nothing more of this log is ever
/// acknowledged.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "{segment} at {offset}: {failure}; the log is closed, restart the node when the disk is sound"
)]
pub struct Poisoned {
    /// The segment's file, or the witness.
    pub segment: String,
    /// Where in it.
    pub offset: u64,
    /// What happened.
    pub failure: WriteFailure,
}

/// How a write or a read failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum WriteFailure {
    /// The system gave this error number.
    Errno(i32),
    /// Fewer bytes were written than asked.
    Short {
        /// Bytes written.
        written: usize,
        /// Bytes asked.
        expected: usize,
    },
    /// What was durable does not verify any more.
    Damaged,
}

impl fmt::Display for WriteFailure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Errno(errno) => io::Error::from_raw_os_error(*errno).fmt(formatter),
            Self::Short { written, expected } => write!(formatter, "{written} of {expected} bytes"),
            Self::Damaged => write!(formatter, "durable data is damaged"),
        }
    }
}

/// Why entries could not be read back.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ReadError {
    /// The log is closed.
    #[error(transparent)]
    Poisoned(#[from] Poisoned),
    /// The entries were overridden, compacted or dropped while the read was under way: look again.
    #[error("entries {first} and on of group {group} changed while they were read")]
    Changed {
        /// The group.
        group: GroupId,
        /// First entry wanted.
        first: LogIndex,
    },
    /// What the disk gave is not what was written. One more try is sensible: if that fails as
    /// well, the entries are lost.
    #[error("{segment} at {offset}: entry {index} of group {group} does not verify")]
    Damaged {
        /// The segment's file.
        segment: String,
        /// Where the read began.
        offset: u64,
        /// The group.
        group: GroupId,
        /// The first entry that does not verify.
        index: LogIndex,
    },
    /// Two reads of the place have failed: this log can't give the group's entries any more. The
    /// next start finds the damage, and the group's other copies repair it.
    #[error(
        "{segment} at {offset}: entries of group {group} can't be read: {failure}; start the node \
         again, and its other copies repair the group"
    )]
    Lost {
        /// The segment's file.
        segment: String,
        /// Where the read began.
        offset: u64,
        /// The group.
        group: GroupId,
        /// What happened.
        failure: WriteFailure,
    },
    /// The system gave an error, or fewer bytes than asked. The same holds.
    #[error("reading {segment} at {offset}: {failure}")]
    Io {
        /// The segment's file.
        segment: String,
        /// Where the read began.
        offset: u64,
        /// What happened.
        failure: WriteFailure,
    },
}

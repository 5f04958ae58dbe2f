//! A core's directory, opened for reading only; writes are discarded.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Advice, FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use crate::disk::{Volume, WITNESS_SLOT};
use crate::error::OpenError;
use crate::file::{WITNESS, birth, segment_path, slot_of};
use crate::identity::LogIdentity;
use crate::layout::{BLOCK_BYTES_MIN, SegmentHeader};

/// The segments of a directory, read through the page cache, so that a copy of a log can be
/// inspected on any file system. Writes succeed and are discarded.
#[derive(Debug)]
pub(crate) struct ReadOnlyVolume {
    segment_bytes: u64,
    block_bytes: usize,
    directory: PathBuf,
    files: BTreeMap<u32, File>,
    _lock: Option<File>,
}

impl ReadOnlyVolume {
    /// Opens the segments of a directory that no node uses. Creates and changes nothing. The block
    /// is the smallest one until [`set_block_bytes`](Self::set_block_bytes).
    ///
    /// # Errors
    /// [`OpenError::InUse`] while a node runs, [`OpenError::SegmentLength`] for a segment that is
    /// not as long as the others, and [`OpenError::Io`], also for what is no regular file.
    pub(crate) fn open(directory: &Path) -> Result<Self, OpenError> {
        let lock = share_lock(directory)?;
        let named = || OpenError::io(format!("listing {}", directory.display()));
        let mut files = BTreeMap::new();
        let mut lengths = BTreeMap::<u64, usize>::new();
        for entry in fs::read_dir(directory).map_err(named())? {
            let entry = entry.map_err(named())?;
            let Some(slot) = entry.file_name().to_str().and_then(slot_of) else {
                continue;
            };
            let path = entry.path();
            let named = || OpenError::io(format!("opening {}", path.display()));
            let file = open_regular(&path).map_err(named())?;
            let length = file.metadata().map_err(named())?.len();
            *lengths.entry(length).or_default() += 1;
            // Drops cached pages, so that the disk itself is read. It is only advice: a file system
            // that ignores it serves the pages it has.
            let _ = rustix::fs::fadvise(&file, 0, None, Advice::DontNeed);
            files.insert(slot, file);
        }
        // All segments of a log are of one length: what most have is what all should have.
        let expected = lengths.iter().max_by_key(|(_, files)| **files);
        let expected = expected.map_or(0, |(length, _)| *length);
        for (slot, file) in &files {
            let path = segment_path(directory, *slot);
            let length = file.metadata().map_err(named())?.len();
            if length != expected {
                return Err(OpenError::SegmentLength {
                    path,
                    length,
                    expected,
                });
            }
        }
        Ok(Self {
            segment_bytes: expected,
            block_bytes: BLOCK_BYTES_MIN,
            directory: directory.to_path_buf(),
            files,
            _lock: lock,
        })
    }

    /// The header of a segment. `None` when it does not verify, contradicts the file's length, or
    /// can't be read.
    pub(crate) fn header(&mut self, slot: u32) -> Option<SegmentHeader> {
        let mut block = vec![0; BLOCK_BYTES_MIN];
        self.read_at(slot, 0, &mut block).ok()?;
        let header = SegmentHeader::decode(&block).ok()?;
        let block_bytes = header.block_bytes as usize;
        let sound = block_bytes.is_power_of_two()
            && (BLOCK_BYTES_MIN..=64 << 10).contains(&block_bytes)
            && header.segment_bytes == self.segment_bytes
            && header.segment_bytes.is_multiple_of(block_bytes as u64)
            // A header and one frame at the least.
            && header.segment_bytes >= 2 * block_bytes as u64;
        sound.then_some(header)
    }

    /// Whether a segment's header block is all zero: prepared and never used.
    pub(crate) fn is_blank(&mut self, slot: u32) -> bool {
        let mut block = vec![0; BLOCK_BYTES_MIN];
        let read = self.read_at(slot, 0, &mut block);
        read.is_ok() && block.iter().all(|byte| *byte == 0)
    }

    /// Sets the block, as a sound header states it.
    pub(crate) fn set_block_bytes(&mut self, block_bytes: usize) {
        self.block_bytes = block_bytes;
    }
}

/// Whose log is in a directory, by the first segment whose header says it. Blocks, and changes
/// nothing; what can't be read says nothing.
#[must_use]
pub fn owner_of(directory: &Path) -> Option<LogIdentity> {
    let owner = |entry: fs::DirEntry| {
        entry.file_name().to_str().and_then(slot_of)?;
        let mut block = vec![0; BLOCK_BYTES_MIN];
        let file = open_regular(&entry.path()).ok()?;
        file.read_exact_at(&mut block, 0).ok()?;
        SegmentHeader::decode(&block)
            .ok()
            .map(|header| header.identity)
    };
    fs::read_dir(directory).ok()?.flatten().find_map(owner)
}

/// Opens a file as a node would: never through a link, and without waiting for the other end of a
/// pipe.
fn open_regular(path: &Path) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty())?);
    if file.metadata()?.is_file() {
        Ok(file)
    } else {
        Err(io::Error::other("it is not a regular file"))
    }
}

/// Takes the directory's lock shared: no node starts meanwhile, other inspections may run. A
/// directory without a lock file is a copy that no node has opened.
fn share_lock(directory: &Path) -> Result<Option<File>, OpenError> {
    let path = directory.join("lock");
    let file = match open_regular(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => {
            let what = format!("opening {}", path.display());
            return Err(OpenError::Io { what, source });
        }
    };
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared) {
        Ok(()) => Ok(Some(file)),
        Err(Errno::WOULDBLOCK) => Err(OpenError::InUse { path }),
        Err(errno) => Err(OpenError::Io {
            what: format!("locking {}", path.display()),
            source: errno.into(),
        }),
    }
}

impl Volume for ReadOnlyVolume {
    fn block_bytes(&self) -> usize {
        self.block_bytes
    }

    fn segment_bytes(&self) -> u64 {
        self.segment_bytes
    }

    fn directory(&self) -> Option<&Path> {
        Some(&self.directory)
    }

    fn slots(&self) -> Vec<u32> {
        let slots = self.files.keys().copied();
        slots.filter(|slot| *slot != WITNESS_SLOT).collect()
    }

    fn read_at(&mut self, slot: u32, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let file = self.files.get(&slot).ok_or(io::ErrorKind::NotFound)?;
        file.read_exact_at(buffer, offset)
    }

    fn write_at(&mut self, _slot: u32, _offset: u64, _bytes: &[u8]) -> io::Result<()> {
        Ok(())
    }

    fn sync(&mut self, _slot: u32) -> io::Result<()> {
        Ok(())
    }

    fn prepare(&mut self, _slot: u32) -> io::Result<()> {
        Ok(())
    }

    fn open_witness(&mut self) -> io::Result<u128> {
        let file = open_regular(&self.directory.join(WITNESS))?;
        let birth = birth(&file)?;
        self.files.insert(WITNESS_SLOT, file);
        Ok(birth)
    }

    fn replace_witness(&mut self) -> io::Result<u128> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }
}

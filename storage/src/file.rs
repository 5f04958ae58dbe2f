//! Segments as files: `segment-NNNN` in a core's directory, opened past the page cache.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, FileType, OFlags};
use rustix::io::{Errno, ReadWriteFlags, preadv2, pwritev2};

use crate::directory::{LogDirectory, io_error};
use crate::disk::{Volume, WITNESS_SLOT, WITNESS_STRIDE};
use crate::error::{OpenError, PrepareError};
use crate::layout::{BLOCK_BYTES_MIN, SegmentHeader};
use crate::slab::SlabPool;

/// Bytes of one write while a segment is zeroed: as long as a write of the log may have to wait.
const ZERO_BYTES: usize = 256 << 10;

/// How the name of a segment begins until it is whole.
const PREPARING: &str = "preparing-";

/// The name of the witness, and the one that it has until it is whole.
pub(crate) const WITNESS: &str = "witness";
const WITNESS_PREPARING: &str = "preparing-witness";
/// How the name of a file begins that says of a slot that it has bad sectors: an empty one while
/// the segment is still needed, then the segment itself, which keeps other files off these sectors.
const UNSOUND: &str = "unsound-";

/// The name of a file that is there for a moment, at an opening.
const PROBE: &str = "probe";

/// Largest block we lay frames on.
const BLOCK_BYTES_MAX: usize = 64 << 10;

/// The segment files of one core.
#[derive(Debug)]
pub struct FileVolume {
    directory: LogDirectory,
    segment_bytes: u64,
    block_bytes: usize,
    files: BTreeMap<u32, OwnedFd>,
    witness: Option<OwnedFd>,
    unsound: BTreeSet<u32>,
}

impl FileVolume {
    /// Locks the directory and opens the segments in it. What an earlier process wrote without
    /// syncing is synced first, so that nothing that is read can still be lost.
    ///
    /// Blocks; call it from the thread that opens the log.
    ///
    /// # Errors
    /// [`InUse`](OpenError::InUse), [`NoDirectIo`](OpenError::NoDirectIo), [`Io`](OpenError::Io);
    /// [`Geometry`](OpenError::Geometry) when a segment's header says another length than
    /// `segment_bytes`, [`SegmentLength`](OpenError::SegmentLength) when only a file's length
    /// differs.
    pub fn open(directory: &Path, segment_bytes: u64) -> Result<Self, OpenError> {
        let directory = LogDirectory::open(directory)?;
        let block_bytes = probe_block(&directory)?;
        let mut files = BTreeMap::new();
        let mut unsound = BTreeSet::new();
        // Refused only when no segment says that the configuration is what differs.
        let mut odd = None;
        let names = directory.names();
        let names = names.map_err(|errno| io_error("listing", directory.path(), errno))?;
        for name in names {
            let path = directory.path().join(&name);
            if name.starts_with(PREPARING) {
                // Left over from a process that was killed; a full disk wants it back.
                let removed = directory.remove(&name);
                removed.map_err(|errno| io_error("removing", &path, errno))?;
            }
            unsound.extend(number_behind(UNSOUND, &name));
            let Some(slot) = slot_of(&name) else {
                continue;
            };
            let refused = |errno| match errno {
                Errno::ISDIR | Errno::LOOP => OpenError::NoFile { path: path.clone() },
                Errno::INVAL => OpenError::NoDirectIo { path: path.clone() },
                errno => io_error("opening", &path, errno),
            };
            // Without waiting for the other end, should it be a pipe.
            let file = directory.open_direct(&name, OFlags::NONBLOCK);
            let file = file.map_err(refused)?;
            let named = |errno| io_error("opening", &path, errno);
            let stat = rustix::fs::fstat(&file).map_err(named)?;
            if !FileType::from_raw_mode(stat.st_mode).is_file() {
                return Err(OpenError::NoFile { path });
            }
            let length = stat.st_size as u64;
            if length != segment_bytes {
                check_made_with(&file, &path, segment_bytes)?;
                odd.get_or_insert_with(|| OpenError::SegmentLength {
                    path: path.clone(),
                    length,
                    expected: segment_bytes,
                });
            }
            rustix::fs::fsync(&file).map_err(named)?;
            files.insert(slot, file);
        }
        if let Some(odd) = odd {
            return Err(odd);
        }
        Ok(Self {
            directory,
            segment_bytes,
            block_bytes,
            files,
            witness: None,
            unsound,
        })
    }

    /// The directory, for whoever works in it besides.
    #[must_use]
    pub fn directory(&self) -> &LogDirectory {
        &self.directory
    }

    /// The open files by slot, for a driver to register.
    #[must_use]
    pub fn descriptors(&self) -> Vec<(u32, RawFd)> {
        self.files
            .iter()
            .map(|(slot, file)| (*slot, file.as_raw_fd()))
            .collect()
    }

    /// The file of a slot, or of the witness.
    #[must_use]
    pub fn file(&self, slot: u32) -> Option<BorrowedFd<'_>> {
        let file = match slot {
            WITNESS_SLOT => self.witness.as_ref(),
            _ => self.files.get(&slot),
        };
        file.map(AsFd::as_fd)
    }

    /// Takes in a segment that [`prepare_segment`] has made.
    pub fn add(&mut self, slot: u32, file: OwnedFd) {
        self.files.insert(slot, file);
    }

    fn known(&self, slot: u32) -> io::Result<BorrowedFd<'_>> {
        self.file(slot)
            .ok_or_else(|| io::Error::from_raw_os_error(libc::ENOENT))
    }
}

impl Volume for FileVolume {
    fn block_bytes(&self) -> usize {
        self.block_bytes
    }

    fn segment_bytes(&self) -> u64 {
        self.segment_bytes
    }

    fn directory(&self) -> Option<&Path> {
        Some(self.directory.path())
    }

    fn slots(&self) -> Vec<u32> {
        self.files.keys().copied().collect()
    }

    fn read_at(&mut self, slot: u32, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let length = buffer.len();
        let pieces = &mut [IoSliceMut::new(buffer)];
        let count = preadv2(self.known(slot)?, pieces, offset, ReadWriteFlags::empty())?;
        if count == length {
            Ok(())
        } else {
            Err(io::ErrorKind::UnexpectedEof.into())
        }
    }

    fn write_at(&mut self, slot: u32, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let pieces = &[IoSlice::new(bytes)];
        let count = pwritev2(self.known(slot)?, pieces, offset, ReadWriteFlags::empty())?;
        if count == bytes.len() {
            Ok(())
        } else {
            Err(io::ErrorKind::WriteZero.into())
        }
    }

    fn sync(&mut self, slot: u32) -> io::Result<()> {
        Ok(rustix::fs::fdatasync(self.known(slot)?)?)
    }

    fn prepare(&mut self, slot: u32) -> io::Result<()> {
        let file = prepare_segment(&self.directory, slot, self.segment_bytes);
        let file = file.map_err(|error| match error {
            PrepareError::Io { source, .. } => source,
            PrepareError::NoSpace { .. } => io::Error::from_raw_os_error(libc::ENOSPC),
            PrepareError::NoDescriptors { .. } => io::Error::from_raw_os_error(libc::EMFILE),
            PrepareError::NoDirectIo { .. } => io::Error::from_raw_os_error(libc::EINVAL),
            PrepareError::Stopped { .. } => io::Error::from_raw_os_error(libc::ECANCELED),
        })?;
        self.add(slot, file);
        Ok(())
    }

    fn open_witness(&mut self) -> io::Result<u128> {
        let file = match self.directory.open_direct(WITNESS, OFlags::empty()) {
            Err(Errno::NOENT) => make_witness(&self.directory)?,
            opened => opened?,
        };
        // Written by an earlier process, and perhaps not durable.
        rustix::fs::fsync(&file)?;
        let birth = birth(&file)?;
        self.witness = Some(file);
        Ok(birth)
    }

    fn replace_witness(&mut self) -> io::Result<u128> {
        // The old one is gone with its name: its sectors are the file system's again.
        let file = make_witness(&self.directory)?;
        let birth = birth(&file)?;
        self.witness = Some(file);
        Ok(birth)
    }

    fn unsound(&self) -> Vec<u32> {
        self.unsound.iter().copied().collect()
    }

    fn mark_unsound(&mut self, slot: u32) -> io::Result<()> {
        self.unsound.insert(slot);
        let flags = OFlags::CREATE;
        drop(self.directory.open_direct(&unsound_name(slot), flags)?);
        Ok(self.directory.sync()?)
    }

    fn set_aside(&mut self, slot: u32) -> io::Result<()> {
        self.unsound.insert(slot);
        self.directory
            .rename(&segment_name(slot), &unsound_name(slot))?;
        self.files.remove(&slot);
        Ok(self.directory.sync()?)
    }
}

/// It gets its name once it is whole, and is removed where that fails.
fn make_witness(directory: &LogDirectory) -> Result<OwnedFd, Errno> {
    let flags = OFlags::CREATE | OFlags::TRUNC;
    let file = directory.open_direct(WITNESS_PREPARING, flags)?;
    let bytes = WITNESS_STRIDE + BLOCK_BYTES_MAX as u64;
    let written = write_zeros(&file, bytes, &mut || true)
        .and_then(|()| rustix::fs::fsync(&file))
        .and_then(|()| directory.rename(WITNESS_PREPARING, WITNESS));
    if let Err(errno) = written {
        // The space must come back; that the removal fails too changes nothing for the caller.
        let _ = directory.remove(WITNESS_PREPARING);
        return Err(errno);
    }
    directory.sync()?;
    Ok(file)
}

/// When a file was made, or, where the file system does not say that, its inode: neither goes along
/// when it is copied.
pub(crate) fn birth(file: impl AsFd) -> Result<u128, Errno> {
    use rustix::fs::{AtFlags, StatxFlags, statx};
    let flags = StatxFlags::BTIME | StatxFlags::INO;
    match statx(file.as_fd(), "", AtFlags::EMPTY_PATH, flags) {
        Ok(stat) if stat.stx_mask & StatxFlags::BTIME.bits() != 0 => {
            let (seconds, nanoseconds) = (stat.stx_btime.tv_sec, stat.stx_btime.tv_nsec);
            Ok(u128::from(seconds.cast_unsigned()) << 32 | u128::from(nanoseconds))
        }
        Ok(stat) => Ok(u128::from(stat.stx_ino)),
        Err(Errno::NOSYS) => Ok(u128::from(rustix::fs::fstat(file)?.st_ino)),
        Err(errno) => Err(errno),
    }
}

/// The path of a slot's file, or of the witness.
#[must_use]
pub fn segment_path(directory: &Path, slot: u32) -> PathBuf {
    directory.join(segment_name(slot))
}

pub(crate) fn segment_name(slot: u32) -> String {
    match slot {
        WITNESS_SLOT => WITNESS.to_owned(),
        slot => format!("segment-{slot:04}"),
    }
}

fn unsound_name(slot: u32) -> String {
    format!("{UNSOUND}{slot:04}")
}

pub(crate) fn slot_of(name: &str) -> Option<u32> {
    number_behind("segment-", name)
}

fn number_behind(prefix: &str, name: &str) -> Option<u32> {
    let digits = name.strip_prefix(prefix)?;
    let plain = digits.len() == 4 && digits.bytes().all(|byte| byte.is_ascii_digit());
    plain.then(|| digits.parse().ok()).flatten()
}

/// Refuses a segment whose header says that it was made with another length than `segment_bytes`.
fn check_made_with(file: &OwnedFd, path: &Path, segment_bytes: u64) -> Result<(), OpenError> {
    let refused = || OpenError::io("allocating for a segment's header");
    let pool = SlabPool::new(BLOCK_BYTES_MAX, BLOCK_BYTES_MAX).map_err(refused())?;
    let mut buffer = pool
        .read_buffer(BLOCK_BYTES_MAX)
        .expect("the pool has one slab");
    let pieces = &mut [IoSliceMut::new(buffer.as_mut_slice())];
    // What can't be read says nothing either.
    let count = preadv2(file, pieces, 0, ReadWriteFlags::empty()).unwrap_or(0);
    let header = buffer.as_ref()[..count].get(..BLOCK_BYTES_MIN);
    let header = header.and_then(|block| SegmentHeader::decode(block).ok());
    match header.filter(|header| header.segment_bytes != segment_bytes) {
        Some(header) => Err(OpenError::Geometry {
            segment: path.display().to_string(),
            setting: "segment_bytes",
            theirs: header.segment_bytes,
            ours: segment_bytes,
        }),
        None => Ok(()),
    }
}

/// Finds out whether files here can be written past the page cache, and in which blocks.
fn probe_block(directory: &LogDirectory) -> Result<usize, OpenError> {
    let path = directory.path().join(PROBE);
    let refused = |errno| match errno {
        Errno::INVAL => OpenError::NoDirectIo { path: path.clone() },
        errno => io_error("opening", &path, errno),
    };
    let file = directory.open_direct(PROBE, OFlags::CREATE | OFlags::TRUNC);
    let file = file.map_err(refused)?;
    let named = |errno| io_error("probing", &path, errno);
    let outcome = probe_file(&file).map_err(named);
    directory.remove(PROBE).map_err(named)?;
    match outcome? {
        Some(block) if block <= BLOCK_BYTES_MAX => Ok(block),
        _ => Err(OpenError::NoDirectIo { path }),
    }
}

fn probe_file(file: &OwnedFd) -> Result<Option<usize>, Errno> {
    use rustix::fs::{AtFlags, StatxFlags, statx};
    let stat = match statx(file, "", AtFlags::EMPTY_PATH, StatxFlags::DIOALIGN) {
        Ok(stat) if stat.stx_mask & StatxFlags::DIOALIGN.bits() != 0 => stat,
        // An older kernel does not say: every drive takes blocks of 4 KiB.
        Ok(_) | Err(Errno::NOSYS) => return Ok(Some(BLOCK_BYTES_MIN)),
        Err(errno) => return Err(errno),
    };
    let (offset, memory) = (stat.stx_dio_offset_align, stat.stx_dio_mem_align);
    if offset == 0 {
        return Ok(None);
    }
    let block = BLOCK_BYTES_MIN.max(offset as usize).max(memory as usize);
    Ok(Some(block.next_power_of_two()))
}

/// Makes a segment ready: created, zero-written, synced, and listed durably in its directory.
///
/// It gets its name only when it is whole, so a crash leaves none that is half done. A segment
/// that exists is opened as it is. Blocks for long, and takes all that the disk can give.
///
/// Any thread may call it, one for a slot at a time.
///
/// # Errors
/// [`PrepareError`], except [`Stopped`](PrepareError::Stopped).
pub fn prepare_segment(
    directory: &LogDirectory,
    slot: u32,
    segment_bytes: u64,
) -> Result<OwnedFd, PrepareError> {
    prepare_segment_paced(directory, slot, segment_bytes, &mut || true)
}

/// The same, for the time while the log is in use: `pace` is called after each piece of zeros. It
/// may wait there, to leave the disk to others, and stops the work by returning false.
///
/// # Errors
/// [`PrepareError`]; [`Stopped`](PrepareError::Stopped) when `pace` says so.
pub fn prepare_segment_paced(
    directory: &LogDirectory,
    slot: u32,
    segment_bytes: u64,
    pace: &mut dyn FnMut() -> bool,
) -> Result<OwnedFd, PrepareError> {
    let path = segment_path(directory.path(), slot);
    let refused = |errno: Errno| match errno {
        Errno::NOSPC | Errno::DQUOT => PrepareError::NoSpace { path: path.clone() },
        Errno::MFILE | Errno::NFILE => PrepareError::NoDescriptors { path: path.clone() },
        Errno::INVAL => PrepareError::NoDirectIo { path: path.clone() },
        Errno::CANCELED => PrepareError::Stopped { path: path.clone() },
        errno => PrepareError::Io {
            path: path.clone(),
            source: errno.into(),
        },
    };
    let name = segment_name(slot);
    match directory.open_direct(&name, OFlags::empty()) {
        Ok(file) => return Ok(file),
        Err(Errno::NOENT) => {}
        Err(errno) => return Err(refused(errno)),
    }
    let partial = format!("{PREPARING}{slot:04}");
    let file = directory.open_direct(&partial, OFlags::CREATE | OFlags::TRUNC);
    let file = file.map_err(refused)?;
    let written = allocate(&file, segment_bytes)
        .and_then(|()| write_zeros(&file, segment_bytes, pace))
        .and_then(|()| rustix::fs::fsync(&file))
        .and_then(|()| directory.rename(&partial, &name))
        .map_err(refused);
    if let Err(error) = written {
        // The space must come back; that the removal fails too changes nothing for the caller.
        let _ = directory.remove(&partial);
        return Err(error);
    }
    directory.sync().map_err(refused)?;
    Ok(file)
}

/// Takes the space before anything is written, so that a full disk says so at once, and is not
/// written full of zeros time and again. A file system that can't do that finds out while writing.
fn allocate(file: &OwnedFd, bytes: u64) -> Result<(), Errno> {
    match rustix::fs::fallocate(file, FallocateFlags::empty(), 0, bytes) {
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
        outcome => outcome,
    }
}

/// ECANCELED if `pace` says so.
fn write_zeros(file: &OwnedFd, bytes: u64, pace: &mut dyn FnMut() -> bool) -> Result<(), Errno> {
    let pool = SlabPool::new(ZERO_BYTES, ZERO_BYTES).map_err(|_| Errno::NOMEM)?;
    let zeros = pool.read_buffer(ZERO_BYTES).expect("the pool has one slab");
    let mut offset = 0;
    while offset < bytes {
        let length =
            usize::try_from(bytes - offset).map_or(ZERO_BYTES, |left| left.min(ZERO_BYTES));
        let pieces = &[IoSlice::new(&zeros.as_ref()[..length])];
        match pwritev2(file, pieces, offset, ReadWriteFlags::empty())? {
            0 => return Err(Errno::NOSPC),
            count => offset += count as u64,
        }
        if !pace() {
            return Err(Errno::CANCELED);
        }
    }
    Ok(())
}

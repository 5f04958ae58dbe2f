//! A core's directory: opened once, locked, and from then on known by its descriptor alone.

use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, Dir, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use rustix::process::Pid;

use crate::error::OpenError;

/// A directory that only we use, until this and all its clones are dropped.
///
/// Its path is read once, at the opening. Where the process works later, and what has the
/// directory's name by then, may be anything: half of a log in one place and half in another would
/// be found by no start.
#[derive(Clone, Debug)]
pub struct LogDirectory(Arc<Opened>);

#[derive(Debug)]
struct Opened {
    /// For messages only.
    path: PathBuf,
    directory: OwnedFd,
    lock: OwnedFd,
    /// The process that took the lock.
    owner: Pid,
}

/// Unlocked by name: a child that another thread has forked holds the same lock until it executes
/// its program, and a start that follows at once would be refused.
impl Drop for Opened {
    fn drop(&mut self) {
        if rustix::process::getpid() == self.owner {
            // Closed in any case, which unlocks it unless there is such a child.
            let _ = rustix::fs::flock(&self.lock, FlockOperation::Unlock);
            let _ = rustix::fs::flock(&self.directory, FlockOperation::Unlock);
        }
    }
}

impl LogDirectory {
    /// Creates the directory if need be, and takes its `lock` file.
    ///
    /// # Errors
    /// [`InUse`](OpenError::InUse) when somebody has it, [`Io`](OpenError::Io) for all else.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        let named = || OpenError::io(format!("creating {}", path.display()));
        create_durably(path).map_err(named())?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::open(path, flags, Mode::empty());
        let directory = directory.map_err(|errno| io_error("opening", path, errno))?;
        let lock = path.join("lock");
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(0o666);
        let file = rustix::fs::openat(&directory, "lock", flags, mode);
        let file = file.map_err(|errno| io_error("opening", &lock, errno))?;
        // The directory as well: whoever deletes the file would let another process in.
        let exclusively = FlockOperation::NonBlockingLockExclusive;
        let locked = rustix::fs::flock(&directory, exclusively)
            .and_then(|()| rustix::fs::flock(&file, exclusively));
        match locked {
            Ok(()) => Ok(Self(Arc::new(Opened {
                path: path.to_path_buf(),
                directory,
                lock: file,
                owner: rustix::process::getpid(),
            }))),
            Err(Errno::WOULDBLOCK) => Err(OpenError::InUse { path: lock }),
            Err(errno) => Err(io_error("locking", &lock, errno)),
        }
    }

    /// Where it was when it was opened: for messages, not to open anything by.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// The names in it.
    pub(crate) fn names(&self) -> Result<Vec<String>, Errno> {
        let mut names = Vec::new();
        for entry in Dir::read_from(&self.0.directory)? {
            // What is not even text is nothing of ours.
            names.extend(entry?.file_name().to_str().ok().map(str::to_owned));
        }
        Ok(names)
    }

    /// Opens a file past the page cache.
    pub(crate) fn open_direct(&self, name: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
        let flags = flags | OFlags::RDWR | OFlags::DIRECT | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        rustix::fs::openat(&self.0.directory, name, flags, Mode::RUSR | Mode::WUSR)
    }

    pub(crate) fn remove(&self, name: &str) -> Result<(), Errno> {
        rustix::fs::unlinkat(&self.0.directory, name, AtFlags::empty())
    }

    pub(crate) fn rename(&self, from: &str, to: &str) -> Result<(), Errno> {
        rustix::fs::renameat(&self.0.directory, from, &self.0.directory, to)
    }

    /// Makes the names in it durable.
    pub(crate) fn sync(&self) -> Result<(), Errno> {
        rustix::fs::fsync(&self.0.directory)
    }
}

pub(crate) fn io_error(doing: &str, path: &Path, errno: Errno) -> OpenError {
    OpenError::io(format!("{doing} {}", path.display()))(errno.into())
}

/// Creates what is missing of a path, each directory listed durably in the one above it.
fn create_durably(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let above = match path.parent() {
        // The working directory.
        Some(above) if above.as_os_str().is_empty() => Path::new("."),
        Some(above) => above,
        None => return fs::create_dir(path),
    };
    create_durably(above)?;
    match fs::create_dir(path) {
        // Another core of this node was faster.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => {}
        outcome => outcome?,
    }
    File::open(above)?.sync_all()
}

//! Directories of data and results. Data lies on the disk to be measured and is removed afterwards.

use std::fs::{self, File};
use std::io::{IoSlice, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use rustix::fs::{Mode, OFlags};
use tempfile::TempDir;

/// Alignment of addresses, offsets and lengths for direct I/O.
pub(crate) const BLOCK_BYTES: usize = 4096;

const DIRECTORY_PREFIX: &str = "pontoon-bench-";

/// The directory of one run's data, removed with its content on drop.
pub(crate) struct DataDirectory {
    directory: TempDir,
    created: Option<PathBuf>,
}

impl DataDirectory {
    /// Creates one below `chosen`, or below the target directory this program was built in.
    ///
    /// # Errors
    /// When it can't be created, or its file system has no O_DIRECT.
    pub(crate) fn create(chosen: Option<&Path>) -> Result<Self> {
        let parent = chosen.map_or_else(results_directory, Path::to_path_buf);
        let created = (chosen.is_some() && !parent.exists()).then(|| parent.clone());
        fs::create_dir_all(&parent)
            .with_context(|| format!("creating the data directory {}", parent.display()))?;
        remove_leftovers(&parent);
        let prefix = format!("{DIRECTORY_PREFIX}{}-", std::process::id());
        let directory = TempDir::with_prefix_in(prefix, &parent)
            .with_context(|| format!("creating a directory in {}", parent.display()))?;
        check_direct_io(directory.path())?;
        Ok(Self { directory, created })
    }

    /// Its path.
    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Creates a directory in it.
    ///
    /// # Errors
    /// When the file system refuses.
    pub(crate) fn subdirectory(&self, name: &str) -> Result<PathBuf> {
        let path = self.path().join(name);
        fs::create_dir_all(&path).with_context(|| format!("creating {}", path.display()))?;
        Ok(path)
    }
}

impl Drop for DataDirectory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(self.directory.path());
        if let Some(created) = &self.created {
            // Fails if somebody else has put something there, and that is right.
            let _ = fs::remove_dir(created);
        }
    }
}

/// `target/pontoon-bench` of the build this program belongs to.
pub(crate) fn results_directory() -> PathBuf {
    let target = std::env::current_exe().ok().and_then(|program| {
        let target = program
            .ancestors()
            .find(|path| path.join("CACHEDIR.TAG").exists())?;
        Some(target.to_path_buf())
    });
    target
        .unwrap_or_else(|| PathBuf::from("target"))
        .join("pontoon-bench")
}

/// Removes the data of interrupted runs, whose process no longer exists.
fn remove_leftovers(parent: &Path) {
    let Ok(entries) = fs::read_dir(parent) else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let process = name
            .to_str()
            .and_then(|name| name.strip_prefix(DIRECTORY_PREFIX));
        let process = process.and_then(|rest| rest.split('-').next());
        let Some(process) = process.and_then(|text| text.parse::<u32>().ok()) else {
            continue;
        };
        if !Path::new("/proc").join(process.to_string()).exists() {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// Refuses a file system without O_DIRECT: writes through the page cache are not comparable.
fn check_direct_io(directory: &Path) -> Result<()> {
    let path = directory.join("direct-io");
    let flags = OFlags::CREATE | OFlags::RDWR | OFlags::DIRECT | OFlags::CLOEXEC;
    match rustix::fs::open(&path, flags, Mode::RUSR | Mode::WUSR) {
        Ok(_) => {
            let _ = fs::remove_file(&path);
            Ok(())
        }
        Err(rustix::io::Errno::INVAL) => bail!(
            "the file system of {} has no O_DIRECT, so a durable write can't be measured there; \
             choose a directory on a disk with --data DIR",
            directory.display()
        ),
        Err(error) => {
            Err(error).with_context(|| format!("opening {} with O_DIRECT", path.display()))
        }
    }
}

/// Bytes at a block-aligned address, for direct I/O.
pub(crate) struct AlignedBytes {
    bytes: Vec<u8>,
    start: usize,
    length: usize,
}

impl AlignedBytes {
    /// `length` bytes, all `fill`.
    pub(crate) fn new(length: usize, fill: u8) -> Self {
        let bytes = vec![fill; length + BLOCK_BYTES];
        let start = bytes.as_ptr().align_offset(BLOCK_BYTES);
        Self {
            bytes,
            start,
            length,
        }
    }

    /// The bytes.
    pub(crate) fn as_slice(&self) -> &[u8] {
        &self.bytes[self.start..self.start + self.length]
    }

    /// The bytes, to be written to.
    pub(crate) fn as_mut_slice(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.start + self.length]
    }
}

/// Prepares a file as the log prepares its segments: zero-written, synced, opened with O_DIRECT.
///
/// # Errors
/// When it can't be opened or written.
pub(crate) fn prepare_file(path: &Path, bytes: u64) -> Result<OwnedFd> {
    let flags = OFlags::CREATE | OFlags::RDWR | OFlags::DIRECT | OFlags::CLOEXEC;
    let file = rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR)
        .with_context(|| format!("opening {} with O_DIRECT", path.display()))?;
    let zeros = AlignedBytes::new(1 << 20, 0);
    let mut offset = 0;
    while offset < bytes {
        let length = (bytes - offset).min(zeros.length as u64) as usize;
        let piece = [IoSlice::new(&zeros.as_slice()[..length])];
        let written =
            rustix::io::pwritev2(&file, &piece, offset, rustix::io::ReadWriteFlags::empty())
                .with_context(|| format!("preparing {}", path.display()))?;
        offset += written as u64;
    }
    rustix::fs::fsync(&file)?;
    Ok(file)
}

/// Writes a result file, after creating its directory.
///
/// # Errors
/// When either can't be created or written.
pub(crate) fn write_result(path: &Path, text: &str) -> Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).with_context(|| format!("creating {}", parent.display()))?;
    }
    let mut file = File::create(path).with_context(|| format!("creating {}", path.display()))?;
    file.write_all(text.as_bytes())
        .with_context(|| format!("writing {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn test_directory() -> PathBuf {
        let directory = results_directory();
        fs::create_dir_all(&directory).unwrap();
        directory
    }

    #[test]
    fn what_was_made_is_gone_afterwards() {
        let scratch = TempDir::new_in(test_directory()).unwrap();
        let chosen = scratch.path().join("chosen");
        let data = DataDirectory::create(Some(&chosen)).unwrap();
        let inside = data.subdirectory("node-1").unwrap();
        prepare_file(&inside.join("segment"), 64 << 10).unwrap();
        assert_eq!(
            fs::metadata(inside.join("segment")).unwrap().len(),
            64 << 10
        );
        drop(data);
        assert!(!chosen.exists());
    }

    #[test]
    fn aligned_bytes_are_aligned() {
        let bytes = AlignedBytes::new(10_000, 7);
        assert_eq!(bytes.as_slice().as_ptr().align_offset(BLOCK_BYTES), 0);
        assert_eq!(bytes.as_slice().len(), 10_000);
    }
}

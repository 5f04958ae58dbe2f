//! The machine and disk of a run: its figures mean nothing on another one.

use std::fs;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use pontoon::storage::{SyncMethod, measure_drive};
use serde::Serialize;

use crate::data::{BLOCK_BYTES, DataDirectory, prepare_file};
use crate::sync_method::SyncMethodSerde;

/// The parts of the machine that decide the figures.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Environment {
    /// Version of this program.
    pub(crate) version: &'static str,
    /// Seconds since the Unix epoch.
    pub(crate) time: u64,
    /// Kernel name, release, architecture.
    pub(crate) kernel: String,
    /// Model of the first processor.
    pub(crate) processor: String,
    /// Processors this process may use.
    pub(crate) processors: usize,
    /// Directory of the nodes' data.
    pub(crate) data: String,
    /// Device of that directory, its write cache mode and whether it takes FUA.
    pub(crate) disk: String,
    /// How writes were made durable.
    #[serde(with = "SyncMethodSerde")]
    pub(crate) sync_method: SyncMethod,
}

impl Environment {
    /// Describes this machine and the disk of `data`.
    pub(crate) fn of(data: &Path, sync_method: SyncMethod) -> Self {
        let system = rustix::system::uname();
        let kernel = [system.sysname(), system.release(), system.machine()];
        Self {
            version: env!("CARGO_PKG_VERSION"),
            time: SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(0, |time| time.as_secs()),
            kernel: kernel
                .map(|part| part.to_string_lossy().into_owned())
                .join(" "),
            processor: processor(),
            processors: std::thread::available_parallelism().map_or(1, usize::from),
            data: data.display().to_string(),
            disk: disk(data),
            sync_method,
        }
    }

    /// The same, with the way of writing that an engine would choose on that disk.
    ///
    /// # Errors
    /// When the disk can't be written.
    pub(crate) fn measured(data: &DataDirectory) -> Result<Self> {
        let path = data.path().join("drive");
        let file = prepare_file(&path, 1 << 20)?;
        let drive = measure_drive(file.as_fd(), BLOCK_BYTES).context("measuring the disk")?;
        std::fs::remove_file(path)?;
        Ok(Self::of(data.path(), drive.sync))
    }

    /// All of it in one line, for the terminal.
    pub(crate) fn line(&self) -> String {
        format!(
            "{}; {} x {}; disk {}; {:?}",
            self.kernel, self.processors, self.processor, self.disk, self.sync_method
        )
    }
}

fn processor() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = text.lines().find(|line| line.starts_with("model name"));
    let model = model.and_then(|line| line.split_once(": "));
    model.map_or_else(
        || "unknown processor".to_owned(),
        |(_, name)| name.to_owned(),
    )
}

/// Device name, cache mode and FUA; `?` where sysfs does not list it (tmpfs, overlays).
fn disk(path: &Path) -> String {
    let Ok(status) = rustix::fs::stat(path) else {
        return "unknown".to_owned();
    };
    let device = status.st_dev;
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let base = format!("/sys/dev/block/{major}:{minor}");
    let read = |name: &str| {
        // A partition's queue is its disk's.
        let own = fs::read_to_string(format!("{base}/queue/{name}"));
        let text = own.or_else(|_| fs::read_to_string(format!("{base}/../queue/{name}")));
        text.map_or_else(|_| "?".to_owned(), |text| text.trim().to_owned())
    };
    let name = fs::read_link(&base).ok();
    let name = name
        .as_deref()
        .and_then(Path::file_name)
        .and_then(|name| name.to_str());
    format!(
        "{} ({}, FUA {})",
        name.unwrap_or("unknown"),
        read("write_cache"),
        read("fua")
    )
}

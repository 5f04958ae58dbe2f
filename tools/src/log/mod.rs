//! `pontoon log`: the logs of a node that does not run.

mod inspect;
mod verify;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use clap::{Args, Subcommand};
use pontoon::storage::Inspection;

use crate::output;

/// The log can't be read at all, as for wrong arguments.
const EXIT_USAGE: u8 = 2;

/// Subcommands of `pontoon log`.
#[derive(Debug, Subcommand)]
pub(crate) enum LogCommand {
    /// Lists the segments and groups of each log. Writes nothing.
    #[command(after_help = "Examples:\n  \
        pontoon log inspect /var/lib/pontoon\n  \
        pontoon log inspect /var/lib/pontoon/core-0 --frames --group 7\n  \
        pontoon log inspect /var/lib/pontoon --json | jq '.[].groups'")]
    Inspect(InspectArguments),
    /// Recovers each log without writing and says what is torn or damaged.
    #[command(after_help = "Exit status:\n  \
        0  sound: nothing durable is missing; a torn tail was never acknowledged\n  \
        1  damaged\n  \
        2  wrong usage, or a log that can't be read, as while its node runs\n\n\
        Example:\n  pontoon log verify /var/lib/pontoon")]
    Verify {
        /// A node's data directory, or the directory of one core.
        directory: PathBuf,
    },
}

/// Arguments of `pontoon log inspect`.
#[derive(Debug, Args)]
pub(crate) struct InspectArguments {
    /// A node's data directory, or the directory of one core.
    directory: PathBuf,
    /// Also list the frames of each segment.
    #[arg(long)]
    frames: bool,
    /// Only this group, and only frames with records of it.
    #[arg(long, value_name = "N")]
    group: Option<u64>,
    /// Print JSON instead of tables.
    #[arg(long)]
    json: bool,
}

/// Runs the subcommand.
pub(crate) fn run(command: &LogCommand) -> ExitCode {
    let outcome = match command {
        LogCommand::Inspect(arguments) => inspect::run(arguments).map(|()| true),
        LogCommand::Verify { directory } => verify::run(directory),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            output::complain(&format!("pontoon: {error:#}"));
            ExitCode::from(EXIT_USAGE)
        }
    }
}

/// Inspects the logs of a directory: that of one core, or those in a node's data directory.
fn inspect_all(directory: &Path) -> Result<Vec<(PathBuf, Inspection)>> {
    let directories = log_directories(directory)?.into_iter();
    let inspect = |path: PathBuf| {
        let inspection = pontoon::storage::inspect(&path)
            .with_context(|| format!("inspecting {}", path.display()))?;
        Ok((path, inspection))
    };
    directories.map(inspect).collect()
}

/// The directory itself if it has segments, or those of the cores in it.
fn log_directories(directory: &Path) -> Result<Vec<PathBuf>> {
    let listing = || format!("listing {}", directory.display());
    let mut cores = Vec::new();
    let mut has_segments = false;
    for entry in std::fs::read_dir(directory).with_context(listing)? {
        let entry = entry.with_context(listing)?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        has_segments |= name.starts_with("segment-");
        let core = name.strip_prefix("core-");
        let plain = |number: &&str| number.bytes().all(|byte| byte.is_ascii_digit());
        let core = core.filter(plain).and_then(|number| number.parse().ok());
        if let Some(core) = core.filter(|core: &u16| name == format!("core-{core}")) {
            cores.push((core, entry.path()));
        }
    }
    cores.sort_unstable();
    let mut directories: Vec<_> = cores.into_iter().map(|(_, path)| path).collect();
    if has_segments && directories.is_empty() {
        directories = vec![directory.to_path_buf()];
    }
    ensure!(
        !directories.is_empty(),
        "{} has neither segments nor directories of cores",
        directory.display()
    );
    Ok(directories)
}

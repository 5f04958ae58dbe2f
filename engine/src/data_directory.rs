//! The directories of a node's cores: made together, and missed when one of them is gone.

use std::fs::{self, File};
use std::io;

use pontoon_storage::{LogIdentity, owner_of};

use crate::config::Config;
use crate::node_error::StartError;

/// Makes all of them before any core writes into its own, so that one that is missing later was
/// lost.
///
/// # Errors
/// [`StartError::CoreDirectoryMissing`].
pub(crate) fn make_directories(config: &Config) -> Result<(), StartError> {
    let missing = (0..config.cores).find(|core| !config.directory(*core).exists());
    let Some(missing) = missing else {
        return Ok(());
    };
    let owners = (0..config.cores).filter_map(|core| owner_of(&config.directory(core)));
    match owners.map(|owner: LogIdentity| owner.cores).next() {
        Some(cores) if cores == config.cores => Err(StartError::CoreDirectoryMissing {
            core: missing,
            path: config.directory(missing),
        }),
        // The log of the core that is there says it better.
        Some(_) => Ok(()),
        None => {
            // What can't be made is named where it is opened.
            let _ = make_all(config);
            Ok(())
        }
    }
}

fn make_all(config: &Config) -> io::Result<()> {
    for core in 0..config.cores {
        fs::create_dir_all(config.directory(core))?;
    }
    File::open(&config.data)?.sync_all()
}

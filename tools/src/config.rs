//! `pontoon config`: configurations of a node.

use std::path::PathBuf;
use std::process::ExitCode;

use bytesize::ByteSize;
use clap::Subcommand;

use crate::output;

/// The documented example, with every key and its default.
const DEFAULT: &str = include_str!("../../engine/pontoon.toml");

/// Subcommands of `pontoon config`.
#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Says whether a node would take this file.
    #[command(after_help = "Example:\n  pontoon config check /etc/pontoon.toml")]
    Check {
        /// The file, in TOML.
        file: PathBuf,
    },
    /// Prints a configuration with every key, its meaning and its default.
    #[command(after_help = "Example:\n  pontoon config default > pontoon.toml")]
    Default,
}

/// Runs the subcommand.
pub(crate) fn run(command: &ConfigCommand) -> ExitCode {
    match command {
        ConfigCommand::Check { file } => match pontoon::Config::from_toml(file) {
            Ok(config) => {
                let round_trip = config.round_trip_max();
                let memory = ByteSize(config.memory_bytes_max());
                output::say(&format!(
                    "{}: a node would start with it; queues and caches take at most {memory}; \
                     round trips between nodes may take {round_trip:?}",
                    file.display()
                ));
            }
            Err(error) => {
                output::complain(&format!("pontoon: {error:#}"));
                return ExitCode::FAILURE;
            }
        },
        ConfigCommand::Default => output::say(DEFAULT.trim_end()),
    }
    ExitCode::SUCCESS
}

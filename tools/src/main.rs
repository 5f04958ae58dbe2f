//! The `pontoon` command.

mod output;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// Tools for Pontoon, a multi-Raft consensus engine.
#[derive(Debug, Parser)]
#[command(name = "pontoon", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Looks at configurations.
    #[command(subcommand)]
    Config(ConfigCommand),
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Says whether a node would take this file.
    Check {
        /// The file, in TOML.
        file: PathBuf,
    },
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(&cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            output::complain(&format!("pontoon: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run(command: &Command) -> Result<()> {
    match command {
        Command::Config(ConfigCommand::Check { file }) => {
            pontoon::Config::from_toml(file)?;
            output::say(&format!("{}: a node would start with it", file.display()));
            Ok(())
        }
    }
}

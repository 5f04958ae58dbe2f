//! The `pontoon` command.

mod config;
mod log;
mod output;

use std::process::ExitCode;

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
    /// Checks configurations and shows the defaults.
    #[command(subcommand)]
    Config(config::ConfigCommand),
    /// Inspects and verifies the logs of a stopped node.
    #[command(subcommand)]
    Log(log::LogCommand),
}

fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Config(command) => config::run(&command),
        Command::Log(command) => log::run(&command),
    }
}

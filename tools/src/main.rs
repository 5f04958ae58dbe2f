//! The `pontoon` command.

mod output;
mod simulate;

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
    /// Runs whole clusters on a simulated clock, network and disk. A seed replays a run exactly.
    Simulate(simulate::Arguments),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let done = match cli.command {
        Command::Simulate(arguments) => simulate::run(&arguments),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            output::complain(&format!("pontoon: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

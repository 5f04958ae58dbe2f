//! `pontoon-bench`: what disk and wire allow, measured as a replicated write without an engine.
//!
//! One process plays the leader over a plain ring, two others are followers with nothing but a
//! blocking socket and a prepared file. Every later figure of the engine is a ratio to this.

mod child;
mod cli;
mod data;
mod environment;
mod floor;
mod histogram;
mod output;

use std::process::ExitCode;

use clap::Parser;

use crate::cli::{Cli, Command};

fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_env("PONTOON_LOG")
                .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("error")),
        )
        .with_writer(std::io::stderr)
        .init();
    let cli = Cli::parse();
    let done = match cli.command {
        None => floor::run(&cli.floor),
        Some(Command::Floor(arguments)) => floor::run(&arguments),
        Some(Command::FloorFollower) => floor::follower::serve(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            output::complain(&format!("pontoon-bench: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

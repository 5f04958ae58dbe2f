//! `pontoon-bench`: Pontoon against the floor of the same run.
//!
//! The floor is the minimal replicated write, without an engine: one process is the leader over a
//! plain ring, two others are followers with only a blocking socket and a prepared file. Every
//! figure of the engine is a ratio to it.

mod background;
mod catch_up;
mod child;
mod cli;
mod cluster;
mod data;
mod environment;
mod floor;
mod groups_restart;
mod histogram;
mod hosts;
mod html;
mod link;
mod load;
mod long_way;
mod machine;
mod node;
mod output;
mod placement;
mod report;
mod requests;
mod run;
mod slow_peer;
mod storage;
mod sync_method;
mod timer;
mod usage;

use std::process::ExitCode;

use clap::Parser;

use crate::cli::{Cli, Command};

fn main() -> ExitCode {
    output::install_log();
    let cli = Cli::parse();
    let done = match cli.command {
        None => run::run(&cli.run),
        Some(Command::Run(arguments)) => run::run(&arguments),
        Some(Command::Hosts(arguments)) => hosts::run(&arguments),
        Some(Command::Node) => node::serve(),
        Some(Command::Floor(arguments)) => floor::run(&arguments),
        Some(Command::Storage(arguments)) => storage::run(&arguments),
        Some(Command::SlowPeer(arguments)) => slow_peer::run(&arguments),
        Some(Command::LongWay(arguments)) => long_way::run(&arguments),
        Some(Command::CatchUp(arguments)) => catch_up::run(&arguments),
        Some(Command::GroupsRestart(arguments)) => groups_restart::run(&arguments),
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

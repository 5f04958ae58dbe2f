//! `pontoon-sim`: single runs, campaigns and mutants of the simulator.

mod campaign;
mod output;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let arguments = campaign::Arguments::parse();
    match campaign::run(&arguments) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            output::complain(&format!("pontoon-sim: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

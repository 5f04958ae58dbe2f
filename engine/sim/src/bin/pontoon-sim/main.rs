//! `pontoon-sim`: single runs, campaigns and mutants of the simulator.

mod campaign;
mod fresh;
mod output;
mod quiet;

use std::process::ExitCode;

use clap::Parser;
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let arguments = campaign::Arguments::parse();
    quiet::install_hook();
    if arguments.is_single()
        && let Ok(filter) = EnvFilter::try_from_env("PONTOON_LOG")
    {
        let lines = tracing_subscriber::fmt().with_env_filter(filter);
        lines.with_writer(std::io::stderr).init();
    }
    match campaign::run(&arguments) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            output::complain(&format!("pontoon-sim: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

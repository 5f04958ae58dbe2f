//! The command line: one definition for help, environment variables and defaults.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// Measures what this disk and this network stack allow when there is no engine between them.
#[derive(Debug, Parser)]
#[command(
    name = "pontoon-bench",
    version,
    args_conflicts_with_subcommands = true
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,

    #[command(flatten)]
    pub(crate) floor: FloorArguments,
}

/// What to measure.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// The floor (the default).
    Floor(FloorArguments),
    /// A follower of the floor, told what to do over its standard input.
    #[command(hide = true)]
    FloorFollower,
}

/// Where the data lies and where the figures go; the same for all subcommands.
#[derive(Clone, Debug, Args)]
pub(crate) struct Places {
    /// Directory for the nodes' data, on the disk to be measured; what is made there is removed
    /// afterwards. Needs O_DIRECT. [default: below target/]
    #[arg(long, value_name = "DIR", env = "PONTOON_BENCH_DATA")]
    pub(crate) data: Option<PathBuf>,

    /// Write the figures as JSON, too.
    #[arg(long, value_name = "FILE", env = "PONTOON_BENCH_JSON")]
    pub(crate) json: Option<PathBuf>,
}

/// Arguments of `floor`.
#[derive(Clone, Debug, Args)]
pub(crate) struct FloorArguments {
    /// Seconds of each measurement.
    #[arg(long, default_value_t = 2.0, value_parser = positive)]
    pub(crate) seconds: f64,

    #[command(flatten)]
    pub(crate) places: Places,
}

fn positive(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if value.is_finite() && value > 0.0 => Ok(value),
        Ok(_) => Err("must be greater than zero".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_is_sound() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn without_a_subcommand_the_floor_is_measured() {
        let cli = Cli::try_parse_from(["pontoon-bench", "--seconds", "0.5"]).expect("good flags");
        assert!(cli.command.is_none());
        assert!((cli.floor.seconds - 0.5).abs() < f64::EPSILON);
    }

    #[test]
    fn a_time_that_is_not_positive_is_refused() {
        for seconds in ["0", "-1", "soon", "NaN"] {
            let parsed = Cli::try_parse_from(["pontoon-bench", "--seconds", seconds]);
            assert!(parsed.is_err(), "--seconds {seconds}");
        }
    }
}

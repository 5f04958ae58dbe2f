//! Panics inside of simulated runs, kept off the terminal: they are reported with their seed.

use std::cell::Cell;

use pontoon_sim::{Failure, Options, Report};

thread_local! {
    /// This thread is inside of a simulated run, which catches its own panics.
    static IN_RUN: Cell<bool> = const { Cell::new(false) };
}

/// Installs the hook: a panic outside of a run is printed as ever, because it is a mistake of this
/// tool.
pub(crate) fn install_hook() {
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if !IN_RUN.get() {
            print(panic);
        }
    }));
}

/// Runs one history on this thread, without a word about its panics.
pub(crate) fn simulate(options: &Options) -> Result<Report, Failure> {
    IN_RUN.set(true);
    let outcome = pontoon_sim::run(options);
    IN_RUN.set(false);
    outcome
}

//! A plain thread for each core, which waits inside its ring.

use std::io;
use std::thread::JoinHandle;

use super::{AbortsOnPanic, CoreLoop, Next};
use crate::driver::DriverError;

/// Runs a core on a thread of its own, pinned if `cpu` is given. `make` is called there first.
pub(crate) fn start<M>(
    core: u16,
    cpu: Option<usize>,
    make: M,
) -> io::Result<JoinHandle<Result<(), DriverError>>>
where
    M: FnOnce() -> Option<CoreLoop> + Send + 'static,
{
    let builder = std::thread::Builder::new().name(format!("pontoon-raft-{core}"));
    builder.spawn(move || {
        let _aborts = AbortsOnPanic;
        if let Some(cpu) = cpu {
            pin(core, cpu);
        }
        match make() {
            Some(core_loop) => run(core_loop),
            None => Ok(()),
        }
    })
}

fn pin(core: u16, cpu: usize) {
    if !core_affinity::set_for_current(core_affinity::CoreId { id: cpu }) {
        tracing::warn!(core, cpu, "the core could not be pinned; it runs anywhere");
    }
}

fn run(mut core_loop: CoreLoop) -> Result<(), DriverError> {
    loop {
        let next = core_loop.turn();
        if next == Next::End {
            return Ok(());
        }
        core_loop.exchange(next)?;
    }
}

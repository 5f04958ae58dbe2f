//! A plain thread for each core, which waits inside its driver.

use std::io;

use super::{AbortOnPanic, CoreLoop, CoreThread, Next};
use crate::driver::{Driver, DriverError};

/// Runs a core on a thread of its own, pinned if `cpu` is given. `make` is called there first.
pub(crate) fn start<D, M>(core: u16, cpu: Option<usize>, make: M) -> io::Result<CoreThread>
where
    D: Driver,
    M: FnOnce() -> Option<CoreLoop<D>> + Send + 'static,
{
    CoreThread::spawn(core, move || {
        let _abort = AbortOnPanic;
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

fn run(mut core_loop: CoreLoop<impl Driver>) -> Result<(), DriverError> {
    loop {
        let next = core_loop.turn();
        if next == Next::End {
            return core_loop.end();
        }
        core_loop.exchange(next)?;
    }
}

//! A core's thread, and how it is waited for.

use std::io;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, bounded};

use crate::driver::DriverError;
use crate::node_error::StopError;

/// A core's thread, and the way on which it says how it has ended.
///
/// It says so before it exits: the kernel keeps a thread whose ring has a write under way until
/// that completes, which on a frozen file system is for ever.
#[derive(Debug)]
pub(crate) struct CoreThread {
    thread: JoinHandle<()>,
    ended: Receiver<Result<(), DriverError>>,
}

impl CoreThread {
    pub(super) fn spawn(
        core: u16,
        run: impl FnOnce() -> Result<(), DriverError> + Send + 'static,
    ) -> io::Result<Self> {
        let (sender, ended) = bounded(1);
        let builder = std::thread::Builder::new().name(format!("pontoon-core-{core}"));
        let thread = builder.spawn(move || {
            let result = run();
            // Nobody waits if the node did not start.
            let _ = sender.send(result);
        })?;
        Ok(Self { thread, ended })
    }

    pub(crate) fn is_finished(&self) -> bool {
        self.thread.is_finished()
    }

    /// Waits for its end, at most `limit`. A thread that hangs is left behind.
    pub(crate) fn join(self, core: u16, limit: Duration) -> Result<(), StopError> {
        let begun = Instant::now();
        let result = match self.ended.recv_timeout(limit) {
            Ok(result) => result.map_err(|source| StopError::Driver { core, source }),
            Err(RecvTimeoutError::Disconnected) => Err(StopError::Panic { core }),
            Err(RecvTimeoutError::Timeout) => {
                let seconds = begun.elapsed().as_secs();
                return Err(StopError::Hung { core, seconds });
            }
        };
        let source = match &result {
            Err(StopError::Driver { source, .. }) => Some(source),
            _ => None,
        };
        if !matches!(source, Some(DriverError::Hung { .. })) && self.thread.join().is_err() {
            return Err(StopError::Panic { core });
        }
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_core_that_hangs_is_named_and_not_waited_for() {
        let (release, held) = bounded::<()>(0);
        let thread = CoreThread::spawn(3, move || {
            let _ = held.recv();
            Ok(())
        });
        let thread = thread.expect("a thread");
        let joined = thread.join(3, Duration::from_millis(1));
        assert!(matches!(joined, Err(StopError::Hung { core: 3, .. })));
        drop(release);
    }

    #[test]
    fn what_hangs_in_the_kernel_is_named() {
        let operation = "a write to segment 4".to_owned();
        let hung = DriverError::Hung {
            operation,
            seconds: 10,
        };
        let thread = CoreThread::spawn(0, move || Err(hung)).expect("a thread");
        let error = thread
            .join(0, Duration::from_secs(60))
            .expect_err("it hung");
        assert!(
            error.to_string().contains("a write to segment 4"),
            "{error}"
        );
    }
}

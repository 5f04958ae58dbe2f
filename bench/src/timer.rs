//! 1 kHz timers on the executors beside the cores: how late do the tasks of an application run?

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use pontoon::{Node, Pending, SpawnError};

use crate::histogram::{self, Buckets};

const TICK: Duration = Duration::from_millis(1);

/// Longest wait for a timer's task to end.
const PATIENCE: Duration = Duration::from_secs(10);

/// The running timers, one beside each core.
pub(crate) struct Timers {
    stop: Arc<AtomicBool>,
    lateness: Vec<Pending<Result<Buckets, SpawnError>>>,
}

impl Timers {
    /// Starts a task beside each core that sleeps a millisecond at a time.
    ///
    /// # Errors
    /// When a core's host is not glommio.
    pub(crate) fn start(node: &Node, cores: u16) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let start = |core| {
            let stopped = Arc::clone(&stop);
            let mut lateness = node.spawn_on(core, move || tick(stopped));
            // It runs until it is stopped: an answer that is there says that it does not.
            if let Some(ended) = lateness.wait_timeout(Duration::ZERO) {
                ended?;
            }
            Ok(lateness)
        };
        let lateness = (0..cores).map(start).collect::<Result<_>>()?;
        Ok(Self { stop, lateness })
    }

    /// Stops the timers. Gives the lateness of each tick. Blocks until the tasks have ended.
    ///
    /// # Errors
    /// When one does not end within ten seconds.
    pub(crate) fn stop(self) -> Result<Buckets> {
        self.stop.store(true, Relaxed);
        let mut all = histogram::latencies();
        for mut lateness in self.lateness {
            let lateness = lateness.wait_timeout(PATIENCE);
            let lateness = lateness.context("a timer's task did not end")??;
            lateness.add_to(&mut all);
        }
        Ok(Buckets::from(&all))
    }
}

async fn tick(stopped: Arc<AtomicBool>) -> Buckets {
    let mut latencies = histogram::latencies();
    while !stopped.load(Relaxed) {
        let due = Instant::now() + TICK;
        pontoon::glommio::timer::sleep(TICK).await;
        histogram::record(&mut latencies, due.elapsed());
    }
    Buckets::from(&latencies)
}

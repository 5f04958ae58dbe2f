//! A 1 kHz timer on a core's executor: how late do the tasks of an application run?

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use pontoon::{Node, Pending, SpawnError};

use crate::histogram::{self, Buckets};

const TICK: Duration = Duration::from_millis(1);

/// Longest wait for the timer's task to end.
const PATIENCE: Duration = Duration::from_secs(10);

/// A running timer.
pub(crate) struct Timer {
    stop: Arc<AtomicBool>,
    lateness: Pending<Result<Buckets, SpawnError>>,
}

impl Timer {
    /// Starts a task on core 0, beside its shard, that sleeps a millisecond at a time.
    ///
    /// # Errors
    /// When core 0 is not run by glommio.
    pub(crate) fn start(node: &Node) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let mut lateness = node.spawn_on(0, move || async move {
            let mut latencies = histogram::latencies();
            while !stopped.load(Relaxed) {
                let due = Instant::now() + TICK;
                pontoon::glommio::timer::sleep(TICK).await;
                histogram::record(&mut latencies, due.elapsed());
            }
            Buckets::from(&latencies)
        });
        // It runs until it is stopped: an answer that is there says that it does not.
        if let Some(ended) = lateness.wait_timeout(Duration::ZERO) {
            ended?;
        }
        Ok(Self { stop, lateness })
    }

    /// Stops the timer. Gives the lateness of each tick. Blocks until the task has ended.
    ///
    /// # Errors
    /// When the task does not end within ten seconds.
    pub(crate) fn stop(mut self) -> Result<Buckets> {
        self.stop.store(true, Relaxed);
        let lateness = self.lateness.wait_timeout(PATIENCE);
        Ok(lateness.context("the timer's task did not end")??)
    }
}

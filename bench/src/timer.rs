//! 1 kHz timers on the executors beside the cores: how late do the tasks of an application run?

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use crossbeam_channel::{Receiver, Sender, bounded};
use pontoon::Node;

use crate::histogram::{self, Buckets};

const TICK: Duration = Duration::from_millis(1);

/// Longest wait for a timer's task to end.
const PATIENCE: Duration = Duration::from_secs(10);

/// The running timers.
pub(crate) struct Timers {
    stop: Arc<AtomicBool>,
    cores: u16,
    lateness: Receiver<Buckets>,
}

impl Timers {
    /// Starts a task beside each core that sleeps a millisecond at a time.
    ///
    /// # Errors
    /// When a core's host is not glommio.
    pub(crate) fn start(node: &Node, cores: u16) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let (sender, lateness) = bounded(usize::from(cores));
        for core in 0..cores {
            let (stopped, sender) = (Arc::clone(&stop), sender.clone());
            let spawned = node.spawn_on(core, move || tick(stopped, sender));
            ensure!(spawned, "core {core}'s host is not glommio");
        }
        Ok(Self {
            stop,
            cores,
            lateness,
        })
    }

    /// Stops the timers. Gives the lateness of each tick. Blocks until the tasks have ended.
    ///
    /// # Errors
    /// When one does not end within ten seconds.
    pub(crate) fn stop(self) -> Result<Buckets> {
        self.stop.store(true, Relaxed);
        let mut all = histogram::latencies();
        for _ in 0..self.cores {
            let lateness = self.lateness.recv_timeout(PATIENCE);
            lateness
                .context("a timer's task did not end")?
                .add_to(&mut all);
        }
        Ok(Buckets::from(&all))
    }
}

async fn tick(stopped: Arc<AtomicBool>, sender: Sender<Buckets>) {
    let mut latencies = histogram::latencies();
    while !stopped.load(Relaxed) {
        let due = Instant::now() + TICK;
        pontoon::glommio::timer::sleep(TICK).await;
        histogram::record(&mut latencies, due.elapsed());
    }
    // The receiver is gone if the load failed; the lateness is not wanted then.
    let _ = sender.send(Buckets::from(&latencies));
}

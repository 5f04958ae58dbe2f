//! A glommio executor for each core: the shard is one task of it, tasks of the application run
//! beside it.
//!
//! The executor never sees the shard's files and sockets. When the shard has nothing to do, it
//! awaits the doorbell's eventfd, which its driver signals as well.
#![allow(unsafe_code)]

use std::future::Future;
use std::io;
use std::os::fd::{AsFd, FromRawFd, IntoRawFd};
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, unbounded};
use futures_util::FutureExt;
use futures_util::future::{Either, select};
use glommio::io::BufferedFile;
use glommio::timer::Timer;
use glommio::{Latency, LocalExecutorBuilder, Placement, Shares};

use super::{AbortOnPanic, CoreLoop, CoreThread, Next};
use crate::driver::{Driver, DriverError};
use crate::on_core;

/// After this long in one piece the other tasks of the executor get their turn.
const STAY_MAX: Duration = Duration::from_millis(1);

/// The executor's own memory for I/O: only control traffic goes through it, and three rings of
/// each executor register it against the limit of locked memory.
const IO_MEMORY: usize = 64 << 10;
const RING_DEPTH: usize = 64;

/// A task of the application on its way to a core's executor.
pub(crate) type Task = Box<dyn FnOnce() -> Pin<Box<dyn Future<Output = ()>>> + Send>;

/// A core's executor, seen from outside.
#[derive(Debug)]
pub(crate) struct Executor {
    pub(crate) thread: CoreThread,
    pub(crate) tasks: Sender<Task>,
}

/// Runs a core on an executor of its own, pinned if `cpu` is given. `make` is called there first.
pub(crate) fn start<D, M>(core: u16, cpu: Option<usize>, make: M) -> io::Result<Executor>
where
    D: Driver + 'static,
    M: FnOnce() -> Option<CoreLoop<D>> + Send + 'static,
{
    let (tasks, incoming) = unbounded();
    let placement = cpu.map_or(Placement::Unbound, Placement::Fixed);
    let thread = CoreThread::spawn(core, move || {
        let _abort = AbortOnPanic;
        on_core::enter();
        let executor = LocalExecutorBuilder::new(placement)
            .name("pontoon")
            .io_memory(IO_MEMORY)
            .ring_depth(RING_DEPTH)
            .preempt_timer(STAY_MAX)
            .make();
        let executor = executor.map_err(|error| DriverError::Failed {
            what: "making a glommio executor",
            source: io::Error::other(error.to_string()),
        })?;
        executor.run(async move {
            let Some(core_loop) = make() else {
                return Ok(());
            };
            let latency = Latency::Matters(STAY_MAX);
            let queue =
                glommio::executor().create_task_queue(Shares::default(), latency, "pontoon-shard");
            let shard = glommio::spawn_local_into(run(core_loop, incoming), queue);
            match shard {
                Ok(task) => task.await,
                Err(error) => Err(DriverError::Failed {
                    what: "starting the shard's task",
                    source: io::Error::other(error.to_string()),
                }),
            }
        })
    })?;
    Ok(Executor { thread, tasks })
}

/// A task of the application ends the process when it panics, before the executor drops the shard.
async fn abort_if_it_panics(task: Task) {
    let running = AssertUnwindSafe(async move { task().await });
    if running.catch_unwind().await.is_err() {
        std::process::abort();
    }
}

async fn run(
    mut core_loop: CoreLoop<impl Driver>,
    incoming: Receiver<Task>,
) -> Result<(), DriverError> {
    let mut bell = Bell::new(&core_loop).map_err(|source| DriverError::Failed {
        what: "duplicating the doorbell",
        source,
    })?;
    let mut stay = Instant::now();
    loop {
        for task in incoming.try_iter() {
            glommio::spawn_local(abort_if_it_panics(task)).detach();
        }
        match core_loop.turn() {
            Next::End => return core_loop.end(),
            Next::Turn => {
                core_loop.exchange(Next::Turn)?;
                if stay.elapsed() >= STAY_MAX {
                    // Only a task that sleeps lets the reactor look at everything.
                    Timer::new(Duration::from_micros(1)).await;
                    stay = Instant::now();
                }
            }
            Next::Wait(limit) => {
                core_loop.announce_parking();
                let exchanged = core_loop.submit();
                if exchanged.is_ok() && !core_loop.has_work() && incoming.is_empty() {
                    bell.wait(limit).await;
                    stay = Instant::now();
                } else if stay.elapsed() >= STAY_MAX {
                    glommio::executor().yield_task_queue_now().await;
                    stay = Instant::now();
                }
                core_loop.doorbell.unpark();
                exchanged?;
            }
        }
    }
}

/// The doorbell's eventfd, awaited through glommio. A read that has begun stays under way from
/// one wait to the next, so that no ring of the bell is lost.
struct Bell {
    file: std::rc::Rc<BufferedFile>,
    reading: Option<Pin<Box<dyn Future<Output = ()>>>>,
}

impl Bell {
    fn new(core_loop: &CoreLoop<impl Driver>) -> io::Result<Self> {
        let fd = core_loop.doorbell.fd().as_fd().try_clone_to_owned()?;
        // SAFETY: the descriptor was just duplicated and has no other owner.
        let file = unsafe { BufferedFile::from_raw_fd(fd.into_raw_fd()) };
        Ok(Self {
            file: std::rc::Rc::new(file),
            reading: None,
        })
    }

    async fn wait(&mut self, limit: Duration) {
        let reading = self.reading.take().unwrap_or_else(|| {
            let file = std::rc::Rc::clone(&self.file);
            Box::pin(async move {
                // A failed read wakes the core as well; it looks at its queues in any case.
                let _ = file.read_at(0, 8).await;
            })
        });
        let timer = Timer::new(limit.min(Duration::from_secs(3600)));
        match select(reading, timer).await {
            Either::Left(_) => {}
            Either::Right((_, reading)) => self.reading = Some(reading),
        }
    }
}

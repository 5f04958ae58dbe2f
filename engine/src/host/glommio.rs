//! A glommio executor beside a core, for the tasks of the application.
//!
//! The core itself is a plain thread's. glommio 0.9 may fall asleep with tasks that are ready: if
//! its preempt timer has fired (or a late wake-up of another thread has arrived) before the first
//! of them runs, it runs none and parks. No setting excludes that, and only a wake-up from another
//! thread ends it. Hence a keeper, which rings every executor now and then.

use std::fmt::Display;
use std::future::{Future, poll_fn};
use std::io;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};
use std::thread::{Builder, JoinHandle, Thread, ThreadId};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TryRecvError, bounded, unbounded};
use futures_util::FutureExt;
use glommio::{LocalExecutorBuilder, Placement};

use super::AbortOnPanic;

/// The longest that an executor sleeps while one of its tasks is ready.
const RING_INTERVAL: Duration = Duration::from_millis(10);

/// How long a stop waits for tasks to yield or to be dropped.
const END_LIMIT: Duration = Duration::from_secs(10);

/// The executor's memory for direct I/O of its tasks, which counts against the limit of locked
/// memory where there is one.
const IO_MEMORY: usize = 64 << 10;

/// A task of the application on its way to a core's executor.
pub(crate) type Task = Box<dyn FnOnce() -> Pin<Box<dyn Future<Output = ()>>> + Send>;

/// The executor beside a core: made for its first task, and ended, with all its tasks, when this is
/// dropped. Every executor costs an eventfd that glommio never closes, so none is made in vain.
#[derive(Debug)]
pub(crate) struct Executor {
    core: u16,
    /// The CPU that it is pinned to, as its core is.
    cpu: Option<usize>,
    running: Mutex<Option<Running>>,
}

#[derive(Debug)]
struct Running {
    tasks: Sender<Task>,
    bell: Arc<Bell>,
    executor: ThreadId,
    keeper: Thread,
    /// Disconnected once it and its keeper have ended.
    ended: Receiver<()>,
}

impl Executor {
    pub(crate) fn new(core: u16, cpu: Option<usize>) -> Self {
        Self {
            core,
            cpu,
            running: Mutex::default(),
        }
    }

    /// Sends it a task, and does not wait for it. If the executor can't be made, that is logged and
    /// the task dropped.
    pub(crate) fn send(&self, task: Task) {
        let mut running = locked(&self.running);
        if running.is_none() {
            match start(self.core, self.cpu) {
                Ok(started) => *running = Some(started),
                Err(error) => no_executor(self.core, &error),
            }
        }
        if let Some(running) = &*running {
            // Nobody takes it if the executor could not be made on its thread.
            let _ = running.tasks.send(task);
            running.bell.ring();
        }
    }
}

impl Drop for Executor {
    fn drop(&mut self) {
        let Some(running) = locked(&self.running).take() else {
            return;
        };
        drop(running.tasks);
        running.bell.ring();
        running.keeper.unpark();
        // A task may drop its own node: then its executor ends after it.
        let on_it = std::thread::current().id() == running.executor;
        let waited = || running.ended.recv_timeout(END_LIMIT);
        if !on_it && waited() == Err(RecvTimeoutError::Timeout) {
            let core = self.core;
            tracing::error!(core, "a task never yields: its executor is left behind");
        }
    }
}

fn start(core: u16, cpu: Option<usize>) -> io::Result<Running> {
    let (tasks, incoming) = unbounded();
    let bell = Arc::new(Bell::default());
    let rung = Arc::clone(&bell);
    let executor = Builder::new().name(format!("pontoon-tasks-{core}"));
    let executor = executor.spawn(move || {
        let _abort = AbortOnPanic;
        run(core, cpu, incoming, &rung);
    })?;
    let (thread, rung) = (executor.thread().id(), Arc::clone(&bell));
    let keeper = Builder::new().name(format!("pontoon-keep-{core}"));
    let (running, ended) = bounded(0);
    let keeper = keeper.spawn(move || {
        keep(executor, &rung);
        drop::<Sender<()>>(running);
    })?;
    Ok(Running {
        tasks,
        bell,
        executor: thread,
        keeper: keeper.thread().clone(),
        ended,
    })
}

fn run(core: u16, cpu: Option<usize>, incoming: Receiver<Task>, bell: &Bell) {
    let placement = cpu.map_or(Placement::Unbound, Placement::Fixed);
    match LocalExecutorBuilder::new(placement)
        .name("pontoon")
        .io_memory(IO_MEMORY)
        .make()
    {
        Ok(executor) => executor.run(serve(incoming, bell)),
        Err(error) => no_executor(core, &error),
    }
}

fn no_executor(core: u16, error: &dyn Display) {
    tracing::error!(core, %error, "no glommio executor: the core's tasks are dropped");
}

/// Starts the tasks that come, until no more can. Those that are not done then end with the
/// executor.
async fn serve(incoming: Receiver<Task>, bell: &Bell) {
    poll_fn(|context| {
        bell.hear(context.waker());
        loop {
            match incoming.try_recv() {
                Ok(task) => drop(glommio::spawn_local(abort_if_it_panics(task)).detach()),
                Err(TryRecvError::Empty) => return Poll::Pending,
                Err(TryRecvError::Disconnected) => return Poll::Ready(()),
            }
        }
    })
    .await;
}

/// A task of the application ends the process when it panics, before the executor drops others.
async fn abort_if_it_panics(task: Task) {
    let running = AssertUnwindSafe(async move { task().await });
    if running.catch_unwind().await.is_err() {
        std::process::abort();
    }
}

/// Rings until the executor has ended: less and less often while a task keeps it from hearing,
/// since glommio counts the rings that wait in 16 bits and panics when they are used up.
fn keep(executor: JoinHandle<()>, bell: &Bell) {
    let mut unheard = 0;
    while !executor.is_finished() {
        std::thread::park_timeout(RING_INTERVAL * (1 + unheard));
        unheard = bell.ring_again();
    }
    // A panic in it has ended the process.
    let _ = executor.join();
}

/// Wakes an executor from other threads.
#[derive(Debug, Default)]
struct Bell(Mutex<Ringing>);

#[derive(Debug, Default)]
struct Ringing {
    /// Of the task that takes the others in.
    waker: Option<Waker>,
    /// Rings since that task ran last.
    unheard: u32,
}

impl Bell {
    /// It is heard. Called before the queue is looked at.
    fn hear(&self, waker: &Waker) {
        let mut ringing = locked(&self.0);
        ringing.unheard = 0;
        if !ringing.waker.as_ref().is_some_and(|it| it.will_wake(waker)) {
            ringing.waker = Some(waker.clone());
        }
    }

    /// Rings for what has been put into the queue, once for all that waits there.
    fn ring(&self) {
        if locked(&self.0).unheard == 0 {
            self.ring_again();
        }
    }

    /// Rings also if it may have been slept through; gives the rings that were not heard.
    fn ring_again(&self) -> u32 {
        let mut ringing = locked(&self.0);
        if let Some(waker) = &ringing.waker {
            waker.wake_by_ref();
            ringing.unheard += 1;
        }
        ringing.unheard
    }
}

/// Nothing that is done under these locks can panic half-way.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

//! A glommio executor beside a core, for the tasks of the application.
//!
//! The core itself is a plain thread's. glommio 0.9 may fall asleep with tasks that are ready: if
//! its preempt timer has fired (or a late wake-up of another thread has arrived) before the first
//! of them runs, it runs none and parks. No setting excludes that, and only a wake-up from another
//! thread ends it. Hence a keeper, which rings every executor now and then.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt::{self, Display};
use std::future::{Future, poll_fn};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{Builder, JoinHandle, Thread};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use futures_util::FutureExt;
use glommio::{LocalExecutorBuilder, Placement};

use super::AbortOnPanic;
use crate::node_error::StopError;
use crate::request::SpawnError;
use crate::waiters::Unreliable;

/// The longest that an executor sleeps while one of its tasks is ready.
const RING_INTERVAL: Duration = Duration::from_millis(10);

/// How long a stop waits for the tasks of all cores to yield or to be dropped.
const END_LIMIT: Duration = Duration::from_secs(10);

/// The executor's memory for direct I/O of its tasks, which counts against the limit of locked
/// memory where there is one.
const IO_MEMORY: usize = 64 << 10;

/// A task of the application on its way to a core's executor.
pub(crate) type Task = Box<dyn FnOnce() -> Pin<Box<dyn Future<Output = ()>>> + Send>;

/// The executor beside a core: made for a task that finds none, and told to end, with all its
/// tasks, when this is dropped. Every executor costs an eventfd that glommio never closes, so none
/// is made in vain.
#[derive(Debug)]
pub(crate) struct Executor {
    core: u16,
    /// The CPU that it is pinned to, as its core is.
    cpu: Option<usize>,
    /// Most tasks that wait to begin.
    tasks_max: usize,
    running: Mutex<Option<Running>>,
}

#[derive(Debug)]
struct Running {
    queue: Arc<Queue>,
    keeper: Thread,
    /// Disconnected once it and its keeper have ended.
    ended: Receiver<()>,
}

impl Executor {
    pub(crate) fn new(core: u16, cpu: Option<usize>, tasks_max: usize) -> Self {
        Self {
            core,
            cpu,
            tasks_max,
            running: Mutex::default(),
        }
    }

    /// Sends it a task, and does not wait for it. Gives whose answer the task's is.
    ///
    /// # Errors
    /// If too many wait, or it can't be made, which may turn out later: then the task is dropped.
    pub(crate) fn send(&self, task: Task) -> Result<Unreliable, SpawnError> {
        let core = self.core;
        // The lock is given back before anything of the application's runs, the log included.
        let queue = self.queue().map_err(|error| {
            no_executor(core, &error);
            SpawnError::Executor { core }
        })?;
        match queue.push(task, self.tasks_max) {
            Ok(()) => Ok(queue.thread.clone()),
            Err((_task, Unsent::Full)) => {
                let limit = "limits.requests_waiting_max";
                Err(SpawnError::Overloaded { core, limit })
            }
            Err((_task, Unsent::Ended)) => Err(SpawnError::Executor { core }),
        }
    }

    /// Of the executor that there is, or of one that is made now.
    fn queue(&self) -> io::Result<Arc<Queue>> {
        let mut running = locked(&self.running);
        let found = running
            .as_ref()
            .filter(|running| !running.queue.has_ended());
        if let Some(found) = found {
            return Ok(Arc::clone(&found.queue));
        }
        // None was wanted yet, or it could not be made then.
        let started = start(self.core, self.cpu)?;
        let queue = Arc::clone(&started.queue);
        *running = Some(started);
        Ok(queue)
    }

    /// Tells it to end.
    fn end(&self) -> Option<Running> {
        let running = locked(&self.running).take()?;
        running.queue.end();
        running.keeper.unpark();
        Some(running)
    }
}

impl Running {
    /// Waits until it has ended. A task may stop its own node, or two tasks each other's: an
    /// executor that waits in a stop itself ends after that, and is not waited for. False if it
    /// has not ended in time.
    fn wait(&self, deadline: Instant) -> bool {
        loop {
            let look = Instant::now() + RING_INTERVAL;
            let waited = self.ended.recv_deadline(look.min(deadline));
            if waited != Err(RecvTimeoutError::Timeout) || self.queue.stops.load(Ordering::Acquire)
            {
                return true;
            }
            if Instant::now() >= deadline {
                return false;
            }
        }
    }
}

thread_local! {
    /// Of the executor that runs on this thread.
    static OWN_QUEUE: RefCell<Option<Arc<Queue>>> = const { RefCell::new(None) };
}

/// Held while this thread waits for the end of a node: if it is an executor's, all its tasks do.
pub(crate) struct Stopping(Option<Arc<Queue>>);

impl Stopping {
    pub(crate) fn begin() -> Self {
        let own = OWN_QUEUE.with_borrow(Clone::clone);
        if let Some(queue) = &own {
            queue.stops.store(true, Ordering::Release);
        }
        Self(own)
    }
}

impl Drop for Stopping {
    fn drop(&mut self) {
        if let Some(queue) = &self.0 {
            queue.stops.store(false, Ordering::Release);
        }
    }
}

impl Drop for Executor {
    fn drop(&mut self) {
        self.end();
    }
}

/// Ends executors, and waits for all of them together. Those that a task keeps from ending are left
/// behind, and whoever waits for their tasks is told.
///
/// # Errors
/// What is left behind.
pub(crate) fn end(executors: &[Executor]) -> Result<(), StopError> {
    let deadline = Instant::now() + END_LIMIT;
    let told = executors
        .iter()
        .map(|executor| (executor.core, executor.end()));
    let told: Vec<_> = told.collect();
    let mut cores = Vec::new();
    for (core, running) in told {
        let Some(running) = running else {
            continue;
        };
        if !running.wait(deadline) {
            running.queue.thread.leave_behind();
            cores.push(core);
        }
    }
    let seconds = END_LIMIT.as_secs();
    match cores.is_empty() {
        true => Ok(()),
        false => Err(StopError::Tasks { cores, seconds }),
    }
}

fn start(core: u16, cpu: Option<usize>) -> io::Result<Running> {
    let queue = Arc::new(Queue::default());
    let of_executor = Arc::clone(&queue);
    let executor = Builder::new().name(format!("pontoon-tasks-{core}"));
    let executor = executor.spawn(move || {
        let _abort = AbortOnPanic;
        OWN_QUEUE.set(Some(Arc::clone(&of_executor)));
        run(core, cpu, &of_executor);
    })?;
    let of_keeper = Arc::clone(&queue);
    let keeper = Builder::new().name(format!("pontoon-keep-{core}"));
    let (running, ended) = bounded(0);
    let keeper = keeper.spawn(move || {
        keep(executor, &of_keeper);
        drop::<Sender<()>>(running);
    });
    let keeper = keeper.inspect_err(|_| queue.end())?;
    Ok(Running {
        queue,
        keeper: keeper.thread().clone(),
        ended,
    })
}

fn run(core: u16, cpu: Option<usize>, queue: &Queue) {
    let placement = cpu.map_or(Placement::Unbound, Placement::Fixed);
    let builder = LocalExecutorBuilder::new(placement)
        .name("pontoon")
        .io_memory(IO_MEMORY);
    // glommio panics where it lacks a descriptor. No task has begun yet: it is an error.
    match catch_unwind(AssertUnwindSafe(|| builder.make())) {
        Ok(Ok(executor)) => return executor.run(serve(queue)),
        Ok(Err(error)) => no_executor(core, &error),
        Err(_) => no_executor(core, &"glommio panicked; see its message above"),
    }
    queue.end();
    drop(queue.take_all());
}

fn no_executor(core: u16, error: &dyn Display) {
    tracing::error!(core, %error, "no glommio executor: the tasks that wait for it are dropped");
}

/// Starts the tasks that come, until no more can. Those that are not done then end with the
/// executor, and those that have not begun do not.
async fn serve(queue: &Queue) {
    poll_fn(|context| queue.poll(context)).await;
    drop(queue.take_all());
}

/// A task of the application ends the process when it panics, before the executor drops others.
async fn abort_if_it_panics(task: Task) {
    let running = AssertUnwindSafe(async move { task().await });
    let mut running = pin!(running.catch_unwind());
    // Weak: a task that held a waker of its own would not be dropped with its executor.
    let mut given = Weak::<CountedWaker>::new();
    let outcome = poll_fn(|context| {
        let executors = context.waker();
        let known = given
            .upgrade()
            .filter(|known| known.executors.will_wake(executors));
        let known = known.unwrap_or_else(|| CountedWaker::of(executors));
        given = Arc::downgrade(&known);
        known.woken.store(false, Ordering::Release);
        running
            .as_mut()
            .poll(&mut Context::from_waker(&Waker::from(known)))
    });
    if outcome.await.is_err() {
        std::process::abort();
    }
}

/// What wakes a task of the application. glommio counts a task's wakers, and its wake-ups that
/// wait, in 16 bits, and panics when they are used up: so it sees one of each, however many
/// proposals the task awaits at once.
struct CountedWaker {
    executors: Waker,
    /// Since the task was last polled.
    woken: AtomicBool,
}

impl CountedWaker {
    fn of(executors: &Waker) -> Arc<Self> {
        Arc::new(Self {
            executors: executors.clone(),
            woken: AtomicBool::new(false),
        })
    }
}

impl Wake for CountedWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.woken.swap(true, Ordering::AcqRel) {
            self.executors.wake_by_ref();
        }
    }
}

/// Rings until the executor has ended: less and less often while a task keeps it from hearing,
/// since glommio counts the rings that wait in 16 bits and panics when they are used up.
fn keep(executor: JoinHandle<()>, queue: &Queue) {
    let mut unheard = 0;
    while !executor.is_finished() {
        std::thread::park_timeout(RING_INTERVAL * (1 + unheard));
        unheard = queue.ring_again();
    }
    // A panic in it has ended the process.
    let _ = executor.join();
}

/// The tasks on their way to an executor, and the bell that wakes it. Nothing of the application's
/// runs under its lock: tasks that are not sent are given back, to be dropped outside.
#[derive(Default)]
struct Queue {
    waiting: Mutex<WaitingTasks>,
    /// Whoever waits for a task waits for this.
    thread: Unreliable,
    /// One of its tasks waits for the end of a node.
    stops: AtomicBool,
}

#[derive(Default)]
struct WaitingTasks {
    tasks: VecDeque<Task>,
    /// No more is taken.
    ended: bool,
    /// Of the executor's task that starts the others.
    waker: Option<Waker>,
    /// Rings since that one looked last.
    unheard: u32,
}

/// Why a task is given back.
enum Unsent {
    /// So many wait already.
    Full,
    /// There is no executor any more.
    Ended,
}

impl fmt::Debug for Queue {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let waiting = locked(&self.waiting).tasks.len();
        let mut fields = formatter.debug_struct("Queue");
        fields.field("waiting", &waiting).finish_non_exhaustive()
    }
}

impl Queue {
    /// Puts a task in, and rings once for all that wait.
    fn push(&self, task: Task, tasks_max: usize) -> Result<(), (Task, Unsent)> {
        let mut waiting = locked(&self.waiting);
        if waiting.ended {
            return Err((task, Unsent::Ended));
        }
        if waiting.tasks.len() >= tasks_max {
            return Err((task, Unsent::Full));
        }
        waiting.tasks.push_back(task);
        if waiting.unheard == 0 {
            waiting.ring();
        }
        Ok(())
    }

    /// Starts what waits. Ready once no more comes.
    fn poll(&self, context: &Context<'_>) -> Poll<()> {
        loop {
            match self.next(context.waker()) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(None) => return Poll::Ready(()),
                Poll::Ready(Some(task)) => {
                    glommio::spawn_local(abort_if_it_panics(task)).detach();
                }
            }
        }
    }

    /// The next task, `None` at the end; `waker` is rung for more.
    fn next(&self, waker: &Waker) -> Poll<Option<Task>> {
        let mut waiting = locked(&self.waiting);
        waiting.unheard = 0;
        if waiting.ended {
            return Poll::Ready(None);
        }
        if !waiting.waker.as_ref().is_some_and(|it| it.will_wake(waker)) {
            waiting.waker = Some(waker.clone());
        }
        match waiting.tasks.pop_front() {
            Some(task) => Poll::Ready(Some(task)),
            None => Poll::Pending,
        }
    }

    fn end(&self) {
        let mut waiting = locked(&self.waiting);
        waiting.ended = true;
        waiting.ring();
    }

    fn has_ended(&self) -> bool {
        locked(&self.waiting).ended
    }

    /// What has not begun.
    fn take_all(&self) -> VecDeque<Task> {
        std::mem::take(&mut locked(&self.waiting).tasks)
    }

    /// Rings also if it may have been slept through; gives the rings that were not heard.
    fn ring_again(&self) -> u32 {
        let mut waiting = locked(&self.waiting);
        waiting.ring();
        waiting.unheard
    }
}

impl WaitingTasks {
    fn ring(&mut self) {
        if let Some(waker) = &self.waker {
            waker.wake_by_ref();
            self.unheard += 1;
        }
    }
}

/// Nothing that is done under these locks can panic half-way.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

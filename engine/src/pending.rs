//! Answers of a core that are not there yet.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use crate::request::RequestError;
use crate::wait::block_on_until;

/// An answer of a core that is not there yet: a future for any executor, or [`wait`](Self::wait)
/// for a plain thread. What was asked for is on its way whether the answer is awaited or not.
///
/// It gives its answer once. Polled or waited for after that it panics, as futures of `async`
/// functions do.
#[must_use = "an answer is not known before it is awaited"]
pub struct Pending<T> {
    future: Option<Pin<Box<dyn Future<Output = T> + Send>>>,
    /// What is said to who would block a core's own thread.
    on_core: fn() -> T,
}

/// The same, of most answers.
pub(crate) fn wait_on_core<T, E: From<RequestError>>() -> Result<T, E> {
    Err(RequestError::WaitOnCore.into())
}

impl<T> fmt::Debug for Pending<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let answered = self.future.is_none();
        let mut fields = formatter.debug_struct("Pending");
        fields.field("answered", &answered).finish()
    }
}

impl<T> Pending<T> {
    pub(crate) fn new(
        on_core: fn() -> T,
        future: impl Future<Output = T> + Send + 'static,
    ) -> Self {
        Self {
            future: Some(Box::pin(future)),
            on_core,
        }
    }

    /// An answer that is there.
    pub(crate) fn ready(answer: T) -> Self
    where
        T: Send + 'static,
    {
        let on_core = || unreachable!("there is nothing to wait for");
        Self::new(on_core, std::future::ready(answer))
    }

    /// Blocks this thread until the answer is there. Not for threads that run futures. On a core's
    /// own thread, which may be the one that is to answer, it does not block, and is told
    /// [`RequestError::WaitOnCore`] unless the answer is there: await it.
    pub fn wait(self) -> T {
        let on_core = self.on_core;
        block_on_until(self, None).unwrap_or_else(on_core)
    }

    /// The same, but no longer than `limit`. `None` if there is no answer by then: it can be asked
    /// for again.
    pub fn wait_timeout(&mut self, limit: Duration) -> Option<T> {
        block_on_until(self, Instant::now().checked_add(limit))
    }
}

impl<T> Future for Pending<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        let future = self.future.as_mut();
        let future = future.expect("an answer was polled after it had been given");
        let answer = future.as_mut().poll(context);
        if answer.is_ready() {
            self.future = None;
        }
        answer
    }
}

//! Answers of a core that are not there yet.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use crate::wait::{block_on, block_on_until};

/// An answer of a core that is not there yet: a future for any executor, or [`wait`](Self::wait)
/// for a plain thread. What was asked for is on its way whether the answer is awaited or not.
///
/// It gives its answer once. Polled or waited for after that it panics, as futures of `async`
/// functions do.
#[must_use = "an answer is not known before it is awaited"]
pub struct Pending<T> {
    future: Option<Pin<Box<dyn Future<Output = T> + Send>>>,
}

impl<T> fmt::Debug for Pending<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let answered = self.future.is_none();
        let mut fields = formatter.debug_struct("Pending");
        fields.field("answered", &answered).finish()
    }
}

impl<T> Pending<T> {
    pub(crate) fn new(future: impl Future<Output = T> + Send + 'static) -> Self {
        Self {
            future: Some(Box::pin(future)),
        }
    }

    /// An answer that is there.
    pub(crate) fn ready(answer: T) -> Self
    where
        T: Send + 'static,
    {
        Self::new(std::future::ready(answer))
    }

    /// Blocks this thread until the answer is there. Not for threads that run futures, and never
    /// for one of the node's own cores, which would wait for itself.
    pub fn wait(self) -> T {
        block_on(self)
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

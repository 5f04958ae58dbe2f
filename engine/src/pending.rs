//! Answers of a core that are not there yet.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use crate::forked::OfProcess;
use crate::request::RequestError;
use crate::wait::block_on_until;

/// An answer of a core that is not there yet: a future for any executor, or [`wait`](Self::wait)
/// for a plain thread. What was asked for is on its way whether the answer is awaited or not.
///
/// It gives its answer once. Polled or waited for after that it panics, as futures of `async`
/// functions do.
#[must_use = "an answer is not known before it is awaited"]
pub struct Pending<T> {
    state: State<T>,
    /// What is said to who would block a core's own thread, or waits in a forked child.
    refuse: Refuse<T>,
}

/// Of most answers it is a function, for which nothing is allocated.
type Refuse<T> = Box<dyn Fn(RequestError) -> T + Send>;

enum State<T> {
    Asked(OfProcess<Pin<Box<dyn Future<Output = T> + Send>>>),
    There(Box<T>),
    Given,
}

/// The same, of most answers.
pub(crate) fn refuse<T, E: From<RequestError>>(error: RequestError) -> Result<T, E> {
    Err(error.into())
}

impl<T> fmt::Debug for Pending<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let answered = matches!(self.state, State::Given);
        let mut fields = formatter.debug_struct("Pending");
        fields.field("answered", &answered).finish()
    }
}

impl<T> Pending<T> {
    pub(crate) fn new(
        refuse: impl Fn(RequestError) -> T + Send + 'static,
        future: impl Future<Output = T> + Send + 'static,
    ) -> Self {
        Self {
            state: State::Asked(OfProcess::new(Box::pin(future))),
            refuse: Box::new(refuse),
        }
    }

    /// An answer that is there.
    pub(crate) fn ready(answer: T) -> Self {
        Self {
            state: State::There(Box::new(answer)),
            refuse: Box::new(|_| unreachable!("there is nothing to wait for")),
        }
    }

    /// Blocks this thread until the answer is there. Not for threads that run futures. On a core's
    /// own thread, which may be the one that is to answer, it does not block, and is told
    /// [`RequestError::WaitOnCore`] unless the answer is there: await it.
    pub fn wait(mut self) -> T {
        let answer = block_on_until(&mut self, None);
        answer.unwrap_or_else(|| (self.refuse)(RequestError::WaitOnCore))
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
        let answer = match std::mem::replace(&mut self.state, State::Given) {
            State::There(answer) => *answer,
            State::Asked(mut asked) => match asked.get_mut() {
                None => (self.refuse)(RequestError::Forked),
                Some(future) => match future.as_mut().poll(context) {
                    Poll::Ready(answer) => answer,
                    Poll::Pending => {
                        self.state = State::Asked(asked);
                        return Poll::Pending;
                    }
                },
            },
            State::Given => panic!("an answer was polled after it had been given"),
        };
        Poll::Ready(answer)
    }
}

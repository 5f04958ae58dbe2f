//! Who waits for something that all of them are told at once, if it ever comes.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;

use oneshot::{AsyncReceiver, Sender};

/// With so many of them nobody looks yet who was given up.
const LOOK_AT_MIN: usize = 64;

/// Where they are told. To tell one runs its waker, which is the application's: it is done, as is
/// dropping these, under no lock.
#[derive(Debug)]
pub(crate) struct Waiters<T> {
    senders: Vec<Sender<T>>,
    /// With so many they are looked through for those that were given up. Invariant: twice as many
    /// as the last look left, so that a look costs each that came a little.
    look_at: usize,
}

impl<T> Default for Waiters<T> {
    fn default() -> Self {
        Self {
            senders: Vec::new(),
            look_at: LOOK_AT_MIN,
        }
    }
}

impl<T> Waiters<T> {
    /// One more.
    pub(crate) fn add(&mut self) -> AsyncReceiver<T> {
        if self.senders.len() >= self.look_at {
            self.senders.retain(|sender| !sender.is_closed());
            self.look_at = (2 * self.senders.len()).max(LOOK_AT_MIN);
        }
        let (sender, receiver) = oneshot::async_channel();
        self.senders.push(sender);
        receiver
    }

    /// Tells them all. Whoever does not wait any more is not told.
    pub(crate) fn tell(self, told: &T)
    where
        T: Clone,
    {
        for sender in self.senders {
            let _ = sender.send(told.clone());
        }
    }
}

/// A thread that may never answer what it was asked, and be left behind for it at a stop.
#[derive(Clone, Debug, Default)]
pub(crate) struct Unreliable(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    left_behind: bool,
    waiting: Waiters<()>,
}

impl Unreliable {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The answer of the thread; `None` if it has dropped the question, or is left behind.
    pub(crate) fn answer<T>(
        &self,
        mut answer: AsyncReceiver<T>,
    ) -> impl Future<Output = Option<T>> + use<T> {
        let mut inner = self.inner();
        let mut left_behind = match inner.left_behind {
            // Its sender is gone already.
            true => oneshot::async_channel().1,
            false => inner.waiting.add(),
        };
        drop(inner);
        poll_fn(move |context| {
            if let Poll::Ready(answer) = Pin::new(&mut answer).poll(context) {
                return Poll::Ready(answer.ok());
            }
            let left_behind = Pin::new(&mut left_behind).poll(context);
            left_behind.map(|_| None)
        })
    }

    /// It is left behind: whoever waits for it is told so.
    pub(crate) fn leave_behind(&self) {
        let mut inner = self.inner();
        inner.left_behind = true;
        let waiting = std::mem::take(&mut inner.waiting);
        drop(inner);
        waiting.tell(&());
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn those_that_were_given_up_make_room_for_others() {
        let mut waiters = Waiters::default();
        let mut kept: Vec<AsyncReceiver<u8>> = Vec::new();
        for number in 0..10_000 {
            let one = waiters.add();
            if number % 100 == 0 {
                kept.push(one);
            }
        }
        assert!(waiters.senders.len() <= 2 * kept.len().max(LOOK_AT_MIN));
        waiters.tell(&7);
        assert!(
            kept.into_iter()
                .all(|one| one.now_or_never() == Some(Ok(7)))
        );
    }

    #[test]
    fn who_waits_for_a_thread_that_is_left_behind_is_told_before_and_after() {
        let thread = Unreliable::default();
        let (_sender, question) = oneshot::async_channel::<u8>();
        let (answered, answer) = oneshot::async_channel();
        let (waits, answer) = (thread.answer(question), thread.answer(answer));
        answered.send(7).expect("it is waited for");
        thread.leave_behind();
        assert_eq!(waits.now_or_never(), Some(None));
        assert_eq!(answer.now_or_never(), Some(Some(7)), "it had answered");
        let (_sender, late) = oneshot::async_channel::<u8>();
        assert_eq!(thread.answer(late).now_or_never(), Some(None));
    }
}

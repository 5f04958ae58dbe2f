//! How a core has ended, and who is told when one fails.

use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::outcome::{Rejection, Unknown};
use crate::pending::{Pending, refuse};
use crate::request::RequestError;
use crate::waiters::{Unreliable, Waiters};

/// Whether a core still takes anything, and whether it is to.
#[derive(Clone, Debug, Default)]
pub(crate) struct CoreState(Arc<State>);

#[derive(Debug, Default)]
struct State {
    /// A `CoreEnd`, or 0.
    end: AtomicU8,
    told_to_stop: AtomicBool,
    thread: Unreliable,
}

/// How a core has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum CoreEnd {
    /// It was told to.
    Stopped = 1,
    /// Its log or its driver failed.
    Failed = 2,
}

impl CoreState {
    /// The first end is the one that is told.
    pub(crate) fn end(&self, end: CoreEnd) {
        let open = 0;
        // SeqCst, as in `ended`: see `Inbox::close`.
        let (success, failure) = (Ordering::SeqCst, Ordering::SeqCst);
        let _ = self
            .0
            .end
            .compare_exchange(open, end as u8, success, failure);
    }

    /// It is to stop. Its doorbell is rung after this.
    pub(crate) fn tell_to_stop(&self) {
        self.0.told_to_stop.store(true, Ordering::SeqCst);
    }

    pub(crate) fn is_told_to_stop(&self) -> bool {
        self.0.told_to_stop.load(Ordering::SeqCst)
    }

    /// The thread that is to answer.
    pub(crate) fn thread(&self) -> &Unreliable {
        &self.0.thread
    }

    pub(crate) fn ended(&self) -> Option<CoreEnd> {
        match self.0.end.load(Ordering::SeqCst) {
            0 => None,
            end if end == CoreEnd::Failed as u8 => Some(CoreEnd::Failed),
            _ => Some(CoreEnd::Stopped),
        }
    }

    /// What somebody is told whose question was dropped.
    pub(crate) fn request_error(&self) -> RequestError {
        match self.ended() {
            Some(CoreEnd::Failed) => RequestError::Failed,
            _ => RequestError::Stopped,
        }
    }
}

impl From<CoreEnd> for Unknown {
    fn from(end: CoreEnd) -> Self {
        match end {
            CoreEnd::Stopped => Self::Stopped,
            CoreEnd::Failed => Self::Failed,
        }
    }
}

impl From<CoreEnd> for Rejection {
    fn from(end: CoreEnd) -> Self {
        match end {
            CoreEnd::Stopped => Self::Stopped,
            CoreEnd::Failed => Self::Failed,
        }
    }
}

/// A core that serves no more, although nobody stopped it: its log or its driver has failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[error("core {core} has failed: {reason}")]
pub struct CoreFailure {
    /// The core.
    pub core: u16,
    /// What failed, and the remedy.
    pub reason: String,
}

/// The first failure of a node's cores, and who waits for it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Health(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    failure: Option<CoreFailure>,
    stopped: bool,
    waiting: Waiters<CoreFailure>,
}

impl Health {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A core serves no more.
    pub(crate) fn fail(&self, core: u16, reason: String) {
        let mut inner = self.inner();
        if inner.failure.is_some() {
            return;
        }
        let failure = CoreFailure { core, reason };
        inner.failure = Some(failure.clone());
        let waiting = std::mem::take(&mut inner.waiting);
        drop(inner);
        waiting.tell(&failure);
    }

    /// The node has ended: nothing fails any more.
    pub(crate) fn close(&self) {
        let mut inner = self.inner();
        inner.stopped = true;
        let waiting = std::mem::take(&mut inner.waiting);
        drop(inner);
        drop(waiting);
    }

    /// The first failure, if there was one.
    pub(crate) fn failure(&self) -> Option<CoreFailure> {
        self.inner().failure.clone()
    }

    /// The first failure, once there is one.
    pub(crate) fn failed(&self) -> Pending<Result<CoreFailure, RequestError>> {
        let mut inner = self.inner();
        if let Some(failure) = &inner.failure {
            return Pending::ready(Ok(failure.clone()));
        }
        if inner.stopped {
            return Pending::ready(Err(RequestError::Stopped));
        }
        let failure = inner.waiting.add();
        Pending::new(refuse, async move {
            failure.await.map_err(|_| RequestError::Stopped)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::sync::mpsc;
    use std::task::{Context, Poll, Wake, Waker};

    use super::*;

    /// Asks again where it is woken, as an executor does that polls its tasks there.
    struct AsksAgain(Health, mpsc::Sender<bool>);

    impl Wake for AsksAgain {
        fn wake(self: Arc<Self>) {
            let mut again = self.0.failed();
            let mut context = Context::from_waker(Waker::noop());
            let answer = Pin::new(&mut again).poll(&mut context);
            // A lock that is held here would never be given back.
            let _ = self.1.send(answer.is_ready());
        }
    }

    #[test]
    fn who_is_woken_by_a_failure_or_the_end_may_ask_again_there() {
        let ends: [fn(&Health); 2] = [|health| health.fail(1, String::new()), Health::close];
        for end in ends {
            let health = Health::default();
            let (sender, answered) = mpsc::channel();
            let waker = Waker::from(Arc::new(AsksAgain(health.clone(), sender)));
            let mut failed = health.failed();
            let first = Pin::new(&mut failed).poll(&mut Context::from_waker(&waker));
            assert_eq!(first, Poll::Pending);
            end(&health);
            assert_eq!(answered.recv(), Ok(true));
        }
    }
}

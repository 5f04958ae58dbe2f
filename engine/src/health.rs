//! How a core has ended, and who is told when one fails.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::outcome::Rejection;
use crate::pending::Pending;
use crate::request::RequestError;

/// Whether a core still takes anything.
#[derive(Clone, Debug, Default)]
pub(crate) struct CoreState(Arc<AtomicU8>);

/// How a core has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum CoreEnd {
    /// It was told to.
    Stopped = 1,
    /// Its driver failed.
    Failed = 2,
}

impl CoreState {
    /// The first end is the one that is told.
    pub(crate) fn end(&self, end: CoreEnd) {
        let open = 0;
        // SeqCst, as in `ended`: see `Inbox::close`.
        let (success, failure) = (Ordering::SeqCst, Ordering::SeqCst);
        let _ = self.0.compare_exchange(open, end as u8, success, failure);
    }

    pub(crate) fn ended(&self) -> Option<CoreEnd> {
        match self.0.load(Ordering::SeqCst) {
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
    waiting: Vec<oneshot::Sender<CoreFailure>>,
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
        for waiting in inner.waiting.drain(..) {
            // Whoever does not wait any more is not told.
            let _ = waiting.send(failure.clone());
        }
    }

    /// The node has ended: nothing fails any more.
    pub(crate) fn close(&self) {
        let mut inner = self.inner();
        inner.stopped = true;
        inner.waiting.clear();
    }

    /// The first failure; `None` if the node ends without one.
    pub(crate) fn failed(&self) -> Pending<Option<CoreFailure>> {
        let mut inner = self.inner();
        if inner.failure.is_some() || inner.stopped {
            return Pending::ready(inner.failure.clone());
        }
        let (sender, receiver) = oneshot::async_channel();
        // Those that were dropped meanwhile are not kept.
        inner.waiting.retain(|waiting| !waiting.is_closed());
        inner.waiting.push(sender);
        Pending::new(|_| None, async move { receiver.await.ok() })
    }
}

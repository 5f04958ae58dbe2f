//! The bytes of proposals that wait for a core, or that it has not answered, and of replies that
//! nobody has taken yet: counted by what holds them, on whatever thread that is.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

/// A number of bytes that may be held at the same time; or one group's share of it, which counts
/// what that group has waiting.
#[derive(Clone, Debug)]
pub(crate) struct Budget(Arc<Share>);

/// The same, for whoever does not keep it.
#[derive(Debug)]
pub(crate) struct WeakBudget(Weak<Share>);

/// Permits hold this, and not the account: what one group does moves no count of another's.
#[derive(Debug)]
struct Share {
    account: Arc<Account>,
    /// The weight of what waits in the core's queue.
    waiting: AtomicUsize,
}

#[derive(Debug)]
struct Account {
    /// Most that may be taken.
    bytes_max: usize,
    /// So much more may be held by permits that were exchanged.
    replies_bytes_max: usize,
    held: AtomicUsize,
}

/// Some of a budget's bytes, given back when this is dropped.
#[derive(Debug)]
pub(crate) struct Permit {
    bytes: usize,
    share: Arc<Share>,
}

impl Budget {
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self::with_replies(bytes_max, 0)
    }

    /// One in which replies always find room for `replies_bytes_max`, whatever proposals hold. They
    /// may have what proposals leave as well: replies that nobody takes keep proposals out.
    pub(crate) fn with_replies(bytes_max: usize, replies_bytes_max: usize) -> Self {
        let held = AtomicUsize::new(0);
        Self::of(Arc::new(Account {
            bytes_max,
            replies_bytes_max,
            held,
        }))
    }

    fn of(account: Arc<Account>) -> Self {
        let waiting = AtomicUsize::new(0);
        Self(Arc::new(Share { account, waiting }))
    }

    /// Another share of the same bytes.
    pub(crate) fn share(&self) -> Self {
        Self::of(Arc::clone(&self.0.account))
    }

    pub(crate) fn downgrade(&self) -> WeakBudget {
        WeakBudget(Arc::downgrade(&self.0))
    }

    /// Bytes that can still be taken.
    pub(crate) fn left(&self) -> usize {
        let account = &self.0.account;
        let held = account.held.load(Ordering::Relaxed);
        account.bytes_max.saturating_sub(held)
    }

    /// How much is held, and the most that may be.
    #[cfg(feature = "simulation")]
    pub(crate) fn gauge(&self) -> (usize, usize) {
        let account = &self.0.account;
        (account.held.load(Ordering::Relaxed), account.held_max())
    }

    /// Takes bytes out of the budget, if it has so many.
    pub(crate) fn take(&self, bytes: usize) -> Option<Permit> {
        let account = &self.0.account;
        let before = account.held.fetch_add(bytes, Ordering::Relaxed);
        let share = Arc::clone(&self.0);
        let permit = Permit { bytes, share };
        // Dropped, a permit beyond the limit gives back what it added.
        (before + bytes <= account.bytes_max).then_some(permit)
    }
}

impl WeakBudget {
    pub(crate) fn upgrade(&self) -> Option<Budget> {
        self.0.upgrade().map(Budget)
    }
}

impl Account {
    fn held_max(&self) -> usize {
        self.bytes_max.saturating_add(self.replies_bytes_max)
    }
}

impl Permit {
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Its command, of this weight, is to wait in the core's queue. As much is left for others as
    /// one group has there, so that whoever has nothing there finds a place; up to `free` nobody
    /// looks what is left.
    ///
    /// # Errors
    /// What is left, if it is too little. The command does not wait then.
    pub(crate) fn join_queue(
        &self,
        weight: usize,
        free: usize,
        left: impl FnOnce() -> usize,
    ) -> Result<(), usize> {
        let waiting = &self.share.waiting;
        let before = waiting.fetch_add(weight, Ordering::Relaxed);
        if before <= free {
            return Ok(());
        }
        let left = left();
        if before <= left {
            return Ok(());
        }
        waiting.fetch_sub(weight, Ordering::Relaxed);
        Err(left)
    }

    /// Commands of its share, of this weight together, wait no longer.
    pub(crate) fn leave_queue(&self, weight: usize) {
        self.share.waiting.fetch_sub(weight, Ordering::Relaxed);
    }

    /// Whether the other one is of the same share.
    pub(crate) fn is_of_same_share(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.share, &other.share)
    }

    /// The command that it was taken for is answered: it holds the bytes of the reply from now on,
    /// if there is room for them. Otherwise it gives back what it held.
    pub(crate) fn exchange(mut self, reply_bytes: usize) -> Option<Self> {
        let before = std::mem::replace(&mut self.bytes, reply_bytes);
        let held = &self.share.account.held;
        let Some(more) = reply_bytes.checked_sub(before) else {
            held.fetch_sub(before - reply_bytes, Ordering::Relaxed);
            return Some(self);
        };
        let held = held.fetch_add(more, Ordering::Relaxed) + more;
        (held <= self.share.account.held_max()).then_some(self)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.share
            .account
            .held
            .fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_permit_gives_its_bytes_back_when_it_is_dropped() {
        let budget = Budget::new(10);
        let first = budget.take(4).unwrap();
        let second = budget.take(6).unwrap();
        assert!(budget.take(1).is_none() && budget.take(0).is_some());
        drop(first);
        assert!(budget.take(5).is_none());
        assert!(budget.take(4).is_some());
        drop(second);
        assert!(budget.take(10).is_some());
    }

    #[test]
    fn replies_have_room_of_their_own_and_keep_proposals_out_when_nobody_takes_them() {
        let budget = Budget::with_replies(10, 5);
        let proposals = [4, 3, 3].map(|bytes| budget.take(bytes).unwrap());
        let [first, second, third] = proposals;
        let small = first.exchange(1).unwrap();
        assert_eq!(budget.left(), 3);
        // 1 + 3 + 3 are held, and 15 may be.
        assert!(third.exchange(12).is_none(), "it would be 16");
        assert_eq!(budget.left(), 6, "it gave back all that it held");
        let large = second.exchange(14).unwrap();
        assert!(budget.take(1).is_none());
        drop(large);
        assert_eq!(budget.left(), 9);
        drop(small);
        assert_eq!(budget.left(), 10);
    }
}

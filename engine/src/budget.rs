//! The bytes of proposals that wait for a core, or that it has not answered, and of replies that
//! nobody has taken yet: counted by what holds them, on whatever thread that is.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A number of bytes that may be held at the same time.
#[derive(Clone, Debug)]
pub(crate) struct Budget(Arc<Account>);

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
    account: Arc<Account>,
}

impl Budget {
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self::with_replies(bytes_max, 0)
    }

    /// One in which replies always find room for `replies_bytes_max`, whatever proposals hold. They
    /// may have what proposals leave as well: replies that nobody takes keep proposals out.
    pub(crate) fn with_replies(bytes_max: usize, replies_bytes_max: usize) -> Self {
        let held = AtomicUsize::new(0);
        Self(Arc::new(Account {
            bytes_max,
            replies_bytes_max,
            held,
        }))
    }

    /// Bytes that can still be taken.
    pub(crate) fn left(&self) -> usize {
        let held = self.0.held.load(Ordering::Relaxed);
        self.0.bytes_max.saturating_sub(held)
    }

    /// How much is held, and the most that may be.
    #[cfg(feature = "simulation")]
    pub(crate) fn gauge(&self) -> (usize, usize) {
        (self.0.held.load(Ordering::Relaxed), self.0.held_max())
    }

    /// Takes bytes out of the budget, if it has so many.
    pub(crate) fn take(&self, bytes: usize) -> Option<Permit> {
        let before = self.0.held.fetch_add(bytes, Ordering::Relaxed);
        let account = Arc::clone(&self.0);
        let permit = Permit { bytes, account };
        // Dropped, a permit beyond the limit gives back what it added.
        (before + bytes <= self.0.bytes_max).then_some(permit)
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

    /// The command that it was taken for is answered: it holds the bytes of the reply from now on,
    /// if there is room for them. Otherwise it gives back what it held.
    pub(crate) fn exchange(mut self, reply_bytes: usize) -> Option<Self> {
        let before = std::mem::replace(&mut self.bytes, reply_bytes);
        let held = &self.account.held;
        let Some(more) = reply_bytes.checked_sub(before) else {
            held.fetch_sub(before - reply_bytes, Ordering::Relaxed);
            return Some(self);
        };
        let held = held.fetch_add(more, Ordering::Relaxed) + more;
        (held <= self.account.held_max()).then_some(self)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.account.held.fetch_sub(self.bytes, Ordering::Relaxed);
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

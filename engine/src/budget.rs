//! The bytes of proposals that a core has taken and not answered: counted by what holds them.

use std::cell::Cell;
use std::rc::Rc;

/// A number of bytes that may be held at the same time. Stays on its core's thread.
#[derive(Debug)]
pub(crate) struct Budget {
    bytes_max: usize,
    held: Rc<Cell<usize>>,
}

/// Some of a budget's bytes, given back when this is dropped.
#[derive(Debug)]
pub(crate) struct Permit {
    bytes: usize,
    held: Rc<Cell<usize>>,
}

impl Budget {
    pub(crate) fn new(bytes_max: usize) -> Self {
        let held = Rc::default();
        Self { bytes_max, held }
    }

    /// Whether anything is held.
    pub(crate) fn is_held(&self) -> bool {
        self.held.get() > 0
    }

    /// Whether so many bytes more are within the budget.
    pub(crate) fn has_room(&self, bytes: usize) -> bool {
        self.held.get() + bytes <= self.bytes_max
    }

    /// Takes bytes out of the budget. Ask [`has_room`](Self::has_room) first.
    pub(crate) fn take(&self, bytes: usize) -> Permit {
        debug_assert!(self.has_room(bytes), "asked first");
        self.held.set(self.held.get() + bytes);
        let held = Rc::clone(&self.held);
        Permit { bytes, held }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.held.set(self.held.get() - self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_permit_gives_its_bytes_back_when_it_is_dropped() {
        let budget = Budget::new(10);
        let first = budget.take(4);
        let second = budget.take(6);
        assert!(!budget.has_room(1) && budget.has_room(0));
        drop(first);
        assert!(budget.has_room(4) && !budget.has_room(5));
        drop(second);
        assert!(!budget.is_held());
    }
}

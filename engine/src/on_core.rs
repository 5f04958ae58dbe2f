//! Whether a thread is a core's own: whoever waits there for a core may wait for itself.

use std::cell::Cell;

thread_local! {
    static IS_CORE: Cell<bool> = const { Cell::new(false) };
}

/// This thread is a core's from now on.
pub(crate) fn enter() {
    IS_CORE.set(true);
}

/// Whether this thread is a core's, of whatever node.
pub(crate) fn is_core() -> bool {
    IS_CORE.get()
}

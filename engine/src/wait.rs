//! Waiting for a future on a plain thread, with a bound if one is wanted.

use std::cell::Cell;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::Instant;

use crate::on_core;

/// A thread that waits. The flag keeps a wake-up that comes while it polls.
struct Sleeper {
    thread: Thread,
    woken: AtomicBool,
}

impl Wake for Sleeper {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.woken.swap(true, Ordering::Release) {
            self.thread.unpark();
        }
    }
}

thread_local! {
    /// Kept from one wait to the next; a wait within a poll of another makes its own.
    static SLEEPER: Cell<Option<Arc<Sleeper>>> = const { Cell::new(None) };
}

/// Polls on this thread until the future is done. `None` if it is not before `deadline`, if there
/// is one, and on a core's own thread if it is not at once: that one would wait for itself.
pub(crate) fn block_on_until<F: Future>(future: F, deadline: Option<Instant>) -> Option<F::Output> {
    let mut future = pin!(future);
    let deadline = if on_core::is_core() {
        Some(Instant::now())
    } else {
        deadline
    };
    // A thread that ends may wait in the destructor of one of its own, after this one is gone.
    let kept = SLEEPER.try_with(Cell::take).ok().flatten();
    let sleeper = kept.unwrap_or_else(|| {
        Arc::new(Sleeper {
            thread: std::thread::current(),
            woken: AtomicBool::new(false),
        })
    });
    let waker = Waker::from(Arc::clone(&sleeper));
    let mut context = Context::from_waker(&waker);
    let output = loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
            break Some(output);
        }
        if !sleep(&sleeper, deadline) {
            break None;
        }
    };
    let _ = SLEEPER.try_with(|kept| kept.set(Some(sleeper)));
    output
}

/// Until it is woken. False if the deadline came first.
fn sleep(sleeper: &Sleeper, deadline: Option<Instant>) -> bool {
    while !sleeper.woken.swap(false, Ordering::Acquire) {
        let Some(deadline) = deadline else {
            std::thread::park();
            continue;
        };
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return false;
        }
        std::thread::park_timeout(left);
    }
    true
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::future::poll_fn;
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    /// Wakes itself so often before it is done.
    async fn yields(mut times: u32) {
        poll_fn(|context| {
            if times == 0 {
                return Poll::Ready(());
            }
            times -= 1;
            context.waker().wake_by_ref();
            Poll::Pending
        })
        .await;
    }

    #[test]
    fn a_wait_within_a_wait_does_not_take_the_others_wake_up() {
        let waits = async {
            yields(3).await;
            poll_fn(|context| {
                context.waker().wake_by_ref();
                block_on_until(yields(2), None);
                Poll::Ready(())
            })
            .await;
            yields(3).await;
        };
        assert_eq!(block_on_until(waits, None), Some(()));
    }

    #[test]
    fn a_thread_that_ends_may_wait_in_the_destructors_of_its_own() {
        struct Farewell(Option<mpsc::Sender<()>>);
        impl Drop for Farewell {
            fn drop(&mut self) {
                block_on_until(yields(2), None);
                self.0.take().map(|told| told.send(()));
            }
        }
        thread_local! {
            static FAREWELL: RefCell<Farewell> = const { RefCell::new(Farewell(None)) };
        }
        let (sender, told) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            // Destructors run from the last that was used first to the first: this is the last.
            FAREWELL.with_borrow_mut(|farewell| farewell.0 = Some(sender));
            block_on_until(yields(1), None);
        });
        thread.join().expect("it ends");
        assert_eq!(told.recv(), Ok(()));
    }

    #[test]
    fn a_deadline_ends_a_wait_for_what_never_comes() {
        let never = std::future::pending::<()>();
        assert_eq!(
            block_on_until(never, Some(Instant::now() + Duration::from_millis(1))),
            None
        );
    }
}

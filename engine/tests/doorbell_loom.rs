//! No wake-up is lost, in any order of the two sides' steps that loom can find.
//!
//! `RUSTFLAGS="--cfg pontoon_loom" cargo test --release -p pontoon --test doorbell_loom
//! --no-default-features --target-dir target/loom`
#![allow(clippy::unwrap_used, reason = "a failed step of a test is its failure")]
#![cfg(pontoon_loom)]

use loom::sync::Arc;
use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::thread;
use pontoon::doorbell::Parked;

#[test]
fn a_sleeper_either_sees_what_came_or_is_woken() {
    loom::model(|| {
        let parked = Arc::new(Parked::new());
        let queue = Arc::new(AtomicUsize::new(0));
        let wakers: Vec<_> = (0..2)
            .map(|_| {
                let (parked, queue) = (Arc::clone(&parked), Arc::clone(&queue));
                thread::spawn(move || {
                    queue.fetch_add(1, Ordering::Relaxed);
                    parked.take()
                })
            })
            .collect();
        parked.park();
        let seen = queue.load(Ordering::Relaxed);
        let rung: usize = wakers
            .into_iter()
            .map(|waker| usize::from(waker.join().unwrap()))
            .sum();
        assert!(
            seen == 2 || rung >= 1,
            "it sleeps, and {seen} of 2 are seen"
        );
        assert!(rung <= 1, "woken twice");
    });
}

//! No wake-up is lost, in any order of the two sides' steps that loom can find.
//!
//! `RUSTFLAGS="--cfg pontoon_loom" cargo test --release -p pontoon --test doorbell_loom
//! --no-default-features --target-dir target/loom`
//!
//! The loop of a core as in `host/`, over queues that promise no order by themselves: proposals,
//! requests and events of the bulk lane; gathering while a write is under way; as many rounds as it
//! takes. A core that sleeps beside something to do is a deadlock, which loom reports.
#![allow(clippy::unwrap_used, reason = "a failed step of a test is its failure")]
#![cfg(pontoon_loom)]

// Not loom's: its destructor can't run while a deadlock unwinds.
use std::sync::Arc;

use loom::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use loom::sync::{Condvar, Mutex};
use loom::thread;
use pontoon::doorbell::Parked;

/// Switches of threads away from one that could go on, in one execution.
const PREEMPTIONS_MAX: usize = 3;

/// What the two sides agree by.
trait Parking: Send + Sync + 'static {
    /// Whether the queues are looked at after parking is announced.
    const LOOKS_AGAIN: bool = true;
    fn park(&self);
    fn unpark(&self);
    fn take(&self) -> bool;
}

/// The one that ships.
impl Parking for Parked {
    fn park(&self) {
        self.park();
    }

    fn unpark(&self) {
        self.unpark();
    }

    fn take(&self) -> bool {
        self.take()
    }
}

/// Nothing orders the announcement before the look, nor the sending before the asking.
struct Unfenced(AtomicBool);

impl Parking for Unfenced {
    fn park(&self) {
        self.0.store(true, Relaxed);
    }

    fn unpark(&self) {
        self.0.store(false, Relaxed);
    }

    fn take(&self) -> bool {
        self.0.load(Relaxed) && self.0.swap(false, Relaxed)
    }
}

/// It looks before it announces, and not after.
struct LooksBefore(Parked);

impl Parking for LooksBefore {
    const LOOKS_AGAIN: bool = false;

    fn park(&self) {
        self.0.park();
    }

    fn unpark(&self) {
        self.0.unpark();
    }

    fn take(&self) -> bool {
        self.0.take()
    }
}

/// What has come out of the kernel and is not taken.
#[derive(Default)]
struct Kernel {
    eventfd: u64,
    written: bool,
}

struct Core<P> {
    parking: P,
    proposals: AtomicUsize,
    requests: AtomicUsize,
    events: AtomicUsize,
    kernel: Mutex<Kernel>,
    completed: Condvar,
}

impl<P: Parking> Core<P> {
    fn new(parking: P) -> Self {
        Self {
            parking,
            proposals: AtomicUsize::new(0),
            requests: AtomicUsize::new(0),
            events: AtomicUsize::new(0),
            kernel: Mutex::new(Kernel::default()),
            completed: Condvar::new(),
        }
    }

    /// As `Doorbell::ring`.
    fn ring(&self) {
        if self.parking.take() {
            self.complete(|kernel| kernel.eventfd += 1);
        }
    }

    /// As `Doorbell::ring_always`.
    fn ring_always(&self) {
        self.parking.take();
        self.complete(|kernel| kernel.eventfd += 1);
    }

    fn complete(&self, change: impl FnOnce(&mut Kernel)) {
        change(&mut self.kernel.lock().unwrap());
        self.completed.notify_one();
    }

    fn propose(&self) {
        self.proposals.fetch_add(1, Relaxed);
        self.ring();
    }

    fn request(&self) {
        self.requests.fetch_add(1, Relaxed);
        self.ring_always();
    }

    fn tell(&self) {
        self.events.fetch_add(1, Relaxed);
        self.ring_always();
    }

    /// Turns and exchanges until all that is sent was taken.
    fn run(&self, sent: usize, mut gathers: bool) {
        let mut taken = 0;
        loop {
            taken += self.events.swap(0, Relaxed) + self.requests.swap(0, Relaxed);
            if !gathers {
                taken += self.proposals.swap(0, Relaxed);
            }
            if taken == sent {
                return;
            }
            if !gathers {
                self.parking.park();
            }
            let has_work = P::LOOKS_AGAIN && self.has_work(gathers);
            self.exchange(!has_work, &mut gathers);
            self.parking.unpark();
        }
    }

    fn has_work(&self, gathers: bool) -> bool {
        let has = |queue: &AtomicUsize| queue.load(Relaxed) > 0;
        has(&self.requests) || has(&self.events) || !gathers && has(&self.proposals)
    }

    /// The read of the eventfd is always armed, so that an exchange that does not wait may take a
    /// ring as well.
    fn exchange(&self, waits: bool, gathers: &mut bool) {
        let mut kernel = self.kernel.lock().unwrap();
        while waits && kernel.eventfd == 0 && !kernel.written {
            kernel = self.completed.wait(kernel).unwrap();
        }
        kernel.eventfd = 0;
        *gathers &= !std::mem::take(&mut kernel.written);
    }
}

/// Runs a core against senders, each a thread that calls these one after the other.
fn model<P: Parking>(
    parking: fn() -> P,
    gathers: bool,
    senders: &'static [&'static [fn(&Core<P>)]],
) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(PREEMPTIONS_MAX);
    builder.check(move || {
        let core = Arc::new(Core::new(parking()));
        let mut sent = 0;
        for calls in senders {
            sent += calls.len();
            let core = Arc::clone(&core);
            thread::spawn(move || calls.iter().for_each(|call| call(&core)));
        }
        if gathers {
            // A write, which completes at some time.
            let core = Arc::clone(&core);
            thread::spawn(move || core.complete(|kernel| kernel.written = true));
        }
        core.run(sent, gathers);
    });
}

#[test]
fn a_proposal_behind_another_one_is_found_or_rings() {
    model(Parked::new, false, &[&[Core::propose, Core::propose]]);
}

#[test]
fn of_several_senders_at_once_nothing_is_slept_over() {
    model(
        Parked::new,
        false,
        &[&[Core::propose, Core::propose], &[Core::propose]],
    );
    model(
        Parked::new,
        false,
        &[&[Core::propose], &[Core::request], &[Core::tell]],
    );
}

#[test]
fn what_gathers_is_taken_when_the_write_has_completed() {
    model(Parked::new, true, &[&[Core::propose], &[Core::propose]]);
    model(Parked::new, true, &[&[Core::propose, Core::request]]);
}

/// The write never completes: nothing but proposals may wait for it.
fn hanging_disk(calls: [fn(&Core<Parked>); 2]) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(PREEMPTIONS_MAX);
    builder.check(move || {
        let core = Arc::new(Core::new(Parked::new()));
        for call in calls {
            let core = Arc::clone(&core);
            thread::spawn(move || call(&core));
        }
        core.run(2, true);
    });
}

#[test]
fn requests_and_the_bulk_lane_do_not_wait_for_a_disk_that_hangs() {
    hanging_disk([Core::request, Core::tell]);
}

#[test]
#[should_panic(expected = "deadlock")]
fn a_bulk_lane_that_rings_as_proposals_do_waits_for_the_disk() {
    let tell = |core: &Core<Parked>| {
        core.events.fetch_add(1, Relaxed);
        core.ring();
    };
    hanging_disk([Core::request, tell]);
}

#[test]
#[should_panic(expected = "deadlock")]
fn without_fences_a_wake_up_is_lost() {
    model(
        || Unfenced(AtomicBool::new(false)),
        false,
        &[&[Core::propose, Core::propose]],
    );
}

#[test]
#[should_panic(expected = "deadlock")]
fn without_a_second_look_a_wake_up_is_lost() {
    model(
        || LooksBefore(Parked::new()),
        false,
        &[&[Core::propose, Core::propose]],
    );
}

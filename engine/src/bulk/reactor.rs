//! The poll(2) loop of the bulk lane over its sources: requests of the cores, the listener, and
//! pending connections.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender, TryRecvError};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::{BulkRequest, WantedSegment};
use super::handshakes::Handshakes;

/// Positions in the list of polled descriptors.
const WAKE: usize = 0;
const LISTENER: usize = 1;
const PENDING: usize = 2;

/// The thread that waits for all sources at once, and for none of them alone.
#[derive(Debug)]
pub(super) struct Reactor {
    pub(super) handshakes: Handshakes,
    /// Requests of the cores; a core writes to `wake` after each.
    pub(super) requests: Receiver<(u16, BulkRequest)>,
    /// Requests for segments are passed on here, by core.
    pub(super) segments: Vec<Sender<WantedSegment>>,
    /// Disconnected once the lane stops; whoever stops it writes to `wake` afterwards.
    pub(super) running: Receiver<()>,
    pub(super) wake: Arc<OwnedFd>,
}

impl Reactor {
    /// Runs until the lane stops; pending connections are dropped then.
    pub(super) fn run(mut self) {
        let mut ready = Vec::new();
        while self.running.try_recv() != Err(TryRecvError::Disconnected) {
            self.wait(&mut ready);
            if ready[WAKE] {
                // Only resets the counter; the requests are in the channel.
                let _ = rustix::io::read(&*self.wake, &mut [0; 8]);
                self.take_requests();
            }
            self.handshakes.advance(&ready[PENDING..]);
            if ready[LISTENER] {
                self.handshakes.accept();
            }
            self.handshakes.thin_out();
            self.handshakes.expire_handshakes();
        }
    }

    /// Waits until a source is ready or a deadline has come, and notes which are ready.
    fn wait(&self, ready: &mut Vec<bool>) {
        let now = Instant::now();
        let mut polled = vec![PollFd::new(&*self.wake, PollFlags::IN)];
        self.handshakes.add_sources(now, &mut polled);
        let limit = self.handshakes.next_deadline(now).map(|deadline| {
            let left = deadline.saturating_duration_since(now);
            Timespec::try_from(left).expect("deadlines are near")
        });
        let outcome = poll(&mut polled, limit.as_ref());
        ready.clear();
        ready.extend(polled.iter().map(|each| !each.revents().is_empty()));
        if outcome.is_err() {
            // A signal: nothing is known to be ready.
            ready.fill(false);
        }
    }

    fn take_requests(&mut self) {
        while let Ok((core, request)) = self.requests.try_recv() {
            match request {
                BulkRequest::Dial { peer } => self.handshakes.dial(core, peer),
                BulkRequest::Prepare(wanted) => {
                    // The other end lives until this one is dropped.
                    let _ = self.segments[usize::from(core)].send(wanted);
                }
            }
        }
    }
}

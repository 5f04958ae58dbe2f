//! Strangers become peers here, or are turned away: bounded in number, bytes and time. One thread
//! serves all of them with poll(2), and waits for none.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, TryRecvError};
use pontoon_raft::NodeId;
use pontoon_transport::Hello;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::guest::{Guest, Origin, Turned};
use super::refused::Refused;
use super::{BulkEvent, BulkRequest, Cores};

/// Whoever has not finished its hello by then is turned away.
const HELLO_DEADLINE: Duration = Duration::from_secs(2);

/// Most accepted connections without a finished hello; one more, and the oldest is closed. A peer
/// says its hello at once, so it is never the oldest for long.
const HALF_OPEN_MAX: usize = 64;

/// Most connections accepted before those that are there are served again.
const ACCEPTS_MAX: usize = 16;

/// A failed accept (no descriptor left) is tried again after this.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// Places in the list of what is polled.
const WAKE: usize = 0;
const LISTENER: usize = 1;
const GUESTS: usize = 2;

/// Where connections are until their hellos are exchanged.
#[derive(Debug)]
pub(super) struct Lobby {
    pub(super) hello: Hello,
    pub(super) peers: BTreeMap<NodeId, SocketAddr>,
    pub(super) listener: TcpListener,
    pub(super) cores: Cores,
    pub(super) refused: Arc<Refused>,
    /// What the cores ask for; those who ask write to `wake` afterwards.
    pub(super) requests: Receiver<(u16, BulkRequest)>,
    /// Where requests for segments are passed on to.
    pub(super) segments: Sender<(u16, u32)>,
    /// Disconnected once the lane stops; whoever stops it writes to `wake` afterwards.
    pub(super) running: Receiver<()>,
    pub(super) wake: Arc<OwnedFd>,
    /// In the order in which they came.
    pub(super) guests: Vec<Guest>,
    /// Nothing is accepted before.
    pub(super) accept_at: Option<Instant>,
}

impl Lobby {
    /// Serves until the lane stops. Whoever is inside then is sent away.
    pub(super) fn run(mut self) {
        let mut ready = Vec::new();
        while self.running.try_recv() != Err(TryRecvError::Disconnected) {
            self.wait(&mut ready);
            if ready[WAKE] {
                // Read for the next time; what was asked for is in the channel.
                let _ = rustix::io::read(&*self.wake, &mut [0; 8]);
                self.take_requests();
            }
            self.serve_guests(&ready[GUESTS..]);
            if ready[LISTENER] {
                self.accept();
            }
            self.send_away_late_guests();
        }
    }

    /// Waits until something can be done, and says of each thing that is waited for whether it is.
    fn wait(&self, ready: &mut Vec<bool>) {
        let now = Instant::now();
        let accepts = self.accept_at.is_none_or(|at| at <= now);
        let mut polled = vec![
            PollFd::new(&*self.wake, PollFlags::IN),
            PollFd::new(
                &self.listener,
                if accepts {
                    PollFlags::IN
                } else {
                    PollFlags::empty()
                },
            ),
        ];
        polled.extend(self.guests.iter().map(|guest| {
            let (stream, event) = guest.waits_for();
            PollFd::new(stream, event)
        }));
        let deadlines = self.guests.iter().map(|guest| guest.deadline);
        let deadline = deadlines.chain(self.accept_at.filter(|_| !accepts)).min();
        let limit = deadline.map(|deadline| {
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
                BulkRequest::Dial { peer } => self.dial(core, peer),
                BulkRequest::Prepare { slot } => {
                    // The other end lives until this one is dropped.
                    let _ = self.segments.send((core, slot));
                }
            }
        }
    }

    fn dial(&mut self, core: u16, peer: NodeId) {
        let Some(&address) = self.peers.get(&peer) else {
            tracing::warn!(%peer, "a peer without an address can't be reached; configure one");
            self.cores.tell(core, BulkEvent::DialFailed { peer });
            return;
        };
        let ours = Hello {
            core,
            expected_peer: peer.0,
            ..self.hello
        };
        match Guest::dialled(peer, address, ours, Instant::now() + HELLO_DEADLINE) {
            Ok(guest) => self.guests.push(guest),
            Err(error) => {
                tracing::info!(%peer, %address, %error, "a peer was not reached");
                self.cores.tell(core, BulkEvent::DialFailed { peer });
            }
        }
    }

    fn accept(&mut self) {
        self.accept_at = None;
        for _ in 0..ACCEPTS_MAX {
            let (stream, address) = match self.listener.accept() {
                Ok(accepted) => accepted,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                // It was gone before it was accepted, or a signal came.
                Err(error)
                    if matches!(
                        error.kind(),
                        ErrorKind::ConnectionAborted | ErrorKind::Interrupted
                    ) =>
                {
                    continue;
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    self.accept_at = Some(Instant::now() + ACCEPT_AGAIN);
                    return;
                }
            };
            let known = self.peers.keys().map(|peer| peer.0).collect();
            let deadline = Instant::now() + HELLO_DEADLINE;
            match Guest::accepted(stream, address, self.hello, known, deadline) {
                Ok(guest) => {
                    self.make_room();
                    self.guests.push(guest);
                }
                Err(error) => tracing::warn!(%address, %error, "a connection was lost"),
            }
        }
    }

    fn make_room(&mut self) {
        let accepted = |guest: &Guest| guest.origin == Origin::Accepted;
        let count = self.guests.iter().filter(|guest| accepted(guest)).count();
        if count >= HALF_OPEN_MAX {
            let oldest = self.guests.iter().position(accepted);
            let oldest = self.guests.remove(oldest.expect("there are many"));
            self.turn_away(&oldest, &Turned::Crowded);
        }
    }

    /// Those whom `ready` names, by their places.
    fn serve_guests(&mut self, ready: &[bool]) {
        // From behind, so that the places before stay what they are when one is removed.
        for place in (0..ready.len()).rev().filter(|place| ready[*place]) {
            match self.guests[place].advance() {
                Ok(None) => {}
                Ok(Some((core, peer))) => {
                    let guest = self.guests.remove(place);
                    self.hand_over(guest, core, peer);
                }
                Err(error) => {
                    let guest = self.guests.remove(place);
                    self.turn_away(&guest, &error);
                }
            }
        }
    }

    fn hand_over(&self, guest: Guest, core: u16, peer: NodeId) {
        let (origin, address) = (guest.origin, guest.address);
        match guest.into_stream() {
            Ok(stream) => self.cores.tell(core, BulkEvent::Connected { peer, stream }),
            Err(error) => {
                tracing::warn!(%address, %error, "a connection was lost");
                self.tell_dialler(origin);
            }
        }
    }

    fn send_away_late_guests(&mut self) {
        let now = Instant::now();
        while let Some(place) = self.guests.iter().position(|guest| guest.deadline <= now) {
            let guest = self.guests.remove(place);
            self.turn_away(&guest, &Turned::Late);
        }
    }

    fn turn_away(&self, guest: &Guest, error: &Turned) {
        let address = guest.address;
        match (guest.origin, error) {
            // That a peer is down is no refusal.
            (Origin::Dialled { peer, .. }, Turned::Network(_) | Turned::Late) => {
                tracing::info!(%peer, %address, %error, "a peer was not reached");
            }
            (Origin::Dialled { peer, .. }, _) => {
                self.refused.count(error.reason());
                tracing::warn!(%peer, %address, %error, "a dial was in vain");
            }
            (Origin::Accepted, _) => {
                self.refused.count(error.reason());
                tracing::warn!(%address, %error, "a connection was refused");
            }
        }
        self.tell_dialler(guest.origin);
    }

    fn tell_dialler(&self, origin: Origin) {
        if let Origin::Dialled { core, peer } = origin {
            self.cores.tell(core, BulkEvent::DialFailed { peer });
        }
    }
}

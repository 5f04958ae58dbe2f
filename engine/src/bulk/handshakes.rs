//! Handshakes of dialled and accepted connections, bounded in number, bytes and time.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use pontoon_raft::{NodeId, Time};
use pontoon_transport::Hello;
use rustix::event::{PollFd, PollFlags};

use super::handshake::{HandshakeError, HelloExchange, Origin};
use super::pending::PendingConnection;
use super::refused::Refused;
use super::turnstile::Turnstile;
use super::{BulkEvent, Cores};
use crate::rate_limited::RateLimited;

/// Most accepted connections that have said nothing, and as many that have said a good hello and
/// nothing after it. A peer says its hello as soon as it is connected, and the rest a round trip
/// later, which may be long: so places are its own that silent ones, however many, can't take.
const HALF_OPEN_MAX: usize = 64;

/// Most connections accepted before pending ones are served again.
const ACCEPTS_MAX: usize = 16;

/// A failed accept (no descriptor left) is tried again after this.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// All connections until their hellos are exchanged.
#[derive(Debug)]
pub(super) struct Handshakes {
    pub(super) hello: Hello,
    pub(super) peers: BTreeMap<NodeId, SocketAddr>,
    pub(super) listener: TcpListener,
    pub(super) cores: Cores,
    pub(super) refused: Arc<Refused>,
    /// A handshake that takes longer is rejected.
    pub(super) hello_deadline: Duration,
    pub(super) turnstile: Turnstile,
    /// Oldest first.
    pub(super) pending: Vec<PendingConnection>,
    /// Nothing is accepted before.
    pub(super) accept_at: Option<Instant>,
    pub(super) lines: RateLimited,
    /// Time 0 of `lines`.
    pub(super) started: Instant,
}

/// Shut down by name: a child that another thread has forked holds it open until it executes its
/// program, and a start that follows at once would find the address in use.
impl Drop for Handshakes {
    fn drop(&mut self) {
        // It is closed in any case.
        let _ = rustix::net::shutdown(&self.listener, rustix::net::Shutdown::Both);
    }
}

impl Handshakes {
    fn accepts(&self, now: Instant) -> bool {
        self.accept_at.is_none_or(|at| at <= now)
    }

    /// Adds the listener, then the pending connections in order.
    pub(super) fn add_sources<'a>(&'a self, now: Instant, polled: &mut Vec<PollFd<'a>>) {
        let event = if self.accepts(now) {
            PollFlags::IN
        } else {
            PollFlags::empty()
        };
        polled.push(PollFd::new(&self.listener, event));
        polled.extend(self.pending.iter().map(|connection| {
            let (stream, event) = connection.polled();
            PollFd::new(stream, event)
        }));
    }

    /// When something must be done although no source is ready.
    pub(super) fn next_deadline(&self, now: Instant) -> Option<Instant> {
        let deadlines = self.pending.iter().map(PendingConnection::next_deadline);
        let accepts = self.accepts(now);
        deadlines.chain(self.accept_at.filter(|_| !accepts)).min()
    }

    /// Begins to connect this core to a peer.
    pub(super) fn dial(&mut self, core: u16, peer: NodeId) {
        let Some(&address) = self.peers.get(&peer) else {
            tracing::warn!("node {peer} has no address and can't be reached; configure one");
            self.cores.tell(core, BulkEvent::DialFailed { peer });
            return;
        };
        let ours = Hello {
            core,
            expected_peer: peer.0,
            ..self.hello
        };
        match PendingConnection::dialled(address, ours, Instant::now() + self.hello_deadline) {
            Ok(connection) => self.pending.push(connection),
            Err(error) => {
                tracing::debug!(%address, %error, "node {peer} was not reached");
                self.cores.tell(core, BulkEvent::DialFailed { peer });
            }
        }
    }

    /// Accepts the connections that wait, up to a bound.
    pub(super) fn accept(&mut self) {
        self.accept_at = None;
        for _ in 0..ACCEPTS_MAX {
            match self.listener.accept() {
                Ok((stream, address)) => self.add_accepted(stream, address),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                // It was gone before it was accepted, or a signal came.
                Err(error)
                    if matches!(
                        error.kind(),
                        ErrorKind::ConnectionAborted | ErrorKind::Interrupted
                    ) => {}
                Err(error) => {
                    let now = Instant::now();
                    if let Some(suppressed) = self.admit_line("accept_failed") {
                        tracing::warn!(%error, suppressed, "a connection could not be accepted");
                    }
                    self.accept_at = Some(now + ACCEPT_AGAIN);
                    return;
                }
            }
        }
    }

    fn add_accepted(&mut self, stream: TcpStream, address: SocketAddr) {
        let known = self.peers.keys().map(|peer| peer.0).collect();
        let exchange = HelloExchange::accept(self.hello, known);
        let deadline = Instant::now() + self.hello_deadline;
        match PendingConnection::accepted(stream, address, exchange, deadline) {
            Ok(connection) => self.pending.push(connection),
            Err(error) => tracing::debug!(%address, %error, "a connection was lost"),
        }
    }

    /// Closes the accepted connections that are too many.
    pub(super) fn thin_out(&mut self) {
        while let Some(position) = self.one_too_many() {
            let connection = self.pending.remove(position);
            self.reject(&connection, &HandshakeError::Crowded);
        }
    }

    /// The oldest of those that have said nothing. Of those that have said a hello, whoever comes
    /// from elsewhere than the peer that it names; then those of the peer that most have named.
    fn one_too_many(&self) -> Option<usize> {
        if self.pending.len() <= HALF_OPEN_MAX {
            return None;
        }
        let accepted = |(_, each): &(usize, &PendingConnection)| each.origin() == Origin::Accepted;
        let accepted = self.pending.iter().enumerate().filter(accepted);
        let (greeted, silent): (Vec<_>, Vec<_>) =
            accepted.partition(|(_, each)| each.named().is_some());
        if silent.len() > HALF_OPEN_MAX {
            return Some(silent[0].0);
        }
        if greeted.len() <= HALF_OPEN_MAX {
            return None;
        }
        let worth_less = |(_, each): &&(usize, &PendingConnection)| {
            let peer = each.named().expect("it has said a hello");
            let same = greeted.iter().filter(|(_, other)| other.named() == Some(peer));
            (!self.is_at_home(peer, each.address), same.count())
        };
        // Of equals the last is taken: from the end, the oldest.
        let worst = greeted.iter().rev().max_by_key(worth_less);
        worst.map(|(position, _)| *position)
    }

    /// Whether an address is where the configuration has the peer. Strangers elsewhere may name it,
    /// but can't be there.
    fn is_at_home(&self, peer: NodeId, address: SocketAddr) -> bool {
        let home = self.peers.get(&peer).map(|home| home.ip().to_canonical());
        home == Some(address.ip().to_canonical())
    }

    /// Advances the pending connections that `ready` marks, by position, and those that are due.
    pub(super) fn advance(&mut self, ready: &[bool]) {
        let now = Instant::now();
        // From the end, so that a removal moves only positions that are done.
        for position in (0..ready.len()).rev() {
            if !ready[position] && !self.pending[position].is_due(now) {
                continue;
            }
            match self.pending[position].advance(now) {
                Ok(None) => {}
                Ok(Some((core, peer))) => {
                    let connection = self.pending.remove(position);
                    self.hand_over(connection, core, peer);
                }
                Err(error) => {
                    let connection = self.pending.remove(position);
                    self.reject(&connection, &error);
                }
            }
        }
    }

    fn hand_over(&mut self, connection: PendingConnection, core: u16, peer: NodeId) {
        let (origin, address) = (connection.origin(), connection.address);
        if origin == Origin::Accepted && !self.cores.takes_connections(core) {
            return self.reject(&connection, &HandshakeError::CoreBusy);
        }
        let who = (core, peer, self.is_at_home(peer, address));
        if origin == Origin::Accepted && !self.turnstile.lets_in(who, Instant::now()) {
            return self.reject(&connection, &HandshakeError::TooOften);
        }
        match connection.into_stream(self.hello_deadline) {
            Ok(stream) => {
                let how = match origin {
                    Origin::Accepted => "accepted",
                    Origin::Dialled { .. } => "dialled",
                };
                tracing::debug!(%address, core, "{how} a connection with node {peer}");
                self.cores.tell(core, BulkEvent::Connected { peer, stream });
            }
            Err(error) => {
                tracing::debug!(%address, %error, "a connection was lost");
                self.tell_dialler(origin);
            }
        }
    }

    /// Closes the connections whose hellos are late.
    pub(super) fn expire_handshakes(&mut self) {
        let now = Instant::now();
        let late = |connection: &PendingConnection| connection.deadline <= now;
        while let Some(position) = self.pending.iter().position(late) {
            let connection = self.pending.remove(position);
            self.reject(&connection, &HandshakeError::Late);
        }
    }

    /// Counts and logs why a connection is closed, and tells the core that dialled it.
    fn reject(&mut self, connection: &PendingConnection, error: &HandshakeError) {
        let (origin, address) = (connection.origin(), connection.address);
        let reason = error.label();
        match (origin, error) {
            // A peer that is down has refused nothing.
            (Origin::Dialled { peer, .. }, HandshakeError::Network(_) | HandshakeError::Late) => {
                tracing::debug!(%address, %error, "node {peer} was not reached");
            }
            _ => {
                self.refused.count(reason);
                if let Some(suppressed) = self.admit_line(reason) {
                    log_refusal(origin, address, error, suppressed);
                }
            }
        }
        self.tell_dialler(origin);
    }

    fn admit_line(&mut self, reason: &'static str) -> Option<u64> {
        let now = self.started.elapsed().as_nanos();
        let now = Time(u64::try_from(now).expect("no process runs for centuries"));
        self.lines.admit(reason, now)
    }

    fn tell_dialler(&self, origin: Origin) {
        if let Origin::Dialled { core, peer } = origin {
            self.cores.tell(core, BulkEvent::DialFailed { peer });
        }
    }
}

/// `suppressed` lines with the same reason were left out before this one.
fn log_refusal(origin: Origin, address: SocketAddr, error: &HandshakeError, suppressed: u64) {
    let reason = error.label();
    match origin {
        Origin::Dialled { peer, .. } => {
            tracing::warn!(%address, reason, suppressed, "no connection to node {peer}: {error}");
        }
        Origin::Accepted => {
            tracing::warn!(%address, reason, suppressed, "a connection was refused: {error}");
        }
    }
}

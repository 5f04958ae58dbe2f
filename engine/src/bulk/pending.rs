//! A connection whose hellos are not exchanged yet: the socket of a [`HelloExchange`], never
//! waited for.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use pontoon_raft::NodeId;
use pontoon_transport::{FRAME_HEADER_BYTES, Hello};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType};

use super::handshake::{Established, HandshakeError, HelloExchange, Origin, State};

/// Sent bytes that stay unacknowledged for this long break the connection; longer over ways that
/// are configured to be long.
///
/// Left to itself TCP tries for a quarter of an hour, at intervals that double: after the network
/// is whole again, the peer would stay unheard for about as long as it had been cut off.
const UNACKNOWLEDGED_MIN: Duration = Duration::from_secs(5);

/// A connection on which nothing was said for this long is asked whether it is still there, and so
/// often again.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(2);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(1);

/// A first frame that has begun, and not come as far as it is to be looked at, is looked at again
/// after this. poll(2) would say at once, and again and again, that there is something to read.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// One such connection. Its socket never blocks.
#[derive(Debug)]
pub(super) struct PendingConnection {
    pub(super) address: SocketAddr,
    pub(super) deadline: Instant,
    look_at: Option<Instant>,
    stream: TcpStream,
    exchange: HelloExchange,
}

impl PendingConnection {
    /// A connection that was accepted; the other end sends its hello first.
    pub(super) fn accepted(
        stream: TcpStream,
        address: SocketAddr,
        exchange: HelloExchange,
        deadline: Instant,
    ) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Self {
            address,
            deadline,
            look_at: None,
            stream,
            exchange,
        })
    }

    /// Begins to connect to the peer that `ours` expects; this end sends its hello first.
    pub(super) fn dialled(address: SocketAddr, ours: Hello, deadline: Instant) -> io::Result<Self> {
        let family = match address {
            SocketAddr::V4(_) => AddressFamily::INET,
            SocketAddr::V6(_) => AddressFamily::INET6,
        };
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
        match rustix::net::connect(&socket, &address) {
            Ok(()) | Err(Errno::INPROGRESS | Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        Ok(Self {
            address,
            deadline,
            look_at: None,
            stream: TcpStream::from(socket),
            exchange: HelloExchange::dial(ours),
        })
    }

    /// Who began the connection.
    pub(super) fn origin(&self) -> Origin {
        self.exchange.origin
    }

    /// The peer whose good hello has come, on a connection that was accepted.
    pub(super) fn named(&self) -> Option<NodeId> {
        self.exchange.named()
    }

    /// When something is to be done although nothing happens on it.
    pub(super) fn next_deadline(&self) -> Instant {
        self.look_at.map_or(self.deadline, |at| at.min(self.deadline))
    }

    /// Whether it is to be looked at although nothing has happened on it.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.look_at.is_some_and(|at| at <= now)
    }

    /// The socket, and the event to poll for before [`advance`](Self::advance).
    pub(super) fn polled(&self) -> (&TcpStream, PollFlags) {
        let event = match self.exchange.state {
            State::ReceivingFrame if self.look_at.is_some() => PollFlags::RDHUP,
            State::Connecting | State::SendingHello => PollFlags::OUT,
            State::ReceivingHello | State::ReceivingFrame => PollFlags::IN,
        };
        (&self.stream, event)
    }

    /// Goes as far as it can without waiting. Gives core and peer once both hellos are exchanged.
    pub(super) fn advance(&mut self, now: Instant) -> Result<Option<Established>, HandshakeError> {
        loop {
            match self.step(now) {
                Ok(Some(established)) => return Ok(Some(established)),
                Ok(None) => {}
                // After a signal, poll(2) finds the socket as ready as it was.
                Err(HandshakeError::Network(error))
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) =>
                {
                    return Ok(None);
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn step(&mut self, now: Instant) -> Result<Option<Established>, HandshakeError> {
        match self.exchange.state {
            State::Connecting => {
                if let Some(error) = self.stream.take_error()? {
                    return Err(error.into());
                }
                self.exchange.on_connected();
                Ok(None)
            }
            State::SendingHello => {
                let count = self.stream.write(&self.exchange.unsent())?;
                self.exchange.on_sent(count);
                Ok(None)
            }
            State::ReceivingHello => {
                let count = self.stream.read(self.exchange.unreceived())?;
                self.exchange.on_received(count)
            }
            // Looked at, not taken: it is for the core.
            State::ReceivingFrame => {
                let mut header = [0; FRAME_HEADER_BYTES];
                let count = self.stream.peek(&mut header)?;
                if (1..FRAME_HEADER_BYTES).contains(&count) && !self.is_shut() {
                    self.look_at = Some(now + LOOK_AGAIN);
                    return Err(io::Error::from(ErrorKind::WouldBlock).into());
                }
                self.exchange.on_frame(&header[..count]).map(Some)
            }
        }
    }

    /// Whether nothing more will come from the other end.
    fn is_shut(&self) -> bool {
        let polled = &mut [PollFd::new(&self.stream, PollFlags::RDHUP)];
        poll(polled, Some(&Timespec::default())).is_ok_and(|count| count > 0)
    }

    /// Makes the socket ready for a ring: blocking, without delay for small frames, and broken by
    /// itself when the other end does not acknowledge.
    pub(super) fn into_stream(self, patience: Duration) -> io::Result<TcpStream> {
        self.stream.set_nonblocking(false)?;
        self.stream.set_nodelay(true)?;
        let unacknowledged = patience.max(UNACKNOWLEDGED_MIN).as_millis();
        let unacknowledged = u32::try_from(unacknowledged).unwrap_or(u32::MAX);
        rustix::net::sockopt::set_tcp_user_timeout(&self.stream, unacknowledged)?;
        // Two followers may have nothing to say to each other until their leader is gone.
        rustix::net::sockopt::set_socket_keepalive(&self.stream, true)?;
        rustix::net::sockopt::set_tcp_keepidle(&self.stream, KEEPALIVE_IDLE)?;
        rustix::net::sockopt::set_tcp_keepintvl(&self.stream, KEEPALIVE_INTERVAL)?;
        Ok(self.stream)
    }
}

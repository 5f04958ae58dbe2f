//! A connection whose hellos are not exchanged yet: dialled or accepted, never waited for.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Instant;

use pontoon_raft::NodeId;
use pontoon_transport::{HELLO_BYTES, Handshake, Hello, HelloError, Purpose};
use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType};

/// A connection on which nothing of what was sent arrives for this long is broken, in milliseconds.
///
/// Left to itself TCP tries for a quarter of an hour, at intervals that double: when the network
/// is whole again, the peer stays unheard for about as long as it had been cut off.
const SILENCE_MAX_MS: u32 = 5_000;

/// Who began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// The other end did.
    Accepted,
    /// This core of ours did, to reach a peer.
    Dialled { core: u16, peer: NodeId },
}

/// What a guest does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Connects,
    /// Sends its own hello.
    Speaks,
    /// Receives the other's.
    Listens,
}

/// Why no connection came about.
#[derive(Debug, thiserror::Error)]
pub(super) enum Turned {
    /// The hello was not acceptable.
    #[error(transparent)]
    Down(#[from] HelloError),
    /// The other end closed before it had said all.
    #[error("closed in the middle of the hello; the other end's log may say why")]
    Incomplete,
    /// There was no whole hello in time.
    #[error("no hello in time")]
    Late,
    /// It was the oldest of too many.
    #[error("too many connections without a hello")]
    Crowded,
    /// The network failed.
    #[error("no hello was exchanged: {0}")]
    Network(#[from] io::Error),
}

impl Turned {
    /// A short label to count this under.
    pub(super) fn reason(&self) -> &'static str {
        match self {
            Self::Down(error) => error.label(),
            Self::Incomplete | Self::Network(_) => "hello_incomplete",
            Self::Late => "hello_deadline",
            Self::Crowded => "half_open",
        }
    }
}

/// One such connection. Its socket never blocks.
#[derive(Debug)]
pub(super) struct Guest {
    pub(super) origin: Origin,
    pub(super) address: SocketAddr,
    pub(super) deadline: Instant,
    stream: TcpStream,
    handshake: Handshake,
    stage: Stage,
    /// What we say; to whoever has connected to us, once it is known who that is.
    ours: Hello,
    sent: usize,
    theirs: [u8; HELLO_BYTES],
    received: usize,
}

impl Guest {
    /// Somebody who has connected to us, and speaks first.
    pub(super) fn accepted(
        stream: TcpStream,
        address: SocketAddr,
        ours: Hello,
        known_peers: Vec<u64>,
        deadline: Instant,
    ) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Self {
            origin: Origin::Accepted,
            address,
            deadline,
            stream,
            handshake: Handshake::accept(ours, known_peers, &[Purpose::Replication]),
            stage: Stage::Listens,
            ours,
            sent: 0,
            theirs: [0; HELLO_BYTES],
            received: 0,
        })
    }

    /// Begins to connect to a peer, to whom we speak first.
    pub(super) fn dialled(
        peer: NodeId,
        address: SocketAddr,
        ours: Hello,
        deadline: Instant,
    ) -> io::Result<Self> {
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
        let core = ours.core;
        Ok(Self {
            origin: Origin::Dialled { core, peer },
            address,
            deadline,
            stream: TcpStream::from(socket),
            handshake: Handshake::dial(ours),
            stage: Stage::Connects,
            ours,
            sent: 0,
            theirs: [0; HELLO_BYTES],
            received: 0,
        })
    }

    /// The socket, and what must become possible on it before [`advance`](Self::advance).
    pub(super) fn waits_for(&self) -> (&TcpStream, PollFlags) {
        let event = match self.stage {
            Stage::Connects | Stage::Speaks => PollFlags::OUT,
            Stage::Listens => PollFlags::IN,
        };
        (&self.stream, event)
    }

    /// Goes as far as it can without waiting. Gives core and peer once both hellos are exchanged.
    pub(super) fn advance(&mut self) -> Result<Option<(u16, NodeId)>, Turned> {
        loop {
            let moved = match self.stage {
                Stage::Connects => self.connects(),
                Stage::Speaks => self.speaks(),
                Stage::Listens => self.listens(),
            };
            match moved {
                Ok(Some(accepted)) => return Ok(Some(accepted)),
                Ok(None) => {}
                // After a signal, poll(2) finds the socket as ready as it was.
                Err(Turned::Network(error))
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) =>
                {
                    return Ok(None);
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn connects(&mut self) -> Result<Option<(u16, NodeId)>, Turned> {
        if let Some(error) = self.stream.take_error()? {
            return Err(error.into());
        }
        self.stage = Stage::Speaks;
        Ok(None)
    }

    fn speaks(&mut self) -> Result<Option<(u16, NodeId)>, Turned> {
        let bytes = self.ours.encode();
        self.sent += self.stream.write(&bytes[self.sent..])?;
        if self.sent < HELLO_BYTES {
            return Ok(None);
        }
        if self.origin == Origin::Accepted {
            return Ok(Some((self.ours.core, NodeId(self.ours.expected_peer))));
        }
        self.stage = Stage::Listens;
        Ok(None)
    }

    /// Receives never a byte more than the hello: the first frame is for the core.
    fn listens(&mut self) -> Result<Option<(u16, NodeId)>, Turned> {
        let count = self.stream.read(&mut self.theirs[self.received..])?;
        if count == 0 {
            return Err(Turned::Incomplete);
        }
        self.received += count;
        Hello::check_prefix(&self.theirs[..self.received])?;
        if self.received < HELLO_BYTES {
            return Ok(None);
        }
        let agreed = self.handshake.receive(&self.theirs)?;
        if let Origin::Dialled { core, peer } = self.origin {
            return Ok(Some((core, peer)));
        }
        self.ours = self.handshake.answer(&agreed);
        self.stage = Stage::Speaks;
        Ok(None)
    }

    /// Makes the socket what a ring wants: blocking, and small frames leave at once. It fails by
    /// itself when the other end does not answer.
    pub(super) fn into_stream(self) -> io::Result<TcpStream> {
        self.stream.set_nonblocking(false)?;
        self.stream.set_nodelay(true)?;
        rustix::net::sockopt::set_tcp_user_timeout(&self.stream, SILENCE_MAX_MS)?;
        Ok(self.stream)
    }
}

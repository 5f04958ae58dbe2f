//! The exchange of hellos on one connection, without its socket.

use std::io;

use pontoon_raft::NodeId;
use pontoon_transport::{
    ConnectionError, HELLO_BYTES, Handshake, Hello, HelloError, Purpose, check_first_header,
};

/// What this node serves on connections that it accepts.
const SERVED: &[Purpose] = &[Purpose::Replication];

/// Who began the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// The other end did.
    Accepted,
    /// This core did, to reach a peer.
    Dialled { core: u16, peer: NodeId },
}

/// What the exchange needs next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// The TCP connection is being made.
    Connecting,
    SendingHello,
    ReceivingHello,
    /// The hellos are exchanged; the other end, which dialled, has still to begin a frame.
    ReceivingFrame,
}

/// Why a connection did not get as far as its first frame.
#[derive(Debug, thiserror::Error)]
pub(super) enum HandshakeError {
    /// The hello was not acceptable.
    #[error(transparent)]
    Refused(#[from] HelloError),
    /// The other end closed before its hello was complete.
    #[error("closed in the middle of the hello; the other end's log may say why")]
    Incomplete,
    /// There was no whole hello in time.
    #[error("no hello in time")]
    Late,
    /// What followed the hellos was no frame.
    #[error("the first frame was refused: {0}")]
    FirstFrame(ConnectionError),
    /// It was one of too many.
    #[error("too many connections that have said no hello, or nothing after it")]
    Crowded,
    /// The same peer has connected too often within a second.
    #[error("too many connections of the same peer")]
    TooOften,
    /// The core has not taken the connections that came before.
    #[error("too many connections wait for the core")]
    CoreBusy,
    /// The network failed.
    #[error("no hello was exchanged: {0}")]
    Network(#[from] io::Error),
}

impl HandshakeError {
    /// The reason as a short label in `snake_case`, for counts and log lines.
    pub(super) fn label(&self) -> &'static str {
        match self {
            Self::Refused(error) => error.label(),
            Self::Incomplete | Self::Network(_) => "hello_incomplete",
            Self::FirstFrame(error) => error.label(),
            Self::Late => "hello_deadline",
            Self::Crowded => "half_open",
            Self::TooOften => "hello_rate",
            Self::CoreBusy => "core_busy",
        }
    }
}

/// The core and the peer of a connection whose hellos are exchanged.
pub(super) type Established = (u16, NodeId);

/// One exchange: the dialling side sends first, the accepting side answers.
#[derive(Debug)]
pub(super) struct HelloExchange {
    pub(super) origin: Origin,
    pub(super) state: State,
    handshake: Handshake,
    /// Our hello. The accepting side completes it once it knows the peer.
    ours: Hello,
    sent: usize,
    theirs: [u8; HELLO_BYTES],
    received: usize,
}

impl HelloExchange {
    /// The exchange with a peer that has connected to us.
    pub(super) fn accept(ours: Hello, known_peers: Vec<u64>) -> Self {
        let handshake = Handshake::accept(ours, known_peers, SERVED);
        Self::new(Origin::Accepted, State::ReceivingHello, handshake, ours)
    }

    /// The exchange with a peer that we connect to: `ours.expected_peer`, for `ours.core`.
    pub(super) fn dial(ours: Hello) -> Self {
        let origin = Origin::Dialled {
            core: ours.core,
            peer: NodeId(ours.expected_peer),
        };
        Self::new(origin, State::Connecting, Handshake::dial(ours), ours)
    }

    fn new(origin: Origin, state: State, handshake: Handshake, ours: Hello) -> Self {
        Self {
            origin,
            state,
            handshake,
            ours,
            sent: 0,
            theirs: [0; HELLO_BYTES],
            received: 0,
        }
    }

    /// The TCP connection is made.
    pub(super) fn on_connected(&mut self) {
        self.state = State::SendingHello;
    }

    /// The bytes still to be sent.
    pub(super) fn unsent(&self) -> Vec<u8> {
        self.ours.encode()[self.sent..].to_vec()
    }

    /// So many bytes were sent.
    pub(super) fn on_sent(&mut self, count: usize) {
        self.sent += count;
        if self.sent == HELLO_BYTES {
            self.state = match self.origin {
                Origin::Accepted => State::ReceivingFrame,
                Origin::Dialled { .. } => State::ReceivingHello,
            };
        }
    }

    /// The peer whose good hello has come, on a connection that was accepted.
    pub(super) fn named(&self) -> Option<NodeId> {
        let greeted = matches!(self.state, State::SendingHello | State::ReceivingFrame);
        let greeted = greeted && self.origin == Origin::Accepted;
        greeted.then_some(NodeId(self.ours.expected_peer))
    }

    /// The header of the first frame has come, or as much of it as there will ever be. A hello
    /// alone is cheap: whoever goes on with anything else is as half-open as one that says nothing.
    ///
    /// # Errors
    /// If it is no header of a first frame.
    pub(super) fn on_frame(&self, header: &[u8]) -> Result<Established, HandshakeError> {
        let header = header.try_into().map_err(|_| HandshakeError::Incomplete)?;
        check_first_header(header, self.ours.frame_bytes_max).map_err(HandshakeError::FirstFrame)?;
        Ok((self.ours.core, NodeId(self.ours.expected_peer)))
    }

    /// Where to receive: never a byte more than the hello, since the first frame is for the core.
    pub(super) fn unreceived(&mut self) -> &mut [u8] {
        &mut self.theirs[self.received..]
    }

    /// So many bytes were received; 0 if the other end has closed.
    ///
    /// # Errors
    /// If the connection must be closed. Another protocol is found out by its first bytes.
    pub(super) fn on_received(
        &mut self,
        count: usize,
    ) -> Result<Option<Established>, HandshakeError> {
        if count == 0 {
            return Err(HandshakeError::Incomplete);
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
        self.state = State::SendingHello;
        Ok(None)
    }
}

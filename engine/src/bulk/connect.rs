//! Strangers become peers here, or are turned away: bounded in number, bytes and time.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use pontoon_core::NodeId;
use pontoon_transport::{HELLO_BYTES, Handshake, Hello, HelloError};
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};

use super::refused::Refused;
use super::{BulkEvent, Cores};

/// Whoever has not finished its hello by then is turned away.
const HELLO_DEADLINE: Duration = Duration::from_secs(2);

/// Most connections without a finished hello; more are closed at once.
const HALF_OPEN_MAX: usize = 64;

/// A failed accept (no descriptor left) is tried again after this.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// Where connections are until their hellos are exchanged.
#[derive(Debug)]
pub(super) struct Lobby {
    hello: Hello,
    peers: BTreeMap<NodeId, SocketAddr>,
    cores: Cores,
    pub(super) refused: Refused,
    /// Readable once the lane stops.
    closing: std::os::fd::OwnedFd,
    guests: Mutex<Guests>,
    one_left: Condvar,
}

/// The connections in the lobby. A dial that is not connected yet has no stream.
#[derive(Debug, Default)]
struct Guests {
    streams: BTreeMap<u64, Option<TcpStream>>,
    next: u64,
    closed: bool,
}

impl Lobby {
    pub(super) fn new(
        hello: Hello,
        peers: BTreeMap<NodeId, SocketAddr>,
        cores: Cores,
    ) -> io::Result<Self> {
        Ok(Self {
            hello,
            peers,
            cores,
            refused: Refused::default(),
            closing: eventfd(0, EventfdFlags::CLOEXEC)?,
            guests: Mutex::default(),
            one_left: Condvar::new(),
        })
    }

    fn guests(&self) -> MutexGuard<'_, Guests> {
        self.guests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets one in, unless the lobby is full or closed.
    fn enter(&self) -> Option<u64> {
        let mut guests = self.guests();
        if guests.closed || guests.streams.len() >= HALF_OPEN_MAX {
            return None;
        }
        let number = guests.next;
        guests.next += 1;
        guests.streams.insert(number, None);
        Some(number)
    }

    /// Remembers the stream, so that closing the lobby ends what waits on it.
    fn sit_down(&self, number: u64, stream: &TcpStream) -> io::Result<()> {
        let stream = stream.try_clone()?;
        let mut guests = self.guests();
        if guests.closed {
            return Err(ErrorKind::ConnectionAborted.into());
        }
        guests.streams.insert(number, Some(stream));
        Ok(())
    }

    fn leave(&self, number: u64) {
        self.guests().streams.remove(&number);
        self.one_left.notify_all();
    }

    /// Nobody comes in any more, and whoever is inside is sent away.
    pub(super) fn close(&self) {
        let mut guests = self.guests();
        guests.closed = true;
        for stream in guests.streams.values().flatten() {
            let _ = stream.shutdown(Shutdown::Both);
        }
        drop(guests);
        // Wakes the listener for good: nobody reads the counter.
        let _ = rustix::io::write(&self.closing, &1_u64.to_ne_bytes());
    }

    pub(super) fn wait_until_empty(&self) {
        let mut guests = self.guests();
        while !guests.streams.is_empty() {
            guests = self
                .one_left
                .wait(guests)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn hello_of(&self, core: u16, peer: NodeId) -> Hello {
        Hello {
            core,
            expected_peer: peer.0,
            ..self.hello
        }
    }
}

/// Accepts until the lobby closes.
pub(super) fn listen(lobby: &Arc<Lobby>, listener: &TcpListener) {
    loop {
        let mut sources = [
            PollFd::new(listener, PollFlags::IN),
            PollFd::new(&lobby.closing, PollFlags::IN),
        ];
        if poll(&mut sources, None).is_err() {
            continue;
        }
        if !sources[1].revents().is_empty() {
            return;
        }
        match listener.accept() {
            Ok((stream, address)) => receive_guest(lobby, stream, address),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                let mut closing = [PollFd::new(&lobby.closing, PollFlags::IN)];
                let pause = ACCEPT_AGAIN.try_into().ok();
                let _ = poll(&mut closing, pause.as_ref());
            }
        }
    }
}

fn receive_guest(lobby: &Arc<Lobby>, stream: TcpStream, address: SocketAddr) {
    let Some(number) = lobby.enter() else {
        lobby.refused.count("half_open");
        return;
    };
    let lobby_of_thread = Arc::clone(lobby);
    let spawned = thread("pontoon-accept", move || {
        let lobby = lobby_of_thread;
        match greet(&lobby, number, stream) {
            Ok((core, peer, stream)) => {
                lobby
                    .cores
                    .tell(core, BulkEvent::Connected { peer, stream });
            }
            Err(error) => {
                lobby.refused.count(error.reason());
                tracing::warn!(%address, %error, "a connection was refused");
            }
        }
        lobby.leave(number);
    });
    if !spawned {
        lobby.leave(number);
    }
}

/// Connects to a peer's core, away from the thread that asks.
pub(super) fn dial(lobby: &Arc<Lobby>, core: u16, peer: NodeId) {
    let Some(number) = lobby.enter() else {
        lobby.cores.tell(core, BulkEvent::DialFailed { peer });
        return;
    };
    let lobby_of_thread = Arc::clone(lobby);
    let spawned = thread("pontoon-dial", move || {
        let lobby = lobby_of_thread;
        let event = match call(&lobby, number, core, peer) {
            Ok(stream) => BulkEvent::Connected { peer, stream },
            Err(error) => {
                if !matches!(error, Turned::Away(_)) {
                    lobby.refused.count(error.reason());
                    tracing::warn!(%peer, %error, "the peer was refused");
                }
                BulkEvent::DialFailed { peer }
            }
        };
        lobby.cores.tell(core, event);
        lobby.leave(number);
    });
    if !spawned {
        lobby.leave(number);
        lobby.cores.tell(core, BulkEvent::DialFailed { peer });
    }
}

fn thread(name: &str, run: impl FnOnce() + Send + 'static) -> bool {
    let spawned = std::thread::Builder::new().name(name.to_owned()).spawn(run);
    if let Err(error) = &spawned {
        tracing::warn!(%error, "no thread for a connection");
    }
    spawned.is_ok()
}

/// Why no connection came about.
#[derive(Debug, thiserror::Error)]
enum Turned {
    /// The hello was not acceptable.
    #[error(transparent)]
    Down(#[from] HelloError),
    /// The network, the peer's process, or the deadline.
    #[error("no hello was exchanged: {0}")]
    Away(#[from] io::Error),
}

impl Turned {
    fn reason(&self) -> &'static str {
        match self {
            Self::Down(error) => error.reason(),
            Self::Away(error) => match error.kind() {
                ErrorKind::WouldBlock | ErrorKind::TimedOut => "hello_deadline",
                _ => "hello_incomplete",
            },
        }
    }
}

/// The accepting side: answers only a hello that it accepts.
fn greet(
    lobby: &Lobby,
    number: u64,
    mut stream: TcpStream,
) -> Result<(u16, NodeId, TcpStream), Turned> {
    lobby.sit_down(number, &stream)?;
    let ours = lobby.hello_of(0, NodeId(0));
    let known = lobby.peers.keys().map(|peer| peer.0).collect();
    let handshake = Handshake::accept(ours, known);
    let bytes = read_hello(&mut stream)?;
    let theirs = handshake.receive(&bytes)?;
    let answer = Hello {
        core: theirs.core,
        expected_peer: theirs.node,
        ..ours
    };
    stream.write_all(&answer.encode())?;
    settle(&stream)?;
    Ok((theirs.core, NodeId(theirs.node), stream))
}

/// The dialling side speaks first.
fn call(lobby: &Lobby, number: u64, core: u16, peer: NodeId) -> Result<TcpStream, Turned> {
    let address = lobby.peers.get(&peer).ok_or(ErrorKind::AddrNotAvailable);
    let address = address.map_err(io::Error::from)?;
    let mut stream = TcpStream::connect_timeout(address, HELLO_DEADLINE)?;
    lobby.sit_down(number, &stream)?;
    let handshake = Handshake::dial(lobby.hello_of(core, peer));
    stream.set_write_timeout(Some(HELLO_DEADLINE))?;
    stream.write_all(&handshake.to_send(peer.0))?;
    let bytes = read_hello(&mut stream)?;
    handshake.receive(&bytes)?;
    settle(&stream)?;
    Ok(stream)
}

/// Reads exactly a hello; gives up at once when the first bytes are of something else.
fn read_hello(stream: &mut TcpStream) -> Result<[u8; HELLO_BYTES], Turned> {
    let deadline = Instant::now() + HELLO_DEADLINE;
    let mut bytes = [0; HELLO_BYTES];
    let mut filled = 0;
    while filled < HELLO_BYTES {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Turned::Away(ErrorKind::TimedOut.into()));
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut bytes[filled..]) {
            Ok(0) => return Err(Turned::Away(ErrorKind::UnexpectedEof.into())),
            Ok(count) => filled += count,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
        Hello::check_prefix(&bytes[..filled])?;
    }
    Ok(bytes)
}

/// Makes the socket what a ring wants: blocking, without time limits, small frames at once.
fn settle(stream: &TcpStream) -> io::Result<()> {
    stream.set_read_timeout(None)?;
    stream.set_write_timeout(None)?;
    stream.set_nonblocking(false)?;
    stream.set_nodelay(true)
}

//! A link of limited bandwidth: what goes to and from one node passes threads of this process.
//!
//! Whoever sends more than the link carries finds its socket full, as on a real one: the link
//! reads no further than it can send, and its own buffers are small. Nothing is dropped.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::net::{AddressFamily, SocketType, socket, sockopt};

/// Bytes of each socket buffer of the link.
const SOCKET_BUFFER_BYTES: usize = 32 << 10;

/// Bytes of a segment of TCP. The loopback's own are larger than a small buffer, which is then
/// announced only once it is empty: the sender waits for its timer, and hardly anything is carried.
static SEGMENT_BYTES: libc::c_int = 1_448;

/// Bytes that are passed on at once.
const PIECE_BYTES_MAX: usize = 16 << 10;

/// How much unused time may be made up for: a thread wakes up later than it wanted to.
const CATCH_UP: Duration = Duration::from_millis(20);

/// The link around one node: an address for each way through it. Dropping it ends its connections.
pub(crate) struct Link {
    shared: Arc<Shared>,
    gates: BTreeMap<u64, Gate>,
    node: u64,
}

struct Shared {
    /// Zero stands for no limit.
    bytes_per_second: AtomicU64,
    /// How long everything takes each way.
    delay: Duration,
    to_node: Lane,
    from_node: Lane,
    closed: AtomicBool,
    streams: Mutex<Vec<TcpStream>>,
}

/// One direction of the link, shared by all its connections.
#[derive(Default)]
struct Lane {
    /// When everything that was let through is over.
    free_at: Mutex<Option<Instant>>,
    carried_bytes: AtomicU64,
}

/// A listening end of the link, and where its connections lead.
struct Gate {
    address: SocketAddr,
    target: Arc<Mutex<SocketAddr>>,
}

impl Link {
    /// Lays the link around `node`, which is one of `addresses`. Carries any number of bytes at
    /// first.
    ///
    /// # Errors
    /// When the system has no socket or thread left.
    pub(crate) fn around(node: u64, addresses: &BTreeMap<u64, SocketAddr>) -> Result<Self> {
        Self::delayed(node, addresses, Duration::ZERO)
    }

    /// The same, through which everything takes so long each way; with buffers for all of it.
    ///
    /// # Errors
    /// When the system has no socket or thread left.
    pub(crate) fn delayed(
        node: u64,
        addresses: &BTreeMap<u64, SocketAddr>,
        delay: Duration,
    ) -> Result<Self> {
        let shared = Arc::new(Shared {
            delay,
            bytes_per_second: AtomicU64::new(0),
            to_node: Lane::default(),
            from_node: Lane::default(),
            closed: AtomicBool::new(false),
            streams: Mutex::default(),
        });
        let mut link = Self {
            shared,
            gates: BTreeMap::new(),
            node,
        };
        for (&behind, &target) in addresses {
            let gate = Gate::open(Arc::clone(&link.shared), target, behind == node)
                .context("laying the link")?;
            link.gates.insert(behind, gate);
        }
        Ok(link)
    }

    /// Where `from` reaches `to` over the link; `None` if the link does not lie between them.
    pub(crate) fn address(&self, from: u64, to: u64) -> Option<SocketAddr> {
        let gate = self.gates.get(&to)?;
        (from == self.node || to == self.node).then_some(gate.address)
    }

    /// Limits what is carried from now on, in each direction; `None` for no limit.
    pub(crate) fn limit(&self, bytes_per_second: Option<u64>) {
        let rate = bytes_per_second.unwrap_or(0);
        self.shared.bytes_per_second.store(rate, Relaxed);
    }

    /// The node behind the link listens somewhere else now.
    pub(crate) fn node_moved(&self, address: SocketAddr) {
        *lock(&self.gates[&self.node].target) = address;
    }

    /// Bytes carried to the node so far.
    pub(crate) fn bytes_to_node(&self) -> u64 {
        self.shared.to_node.carried_bytes.load(Relaxed)
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.shared.closed.store(true, Relaxed);
        for stream in lock(&self.shared.streams).drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
        // A connection wakes the thread that accepts, which then ends.
        for gate in self.gates.values() {
            let _ = TcpStream::connect(gate.address);
        }
    }
}

impl Gate {
    fn open(shared: Arc<Shared>, target: SocketAddr, to_node: bool) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        if shared.delay.is_zero() {
            // Accepted connections inherit it, before they announce a window.
            make_narrow(&listener)?;
        }
        let address = listener.local_addr()?;
        let target = Arc::new(Mutex::new(target));
        let gate = Self {
            address,
            target: Arc::clone(&target),
        };
        std::thread::Builder::new().spawn(move || {
            for stream in listener.incoming() {
                if shared.closed.load(Relaxed) {
                    return;
                }
                let target = *lock(&target);
                // Its end sees a closed connection, as if nobody listened.
                let _ = stream.and_then(|stream| carry(&shared, stream, target, to_node));
            }
        })?;
        Ok(gate)
    }
}

/// Connects an accepted connection to its target, and carries both directions.
fn carry(
    shared: &Arc<Shared>,
    accepted: TcpStream,
    target: SocketAddr,
    to_node: bool,
) -> std::io::Result<()> {
    let onward = socket(AddressFamily::INET, SocketType::STREAM, None)?;
    if shared.delay.is_zero() {
        make_narrow(&onward)?;
    }
    rustix::net::connect(&onward, &target)?;
    let onward = TcpStream::from(onward);
    for stream in [&accepted, &onward] {
        stream.set_nodelay(true)?;
        lock(&shared.streams).push(stream.try_clone()?);
    }
    let back = (onward.try_clone()?, accepted.try_clone()?);
    for ((from, to), to_node) in [((accepted, onward), to_node), (back, !to_node)] {
        let shared = Arc::clone(shared);
        let travelling = match shared.delay.is_zero() {
            true => None,
            false => Some(deliver_late(to.try_clone()?)?),
        };
        std::thread::Builder::new().spawn(move || {
            // However it ends, both ends learn that the connection is over.
            let _ = shared.pass(&from, &to, travelling, to_node);
            let _ = from.shutdown(Shutdown::Both);
            let _ = to.shutdown(Shutdown::Both);
        })?;
    }
    Ok(())
}

/// Pieces on their way, and when each arrives.
type Travelling = SyncSender<(Instant, Vec<u8>)>;

/// Most pieces on one way: more than any window.
const TRAVELLING_MAX: usize = 16 << 10;

/// Writes what travels to a stream when its time has come.
fn deliver_late(mut to: TcpStream) -> std::io::Result<Travelling> {
    let (way, travelling) = sync_channel::<(Instant, Vec<u8>)>(TRAVELLING_MAX);
    std::thread::Builder::new().spawn(move || {
        for (arrives, piece) in travelling {
            std::thread::sleep(arrives.saturating_duration_since(Instant::now()));
            if to.write_all(&piece).is_err() {
                return;
            }
        }
    })?;
    Ok(way)
}

/// Gives a socket that is not connected yet small buffers and small segments.
fn make_narrow(socket: &impl AsFd) -> std::io::Result<()> {
    sockopt::set_socket_recv_buffer_size(socket, SOCKET_BUFFER_BYTES)?;
    sockopt::set_socket_send_buffer_size(socket, SOCKET_BUFFER_BYTES)?;
    // SAFETY: the descriptor is borrowed for the call, and the value is a C integer of that size
    // which lives longer than the call.
    let set = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_MAXSEG,
            (&raw const SEGMENT_BYTES).cast(),
            size_of_val(&SEGMENT_BYTES) as libc::socklen_t,
        )
    };
    match set {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}

impl Shared {
    fn pass(
        &self,
        mut from: &TcpStream,
        mut to: &TcpStream,
        travelling: Option<Travelling>,
        to_node: bool,
    ) -> std::io::Result<()> {
        let lane = match to_node {
            true => &self.to_node,
            false => &self.from_node,
        };
        let mut piece = vec![0; PIECE_BYTES_MAX];
        loop {
            let rate = self.bytes_per_second.load(Relaxed);
            let length = from.read(&mut piece[..piece_bytes(rate)])?;
            if length == 0 {
                return Ok(());
            }
            if rate > 0 {
                let now = Instant::now();
                let through = lane.reserve(length, rate, now);
                std::thread::sleep(through.saturating_duration_since(now));
            }
            match &travelling {
                None => to.write_all(&piece[..length])?,
                Some(way) => way
                    .send((Instant::now() + self.delay, piece[..length].to_vec()))
                    .map_err(|_| std::io::ErrorKind::BrokenPipe)?,
            }
            lane.carried_bytes.fetch_add(length as u64, Relaxed);
        }
    }
}

/// What passes at once: little enough on a slow link that its connections take turns.
fn piece_bytes(rate: u64) -> usize {
    match usize::try_from(rate / 100) {
        Ok(bytes) if rate > 0 => bytes.clamp(512, PIECE_BYTES_MAX),
        _ => PIECE_BYTES_MAX,
    }
}

impl Lane {
    /// When `bytes` are through that arrive now, behind everything that arrived before.
    fn reserve(&self, bytes: usize, bytes_per_second: u64, now: Instant) -> Instant {
        let mut free_at = lock(&self.free_at);
        let earliest = now.checked_sub(CATCH_UP).unwrap_or(now);
        let begins = free_at.map_or(now, |free_at| free_at.max(earliest));
        let takes = Duration::from_secs_f64(bytes as f64 / bytes_per_second as f64);
        *free_at.insert(begins + takes)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_queue_behind_each_other_at_the_rate_of_the_link() {
        let (lane, now) = (Lane::default(), Instant::now());
        assert_eq!(
            lane.reserve(500, 1_000, now),
            now + Duration::from_millis(500)
        );
        assert_eq!(lane.reserve(500, 1_000, now), now + Duration::from_secs(1));
        // A thread that woke up late makes up for that, one that had nothing to send does not.
        let late = now + Duration::from_millis(1_010);
        assert_eq!(
            lane.reserve(100, 1_000, late),
            now + Duration::from_millis(1_100)
        );
        let idle = now + Duration::from_secs(9);
        assert_eq!(
            lane.reserve(100, 1_000, idle),
            idle - CATCH_UP + Duration::from_millis(100)
        );
    }

    #[test]
    fn bytes_come_through_unchanged_and_are_counted() {
        let near = TcpListener::bind("127.0.0.1:0").unwrap();
        let far = TcpListener::bind("127.0.0.1:0").unwrap();
        let ends = [&near, &far].map(|listener| listener.local_addr().unwrap());
        let addresses = BTreeMap::from([(1, ends[0]), (2, ends[1]), (3, ends[0])]);
        let link = Link::around(2, &addresses).unwrap();
        assert_eq!(link.address(1, 3), None, "nothing lies between these");
        link.limit(Some(10_000_000));
        let mut out = TcpStream::connect(link.address(1, 2).unwrap()).unwrap();
        let (mut arrived, _) = far.accept().unwrap();
        let sent: Vec<u8> = (0..200_000_u32).map(|number| number as u8).collect();
        let mut received = vec![0; sent.len()];
        let expected = sent.clone();
        let writer = std::thread::spawn(move || {
            out.write_all(&sent).unwrap();
            out
        });
        arrived.read_exact(&mut received).unwrap();
        assert!(received == expected);
        // The end of one side reaches the other one.
        drop(writer.join().unwrap());
        assert_eq!(arrived.read(&mut received).unwrap(), 0);
        assert_eq!(link.bytes_to_node(), expected.len() as u64);
    }

    #[test]
    fn a_node_that_moved_is_found_at_its_new_address() {
        let old = TcpListener::bind("127.0.0.1:0").unwrap();
        let new = TcpListener::bind("127.0.0.1:0").unwrap();
        let link = Link::around(2, &BTreeMap::from([(2, old.local_addr().unwrap())])).unwrap();
        link.node_moved(new.local_addr().unwrap());
        let mut out = TcpStream::connect(link.address(1, 2).unwrap()).unwrap();
        let (mut arrived, _) = new.accept().unwrap();
        out.write_all(b"here").unwrap();
        let mut received = [0; 4];
        arrived.read_exact(&mut received).unwrap();
        assert_eq!(&received, b"here");
    }
}

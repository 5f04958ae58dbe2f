//! Making a ring, with what the kernel and the limits allow, and taking it down again.
#![allow(unsafe_code)]

use std::collections::HashMap;
use std::io;
use std::mem::ManuallyDrop;
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use io_uring::{Builder, IoUring};

use super::in_flight::InFlight;
use super::{UringConfig, UringDriver};
use crate::driver::{DriverError, DriverStatistics, Wait};

/// Completion entries for each submission entry.
const COMPLETIONS_PER_ENTRY: u32 = 4;

/// What an operator can do where io_uring is forbidden.
const REMEDY: &str =
    "allow it in the container's seccomp profile and set kernel.io_uring_disabled to 0";

/// How long the end of a driver waits for what is under way: only a disk that hangs takes longer.
pub(crate) const FINISH_LIMIT: Duration = Duration::from_secs(10);

impl UringDriver {
    /// Makes the ring. Call it on the thread that will use it.
    ///
    /// # Errors
    /// If the kernel refuses. A memory limit is no error: then buffers are not registered.
    pub fn open(config: UringConfig) -> Result<Self, DriverError> {
        let ring = make_ring(config.ring_entries)?;
        let arena_registered = register_arena(&ring, config.arena);
        Ok(Self {
            ring,
            volume: ManuallyDrop::new(config.volume),
            sync: config.sync,
            arena_registered,
            sockets: HashMap::new(),
            next_socket: 0,
            closing: Vec::new(),
            in_flight: InFlight::default(),
            retries: Vec::new(),
            bulk: config.bulk,
            doorbell: config.doorbell,
            doorbell_value: Box::new(0),
            doorbell_armed: false,
            ended: false,
            statistics: DriverStatistics::default(),
        })
    }
}

/// The best ring this kernel knows: the newest flags first (io_uring_setup(2)).
fn make_ring(entries: u32) -> Result<IoUring, DriverError> {
    let completions = entries.saturating_mul(COMPLETIONS_PER_ENTRY);
    let plain = |builder: &mut Builder| {
        builder.setup_cqsize(completions).setup_clamp();
    };
    let deferred = |builder: &mut Builder| {
        plain(builder);
        builder
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_submit_all();
    };
    let newest = |builder: &mut Builder| {
        deferred(builder);
        builder.setup_no_sqarray();
    };
    let configurations: [&dyn Fn(&mut Builder); 3] = [&newest, &deferred, &plain];
    let mut last = io::Error::from_raw_os_error(libc::EINVAL);
    for configure in configurations {
        let mut builder = IoUring::builder();
        configure(&mut builder);
        match builder.build(entries) {
            Ok(ring) => return Ok(ring),
            Err(source) => match source.raw_os_error() {
                Some(libc::EPERM | libc::ENOSYS | libc::EACCES) => {
                    return Err(DriverError::Forbidden {
                        what: "io_uring",
                        source,
                        remedy: REMEDY,
                    });
                }
                Some(libc::EINVAL) => last = source,
                _ => {
                    last = source;
                    break;
                }
            },
        }
    }
    Err(DriverError::Failed {
        what: "making a ring",
        source: last,
    })
}

fn register_arena(ring: &IoUring, (start, bytes): (*const u8, usize)) -> bool {
    let arena = libc::iovec {
        iov_base: start.cast_mut().cast(),
        iov_len: bytes,
    };
    // SAFETY: the kernel pins these pages; writes from them are issued only while the log that
    // owns the arena, and the records in flight, keep it alive.
    match unsafe { ring.submitter().register_buffers(&[arena]) } {
        Ok(()) => true,
        Err(error) => {
            tracing::warn!(
                %error,
                bytes,
                "the memory for writes is not registered with the ring; raise the limit of locked \
                 memory (ulimit -l) for a little less work per write"
            );
            false
        }
    }
}

impl Drop for UringDriver {
    /// The kernel may read and write what is under way until it has completed.
    fn drop(&mut self) {
        if let Err(error) = self.end_once() {
            tracing::error!(%error, "the driver did not end as it should");
        }
    }
}

impl UringDriver {
    /// Gives back everything but what the kernel still works on, whose memory is leaked on purpose:
    /// it may be read or written whenever the disk comes back.
    pub(super) fn end_once(&mut self) -> Result<(), DriverError> {
        if std::mem::replace(&mut self.ended, true) {
            return Ok(());
        }
        for (_, socket) in self.sockets.drain() {
            let socket = TcpStream::from(socket);
            let _ = socket.shutdown(Shutdown::Both);
            self.closing.push(socket.into());
        }
        // Ends the read of the doorbell.
        let _ = rustix::io::write(self.doorbell.fd(), &1_u64.to_ne_bytes());
        if self.finish(Instant::now() + FINISH_LIMIT) {
            // SAFETY: nobody uses it after this, and `ended` says that it is dropped only here.
            unsafe { ManuallyDrop::drop(&mut self.volume) }
            return Ok(());
        }
        let operation = self.in_flight.describe();
        std::mem::forget(std::mem::take(&mut self.in_flight));
        std::mem::forget(std::mem::take(&mut self.doorbell_value));
        let seconds = FINISH_LIMIT.as_secs();
        Err(DriverError::Hung { operation, seconds })
    }

    /// Waits until nothing is under way. False if that takes too long.
    fn finish(&mut self, deadline: Instant) -> bool {
        let mut completions = Vec::new();
        loop {
            // An interrupted operation is not issued again: it is over.
            for token in std::mem::take(&mut self.retries) {
                drop(self.in_flight.remove(token));
            }
            if self.in_flight.is_empty() && !self.doorbell_armed {
                return true;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || self.enter(Wait::For(left)).is_err() {
                return false;
            }
            self.reap(&mut completions);
            completions.clear();
        }
    }
}

/// Most bytes that the kernel takes of a connection beyond what it may send at once.
static UNSENT_BYTES_MAX: libc::c_int = 256 << 10;

/// Bounds what lies in the kernel's buffer and is not on its way: heartbeats would wait behind it.
/// Without the option, which a test's socket may lack, they do.
pub(super) fn bound_unsent(socket: &OwnedFd) {
    let size = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the option's value is an integer that lives through the call, of the size given.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_NOTSENT_LOWAT,
            (&raw const UNSENT_BYTES_MAX).cast(),
            size,
        )
    };
    if result != 0 {
        tracing::debug!(error = %io::Error::last_os_error(), "TCP_NOTSENT_LOWAT is not set");
    }
}

//! From operations to entries of the ring. The only place that pushes them.
#![allow(unsafe_code)]

use std::collections::HashMap;
use std::net::Shutdown;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use io_uring::squeue::Entry;
use io_uring::types::{Fd, SubmitArgs, Timespec};
use io_uring::{opcode, squeue};
use pontoon_storage::{DiskOp, FileVolume, SyncMethod};

use super::in_flight::{InFlightOp, WriteOutcome};
use super::{UringDriver, disk, socket};
use crate::bulk::{BulkRequest, WantedSegment};
use crate::driver::{DriverError, Wait};
use crate::port::{Completion, Operation, SocketId};

/// `user_data` of the doorbell's read.
pub(super) const DOORBELL: u64 = u64::MAX;
/// Set in the `user_data` of the sync that is linked to a write.
pub(super) const SYNC: u64 = 1 << 32;

/// How often the kernel may refuse to make room in a full queue (it is out of memory, then).
const FULL_TRIES: u32 = 1000;

/// IORING_ENTER_GETEVENTS of io_uring_enter(2): with DEFER_TASKRUN nothing completes without it.
const ENTER_GETEVENTS: u32 = 1;

impl UringDriver {
    pub(super) fn submit(
        &mut self,
        operation: Operation,
        completions: &mut Vec<Completion>,
    ) -> Result<(), DriverError> {
        let operation = match operation {
            Operation::Disk(operation @ DiskOp::Write { .. }) => InFlightOp::Write {
                operation,
                outcome: match self.sync {
                    SyncMethod::WriteDsync => WriteOutcome::without_sync(),
                    SyncMethod::WriteThenFdatasync => WriteOutcome::default(),
                },
            },
            Operation::Disk(operation @ DiskOp::Read { .. }) => InFlightOp::Read { operation },
            Operation::Send { socket, batch } => InFlightOp::Send { socket, batch },
            Operation::Receive { socket, buffer } => InFlightOp::Receive { socket, buffer },
            Operation::Close { socket } => {
                self.close(socket);
                return Ok(());
            }
            Operation::Dial { peer } => {
                self.bulk.request(BulkRequest::Dial { peer });
                return Ok(());
            }
            Operation::Prepare { slot } => {
                let directory = self.volume.directory().clone();
                let wanted = WantedSegment { slot, directory };
                self.bulk.request(BulkRequest::Prepare(wanted));
                return Ok(());
            }
        };
        let token = self.in_flight.insert(operation);
        self.issue(token, completions)
    }

    /// Makes entries of an operation under way, for the first time or again.
    pub(super) fn issue(
        &mut self,
        token: u32,
        completions: &mut Vec<Completion>,
    ) -> Result<(), DriverError> {
        let (entry, sync) = match self.in_flight.get_mut(token) {
            InFlightOp::Write { operation, .. } => {
                let fd = file_of(&self.volume, operation);
                let registered = self.arena_registered;
                disk::entries(operation, fd, self.sync, registered)
            }
            InFlightOp::Read { operation } => {
                let fd = file_of(&self.volume, operation);
                disk::entries(operation, fd, self.sync, false)
            }
            InFlightOp::Send { socket, batch } => {
                let fd = socket_of(&self.sockets, *socket);
                (socket::send_entry(batch, fd), None)
            }
            InFlightOp::Receive { socket, buffer } => {
                let fd = socket_of(&self.sockets, *socket);
                (socket::receive_entry(buffer, fd), None)
            }
        };
        let entry = entry.user_data(u64::from(token));
        match sync {
            None => self.push(&[entry], completions),
            Some(sync) => {
                let sync = sync.user_data(u64::from(token) | SYNC);
                self.push(&[entry, sync], completions)
            }
        }
    }

    /// What is under way on it completes at once; the descriptor is closed when no entry that is
    /// not submitted can name it any more.
    fn close(&mut self, socket: SocketId) {
        if let Some(fd) = self.sockets.remove(&socket) {
            let fd = std::net::TcpStream::from(fd);
            // Not connected any more: then nothing waits on it either.
            let _ = fd.shutdown(Shutdown::Both);
            self.closing.push(fd.into());
        }
    }

    pub(super) fn arm_doorbell(
        &mut self,
        completions: &mut Vec<Completion>,
    ) -> Result<(), DriverError> {
        if self.doorbell_armed {
            return Ok(());
        }
        self.doorbell_armed = true;
        let fd = Fd(self.doorbell.fd().as_raw_fd());
        let target = std::ptr::from_mut(&mut *self.doorbell_value).cast();
        let entry = opcode::Read::new(fd, target, 8).build().user_data(DOORBELL);
        self.push(&[entry], completions)
    }

    /// Puts entries that belong together into the submission queue. If it is full, what is in it
    /// is submitted first, and what has completed is taken: a full completion queue may be why
    /// the kernel takes no more.
    fn push(
        &mut self,
        entries: &[Entry],
        completions: &mut Vec<Completion>,
    ) -> Result<(), DriverError> {
        self.statistics.entries += entries.len() as u64;
        for _ in 0..FULL_TRIES {
            if self.room() >= entries.len() {
                break;
            }
            self.statistics.full_queues += 1;
            self.enter(Wait::No)?;
            self.reap(completions);
        }
        let mut queue = self.ring.submission();
        // SAFETY: whatever an entry points to is owned by its slot in `in_flight` (or is
        // `doorbell_value`, a box of the driver's own), does not move in the heap, and stays there
        // until the completion is reaped; `Drop` waits for all completions or leaks the memory.
        let pushed = unsafe { queue.push_multiple(entries) };
        pushed.map_err(|_: squeue::PushError| DriverError::Failed {
            what: "submitting to a full ring",
            source: std::io::ErrorKind::WouldBlock.into(),
        })
    }

    fn room(&mut self) -> usize {
        let queue = self.ring.submission();
        queue.capacity() - queue.len()
    }

    /// Whether every entry is submitted: then the kernel holds the files that they name.
    pub(super) fn all_submitted(&mut self) -> bool {
        self.ring.submission().is_empty()
    }

    /// One call of io_uring_enter(2): submits, and runs what has completed.
    pub(super) fn enter(&mut self, wait: Wait) -> Result<(), DriverError> {
        self.statistics.enters += 1;
        self.statistics.waits += u64::from(wait != Wait::No);
        let entered = match wait {
            Wait::No => {
                let submit = u32::try_from(self.ring.submission().len()).unwrap_or(u32::MAX);
                let submitter = self.ring.submitter();
                // SAFETY: no argument is passed, and the entries are sound as `push` says.
                unsafe { submitter.enter::<libc::sigset_t>(submit, 0, ENTER_GETEVENTS, None) }
            }
            Wait::Forever => self.ring.submit_and_wait(1),
            Wait::For(limit) => {
                let limit = Timespec::from(limit);
                let arguments = SubmitArgs::new().timespec(&limit);
                self.ring.submitter().submit_with_args(1, &arguments)
            }
        };
        match entered.map_err(|error| (error.raw_os_error(), error)) {
            // The time is over, a signal came, or completions must be taken first.
            Ok(_) | Err((Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN), _)) => {
                Ok(())
            }
            Err((_, source)) => Err(DriverError::Failed {
                what: "entering the ring",
                source,
            }),
        }
    }
}

fn file_of(volume: &FileVolume, operation: &DiskOp) -> Fd {
    let file = volume.file(operation.slot());
    let file = file.expect("the log names only segments that were prepared");
    Fd(file.as_raw_fd())
}

/// The descriptor of a socket; one that no call accepts if it is closed.
fn socket_of(sockets: &HashMap<SocketId, OwnedFd>, socket: SocketId) -> Fd {
    const CLOSED: RawFd = -1;
    Fd(sockets.get(&socket).map_or(CLOSED, AsRawFd::as_raw_fd))
}

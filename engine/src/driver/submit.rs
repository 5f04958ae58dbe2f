//! From operations to entries of the ring. The only place that pushes them.
#![allow(unsafe_code)]

use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd, RawFd};

use io_uring::squeue::Entry;
use io_uring::types::{Fd, SubmitArgs, Timespec};
use io_uring::{opcode, squeue};
use pontoon_storage::{DiskOp, RecordBytes};
use pontoon_transport::{ReceiveBuffer, SendBatch};

use super::in_flight::Flight;
use super::{DriverError, UringDriver, Wait, Wake};
use crate::bulk::BulkRequest;
use crate::port::{Operation, SocketId};

/// `user_data` of the doorbell's read.
pub(super) const BELL: u64 = u64::MAX;
/// Set in the `user_data` of the sync that is linked to a write.
pub(super) const SYNC: u64 = 1 << 32;

/// IORING_ENTER_GETEVENTS of io_uring_enter(2): with DEFER_TASKRUN nothing completes without it.
const ENTER_GETEVENTS: u32 = 1;

impl UringDriver {
    pub(super) fn submit(&mut self, operation: Operation) -> Result<(), DriverError> {
        match operation {
            Operation::Disk(operation) => self.submit_disk(operation),
            Operation::Send { socket, batch } => self.submit_send(socket, batch),
            Operation::Receive { socket, buffer } => self.submit_receive(socket, buffer),
            Operation::Close { socket } => {
                self.close(socket);
                Ok(())
            }
            Operation::Dial { peer } => {
                self.bulk.request(BulkRequest::Dial { peer });
                Ok(())
            }
            Operation::Prepare { slot } => {
                self.bulk.request(BulkRequest::Prepare { slot });
                Ok(())
            }
        }
    }

    fn submit_disk(&mut self, operation: DiskOp) -> Result<(), DriverError> {
        let slot = operation.slot();
        let file = self.volume.file(slot);
        let file = file.expect("the log names only segments that were prepared");
        let fd = Fd(file.as_raw_fd());
        let (sync, registered) = (self.sync, self.arena_registered);
        let flight = match operation {
            DiskOp::Write { .. } => Flight::Write {
                operation,
                completions_left: 1,
                result: Ok(0),
            },
            DiskOp::Read { .. } => Flight::Read { operation },
        };
        let place = self.in_flight.insert(flight);
        let (first, second) = match self.in_flight.get_mut(place) {
            Flight::Read { operation } => {
                pontoon_storage::uring::entries(operation, fd, sync, false)
            }
            Flight::Write {
                operation,
                completions_left,
                ..
            } => {
                let entries = pontoon_storage::uring::entries(operation, fd, sync, registered);
                *completions_left += u8::from(entries.1.is_some());
                entries
            }
            _ => unreachable!("inserted above"),
        };
        let first = first.user_data(u64::from(place));
        match second {
            None => self.push(&[first]),
            Some(second) => self.push(&[first, second.user_data(u64::from(place) | SYNC)]),
        }
    }

    fn submit_send(
        &mut self,
        socket: SocketId,
        batch: SendBatch<RecordBytes>,
    ) -> Result<(), DriverError> {
        let place = self.in_flight.insert(Flight::Send { socket, batch });
        self.push_socket(place)
    }

    fn submit_receive(
        &mut self,
        socket: SocketId,
        buffer: ReceiveBuffer,
    ) -> Result<(), DriverError> {
        let place = self.in_flight.insert(Flight::Receive { socket, buffer });
        self.push_socket(place)
    }

    /// Issues a send or a receive, for the first time or again.
    pub(super) fn push_socket(&mut self, place: u32) -> Result<(), DriverError> {
        let entry = match self.in_flight.get_mut(place) {
            Flight::Send { socket, batch } => {
                let fd = fd_of(&self.sockets, *socket);
                pontoon_transport::uring::send_entry(batch, fd)
            }
            Flight::Receive { socket, buffer } => {
                let fd = fd_of(&self.sockets, *socket);
                pontoon_transport::uring::receive_entry(buffer, fd)
            }
            _ => unreachable!("only sends and receives are issued here"),
        };
        self.push(&[entry.user_data(u64::from(place))])
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

    pub(super) fn arm_bell(&mut self) -> Result<(), DriverError> {
        if self.wake != Wake::InRing || self.bell_armed {
            return Ok(());
        }
        self.bell_armed = true;
        let fd = Fd(self.doorbell.fd().as_fd().as_raw_fd());
        let target = std::ptr::from_mut(&mut *self.bell).cast();
        let entry = opcode::Read::new(fd, target, 8).build().user_data(BELL);
        self.push(&[entry])
    }

    /// Puts entries that belong together into the submission queue.
    fn push(&mut self, entries: &[Entry]) -> Result<(), DriverError> {
        self.statistics.entries += entries.len() as u64;
        if self.room() < entries.len() {
            self.enter(Wait::No)?;
        }
        let mut queue = self.ring.submission();
        // SAFETY: whatever an entry points to is owned by its place in `in_flight` (or is `bell`,
        // a box of the driver's own), does not move in the heap, and stays there until the
        // completion is reaped; `Drop` waits for all completions or leaks the memory.
        let pushed = unsafe { queue.push_multiple(entries) };
        pushed.map_err(|_: squeue::PushError| DriverError::Ring {
            what: "submitting to a full ring",
            source: std::io::ErrorKind::WouldBlock.into(),
        })
    }

    fn room(&mut self) -> usize {
        let queue = self.ring.submission();
        queue.capacity() - queue.len()
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
            Err((_, source)) => Err(DriverError::Ring {
                what: "entering the ring",
                source,
            }),
        }
    }
}

/// The descriptor of a socket; one that no call accepts if it is closed.
fn fd_of(
    sockets: &std::collections::HashMap<SocketId, std::os::fd::OwnedFd>,
    socket: SocketId,
) -> Fd {
    const CLOSED: RawFd = -1;
    Fd(sockets.get(&socket).map_or(CLOSED, AsRawFd::as_raw_fd))
}

//! From the ring's completions, and the bulk lane's events, to completions of the port.

use pontoon_storage::{DiskOp, PrepareError};

use super::UringDriver;
use super::in_flight::InFlightOp;
use super::setup::bound_unsent;
use super::submit::{DOORBELL, SYNC};
use crate::bulk::BulkEvent;
use crate::port::{Completion, SocketId};

impl UringDriver {
    /// Takes every completion that is there.
    pub(super) fn reap(&mut self, completions: &mut Vec<Completion>) {
        loop {
            let next = self.ring.completion().next();
            let Some(entry) = next else { return };
            let result = usize::try_from(entry.result()).map_err(|_| -entry.result());
            match entry.user_data() {
                DOORBELL => self.doorbell_armed = false,
                data => self.complete(data, result, completions),
            }
        }
    }

    fn complete(
        &mut self,
        data: u64,
        result: Result<usize, i32>,
        completions: &mut Vec<Completion>,
    ) {
        let token = u32::try_from(data & !SYNC).expect("a token of `in_flight`");
        let result = match self.in_flight.get_mut(token) {
            InFlightOp::Write { operation, outcome } => {
                if data & SYNC == 0 {
                    outcome.written = Some(result);
                } else {
                    outcome.synced = Some(result);
                }
                let Some(result) = outcome.result(write_bytes(operation)) else {
                    return;
                };
                result
            }
            _ if matches!(result, Err(libc::EINTR | libc::EAGAIN)) => {
                self.statistics.retries += 1;
                self.retries.push(token);
                return;
            }
            _ => result,
        };
        completions.push(completed(self.in_flight.remove(token), result));
    }

    /// What the bulk lane has done for this core.
    pub(super) fn take_bulk_events(&mut self, completions: &mut Vec<Completion>) {
        while let Some(event) = self.bulk.next_event() {
            completions.push(match event {
                BulkEvent::Connected { peer, stream } => {
                    let socket = SocketId(self.next_socket);
                    self.next_socket += 1;
                    let stream = stream.into();
                    bound_unsent(&stream);
                    self.sockets.insert(socket, stream);
                    Completion::Connected { peer, socket }
                }
                BulkEvent::DialFailed { peer } => Completion::DialFailed { peer },
                BulkEvent::Prepared { slot, file } => match file {
                    Ok(file) => {
                        self.volume.add(slot, file);
                        Completion::Prepared { slot, ready: true }
                    }
                    Err(PrepareError::NoDescriptors { .. }) => Completion::NoDescriptors { slot },
                    Err(_) => Completion::Prepared { slot, ready: false },
                },
            });
        }
    }
}

fn write_bytes(operation: &DiskOp) -> usize {
    match operation {
        DiskOp::Write { bytes, .. } => bytes.len(),
        DiskOp::Read { .. } => unreachable!("a write's operation is a write"),
    }
}

fn completed(operation: InFlightOp, result: Result<usize, i32>) -> Completion {
    match operation {
        InFlightOp::Write { operation, .. } => Completion::Written {
            id: operation.id(),
            result,
        },
        InFlightOp::Read {
            operation: DiskOp::Read { id, buffer, .. },
        } => Completion::Read { id, buffer, result },
        InFlightOp::Read { .. } => unreachable!("a read's operation is a read"),
        InFlightOp::Send { socket, batch } => Completion::Sent {
            socket,
            batch,
            result,
        },
        InFlightOp::Receive { socket, buffer } => Completion::Received {
            socket,
            buffer,
            result,
        },
    }
}

//! From the ring's completions, and the bulk lane's events, to what the shard is told.

use pontoon_storage::DiskOp;

use super::UringDriver;
use super::in_flight::Flight;
use super::submit::{BELL, SYNC};
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
                BELL => self.bell_armed = false,
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
        let place = u32::try_from(data & !SYNC).expect("a place of `in_flight`");
        let result = match self.in_flight.get_mut(place) {
            Flight::Write { operation, outcome } => {
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
                self.again.push(place);
                return;
            }
            _ => result,
        };
        completions.push(completed(self.in_flight.remove(place), result));
    }

    /// What the bulk lane has done for this core.
    pub(super) fn take_bulk_events(&mut self, completions: &mut Vec<Completion>) {
        while let Some(event) = self.bulk.next_event() {
            completions.push(match event {
                BulkEvent::Connected { peer, stream } => {
                    let socket = SocketId(self.next_socket);
                    self.next_socket += 1;
                    self.sockets.insert(socket, stream.into());
                    Completion::Connected { peer, socket }
                }
                BulkEvent::DialFailed { peer } => Completion::DialFailed { peer },
                BulkEvent::Prepared { slot, file } => {
                    let ready = file.is_some();
                    if let Some(file) = file {
                        self.volume.add(slot, file);
                    }
                    Completion::Prepared { slot, ready }
                }
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

fn completed(flight: Flight, result: Result<usize, i32>) -> Completion {
    match flight {
        Flight::Write { operation, .. } => Completion::Written {
            id: operation.id(),
            result,
        },
        Flight::Read {
            operation: DiskOp::Read { id, buffer, .. },
        } => Completion::Read { id, buffer, result },
        Flight::Read { .. } => unreachable!("a read's operation is a read"),
        Flight::Send { socket, batch } => Completion::Sent {
            socket,
            batch,
            result,
        },
        Flight::Receive { socket, buffer } => Completion::Received {
            socket,
            buffer,
            result,
        },
    }
}

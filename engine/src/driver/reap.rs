//! From the ring's completions, and the bulk lane's events, to what the shard is told.

use pontoon_storage::DiskOp;

use super::in_flight::Flight;
use super::submit::{BELL, SYNC};
use super::{DriverError, UringDriver};
use crate::bulk::BulkEvent;
use crate::port::{Completion, SocketId};

impl UringDriver {
    /// Takes every completion that is there.
    pub(super) fn reap(&mut self, completions: &mut Vec<Completion>) -> Result<(), DriverError> {
        loop {
            let next = self.ring.completion().next();
            let Some(entry) = next else { return Ok(()) };
            let result = usize::try_from(entry.result()).map_err(|_| -entry.result());
            match entry.user_data() {
                BELL => self.bell_armed = false,
                data => self.complete(data, result, completions)?,
            }
        }
    }

    fn complete(
        &mut self,
        data: u64,
        result: Result<usize, i32>,
        completions: &mut Vec<Completion>,
    ) -> Result<(), DriverError> {
        let place = u32::try_from(data & !SYNC).expect("a place of `in_flight`");
        if let Flight::Write {
            completions_left,
            result: so_far,
            ..
        } = self.in_flight.get_mut(place)
        {
            *completions_left -= 1;
            // The write's count, and the first error of write and sync. A sync that was cancelled
            // because its write fell short leaves the short count to be told.
            match (data & SYNC != 0, result) {
                (false, result) => *so_far = result,
                (true, Err(errno)) if errno != libc::ECANCELED => *so_far = so_far.and(Err(errno)),
                (true, _) => {}
            }
            if *completions_left > 0 {
                return Ok(());
            }
        } else if matches!(result, Err(libc::EINTR | libc::EAGAIN)) {
            self.statistics.retries += 1;
            return self.issue_again(place, completions);
        }
        completions.push(completed(self.in_flight.remove(place), result));
        Ok(())
    }

    fn issue_again(
        &mut self,
        place: u32,
        completions: &mut Vec<Completion>,
    ) -> Result<(), DriverError> {
        if let Flight::Read { .. } = self.in_flight.get_mut(place) {
            let flight = self.in_flight.remove(place);
            completions.push(completed(flight, Err(libc::EINTR)));
            return Ok(());
        }
        self.push_socket(place)
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

fn completed(flight: Flight, result: Result<usize, i32>) -> Completion {
    match flight {
        Flight::Write {
            operation, result, ..
        } => Completion::Written {
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

//! What the kernel is working on: it owns the memory until the completion is there.

use pontoon_storage::{DiskOp, RecordBytes};
use pontoon_transport::{ReceiveBuffer, SendBatch};

use crate::port::SocketId;

/// One operation under way.
#[derive(Debug)]
pub(super) enum Flight {
    /// A durable write: done when the write and, where there is one, its sync are.
    Write {
        operation: DiskOp,
        completions_left: u8,
        /// What the write came to, or the first error.
        result: Result<usize, i32>,
    },
    Read {
        operation: DiskOp,
    },
    Send {
        socket: SocketId,
        batch: SendBatch<RecordBytes>,
    },
    Receive {
        socket: SocketId,
        buffer: ReceiveBuffer,
    },
}

/// All of them, each in a place that its entries carry as `user_data`.
#[derive(Debug, Default)]
pub(super) struct InFlight {
    places: Vec<Option<Flight>>,
    free: Vec<u32>,
    count: usize,
    writes: usize,
}

impl InFlight {
    /// Takes an operation in; gives its place.
    pub(super) fn insert(&mut self, flight: Flight) -> u32 {
        self.count += 1;
        self.writes += usize::from(matches!(flight, Flight::Write { .. }));
        if let Some(place) = self.free.pop() {
            self.places[place as usize] = Some(flight);
            return place;
        }
        self.places.push(Some(flight));
        u32::try_from(self.places.len() - 1).expect("few operations are under way")
    }

    pub(super) fn get_mut(&mut self, place: u32) -> &mut Flight {
        let flight = self.places[place as usize].as_mut();
        flight.expect("a completion answers an operation under way")
    }

    pub(super) fn remove(&mut self, place: u32) -> Flight {
        let flight = self.places[place as usize].take();
        let flight = flight.expect("a completion answers an operation under way");
        self.count -= 1;
        self.writes -= usize::from(matches!(flight, Flight::Write { .. }));
        self.free.push(place);
        flight
    }

    pub(super) fn is_empty(&self) -> bool {
        self.count == 0
    }

    pub(super) fn writes(&self) -> usize {
        self.writes
    }
}

//! What a shard asks for, carried out on the simulated disk and network.

use pontoon::NodeId;
use pontoon::port::{Completion, Operation, SocketId};
use pontoon::storage::{DiskOp, ReadBuffer, Volume};

use crate::coverage::RareEvent;
use crate::faults::Fault;
use crate::settings::{EIO, EPIPE, MILLISECOND};
use crate::trace::TraceKind;
use crate::world::{Event, World};
use crate::write_fault::WriteFault;

impl World {
    pub(crate) fn carry_out(&mut self, place: usize, operation: Operation) {
        let generation = self.places[place].generation;
        match operation {
            Operation::Disk(operation) => self.submit_disk(place, operation),
            Operation::Send { socket, batch } => self.send(place, socket, batch),
            Operation::Receive { socket, buffer } => {
                self.network.receive(socket, buffer);
                self.deliver(socket);
            }
            Operation::Close { socket } => {
                if let Some(other) = self.network.close(socket) {
                    let last = self.network.end(other).map_or(0, |end| end.last_arrival);
                    let after = last.saturating_sub(self.now) + 1;
                    self.schedule(after, Event::Ended { socket: other });
                }
            }
            Operation::Dial { peer } => {
                let after = self.random.delay(self.swarm.network_delay);
                self.schedule(
                    after,
                    Event::Dialled {
                        place,
                        generation,
                        peer,
                    },
                );
            }
            Operation::Prepare { slot } => {
                let after = self.random.delay(5 * MILLISECOND);
                let ready = self.places[place].disk.volume.prepare(slot).is_ok();
                let completion = Completion::Prepared { slot, ready };
                self.schedule_completion(after, place, completion);
            }
        }
    }

    fn submit_disk(&mut self, place: usize, mut operation: DiskOp) {
        let generation = self.places[place].generation;
        let mut after = self.random.delay(self.swarm.disk_delay);
        if !self.healed && self.random.happens(self.swarm.disk_stall) {
            after += self.random.between(100, 2_000) * MILLISECOND;
            self.injected(Fault::DiskStall);
        }
        if self.places[place].disk.begins_used_segment(&operation) {
            self.coverage.mark(RareEvent::SegmentReused);
            if self.random.happens(self.swarm.crash) {
                let soon = after + self.random.between(0, 2 * MILLISECOND);
                self.schedule(soon, Event::Crash(self.places[place].node));
            }
        }
        let submitted = self.places[place].disk.submit(&mut operation);
        match operation {
            DiskOp::Write { id, .. } => {
                assert!(
                    submitted.is_ok(),
                    "the log writes where it may: {submitted:?}"
                );
                self.plan_fault(place, id);
                self.schedule(
                    after,
                    Event::WriteDone {
                        place,
                        generation,
                        id,
                    },
                );
            }
            DiskOp::Read { id, mut buffer, .. } => {
                self.coverage.mark(RareEvent::EntriesReadBack);
                let result = submitted.and_then(|()| self.read_result(&mut buffer));
                let completion = Completion::Read { id, buffer, result };
                self.schedule_completion(after, place, completion);
            }
        }
    }

    /// Drives that lose what they acknowledge, of nodes where the fault atlas allows it.
    fn plan_fault(&mut self, place: usize, id: u64) {
        let may = !self.healed && self.may_lose(self.places[place].node);
        let (lost, misdirected) = (self.swarm.lost_write, self.swarm.misdirected_write);
        let disk = &mut self.places[place].disk;
        if may && self.random.happens(lost) {
            disk.plan_fault(id, WriteFault::Lost);
        } else if may && self.random.happens(misdirected) {
            disk.plan_fault(id, WriteFault::Misdirected);
        }
    }

    fn read_result(&mut self, buffer: &mut ReadBuffer) -> Result<usize, i32> {
        if !self.healed && self.random.happens(self.swarm.read_error) {
            self.injected(Fault::ReadError);
            return Err(EIO);
        }
        if !self.healed && self.random.happens(self.swarm.wrong_read) {
            self.injected(Fault::WrongRead);
            let position = self.random.below(buffer.len());
            buffer.as_mut_slice()[position] ^= 1 << self.random.below(8);
        }
        Ok(buffer.len())
    }

    pub(crate) fn write_done(&mut self, position: usize, generation: u64, id: u64) {
        if self.places[position].generation != generation {
            return;
        }
        let fails = !self.healed && self.random.happens(self.swarm.disk_error);
        let result = if fails {
            self.injected(Fault::WriteError);
            Err(EIO)
        } else {
            if self.places[position].disk.overtakes(id) {
                self.injected(Fault::Reordered);
            }
            let disk = &mut self.places[position].disk;
            let written = disk.finish(id).ok_or(EIO);
            for fault in disk.apply_due_faults(&mut self.random) {
                self.injected(fault);
            }
            written
        };
        let completion = Completion::Written { id, result };
        self.complete(position, generation, completion);
    }

    fn send(
        &mut self,
        place: usize,
        socket: SocketId,
        batch: pontoon::transport::SendBatch<pontoon::storage::RecordBytes>,
    ) {
        let mut bytes: Vec<u8> = batch.slices().flatten().copied().collect();
        if self.checks.promises() {
            self.check_promises(place, socket, &bytes);
        }
        if self.random.happens(100_000) {
            let count = 1 + self.random.below(bytes.len());
            if count < bytes.len() {
                self.injected(Fault::ShortSend);
            }
            bytes.truncate(count);
        }
        let result = match self.network.end(socket).map(|end| end.other) {
            None => Err(EPIPE),
            Some(_) => Ok(bytes.len()),
        };
        let other = self.network.end(socket).map(|end| end.other);
        if !self.healed && self.random.happens(self.swarm.bit_flip) {
            let position = self.random.below(bytes.len());
            bytes[position] ^= 1 << self.random.below(8);
            self.injected(Fault::BitFlip);
        }
        let delay = self.random.delay(self.swarm.network_delay);
        let now = self.now;
        let mut after = self.random.between(500, 5_000);
        if let Some(end) = other.and_then(|other| self.network.end_mut(other)) {
            let at = (now + delay).max(end.last_arrival + 1);
            let at = at.max(end.clogged_until);
            end.last_arrival = at;
            after = after.max(end.clogged_until.saturating_sub(now));
            let socket = other.expect("it has an end");
            self.schedule(at - now, Event::Arrive { socket, bytes });
        }
        let completion = Completion::Sent {
            socket,
            batch,
            result,
        };
        self.schedule_completion(after, place, completion);
    }

    pub(crate) fn arrive(&mut self, socket: SocketId, bytes: &[u8]) {
        let Some(end) = self.network.end(socket) else {
            return;
        };
        // Where the sender is gone, what it sent still arrives.
        let blocked = self.network.end(end.other).is_some_and(|other| {
            let (from, to) = (self.places[other.place].node, self.places[end.place].node);
            self.network.is_blocked(from, to)
        });
        self.network.arrive(socket, bytes, !blocked);
        if blocked {
            // TCP sends it again, until the way is free.
            let bytes = Vec::new();
            return self.schedule(20 * MILLISECOND, Event::Arrive { socket, bytes });
        }
        self.deliver(socket);
    }

    pub(crate) fn deliver(&mut self, socket: SocketId) {
        let Some((place, generation)) = self
            .network
            .end(socket)
            .map(|end| (end.place, end.generation))
        else {
            return;
        };
        if let Some(completion) = self.network.deliver(socket) {
            self.complete(place, generation, completion);
        }
    }

    pub(crate) fn dialled(&mut self, place: usize, generation: u64, peer: NodeId) {
        if self.places[place].generation != generation || self.places[place].shard.is_none() {
            return;
        }
        let (from, core) = (self.places[place].node, self.places[place].core);
        let to = peer.0 as usize - 1;
        let acceptor = self.place(to, core);
        let blocked = self.network.is_blocked(from, to) || self.network.is_blocked(to, from);
        if blocked || self.places[acceptor].shard.is_none() {
            return self.complete(place, generation, Completion::DialFailed { peer });
        }
        let acceptor_generation = self.places[acceptor].generation;
        let sockets = self
            .network
            .connect([(place, generation), (acceptor, acceptor_generation)]);
        self.trace.event(
            self.now,
            TraceKind::Connected,
            &[place as u64, acceptor as u64],
            format_args!("place {place} is connected to {acceptor}"),
        );
        let socket = sockets[0];
        self.complete(place, generation, Completion::Connected { peer, socket });
        let (peer, socket) = (NodeId(from as u64 + 1), sockets[1]);
        let connected = Completion::Connected { peer, socket };
        self.complete(acceptor, acceptor_generation, connected);
    }
}

//! What a shard asks for, carried out on the simulated disk and network.

use pontoon::NodeId;
use pontoon::port::{Completion, Operation, SocketId};
use pontoon::storage::{DiskOp, ReadBuffer, Volume};

use crate::coverage::RareEvent;
use crate::faults::Fault;
use crate::links::Link;
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
                self.check_displaced(place, socket);
                if let Some(other) = self.network.close(socket) {
                    let last = self.network.end(other).map_or(0, |end| end.last_arrival);
                    let after = last.saturating_sub(self.now) + 1;
                    self.schedule(after, Event::Ended { socket: other });
                }
            }
            Operation::Dial { peer } => {
                // SYN and its answer, then the hellos.
                let after = 3 * self.swarm.way + self.random.delay(self.swarm.network_delay);
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
                let prepared = Event::Complete {
                    place,
                    generation,
                    completion,
                };
                self.schedule_segment(after, place, prepared);
            }
        }
    }

    fn submit_disk(&mut self, place: usize, mut operation: DiskOp) {
        let generation = self.places[place].generation;
        let mut after = self.random.delay(self.swarm.disk_delay);
        after += self.disk_is_slow(self.places[place].node);
        self.count_disk(place, &operation);
        if self.may_fail() && self.random.happens(self.swarm.disk_stall) {
            after += self.random.between(100, 2_000) * MILLISECOND;
            self.steady.lasts_until(self.now + after);
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
                // A dead sector takes nothing: the write fails when it would have been done.
                assert!(
                    matches!(submitted, Ok(()) | Err(EIO)),
                    "the log writes where it may: {submitted:?}"
                );
                self.plan_fault(place, id);
                let done = Event::WriteDone {
                    place,
                    generation,
                    id,
                };
                self.schedule_disk(after, place, done);
            }
            DiskOp::Read { id, mut buffer, .. } => {
                self.coverage.mark(RareEvent::EntriesReadBack);
                if submitted.is_err() {
                    self.excuse_resends(place, after);
                }
                let result = submitted.and_then(|()| self.read_result((place, after), &mut buffer));
                let completion = Completion::Read { id, buffer, result };
                let done = Event::Complete {
                    place,
                    generation,
                    completion,
                };
                self.schedule_disk(after, place, done);
            }
        }
    }

    /// Drives that lose what they acknowledge, of nodes where the fault atlas allows it.
    fn plan_fault(&mut self, place: usize, id: u64) {
        let may = self.may_fail() && self.may_lose(self.places[place].node);
        let (lost, misdirected) = (self.swarm.lost_write, self.swarm.misdirected_write);
        let disk = &mut self.places[place].disk;
        if may && self.random.happens(lost) {
            disk.plan_fault(id, WriteFault::Lost);
        } else if may && self.random.happens(misdirected) {
            disk.plan_fault(id, WriteFault::Misdirected);
        }
    }

    /// A read at a place ends after so many nanoseconds.
    fn read_result(
        &mut self,
        (place, after): (usize, u64),
        buffer: &mut ReadBuffer,
    ) -> Result<usize, i32> {
        let fails = self.may_fail() && self.random.happens(self.swarm.read_error);
        let wrong = !fails && self.may_fail() && self.random.happens(self.swarm.wrong_read);
        if fails || wrong || self.places[place].disk.decayed {
            self.excuse_resends(place, after);
        }
        if fails {
            self.injected(Fault::ReadError);
            return Err(EIO);
        }
        if wrong {
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
        let fails = self.may_fail() && self.random.happens(self.swarm.disk_error);
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

    pub(crate) fn send(
        &mut self,
        place: usize,
        socket: SocketId,
        batch: pontoon::transport::SendBatch<pontoon::storage::RecordBytes>,
    ) {
        let other = self.network.end(socket).map(|end| end.other);
        let mut count = batch.bytes();
        if self.random.happens(100_000) {
            count = 1 + self.random.below(count);
        }
        if let Some((room, _)) = self.room(place, other) {
            if room == 0 && !self.network.has_ended(socket) {
                self.coverage.mark(RareEvent::SendWaited);
                return self.network.hold_send(socket, batch);
            }
            count = count.min(room.max(1));
        }
        if count < batch.bytes() {
            self.injected(Fault::ShortSend);
        }
        let mut bytes = Vec::with_capacity(count);
        for slice in batch.slices() {
            let left = count - bytes.len();
            bytes.extend_from_slice(&slice[..slice.len().min(left)]);
        }
        self.note_sent(place, socket, &bytes);
        let result = other.map_or(Err(EPIPE), |_| Ok(bytes.len()));
        if self.may_fail() && self.random.happens(self.swarm.bit_flip) {
            let position = self.random.below(bytes.len());
            bytes[position] ^= 1 << self.random.below(8);
            self.injected(Fault::BitFlip);
        }
        let mut after = self.random.between(500, 5_000);
        if let Some(other) = other {
            after = after.max(self.carry(place, other, bytes));
        }
        let completion = Completion::Sent {
            socket,
            batch,
            result,
        };
        self.schedule_completion(after, place, completion);
    }

    /// How many bytes more the socket takes, and all that it has room for; `None` without a limit.
    fn room(&mut self, place: usize, other: Option<SocketId>) -> Option<(usize, usize)> {
        let other = other?;
        let to = self.network.end(other)?.place;
        let (from, to) = (self.places[place].node, self.places[to].node);
        let buffer = self.network.links.between(from, to)?.buffer;
        let room = buffer.saturating_sub(self.network.outstanding(other));
        Some((room, buffer))
    }

    /// Bytes are on their way to the other end of a connection. Gives after how many nanoseconds
    /// their send is over.
    fn carry(&mut self, place: usize, other: SocketId, bytes: Vec<u8>) -> u64 {
        let Some(to) = self.network.end(other).map(|end| end.place) else {
            return 0;
        };
        let (from, to) = (self.places[place].node, self.places[to].node);
        if self.network.links.between(from, to).is_some() {
            self.network.enqueue(other, &bytes);
            self.transmit_next(other);
            return 0;
        }
        self.launch(other, bytes)
    }

    /// Bytes leave for this end. Gives after how long it accepts them, if it does not at once.
    fn launch(&mut self, socket: SocketId, bytes: Vec<u8>) -> u64 {
        let delay = self.swarm.way + self.random.delay(self.swarm.network_delay);
        let now = self.now;
        let Some(end) = self.network.end_mut(socket) else {
            return 0;
        };
        let at = (now + delay).max(end.last_arrival + 1);
        let at = at.max(end.clogged_until);
        end.last_arrival = at;
        let accepts_after = end.clogged_until.saturating_sub(now);
        self.schedule(at - now, Event::Arrive { socket, bytes });
        accepts_after
    }

    /// The next piece of what waits for this end begins to pass its link, unless one does already.
    fn transmit_next(&mut self, socket: SocketId) {
        let queued = self.network.queued(socket);
        let Some(after) = self.link_to(socket).map(|(link, now)| {
            let piece = queued.min(link.piece(now));
            link.time(now, piece)
        }) else {
            return;
        };
        if let Some(end) = self.network.end_mut(socket)
            && queued > 0
            && !std::mem::replace(&mut end.transmits, true)
        {
            self.schedule(after, Event::Transmitted { socket });
        }
    }

    /// A piece has passed the link towards this end, if that carries anything now.
    pub(crate) fn transmitted(&mut self, socket: SocketId) {
        let Some((hangs, piece)) = self
            .link_to(socket)
            .map(|(link, now)| (now < link.hangs_until, link.piece(now)))
        else {
            return;
        };
        if let Some(end) = self.network.end_mut(socket) {
            end.transmits = false;
        }
        if !hangs {
            let bytes = self.network.dequeue(socket, piece);
            if !bytes.is_empty() {
                self.launch(socket, bytes);
            }
        }
        self.transmit_next(socket);
    }

    /// The link towards this end, if it has limits, and the time.
    fn link_to(&mut self, socket: SocketId) -> Option<(Link, u64)> {
        let end = self.network.end(socket)?;
        let from = self.network.end(end.other)?.place;
        let (from, to) = (self.places[from].node, self.places[end.place].node);
        let link = *self.network.links.between(from, to)?;
        Some((link, self.now))
    }

    /// A send that found no room goes on, if there is some now or its connection has ended.
    fn send_on(&mut self, socket: SocketId) {
        let Some(place) = self.network.end(socket).map(|end| end.place) else {
            return;
        };
        let other = self.network.end(socket).map(|end| end.other);
        let ended = self.network.has_ended(socket);
        // As Linux has it: whoever waits is woken once a good part of the buffer is free.
        let little = |(room, buffer): (usize, usize)| room < buffer / 4;
        if !ended && self.room(place, other).is_some_and(little) {
            return;
        }
        if let Some(batch) = self.network.take_send(socket) {
            if ended {
                let result = Err(EPIPE);
                let completion = Completion::Sent {
                    socket,
                    batch,
                    result,
                };
                return self.schedule_completion(1_000, place, completion);
            }
            self.send(place, socket, batch);
        }
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
            if let Some(other) = self.network.end(socket).map(|end| end.other) {
                self.send_on(other);
            }
        }
        if self.network.has_ended(socket) {
            self.send_on(socket);
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
        self.maybe_add_stranger(place, acceptor);
    }
}

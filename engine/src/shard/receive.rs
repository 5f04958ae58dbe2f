//! From a peer's frame to steps of its groups. Nothing of it is believed before it is checked.

use std::ops::Range;

use pontoon_raft::{
    AppendEntries, Body, EntryKind, EntryMeta, Founding, GroupId, LogRoom, Message, NodeId, Raft,
    Term,
};
use pontoon_storage::{AppendError, RecordKind, SegmentLog, record};
use pontoon_transport::Frame;

use super::groups::Groups;
use super::link::Said;
use super::mutant::Mutant;
use super::persist::{STEP_BYTES, Source};
use super::replicas::ReplicaSlot;
use crate::reason::{DropReason, FrameError};
use crate::wire;

/// What is known of the entries of the message being stepped. Keeps its memory.
#[derive(Debug, Default)]
pub(super) struct Received {
    pub(super) metas: Vec<EntryMeta>,
    /// Where each entry's record lies in the frame's records.
    pub(super) ranges: Vec<Range<usize>>,
}

impl Groups {
    /// Steps every message of a frame. Gives what it had in it.
    ///
    /// # Errors
    /// Why the connection must be closed: what came can't be from a correct peer.
    pub(super) fn receive_frame(
        &mut self,
        from: NodeId,
        frame: &Frame<'_>,
        received: &mut Received,
    ) -> Result<Said, FrameError> {
        let records = frame.records();
        let (mut at, mut said) = (0, Said::There);
        for head in frame.heads() {
            let message = wire::message(&head).ok_or(FrameError::Head)?;
            let group = GroupId(head.group);
            at = received.take(group, &message, records, at)?;
            self.statistics.messages_received += 1;
            said = said.max(match message.body {
                Body::AppendResponse(_) | Body::VoteResponse(_) => Said::Answers,
                _ => Said::OfGroups,
            });
            let source = Source::Frame {
                records,
                ranges: &received.ranges,
            };
            if let Err(reason) = self.step((from, group), message, &received.metas, source) {
                tracing::debug!(peer = %from, %group, %message, %reason, "message dropped");
                let dropped = &mut self.statistics.messages_dropped;
                *dropped.entry(reason).or_default() += 1;
            }
        }
        if at == records.len() {
            Ok(said)
        } else {
            Err(FrameError::TrailingBytes)
        }
    }

    /// # Errors
    /// Why the message was dropped, as if it had been lost on its way.
    fn step(
        &mut self,
        (from, group): (NodeId, GroupId),
        message: Message,
        entries: &[EntryMeta],
        source: Source<'_>,
    ) -> Result<(), DropReason> {
        let slot = self.slot(group).ok_or(DropReason::UnknownGroup)?;
        if self.failed {
            return Err(DropReason::LogFailed);
        }
        let replica = &mut self.replicas[slot];
        let is_founding = matches!(message.body, Body::Founding(_));
        if replica.definition.is_lost()
            && let Body::Founding(said) = message.body
        {
            self.answer_as_lost(slot, from, said);
            return Ok(());
        }
        if !replica.takes_part() && !is_founding {
            return Err(DropReason::NoStateMachine);
        }
        if !replica.definition.has_member(from) {
            self.note_stranger(slot, from);
            return Err(DropReason::NotAMember);
        }
        let raft = &mut replica.raft;
        let bytes: usize = entries.iter().map(|entry| entry.bytes as usize).sum();
        // What a failed machine will never let go of must not fill the log of all groups.
        let only_grows = replica.machine_failure.is_some() && self.log.is_short();
        let room = match log_room(self.log.admit(bytes + STEP_BYTES)) {
            LogRoom::Enough if only_grows => LogRoom::Full,
            LogRoom::Short if self.config.mutants.is(Mutant::ShortIsFull) => LogRoom::Full,
            room => room,
        };
        raft.set_room(room);
        let refuses = room != LogRoom::Enough && !takes_at_all_times(&self.log, entries, bytes);
        let (message, entries) = if refuses {
            // Its leader is heard of all the same, and learns why its entries are not taken.
            (as_heartbeat(message), &[][..])
        } else {
            (message, entries)
        };
        if refuses && self.config.mutants.is(Mutant::FullLogIsDeaf) {
            return Err(DropReason::LogFull);
        }
        if refuses && may_persist(&message, raft) {
            let admitted = self.log.admit_reserved(STEP_BYTES);
            admitted.map_err(|_| DropReason::LogFull)?;
        }
        raft.step(self.now, from, message, entries, &mut self.output);
        self.process_output(slot, source);
        Ok(())
    }
}

impl Groups {
    /// Of this group nothing but its number is left here. Whoever is to meet all members has met
    /// this one all the same, and it may have promised something.
    fn answer_as_lost(&mut self, slot: ReplicaSlot, from: NodeId, said: Founding) {
        let answer = Founding {
            founded: true,
            asks: false,
            ..said
        };
        if said.asks {
            self.outbox.push((slot, from, Message::new(Term(0), answer)));
        }
    }

    /// A node that is no member here was told that it is one: the group was made with other members
    /// there, and a majority there may be none here. Said once of each.
    fn note_stranger(&mut self, slot: ReplicaSlot, peer: NodeId) {
        let replica = &mut self.replicas[slot];
        if !replica.strangers.insert(peer) {
            return;
        }
        if let Some(suppressed) = self.lines.admit("not_a_member", self.now) {
            let members = replica.definition.membership().members();
            tracing::warn!(
                node = %self.config.node, %peer, group = %replica.id, ?members, suppressed,
                "a node that is no member of a group sends messages of it: it was made with other \
                 members there; both may lead it and acknowledge"
            );
        }
    }
}

/// Whether these entries find room where others find none: empty ones of leaders, of which there
/// are few. Before one of its own term a leader can't tell what is committed (thesis 3.6.2), so
/// that what was acknowledged would not be applied where all logs are full.
fn takes_at_all_times(log: &SegmentLog, entries: &[EntryMeta], bytes: usize) -> bool {
    let are_empty = entries.iter().all(|entry| entry.kind == EntryKind::Noop);
    are_empty && !entries.is_empty() && log.admit_reserved(bytes + STEP_BYTES).is_ok()
}

/// What a follower tells its leader of its room. Only a log without space is full: memory comes
/// back with the next write, and a segment that is being prepared is there soon.
fn log_room(admitted: Result<(), AppendError>) -> LogRoom {
    match admitted {
        Ok(()) => LogRoom::Enough,
        Err(error) if error.is_full() => LogRoom::Full,
        Err(_) => LogRoom::Short,
    }
}

/// An AppendEntries without its entries; other messages as they are.
fn as_heartbeat(message: Message) -> Message {
    match message.body {
        Body::AppendEntries(request) => {
            let heartbeat = AppendEntries {
                count: 0,
                ..request
            };
            Message::new(message.term, heartbeat)
        }
        _ => message,
    }
}

/// Whether a step with this message may ask to persist something.
fn may_persist(message: &Message, raft: &Raft) -> bool {
    match message.body {
        Body::AppendEntries(request) if request.count > 0 => true,
        // A damage report makes the leader append an entry.
        Body::AppendResponse(response) if response.tainted => true,
        Body::AppendEntries(_) | Body::AppendResponse(_) => message.term > raft.current_term(),
        _ => true,
    }
}

impl Received {
    /// Reads the records of a message, which begin at `at`; gives where they end.
    ///
    /// Each must be sound, an entry of this group, at its place, of a term the sender can know.
    fn take(
        &mut self,
        group: GroupId,
        message: &Message,
        records: &[u8],
        mut at: usize,
    ) -> Result<usize, FrameError> {
        self.metas.clear();
        self.ranges.clear();
        let Body::AppendEntries(request) = message.body else {
            return Ok(at);
        };
        let mut expected = request.prev_log.index;
        for _ in 0..request.count {
            let record = record::parse(&records[at..]).map_err(|_| FrameError::Record)?;
            expected = expected.next();
            let kind = entry_kind(record.kind).ok_or(FrameError::RecordKind)?;
            let entry_term = record.term;
            if record.group != group || record.index != expected || entry_term > message.term {
                return Err(FrameError::RecordMismatch);
            }
            let range = at..at + record.encoded_bytes;
            at = range.end;
            self.metas.push(EntryMeta {
                term: entry_term,
                bytes: u32::try_from(range.len()).expect("shorter than a frame"),
                kind,
            });
            self.ranges.push(range);
        }
        Ok(at)
    }
}

fn entry_kind(kind: RecordKind) -> Option<EntryKind> {
    match kind {
        RecordKind::Command => Some(EntryKind::Command),
        RecordKind::Noop => Some(EntryKind::Noop),
        RecordKind::Membership => Some(EntryKind::Membership),
        _ => None,
    }
}

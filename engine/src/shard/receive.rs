//! From a peer's frame to steps of the core. Nothing of it is believed before it is checked.

use std::ops::Range;

use pontoon_raft::{EntryKind, EntryMeta, GroupId, Message, NodeId, Raft};
use pontoon_storage::{RecordKind, record};
use pontoon_transport::Frame;

use super::Shard;
use super::persist::STEP_BYTES;
use crate::wire;

/// What is known of the entries of the message being stepped. Keeps its memory.
#[derive(Debug, Default)]
pub(super) struct Received {
    pub(super) metas: Vec<EntryMeta>,
    /// Where each entry's record lies in the frame's records.
    pub(super) ranges: Vec<Range<usize>>,
}

impl Shard {
    /// Steps every message of a frame.
    ///
    /// # Errors
    /// Why the connection must be closed: what came can't be from a sound peer.
    pub(super) fn take_frame(
        &mut self,
        from: NodeId,
        frame: &Frame<'_>,
    ) -> Result<(), &'static str> {
        let records = frame.records();
        let mut at = 0;
        for head in frame.heads() {
            let message = wire::message(&head).ok_or("head")?;
            let group = GroupId(head.group);
            at = self.received.take(group, &message, records, at)?;
            self.statistics.messages_received += 1;
            if let Err(reason) = self.step(from, group, message, records) {
                let dropped = &mut self.statistics.messages_dropped;
                *dropped.entry(reason).or_default() += 1;
            }
        }
        if at == records.len() {
            Ok(())
        } else {
            Err("records behind the last head")
        }
    }

    /// # Errors
    /// Why the message was dropped, as if it had been lost on its way.
    fn step(
        &mut self,
        from: NodeId,
        group: GroupId,
        message: Message,
        records: &[u8],
    ) -> Result<(), &'static str> {
        let slot = self.slot(group).ok_or("unknown group")?;
        if self.failed {
            return Err("failed log");
        }
        let replica = &mut self.replicas[slot];
        if replica.machine.is_none() {
            return Err("no machine");
        }
        if !replica.definition.has_member(from) {
            return Err("not a member");
        }
        if may_persist(&message, &replica.raft) {
            let bytes: usize = self.received.ranges.iter().map(Range::len).sum();
            let admitted = self.log.admit(bytes + STEP_BYTES);
            admitted.map_err(|_| "log full")?;
        }
        let metas = &self.received.metas;
        replica
            .raft
            .step(self.now, from, message, metas, &mut self.output);
        self.absorb_with(slot, records);
        Ok(())
    }
}

/// Whether the core may ask to persist something when it is given this.
fn may_persist(message: &Message, raft: &Raft) -> bool {
    match message {
        Message::AppendEntries { count, .. } if *count > 0 => true,
        // A damage report makes the leader append an entry.
        Message::AppendResponse { tainted: true, .. } => true,
        Message::AppendEntries { term, .. } | Message::AppendResponse { term, .. } => {
            *term > raft.current_term()
        }
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
    ) -> Result<usize, &'static str> {
        self.metas.clear();
        self.ranges.clear();
        let Message::AppendEntries {
            term,
            prev_log_index,
            count,
            ..
        } = *message
        else {
            return Ok(at);
        };
        let mut expected = prev_log_index;
        for _ in 0..count {
            let record = record::parse(&records[at..]).map_err(|_| "record")?;
            expected = expected.next();
            let kind = entry_kind(record.kind).ok_or("kind of record")?;
            let entry_term = record.term;
            if record.group != group || record.index != expected || entry_term > term {
                return Err("record out of place");
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

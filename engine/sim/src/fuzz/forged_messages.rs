//! One core among peers that say anything: it neither panics nor breaks what one replica can keep.

use std::collections::VecDeque;

use pontoon::NodeId;
use pontoon::raft::{
    AppendEntries, AppendOutcome, AppendResponse, Appended, Body, Boot, EntryId, EntryKind,
    EntryMeta, HardState, LogIndex, LogRoom, Message, Output, Raft, Repaired, RequestVote, Term,
    Time, VoteKind, VoteResponse, WriteSequence,
};

use super::bytes::Bytes;
use super::lone_raft::{meta, raft, term_runs};
use super::replica_invariants::ReplicaInvariants;

const STEPS_MAX: usize = 1_000;
const THIS: NodeId = NodeId(1);

#[derive(Clone, Default)]
struct Image {
    hard_state: HardState,
    log: Vec<Term>,
    tainted: bool,
}

struct Core {
    raft: Raft,
    watch: ReplicaInvariants,
    now: Time,
    starts: u64,
    current: Image,
    durable: Image,
    written: WriteSequence,
    writes: VecDeque<(WriteSequence, Image)>,
}

/// Steps of one byte and what it calls for, until the input ends.
pub(super) fn run(mut input: Bytes<'_>) {
    let mut core = Core {
        raft: raft(THIS, 1, Time(0), Boot::default()),
        watch: ReplicaInvariants::default(),
        now: Time(0),
        starts: 1,
        current: Image::default(),
        durable: Image::default(),
        written: WriteSequence(0),
        writes: VecDeque::new(),
    };
    for _ in 0..STEPS_MAX {
        if input.is_empty() {
            return;
        }
        core.step(&mut input);
    }
}

/// Mostly a small number, now and then one at an edge.
fn number(input: &mut Bytes<'_>) -> u64 {
    match input.byte() {
        251 => 1 << 32,
        252 => u64::MAX / 2,
        253 => u64::MAX / 2 + 1,
        254 => u64::MAX - 1,
        255 => u64::MAX,
        small => u64::from(small) % 64,
    }
}

impl Core {
    fn step(&mut self, input: &mut Bytes<'_>) {
        let what = input.byte();
        match what % 16 {
            0..=7 => self.hear(what, input),
            8 | 9 => {
                let pace = [5, 100, 400, 1_100][usize::from(what >> 4) % 4];
                self.now = Time(self.now.0 + pace);
                self.call(&[], |raft, now, output| raft.tick(now, output));
            }
            10 | 11 => {
                if let Some((sequence, image)) = self.writes.pop_front() {
                    self.durable = image;
                    self.call(&[], |raft, now, output| {
                        raft.on_persisted(now, sequence, output);
                    });
                }
            }
            12 => self.propose(),
            13 => self.restart(what >> 4 == 15),
            14 => {
                let to = NodeId(u64::from(what >> 4) % 4);
                self.call(&[], |raft, now, output| {
                    // Refused unless it leads.
                    let _ = raft.transfer_leadership(now, to, output);
                    raft.report_unreachable(to);
                });
            }
            _ => {
                self.raft.on_applied(self.raft.commit_index());
                self.raft.compact(self.raft.replicated_everywhere());
                self.watch.look(&self.raft);
            }
        }
    }

    fn call(&mut self, received: &[EntryMeta], call: impl FnOnce(&mut Raft, Time, &mut Output)) {
        let mut output = Output::default();
        call(&mut self.raft, self.now, &mut output);
        let image = &mut self.current;
        image.hard_state = output.hard_state.unwrap_or(image.hard_state);
        image.tainted &= !output.repaired;
        for appended in &output.appended {
            let (first, terms) = match *appended {
                Appended::Noop(entry) => (entry.index, vec![entry.term]),
                Appended::Proposed { first_index, .. } => (
                    first_index,
                    received.iter().map(|entry| entry.term).collect(),
                ),
                Appended::Received {
                    first_index,
                    skip,
                    count,
                } => {
                    let taken = received.iter().skip(skip as usize).take(count as usize);
                    (first_index, taken.map(|entry| entry.term).collect())
                }
            };
            image.log.truncate(first.0 as usize - 1);
            image.log.extend(terms);
        }
        let sequence = self.raft.write_sequence();
        if sequence > self.written {
            self.written = sequence;
            self.writes.push_back((sequence, self.current.clone()));
        }
        let last = self.raft.last_index().0 as usize;
        assert_eq!(
            last,
            self.current.log.len(),
            "the log is what was persisted"
        );
        self.watch.look(&self.raft);
    }

    fn propose(&mut self) {
        let entry = meta(self.raft.current_term(), EntryKind::Command);
        self.call(&[entry], |raft, now, output| {
            // Refused unless it leads.
            let _ = raft.propose(now, &[entry], output);
        });
    }

    /// The power fails, and the disk may have lost what was durable.
    fn restart(&mut self, damaged: bool) {
        self.starts += 1;
        self.writes.clear();
        self.written = WriteSequence(0);
        self.durable.tainted |= damaged;
        self.current = self.durable.clone();
        let boot = Boot {
            hard_state: self.durable.hard_state,
            terms: term_runs(self.durable.log.iter().copied()),
            last_index: LogIndex(self.durable.log.len() as u64),
            tainted: self.durable.tainted,
            ..Boot::default()
        };
        self.raft = raft(THIS, self.starts, self.now, boot);
        self.watch = ReplicaInvariants::default();
        self.watch.look(&self.raft);
    }

    /// A peer says something: `what` has who and flags in its upper half.
    fn hear(&mut self, what: u8, input: &mut Bytes<'_>) {
        let from = NodeId(2 + u64::from(what >> 4 & 1));
        let yes = what >> 5 & 1 != 0;
        let kind = [VoteKind::PreVote, VoteKind::Vote, VoteKind::Transfer];
        let kind = kind[usize::from(what >> 6) % 3];
        let term = Term(number(input));
        let mut entries = Vec::new();
        let message = match what % 8 {
            0 => {
                let last_log = EntryId::new(LogIndex(number(input)), Term(number(input)));
                Message::new(term, RequestVote { last_log, kind })
            }
            1 => {
                let granted = yes;
                Message::new(term, VoteResponse { granted, kind })
            }
            2..=4 => {
                let count = input.below(5);
                let prev_log = EntryId::new(LogIndex(number(input)), Term(number(input)));
                let leader_commit = LogIndex(number(input));
                let mut forge = || meta(Term(number(input)), EntryKind::Command);
                entries = (0..count).map(|_| forge()).collect();
                let request = AppendEntries {
                    prev_log,
                    count: count as u32,
                    leader_commit,
                    round: 1,
                    replicated_everywhere: leader_commit,
                };
                Message::new(term, request)
            }
            5 => self.answer(term, yes, from, input),
            6 => {
                let log_epoch = number(input);
                Message::new(term, Repaired { log_epoch })
            }
            _ => Message::new(term, Body::TimeoutNow),
        };
        self.call(&entries, |raft, now, output| {
            raft.step(now, from, message, &entries, output);
        });
    }

    fn answer(&self, term: Term, yes: bool, from: NodeId, input: &mut Bytes<'_>) -> Message {
        // Guessing the term of a leader is hard, and nothing else is looked at in any other.
        let known = self.raft.is_leader() && from.0.is_multiple_of(2);
        let term = if known {
            self.raft.current_term()
        } else {
            term
        };
        let index = LogIndex(number(input));
        let outcome = if yes {
            AppendOutcome::Accepted { match_index: index }
        } else {
            AppendOutcome::Rejected {
                prev_log_index: index,
                hint: EntryId::new(LogIndex(number(input)), Term(number(input))),
            }
        };
        let log_epoch = number(input);
        let flags = input.byte();
        let response = AppendResponse {
            round: 1,
            outcome,
            log_epoch,
            tainted: flags.is_multiple_of(4),
            room: match flags % 8 {
                1 => LogRoom::Full,
                2 => LogRoom::Short,
                _ => LogRoom::Enough,
            },
            renounced: false,
        };
        Message::new(term, response)
    }
}

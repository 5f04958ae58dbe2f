//! One replica of one group: its state, and where each event goes.

use rand_pcg::Pcg32;
use rand_pcg::rand_core::{RngCore, SeedableRng};

use crate::config::{Boot, RaftConfig};
use crate::founding::Meeting;
use crate::log::Log;
use crate::membership::Membership;
use crate::message::{Body, EntryMeta, LogRoom, Message, RequestVote, VoteKind, VoteResponse};
use crate::mutant::Mutant;
use crate::output::{HardState, Output};
use crate::role::Role;
use pontoon_types::{EntryId, LogIndex, NodeId, Term, Time, WriteSequence};

/// Highest term that is believed, and that a log takes from its disk.
const TERM_MAX: Term = Term(u64::MAX / 2);

/// A term further ahead than this is forged, and ignored.
///
/// Whoever is in a term has it from a candidate that made it durable before it asked for votes in
/// it: one write a term. At ten microseconds a write, one after the other for 89 years, a group is
/// so many terms ahead of the member that was cut off all the while.
const TERMS_AHEAD_MAX: u64 = 1 << 48;

/// A message moves the term by this much at most.
///
/// Of a term further ahead only so much is adopted, and the message dropped. That is as safe as a
/// campaign, which makes up a term as well. A correct peer, so far ahead after an election a second
/// for twelve days, is followed a few messages later: one for each such step. A liar comes to the
/// last term only after 2^43 messages.
const TERMS_PER_MESSAGE_MAX: u64 = 1 << 20;

/// A replica of a Raft group.
///
/// Owned by one thread. Deterministic: the same calls give the same outputs. What a call leaves
/// in [`Output::appended`] and [`Output::hard_state`] must be staged for the disk, in order,
/// before the next call.
#[derive(Clone, Debug)]
pub struct Raft {
    pub(crate) config: RaftConfig,
    pub(crate) membership: Membership,
    /// The time of the call under way.
    pub(crate) now: Time,
    /// Latest term seen. Invariant: never decreases.
    pub(crate) current_term: Term,
    /// Who received this node's vote in `current_term`. Kept when it steps down.
    pub(crate) voted_for: Option<NodeId>,
    pub(crate) log: Log,
    /// Highest entry known to be committed. Invariant: never decreases, `<= last_index`.
    pub(crate) commit_index: LogIndex,
    /// Highest entry applied. Invariant: `<= commit_index`.
    pub(crate) last_applied: LogIndex,
    /// Every member holds the log up to here, as far as is known.
    pub(crate) replicated_everywhere: LogIndex,
    pub(crate) role: Role,
    pub(crate) election_deadline: Time,
    /// Epoch of the log: higher at every start of it.
    pub(crate) log_epoch: u64,
    /// The disk lost something durable. It follows, and promises nothing.
    pub(crate) tainted: bool,
    /// Whom it has met, until it is founded. Invariant: then it is tainted.
    pub(crate) meeting: Option<Meeting>,
    /// A digest of the group's definition.
    pub(crate) definition: u64,
    /// Of a tainted replica's log, what is known to be the leader's.
    pub(crate) verified: LogIndex,
    /// The log failed while running: this replica leads and campaigns no more.
    pub(crate) log_failed: bool,
    /// It leads and campaigns no more, and follows and votes as ever.
    pub(crate) renounced: bool,
    /// The log takes no entries of a leader at present.
    pub(crate) room: LogRoom,
    /// The write that holds the newest term, vote or end of a repair.
    pub(crate) promised_by: WriteSequence,
    jitter: Pcg32,
}

impl Raft {
    /// A follower with what its disk held.
    ///
    /// # Panics
    /// If `boot` contradicts itself, which a recovered log never does.
    #[must_use]
    pub fn new(config: RaftConfig, boot: Boot, now: Time) -> Self {
        let log = Log::new(&boot);
        let compacted = log.compacted().index;
        // What a damaged log says of commitment may be of entries that it has no more.
        let (commit_index, applied) = match boot.tainted {
            true => (compacted, compacted),
            false => (boot.commit_index, boot.applied),
        };
        let mut raft = Self {
            jitter: Pcg32::seed_from_u64(config.seed),
            config,
            now,
            current_term: boot.hard_state.current_term.max(log.last_term()),
            voted_for: boot.hard_state.voted_for,
            commit_index: commit_index.max(compacted).min(log.last_index()),
            last_applied: applied.max(compacted),
            replicated_everywhere: compacted,
            membership: boot.membership,
            log,
            role: Role::Follower {
                leader: None,
                heard_at: now,
            },
            election_deadline: now,
            log_epoch: boot.log_epoch,
            tainted: boot.tainted || boot.unfounded.is_some(),
            meeting: boot.unfounded.map(|unfounded| Meeting::new(unfounded, now)),
            definition: boot.definition,
            verified: compacted,
            log_failed: false,
            renounced: false,
            room: LogRoom::Enough,
            promised_by: WriteSequence(0),
        };
        raft.commit_index = raft.commit_index.max(raft.last_applied);
        raft.reset_election_timer();
        raft
    }

    /// Takes a message of another member, with the entries that came with it.
    ///
    /// Whatever a peer sends, this neither panics nor breaks a rule: what no correct peer sends is
    /// ignored.
    pub fn step(
        &mut self,
        now: Time,
        from: NodeId,
        message: Message,
        entries: &[EntryMeta],
        output: &mut Output,
    ) {
        self.now = now;
        if let Body::Founding(founding) = message.body {
            return self.handle_founding(from, founding, output);
        }
        let forged = from == self.config.id || self.is_out_of_reach(message.term);
        if forged || !self.admits_term(from, &message, output) {
            return;
        }
        match message.body {
            Body::RequestVote(RequestVote {
                last_log,
                kind: VoteKind::PreVote,
            }) => self.handle_pre_vote(from, message.term, last_log, output),
            Body::RequestVote(request) => self.handle_request_vote(from, request, output),
            Body::VoteResponse(response) => {
                self.handle_vote_response(from, message.term, response, output);
            }
            Body::AppendEntries(request) => {
                self.handle_append_entries(from, request, entries, output);
            }
            Body::AppendResponse(response) => self.handle_append_response(from, response, output),
            Body::Repaired(repaired) => self.handle_repaired(from, repaired, output),
            Body::TimeoutNow => self.handle_timeout_now(from, output),
            Body::Founding(_) => {}
        }
    }

    /// Rules for all servers (figure 3.1): a higher term is adopted, a lower one is rejected or
    /// ignored. True if the message is then to be handled.
    fn admits_term(&mut self, from: NodeId, message: &Message, output: &mut Output) -> bool {
        if message.term < self.current_term {
            self.reject_stale(from, message, output);
            return false;
        }
        if message.term == self.current_term {
            return true;
        }
        match message.body {
            // Thesis 9.6: a pre-vote asks about a term that nobody is in yet.
            Body::RequestVote(RequestVote {
                kind: VoteKind::PreVote,
                ..
            })
            | Body::VoteResponse(VoteResponse {
                kind: VoteKind::PreVote,
                granted: true,
            }) => true,
            // Thesis 4.2.3: within an election timeout of hearing from a leader, a request for a
            // vote neither raises the term nor gets one.
            Body::RequestVote(RequestVote {
                kind: VoteKind::Vote,
                ..
            }) if self.hears_a_leader() => false,
            _ => {
                let term = message.term.min(self.farthest_term());
                self.become_follower(term, None, output);
                term == message.term
            }
        }
    }

    /// The highest term that one message can bring.
    fn farthest_term(&self) -> Term {
        if self.is(Mutant::AdoptsAnyTerm) {
            return TERM_MAX;
        }
        Term(self.current_term.0.saturating_add(TERMS_PER_MESSAGE_MAX))
    }

    /// Whether no election can have reached a term.
    fn is_out_of_reach(&self, term: Term) -> bool {
        let ahead = term.0.saturating_sub(self.current_term.0);
        term > TERM_MAX || ahead > TERMS_AHEAD_MAX && !self.is(Mutant::AdoptsAnyTerm)
    }

    /// Campaigns or sends heartbeats if it is time. Cheap when it is not.
    pub fn tick(&mut self, now: Time, output: &mut Output) {
        self.now = now;
        if now < self.next_deadline() {
            return;
        }
        if self.is_leader() {
            self.tick_leader(output);
        } else if !self.is_founded() {
            self.ask_again(output);
        } else {
            self.campaign(now, output);
        }
    }

    /// When [`tick`](Self::tick) next has something to do.
    #[must_use]
    pub fn next_deadline(&self) -> Time {
        match (&self.role, &self.meeting) {
            (Role::Leader(leader), _) => leader.next_deadline(),
            (_, Some(meeting)) => meeting.ask_at(),
            _ if self.promotable() => self.election_deadline,
            _ => Time(u64::MAX),
        }
    }

    /// Everything this group wrote up to `sequence` is durable on this node.
    ///
    /// # Panics
    /// If no such write was ever asked for.
    pub fn on_persisted(&mut self, now: Time, sequence: WriteSequence, output: &mut Output) {
        self.now = now;
        self.log.on_persisted(sequence);
        match &mut self.role {
            Role::Candidate(candidate) if candidate.own_vote.is_some_and(|own| own <= sequence) => {
                candidate.own_vote = None;
                candidate.votes.insert(self.config.id, true);
                self.count_votes(output);
            }
            Role::Leader(_) => self.maybe_commit(),
            _ => {}
        }
    }

    /// The state machine holds everything up to `index`.
    ///
    /// # Panics
    /// If that is not committed.
    pub fn on_applied(&mut self, index: LogIndex) {
        assert!(
            index <= self.commit_index,
            "only committed entries are applied"
        );
        self.last_applied = self.last_applied.max(index);
    }

    /// Forgets the log up to `index`, as far as it is applied. Going back changes nothing.
    pub fn compact(&mut self, index: LogIndex) {
        let index = index.min(self.last_applied).min(self.log.durable_index());
        if index > self.log.compacted().index {
            self.log.compact(index);
        }
    }

    /// Whether the log takes entries of a leader at present: its responses say so.
    pub fn set_room(&mut self, room: LogRoom) {
        self.room = room;
    }

    /// Gives up leadership and never campaigns again: this node's log failed.
    pub fn step_down(&mut self, now: Time, output: &mut Output) {
        self.now = now;
        self.log_failed = true;
        self.become_follower(self.current_term, None, output);
    }

    /// Number of the latest write asked for: of the newest entries, term and vote in the output.
    #[must_use]
    pub fn write_sequence(&self) -> WriteSequence {
        self.log.sequence()
    }

    /// Highest entry known to be committed.
    #[must_use]
    pub fn commit_index(&self) -> LogIndex {
        self.commit_index
    }

    /// Last entry of the log.
    #[must_use]
    pub fn last_index(&self) -> LogIndex {
        self.log.last_index()
    }

    /// How often the disk acknowledged a write after entries that it held had been replaced: it
    /// then speaks only for what stands before them.
    #[must_use]
    pub fn stale_acknowledgements(&self) -> u64 {
        self.log.stale_acknowledgements()
    }

    /// Last entry durable on this node, in the form the log has now.
    #[must_use]
    pub fn durable_index(&self) -> LogIndex {
        self.log.durable_index()
    }

    /// The entry before the first of the log.
    #[must_use]
    pub fn compacted(&self) -> EntryId {
        self.log.compacted()
    }

    /// The term of an entry of the log, or of the one before its first; `None` elsewhere.
    #[must_use]
    pub fn term_at(&self, index: LogIndex) -> Option<Term> {
        self.log.term_at(index)
    }

    /// Latest term seen.
    #[must_use]
    pub fn current_term(&self) -> Term {
        self.current_term
    }

    /// Every member holds the log up to here; never above the commit index.
    #[must_use]
    pub fn replicated_everywhere(&self) -> LogIndex {
        self.replicated_everywhere
    }

    /// Who received this node's vote in the current term.
    #[must_use]
    pub fn voted_for(&self) -> Option<NodeId> {
        self.voted_for
    }

    /// The leader of the current term, if known.
    #[must_use]
    pub fn leader(&self) -> Option<NodeId> {
        match &self.role {
            Role::Follower { leader, .. } => *leader,
            Role::Candidate(_) => None,
            Role::Leader(_) => Some(self.config.id),
        }
    }

    /// Whether it counts in no quorum, because its disk lost something durable.
    #[must_use]
    pub fn is_tainted(&self) -> bool {
        self.tainted
    }

    /// Whether this replica leads.
    #[must_use]
    pub fn is_leader(&self) -> bool {
        matches!(self.role, Role::Leader(_))
    }

    pub(crate) fn save_hard_state(&mut self, output: &mut Output) -> WriteSequence {
        output.hard_state = Some(HardState {
            current_term: self.current_term,
            voted_for: self.voted_for,
        });
        self.promised_by = self.log.begin_write();
        self.promised_by
    }

    /// Whether the current term, the vote in it, and the end of a repair are durable.
    pub(crate) fn promises_are_durable(&self) -> bool {
        self.log.is_persisted(self.promised_by)
    }

    /// Thesis 3.4: timeouts are chosen randomly from [t, 2t).
    pub(crate) fn reset_election_timer(&mut self) {
        let timeout = self.config.election_timeout.max(1);
        self.election_deadline = self.now.after(timeout + self.jitter.next_u64() % timeout);
    }
}

//! What an embedding program gives to the engine: its state machines.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use pontoon_raft::{GroupId, LogIndex, NodeId, Term};
use pontoon_storage::{RecordBytes, RecordKind, record};

use crate::outcome::{Applied, Unknown};
use crate::proposals::{Proposals, Replies};

/// Why a state machine can't go on: any error, or a text. Its own words are in the node's log, in
/// [`GroupStatus::machine_error`](crate::GroupStatus::machine_error), and in the answers to
/// proposers.
pub type MachineError = Box<dyn std::error::Error + Send + Sync>;

/// The replicated state of one group, on one node.
///
/// Lives on the core of its group and is only ever called there, one call at a time, so it needs
/// neither locks nor `Send`. While a call runs, no other group of that core moves: do not block.
/// What it can't do it says by an error of [`apply`](Self::apply), which stops this group alone. A
/// panic in it ends the process, once the locals of the call that panicked are dropped and before
/// any machine is: see [`Node`](crate::Node).
///
/// ```
/// use std::collections::BTreeMap;
///
/// use pontoon::{Batch, Event, MachineError, StateMachine};
///
/// /// Commands are `key=value`; the reply is the value that was there before.
/// #[derive(Default)]
/// struct Store(BTreeMap<Vec<u8>, Vec<u8>>);
///
/// impl StateMachine for Store {
///     fn apply(&mut self, batch: &mut Batch<'_>) -> Result<(), MachineError> {
///         while let Some(command) = batch.next() {
///             let mut parts = command.payload.splitn(2, |byte| *byte == b'=');
///             let key = parts.next().unwrap_or_default().to_vec();
///             let value = parts.next().unwrap_or_default().to_vec();
///             batch.reply(self.0.insert(key, value).unwrap_or_default());
///         }
///         Ok(())
///     }
///
///     fn event(&mut self, event: Event) {
///         if let Event::BecameLeader { term } = event {
///             println!("leads in term {term}");
///         }
///     }
/// }
/// # let _ = pontoon::Machines::new().register("store", |_| Ok(Box::new(Store::default())));
/// ```
pub trait StateMachine {
    /// The last index whose effects this machine holds durably by itself, or `None` if it is
    /// volatile and built anew from the log at every start.
    ///
    /// A durable machine is given only commands that are durable on this node, and continues
    /// behind this index after a restart. It never goes back, nor beyond what was given to the
    /// machine: one that says so has failed, as by an error of [`apply`](Self::apply).
    fn durable_index(&self) -> Option<LogIndex> {
        None
    }

    /// The machine can do without the log up to here, also after a restart: the entries may be
    /// let go once every member has them. What it holds durably, unless it says otherwise.
    fn released_index(&self) -> LogIndex {
        self.durable_index().unwrap_or_default()
    }

    /// Applies committed commands in the order of the log, each exactly once in the life of the
    /// machine (thesis 3.5, "applied").
    ///
    /// Commands that are not taken out of the batch count as applied, with an empty reply.
    ///
    /// When the log is short of room and this machine holds it, it is called with an empty batch
    /// now and then: a machine that saves what it has applied from time to time saves it then, so
    /// that the log can let go of it.
    ///
    /// # Errors
    /// That the machine can't go on. It is dropped at once and given nothing more; the other groups
    /// of the node go on, and so does this group on the other nodes. Here it gives up leadership,
    /// and goes on to persist and vote so that the others keep their majority; it never campaigns.
    /// When the node is started again the factory makes another machine.
    ///
    /// Nothing of a batch that failed counts as applied, however far the machine came: the applied
    /// index stays where it was before the batch, and the proposers of all its commands are told
    /// [`Unknown::MachineFailed`], also where the machine had replied. A durable machine that
    /// holds a part of the batch must know which: after the restart it is given what follows its
    /// [`durable_index`](Self::durable_index), which may be that part again.
    fn apply(&mut self, batch: &mut Batch<'_>) -> Result<(), MachineError>;

    /// Something about the group's role has changed. Does nothing by default.
    fn event(&mut self, event: Event) {
        let _ = event;
    }
}

/// What a state machine may want to know about its replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// This replica leads its group. Commands of earlier terms may still be about to be applied.
    BecameLeader {
        /// In this term.
        term: Term,
    },
    /// This replica leads no more; its unfinished proposals have an unknown outcome.
    StoppedLeading {
        /// The term in which it led.
        term: Term,
    },
    /// This replica follows a leader.
    Following {
        /// The leader.
        leader: NodeId,
        /// Its term.
        term: Term,
    },
    /// The core's log failed: nothing more is acknowledged or applied before a restart.
    Failed,
}

/// A committed command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Command<'a> {
    /// Its place in the log.
    pub index: LogIndex,
    /// The term of the leader that took it.
    pub term: Term,
    /// The bytes that were proposed, in place.
    pub payload: &'a [u8],
}

/// Committed commands of one group, in the order of its log, to be taken one after the other.
///
/// What is not taken when `apply` returns counts as applied, with an empty reply; so does a command
/// that was not replied to. Used on the group's core only, within `apply`.
///
/// ```
/// # use pontoon::Batch;
/// /// Replies with each command's length.
/// fn apply(batch: &mut Batch<'_>) {
///     while let Some(command) = batch.next() {
///         batch.reply(command.payload.len().to_le_bytes().to_vec());
///     }
/// }
/// ```
#[derive(Debug)]
pub struct Batch<'a> {
    pieces: &'a [RecordBytes],
    rest: &'a [u8],
    proposals: &'a mut Proposals,
    replies: &'a mut Replies,
    /// So many replies were there before.
    replies_before: usize,
    /// The command taken last, and its reply.
    current: Option<(LogIndex, Vec<u8>)>,
    /// Index of the command taken last.
    last_command: Option<LogIndex>,
}

impl<'a> Batch<'a> {
    pub(crate) fn new(
        pieces: &'a [RecordBytes],
        proposals: &'a mut Proposals,
        replies: &'a mut Replies,
    ) -> Self {
        Self {
            pieces,
            rest: &[],
            proposals,
            replies_before: replies.len(),
            replies,
            current: None,
            last_command: None,
        }
    }

    /// The next command; the one before it is answered now, if it was proposed here.
    #[expect(clippy::should_implement_trait, reason = "a reply goes in between")]
    pub fn next(&mut self) -> Option<Command<'a>> {
        self.answer();
        loop {
            if self.rest.is_empty() {
                let (first, pieces) = self.pieces.split_first()?;
                (self.rest, self.pieces) = (first.as_ref(), pieces);
            }
            let record = record::parse_unchecked(self.rest)
                .expect("records were checked before they were staged");
            self.rest = &self.rest[record.encoded_bytes..];
            if record.kind == RecordKind::Command {
                let index = record.index;
                self.current = Some((index, Vec::new()));
                self.last_command = Some(index);
                return Some(Command {
                    index,
                    term: record.term,
                    payload: record.payload,
                });
            }
        }
    }

    /// What the proposer of the command taken last is told; nothing else uses it. One of more than
    /// `limits.reply_bytes_max` is dropped, or for which `limits.replies_pending_bytes_max` leaves
    /// no room: the command is applied all the same, and its proposer is told
    /// [`ReplyDropped`](crate::ProposeError::ReplyDropped).
    pub fn reply(&mut self, reply: Vec<u8>) {
        if let Some((_, current)) = &mut self.current {
            *current = reply;
        }
    }

    fn answer(&mut self) {
        if let Some((index, reply)) = self.current.take()
            && let Some(answered) = self.proposals.applied(index)
        {
            self.replies.push(answered, Applied { index, reply });
        }
    }

    /// The machine failed: nothing of the batch counts as applied, whatever it had replied.
    pub(crate) fn withdraw(self) {
        self.replies
            .withdraw(self.replies_before, Unknown::MachineFailed);
    }

    /// Answers whatever is left. Gives the index of the last command, if there was one.
    pub(crate) fn finish(mut self) -> Option<LogIndex> {
        while self.next().is_some() {}
        self.last_command
    }
}

/// What a factory gives: a machine, or why there is none.
pub type Made = Result<Box<dyn StateMachine>, MachineError>;

type Factory = dyn Fn(GroupId) -> Made + Send + Sync;

/// How to make the state machine of each kind of group, on the group's core.
#[derive(Clone, Default)]
pub struct Machines {
    factories: BTreeMap<String, Arc<Factory>>,
}

impl Machines {
    /// None yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Groups of this kind get their machine from this factory, when they are created and at
    /// every start. It is called on the group's core.
    ///
    /// An error of it refuses the creation. At a start it closes the group on this node, as an
    /// error of [`apply`](StateMachine::apply) does, until a start at which the machine is made:
    /// the node and its other groups run, and
    /// [`machine_error`](crate::GroupStatus::machine_error) has the error's words.
    #[must_use]
    pub fn register<F>(mut self, kind: &str, factory: F) -> Self
    where
        F: Fn(GroupId) -> Made + Send + Sync + 'static,
    {
        self.factories.insert(kind.to_owned(), Arc::new(factory));
        self
    }

    pub(crate) fn factory(&self, kind: &str) -> Option<&Factory> {
        self.factories.get(kind).map(AsRef::as_ref)
    }
}

impl fmt::Debug for Machines {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_set()
            .entries(self.factories.keys())
            .finish()
    }
}

//! What the parent knows of its nodes and operations, and the file it is written to as it happens.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::event::{Event, Operation, Order, Outcome, Said, Summary, What};

/// Whatever is waited for comes long before; nothing is measured by it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A life of a node.
pub(crate) struct Life {
    /// Where its orders go; `None` once it is killed.
    orders: Option<std::process::ChildStdin>,
    /// Counts the lives of all nodes.
    number: u64,
    /// The term it leads in, and since when.
    pub(crate) leads: Option<(u64, u64)>,
    pub(crate) summary: Option<Summary>,
    pub(crate) applied: Option<Vec<(u64, u64)>>,
}

/// A leader as it reported itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Leader {
    pub(crate) node: usize,
    pub(crate) term: u64,
    /// When.
    pub(crate) since: u64,
}

/// An operation that has been acknowledged.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Acknowledged {
    pub(crate) asked: u64,
    pub(crate) operation: Operation,
}

pub(crate) struct State {
    origin: Instant,
    history: File,
    pub(crate) nodes: Vec<Life>,
    lives: u64,
    operations: u64,
    /// Asked and not answered: when, the operation, and the life of the node that was asked.
    pending: BTreeMap<u64, (u64, Operation, u64)>,
    outcomes: BTreeMap<u64, Outcome>,
    pub(crate) acknowledged: Vec<Acknowledged>,
    /// Clients stop.
    pub(crate) over: bool,
}

impl State {
    pub(crate) fn now(&self) -> u64 {
        u64::try_from(self.origin.elapsed().as_nanos()).unwrap()
    }

    /// Writes a line of the history. Its time is taken under the lock, so the lines are in order.
    pub(crate) fn note(&mut self, what: What) -> u64 {
        let at = self.now();
        let line = serde_json::to_string(&Event { at, what }).unwrap();
        writeln!(self.history, "{line}").unwrap();
        at
    }

    /// A node has been started. Gives the number of its life.
    pub(crate) fn born(&mut self, node: usize, orders: std::process::ChildStdin) -> u64 {
        self.lives += 1;
        let life = Life {
            orders: Some(orders),
            number: self.lives,
            leads: None,
            summary: None,
            applied: None,
        };
        if node < self.nodes.len() {
            self.nodes[node] = life;
        } else {
            self.nodes.push(life);
        }
        self.note(What::Started { node });
        self.lives
    }

    /// A node has been killed.
    pub(crate) fn died(&mut self, node: usize) {
        self.nodes[node].orders = None;
        self.nodes[node].leads = None;
        self.note(What::Killed { node });
    }

    pub(crate) fn order(&mut self, node: usize, order: &Order) -> bool {
        let Some(orders) = &mut self.nodes[node].orders else {
            return false;
        };
        // A stopped node reads nothing, but a pipe holds far more than all clients have to say.
        writeln!(orders, "{}", serde_json::to_string(order).unwrap()).is_ok()
    }

    /// Asks a node for an operation. `None` if it is known to be dead.
    pub(crate) fn ask(&mut self, node: usize, key: u64, write: bool) -> Option<u64> {
        self.nodes[node].orders.as_ref()?;
        self.operations += 1;
        let number = self.operations;
        let operation = Operation {
            number,
            key,
            write: write.then_some(number),
        };
        let at = self.note(What::Asks { node, operation });
        let life = self.nodes[node].number;
        self.pending.insert(number, (at, operation, life));
        self.order(node, &Order::Propose(operation));
        Some(number)
    }

    /// A node has said something, in the life of this number.
    fn hear(&mut self, node: usize, life: u64, said: Said) {
        // An outcome is an outcome, also of a node that has died since.
        if let Said::Ended { number, outcome } = said {
            self.ended(number, outcome);
            return;
        }
        if self.nodes[node].number != life || self.nodes[node].orders.is_none() {
            return;
        }
        match said {
            Said::Leads { term } => {
                let since = self.note(What::Leads { node, term });
                self.nodes[node].leads = Some((term, since));
            }
            Said::LeadsNoMore => {
                self.note(What::LeadsNoMore { node });
                self.nodes[node].leads = None;
            }
            Said::Summary(summary) => self.nodes[node].summary = Some(summary),
            Said::Applied(entries) => self.nodes[node].applied = Some(entries),
            Said::Ended { .. } => unreachable!("done above"),
        }
    }

    fn ended(&mut self, number: u64, outcome: Outcome) {
        let known = self.pending.remove(&number);
        let (asked, operation, _) = known.expect("one answer for each operation");
        let acknowledged = matches!(outcome, Outcome::Acknowledged { .. });
        self.note(What::Ended {
            number,
            outcome: outcome.clone(),
        });
        self.outcomes.insert(number, outcome);
        if acknowledged {
            self.acknowledged.push(Acknowledged { asked, operation });
        }
    }

    /// The end of a life's output: what it has not answered it never will, and it is asked for
    /// nothing more.
    fn fall_silent(&mut self, life: u64) {
        let ended = self.nodes.iter_mut().filter(|node| node.number == life);
        ended.for_each(|node| node.orders = None);
        self.pending.retain(|_, (_, _, asked)| *asked != life);
    }

    /// An operation's outcome: outer `None` while it may still come, inner `None` if it never will.
    pub(crate) fn outcome(&self, number: u64) -> Option<Option<Outcome>> {
        match self.outcomes.get(&number) {
            Some(outcome) => Some(Some(outcome.clone())),
            None if self.pending.contains_key(&number) => None,
            None => Some(None),
        }
    }

    pub(crate) fn all_ended(&self) -> bool {
        self.pending.is_empty()
    }

    /// Whoever leads in the highest term, as far as has been reported.
    pub(crate) fn leader(&self) -> Option<Leader> {
        let leader = |(node, life): (usize, &Life)| {
            let (term, since) = life.leads?;
            Some(Leader { node, term, since })
        };
        let leaders = self.nodes.iter().enumerate().filter_map(leader);
        leaders.max_by_key(|leader| leader.term)
    }

    /// How many operations that were asked for after this have been acknowledged.
    pub(crate) fn acknowledged_since(&self, mark: u64) -> usize {
        // Newest answers last; a client has long given up what it asked for that far behind.
        let newest = self.acknowledged.iter().rev().take(1000);
        newest.filter(|one| one.asked > mark).count()
    }
}

/// The state, and a bell that rings whenever it changes.
pub(crate) struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

impl Shared {
    pub(crate) fn new(history: File) -> Self {
        Self {
            state: Mutex::new(State {
                origin: Instant::now(),
                history,
                nodes: Vec::new(),
                lives: 0,
                operations: 0,
                pending: BTreeMap::new(),
                outcomes: BTreeMap::new(),
                acknowledged: Vec::new(),
                over: false,
            }),
            changed: Condvar::new(),
        }
    }

    /// Also after a panic elsewhere: the state is what it was.
    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let changed = change(&mut self.lock());
        self.changed.notify_all();
        changed
    }

    pub(crate) fn hear(&self, node: usize, life: u64, said: Said) {
        self.change(|state| state.hear(node, life, said));
    }

    pub(crate) fn fall_silent(&self, life: u64) {
        self.change(|state| state.fall_silent(life));
    }

    /// Waits at most so long until `found` finds something.
    pub(crate) fn wait<T>(
        &self,
        limit: Duration,
        mut found: impl FnMut(&State) -> Option<T>,
    ) -> Option<T> {
        let deadline = Instant::now() + limit;
        let mut state = self.lock();
        loop {
            if let Some(found) = found(&state) {
                return Some(found);
            }
            let left = deadline.checked_duration_since(Instant::now())?;
            let waited = self.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Waits until `found` finds something, which it must.
    pub(crate) fn await_that<T>(&self, what: &str, found: impl FnMut(&State) -> Option<T>) -> T {
        let found = self.wait(PATIENCE, found);
        found.unwrap_or_else(|| panic!("waited in vain until {what}"))
    }
}

//! Where the outcomes of the proposals that a core has taken go.
//!
//! It is kept where others reach it too: a core that never comes back, from a state machine that
//! hangs, is left behind at a stop, and whoever waits for it is answered by who stopped it. The
//! core locks it twice in a turn, never for one command.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::outcome::Unknown;
use crate::proposals::{ReplySender, reply};

/// All proposals of a core that were taken and are not answered. To answer one runs its waker,
/// which is the application's: it is done under no lock.
#[derive(Clone, Debug, Default)]
pub(crate) struct Awaited(Arc<Mutex<Table>>);

/// Most places whose memory is kept when none is taken: a burst's is given back.
const KEPT_MAX: usize = 4096;

#[derive(Debug, Default)]
pub(crate) struct Table {
    senders: Vec<Option<ReplySender>>,
    /// Places without a ticket.
    free: Vec<u32>,
    /// The core answers nobody any more; whoever still comes is told this.
    given_up: Option<Unknown>,
}

/// The place of one of them, given back once.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ticket(u32);

impl Table {
    pub(crate) fn enter(&mut self, sender: ReplySender) -> Ticket {
        let place = self.free.pop().unwrap_or_else(|| {
            self.senders.push(None);
            u32::try_from(self.senders.len() - 1).expect("bounded by their bytes")
        });
        self.senders[place as usize] = Some(sender);
        Ticket(place)
    }

    fn take_all(&mut self) -> Vec<ReplySender> {
        self.senders.iter_mut().filter_map(Option::take).collect()
    }
}

impl Awaited {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `enters` puts in what is taken, and does nothing that runs code of the application's.
    pub(crate) fn enter(&self, enters: impl FnOnce(&mut Table)) {
        let mut table = self.table();
        enters(&mut table);
        if let Some(reason) = table.given_up {
            let late = table.take_all();
            drop(table);
            answer(late, reason);
        }
    }

    /// Gives tickets back for where the outcomes go: nowhere, for those that were given up.
    pub(crate) fn leave(
        &self,
        tickets: impl Iterator<Item = Ticket>,
        senders: &mut Vec<Option<ReplySender>>,
    ) {
        let table = &mut *self.table();
        for Ticket(place) in tickets {
            table.free.push(place);
            senders.push(table.senders[place as usize].take());
        }
        if table.free.len() == table.senders.len() && table.free.len() > KEPT_MAX {
            (table.free, table.senders) = Default::default();
        }
    }

    /// Gives tickets back, and tells all of them that their outcome can't be known.
    pub(crate) fn leave_unknown(&self, tickets: impl Iterator<Item = Ticket>, reason: Unknown) {
        let mut senders = Vec::new();
        self.leave(tickets, &mut senders);
        answer(senders.into_iter().flatten(), reason);
    }

    #[cfg(test)]
    pub(crate) fn capacity(&self) -> usize {
        self.table().senders.capacity()
    }

    /// The core answers nobody any more.
    pub(crate) fn give_up(&self, reason: Unknown) {
        let mut table = self.table();
        table.given_up.get_or_insert(reason);
        let all = table.take_all();
        drop(table);
        answer(all, reason);
    }
}

fn answer(senders: impl IntoIterator<Item = ReplySender>, reason: Unknown) {
    for sender in senders {
        reply(sender, Err(reason.into()));
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;
    use crate::outcome::{Proposal, ProposeError};

    fn enter(awaited: &Awaited) -> (Ticket, Proposal) {
        let (sender, receiver) = oneshot::async_channel();
        let mut ticket = None;
        awaited.enter(|table| ticket = Some(table.enter(sender)));
        (ticket.expect("it has entered"), Proposal::waiting(receiver))
    }

    #[test]
    fn who_is_given_up_is_answered_once_and_a_core_that_comes_back_finds_nobody() {
        let awaited = Awaited::default();
        let (first, proposal) = enter(&awaited);
        awaited.give_up(Unknown::Stopped);
        let told = Err(ProposeError::Unknown(Unknown::Stopped));
        assert_eq!(proposal.now_or_never(), Some(told.clone()));
        let (second, late) = enter(&awaited);
        assert_eq!(late.now_or_never(), Some(told));
        let mut senders = Vec::new();
        awaited.leave([first, second].into_iter(), &mut senders);
        assert!(senders.iter().all(Option::is_none));
    }

    #[test]
    fn places_are_taken_again() {
        let awaited = Awaited::default();
        for _ in 0..100 {
            let (ticket, proposal) = enter(&awaited);
            awaited.leave_unknown([ticket].into_iter(), Unknown::Stalled);
            let told = Err(ProposeError::Unknown(Unknown::Stalled));
            assert_eq!(proposal.now_or_never(), Some(told));
        }
        assert_eq!(awaited.table().senders.len(), 1);
    }
}

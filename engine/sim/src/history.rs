//! What clients saw, and whether it could have come from one register at a time.

use std::collections::{BTreeMap, VecDeque};

use todc_utils::linearizability::WGLChecker;
use todc_utils::linearizability::history::{Action, History};
use todc_utils::specifications::Specification;

/// One operation of a client on one key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    /// When it was sent, in nanoseconds.
    pub invoked: u64,
    /// When it was answered; `None` if its outcome is unknown.
    pub answered: Option<u64>,
    /// The value written, or `None` for a read.
    pub write: Option<u64>,
    /// The value read.
    pub read: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operation {
    Read(Option<u64>),
    Write(u64),
}

struct Register;

impl Specification for Register {
    type State = u64;
    type Operation = Operation;

    fn init() -> u64 {
        0
    }

    fn apply(operation: &Operation, state: &u64) -> (bool, u64) {
        match operation {
            Operation::Read(value) => (*value == Some(*state), *state),
            Operation::Write(value) => (true, *value),
        }
    }
}

/// Whether the operations on one key can be put in an order that agrees with what was read, each
/// between its call and its answer (Herlihy and Wing 1990). A write of unknown outcome may take
/// effect at any time after its call, or never; a read of unknown outcome says nothing.
///
/// Values are unique. A write of unknown outcome that nobody read is left out: it might as well
/// never have taken effect, and each such write doubles what the checker has to try.
#[must_use]
pub fn is_linearizable(calls: &[Call]) -> bool {
    let seen = reads(calls);
    is_explained_in_passing(calls, &seen) || is_explained_by_search(calls, &seen)
}

/// When each value was asked for last by who read it.
fn reads(calls: &[Call]) -> BTreeMap<u64, u64> {
    let mut seen = BTreeMap::new();
    for call in calls {
        if let Some(value) = call.read {
            let last = seen.entry(value).or_insert(call.invoked);
            *last = call.invoked.max(*last);
        }
    }
    seen
}

/// Whether the checker finds an order, among all.
fn is_explained_by_search(calls: &[Call], seen: &BTreeMap<u64, u64>) -> bool {
    let mut actions = Vec::new();
    for (process, call) in calls.iter().enumerate() {
        let (asked, answer) = match call.write {
            _ if !counts(call, seen) => continue,
            Some(value) => (Operation::Write(value), Operation::Write(value)),
            None => (Operation::Read(None), Operation::Read(call.read)),
        };
        actions.push(((call.invoked, 0, process), Action::Call(asked)));
        let answered = call.answered.unwrap_or(u64::MAX);
        actions.push(((answered, 1, process), Action::Response(answer)));
    }
    if actions.is_empty() {
        return true;
    }
    actions.sort_by_key(|(order, _)| *order);
    let actions = actions.into_iter();
    let actions = actions.map(|((_, _, process), action)| (process, action));
    WGLChecker::<Register>::is_linearizable(History::from_actions(actions.collect()))
}

/// Whether an order that is found without a search explains every read. Each time the first of
/// these goes that may: a read that fits; a write that no later read has seen, which is in nobody's
/// way any more; what is answered first, and if that is a read, the write that it has seen. This
/// takes a hundredth of the checker's time. Of a history that it does not explain it says nothing.
fn is_explained_in_passing(calls: &[Call], seen: &BTreeMap<u64, u64>) -> bool {
    let answered = |call: &Call| call.answered.unwrap_or(u64::MAX);
    let mut left: Vec<&Call> = calls.iter().filter(|call| counts(call, seen)).collect();
    left.sort_by_key(|call| call.invoked);
    let mut left = VecDeque::from(left);
    let mut state = Register::init();
    while let Some(mut first) = left.front().copied() {
        // These may go: they were sent before anything that is left was answered.
        let mut may_go = 0;
        while let Some(call) = left
            .get(may_go)
            .filter(|call| call.invoked <= answered(first))
        {
            if answered(call) < answered(first) {
                first = call;
            }
            may_go += 1;
        }
        let find = |goes: &dyn Fn(&Call) -> bool| left.range(..may_go).position(|call| goes(call));
        let fits = |call: &Call| call.write.is_none() && call.read == Some(state);
        let was_seen = |value| seen.get(&value).is_some_and(|read| *read > answered(first));
        let passes = |call: &Call| call.write.is_some_and(|value| !was_seen(value));
        let is_due = |call: &Call| call.write.is_some() && call.write == first.write.or(first.read);
        let next = find(&fits)
            .or_else(|| find(&passes))
            .or_else(|| find(&is_due));
        let Some(next) = next.and_then(|next| left.remove(next)) else {
            return false;
        };
        state = next.write.unwrap_or(state);
    }
    true
}

/// Whether a call says anything: see above.
fn counts(call: &Call, seen: &BTreeMap<u64, u64>) -> bool {
    let of_use = call.write.is_some_and(|value| seen.contains_key(&value));
    call.answered.is_some() || of_use
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(invoked: u64, answered: u64, value: u64) -> Call {
        Call {
            invoked,
            answered: Some(answered),
            write: Some(value),
            read: None,
        }
    }

    fn read(invoked: u64, answered: u64, value: u64) -> Call {
        Call {
            invoked,
            answered: Some(answered),
            write: None,
            read: Some(value),
        }
    }

    #[test]
    fn the_checker_accepts_what_a_register_could_have_said() {
        assert!(is_linearizable(&[]));
        assert!(is_linearizable(&[
            read(1, 2, 0),
            write(3, 4, 7),
            read(5, 6, 7)
        ]));
        assert!(is_linearizable(&[
            write(1, 9, 7),
            read(2, 3, 7),
            read(4, 5, 7)
        ]));
        let open = Call {
            answered: None,
            ..write(1, 1, 7)
        };
        assert!(is_linearizable(&[open, read(2, 3, 0), read(4, 5, 7)]));
        assert!(is_linearizable(&[open, read(2, 3, 0)]));
    }

    #[test]
    fn the_checker_rejects_a_good_history_with_one_read_changed() {
        let good = [write(1, 2, 7), read(3, 4, 7), write(5, 6, 8), read(7, 8, 8)];
        assert!(is_linearizable(&good));
        for position in [1, 3] {
            for wrong in [0, 7, 8, 9] {
                let mut changed = good;
                if changed[position].read == Some(wrong) {
                    continue;
                }
                changed[position].read = Some(wrong);
                assert!(!is_linearizable(&changed), "{changed:?}");
            }
        }
    }

    #[test]
    fn a_read_that_goes_back_is_rejected() {
        let open = Call {
            answered: None,
            ..write(1, 1, 7)
        };
        assert!(!is_linearizable(&[open, read(2, 3, 7), read(4, 5, 0)]));
    }

    #[test]
    fn what_is_explained_in_passing_is_what_the_search_explains() {
        let mut random = crate::random::Random::new(7);
        let mut explained = [0; 2];
        for _ in 0..2_000 {
            let call = |number| {
                let invoked = random.between(0, 20);
                let answered = (random.below(10) > 0).then(|| invoked + random.between(1, 10));
                let write = (random.below(2) > 0).then_some(number);
                let read = answered.filter(|_| write.is_none());
                let read = read.map(|_| random.between(0, 5));
                Call {
                    invoked,
                    answered,
                    write,
                    read,
                }
            };
            let calls: Vec<Call> = (1..=5).map(call).collect();
            let seen = reads(&calls);
            let search = is_explained_by_search(&calls, &seen);
            assert_eq!(is_explained_in_passing(&calls, &seen), search, "{calls:?}");
            explained[usize::from(search)] += 1;
        }
        assert!(explained.iter().all(|times| *times > 100), "{explained:?}");
    }
}

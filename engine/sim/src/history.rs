//! What clients saw, and whether it could have come from one register at a time.

use std::collections::BTreeSet;

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
    let seen: BTreeSet<u64> = calls.iter().filter_map(|call| call.read).collect();
    let mut actions = Vec::new();
    for (process, call) in calls.iter().enumerate() {
        let (asked, answer) = match call.write {
            Some(value) if call.answered.is_none() && !seen.contains(&value) => continue,
            Some(value) => (Operation::Write(value), Operation::Write(value)),
            None if call.answered.is_none() => continue,
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
}

//! What must hold of a history, read back from its file.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use pontoon_sim::{Call, is_linearizable};

use crate::event::{Event, Operation, Outcome, What};

/// Counts of a history that holds.
pub(crate) struct Figures {
    pub(crate) operations: usize,
    pub(crate) acknowledged: usize,
    pub(crate) refused: usize,
    pub(crate) unknown: usize,
    pub(crate) keys: usize,
}

impl std::fmt::Display for Figures {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            formatter,
            "{} operations on {} keys: {} acknowledged, {} refused, {} unknown",
            self.operations, self.keys, self.acknowledged, self.refused, self.unknown
        )
    }
}

/// An operation from its call to what is known of its outcome.
struct Record {
    node: usize,
    operation: Operation,
    asked: u64,
    ended: Option<(u64, Outcome)>,
}

impl Record {
    fn acknowledged(&self) -> Option<(u64, u64, u64)> {
        match self.ended {
            Some((at, Outcome::Acknowledged { index, value })) => Some((at, index, value)),
            _ => None,
        }
    }

    fn refused(&self) -> bool {
        matches!(self.ended, Some((_, Outcome::Refused { .. })))
    }
}

pub(crate) fn read(path: &Path) -> Vec<Event> {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// Checks everything; the first thing that does not hold is the error.
pub(crate) fn check(events: &[Event]) -> Result<Figures, String> {
    let records = records(events);
    let keys = check_registers(&records)?;
    check_cuts(events, &records)?;
    check_applied(events, &records)?;
    let count = |wanted: fn(&Record) -> bool| records.values().filter(|one| wanted(one)).count();
    let acknowledged = count(|record| record.acknowledged().is_some());
    let refused = count(Record::refused);
    Ok(Figures {
        operations: records.len(),
        acknowledged,
        refused,
        unknown: records.len() - acknowledged - refused,
        keys,
    })
}

fn records(events: &[Event]) -> BTreeMap<u64, Record> {
    let mut records = BTreeMap::new();
    for Event { at, what } in events {
        match what {
            What::Asks { node, operation } => {
                let record = Record {
                    node: *node,
                    operation: *operation,
                    asked: *at,
                    ended: None,
                };
                records.insert(operation.number, record);
            }
            What::Ended { number, outcome } => {
                let record = records.get_mut(number).expect("asked before it ended");
                record.ended = Some((*at, outcome.clone()));
            }
            _ => {}
        }
    }
    records
}

/// Every key is linearizable. Gives the number of keys.
fn check_registers(records: &BTreeMap<u64, Record>) -> Result<usize, String> {
    let mut calls: BTreeMap<u64, Vec<Call>> = BTreeMap::new();
    for record in records.values().filter(|record| !record.refused()) {
        let acknowledged = record.acknowledged();
        let write = record.operation.write;
        if let (Some((_, index, value)), Some(written)) = (acknowledged, write)
            && value != written
        {
            return Err(format!(
                "{written} was written at {index}, and {value} held"
            ));
        }
        calls.entry(record.operation.key).or_default().push(Call {
            invoked: record.asked,
            answered: acknowledged.map(|(at, _, _)| at),
            write,
            read: acknowledged
                .map(|(_, _, value)| value)
                .filter(|_| write.is_none()),
        });
    }
    for (key, calls) in &calls {
        if !is_linearizable(calls) {
            return Err(format!("key {key} is not linearizable: {calls:#?}"));
        }
    }
    Ok(calls.len())
}

/// A node that nobody hears acknowledges nothing that it is asked for.
fn check_cuts(events: &[Event], records: &BTreeMap<u64, Record>) -> Result<(), String> {
    let mut cut_since: BTreeMap<usize, u64> = BTreeMap::new();
    for Event { at, what } in events {
        match what {
            What::Cut { node } => {
                cut_since.insert(*node, *at);
            }
            What::Healed { node } => {
                cut_since.remove(node);
            }
            What::Ended {
                number,
                outcome: Outcome::Acknowledged { .. },
            } => {
                let record = &records[number];
                let since = cut_since.get(&record.node);
                if since.is_some_and(|since| *since < record.asked) {
                    let node = record.node;
                    return Err(format!("node {node}, cut off, acknowledged {number}"));
                }
            }
            _ => {}
        }
    }
    Ok(())
}

/// All nodes have applied the same, each operation at most once, whatever was acknowledged where it
/// was acknowledged, and nothing that was refused or never asked for.
fn check_applied(events: &[Event], records: &BTreeMap<u64, Record>) -> Result<(), String> {
    let applied = events.iter().filter_map(|event| match &event.what {
        What::Applied { node, entries } => Some((node, entries)),
        _ => None,
    });
    let mut first = None;
    for (node, entries) in applied {
        let held: BTreeSet<(u64, u64)> = entries.iter().copied().collect();
        let numbers: BTreeSet<u64> = entries.iter().map(|(_, number)| *number).collect();
        if numbers.len() != entries.len() {
            return Err(format!("node {node} applied an operation twice"));
        }
        for (number, record) in records {
            if let Some((_, index, _)) = record.acknowledged()
                && !held.contains(&(index, *number))
            {
                return Err(format!(
                    "{number}, acknowledged at {index}, is not on node {node}"
                ));
            }
            if record.refused() && numbers.contains(number) {
                return Err(format!("{number} was refused, and node {node} applied it"));
            }
        }
        if let Some(number) = numbers.iter().find(|number| !records.contains_key(number)) {
            return Err(format!(
                "node {node} applied {number}, which nobody asked for"
            ));
        }
        if first.get_or_insert(entries) != &entries {
            return Err(format!("node {node} applied something else than the first"));
        }
    }
    Ok(())
}

/// Falsifies a history that holds, in ways that must each be noticed.
pub(crate) fn assert_falsehoods_are_noticed(events: &[Event]) {
    let records = records(events);
    let mut stale_reads = 0;
    for (number, record) in &records {
        let Some((_, index, value)) = record.acknowledged() else {
            continue;
        };
        let written_before = records.get(&value).and_then(Record::acknowledged);
        let is_read = record.operation.write.is_none();
        if !is_read || written_before.is_none_or(|(at, _, _)| at >= record.asked) {
            continue;
        }
        // As if the register had not been written yet.
        let outcome = Outcome::Acknowledged { index, value: 0 };
        let number = *number;
        let falsified = What::Ended { number, outcome };
        assert_noticed(events, "a stale read", |what| match what {
            What::Ended { number: this, .. } if *this == number => *what = falsified.clone(),
            _ => {}
        });
        stale_reads += 1;
        if stale_reads == 5 {
            break;
        }
    }
    assert!(stale_reads > 0, "there was no read to falsify");
    let mut acknowledged = records.values().filter_map(Record::acknowledged);
    let lost = acknowledged.next().expect("something was acknowledged").1;
    assert_noticed(events, "a lost operation", |what| {
        if let What::Applied { node: 1, entries } = what {
            entries.retain(|(index, _)| *index != lost);
        }
    });
    assert_noticed(events, "an operation applied twice", |what| {
        if let What::Applied { entries, .. } = what {
            let last = entries.last().copied().expect("something was applied");
            entries.push((last.0 + 1, last.1));
        }
    });
}

fn assert_noticed(events: &[Event], falsehood: &str, mut falsify: impl FnMut(&mut What)) {
    let mut falsified = events.to_vec();
    falsified
        .iter_mut()
        .for_each(|event| falsify(&mut event.what));
    assert!(falsified != events, "{falsehood}: nothing was changed");
    assert!(check(&falsified).is_err(), "{falsehood} was not noticed");
}

#[test]
fn an_acknowledgement_of_a_cut_off_node_is_noticed() {
    let operation = Operation {
        number: 1,
        key: 0,
        write: Some(1),
    };
    let outcome = Outcome::Acknowledged { index: 5, value: 1 };
    let asks = What::Asks { node: 2, operation };
    let ended = What::Ended { number: 1, outcome };
    let (cut, healed) = (What::Cut { node: 2 }, What::Healed { node: 2 });
    let history = |events: [&What; 4]| -> Vec<Event> {
        let events = (0..).zip(events);
        let event = |(at, what): (u64, &What)| Event {
            at,
            what: what.clone(),
        };
        events.map(event).collect()
    };
    assert!(check(&history([&cut, &asks, &ended, &healed])).is_err());
    assert!(check(&history([&cut, &asks, &healed, &ended])).is_ok());
    assert!(check(&history([&asks, &cut, &ended, &healed])).is_ok());
}

//! What must hold at the end: all stores are the same, and nothing acknowledged is missing.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use crate::cluster::{Cluster, Said};
use crate::load::Load;
use crate::{GROUPS, Result};

/// What a node's store holds of a group: the last index, a checksum, the numbers of the writes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Holding {
    applied: u64,
    checksum: u64,
    numbers: Vec<(u64, u64)>,
}

type Dump = BTreeMap<u64, Holding>;

/// Waits until all stores are the same, then looks for every acknowledged write.
pub(crate) fn check(cluster: &mut Cluster, load: &Load, patience: Duration) -> Result<()> {
    let deadline = Instant::now() + patience;
    let dumps = loop {
        let dumps = dump(cluster, deadline)?;
        if dumps.windows(2).all(|pair| pair[0] == pair[1]) {
            break dumps;
        }
        if Instant::now() > deadline {
            return Err(difference(&dumps).into());
        }
        std::thread::sleep(Duration::from_millis(100));
    };
    let ranges = dumps[0].values().flat_map(|holding| &holding.numbers);
    let held: BTreeSet<u64> = ranges
        .flat_map(|(from, to)| (*from..=*to).step_by(GROUPS as usize))
        .collect();
    if let Some(lost) = load.acknowledged.difference(&held).next() {
        return Err(format!("write {lost} was acknowledged and is lost").into());
    }
    let known =
        |number: &&u64| !load.acknowledged.contains(number) && !load.unknown.contains(number);
    if let Some(refused) = held.iter().find(known) {
        return Err(format!("write {refused} was refused and is in the stores").into());
    }
    Ok(())
}

/// Asks every node for all it has.
fn dump(cluster: &mut Cluster, deadline: Instant) -> Result<Vec<Dump>> {
    let mut dumps = Vec::new();
    for node in cluster.nodes() {
        if !cluster.send(node, "dump") {
            return Err(format!("node {node} takes no requests").into());
        }
        let mut dump = Dump::new();
        while dump.len() < GROUPS as usize {
            match cluster.next(deadline) {
                Some((_, Said::Line(line))) => {
                    let (group, holding) = parse(&line)?;
                    dump.insert(group, holding);
                }
                Some((_, Said::Ready)) => {}
                Some((node, Said::Ended)) => {
                    return Err(format!("node {node} ended by itself").into());
                }
                None => return Err(format!("node {node} did not say what it holds").into()),
            }
        }
        dumps.push(dump);
    }
    Ok(dumps)
}

/// `holds GROUP APPLIED CHECKSUM FROM-TO FROM-TO ...`
fn parse(line: &str) -> Result<(u64, Holding)> {
    let holds = line.strip_prefix("holds ");
    let holds = holds.ok_or_else(|| format!("{line:?} says nothing of what a store holds"))?;
    let mut words = holds.split_ascii_whitespace();
    let mut number = |what: &str| -> Result<u64> {
        let word = words
            .next()
            .ok_or_else(|| format!("{line:?} has no {what}"))?;
        Ok(word.parse()?)
    };
    let group = number("group")?;
    let (applied, checksum) = (number("index")?, number("checksum")?);
    let mut numbers = Vec::new();
    for range in words {
        let (from, to) = range.split_once('-').ok_or("a range has two ends")?;
        numbers.push((from.parse()?, to.parse()?));
    }
    let holding = Holding {
        applied,
        checksum,
        numbers,
    };
    Ok((group, holding))
}

/// The first group in which two stores differ.
fn difference(dumps: &[Dump]) -> String {
    for (group, first) in &dumps[0] {
        for (node, dump) in (1..).zip(dumps) {
            if dump[group] != *first {
                let ends = [first, &dump[group]].map(|held| (held.applied, held.checksum));
                return format!("group {group} differs on nodes 1 and {node}: {ends:?}");
            }
        }
    }
    "the stores differ".to_owned()
}

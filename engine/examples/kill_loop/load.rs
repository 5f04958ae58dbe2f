//! The steady load: writes that are due at a fixed rate, whatever becomes of the nodes.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use crate::cluster::Cluster;
use crate::{GROUPS, Result};

/// Writes per second over all groups.
const RATE: u32 = 1_000;

/// Writes without an outcome; what is due beyond that waits.
const OUTSTANDING_MAX: usize = 8_192;

/// How long a refused write waits before it is tried again.
const RETRY: Duration = Duration::from_millis(20);

/// The load, and what is known of each write.
pub(crate) struct Load {
    next_number: u64,
    due: Instant,
    /// Writes at a node, and at which one.
    outstanding: BTreeMap<u64, u64>,
    /// Writes certainly in no log, in the order in which they are tried again.
    refused: VecDeque<(Instant, u64)>,
    /// For each group, the node that is asked first.
    leaders: Vec<u64>,
    pub(crate) acknowledged: BTreeSet<u64>,
    pub(crate) unknown: BTreeSet<u64>,
    /// For each group, when a write was acknowledged last.
    last_acknowledged: Vec<Instant>,
    /// Longest time without an acknowledgement in a group.
    pub(crate) silence: Duration,
}

impl Load {
    pub(crate) fn new() -> Self {
        Self {
            next_number: GROUPS,
            due: Instant::now(),
            outstanding: BTreeMap::new(),
            refused: VecDeque::new(),
            leaders: vec![1; GROUPS as usize],
            acknowledged: BTreeSet::new(),
            unknown: BTreeSet::new(),
            last_acknowledged: vec![Instant::now(); GROUPS as usize],
            silence: Duration::ZERO,
        }
    }

    /// The node that acknowledged the last write to a group.
    pub(crate) fn leader(&self, group: u64) -> u64 {
        self.leaders[group as usize]
    }

    /// Whether a write to that group was acknowledged after that moment.
    pub(crate) fn moved_since(&self, group: u64, moment: Instant) -> bool {
        self.last_acknowledged[group as usize] > moment
    }

    /// Whether a write has no outcome yet.
    pub(crate) fn is_pending(&self) -> bool {
        !(self.outstanding.is_empty() && self.refused.is_empty())
    }

    /// Proposes what is due, and what was refused. Gives when it wants to be called again.
    pub(crate) fn propose(&mut self, cluster: &mut Cluster, now: Instant) -> Instant {
        self.retry(cluster, now);
        while self.due <= now && self.outstanding.len() + self.refused.len() < OUTSTANDING_MAX {
            let number = self.next_number;
            self.next_number += 1;
            self.due += Duration::from_secs(1) / RATE;
            self.send(cluster, number, now);
        }
        let retry = self.refused.front().map_or(self.due, |(at, _)| *at);
        self.due
            .max(now + Duration::from_millis(1))
            .min(retry.max(now))
    }

    /// Proposes again what was refused.
    pub(crate) fn retry(&mut self, cluster: &mut Cluster, now: Instant) {
        while let Some(&(at, number)) = self.refused.front()
            && at <= now
        {
            self.refused.pop_front();
            self.send(cluster, number, now);
        }
    }

    fn send(&mut self, cluster: &mut Cluster, number: u64, now: Instant) {
        let group = (number % GROUPS) as usize;
        let node = self.leaders[group];
        if cluster.send(node, &format!("write {number}")) {
            self.outstanding.insert(number, node);
        } else {
            self.leaders[group] = another(cluster, node);
            self.refused.push_back((now + RETRY, number));
        }
    }

    /// Takes a node's answer to a write.
    pub(crate) fn answered(&mut self, cluster: &Cluster, node: u64, answer: &str) -> Result<()> {
        let now = Instant::now();
        let words: Vec<&str> = answer.split(' ').collect();
        let number: u64 = words.get(1).ok_or("an answer is cut short")?.parse()?;
        if self.outstanding.remove(&number).is_none() {
            return Err(format!("node {node} answered for write {number}, which waits not").into());
        }
        let group = (number % GROUPS) as usize;
        match words[0] {
            "applied" => {
                self.leaders[group] = node;
                let last = std::mem::replace(&mut self.last_acknowledged[group], now);
                self.silence = self.silence.max(now - last);
                self.acknowledged.insert(number);
            }
            "rejected" => {
                // One refusal is enough to look elsewhere; later ones come from the same node.
                if self.leaders[group] == node {
                    let hint: u64 = words.get(2).ok_or("an answer is cut short")?.parse()?;
                    let hint = (hint > 0 && hint != node).then_some(hint);
                    self.leaders[group] = hint.unwrap_or_else(|| another(cluster, node));
                }
                self.refused.push_back((now + RETRY, number));
            }
            "unknown" => {
                self.unknown.insert(number);
            }
            _ => return Err(format!("node {node} answered {answer:?}").into()),
        }
        Ok(())
    }

    /// A node has ended: what becomes of the writes that it was given can't be known.
    pub(crate) fn node_ended(&mut self, node: u64) {
        let given = self.outstanding.iter().filter(|(_, at)| **at == node);
        self.unknown.extend(given.map(|(number, _)| *number));
        self.outstanding.retain(|_, at| *at != node);
    }
}

/// The node after this one.
fn another(cluster: &Cluster, node: u64) -> u64 {
    let mut after = cluster.nodes().filter(|other| *other > node);
    after.next().unwrap_or(1)
}

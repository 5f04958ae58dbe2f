//! Steady runs: clients never stop, and quiet windows show that all get what they are owed.
//!
//! Storms and windows take turns. Before a window everything is repaired, or all but one node,
//! which stays impaired until the window is over: the others must not notice more than that.

use pontoon::raft::{Raft, Term};
use pontoon::simulation::SimulatedCore;
use pontoon::{GroupId, LogIndex};

use crate::client::Outstanding;
use crate::clock;
use crate::coverage::RareEvent;
use crate::impairment::Impairment;
use crate::settings::{ELECTION_TIMEOUT, MILLISECOND};
use crate::sim_core::SimCore;
use crate::trace::TraceKind;
use crate::world::{Event, World, raft_of};

/// In election time-outs: how long a window lasts, and how long a group may be without a leader in
/// it, or without an acknowledged operation.
const WINDOW: u64 = 8 * ELECTION_TIMEOUT;
const LEADERLESS_MAX: u64 = 4 * ELECTION_TIMEOUT;

/// Pieces that pass a link one after the other in an election, both ways.
const ELECTION_PIECES: u64 = 4;

/// Nodes that lost each other are connected again after this: they wait a second at most.
const RECONNECTING: u64 = 1_500 * MILLISECOND;

/// Between two looks.
const LOOK: u64 = 20 * MILLISECOND;

/// A window is not waited for if its links need longer than this.
const EXTRA_MAX: u64 = 4_000 * MILLISECOND;

/// What is read back and written again of entries in a second, in bytes, where no link is slower.
const DISK_RATE: u64 = 4 << 20;

/// A disk that was full is tried again after this at most.
pub(crate) const PREPARED_AGAIN: u64 = 1_100 * MILLISECOND;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Storm,
    /// All that can be repaired was: nodes find each other again.
    Settling,
    Window,
}

/// Where a steady run is.
pub(crate) struct Steady {
    stage: Stage,
    since: u64,
    until: u64,
    /// When the last of what began in storms is over.
    quiet_from: u64,
    pub(crate) impaired: Option<(usize, Impairment)>,
    /// Nodes that a quiet window says nothing of: they were started again within it.
    pub(crate) disturbed: Vec<usize>,
    /// By group: what was committed when the window began.
    targets: Vec<LogIndex>,
    /// By group: the latest term of any replica when the window began.
    pub(crate) terms: Vec<Term>,
    /// By group: its leader was slow when the window began.
    led_by_slow: Vec<bool>,
    /// Who is to lead until the window is over, and in what term: nobody else could.
    pub(crate) offices: Vec<(GroupId, usize, Term)>,
    /// By group: when it was last led, and when it last answered a client.
    led_at: Vec<u64>,
    pub(crate) answered_at: Vec<u64>,
    /// Answers that clients have given up.
    pub(crate) owed: Vec<Outstanding>,
}

impl Steady {
    pub(crate) fn new(groups: u64) -> Self {
        let groups = usize::try_from(groups).expect("few groups");
        Self {
            stage: Stage::Storm,
            since: 0,
            until: 0,
            quiet_from: 0,
            impaired: None,
            disturbed: Vec::new(),
            targets: Vec::new(),
            terms: Vec::new(),
            led_by_slow: Vec::new(),
            offices: Vec::new(),
            led_at: vec![0; groups],
            answered_at: vec![0; groups],
            owed: Vec::new(),
        }
    }
}

impl Steady {
    /// Whether a window was opened and not judged.
    pub(crate) fn is_in_window(&self) -> bool {
        self.stage == Stage::Window
    }

    /// When the stage began.
    pub(crate) fn since(&self) -> u64 {
        self.since
    }

    /// Something that began in a storm goes on until then: no window opens before.
    pub(crate) fn lasts_until(&mut self, until: u64) {
        self.quiet_from = self.quiet_from.max(until);
    }
}

impl World {
    /// Whether something may go wrong now.
    pub(crate) fn may_fail(&self) -> bool {
        !self.healed && self.steady.stage == Stage::Storm
    }

    /// The next look at a steady run.
    pub(crate) fn look(&mut self) {
        let now = self.now;
        match self.steady.stage {
            Stage::Storm => {
                let impaired = self.random.happens(700_000);
                self.calm_down(impaired);
            }
            Stage::Settling if now < self.steady.quiet_from => self.restart_failed(),
            Stage::Settling if self.all_connected() => self.open_window(),
            Stage::Settling if now > self.settled_at() + RECONNECTING => {
                self.fail(format!(
                    "nodes are not connected {} ms after everything was repaired",
                    RECONNECTING / MILLISECOND
                ));
            }
            Stage::Settling => self.restart_failed(),
            Stage::Window => {
                self.restart_failed();
                self.note_leaders();
                self.check_answers();
                self.look_at_lone_group();
                if now >= self.steady.until {
                    self.judge();
                    self.close_window();
                }
            }
        }
        self.schedule(LOOK, Event::Look);
    }

    /// A storm begins after a window, or another window in which the impaired node is well again.
    fn close_window(&mut self) {
        if self.steady.impaired.is_some() {
            return self.calm_down(false);
        }
        self.steady.stage = Stage::Storm;
        let storm = self.random.between(100, 500) * MILLISECOND;
        self.schedule(storm, Event::Look);
    }

    /// Everything is repaired, all but one node if `impairs`.
    fn calm_down(&mut self, impairs: bool) {
        self.steady.stage = Stage::Settling;
        self.steady.since = self.now;
        self.steady.disturbed.clear();
        self.steady.impaired = None;
        self.repair();
        if impairs && self.swarm.nodes >= 3 {
            self.impair();
        }
        let impaired = self.steady.impaired;
        self.trace.event(
            self.now,
            TraceKind::Calm,
            &[],
            format_args!("all is repaired but {impaired:?}"),
        );
    }

    /// Nodes that stand still go on at once, also if nothing new comes for them.
    fn end_pauses(&mut self) {
        for position in 0..self.places.len() {
            let node = self.places[position].node;
            if self.paused_until[node] > self.now {
                self.wake(position, self.now + 1);
            }
        }
        self.paused_until.fill(0);
    }

    /// Whatever is wrong from outside ends.
    pub(crate) fn repair(&mut self) {
        self.end_stopping();
        self.release_all();
        self.network.blocked.clear();
        self.network.links.repair();
        self.end_pauses();
        for position in 0..self.places.len() {
            self.give_space_to(position);
            if self.places[position].interrupted.is_some() {
                // It goes on now: what it has taken would wait until its pause is over.
                self.wake(position, self.now + 1_000);
            }
        }
        for clock in &mut self.clocks {
            clock.set_rate(self.now, clock::within_bound(&mut self.random));
        }
        for node in 0..self.swarm.nodes {
            self.start(node);
        }
        if self.swarm.steady {
            // What such a connection holds up would go on being late.
            for socket in self.network.all() {
                let end = self.network.end(socket);
                if end.is_some_and(|end| end.clogged_until > self.now) {
                    self.cut(socket);
                }
            }
            self.restart_failed();
        }
    }

    /// Whether a node is to be down until the window is over.
    pub(crate) fn stays_down(&self, node: usize) -> bool {
        let stops = self.is_impaired(node, Impairment::Stops);
        let stopped = stops && self.steady.stage == Stage::Window;
        let plotted = self.plot.is_some_and(|plot| plot.is_away(node));
        stopped || plotted || self.is_impaired(node, Impairment::Down)
    }

    /// Whether a majority of the members of a group is well.
    pub(crate) fn has_sound_majority(&self, group: GroupId) -> bool {
        self.sound_members(group).len() > self.swarm.nodes / 2
    }

    /// A core whose log has failed, or could not give entries back, stays as it is until somebody
    /// starts its node again.
    pub(crate) fn restart_failed(&mut self) {
        for position in 0..self.places.len() {
            let place = &self.places[position];
            let failed = |shard: &SimulatedCore| {
                shard.failure().is_some() || shard.statistics().log.reads_lost > 0
            };
            let runs = place.shard.is_some();
            if place.shard.as_ref().is_some_and(failed)
                || runs && self.has_failed_machine(place.node)
            {
                let node = place.node;
                self.crash(node);
            }
        }
        if self.steady.stage != Stage::Storm {
            for node in 0..self.swarm.nodes {
                if !self.runs(node) && !self.steady.disturbed.contains(&node) {
                    self.steady.disturbed.push(node);
                }
            }
        }
    }

    /// Nodes that are well, and were so since the window began.
    pub(crate) fn is_sound(&self, node: usize) -> bool {
        let impaired = self
            .steady
            .impaired
            .is_some_and(|(other, kind)| (other == node) != (kind == Impairment::OthersStill));
        !impaired && self.runs(node) && !self.steady.disturbed.contains(&node)
    }

    /// When the last fault was over.
    fn settled_at(&self) -> u64 {
        self.steady.since.max(self.steady.quiet_from)
    }

    fn all_connected(&self) -> bool {
        let sound: Vec<usize> = (0..self.swarm.nodes)
            .filter(|n| self.is_sound(*n))
            .collect();
        sound.iter().all(|&node| {
            let others = sound.iter().filter(|other| **other != node);
            others.into_iter().all(|&other| {
                (0..self.swarm.cores).all(|core| {
                    let (from, to) = (self.place(node, core), self.place(other, core));
                    self.network.are_connected(from, to)
                })
            })
        })
    }

    fn open_window(&mut self) {
        self.steady.stage = Stage::Window;
        self.steady.since = self.now;
        // Where a log is full, who holds it up is waited for over ten election timeouts.
        let full = matches!(
            self.steady.impaired,
            Some((
                _,
                Impairment::Full
                    | Impairment::Still
                    | Impairment::OthersStill
                    | Impairment::Withheld
            ))
        );
        // Over slow links votes are split more often.
        let unled = self.swarm.slowest_link > 0 && self.has_unled_group();
        let window = if full || unled { 2 * WINDOW } else { WINDOW };
        self.steady.until = self.now + window + self.transfer_time().min(EXTRA_MAX);
        let groups = 1..=self.swarm.groups;
        let targets = groups.map(|group| self.committed_index(GroupId(group)));
        self.steady.targets = targets.collect();
        let groups = 1..=self.swarm.groups;
        self.steady.terms = groups
            .map(|group| self.latest_term(GroupId(group)))
            .collect();
        let groups = 1..=self.swarm.groups;
        let slow = groups.map(|group| self.is_led_by_slow(GroupId(group)));
        self.steady.led_by_slow = slow.collect();
        self.steady.led_at.fill(self.now);
        self.steady.answered_at.fill(self.now);
        self.note_offices();
        self.lone.clear();
        self.count_from_here();
        self.coverage.mark(RareEvent::WindowOpened);
        if let Some((node, Impairment::Stops)) = self.steady.impaired
            && self.runs(node)
        {
            self.begin_stop(node);
        }
    }

    fn has_unled_group(&self) -> bool {
        let leads = |place: &SimCore, group| raft_of(place, group).is_some_and(Raft::is_leader);
        let mut groups = (1..=self.swarm.groups).map(GroupId);
        groups.any(|group| !self.places.iter().any(|place| leads(place, group)))
    }

    fn latest_term(&self, group: GroupId) -> Term {
        let rafts = self.places.iter().filter_map(|place| raft_of(place, group));
        rafts.map(Raft::current_term).max().unwrap_or_default()
    }

    /// How long the links need at least for what is on its way and what followers lack.
    fn transfer_time(&mut self) -> u64 {
        let mut longest = 0;
        for socket in self.network.all() {
            let Some(end) = self.network.end(socket) else {
                continue;
            };
            let Some(from) = self.network.end(end.other).map(|end| end.place) else {
                continue;
            };
            let to = end.place;
            let nodes = (self.places[from].node, self.places[to].node);
            let outstanding = self.network.outstanding(socket) as u64;
            let link = self.network.links.between(nodes.0, nodes.1);
            let rate = link.map_or(0, |link| link.rate(self.now));
            let rate = if rate == 0 { DISK_RATE } else { rate };
            if self.is_sound(nodes.0) && self.is_sound(nodes.1) {
                let bytes = outstanding + self.lacking(from, to);
                longest = longest.max(3 * bytes * 1_000 * MILLISECOND / rate);
            }
        }
        longest
    }

    /// About how many bytes of entries one place has and another lacks.
    fn lacking(&self, from: usize, to: usize) -> u64 {
        let Some(shard) = &self.places[from].shard else {
            return 0;
        };
        let lacks = |(group, raft): (GroupId, &Raft)| {
            let held = raft_of(&self.places[to], group).map_or(0, |raft| raft.commit_index().0);
            let first = held.max(raft.compacted().index.0);
            let bytes = if self.swarm.large { 3_600 } else { 800 };
            raft.last_index().0.saturating_sub(first) * bytes
        };
        shard.replicas().map(lacks).sum()
    }

    fn note_leaders(&mut self) {
        if self.hears_gone_leader() {
            self.steady.led_at.fill(self.now);
            self.steady.until = self.steady.until.max(self.now + WINDOW);
        }
        for place in &self.places {
            for (group, raft) in place.shard.iter().flat_map(SimulatedCore::replicas) {
                if raft.is_leader()
                    && let Some(led_at) = self.steady.led_at.get_mut(group.0 as usize - 1)
                {
                    *led_at = self.now;
                }
            }
        }
        for group in 1..=self.swarm.groups {
            // Until all members have met, nobody leads: one that is impaired is waited for.
            if !self.is_founded_by_majority(GroupId(group)) {
                let position = group as usize - 1;
                self.steady.led_at[position] = self.now;
                self.steady.answered_at[position] = self.now;
            }
        }
    }

    fn is_founded_by_majority(&self, group: GroupId) -> bool {
        let core = pontoon::simulation::core_of(group, self.swarm.cores);
        let nodes = 0..self.swarm.nodes;
        let rafts = nodes.filter_map(|node| {
            let place = &self.places[self.place(node, core)];
            raft_of(place, group)
        });
        rafts.filter(|raft| raft.is_founded()).count() > self.swarm.nodes / 2
    }

    /// The window is over: what is owed was given.
    fn judge(&mut self) {
        self.coverage.mark(RareEvent::WindowJudged);
        for group in 1..=self.swarm.groups {
            self.judge_group(GroupId(group));
        }
        self.judge_offices();
        self.judge_proposals();
        self.check_costs();
    }

    fn judge_group(&mut self, group: GroupId) {
        let sound = self.sound_members(group);
        if sound.len() <= self.swarm.nodes / 2 {
            return;
        }
        let core = pontoon::simulation::core_of(group, self.swarm.cores);
        let (now, since) = (self.now, self.steady.since);
        let position = group.0 as usize - 1;
        let ago = |then: u64| (now - then) / MILLISECOND;
        let impaired = self.steady.impaired;
        let (led_at, answered_at) = (
            self.steady.led_at[position],
            self.steady.answered_at[position],
        );
        let leaderless_max = self.leaderless_max(&sound);
        if now - led_at > leaderless_max {
            let state = self.describe();
            return self.fail(format!(
                "group {group} has had no leader for {} ms of a quiet window, impaired \
                 {impaired:?}: {state}",
                ago(led_at)
            ));
        }
        self.judge_room(group, &sound);
        self.judge_terms(group);
        if self.steady.led_by_slow[position] || self.is_led_by_slow(group) {
            return;
        }
        // One client is seldom where each of many groups could answer it.
        let asked = 2 * self.clients.len() as u64 >= self.swarm.groups;
        let waited = asked && now - since > leaderless_max;
        if answered_at == since && waited && self.swarm.releases() {
            let state = self.describe();
            return self.fail(format!(
                "group {group} has answered no client for {} ms of a quiet window, impaired \
                 {impaired:?}: {state}",
                ago(answered_at)
            ));
        }
        let target = self.steady.targets[position];
        for node in sound {
            let place = self.place(node, core);
            let raft = raft_of(&self.places[place], group).expect("it is sound");
            let (commit, applied) = (raft.commit_index(), raft.status().last_applied);
            if commit < target || applied < target {
                let state = self.describe();
                return self.fail(format!(
                    "node {node} of group {group} has commit {commit} and applied {applied}, {} \
                     ms after {target} was committed, impaired {impaired:?}: {state}",
                    ago(since)
                ));
            }
        }
    }

    /// How long a group may be without a leader. An election is two round trips: where one takes
    /// about as long as the time that candidates wait, they often campaign against each other.
    fn leaderless_max(&mut self, sound: &[usize]) -> u64 {
        let now = self.now;
        let pairs = sound
            .iter()
            .flat_map(|from| sound.iter().map(move |to| (*from, *to)));
        let mut slowest = 0;
        for (from, to) in pairs.filter(|(from, to)| from != to) {
            let link = self.network.links.between(from, to);
            slowest = slowest.max(link.map_or(0, |link| link.time(now, link.piece(now))));
        }
        LEADERLESS_MAX + 4 * ELECTION_PIECES * slowest
    }

    /// Elections are few in a quiet window.
    fn judge_terms(&mut self, group: GroupId) {
        let position = group.0 as usize - 1;
        let (before, term) = (self.steady.terms[position], self.latest_term(group));
        let lasted = self.now - self.steady.since;
        if term.0.saturating_sub(before.0) > lasted / ELECTION_TIMEOUT {
            let state = self.describe();
            self.fail(format!(
                "group {group} came from term {before} to {term} in {} ms of a quiet window, \
                 impaired {:?}: {state}",
                lasted / MILLISECOND,
                self.steady.impaired
            ));
        }
    }

    /// Nodes that are well, and whose replica of the group is.
    fn sound_members(&self, group: GroupId) -> Vec<usize> {
        let core = pontoon::simulation::core_of(group, self.swarm.cores);
        let counts = |node: &usize| {
            let place = self.place(*node, core);
            let raft = raft_of(&self.places[place], group);
            let has_all = !self.needs_snapshot(group, place);
            self.is_sound(*node) && has_all && raft.is_some_and(|raft| !raft.is_tainted())
        };
        (0..self.swarm.nodes).filter(counts).collect()
    }

    /// A leader that is slow in a way that its followers can't tell.
    fn is_led_by_slow(&self, group: GroupId) -> bool {
        let core = pontoon::simulation::core_of(group, self.swarm.cores);
        let slow = self.steady.impaired.filter(|(_, kind)| {
            matches!(
                kind,
                Impairment::SlowDisk | Impairment::SlowTurns | Impairment::Drips
            )
        });
        slow.is_some_and(|(node, _)| {
            let raft = raft_of(&self.places[self.place(node, core)], group);
            raft.is_some_and(Raft::is_leader)
        })
    }

    /// What a follower lacks, others have compacted.
    fn needs_snapshot(&self, group: GroupId, place: usize) -> bool {
        let last = raft_of(&self.places[place], group).map(Raft::last_index);
        let compacted = |other| raft_of(other, group).map(|raft| raft.compacted().index);
        self.places.iter().any(|other| compacted(other) > last)
    }

    fn judge_proposals(&mut self) {
        let since = self.steady.since;
        let mut owed = std::mem::take(&mut self.steady.owed);
        owed.retain_mut(|owed| !owed.is_answered());
        let mut late = owed
            .iter()
            .chain(self.clients.iter().filter_map(|c| c.outstanding()));
        let late = late.find(|owed| {
            let place = &self.places[owed.place];
            let members = self.sound_members(GroupId(owed.group));
            let sound = members.len() > self.swarm.nodes / 2 && members.contains(&place.node);
            owed.invoked < since && owed.generation == place.generation && sound
        });
        if let Some(late) = late {
            let (group, place) = (late.group, late.place);
            let ago = (self.now - late.invoked) / MILLISECOND;
            let state = self.describe();
            let impaired = self.steady.impaired;
            self.fail(format!(
                "a proposal to group {group} at place {place} has no outcome after {ago} ms, \
                 impaired {impaired:?}: {state}"
            ));
        }
        let generations: Vec<u64> = self.places.iter().map(|place| place.generation).collect();
        owed.retain(|owed| owed.generation == generations[owed.place]);
        self.steady.owed = owed;
    }
}

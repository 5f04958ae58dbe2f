//! What exists in one run: drawn from its seed, so that a campaign visits many worlds.

use crate::random::Random;
use crate::settings::{ELECTION_TIMEOUT, HEARTBEAT_INTERVAL, MILLISECOND};

/// Of so many runs one is steady: its clients never stop. They are worth, and cost, many others.
const STEADY_ONE_IN: usize = 10;

/// When a machine's state is durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MachineKind {
    /// Never: it is built from the log.
    Volatile,
    /// When a batch was applied.
    Prompt,
    /// Once so much time has passed, or so many entries, and only while entries are applied.
    Late { after: u64, entries: u64 },
    /// At once, and it may need every entry again.
    Hoarder,
}

/// The world of one run. Rates are per million of whatever they apply to.
#[derive(Clone, Debug, Default)]
pub struct Swarm {
    /// Nodes.
    pub nodes: usize,
    /// Cores of each.
    pub cores: u16,
    /// Groups.
    pub groups: u64,
    /// Clients, each with one operation outstanding.
    pub clients: usize,
    /// Commands are large: segments come and go.
    pub(crate) large: bool,
    /// How long a client waits between two looks, in nanoseconds.
    pub(crate) think: u64,
    /// Keys of each group.
    pub keys: u64,
    /// Machines keep their own state over crashes; otherwise they are built from the log.
    pub durable_machines: bool,
    /// Messages are checked against the durable image of their sender: slow, so not in every run.
    pub checks_promises: bool,
    pub(crate) disk_delay: u64,
    pub(crate) disk_stall: u64,
    pub(crate) disk_error: u64,
    pub(crate) disk_full: bool,
    pub(crate) bit_rot: u64,
    pub(crate) bad_sector: u64,
    /// Of all writes of the drives that lose what they acknowledge.
    pub(crate) lost_write: u64,
    pub(crate) misdirected_write: u64,
    /// Of all reads, while a node runs.
    pub(crate) read_error: u64,
    pub(crate) wrong_read: u64,
    /// Of all starts of a core.
    pub(crate) read_error_in_recovery: u64,
    pub(crate) wrong_read_in_recovery: u64,
    pub(crate) crash_in_recovery: u64,
    pub(crate) foreign_disk: u64,
    pub(crate) torn_writes: bool,
    pub(crate) network_delay: u64,
    pub(crate) cut: u64,
    pub(crate) duplication: u64,
    pub(crate) clog: u64,
    /// Of all connections: a stranger makes another in the same name, and says nothing.
    pub(crate) stranger: u64,
    pub(crate) bit_flip: u64,
    pub(crate) partition: u64,
    pub(crate) one_way: bool,
    pub(crate) crash: u64,
    pub(crate) pause: u64,
    /// A pause within a turn, between reading the clock and all that follows.
    pub(crate) pause_in_turn: u64,
    /// Rates of clocks that change: within the bound, or beyond it.
    pub(crate) clock_drift: u64,
    pub(crate) clock_beyond_bound: u64,
    pub(crate) transfer: u64,
    /// Somebody begins to ask for a hand-over again and again; somebody lies.
    pub(crate) nag: u64,
    pub(crate) lie: u64,
    /// Leaders that are cut off from the others soon after their election.
    pub(crate) isolate_new_leader: u64,
    /// Writes of one log under way at once; they complete in any order.
    pub(crate) writes_in_flight: usize,
    /// Clients never stop, and quiet windows within the run show whether all get what they are
    /// owed.
    pub(crate) steady: bool,
    /// Links carry so many bytes a second or more, through buffers; 0: they carry everything.
    pub(crate) slowest_link: u64,
    /// Of all moments at which something may go wrong: a link carries nothing for a while, or
    /// little; all links to a node carry nothing, while it sends as ever.
    pub(crate) hang: u64,
    pub(crate) drip: u64,
    pub(crate) deaf: u64,
    /// Of all starts of a node, and of all elections: its disk is full for a while.
    pub(crate) full_at_start: u64,
    pub(crate) full_leader: u64,
    /// Every other group's machine is durable late, or never lets go of an entry.
    pub(crate) late_machines: bool,
    pub(crate) hoarders: bool,
    /// Of all commands given to a machine: it can't go on.
    pub(crate) machine_failure: u64,
    /// Of each log.
    pub(crate) segments_max: u32,
    /// Of all moments at which something may go wrong: a node is told to stop; somebody asks a core
    /// for something.
    pub(crate) stop: u64,
    pub(crate) calls: u64,
    /// Of all starts of a core: its driver fails then, at its first use, or later.
    pub(crate) driver_failure: u64,
    /// Of all connections: a stranger makes another in the same name, and talks.
    pub(crate) talker: u64,
    /// Of all starts of a node: its disks are empty, or an old copy of them is back.
    pub(crate) forgetting: u64,
    /// How long every message travels at least, in nanoseconds.
    pub(crate) way: u64,
    /// Of all moments at which something may go wrong: a node's disks stand still for a while; the
    /// next segments of its logs do not come.
    pub(crate) still: u64,
    pub(crate) withheld: u64,
    /// Of quiet windows with something wrong: one of these, and not what is drawn otherwise.
    pub(crate) still_window: u64,
    /// Between two commands of whoever asks little, and always; 0: there is nobody.
    pub(crate) light_load: u64,
    /// A state machine takes so many nanoseconds to make, at most; 0: none.
    pub(crate) slow_factory: u64,
    /// Of all moments at which something may go wrong: a follower's machine fails, or a leader is
    /// made to hand over beside one that did.
    pub(crate) renounced: u64,
    /// Of all runs with long ways: a node is started again when all else is repaired, and strangers
    /// talk in its name.
    pub(crate) returns_among_strangers: bool,
    /// Nodes have a group of their own beside the first, which has members on all.
    pub(crate) lone: bool,
}

impl Swarm {
    /// Whether so many nodes lose durable data and can give it back to each other.
    #[must_use]
    pub fn repairs(&self, nodes: usize) -> bool {
        self.nodes == nodes && self.bit_rot > 0 && self.crash > 0 && !self.durable_machines
    }

    /// When the state of a group's machines is durable.
    pub(crate) fn machine(&self, group: u64) -> MachineKind {
        match self.durable_machines {
            true if group % 2 == 1 && self.hoarders => MachineKind::Hoarder,
            true if group % 2 == 1 && self.late_machines => MachineKind::Late {
                after: 2 * ELECTION_TIMEOUT,
                entries: 200,
            },
            true => MachineKind::Prompt,
            false => MachineKind::Volatile,
        }
    }

    /// Whether the logs can't run full for good: every machine lets go of entries in time.
    pub(crate) fn releases(&self) -> bool {
        self.durable_machines && !self.hoarders
    }

    /// The world of a seed.
    #[must_use]
    pub fn draw(seed: u64) -> Self {
        let random = &mut Random::new(seed ^ 0x5357_4152_4d00_0000);
        let swarm = Self::draw_first(random).draw_rest(random);
        // By a chance of its own: what was drawn before stays as it is.
        swarm.draw_later(&mut Random::new(!seed ^ 0x4c41_5445_5200_0000))
    }

    fn draw_later(mut self, random: &mut Random) -> Self {
        let maybe = |random: &mut Random, rate: u64| {
            if random.happens(250_000) { rate } else { 0 }
        };
        self.still = maybe(random, 30_000);
        self.withheld = maybe(random, 30_000);
        self.still_window = 300_000;
        // Before the next heartbeat is due.
        let light_load = random.between(HEARTBEAT_INTERVAL / 10, HEARTBEAT_INTERVAL);
        self.light_load = maybe(random, light_load);
        let slow_factory = random.between(1, 100) * MILLISECOND;
        self.slow_factory = maybe(random, slow_factory);
        self.renounced = maybe(random, 150_000);
        self.returns_among_strangers = random.happens(25_000) && self.way > 0;
        let lone = self.steady && self.nodes >= 3 && self.groups == 1 && self.releases();
        self.lone = random.happens(600_000) && lone;
        if self.lone {
            self.light_load = light_load;
        }
        self.bad_sector = maybe(random, 500_000);
        self
    }

    /// What came later is drawn behind the rest.
    fn draw_rest(mut self, random: &mut Random) -> Self {
        let maybe = |random: &mut Random, rate: u64| {
            if random.happens(400_000) { rate } else { 0 }
        };
        self.steady = random.below(STEADY_ONE_IN) == 0;
        let slowest = if self.steady { 200_000 } else { 1_000 };
        self.slowest_link = maybe(random, slowest);
        self.hang = maybe(random, 30_000);
        self.drip = maybe(random, 30_000);
        self.deaf = maybe(random, 20_000);
        self.full_at_start = maybe(random, 150_000);
        self.full_leader = maybe(random, 150_000);
        self.late_machines = random.happens(500_000);
        self.hoarders = random.happens(100_000);
        self.stranger = maybe(random, 300_000);
        // Several groups of large commands in few segments hold each other up for longer than a
        // window lasts.
        let segments_max = match (self.groups, self.large) {
            (1, _) | (_, false) => [64, 16, 8, 8],
            _ => [64, 64, 32, 16],
        };
        let segments_max = segments_max[random.below(4)];
        if self.steady {
            self.durable_machines = !random.happens(100_000);
            self.checks_promises &= random.happens(200_000);
            if self.releases() {
                self.segments_max = segments_max;
            }
            self.network_delay = self.network_delay.min(MILLISECOND);
            self.disk_delay = self.disk_delay.min(MILLISECOND);
            self.clients += random.below(8);
            self.think = [1, 1, 2, 5][random.below(4)] * MILLISECOND;
            if self.nodes > 5 {
                self.nodes = 3;
            }
        }
        self.machine_failure = maybe(random, 2_000);
        self.stop = maybe(random, 60_000);
        self.calls = maybe(random, 500_000);
        self.driver_failure = maybe(random, 150_000);
        // Each way: a round trip is from a small part of an election timeout up to four.
        let way = ELECTION_TIMEOUT * [1, 5, 20, 60, 100, 200][random.below(6)] / 100;
        if !self.steady && random.happens(150_000) {
            self.way = way;
        }
        self.talker = maybe(random, 200_000);
        self.forgetting = maybe(random, 300_000);
        self
    }

    fn draw_first(random: &mut Random) -> Self {
        let maybe = |random: &mut Random, rate: u64| {
            if random.happens(400_000) { rate } else { 0 }
        };
        let nodes = [1, 3, 3, 3, 3, 5, 5, 7][random.below(8)];
        Self {
            nodes,
            cores: [1, 1, 1, 2, 3][random.below(5)],
            groups: [1, 1, 2, 3, 8][random.below(5)],
            clients: 1 + random.below(6),
            keys: 1 + random.number() % 3,
            durable_machines: random.happens(500_000),
            checks_promises: random.happens(125_000),
            disk_delay: random.between(50_000, 3 * MILLISECOND),
            disk_stall: maybe(random, 20_000),
            disk_error: maybe(random, 300),
            disk_full: random.happens(100_000),
            bit_rot: maybe(random, 700_000),
            lost_write: maybe(random, 10_000),
            misdirected_write: maybe(random, 10_000),
            read_error: maybe(random, 50_000),
            wrong_read: maybe(random, 50_000),
            read_error_in_recovery: maybe(random, 200_000),
            wrong_read_in_recovery: maybe(random, 400_000),
            crash_in_recovery: maybe(random, 150_000),
            foreign_disk: maybe(random, 150_000),
            torn_writes: random.happens(700_000),
            network_delay: random.between(20_000, 5 * MILLISECOND),
            cut: maybe(random, 5_000),
            duplication: maybe(random, 20_000),
            clog: maybe(random, 5_000),
            bit_flip: maybe(random, 1_000),
            partition: maybe(random, 250_000),
            one_way: random.happens(500_000),
            crash: maybe(random, 300_000),
            pause: maybe(random, 200_000),
            pause_in_turn: maybe(random, 2_000),
            clock_drift: maybe(random, 20_000),
            clock_beyond_bound: maybe(random, 10_000),
            transfer: maybe(random, 100_000),
            nag: maybe(random, 50_000),
            lie: maybe(random, 30_000),
            large: random.happens(300_000),
            think: [5, 20, 60][random.below(3)] * MILLISECOND,
            isolate_new_leader: maybe(random, 700_000),
            writes_in_flight: [1, 1, 2, 3][random.below(4)],
            segments_max: 64,
            ..Self::default()
        }
    }
}

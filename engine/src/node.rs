//! A node: its cores, each with a shard and a ring of its own, and the lane for everything slow.

use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Instant;

use pontoon_raft::{GroupId, NodeId, Time};
use pontoon_storage::{
    DriveMethod, FileVolume, OpenError, SegmentLog, SyncMethod, Volume, measure_drive,
};
use pontoon_transport::{
    FORMAT_FINGERPRINT, Features, FrameLimits, Hello, Purpose, WIRE_VERSION, WIRE_VERSION_MIN,
};

use crate::bulk::{BulkConfig, BulkLane, BulkLink};
use crate::config::{Config, ConfigError, FRAME_BYTES_MAX, HostKind};
use crate::doorbell::Doorbell;
use crate::driver::{DriverError, UringConfig, UringDriver, Wake};
use crate::group::Group;
use crate::host::{self, CoreLoop};
use crate::inbox::{CoreHandle, Inbox, channel};
use crate::machine::Machines;
use crate::request::{CreateError, Request};
use crate::shard::{Mutants, Shard, ShardConfig, ShardOpenError};
use crate::statistics::CoreStatistics;

/// Bytes received at once beyond a partial frame.
const RECEIVE_AHEAD_BYTES: u32 = 256 << 10;

/// Entries of a core's submission queue; a turn seldom needs more than two per peer and one write.
const RING_ENTRIES: u32 = 256;

/// Why a node did not start. Nothing is left running.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The configuration can't work.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The address to listen on can't be had.
    #[error("listening on {address}: {source}; choose another `listen` address")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// A core's log can't be opened.
    #[error("core {core}: {source}")]
    Log {
        /// The core.
        core: u16,
        /// What is wrong with its log.
        source: OpenError,
    },
    /// A core's groups can't be reopened.
    #[error("core {core}: {source}")]
    Groups {
        /// The core.
        core: u16,
        /// What is wrong with them.
        source: ShardOpenError,
    },
    /// A core's driver can't be made.
    #[error("core {core}: {source}")]
    Driver {
        /// The core.
        core: u16,
        /// What the kernel said.
        source: DriverError,
    },
    /// The system has no thread or descriptor left.
    #[error("{what}: {source}")]
    System {
        /// What was being done.
        what: &'static str,
        /// What it said.
        source: io::Error,
    },
    /// A core's thread ended before it was ready.
    #[error("core {core} ended while it was started; see its panic above")]
    CoreLost {
        /// The core.
        core: u16,
    },
}

/// How a node ended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StopError {
    /// A core's driver failed while it ran.
    #[error("core {core} had failed: {source}")]
    Driver {
        /// The core.
        core: u16,
        /// The driver's error.
        source: DriverError,
    },
    /// A core panicked: a broken invariant, or a state machine.
    #[error("core {core} panicked; see its message above")]
    Panic {
        /// The core.
        core: u16,
    },
}

/// A running node. Dropping it stops it; [`stop`](Self::stop) says how that went.
#[derive(Debug)]
pub struct Node {
    id: NodeId,
    address: SocketAddr,
    cores: Vec<CoreHandle>,
    threads: Vec<JoinHandle<Result<(), DriverError>>>,
    bulk: Option<BulkLane>,
    /// Ways to the executors of the cores, where glommio runs them.
    #[cfg(feature = "glommio")]
    executors: Vec<crossbeam_channel::Sender<host::Task>>,
}

impl Node {
    /// Opens the logs, reopens their groups, and connects to the other nodes. Blocks until every
    /// core is ready; recovering large logs takes a while.
    ///
    /// # Errors
    /// What stands in the way, by core.
    pub fn start(config: Config, machines: Machines) -> Result<Self, StartError> {
        config.validate()?;
        let listener = TcpListener::bind(config.listen).map_err(|source| StartError::Listen {
            address: config.listen,
            source,
        })?;
        Self::start_on(listener, config, machines)
    }

    /// The same on a socket that listens already, as a service manager may hand it over.
    ///
    /// # Errors
    /// What stands in the way, by core.
    pub fn start_on(
        listener: TcpListener,
        config: Config,
        machines: Machines,
    ) -> Result<Self, StartError> {
        config.validate()?;
        let system = |what| move |source| StartError::System { what, source };
        let address = listener.local_addr();
        let address = address.map_err(system("looking up the address listened on"))?;
        let doorbells: Vec<_> = (0..config.cores)
            .map(|_| Doorbell::new().map(Arc::new))
            .collect::<io::Result<_>>()
            .map_err(system("making a doorbell"))?;
        let (bulk, links) = BulkLane::start(bulk_config(&config, listener), &doorbells)
            .map_err(system("starting the bulk lane"))?;
        let mut node = Self {
            id: NodeId(config.node),
            address,
            cores: Vec::new(),
            threads: Vec::new(),
            bulk: Some(bulk),
            #[cfg(feature = "glommio")]
            executors: Vec::new(),
        };
        let (ready, started) = mpsc::channel();
        for (core, (link, doorbell)) in (0_u16..).zip(links.into_iter().zip(doorbells)) {
            let builder = CoreBuilder {
                config: config.clone(),
                core,
                machines: machines.clone(),
                link,
                doorbell,
                origin: Instant::now(),
            };
            node.start_core(builder, ready.clone())?;
        }
        drop(ready);
        node.wait_until_ready(&started)?;
        Ok(node)
    }

    fn start_core(
        &mut self,
        builder: CoreBuilder,
        ready: mpsc::Sender<Result<(), StartError>>,
    ) -> Result<(), StartError> {
        let (kind, core) = (builder.config.host, builder.core);
        let cpu = builder.config.pin.get(usize::from(core)).copied();
        let limits = &builder.config.limits;
        let (handle, inbox) = channel(
            self.id,
            Arc::clone(&builder.doorbell),
            limits.requests_waiting_max,
            usize::try_from(limits.command_bytes_max.0).expect("a 64-bit machine"),
        );
        self.cores.push(handle);
        let make = move || {
            let made = builder.make(inbox);
            let (core_loop, result) = match made {
                Ok(core_loop) => (Some(core_loop), Ok(())),
                Err(error) => (None, Err(error)),
            };
            // Whoever started the node has given up, if nobody listens.
            ready.send(result).ok().and(core_loop)
        };
        let thread = match kind {
            HostKind::Thread => host::start_thread(core, cpu, make),
            #[cfg(feature = "glommio")]
            HostKind::Glommio => host::start_glommio(core, cpu, make).map(|executor| {
                self.executors.push(executor.tasks);
                executor.thread
            }),
            #[cfg(not(feature = "glommio"))]
            HostKind::Glommio => unreachable!("refused by the configuration"),
        };
        let what = "starting a core's thread";
        let thread = thread.map_err(|source| StartError::System { what, source })?;
        self.threads.push(thread);
        Ok(())
    }

    fn wait_until_ready(
        &self,
        started: &mpsc::Receiver<Result<(), StartError>>,
    ) -> Result<(), StartError> {
        for _ in 0..self.cores.len() {
            match started.recv() {
                Ok(result) => result?,
                Err(_) => {
                    let lost = self.threads.iter().position(JoinHandle::is_finished);
                    let core = u16::try_from(lost.unwrap_or(0)).expect("few cores");
                    return Err(StartError::CoreLost { core });
                }
            }
        }
        Ok(())
    }

    /// This node's id.
    #[must_use]
    pub fn id(&self) -> NodeId {
        self.id
    }

    /// Where it listens; with port 0 in the configuration, the port that was chosen.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Makes a group on this node, and blocks until that is durable. Every member makes it, with
    /// the same kind and members; making it again changes nothing.
    ///
    /// # Errors
    /// Why it was not made.
    pub fn create_group(
        &self,
        group: GroupId,
        kind: &str,
        members: &[NodeId],
    ) -> Result<Group, CreateError> {
        let core = self.core_of(group);
        let answer = core.create_group(group, kind, members)?;
        answer.wait()?;
        Ok(Group::new(group, core.clone()))
    }

    /// A handle to a group; whether it is on this node shows when it is used.
    #[must_use]
    pub fn group(&self, group: GroupId) -> Group {
        Group::new(group, self.core_of(group).clone())
    }

    /// Runs a task of the application on a core's executor, beside its shard, until the node
    /// stops. `task` is called there, so that what it makes need not be `Send`. False if there is
    /// no such core, or no glommio executor runs it.
    #[cfg(feature = "glommio")]
    pub fn spawn_on<F>(&self, core: u16, task: impl FnOnce() -> F + Send + 'static) -> bool
    where
        F: Future<Output = ()> + 'static,
    {
        let Some(tasks) = self.executors.get(usize::from(core)) else {
            return false;
        };
        let sent = tasks.send(Box::new(move || Box::pin(task()))).is_ok();
        // Any request wakes the core.
        drop(self.cores[usize::from(core)].request(|reply| Request::Statistics { reply }, || None));
        sent
    }

    /// What each core has done so far. Blocks for a turn of each.
    #[must_use]
    pub fn statistics(&self) -> Vec<CoreStatistics> {
        let ask = |core: &CoreHandle| {
            let request = |reply| Request::Statistics { reply };
            core.request(request, || None).wait()
        };
        self.cores.iter().filter_map(ask).collect()
    }

    /// How many connections were refused before their first frame, by reason.
    #[must_use]
    pub fn refused_connections(&self) -> BTreeMap<&'static str, u64> {
        self.bulk
            .as_ref()
            .map(BulkLane::refused)
            .unwrap_or_default()
    }

    /// Stops and waits for the end. What was acknowledged is durable already.
    ///
    /// # Errors
    /// If a core had ended before, and how.
    pub fn stop(mut self) -> Result<(), StopError> {
        self.end()
    }

    fn end(&mut self) -> Result<(), StopError> {
        for core in &self.cores {
            core.send(Request::Stop);
        }
        self.cores.clear();
        let mut ended = Ok(());
        for (core, thread) in (0_u16..).zip(self.threads.drain(..)) {
            let result = match thread.join() {
                Ok(result) => result.map_err(|source| StopError::Driver { core, source }),
                Err(_) => Err(StopError::Panic { core }),
            };
            ended = ended.and(result);
        }
        self.bulk = None;
        ended
    }

    fn core_of(&self, group: GroupId) -> &CoreHandle {
        let cores = u16::try_from(self.cores.len()).expect("as configured");
        &self.cores[usize::from(core_of(group, cores))]
    }
}

/// The same core on every node with as many cores: a multiplicative hash (Knuth, TAOCP 6.4)
/// spreads neighbouring ids.
pub(crate) fn core_of(group: GroupId, cores: u16) -> u16 {
    let hash = group.0.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    u16::try_from(hash % u64::from(cores)).expect("below the number of cores")
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            tracing::error!(%error, "the node did not end as it should");
        }
    }
}

fn bulk_config(config: &Config, listener: TcpListener) -> BulkConfig {
    BulkConfig {
        hello: Hello {
            version_min: WIRE_VERSION_MIN,
            version_max: WIRE_VERSION,
            core: 0,
            cores: config.cores,
            cluster: config.cluster,
            node: config.node,
            expected_peer: 0,
            incarnation: 0,
            purpose: Purpose::Replication,
            features: Features::NONE,
            fingerprint: FORMAT_FINGERPRINT,
            frame_bytes_max: FRAME_BYTES_MAX,
        },
        listener,
        peers: config.peer_addresses(),
        directories: (0..config.cores)
            .map(|core| config.directory(core))
            .collect(),
        segment_bytes: config.log.segment_bytes.0,
    }
}

/// Everything a core is made of, on its way to the core's own thread.
struct CoreBuilder {
    config: Config,
    core: u16,
    machines: Machines,
    link: BulkLink,
    doorbell: Arc<Doorbell>,
    origin: Instant,
}

impl CoreBuilder {
    fn make(self, inbox: Inbox) -> Result<CoreLoop<UringDriver>, StartError> {
        let core = self.core;
        let directory = self.config.directory(core);
        let log_config = self.config.log_config(core);
        let log_error = |source| StartError::Log { core, source };
        let mut volume =
            FileVolume::open(&directory, log_config.segment_bytes).map_err(log_error)?;
        let (mut log, recovery) = SegmentLog::open(&mut volume, log_config).map_err(log_error)?;
        prepare_reserve(&mut log, &mut volume);
        let method = drive_method(&log, &volume).map_err(|source| StartError::System {
            what: "measuring how the drive is written best",
            source,
        })?;
        log.set_writes_in_flight(method.writes_in_flight);
        let arena = log.pool().arena();
        let shard_config = shard_config(&self.config);
        let shard = Shard::open(shard_config, log, &recovery, self.machines, inbox, Time(0))
            .map_err(|source| StartError::Groups { core, source })?;
        let wake = match self.config.host {
            HostKind::Thread => Wake::InExchange,
            HostKind::Glommio => Wake::ByDoorbell,
        };
        let driver = UringDriver::open(UringConfig {
            volume,
            sync: method.sync,
            arena,
            bulk: self.link,
            doorbell: Arc::clone(&self.doorbell),
            wake,
            ring_entries: RING_ENTRIES,
        })
        .map_err(|source| StartError::Driver { core, source })?;
        let spin = self.config.spin;
        Ok(CoreLoop::new(
            shard,
            driver,
            self.doorbell,
            self.origin,
            spin,
        ))
    }
}

/// The first segments are made ready before anybody waits for them. A full disk is met again, and
/// told, while the node runs.
fn prepare_reserve(log: &mut SegmentLog, volume: &mut FileVolume) {
    while let Some(slot) = log.segments_wanted() {
        let ready = volume.prepare(slot).is_ok();
        log.on_prepared(slot, ready);
        if !ready {
            return;
        }
    }
}

/// Measured on a free segment; where there is none yet, the method that every drive is good at.
fn drive_method(log: &SegmentLog, volume: &FileVolume) -> io::Result<DriveMethod> {
    match log.free_slot().and_then(|slot| volume.file(slot)) {
        Some(file) => measure_drive(file, volume.block_bytes()),
        None => Ok(DriveMethod {
            sync: SyncMethod::WriteThenFdatasync,
            writes_in_flight: 1,
        }),
    }
}

pub(crate) fn shard_config(config: &Config) -> ShardConfig {
    let bytes = |size: bytesize::ByteSize| usize::try_from(size.0).expect("a 64-bit machine");
    let nanoseconds = |time: std::time::Duration| {
        u64::try_from(time.as_nanos()).expect("the configuration allows no centuries")
    };
    let limits = &config.limits;
    ShardConfig {
        node: NodeId(config.node),
        peers: config.peer_addresses().into_keys().collect(),
        seed: config.node,
        election_timeout: nanoseconds(config.raft.election_timeout),
        heartbeat_interval: nanoseconds(config.raft.heartbeat_interval),
        frame_limits: FrameLimits {
            frame_bytes_max: FRAME_BYTES_MAX,
            receive_ahead_bytes: RECEIVE_AHEAD_BYTES,
        },
        command_bytes_max: bytes(limits.command_bytes_max),
        proposals_pending_bytes_max: bytes(limits.proposals_pending_bytes_max),
        peer_queue_bytes_max: bytes(limits.peer_queue_bytes_max),
        groups_max: limits.groups_max,
        mutants: Mutants::default(),
    }
}

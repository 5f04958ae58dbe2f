//! A node: its cores, each with a shard and a ring of its own, and the lane for everything slow.

use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use bytesize::ByteSize;
use pontoon_raft::{GroupId, NodeId};
use pontoon_transport::{
    FORMAT_FINGERPRINT, Features, Hello, Purpose, WIRE_VERSION, WIRE_VERSION_MIN,
};

use crate::bulk::{BulkConfig, BulkLane};
use crate::config::{Config, FRAME_BYTES_MAX, HostKind};
use crate::core_builder::CoreBuilder;
use crate::data_directory::make_directories;
use crate::doorbell::Doorbell;
use crate::driver::uring::FINISH_LIMIT;
use crate::forked::Process;
use crate::group::Group;
use crate::health::{CoreFailure, Health};
use crate::host;
use crate::host::CoreThread;
use crate::inbox::{CoreHandle, InboxLimits, channel};
use crate::machine::Machines;
use crate::node_error::{StartError, StopError};
use crate::on_core;
use crate::pending::{Pending, refuse};
use crate::placement::core_of;
#[cfg(feature = "glommio")]
use crate::request::SpawnError;
use crate::request::{CreateError, Request, RequestError};
use crate::statistics::CoreStatistics;

/// Beyond all bounds of its own a core is given this long to end.
const END_MARGIN: Duration = Duration::from_secs(5);

/// A running node: its cores, each with a thread, a log and a driver, and the bulk lane.
///
/// Any thread may use it: but for starting and stopping, no call blocks. Dropping it stops it;
/// [`stop`](Self::stop) says how that went. Dropped on a core's own thread (by a state machine) it
/// does not wait for the end, which comes all the same. In a task of `spawn_on` it does, as on any
/// other thread, and so keeps the other tasks of that core from running.
///
/// A panic on a core ends the process by abort(3). What the panicking call itself holds is dropped
/// before (the locals of a state machine's `apply`, of a task); no machine, no other task and
/// nothing else of the node is. A destructor among those locals that blocks holds up the end, and
/// the other cores go on until it: keep none there.
///
/// A forked child has none of its threads: there everything that belongs to the node, calls under
/// way included, is refused as `Forked`, and dropping it does nothing. The parent's goes on; the
/// child may start a node of its own. A child that is forked on a core, in `apply`, is to execute
/// another program or to exit there: it is aborted when it comes back to the core's loop.
///
/// ```
/// # use pontoon::{Batch, Config, GroupId, MachineError, Machines, Node, NodeId, StateMachine};
/// # struct Counter(u64);
/// # impl StateMachine for Counter {
/// #     fn apply(&mut self, batch: &mut Batch<'_>) -> Result<(), MachineError> {
/// #         while batch.next().is_some() {
/// #             self.0 += 1;
/// #             batch.reply(self.0.to_le_bytes().to_vec());
/// #         }
/// #         Ok(())
/// #     }
/// # }
/// # fn run(directory: &std::path::Path) -> Result<(), Box<dyn std::error::Error>> {
/// let listen = "127.0.0.1:0".parse()?;
/// let config = Config::new(1, 0x6f1c, directory, listen);
/// let machines = Machines::new().register("counter", |_| Ok(Box::new(Counter(0))));
/// let node = Node::start(config, machines)?;
/// let group = node.create_group(GroupId(7), "counter", &[NodeId(1)]).wait()?;
/// println!("{:?}", group.propose(b"one more".to_vec()).wait()?.reply);
/// node.stop()?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Node {
    id: NodeId,
    /// The one that runs it.
    process: Process,
    address: SocketAddr,
    cores: Vec<CoreHandle>,
    threads: Vec<CoreThread>,
    /// How long a core may take to end.
    end_limit: Duration,
    bulk: Option<BulkLane>,
    health: Health,
    /// For the tasks beside each core, with the glommio host.
    #[cfg(feature = "glommio")]
    executors: Vec<host::Executor>,
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
        mut config: Config,
        machines: Machines,
    ) -> Result<Self, StartError> {
        config.validate()?;
        let system = |what| move |source| StartError::System { what, source };
        // The same for all cores, wherever another thread takes the process meanwhile.
        let data = std::path::absolute(&config.data);
        config.data = data.map_err(system("looking up the directory the process works in"))?;
        make_directories(&config)?;
        let memory = bytesize::ByteSize(config.memory_bytes_max());
        let round_trip_max = config.round_trip_max();
        let (node, cores) = (config.node, config.cores);
        tracing::info!(node, cores, %memory, ?round_trip_max, "starting");
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
            process: Process::this(),
            address,
            cores: Vec::new(),
            threads: Vec::new(),
            end_limit: config.raft.election_timeout + FINISH_LIMIT + END_MARGIN,
            bulk: Some(bulk),
            health: Health::default(),
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
        let bytes = |size: ByteSize| usize::try_from(size.0).expect("a 64-bit machine");
        let waiting_max = limits.requests_waiting_max;
        let (handle, mut inbox) = channel(
            self.id,
            Arc::clone(&builder.doorbell),
            InboxLimits {
                proposals_max: waiting_max,
                bytes_max: bytes(limits.proposals_pending_bytes_max),
                replies_bytes_max: bytes(limits.replies_pending_bytes_max),
                command_bytes_max: bytes(limits.command_bytes_max),
            },
        );
        inbox.set_health(self.health.clone(), core);
        self.cores.push(handle);
        let make = move || {
            let made = builder.build(inbox);
            let (core_loop, result) = match made {
                Ok(core_loop) => (Some(core_loop), Ok(())),
                Err(error) => (None, Err(error)),
            };
            // Whoever started the node has given up, if nobody listens.
            ready.send(result).ok().and(core_loop)
        };
        if kind == HostKind::Glommio {
            #[cfg(feature = "glommio")]
            self.executors
                .push(host::Executor::new(core, cpu, waiting_max));
        }
        let thread = host::start_thread(core, cpu, make);
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
                    let lost = self.threads.iter().position(CoreThread::is_finished);
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

    /// Makes a group on this node; answered once that is durable. Every member makes it, with the
    /// same kind and members: this node, and others of its `peers`. Where members differ, two nodes
    /// may lead it ([`GroupStatus::strangers`](crate::GroupStatus::strangers)). Making it again
    /// changes nothing: do so when the answer does not come, or says that nobody knows, and at
    /// every start: where the disk has lost what a group is, this gives it back. Never blocks.
    pub fn create_group(
        &self,
        group: GroupId,
        kind: &str,
        members: &[NodeId],
    ) -> Pending<Result<Group, CreateError>> {
        let handle = self.group(group);
        let made = self.core_of(group).create_group(group, kind, members);
        Pending::new(refuse, async move { made.await.map(|()| handle) })
    }

    /// A handle to a group; whether it is on this node shows when it is used.
    #[must_use]
    pub fn group(&self, group: GroupId) -> Group {
        Group::new(group, self.core_of(group).clone())
    }

    /// Runs a task of the application on the glommio executor beside a core, on the core's CPU if
    /// it is pinned, until the node stops; answered when the task is done. `task` is called there,
    /// so that what it makes need not be `Send`. Never blocks. At most
    /// `limits.requests_waiting_max` tasks wait to begin beside a core. A blocking call in one, a
    /// `wait` or a `stop` too, keeps all others of that core from running.
    ///
    /// The executor is made for the first task of a core, and again for a later one if it could not
    /// be. glommio 0.9 never closes one descriptor of each executor that ever ran: a process that
    /// starts nodes with tasks again and again lacks descriptors in the end.
    #[cfg(feature = "glommio")]
    pub fn spawn_on<F>(
        &self,
        core: u16,
        task: impl FnOnce() -> F + Send + 'static,
    ) -> Pending<Result<F::Output, SpawnError>>
    where
        F: Future + 'static,
        F::Output: Send + 'static,
    {
        let Some(executor) = self.executors.get(usize::from(core)) else {
            return Pending::ready(Err(SpawnError::NoExecutor { core }));
        };
        let state = match self.cores[usize::from(core)].state() {
            Ok(state) => state,
            Err(error) => return Pending::ready(Err(error.into())),
        };
        let (reply, receiver) = oneshot::async_channel();
        // Whoever ends before the task drops it, and the sender with it.
        let sent = executor.send(Box::new(move || {
            Box::pin(async move {
                let _ = reply.send(task().await);
            })
        }));
        let answer = match sent {
            Ok(thread) => thread.answer(receiver),
            Err(error) => return Pending::ready(Err(error)),
        };
        Pending::new(refuse, async move {
            answer.await.ok_or_else(|| match state.ended() {
                Some(_) => state.request_error().into(),
                None => SpawnError::Executor { core },
            })
        })
    }

    /// What each core has done so far, in the order of the cores. Never blocks.
    pub fn statistics(&self) -> Pending<Vec<Result<CoreStatistics, RequestError>>> {
        let ask = |core: &CoreHandle| core.request(|reply| Request::Statistics { reply });
        let asked: Vec<_> = self.cores.iter().map(ask).collect();
        let cores = self.cores.len();
        let refuse = move |error| vec![Err(error); cores];
        Pending::new(refuse, async move {
            let mut answers = Vec::with_capacity(asked.len());
            for answer in asked {
                answers.push(answer.await);
            }
            answers
        })
    }

    /// Resolves when a core fails, so that its owner may end the process or restart the node: until
    /// then that core refuses everything as [`Failed`](RequestError::Failed), and
    /// [`stop`](Self::stop) tells it as well.
    ///
    /// # Errors
    /// [`Stopped`](RequestError::Stopped) once the node has stopped without that. A `wait` on a
    /// core's own thread, or in a forked child, is refused as for everything else.
    pub fn failed(&self) -> Pending<Result<CoreFailure, RequestError>> {
        if !self.process.is_this() {
            return Pending::ready(Err(RequestError::Forked));
        }
        self.health.failed()
    }

    /// How many connections were refused before their first frame, by reason; in a forked child
    /// none is known of.
    #[must_use]
    pub fn refused_connections(&self) -> BTreeMap<&'static str, u64> {
        let bulk = self.bulk.as_ref().filter(|_| self.process.is_this());
        bulk.map(BulkLane::refused).unwrap_or_default()
    }

    /// Hands over what it leads, stops, and waits for the end. What was acknowledged is durable
    /// already. Takes an election timeout at most where nobody takes over, some 20 s more where a
    /// disk or a state machine hangs, and 10 s where tasks of `spawn_on` do not yield, of however
    /// many cores. Where one of them waits for the end of a node itself, this one or another, its
    /// executor ends after that and is not waited for. Blocks: not for a thread that runs futures.
    ///
    /// # Errors
    /// If a core had failed before, and how; on a core's own thread [`StopError::OnCore`], in a
    /// forked child [`StopError::Forked`]; or what hangs. That is left behind: whoever waits for it
    /// is answered, memory that the kernel may still write to is leaked, and a core's directory
    /// stays locked until it ends or the process does. The log has further errors.
    pub fn stop(mut self) -> Result<(), StopError> {
        self.end()
    }

    fn end(&mut self) -> Result<(), StopError> {
        if !self.process.is_this() {
            self.forget();
            return Err(StopError::Forked);
        }
        for core in &self.cores {
            core.stop();
        }
        let ending = Ending {
            cores: std::mem::take(&mut self.cores),
            threads: std::mem::take(&mut self.threads),
            deadline: Instant::now() + self.end_limit,
            bulk: self.bulk.take(),
            health: self.health.clone(),
            #[cfg(feature = "glommio")]
            executors: std::mem::take(&mut self.executors),
        };
        if !on_core::is_core() || ending.threads.is_empty() {
            return ending.wait();
        }
        // This thread may be one of those to wait for.
        let builder = std::thread::Builder::new().name("pontoon-stop".to_owned());
        let waiting = builder.spawn(move || {
            if let Err(error) = ending.wait() {
                tracing::error!(%error, "the node did not end as it should");
            }
        });
        if let Err(error) = waiting {
            tracing::error!(%error, "no thread to wait for the end of the node");
        }
        Err(StopError::OnCore)
    }

    /// Leaves what is the parent's as it is.
    fn forget(&mut self) {
        std::mem::forget(std::mem::take(&mut self.threads));
        std::mem::forget(self.bulk.take());
        #[cfg(feature = "glommio")]
        std::mem::forget(std::mem::take(&mut self.executors));
    }

    fn core_of(&self, group: GroupId) -> &CoreHandle {
        let cores = u16::try_from(self.cores.len()).expect("as configured");
        &self.cores[usize::from(core_of(group, cores))]
    }
}

/// What is left of a node that was told to stop.
struct Ending {
    cores: Vec<CoreHandle>,
    threads: Vec<CoreThread>,
    deadline: Instant,
    bulk: Option<BulkLane>,
    health: Health,
    #[cfg(feature = "glommio")]
    executors: Vec<host::Executor>,
}

impl Ending {
    /// Waits for the end of all cores, and ends the bulk lane after them.
    fn wait(self) -> Result<(), StopError> {
        #[cfg(feature = "glommio")]
        let _stopping = host::Stopping::begin();
        let mut errors = Vec::new();
        for (number, (core, thread)) in (0_u16..).zip(self.cores.iter().zip(self.threads)) {
            let left = self.deadline.saturating_duration_since(Instant::now());
            if let Err(error) = thread.join(number, left) {
                if matches!(error, StopError::Hung { .. }) {
                    core.leave_behind();
                }
                errors.push(error);
            }
        }
        #[cfg(feature = "glommio")]
        errors.extend(host::end_executors(&self.executors).err());
        drop(self.bulk);
        if let Some(failure) = self.health.failure() {
            // A driver's failure ends the core, which has told it.
            let of_driver = |error: &StopError| match error {
                StopError::Driver { core, .. } => *core == failure.core,
                _ => false,
            };
            if !errors.iter().any(of_driver) {
                errors.push(StopError::Failed(failure));
            }
        }
        self.health.close();
        let mut errors = errors.into_iter();
        let first = errors.next();
        for error in errors {
            tracing::error!(%error, "the node did not end as it should");
        }
        first.map_or(Ok(()), Err)
    }
}

/// Any thread may use it.
const _: fn() = || {
    fn shared<T: Send + Sync>() {}
    shared::<Node>();
    shared::<Group>();
};

impl Drop for Node {
    fn drop(&mut self) {
        match self.end() {
            // Not logged: another thread may have held the log's locks when this was forked.
            Ok(()) | Err(StopError::Forked) => {}
            Err(error) => tracing::error!(%error, "the node did not end as it should"),
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
        segment_bytes: config.log.segment_bytes.0,
        hello_deadline: config.hello_deadline(),
    }
}

//! Three node processes, their clients, and the faults that can be done to them.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Stdio};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rand_pcg::Pcg64Mcg;
use rand_pcg::rand_core::{RngCore, SeedableRng};
use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};

use crate::child::{MARK, VARIABLE};
use crate::event::{Order, Outcome, Summary, What};
use crate::network::Network;
use crate::state::{PATIENCE, Shared, State};

pub(crate) const NODES: usize = 3;

const CLIENTS: u64 = 6;

/// A client looks elsewhere after this; the answer counts whenever it comes.
const CLIENT_PATIENCE: Duration = Duration::from_millis(600);

/// Between two operations of a client, so that histories stay small.
const THINK: Duration = Duration::from_millis(8);

/// A new key for so many operations: the checker likes short histories.
const OPERATIONS_PER_KEY: u64 = 80;

/// Keys in use at a time.
const KEYS: u64 = 4;

/// The processes of one run. Dropping it ends them and removes network and files; after a panic
/// the files stay, and where they are is printed.
pub(crate) struct Cluster {
    pub(crate) shared: Arc<Shared>,
    seed: u64,
    processes: Vec<Option<Child>>,
    listeners: Vec<JoinHandle<()>>,
    clients: Vec<JoinHandle<()>>,
    /// Removed after the processes have ended.
    network: Network,
    directory: Option<tempfile::TempDir>,
}

impl Cluster {
    /// Starts the nodes, with a network of their own, and no load yet.
    pub(crate) fn start(network: Network, seed: u64) -> Self {
        let directory = tempfile::Builder::new()
            .prefix(&format!("processes-{seed}-"))
            .tempdir_in(env!("CARGO_TARGET_TMPDIR"))
            .unwrap();
        let history = File::create(directory.path().join("history.jsonl")).unwrap();
        let mut cluster = Self {
            shared: Arc::new(Shared::new(history)),
            seed,
            processes: (0..NODES).map(|_| None).collect(),
            listeners: Vec::new(),
            clients: Vec::new(),
            network,
            directory: Some(directory),
        };
        for node in 0..NODES {
            cluster.start_node(node);
        }
        cluster
    }

    fn path(&self, name: &str) -> PathBuf {
        let directory = self.directory.as_ref().expect("there until the end");
        directory.path().join(name)
    }

    pub(crate) fn history(&self) -> PathBuf {
        self.path("history.jsonl")
    }

    /// Starts a node, or starts it again with what it left on the disk.
    pub(crate) fn start_node(&mut self, node: usize) {
        let addresses = self.network.addresses();
        let addresses: Vec<_> = addresses.iter().map(ToString::to_string).collect();
        let data = self.path(&format!("node-{}", node + 1));
        let told = format!("{} {} {}", node + 1, data.display(), addresses.join(" "));
        let log = self.path(&format!("node-{}.log", node + 1));
        let log = OpenOptions::new().create(true).append(true).open(log);
        let program = std::env::current_exe().unwrap();
        let mut process = self
            .network
            .command(node, &program)
            .args(["--exact", "node_process", "--nocapture"])
            .env(VARIABLE, told)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log.unwrap())
            .spawn()
            .unwrap();
        let orders = process.stdin.take().unwrap();
        let output = process.stdout.take().unwrap();
        self.processes[node] = Some(process);
        let life = self.shared.change(|state| state.born(node, orders));
        let shared = Arc::clone(&self.shared);
        let listen = move || listen(&shared, node, life, output);
        self.listeners.push(std::thread::spawn(listen));
    }

    /// Clients begin, each with one operation at a time.
    pub(crate) fn load(&mut self) {
        for client in 0..CLIENTS {
            let shared = Arc::clone(&self.shared);
            let random = Pcg64Mcg::seed_from_u64(self.seed ^ ((client + 1) << 32));
            let run = move || run_client(&shared, random);
            self.clients.push(std::thread::spawn(run));
        }
    }

    /// The cable is out when this returns.
    pub(crate) fn cut(&self, node: usize) {
        self.network.set_link(node, false);
        self.shared.change(|state| state.note(What::Cut { node }));
    }

    pub(crate) fn heal(&self, node: usize) {
        self.shared
            .change(|state| state.note(What::Healed { node }));
        self.network.set_link(node, true);
    }

    /// SIGKILL to all of these, then waits for their end.
    pub(crate) fn kill(&mut self, nodes: &[usize]) {
        let mut processes: Vec<_> = nodes
            .iter()
            .map(|node| self.processes[*node].take().unwrap())
            .collect();
        for process in &mut processes {
            process.kill().unwrap();
        }
        for process in &mut processes {
            process.wait().unwrap();
        }
        for node in nodes {
            self.shared.change(|state| state.died(*node));
        }
    }

    /// SIGSTOP; the process does nothing any more when this returns.
    pub(crate) fn stop(&self, node: usize) {
        let process = self.process(node);
        kill_process(process, Signal::STOP).unwrap();
        let stopped = waitpid(Some(process), WaitOptions::UNTRACED).unwrap();
        assert!(stopped.is_some_and(|(_, status)| status.stopped()));
        self.shared
            .change(|state| state.note(What::Stopped { node }));
    }

    /// SIGCONT.
    pub(crate) fn resume(&self, node: usize) {
        self.shared
            .change(|state| state.note(What::Continued { node }));
        kill_process(self.process(node), Signal::CONT).unwrap();
    }

    fn process(&self, node: usize) -> Pid {
        Pid::from_child(self.processes[node].as_ref().unwrap())
    }

    /// Lets the clients finish what they do, and waits for the outcome of every operation: one
    /// that a leader left without an answer for good would be found here.
    pub(crate) fn end_load(&mut self) {
        self.shared.change(|state| state.over = true);
        for client in self.clients.drain(..) {
            client.join().unwrap();
        }
        let ended = |state: &State| state.all_ended().then_some(());
        self.shared
            .await_that("every operation has an outcome", ended);
    }

    /// Asks all nodes how far they are until all have applied the same, and all of it.
    pub(crate) fn converge(&self) {
        let deadline = Instant::now() + PATIENCE;
        let needed = self.shared.lock().acknowledged.len() as u64;
        loop {
            let far = |node| {
                let summary = self.summary(node);
                (summary.applied, summary.digest)
            };
            let (first, second, third) = (far(0), far(1), far(2));
            if first == second && second == third && first.0 >= needed {
                return;
            }
            let differ = |one: (u64, u64), other: (u64, u64)| one.0 == other.0 && one != other;
            let unequal = differ(first, second) || differ(second, third) || differ(first, third);
            assert!(
                !unequal,
                "equally far, not equal: {first:?} {second:?} {third:?}"
            );
            let late = Instant::now() > deadline;
            assert!(
                !late,
                "{needed} to be applied: {first:?} {second:?} {third:?}"
            );
        }
    }

    /// Waits until a node has applied everything that has been acknowledged by now.
    pub(crate) fn catch_up(&self, node: usize) {
        let deadline = Instant::now() + PATIENCE;
        let needed = self.shared.lock().acknowledged.len() as u64;
        while self.summary(node).applied < needed {
            let late = Instant::now() > deadline;
            assert!(
                !late,
                "node {node} does not come to apply {needed} operations"
            );
        }
    }

    pub(crate) fn summary(&self, node: usize) -> Summary {
        self.shared.change(|state| {
            state.nodes[node].summary = None;
            assert!(state.order(node, &Order::Summary), "the node lives");
        });
        let said = "a node says how far it is";
        self.shared
            .await_that(said, |state| state.nodes[node].summary)
    }

    /// Writes to the history what every node has applied.
    pub(crate) fn note_applied(&self) {
        for node in 0..NODES {
            self.shared
                .change(|state| state.order(node, &Order::Applied));
            let entries = self
                .shared
                .await_that("a node says what it has applied", |state| {
                    state.nodes[node].applied.clone()
                });
            self.shared
                .change(|state| state.note(What::Applied { node, entries }));
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.shared.change(|state| state.over = true);
        for process in self.processes.iter_mut().flatten() {
            // SIGKILL ends a stopped process as well.
            let _ = process.kill();
            let _ = process.wait();
        }
        for thread in self.clients.drain(..).chain(self.listeners.drain(..)) {
            let _ = thread.join();
        }
        if std::thread::panicking() {
            let directory = self.directory.take().expect("there until the end").keep();
            let _ = writeln!(
                std::io::stderr(),
                "processes: seed {seed} failed; history and logs of the nodes: {path}\n\
                 the same faults again (their timing is the machine's): {SEED}={seed} cargo test \
                 -p pontoon-sim --test processes\n\
                 the same history checked again: {HISTORY}={path}/history.jsonl cargo test \
                 -p pontoon-sim --test processes",
                seed = self.seed,
                path = directory.display(),
                SEED = crate::SEED,
                HISTORY = crate::HISTORY,
            );
        }
    }
}

/// Hears what a node says until its output ends.
fn listen(shared: &Shared, node: usize, life: u64, output: ChildStdout) {
    for line in BufReader::new(output).lines().map_while(Result::ok) {
        if let Some((_, said)) = line.split_once(MARK) {
            // The last line of a killed process may be cut short.
            if let Ok(said) = serde_json::from_str(said) {
                shared.hear(node, life, said);
            }
        }
    }
    shared.fall_silent(life);
}

fn run_client(shared: &Shared, mut random: Pcg64Mcg) {
    let mut draw = move |end: u64| random.next_u64() % end;
    let mut hint = draw(NODES as u64) as usize;
    let mut asked = 0;
    let over = |state: &State| state.over.then_some(());
    while shared.wait(THINK, over).is_none() {
        let key = asked / (OPERATIONS_PER_KEY * KEYS / CLIENTS) * KEYS + draw(KEYS);
        let write = draw(10) < 6;
        let Some(number) = shared.change(|state| state.ask(hint, key, write)) else {
            hint = draw(NODES as u64) as usize;
            continue;
        };
        asked += 1;
        let outcome = shared.wait(CLIENT_PATIENCE, |state| state.outcome(number));
        hint = match outcome.flatten() {
            Some(Outcome::Acknowledged { .. }) => hint,
            Some(Outcome::Refused {
                leader: Some(leader),
                ..
            }) => leader as usize - 1,
            _ => draw(NODES as u64) as usize,
        };
    }
}

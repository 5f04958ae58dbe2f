//! Three node processes, and what their parent knows of them.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use crate::child::VARIABLE;

const PATIENCE: Duration = Duration::from_secs(60);

/// Lines of all processes: which node, which of its lives, what it said.
type Line = (usize, usize, String);

pub(crate) struct Cluster {
    data: tempfile::TempDir,
    addresses: Vec<SocketAddr>,
    processes: Vec<Option<Child>>,
    /// How often each node was started.
    lives: Vec<usize>,
    lines: Receiver<Line>,
    sender: Sender<Line>,
    acknowledged: BTreeSet<u64>,
    rejected: BTreeSet<u64>,
    next_base: u64,
}

impl Cluster {
    pub(crate) fn start() -> Self {
        // Held together, so that no two are the same; free again when the nodes bind them.
        let listeners: Vec<_> = (0..3)
            .map(|_| TcpListener::bind("127.0.0.1:0").unwrap())
            .collect();
        let addresses = listeners.iter().map(|l| l.local_addr().unwrap()).collect();
        drop(listeners);
        let (sender, lines) = channel();
        let mut cluster = Self {
            data: tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap(),
            addresses,
            processes: (0..3).map(|_| None).collect(),
            lives: vec![0; 3],
            lines,
            sender,
            acknowledged: BTreeSet::new(),
            rejected: BTreeSet::new(),
            next_base: 1,
        };
        for node in 0..3 {
            cluster.restart(node);
        }
        cluster
    }

    /// Starts a node's process; it proposes whenever it leads.
    pub(crate) fn restart(&mut self, node: usize) {
        let directory = self.data.path().join(node.to_string());
        let addresses: Vec<_> = self.addresses.iter().map(ToString::to_string).collect();
        let told = format!(
            "{} {} {}",
            node + 1,
            directory.display(),
            addresses.join(" ")
        );
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "node_process", "--nocapture"])
            .env(VARIABLE, told)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        self.lives[node] += 1;
        let (life, sender) = (self.lives[node], self.sender.clone());
        let output = process.stdout.take().unwrap();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if let Some((_, said)) = line.split_once("PONTOON ")
                    && sender.send((node, life, said.to_owned())).is_err()
                {
                    return;
                }
            }
        });
        // Every life proposes numbers of its own.
        let base = self.next_base;
        self.next_base += 1_000_000;
        self.processes[node] = Some(process);
        self.order(node, &format!("load {base}"));
    }

    fn order(&mut self, node: usize, order: &str) {
        let process = self.processes[node].as_mut().unwrap();
        writeln!(process.stdin.as_mut().unwrap(), "{order}").unwrap();
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self, node: usize) {
        let mut process = self.processes[node].take().unwrap();
        process.kill().unwrap();
        process.wait().unwrap();
    }

    fn next_line(&mut self, deadline: Instant) -> Line {
        let left = deadline.saturating_duration_since(Instant::now());
        match self.lines.recv_timeout(left) {
            Ok(line) => line,
            Err(_) => panic!(
                "the nodes say nothing; {} acknowledged",
                self.acknowledged.len()
            ),
        }
    }

    fn note(&mut self, said: &str) -> bool {
        match said.split_once(' ') {
            Some(("acknowledged", number)) => {
                self.acknowledged.insert(number.parse().unwrap());
                true
            }
            Some(("rejected", number)) => {
                self.rejected.insert(number.parse().unwrap());
                false
            }
            _ => false,
        }
    }

    /// Waits until a node that lives now has acknowledged so many; gives that node.
    pub(crate) fn load_until(&mut self, count: usize) -> usize {
        let deadline = Instant::now() + PATIENCE;
        let mut seen = [0; 3];
        loop {
            let (node, life, said) = self.next_line(deadline);
            let lives = self.processes[node].is_some() && self.lives[node] == life;
            if self.note(&said) && lives {
                seen[node] += 1;
                if seen[node] >= count {
                    return node;
                }
            }
        }
    }

    /// Everything acknowledged so far is applied, once, in the same order on every node.
    pub(crate) fn verify(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        let acknowledged = self.acknowledged.clone();
        assert!(acknowledged.len() > 500, "only {}", acknowledged.len());
        loop {
            let applied: Vec<Vec<u64>> = (0..3).map(|node| self.applied(node, deadline)).collect();
            let shortest = applied.iter().map(Vec::len).min().unwrap();
            for numbers in &applied {
                assert_eq!(numbers[..shortest], applied[0][..shortest], "they differ");
            }
            let held: BTreeSet<u64> = applied[0][..shortest].iter().copied().collect();
            assert_eq!(held.len(), shortest, "a number was applied twice");
            assert!(
                held.is_disjoint(&self.rejected),
                "a rejected number was applied"
            );
            let missing: Vec<_> = acknowledged.difference(&held).collect();
            if missing.is_empty() {
                return;
            }
            // Followers are a little behind, and build their machines anew after a start.
            assert!(
                Instant::now() < deadline,
                "acknowledged and lost: {missing:?}"
            );
        }
    }

    fn applied(&mut self, node: usize, deadline: Instant) -> Vec<u64> {
        self.order(node, "applied");
        loop {
            let (from, life, said) = self.next_line(deadline);
            let current = self.lives[from] == life;
            if let Some(list) = said.strip_prefix("applied ")
                && from == node
                && current
            {
                let list = list.trim_matches(['[', ']']);
                return list
                    .split(", ")
                    .filter_map(|word| word.parse().ok())
                    .collect();
            }
            self.note(&said);
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for process in self.processes.iter_mut().flatten() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

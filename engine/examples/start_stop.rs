//! Starts and stops under load: nobody hangs, and nothing is left behind.
//!
//! `cargo run --release -p pontoon --example start_stop -- --rounds 500`: in each round a node of
//! two cores starts, eight clients keep 16 proposals each in flight and ask for the status beside
//! them, and the node is stopped in the middle of it. Every call must have an answer within a
//! minute. At the end the process must have no more descriptors than after the first tenth of the
//! rounds, and about as much memory. Half of the rounds run under glommio, where it is built in.
#![allow(clippy::print_stdout, reason = "this is what the example is for")]

use std::collections::VecDeque;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use pontoon::{
    Batch, Config, Group, GroupId, HostKind, LogIndex, MachineError, Machines, Node, NodeId,
    Proposal, ProposeError, Rejection, StateMachine, Unknown,
};

const CLIENTS: u64 = 8;
const GROUPS: u64 = 4;
const IN_FLIGHT: usize = 16;
/// Longest wait for any answer.
const PATIENCE: Duration = Duration::from_secs(60);
/// How much the resident memory may grow: the allocator's own, not a leak of each round.
const GROWTH_MAX: u64 = 24 << 20;

/// Passes commands on, and needs the log for none that it was given.
#[derive(Default)]
struct Echo(LogIndex);

impl StateMachine for Echo {
    fn released_index(&self) -> LogIndex {
        self.0
    }

    fn apply(&mut self, batch: &mut Batch<'_>) -> Result<(), MachineError> {
        while let Some(command) = batch.next() {
            self.0 = command.index;
            batch.reply(command.payload.to_vec());
        }
        Ok(())
    }
}

/// Errors of this program are sentences.
type Failure = Box<dyn std::error::Error + Send + Sync>;

fn check(holds: bool, failure: &str) -> Result<(), Failure> {
    if holds { Ok(()) } else { Err(failure.into()) }
}

/// Proposes and asks until the node says that it has stopped. Gives how many were acknowledged.
fn client(group: &Group) -> Result<u64, Failure> {
    let mut acknowledged = 0;
    let mut under_way: VecDeque<Proposal> = VecDeque::new();
    loop {
        while under_way.len() < IN_FLIGHT {
            under_way.push_back(group.propose(vec![7; 64]));
        }
        let mut status = group.status();
        let status = status.wait_timeout(PATIENCE).ok_or("status() hangs")?;
        let mut oldest = under_way.pop_front().ok_or("nothing is under way")?;
        match oldest.wait_timeout(PATIENCE).ok_or("a proposal hangs")? {
            Ok(_) => acknowledged += 1,
            Err(ProposeError::Unknown(Unknown::Stopped))
            | Err(ProposeError::Rejected(Rejection::Stopped)) => break,
            Err(_) if status.is_err() => break,
            Err(_) => {}
        }
    }
    for mut proposal in under_way {
        proposal
            .wait_timeout(PATIENCE)
            .ok_or("a proposal hangs at the stop")?
            .ok();
    }
    Ok(acknowledged)
}

fn round(data: &Path, host: HostKind, load: Duration) -> Result<u64, Failure> {
    let mut config = Config::new(1, 0x57A7, data, "127.0.0.1:0".parse()?);
    config = config.cores(2).host(host);
    config.log.segment_bytes = bytesize::ByteSize::mib(8);
    let machines = Machines::new().register("echo", |_| Ok(Box::new(Echo::default())));
    let node = Node::start(config, machines)?;
    let make = |group| {
        node.create_group(GroupId(group), "echo", &[NodeId(1)])
            .wait()
    };
    let groups = (1..=GROUPS).map(make).collect::<Result<Vec<_>, _>>()?;
    let (done, ended) = mpsc::channel();
    for number in 0..CLIENTS {
        let group = groups[(number % GROUPS) as usize].clone();
        let done = done.clone();
        std::thread::spawn(move || done.send(client(&group)));
    }
    // The load runs for a while; a failing client ends it early.
    let mut failed = ended.recv_timeout(load).ok();
    node.stop()?;
    let mut acknowledged = 0;
    for _ in 0..CLIENTS {
        let result = match failed.take() {
            Some(result) => result,
            None => ended
                .recv_timeout(2 * PATIENCE)
                .map_err(|_| "a client hangs")?,
        };
        acknowledged += result?;
    }
    Ok(acknowledged)
}

/// Descriptors, and bytes of resident memory, of this process.
fn usage() -> Result<(usize, u64), Failure> {
    let descriptors = std::fs::read_dir("/proc/self/fd")?.count();
    let memory = std::fs::read_to_string("/proc/self/statm")?;
    let pages: u64 = memory.split(' ').nth(1).ok_or("statm")?.parse()?;
    let page_bytes = rustix::param::page_size() as u64;
    Ok((descriptors, pages * page_bytes))
}

fn rounds(host: HostKind, count: u32) -> Result<(), Failure> {
    let data = tempfile::tempdir_in(".")?;
    let warm = count.div_ceil(10);
    let (mut before, mut acknowledged, mut longest) = (usage()?, 0, Duration::ZERO);
    for number in 1..=count {
        let begun = Instant::now();
        // The stop meets the load at another moment in each round.
        let load = Duration::from_millis(u64::from(10 + number % 31));
        acknowledged += round(data.path(), host, load)?;
        longest = longest.max(begun.elapsed());
        if number == warm {
            before = usage()?;
        }
    }
    let after = usage()?;
    let mib = |bytes: u64| bytes >> 20;
    println!(
        "{host:?}: {count} starts and stops, {acknowledged} commands, longest round {longest:.1?}; \
         descriptors {} -> {}, memory {} -> {} MiB",
        before.0,
        after.0,
        mib(before.1),
        mib(after.1)
    );
    check(after.0 <= before.0, "descriptors are left behind")?;
    check(after.1 <= before.1 + GROWTH_MAX, "memory is left behind")
}

/// Runs this program with one arena of the allocator. With one for each thread, what threads of
/// earlier rounds left in theirs looks like a leak (71 instead of 16 MiB after 60 rounds).
fn with_one_arena() -> Result<(), Failure> {
    if std::env::var_os("MALLOC_ARENA_MAX").is_some() {
        return Ok(());
    }
    let arguments = std::env::args_os().skip(1);
    let mut again = Command::new(std::env::current_exe()?);
    Err(again
        .args(arguments)
        .env("MALLOC_ARENA_MAX", "1")
        .exec()
        .into())
}

fn main() -> Result<(), Failure> {
    with_one_arena()?;
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let count = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => 500,
        ["--rounds", count] => count.parse()?,
        _ => return Err("usage: start_stop [--rounds N]".into()),
    };
    let hosts: &[HostKind] = if cfg!(feature = "glommio") {
        &[HostKind::Thread, HostKind::Glommio]
    } else {
        &[HostKind::Thread]
    };
    for host in hosts {
        rounds(*host, count / hosts.len() as u32)?;
    }
    println!("nothing hung, nothing is left behind");
    Ok(())
}

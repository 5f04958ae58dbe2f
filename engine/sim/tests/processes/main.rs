//! Real processes under real faults: three nodes in network namespaces of their own, over real
//! files and sockets, whose cables are cut and who are killed and stopped while clients read and
//! write. What the clients saw goes to the simulator's checker of histories.
//!
//! A seed fixes which faults happen in which order; their timing is the machine's. Every failure
//! says where the history is, which can be checked again by itself.
#![allow(clippy::unwrap_used, reason = "a failed step of a test is its failure")]

mod check;
mod child;
mod cluster;
mod event;
mod network;
mod script;
mod state;

use std::io::Write;
use std::path::Path;
use std::time::Instant;

use cluster::{Cluster, NODES};
use network::Network;
use state::{PATIENCE, State};

/// The variable with another seed than the usual one.
const SEED: &str = "PONTOON_PROCESSES_SEED";

/// The variable with the path of a history to check again.
const HISTORY: &str = "PONTOON_PROCESSES_HISTORY";

/// Every commit runs this one.
const USUAL_SEED: u64 = 1;

/// Past the test harness, which keeps what a test prints until it fails.
fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "processes: {line}");
}

/// `None`, and a line that says so, where namespaces are not allowed.
fn network() -> Option<Network> {
    let network = Network::make(NODES);
    let refused = |reason| {
        say(&format!(
            "skipped: network namespaces are not allowed here: {reason}"
        ))
    };
    network.map_err(refused).ok()
}

#[test]
fn node_process() {
    child::serve_if_told();
}

#[test]
fn histories_hold_while_nodes_are_cut_off_killed_and_stopped() {
    let Some(network) = network() else { return };
    let seed = std::env::var(SEED).map_or(USUAL_SEED, |seed| seed.parse().unwrap());
    let mut cluster = Cluster::start(network, seed);
    cluster.load();
    let seen = script::run(&mut cluster, seed);
    cluster.end_load();
    cluster.converge();
    cluster.note_applied();
    let events = check::read(&cluster.history());
    let figures = check::check(&events).unwrap_or_else(|wrong| panic!("{wrong}"));
    say(&format!("seed {seed}: {figures}; {seen}"));
    check::assert_falsehoods_are_noticed(&events);
    for (count, what) in [
        (seen.leaders_after_cut, "a new leader after a cut"),
        (seen.leaders_after_kill, "a new leader after SIGKILL"),
        (seen.leaders_after_stop, "a new leader after SIGSTOP"),
        (
            seen.acknowledged_while_cut,
            "acknowledged while a node is cut off",
        ),
        (seen.asked_in_vain, "not acknowledged by a deposed leader"),
    ] {
        assert!(count > 0, "{what}: never seen");
    }
}

/// TCP alone holds on to a connection for a quarter of an hour, and asks so seldom after a while
/// that a node which is joined again is not heard for as long as it had been cut off.
#[test]
fn a_silent_connection_is_given_up_while_the_cable_is_out() {
    let Some(network) = network() else { return };
    let mut cluster = Cluster::start(network, 0);
    cluster.load();
    let first = |state: &State| (!state.acknowledged.is_empty()).then_some(());
    cluster
        .shared
        .await_that("something is acknowledged", first);
    let leads = |state: &State| state.leader();
    let leader = cluster.shared.await_that("somebody leads", leads).node;
    let (cut, other) = ((leader + 1) % NODES, (leader + 2) % NODES);
    cluster.catch_up(cut);
    let closed = |node| cluster.summary(node).connections_closed;
    let before = closed(leader) + closed(other);
    cluster.cut(cut);
    let deadline = Instant::now() + PATIENCE;
    while closed(leader) + closed(other) == before {
        assert!(Instant::now() < deadline, "nobody gives up on node {cut}");
    }
    cluster.heal(cut);
    cluster.catch_up(cut);
}

#[test]
fn a_history_on_file_is_checked_again() {
    let Ok(path) = std::env::var(HISTORY) else {
        return;
    };
    match check::check(&check::read(Path::new(&path))) {
        Ok(figures) => say(&format!("{path} holds: {figures}")),
        Err(wrong) => panic!("{path}: {wrong}"),
    }
}

//! What crosses connections and what lies on disks in a simulation, as inputs for fuzz targets.
//!
//! `examples/corpora.rs` writes the corpora of `engine/fuzz` with it.

use std::collections::BTreeMap;

use pontoon::port::SocketId;
use pontoon::raft::Raft;
use pontoon::transport::{
    FORMAT_FINGERPRINT, Features, Hello, Purpose, WIRE_VERSION, WIRE_VERSION_MIN,
};
use pontoon::{GroupId, NodeId};

use crate::settings::{CLUSTER, LIMITS, MILLISECOND};
use crate::swarm::Swarm;
use crate::world::{Event, Options, World, raft_of};

/// Longest stream that is kept, in bytes, and most steps.
const STREAM_BYTES_MAX: usize = 5 << 10;
const STEP_BYTES_MAX: usize = 2_000;
/// How many times slower time goes for the cores of `raft_step`, whose election timeout is 1,000.
const NANOSECONDS_PER_TICK: u64 = 150 * MILLISECOND / 1_000;

/// Inputs of one simulation, by target.
#[derive(Debug, Default)]
pub struct Recording {
    /// For `frame_stream`: what one end of a connection received, lost and flipped bytes included.
    pub streams: Vec<Vec<u8>>,
    /// For `hello`: what both ends of each connection say of themselves. The simulated network
    /// connects without hellos, so these are made from who was connected.
    pub hellos: Vec<Vec<u8>>,
    /// For `segment_open`: a disk as a crash left it.
    pub disks: Vec<Vec<u8>>,
    /// For `raft_step`: when cores were ticked, heard and acknowledged, if there were three nodes.
    pub steps: Vec<u8>,
}

/// What the world keeps of itself while it is recorded.
#[derive(Default)]
pub(crate) struct Recorder {
    recording: Recording,
    streams: BTreeMap<SocketId, Vec<u8>>,
    ticked_at: u64,
}

/// Runs a simulation of so many events and gives what was recorded of it.
///
/// # Panics
/// If something does not hold in it.
#[must_use]
pub fn record(seed: u64, events: u64) -> Recording {
    let mut world = World::new(&Options::new(seed));
    world.recorder = Some(Recorder {
        recording: Recording {
            steps: vec![0],
            ..Recording::default()
        },
        ..Recorder::default()
    });
    world.live(events);
    assert_eq!(world.failure, None, "seed {seed}");
    let mut recorder = world.recorder.take().expect("put in above");
    recorder.recording.streams = recorder.streams.into_values().collect();
    recorder.recording
}

impl World {
    /// Before an event.
    pub(crate) fn note_event(&mut self, event: &Event) {
        let Some(mut recorder) = self.recorder.take() else {
            return;
        };
        if let Some((what, how)) = self.as_step(event, &mut recorder) {
            let steps = &mut recorder.recording.steps;
            if steps.len() < STEP_BYTES_MAX {
                steps.extend([what, how]);
            }
        }
        match event {
            Event::Arrive { socket, bytes } => self.note_bytes(&mut recorder, *socket, bytes),
            Event::Dialled { place, peer, .. } => {
                let (from, to) = (self.places[*place].node, peer.0 as usize - 1);
                let core = self.places[*place].core;
                let hellos = &mut recorder.recording.hellos;
                hellos.push(hello(&self.swarm, from, to, core, false));
                hellos.push(hello(&self.swarm, to, from, core, true));
            }
            Event::Restart(node) => {
                for core in 0..self.swarm.cores {
                    let place = self.place(*node, core);
                    let disk = self.disk_input(place);
                    recorder.recording.disks.push(disk);
                }
            }
            _ => {}
        }
        self.recorder = Some(recorder);
    }

    fn note_bytes(&self, recorder: &mut Recorder, socket: SocketId, bytes: &[u8]) {
        let Some(end) = self.network.end(socket) else {
            return;
        };
        let Some(other) = self.network.end(end.other) else {
            return;
        };
        let (to, from) = (self.places[end.place].node, self.places[other.place].node);
        let stream = recorder.streams.entry(socket).or_insert_with(|| {
            let ends = from as u8 & 15 | (to as u8) << 4;
            vec![socket.0 as u8 & 2, socket.0 as u8, ends]
        });
        if stream.len() + bytes.len() <= STREAM_BYTES_MAX {
            stream.extend(bytes);
        }
    }

    /// The event as a step of `raft_step`, where it concerns the first group.
    fn as_step(&self, event: &Event, recorder: &mut Recorder) -> Option<(u8, u8)> {
        if self.swarm.nodes != 3 || self.swarm.cores != 1 {
            return None;
        }
        Some(match event {
            Event::Turn { place, .. } => {
                let ticks = (self.now - recorder.ticked_at) / NANOSECONDS_PER_TICK;
                if ticks < 5 {
                    return None;
                }
                recorder.ticked_at = self.now;
                let pace = [5, 30, 100, 400, 1_100, 2_500];
                let pace = pace.iter().rposition(|pace| *pace <= ticks).unwrap_or(0);
                (7, (*place + 3 * pace) as u8)
            }
            Event::Arrive { socket, .. } => {
                let end = self.network.end(*socket)?;
                let from = self.network.end(end.other)?.place;
                let second = usize::from((from + 1) % 3 != end.place);
                (0, (from + 3 * second) as u8)
            }
            Event::WriteDone { place, .. } => (8, *place as u8),
            Event::Restart(node) => (11, *node as u8),
            Event::Client(_) => {
                let leads = |place: &_| raft_of(place, GroupId(1)).is_some_and(Raft::is_leader);
                (10, self.places.iter().position(leads)? as u8)
            }
            _ => return None,
        })
    }

    /// The segments of a place, each as its blocks without the zeros at their ends.
    fn disk_input(&self, place: usize) -> Vec<u8> {
        const BLOCK: usize = 4096;
        let place = &self.places[place];
        let whose = (place.node as u8 + 1) << 4 | (self.swarm.cores as u8 - 1) << 2;
        let mut input = vec![0, whose | place.core as u8];
        let volume = place.disk.after_power_loss();
        for slot in pontoon::storage::Volume::slots(&volume) {
            let image = volume.image(slot).expect("it was listed");
            for (block, bytes) in image.chunks(BLOCK).enumerate() {
                let length = bytes.iter().rposition(|byte| *byte != 0);
                let length = length.map_or(0, |last| last + 1);
                if length > 0 || block == 0 {
                    let [low, high] = (length as u16).to_le_bytes();
                    input.extend([slot as u8, block as u8, low, high]);
                    input.extend(&bytes[..length]);
                }
            }
        }
        input
    }
}

/// What one node says to another, and who listens.
fn hello(swarm: &Swarm, from: usize, to: usize, core: u16, answers: bool) -> Vec<u8> {
    let hello = Hello {
        version_min: WIRE_VERSION_MIN,
        version_max: WIRE_VERSION,
        core,
        cores: swarm.cores,
        cluster: CLUSTER,
        node: NodeId(from as u64 + 1).0,
        expected_peer: to as u64 + 1,
        incarnation: 1,
        purpose: Purpose::Replication,
        features: Features::NONE,
        fingerprint: FORMAT_FINGERPRINT,
        frame_bytes_max: LIMITS.frame_bytes_max,
    };
    let dials = answers && from == (to + 1) % 7;
    let mode = u8::from(dials) | (swarm.cores as u8 - 1) << 2 | (to as u8) << 4;
    let mut input = vec![mode];
    input.extend(hello.encode());
    input
}

//! Fuzz targets: what must hold whatever bytes come from a peer, a disk or a schedule.
//!
//! Each target takes any bytes and panics if a promise is broken. `engine/fuzz` gives them to
//! libFuzzer; `tests/corpora.rs` runs them over the corpora on every toolchain. The first bytes of
//! an input choose how the rest is taken (each target says how); a flag among them has checksums
//! fixed, since no mutation would ever get past them.

mod bytes;
mod fix_checksums;
mod forged_messages;
mod frame_stream;
mod hello;
mod log_writer;
mod lone_raft;
mod open_log;
mod raft_step;
mod replica_invariants;
mod segment_mutate;
mod segment_open;
mod single_shard;

pub use frame_stream::frame_stream;
pub use hello::hello;
pub use raft_step::raft_step;
pub use segment_mutate::segment_mutate;
pub use segment_open::segment_open;

/// A target and its name, which is also that of its folder below `engine/fuzz/corpus`.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name.
    pub name: &'static str,
    /// Takes any bytes; panics if something does not hold.
    pub run: fn(&[u8]),
}

/// All targets.
pub const TARGETS: [Target; 5] = [
    Target {
        name: "frame_stream",
        run: frame_stream,
    },
    Target {
        name: "hello",
        run: hello,
    },
    Target {
        name: "segment_open",
        run: segment_open,
    },
    Target {
        name: "segment_mutate",
        run: segment_mutate,
    },
    Target {
        name: "raft_step",
        run: raft_step,
    },
];

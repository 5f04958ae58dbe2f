//! Pontoon's wire: what two nodes say to each other over TCP, as state machines without sockets.
//!
//! A connection begins with one [`Hello`] of [`HELLO_BYTES`] in each direction; nothing is
//! allocated for a peer before its hello is accepted. Then come frames:
//!
//! ```text
//! frame   0  magic "PTNf"        hello   0  magic "PONTOON\0"
//!         4  kind (1)                    8  version min, 10 version max, 12 core, 14 cores
//!         5  flags (0)                  16  cluster (16 bytes)
//!         6  number of heads            32  node              40  expected peer
//!         8  bytes of records           48  incarnation       52  purpose, 4 bytes each
//!        12  sequence (8 bytes)         56  features
//!        20  reserved (8 bytes, 0)      64  format fingerprint
//!        28  CRC32C of 0..28 + heads    72  largest frame accepted
//!        32  heads, 64 bytes each       76  CRC32C of 0..76
//!            records, as they lie on disk, each with a checksum of its own
//! ```
//!
//! The newest version within the ranges of both hellos is agreed on, and the features that both
//! name. A frame of a kind that the receiver does not know has the same lengths and checksum, is
//! skipped, and is counted. Size and beginning of a hello, up to its range of versions, are the
//! same in all versions.
//!
//! Everything is little-endian. A head is a [`WireHead`], its own archive: explicit little-endian,
//! unaligned integers and no relative pointers, so that no feature of rkyv chosen elsewhere in an
//! embedder's build can change it. Heads are read in place, after the checksum, through checked
//! access; records stay opaque.
//!
//! **Peer bytes are validated before they are read**, and can close a connection, never a process.
#![forbid(unsafe_code)]

mod connection;
mod error;
mod frame;
mod handshake;
mod head;
mod hello;
mod negotiation;
mod receive;
mod reconnect;
mod send;

pub use connection::{Connection, FrameLimits, SEND_BYTES_MAX};
pub use error::{ConnectionError, HelloError};
pub use frame::{FRAME_HEADER_BYTES, Frame, FrameKind, check_first_header};
pub use handshake::{Agreement, Handshake};
pub use head::{HEAD_BYTES, Head, WireHead};
pub use hello::{FORMAT_FINGERPRINT, HELLO_BYTES, Hello, WIRE_VERSION, WIRE_VERSION_MIN};
pub use negotiation::{Features, Purpose, VersionRange};
pub use receive::ReceiveBuffer;
pub use reconnect::Reconnect;
pub use send::SendBatch;

//! The port between a shard and whatever carries its operations: a ring, a test, a simulator.
//!
//! Operations own the memory the kernel reads or fills and bring it back with their completion,
//! so that nobody looks at it meanwhile. Everything here stays on the shard's thread.

use pontoon_raft::NodeId;
use pontoon_storage::{DiskOp, ReadBuffer, RecordBytes};
use pontoon_transport::{ReceiveBuffer, SendBatch};

/// Names an established connection to the driver. Never used again in the life of a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SocketId(pub u64);

/// What a turn asks of the driver. Order matters only within one socket.
#[derive(Debug)]
pub enum Operation {
    /// A durable write or a read of a segment. Answered by `Written` or `Read`.
    Disk(DiskOp),
    /// Send the whole batch or a part of it. Answered by `Sent`.
    Send {
        /// Through which connection.
        socket: SocketId,
        /// What to send; at most one per socket is under way.
        batch: SendBatch<RecordBytes>,
    },
    /// Receive at least one byte. Answered by `Received`.
    Receive {
        /// From which connection.
        socket: SocketId,
        /// Where to; at most one per socket is under way.
        buffer: ReceiveBuffer,
    },
    /// Shut the connection down. What is under way on it still completes, then it is closed.
    Close {
        /// Which connection.
        socket: SocketId,
    },
    /// Connect to this core of a peer and exchange hellos. Answered by `Connected` or `DialFailed`.
    Dial {
        /// The peer.
        peer: NodeId,
    },
    /// Make a segment ready. Answered by `Prepared`.
    Prepare {
        /// Its slot.
        slot: u32,
    },
}

/// What has become of an operation, or what a peer began.
#[derive(Debug)]
pub enum Completion {
    /// A write is durable (so many bytes), or failed with an error number.
    Written {
        /// The operation's name.
        id: u64,
        /// Bytes made durable, or errno(3).
        result: Result<usize, i32>,
    },
    /// A read is over.
    Read {
        /// The operation's name.
        id: u64,
        /// The memory that was lent.
        buffer: ReadBuffer,
        /// Bytes read, or errno(3).
        result: Result<usize, i32>,
    },
    /// A send is over.
    Sent {
        /// The connection.
        socket: SocketId,
        /// The batch that was lent.
        batch: SendBatch<RecordBytes>,
        /// Bytes sent, or errno(3).
        result: Result<usize, i32>,
    },
    /// A receive is over; 0 bytes mean that the peer closed the connection.
    Received {
        /// The connection.
        socket: SocketId,
        /// The buffer that was lent.
        buffer: ReceiveBuffer,
        /// Bytes received, or errno(3).
        result: Result<usize, i32>,
    },
    /// Hellos were exchanged, by a dial of ours or by the peer's. An older connection to the same
    /// peer is to be closed.
    Connected {
        /// Who is at the other end.
        peer: NodeId,
        /// The connection.
        socket: SocketId,
    },
    /// The dial did not lead to a connection; the reason is logged and counted where it failed.
    DialFailed {
        /// Who was to be reached.
        peer: NodeId,
    },
    /// A segment is ready, or could not be made.
    Prepared {
        /// Its slot.
        slot: u32,
        /// Whether it is ready.
        ready: bool,
    },
    /// A segment could not be made, for want of file descriptors.
    NoDescriptors {
        /// Its slot.
        slot: u32,
    },
}

//! What the kernel is working on: it owns the memory until the completion is there.

use std::path::Path;

use pontoon_storage::{DiskOp, RecordBytes, segment_path};
use pontoon_transport::{ReceiveBuffer, SendBatch};

use crate::port::SocketId;

/// One operation under way.
#[derive(Debug)]
pub(super) enum InFlightOp {
    /// A durable write: done when the write and, where there is one, its sync are.
    Write {
        operation: DiskOp,
        outcome: WriteOutcome,
    },
    Read {
        operation: DiskOp,
    },
    Send {
        socket: SocketId,
        batch: SendBatch<RecordBytes>,
    },
    Receive {
        socket: SocketId,
        buffer: ReceiveBuffer,
    },
}

/// What a durable write has come to so far. Its completions may come in any order.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct WriteOutcome {
    pub(super) written: Option<Result<usize, i32>>,
    pub(super) synced: Option<Result<usize, i32>>,
}

impl WriteOutcome {
    /// Of a write that is durable without a sync of its own.
    pub(super) fn without_sync() -> Self {
        Self {
            written: None,
            synced: Some(Ok(0)),
        }
    }

    /// The result for a write of `bytes` bytes, once all completions are there. A short count is
    /// reported as it is, although its sync was cancelled: the log takes it for the failure it is.
    pub(super) fn result(self, bytes: usize) -> Option<Result<usize, i32>> {
        Some(match (self.written?, self.synced?) {
            (Err(errno), _) => Err(errno),
            (Ok(count), Err(_)) if count < bytes => Ok(count),
            (Ok(_), Err(errno)) => Err(errno),
            (Ok(count), Ok(_)) => Ok(count),
        })
    }
}

/// All of them, each under a token that its entries carry as `user_data`.
#[derive(Debug, Default)]
pub(super) struct InFlight {
    operations: Vec<Option<InFlightOp>>,
    free: Vec<u32>,
    count: usize,
    writes: usize,
}

impl InFlight {
    /// Takes an operation in; gives its token.
    pub(super) fn insert(&mut self, operation: InFlightOp) -> u32 {
        self.count += 1;
        self.writes += usize::from(matches!(operation, InFlightOp::Write { .. }));
        if let Some(token) = self.free.pop() {
            self.operations[token as usize] = Some(operation);
            return token;
        }
        self.operations.push(Some(operation));
        u32::try_from(self.operations.len() - 1).expect("few operations are under way")
    }

    pub(super) fn get_mut(&mut self, token: u32) -> &mut InFlightOp {
        let operation = self.operations[token as usize].as_mut();
        operation.expect("a completion answers an operation under way")
    }

    pub(super) fn remove(&mut self, token: u32) -> InFlightOp {
        let operation = self.operations[token as usize].take();
        let operation = operation.expect("a completion answers an operation under way");
        self.count -= 1;
        self.writes -= usize::from(matches!(operation, InFlightOp::Write { .. }));
        self.free.push(token);
        operation
    }

    pub(super) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// What is under way, for whoever has waited for it in vain: disks before sockets.
    pub(super) fn describe(&self) -> String {
        let disk = self.operations.iter().flatten().find_map(|under_way| match under_way {
            InFlightOp::Write { operation, .. } => Some(("a write to", operation.slot())),
            InFlightOp::Read { operation } => Some(("a read of", operation.slot())),
            InFlightOp::Send { .. } | InFlightOp::Receive { .. } => None,
        });
        match disk {
            Some((what, slot)) => {
                let file = segment_path(Path::new(""), slot);
                format!("{what} {}", file.display())
            }
            None => "an operation of a socket".to_owned(),
        }
    }

    pub(super) fn writes(&self) -> usize {
        self.writes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_is_durable_only_when_its_sync_is_done_too() {
        let of = |written, synced| WriteOutcome { written, synced }.result(4096);
        let cancelled = Some(Err(libc::ECANCELED));
        assert_eq!(of(Some(Ok(4096)), None), None);
        assert_eq!(of(None, Some(Ok(0))), None);
        assert_eq!(of(Some(Ok(4096)), Some(Ok(0))), Some(Ok(4096)));
        assert_eq!(of(Some(Ok(4096)), Some(Err(5))), Some(Err(5)));
        assert_eq!(of(Some(Err(5)), cancelled), Some(Err(5)));
        assert_eq!(of(Some(Ok(512)), cancelled), Some(Ok(512)));
        // A whole write whose sync was cancelled all the same is not durable.
        let errno = libc::ECANCELED;
        assert_eq!(of(Some(Ok(4096)), cancelled), Some(Err(errno)));
        let single = WriteOutcome {
            written: Some(Ok(4096)),
            ..WriteOutcome::without_sync()
        };
        assert_eq!(single.result(4096), Some(Ok(4096)));
    }
}

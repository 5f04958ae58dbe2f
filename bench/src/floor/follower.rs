//! A follower of the baseline: a blocking socket and a prepared file, nothing else.

use std::io::{ErrorKind, IoSlice, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use pontoon::storage::SyncMethod;
use rustix::io::ReadWriteFlags;
use serde::{Deserialize, Serialize};

use crate::child;
use crate::data::{AlignedBytes, prepare_file};
use crate::histogram::{self, Buckets};
use crate::placement;
use crate::sync_method::SyncMethodSerde;

/// A request of the baseline's leader to a follower.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum FollowerRequest {
    /// Prepare the file to write to, and pin the process to a CPU.
    Prepare {
        path: PathBuf,
        bytes: u64,
        /// The CPU, or `None` to leave the process unpinned.
        processor: Option<usize>,
    },
    /// Connect; write and acknowledge each message until the connection ends.
    Serve {
        address: SocketAddr,
        message: Message,
        #[serde(with = "SyncMethodSerde")]
        sync: SyncMethod,
    },
    /// Write blocks durably, one after the other.
    Write {
        seconds: f64,
        bytes: usize,
        #[serde(with = "SyncMethodSerde")]
        sync: SyncMethod,
    },
}

/// Lengths of the messages and of the write of one round.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Message {
    /// Bytes from the leader to a follower.
    pub(crate) message_bytes: usize,
    /// Bytes of the follower's acknowledgement.
    pub(crate) answer_bytes: usize,
    /// Bytes the follower writes durably in between; zero for no write.
    pub(crate) write_bytes: usize,
}

/// A reply of a follower.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum FollowerReply {
    /// The request is carried out.
    Done,
    /// The latencies of [`FollowerRequest::Write`].
    Written(Buckets),
}

/// Serves requests until standard input ends.
///
/// # Errors
/// When standard input or output fails; a failed request is reported to the parent instead.
pub(crate) fn serve() -> Result<()> {
    let mut file = None;
    child::serve_requests(|request| match request {
        FollowerRequest::Prepare {
            path,
            bytes,
            processor,
        } => {
            placement::pin(processor);
            file = Some(BlockingFile {
                file: prepare_file(&path, bytes)?,
                bytes,
                offset: 0,
            });
            Ok(FollowerReply::Done)
        }
        FollowerRequest::Serve {
            address,
            message,
            sync,
        } => {
            let file = file.as_mut().context("asked to serve before Prepare")?;
            serve_connection(file, address, message, sync)?;
            Ok(FollowerReply::Done)
        }
        FollowerRequest::Write {
            seconds,
            bytes,
            sync,
        } => {
            let file = file.as_mut().context("asked to write before Prepare")?;
            file.write_for(Duration::from_secs_f64(seconds), bytes, sync)
                .map(FollowerReply::Written)
        }
    })
}

fn serve_connection(
    file: &mut BlockingFile,
    address: SocketAddr,
    message: Message,
    sync: SyncMethod,
) -> Result<()> {
    let mut socket = TcpStream::connect(address).context("connecting to the baseline's leader")?;
    socket.set_nodelay(true)?;
    let mut received = AlignedBytes::new(message.message_bytes.max(message.write_bytes), 0);
    let answer = vec![1; message.answer_bytes];
    loop {
        match socket.read_exact(&mut received.as_mut_slice()[..message.message_bytes]) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(()),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => return Ok(()),
            Err(error) => return Err(error.into()),
        }
        if message.write_bytes > 0 {
            file.write(&received.as_slice()[..message.write_bytes], sync)?;
        }
        socket.write_all(&answer)?;
    }
}

struct BlockingFile {
    file: OwnedFd,
    bytes: u64,
    offset: u64,
}

impl BlockingFile {
    fn write(&mut self, bytes: &[u8], sync: SyncMethod) -> Result<()> {
        if self.offset + bytes.len() as u64 > self.bytes {
            self.offset = 0;
        }
        let flags = match sync {
            SyncMethod::WriteDsync => ReadWriteFlags::DSYNC,
            SyncMethod::WriteThenFdatasync => ReadWriteFlags::empty(),
        };
        let piece = [IoSlice::new(bytes)];
        let written = rustix::io::pwritev2(&self.file, &piece, self.offset, flags)?;
        ensure!(
            written == bytes.len(),
            "a write of {} bytes wrote {written}",
            bytes.len()
        );
        if sync == SyncMethod::WriteThenFdatasync {
            rustix::fs::fdatasync(&self.file)?;
        }
        self.offset += bytes.len() as u64;
        Ok(())
    }

    fn write_for(&mut self, time: Duration, bytes: usize, sync: SyncMethod) -> Result<Buckets> {
        let block = AlignedBytes::new(bytes, 2);
        let mut latencies = histogram::latencies();
        let begun = Instant::now();
        while begun.elapsed() < time {
            let start = Instant::now();
            self.write(block.as_slice(), sync)?;
            histogram::record(&mut latencies, start.elapsed());
        }
        Ok(Buckets::from(&latencies))
    }
}

//! Carrying operations out one at a time and waiting for each: for tools, tests and measurements.

use std::io::{IoSlice, IoSliceMut};
use std::os::fd::BorrowedFd;

use rustix::io::{Errno, ReadWriteFlags, preadv2, pwritev2};

use crate::disk::{DiskOp, SyncMethod};

/// Carries out an operation on the file of its slot: the result to complete it with.
///
/// # Errors
/// The system's error number, as a driver would give it to the log.
pub fn run(operation: &mut DiskOp, file: BorrowedFd<'_>, sync: SyncMethod) -> Result<usize, i32> {
    match operation {
        DiskOp::Write { offset, bytes, .. } => write(file, *offset, bytes.as_ref(), sync),
        DiskOp::Read { offset, buffer, .. } => {
            let pieces = &mut [IoSliceMut::new(buffer.as_mut_slice())];
            preadv2(file, pieces, *offset, ReadWriteFlags::empty()).map_err(Errno::raw_os_error)
        }
    }
}

/// Writes durably. A short count is given back as it is, to be treated as a failure.
pub(crate) fn write(
    file: BorrowedFd<'_>,
    offset: u64,
    bytes: &[u8],
    sync: SyncMethod,
) -> Result<usize, i32> {
    let flags = match sync {
        SyncMethod::WriteDsync => ReadWriteFlags::DSYNC,
        SyncMethod::WriteThenFdatasync => ReadWriteFlags::empty(),
    };
    let written = pwritev2(file, &[IoSlice::new(bytes)], offset, flags);
    let written = written.map_err(Errno::raw_os_error)?;
    if sync == SyncMethod::WriteThenFdatasync {
        rustix::fs::fdatasync(file).map_err(Errno::raw_os_error)?;
    }
    Ok(written)
}

//! How a disk operation becomes `io_uring` entries. Building them is safe; pushing them is not.

use io_uring::squeue::{Entry, Flags};
use io_uring::{opcode, types};

use pontoon_storage::{DiskOp, SyncMethod};

/// The entries of an operation: the operation and, for
/// [`SyncMethod::WriteThenFdatasync`], a linked sync whose completion must be awaited too.
///
/// The driver sets `user_data`, and keeps `op` alive and unmoved in the heap sense (its memory is
/// in an arena) until the completions are there. With `registered` the log's arena is buffer 0
/// of the ring.
pub fn entries(
    op: &mut DiskOp,
    fd: types::Fd,
    sync: SyncMethod,
    registered: bool,
) -> (Entry, Option<Entry>) {
    match op {
        DiskOp::Write { offset, bytes, .. } => {
            let length = u32::try_from(bytes.len()).expect("a frame is shorter than 4 GiB");
            let flags = match sync {
                SyncMethod::WriteDsync => libc::RWF_DSYNC,
                SyncMethod::WriteThenFdatasync => 0,
            };
            let write = if registered {
                let write = opcode::WriteFixed::new(fd, bytes.as_ptr(), length, 0);
                write.offset(*offset).rw_flags(flags).build()
            } else {
                let write = opcode::Write::new(fd, bytes.as_ptr(), length);
                write.offset(*offset).rw_flags(flags).build()
            };
            match sync {
                SyncMethod::WriteDsync => (write, None),
                SyncMethod::WriteThenFdatasync => {
                    let sync = opcode::Fsync::new(fd)
                        .flags(types::FsyncFlags::DATASYNC)
                        .build();
                    (write.flags(Flags::IO_LINK), Some(sync))
                }
            }
        }
        DiskOp::Read { offset, buffer, .. } => {
            let length = u32::try_from(buffer.len()).expect("a read is shorter than 4 GiB");
            let read = opcode::Read::new(fd, buffer.as_mut_ptr(), length).offset(*offset);
            (read.build(), None)
        }
    }
}

//! How a socket operation becomes a ring entry. Building one is safe; the
//! driver that pushes it keeps the operation alive until its completion.

use io_uring::{opcode, squeue, types::Fd};

use pontoon_transport::{ReceiveBuffer, SendBatch};

/// One sendmsg(2) of everything the batch still holds.
pub(super) fn send_entry<P: AsRef<[u8]>>(batch: &mut SendBatch<P>, fd: Fd) -> squeue::Entry {
    let header = batch.message_header();
    opcode::SendMsg::new(fd, header)
        .flags(libc::MSG_NOSIGNAL as u32)
        .build()
}

/// One recv(2) into the free part of the buffer.
pub(super) fn receive_entry(buffer: &mut ReceiveBuffer, fd: Fd) -> squeue::Entry {
    let free = buffer.free();
    let length = u32::try_from(free.len()).unwrap_or(u32::MAX);
    opcode::Recv::new(fd, free.as_mut_ptr(), length).build()
}

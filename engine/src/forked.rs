//! Whether this is the process that something was made in, or a child that was forked from it.
//!
//! A forked child has a copy of all memory and none of the other threads: nobody answers there,
//! what another thread held at that moment is held for good, and descriptors are the parent's too.
//! So what belongs to a node is neither used nor dropped there.
#![allow(unsafe_code)]

use std::io;
use std::ptr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous};

/// A process of this program: from its start, or the fork that it came from, on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Process(u64);

/// The number of this process, in a page that the kernel wipes in forked children. 0: it has none
/// yet.
static MARK: OnceLock<&'static AtomicU64> = OnceLock::new();

/// Numbers given so far, in the line of processes that leads to this one.
static GIVEN: AtomicU64 = AtomicU64::new(0);

impl Process {
    /// This one.
    pub(crate) fn this() -> Self {
        let mark = MARK.get_or_init(new_mark);
        let found = mark.load(Ordering::Relaxed);
        if found != 0 {
            return Self(found);
        }
        let number = GIVEN.fetch_add(1, Ordering::Relaxed) + 1;
        let (success, failure) = (Ordering::Relaxed, Ordering::Relaxed);
        // Another thread may have been first.
        match mark.compare_exchange(0, number, success, failure) {
            Ok(_) => Self(number),
            Err(found) => Self(found),
        }
    }

    /// Whether this is still that process, and no child of it.
    pub(crate) fn is_this(self) -> bool {
        let mark = MARK.get();
        mark.is_some_and(|mark| mark.load(Ordering::Relaxed) == self.0)
    }
}

/// Without such a page children can't be told; there the kernel is too old for io_uring as well.
fn new_mark() -> &'static AtomicU64 {
    wiped_in_children().unwrap_or_else(|error| {
        tracing::warn!(%error, "forked children will not be told that nothing works there");
        Box::leak(Box::default())
    })
}

fn wiped_in_children() -> io::Result<&'static AtomicU64> {
    let bytes = page_bytes();
    let access = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: a mapping of its own at an address that the kernel chooses; nothing else is there.
    let page = unsafe { mmap_anonymous(ptr::null_mut(), bytes, access, MapFlags::PRIVATE) }?;
    // SAFETY: it is the whole mapping, of which nobody but this function knows.
    unsafe { madvise(page, bytes, Advice::LinuxWipeOnFork) }?;
    // SAFETY: the page is never unmapped, aligned, and all zeros, which is an AtomicU64; it is only
    // used as one. That a child finds it zeroed is no write of another thread.
    Ok(unsafe { &*page.cast::<AtomicU64>() })
}

fn page_bytes() -> usize {
    // SAFETY: it only reads a number; libc's, since rustix's own way does not work under valgrind.
    let bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    usize::try_from(bytes).expect("every system has a page size")
}

/// Something that works in the process that made it alone: a forked child gets nothing out of it,
/// and leaves it as it is instead of dropping it.
#[derive(Debug)]
pub(crate) struct OfProcess<T> {
    /// `None` once it is dropped.
    value: Option<T>,
    process: Process,
}

impl<T> OfProcess<T> {
    pub(crate) fn new(value: T) -> Self {
        Self {
            value: Some(value),
            process: Process::this(),
        }
    }

    /// `None` in a forked child.
    pub(crate) fn get(&self) -> Option<&T> {
        self.value.as_ref().filter(|_| self.process.is_this())
    }

    /// `None` in a forked child.
    pub(crate) fn get_mut(&mut self) -> Option<&mut T> {
        self.value.as_mut().filter(|_| self.process.is_this())
    }
}

impl<T> Drop for OfProcess<T> {
    fn drop(&mut self) {
        if !self.process.is_this() {
            std::mem::forget(self.value.take());
        }
    }
}

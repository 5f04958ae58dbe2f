//! The memory that records live in: one page-aligned arena cut into slabs, handed out by reference.
//!
//! A slab is filled from front to back and never rewritten, so a reader of an earlier range and the
//! writer of a later one never meet. It goes back to its pool when the last reference is dropped:
//! its disk write, its sends and its place in the cache are then all done.
#![allow(unsafe_code)]

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::cell::{Cell, RefCell};
use std::fmt;
use std::io;
use std::ops::Range;
use std::ptr::NonNull;
use std::rc::Rc;

/// Alignment of an arena: at least any direct-I/O alignment seen on real drives.
const ARENA_ALIGN: usize = 64 << 10;

/// A pool of equally long slabs in one arena. One thread owns it and all that comes from it.
#[derive(Clone)]
pub struct SlabPool {
    arena: Rc<Arena>,
}

struct Arena {
    memory: NonNull<u8>,
    layout: Layout,
    slab_bytes: usize,
    slabs: usize,
    free: RefCell<Vec<u32>>,
}

impl SlabPool {
    /// Allocates (and touches) the arena; `arena_bytes` is rounded down to whole slabs.
    ///
    /// # Errors
    /// When the arena holds no slab, a slab is not whole blocks of 4 KiB, or there is no memory.
    pub fn new(arena_bytes: usize, slab_bytes: usize) -> io::Result<Self> {
        let slabs = arena_bytes.checked_div(slab_bytes).unwrap_or(0);
        if slabs == 0 || !slab_bytes.is_multiple_of(4096) || u32::try_from(slab_bytes).is_err() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("an arena of {arena_bytes} bytes holds no slab of {slab_bytes} bytes"),
            ));
        }
        let layout = Layout::from_size_align(slabs * slab_bytes, ARENA_ALIGN)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        // SAFETY: the layout has a size above zero (at least one slab of at least one byte).
        let memory = unsafe { alloc_zeroed(layout) };
        let memory = NonNull::new(memory).ok_or(io::ErrorKind::OutOfMemory)?;
        let numbers = 0..u32::try_from(slabs).map_err(|_| io::ErrorKind::InvalidInput)?;
        let free = RefCell::new(numbers.rev().collect());
        Ok(Self {
            arena: Rc::new(Arena {
                memory,
                layout,
                slab_bytes,
                slabs,
                free,
            }),
        })
    }

    /// Where the arena lies, for registering it with the kernel as one buffer.
    #[must_use]
    pub fn arena(&self) -> (*const u8, usize) {
        (self.arena.memory.as_ptr(), self.arena.layout.size())
    }

    /// Bytes of slabs that nobody refers to.
    #[must_use]
    pub fn bytes_free(&self) -> usize {
        self.slabs_free() * self.arena.slab_bytes
    }

    /// Slabs that nobody refers to.
    pub(crate) fn slabs_free(&self) -> usize {
        self.arena.free.borrow().len()
    }

    /// All slabs.
    #[cfg(feature = "mutants")]
    pub(crate) fn slabs(&self) -> usize {
        self.arena.slabs
    }

    /// Bytes of each slab.
    pub(crate) fn slab_bytes(&self) -> usize {
        self.arena.slab_bytes
    }

    /// Takes a slab, if one is free.
    pub(crate) fn take(&self) -> Option<Slab> {
        let number = self.arena.free.borrow_mut().pop()?;
        let arena = Rc::clone(&self.arena);
        Some(Slab {
            arena,
            number,
            frontier: Cell::new(0),
            reservations: RefCell::new(Vec::new()),
        })
    }

    /// Takes a slab as a buffer to read `length` bytes into.
    pub(crate) fn read_buffer(&self, length: usize) -> Option<ReadBuffer> {
        assert!(
            length <= self.arena.slab_bytes,
            "a read must fit its buffer"
        );
        self.take().map(|slab| ReadBuffer { slab, length })
    }
}

impl fmt::Debug for SlabPool {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "SlabPool({} of {} slabs free)",
            self.slabs_free(),
            self.arena.slabs
        )
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        // SAFETY: allocated in `SlabPool::new` with this layout; every slab holds an `Rc` of us,
        // so none is alive.
        unsafe { dealloc(self.memory.as_ptr(), self.layout) }
    }
}

/// One slab. Bytes below the frontier and outside of reservations are written once and for all.
pub(crate) struct Slab {
    arena: Rc<Arena>,
    number: u32,
    /// Everything from here on is unwritten and has never been shown to anybody.
    frontier: Cell<usize>,
    /// Ranges below the frontier whose bytes are still to come (frame headers).
    reservations: RefCell<Vec<(usize, usize)>>,
}

/// A range of a slab that was skipped and must be filled exactly once before it is shown.
#[derive(Debug)]
pub(crate) struct Reservation {
    start: usize,
    bytes: usize,
}

impl Slab {
    /// Bytes that can still be appended.
    pub(crate) fn remaining(&self) -> usize {
        self.arena.slab_bytes - self.frontier.get()
    }

    /// Where the next byte goes.
    pub(crate) fn frontier(&self) -> usize {
        self.frontier.get()
    }

    fn base(&self) -> *mut u8 {
        // SAFETY: `number` is below the pool's count of slabs, so the offset stays in the arena.
        unsafe {
            self.arena
                .memory
                .as_ptr()
                .add(self.number as usize * self.arena.slab_bytes)
        }
    }

    /// Copies `bytes` to the frontier and moves it.
    pub(crate) fn append(&self, bytes: &[u8]) {
        let start = self.frontier.get();
        assert!(bytes.len() <= self.remaining(), "a slab must not overflow");
        // SAFETY: the target lies in this slab at or above the frontier, so no reference to it
        // exists, and the source is a shared slice that therefore can't overlap it.
        unsafe {
            self.base()
                .add(start)
                .copy_from_nonoverlapping(bytes.as_ptr(), bytes.len())
        }
        self.frontier.set(start + bytes.len());
    }

    /// Appends zero bytes until the frontier is a multiple of `block`.
    pub(crate) fn pad_to(&self, block: usize) {
        let start = self.frontier.get();
        let end = start.next_multiple_of(block);
        assert!(
            end <= self.arena.slab_bytes,
            "a slab is a whole number of blocks"
        );
        // SAFETY: as in `append`.
        unsafe { self.base().add(start).write_bytes(0, end - start) }
        self.frontier.set(end);
    }

    /// Leaves out `bytes` bytes that are filled later.
    pub(crate) fn reserve(&self, bytes: usize) -> Reservation {
        let start = self.frontier.get();
        assert!(bytes <= self.remaining(), "a slab must not overflow");
        self.reservations.borrow_mut().push((start, bytes));
        self.frontier.set(start + bytes);
        Reservation { start, bytes }
    }

    /// Fills a reservation of this slab.
    pub(crate) fn fill(&self, reservation: Reservation, bytes: &[u8]) {
        let mut reservations = self.reservations.borrow_mut();
        let at = reservations
            .iter()
            .position(|open| *open == (reservation.start, reservation.bytes));
        reservations.swap_remove(at.expect("a reservation is filled in its own slab, once"));
        assert_eq!(
            bytes.len(),
            reservation.bytes,
            "a reservation is filled whole"
        );
        // SAFETY: the reservation was listed as open, so no view of it has ever been given out; the
        // source can't overlap it for the same reason.
        unsafe {
            self.base()
                .add(reservation.start)
                .copy_from_nonoverlapping(bytes.as_ptr(), bytes.len())
        }
    }

    fn assert_written(&self, start: usize, end: usize) {
        assert!(
            start <= end && end <= self.frontier.get(),
            "only written bytes are shown"
        );
        for (reservation, bytes) in self.reservations.borrow().iter() {
            assert!(
                end <= *reservation || reservation + bytes <= start,
                "an unfilled reservation is never shown"
            );
        }
    }

    /// A shared view of written bytes.
    pub(crate) fn view(self: &Rc<Self>, range: Range<usize>) -> RecordBytes {
        self.assert_written(range.start, range.end);
        RecordBytes {
            memory: Memory::Slab(Rc::clone(self)),
            start: u32::try_from(range.start).expect("slabs are shorter than 4 GiB"),
            end: u32::try_from(range.end).expect("slabs are shorter than 4 GiB"),
        }
    }
}

impl Drop for Slab {
    fn drop(&mut self) {
        self.arena.free.borrow_mut().push(self.number);
    }
}

impl fmt::Debug for Slab {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "Slab({}, {} bytes used)",
            self.number,
            self.frontier.get()
        )
    }
}

/// Bytes of records, shared by reference count. Cloning copies no data.
///
/// They lie in a slab, which is free for others only when the last reference to any of its bytes is
/// dropped. Whoever may hold them for long calls [`detach`](Self::detach).
#[derive(Clone)]
pub struct RecordBytes {
    memory: Memory,
    start: u32,
    end: u32,
}

#[derive(Clone)]
enum Memory {
    Slab(Rc<Slab>),
    /// A copy. Boxed once more so that a reference is one word, as that to a slab is.
    Copy(Rc<Box<[u8]>>),
}

impl RecordBytes {
    /// Number of bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        (self.end - self.start) as usize
    }

    /// True when there is no byte.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// A part of these bytes, sharing the same memory.
    ///
    /// # Panics
    /// If `range` reaches outside.
    #[must_use]
    pub fn slice(&self, range: Range<usize>) -> Self {
        assert!(
            range.start <= range.end && range.end <= self.len(),
            "a slice lies inside"
        );
        let start = self.start as usize;
        let range = start + range.start..start + range.end;
        match &self.memory {
            Memory::Slab(slab) => slab.view(range),
            Memory::Copy(_) => Self {
                memory: self.memory.clone(),
                start: u32::try_from(range.start).expect("within the copy"),
                end: u32::try_from(range.end).expect("within the copy"),
            },
        }
    }

    /// Copies the bytes, unless they are a copy already, and lets go of their slab: a small piece
    /// then holds no more memory than its own.
    pub fn detach(&mut self) {
        if let Memory::Slab(_) = self.memory {
            let copy: Box<[u8]> = self.as_ref().into();
            self.end = u32::try_from(copy.len()).expect("slabs are shorter than 4 GiB");
            self.start = 0;
            self.memory = Memory::Copy(Rc::new(copy));
        }
    }

    /// Where the bytes lie, for handing them to the kernel.
    #[must_use]
    pub fn as_ptr(&self) -> *const u8 {
        self.as_ref().as_ptr()
    }

    /// True when `frontier` of slab `slab` is where these bytes end.
    pub(crate) fn ends_at(&self, slab: &Rc<Slab>, frontier: usize) -> bool {
        let same = matches!(&self.memory, Memory::Slab(own) if Rc::ptr_eq(own, slab));
        same && self.end as usize == frontier
    }

    /// Takes in the next `bytes` bytes of the slab.
    pub(crate) fn grow(&mut self, bytes: usize) {
        let end = self.end as usize + bytes;
        let Memory::Slab(slab) = &self.memory else {
            unreachable!("only the newest bytes of a slab grow");
        };
        slab.assert_written(self.end as usize, end);
        self.end = u32::try_from(end).expect("slabs are shorter than 4 GiB");
    }
}

impl AsRef<[u8]> for RecordBytes {
    fn as_ref(&self) -> &[u8] {
        let start = self.start as usize;
        match &self.memory {
            // SAFETY: `view` and `grow` checked that the range is written and free of reservations;
            // such bytes are never written again while the slab lives, and `self` keeps it alive.
            Memory::Slab(slab) => unsafe {
                std::slice::from_raw_parts(slab.base().add(start), self.len())
            },
            Memory::Copy(copy) => &copy[start..self.end as usize],
        }
    }
}

impl fmt::Debug for RecordBytes {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "RecordBytes({} bytes)", self.len())
    }
}

/// Aligned memory of one read. It moves into the operation and comes back with its completion.
pub struct ReadBuffer {
    slab: Slab,
    length: usize,
}

impl ReadBuffer {
    /// Number of bytes to read.
    #[must_use]
    pub fn len(&self) -> usize {
        self.length
    }

    /// True when there is nothing to read.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Where the bytes go, for handing the buffer to the kernel.
    pub fn as_mut_ptr(&mut self) -> *mut u8 {
        self.slab.base()
    }

    /// The memory, for reading into it without a kernel.
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: a read buffer is the only owner of its slab and has shown no view of it; the
        // memory was zeroed when the arena was made, and `length` is within the slab.
        unsafe { std::slice::from_raw_parts_mut(self.slab.base(), self.length) }
    }

    /// Gives the first `length` bytes out for good.
    pub(crate) fn freeze(self, length: usize) -> RecordBytes {
        assert!(length <= self.length, "only what was read is shown");
        self.slab.frontier.set(length);
        Rc::new(self.slab).view(0..length)
    }
}

impl AsRef<[u8]> for ReadBuffer {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: as in `as_mut_slice`, with a shared borrow.
        unsafe { std::slice::from_raw_parts(self.slab.base(), self.length) }
    }
}

impl fmt::Debug for ReadBuffer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "ReadBuffer({} bytes)", self.length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slab_returns_to_its_pool_when_the_last_view_is_dropped() {
        let pool = SlabPool::new(8192, 4096).unwrap();
        let slab = Rc::new(pool.take().unwrap());
        slab.append(b"hello");
        let view = slab.view(1..5);
        drop(slab);
        assert_eq!(pool.bytes_free(), 4096);
        assert_eq!(view.as_ref(), b"ello");
        drop(view);
        assert_eq!(pool.bytes_free(), 8192);
    }

    #[test]
    fn a_detached_view_keeps_its_bytes_and_lets_go_of_its_slab() {
        let pool = SlabPool::new(4096, 4096).unwrap();
        let slab = Rc::new(pool.take().unwrap());
        slab.append(b"hello");
        let mut view = slab.view(1..5);
        drop(slab);
        view.detach();
        assert_eq!(pool.bytes_free(), 4096);
        assert_eq!(view.as_ref(), b"ello");
        assert_eq!(view.slice(1..3).as_ref(), b"ll");
    }

    #[test]
    fn a_view_grows_over_what_is_appended_behind_it() {
        let pool = SlabPool::new(4096, 4096).unwrap();
        let slab = Rc::new(pool.take().unwrap());
        slab.append(b"ab");
        let mut view = slab.view(0..2);
        slab.append(b"cd");
        view.grow(2);
        assert_eq!(view.slice(1..4).as_ref(), b"bcd");
    }

    #[test]
    #[should_panic(expected = "an unfilled reservation is never shown")]
    fn an_unfilled_reservation_is_never_shown() {
        let pool = SlabPool::new(4096, 4096).unwrap();
        let slab = Rc::new(pool.take().unwrap());
        let _reservation = slab.reserve(8);
        slab.append(b"after");
        let _ = slab.view(4..10);
    }

    #[test]
    fn a_filled_reservation_shows_its_bytes() {
        let pool = SlabPool::new(4096, 4096).unwrap();
        let slab = Rc::new(pool.take().unwrap());
        let reservation = slab.reserve(2);
        slab.append(b"cd");
        slab.fill(reservation, b"ab");
        slab.pad_to(8);
        assert_eq!(slab.view(0..8).as_ref(), b"abcd\0\0\0\0");
    }
}

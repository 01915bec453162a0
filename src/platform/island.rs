//! Memory for a process whose heap may be locked for ever.
//!
//! A raw `clone` copies libc's heap with whatever lock another thread held, and libc's own repair (in `fork`) does not
//! run. In such a process our allocations come from an island: one reservation, cut into power-of-two pieces.
//!
//! Invariants:
//! - The island is entered by a raw child ([`enter`]) and left by a child that libc's hook ran in ([`leave`]): there
//!   libc has repaired its heap. Its memory stays reserved, so a piece is known by its address for ever.
//! - On the island, what the heap gave out is leaked; off it, what the island gave out is leaked.
//! - A lock or a list that a raw clone of a raw child tore is not believed: `enter` forgets both and cuts on.
//! - Without an island every call is the system's, at the cost of one relaxed load.

use super::mmap::Mapping;
use std::alloc::{GlobalAlloc, Layout, System};
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Address space of the island; touched pages only are memory.
const SIZE: usize = 1 << 30;
/// Smallest piece: 16 bytes.
const MIN_BITS: u32 = 4;
const CLASSES: usize = 27;

/// First byte of the island, 0 if there never was one.
static ISLAND: AtomicUsize = AtomicUsize::new(0);
/// Whether this process lives on it.
static ACTIVE: AtomicBool = AtomicBool::new(false);
/// Bytes cut so far.
static CUT: AtomicUsize = AtomicUsize::new(0);
/// First free piece of each size; the next one's address stands in it.
static FREE: [AtomicUsize; CLASSES] = [const { AtomicUsize::new(0) }; CLASSES];
static LOCK: AtomicBool = AtomicBool::new(false);

/// The library's allocator.
pub struct Allocator;

#[global_allocator]
static ALLOCATOR: Allocator = Allocator;

/// From now on allocate from the island. Costs two system calls; should they fail, the heap stays in use.
pub fn enter() {
    LOCK.store(false, Ordering::SeqCst);
    FREE.iter().for_each(|list| list.store(0, Ordering::SeqCst));
    if ISLAND.load(Ordering::Acquire) == 0 {
        let Ok(island) = Mapping::anonymous(SIZE) else { return };
        ISLAND.store(island.leak(), Ordering::SeqCst);
    }
    ACTIVE.store(true, Ordering::SeqCst);
}

/// In a child whose heap libc has repaired: back to the heap. Stores only.
pub fn leave() {
    ACTIVE.store(false, Ordering::SeqCst);
}

fn locked<R>(body: impl FnOnce() -> R) -> R {
    while LOCK.compare_exchange_weak(false, true, Ordering::Acquire, Ordering::Relaxed).is_err() {
        std::hint::spin_loop();
    }
    let result = body();
    LOCK.store(false, Ordering::Release);
    result
}

/// The class of a layout: its piece has `16 << class` bytes and is aligned to that.
fn class_of(layout: Layout) -> Option<usize> {
    let size = layout.size().max(layout.align()).max(1 << MIN_BITS).checked_next_power_of_two()?;
    let class = (size.trailing_zeros() - MIN_BITS) as usize;
    (class < CLASSES).then_some(class)
}

fn take(base: usize, class: usize) -> *mut u8 {
    let size = 1usize << (class as u32 + MIN_BITS);
    locked(|| {
        let first = FREE[class].load(Ordering::Relaxed);
        if first != 0 {
            // SAFETY: a free piece of the island holds the next one's address.
            FREE[class].store(unsafe { *(first as *const usize) }, Ordering::Relaxed);
            return first as *mut u8;
        }
        let start = (base + CUT.load(Ordering::Relaxed)).next_multiple_of(size.min(4096)) - base;
        if start + size > SIZE {
            return ptr::null_mut();
        }
        CUT.store(start + size, Ordering::Relaxed);
        (base + start) as *mut u8
    })
}

fn give_back(piece: *mut u8, class: usize) {
    locked(|| {
        // SAFETY: the piece is the island's, at least 16 bytes, and nobody uses it any more.
        unsafe { *piece.cast::<usize>() = FREE[class].load(Ordering::Relaxed) };
        FREE[class].store(piece as usize, Ordering::Relaxed);
    });
}

fn on_island(p: *mut u8) -> bool {
    let base = ISLAND.load(Ordering::Relaxed);
    base != 0 && (p as usize).wrapping_sub(base) < SIZE
}

// SAFETY: off the island it is the system's allocator; on it, pieces are disjoint, large enough and aligned to their
// size up to a page (larger alignments go to the system).
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if ACTIVE.load(Ordering::Relaxed)
            && layout.align() <= 4096
            && let Some(class) = class_of(layout)
        {
            let piece = take(ISLAND.load(Ordering::Relaxed), class);
            if !piece.is_null() {
                return piece;
            }
        }
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if !ACTIVE.load(Ordering::Relaxed) {
            // SAFETY: the caller's promise.
            return unsafe { System.alloc_zeroed(layout) };
        }
        // SAFETY: the caller's promise; the piece is at least as long as the layout.
        unsafe {
            let p = self.alloc(layout);
            if !p.is_null() {
                ptr::write_bytes(p, 0, layout.size());
            }
            p
        }
    }

    unsafe fn dealloc(&self, p: *mut u8, layout: Layout) {
        match (on_island(p), ACTIVE.load(Ordering::Relaxed)) {
            // SAFETY: the caller's promise; it came from the system, whose heap is whole.
            (false, false) => unsafe { System.dealloc(p, layout) },
            (true, true) => {
                if let Some(class) = class_of(layout) {
                    give_back(p, class);
                }
            }
            _ => {}
        }
    }

    unsafe fn realloc(&self, p: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        if !ACTIVE.load(Ordering::Relaxed) && !on_island(p) {
            // SAFETY: the caller's promise.
            return unsafe { System.realloc(p, layout, new_size) };
        }
        // SAFETY: the caller's promise: `new_size` is not 0 and fits; both stretches are valid and disjoint.
        unsafe {
            let fresh = self.alloc(Layout::from_size_align_unchecked(new_size, layout.align()));
            if !fresh.is_null() {
                ptr::copy_nonoverlapping(p, fresh, layout.size().min(new_size));
                self.dealloc(p, layout);
            }
            fresh
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Run `body` in a forked child, which has the island to itself.
    fn in_child(body: impl FnOnce()) {
        // SAFETY: libc repairs the heap in a child of fork; the child runs the body and nothing else.
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            // One that hangs is a failure as well.
            // SAFETY: this process has no use for the signal.
            unsafe { libc::alarm(600) };
            let ok = std::panic::catch_unwind(std::panic::AssertUnwindSafe(body)).is_ok();
            // SAFETY: ends the child at once.
            unsafe { libc::_exit(i32::from(!ok)) };
        }
        let mut status = 0;
        // SAFETY: waits for the child made above.
        unsafe { libc::waitpid(pid, &mut status, 0) };
        assert_eq!(status, 0, "the child's verdict");
    }

    #[test]
    fn pieces_are_apart_and_come_back() {
        in_child(|| {
            let before: Vec<u8> = vec![7; 5000];
            enter();
            let mut held: Vec<Vec<u8>> = Vec::new();
            for round in 0..2000usize {
                let len = round * 37 % 9000 + 1;
                let mut piece = vec![(round % 251) as u8; len];
                assert!(on_island(piece.as_mut_ptr()));
                held.push(piece);
                if round % 3 == 0 {
                    held.swap_remove(round / 2 % held.len());
                }
            }
            for v in &held {
                assert!(v.iter().all(|b| *b == v[0]), "two pieces overlap");
            }
            let cut = CUT.load(Ordering::Relaxed);
            for _ in 0..10_000 {
                std::hint::black_box(vec![1u8; 300_000]);
            }
            assert!(CUT.load(Ordering::Relaxed) <= cut + (1 << 20), "pieces are used again");
            let aligned = Layout::from_size_align(100, 64).unwrap();
            // SAFETY: a valid layout, given back as it was taken.
            unsafe {
                let p = std::alloc::alloc(aligned);
                assert_eq!(p as usize % 64, 0);
                std::alloc::dealloc(p, aligned);
            }
            drop(before);
            leave();
            assert!(!on_island(vec![0u8; 100].as_mut_ptr()));
            drop(held);
        });
    }
}

//! A global allocator that wipes what is freed.
//!
//! Keys live in secret pages, but a library that handles bytes on their way there, as TLS does, frees its buffers as
//! they are, and a vector that grows leaves its old bytes behind. With this allocator nothing that was freed can be
//! found again. It costs a write over every byte that is freed; the data path allocates nothing.

use std::alloc::{GlobalAlloc, Layout, System};

/// An allocator, the system's unless told otherwise, whose memory is zeroed before it goes back.
pub struct WipingAllocator<A = System>(A);

impl WipingAllocator {
    /// Wipes what the system's allocator gave.
    pub const fn new() -> Self {
        Self(System)
    }
}

impl Default for WipingAllocator {
    fn default() -> Self {
        Self::new()
    }
}

// SAFETY: every call goes to the allocator within, which keeps the contract; `realloc` is the trait's own, which
// allocates, copies and frees by the methods here, so that what a block outgrew is wiped as well.
unsafe impl<A: GlobalAlloc> GlobalAlloc for WipingAllocator<A> {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller keeps the contract, which is the same.
        unsafe { self.0.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as above.
        unsafe { self.0.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller gives a block of this layout that nobody uses any more.
        unsafe { std::ptr::write_bytes(block, 0, layout.size()) };
        // The address escapes, so that the write above cannot be dropped as dead.
        std::hint::black_box(block);
        // SAFETY: as above.
        unsafe { self.0.dealloc(block, layout) }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

    use super::*;

    /// Counts what comes back to it, and what comes back wiped.
    #[derive(Default)]
    struct Counting {
        freed: AtomicUsize,
        wiped: AtomicUsize,
    }

    // SAFETY: every call goes to `System`.
    unsafe impl GlobalAlloc for &Counting {
        unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
            // SAFETY: the caller keeps the contract, which is the same.
            unsafe { System.alloc(layout) }
        }

        unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
            // SAFETY: the block is the caller's until it is freed below, and every byte of it was written.
            let wiped =
                unsafe { std::slice::from_raw_parts(block, layout.size()) }.iter().all(|&byte| byte == 0);
            self.freed.fetch_add(1, Relaxed);
            self.wiped.fetch_add(usize::from(wiped), Relaxed);
            // SAFETY: the caller keeps the contract, which is the same.
            unsafe { System.dealloc(block, layout) }
        }
    }

    #[test]
    fn blocks_that_are_freed_or_outgrown_are_wiped() {
        let counting = Counting::default();
        let allocator = WipingAllocator(&counting);
        let layout = |size| Layout::from_size_align(size, 64).unwrap();
        // SAFETY: each block is used within its size, and freed once, with the layout that it has then.
        unsafe {
            let small = allocator.alloc(layout(100));
            small.write_bytes(0xa5, 100);
            let large = allocator.realloc(small, layout(100), 9000);
            assert!(std::slice::from_raw_parts(large, 100).iter().all(|&byte| byte == 0xa5));
            large.write_bytes(0x5a, 9000);
            let shrunk = allocator.realloc(large, layout(9000), 50);
            allocator.dealloc(shrunk, layout(50));
        }
        assert_eq!((counting.freed.into_inner(), counting.wiped.into_inner()), (3, 3));
    }
}

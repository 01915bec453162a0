//! Uploads in memory: a stack of images. R. K. Treiber, "Systems Programming: Coping with Parallelism", 1986; without its
//! trouble, because whoever takes takes all.
//!
//! Invariants:
//! - The head is in the wiped page: a forked child's stack is empty, whatever its parent was just doing to it.
//! - An image belongs to the stack from the compare-exchange that made it the head, and to whoever swapped the head out.
//! - A push that a fork (in a signal handler) tore may leave an image of blank memory on the child's stack: it ends the walk,
//!   and [`MediaWords::push`]'s caller finds that its generation has changed, and pushes anew.

use super::image::Image;
use std::sync::atomic::{AtomicU64, Ordering};

crate::blank_struct! {
    /// A process's uploads; in the wiped page.
    pub struct MediaWords {
        head: AtomicU64,
        /// Bytes that wait in memory.
        pub bytes: AtomicU64,
        /// Uploads that were given to this process's memory.
        pub pushed: AtomicU64,
        /// Those of them that are done with.
        pub done: AtomicU64,
        /// Counts uploads written to the spool's directory.
        pub written: AtomicU64,
    }
}

impl MediaWords {
    /// A generation begins.
    pub fn reset(&self) {
        for word in [&self.head, &self.bytes, &self.pushed, &self.done, &self.written] {
            word.store(0, Ordering::Relaxed);
        }
    }

    /// Take `len` bytes of the room. `false`: there is not so much left.
    pub fn reserve(&self, len: u64, room: u64) -> bool {
        let before = self.bytes.fetch_add(len, Ordering::AcqRel);
        let fits = before.saturating_add(len) <= room;
        if !fits {
            self.release(len);
        }
        fits
    }

    /// Give them back.
    pub fn release(&self, len: u64) {
        self.bytes.fetch_sub(len, Ordering::AcqRel);
    }

    /// Add a sealed image.
    pub fn push(&self, image: Image) {
        let address = image.into_address();
        let mut head = self.head.load(Ordering::Acquire);
        loop {
            {
                // SAFETY: just given away by `into_address`, and nobody else has it yet; given away again below.
                let image = unsafe { Image::from_address(address) };
                image.next().store(head, Ordering::Relaxed);
                image.into_address();
            }
            match self.head.compare_exchange_weak(head, address as u64, Ordering::SeqCst, Ordering::Acquire) {
                Ok(_) => break,
                Err(now) => head = now,
            }
        }
        self.pushed.fetch_add(1, Ordering::SeqCst);
    }

    /// Whether something came that the consumer, who knows of so many files, has not seen.
    pub fn waits(&self, written: u64) -> bool {
        self.has_any() || self.written.load(Ordering::SeqCst) != written
    }

    /// Uploads in memory that are not done with.
    pub fn pending(&self) -> u64 {
        let done = self.done.load(Ordering::SeqCst);
        self.pushed.load(Ordering::SeqCst).saturating_sub(done)
    }

    /// Whether something was pushed and not taken.
    pub fn has_any(&self) -> bool {
        self.head.load(Ordering::SeqCst) != 0
    }

    /// Take all, the oldest first.
    pub fn take_all(&self) -> Vec<Image> {
        let mut images = Vec::new();
        let mut address = self.head.swap(0, Ordering::SeqCst);
        while address != 0 {
            // SAFETY: only `push` stores addresses, and the swap made us the owner of the whole chain.
            let image = unsafe { Image::from_address(address as usize) };
            if !image.is_whole() {
                // A parent's, blank here: its length is not known, so it is left where it is.
                image.into_address();
                break;
            }
            address = image.next().load(Ordering::Relaxed);
            images.push(image);
        }
        images.reverse();
        images
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::platform::page::WipedPage;
    use std::collections::HashSet;

    fn words() -> WipedPage<MediaWords, AtomicU64> {
        WipedPage::new(1, true).unwrap()
    }

    fn image(n: usize) -> Image {
        let mut image = Image::new(n).unwrap();
        image.data_mut().fill(n as u8);
        image.seal(n.to_string().as_bytes(), n as u64);
        image
    }

    #[test]
    fn all_come_out_once_and_in_order() {
        let page = words();
        let words = page.head();
        assert!(words.take_all().is_empty() && !words.has_any());
        (1..=100).for_each(|n| words.push(image(n)));
        assert!(words.has_any());
        let times: Vec<u64> = words.take_all().iter().map(Image::time_ns).collect();
        assert_eq!(times, (1..=100).collect::<Vec<u64>>());
        assert!(!words.has_any());
    }

    #[test]
    fn many_push_and_one_takes() {
        const EACH: usize = 300;
        let page = words();
        let words = page.head();
        let mut seen = HashSet::new();
        std::thread::scope(|s| {
            for t in 0..4 {
                s.spawn(move || (0..EACH).for_each(|n| words.push(image(1 + t * EACH + n))));
            }
            while seen.len() < 4 * EACH {
                for image in words.take_all() {
                    assert!(image.data().iter().all(|b| *b == image.time_ns() as u8));
                    assert!(seen.insert(image.time_ns()), "twice");
                }
            }
        });
    }

    #[test]
    fn the_room_is_kept() {
        let page = words();
        let words = page.head();
        assert!(words.reserve(60, 100) && !words.reserve(41, 100) && words.reserve(40, 100));
        words.release(60);
        assert!(words.reserve(60, 100));
        assert_eq!(words.bytes.load(Ordering::Relaxed), 100);
    }
}

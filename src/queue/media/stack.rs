//! Uploads in memory: a stack of images. R. K. Treiber, "Systems Programming: Coping with Parallelism", 1986; without its
//! trouble, because whoever takes takes all.
//!
//! Invariants:
//! - The head is in the wiped page: a forked child's stack is empty, whatever its parent was just doing to it.
//! - An image belongs to the stack from the compare-exchange that made it the head, and to whoever swapped the head out.
//! - Whoever changes a word here holds signals back ([`thread::unsignalled`](crate::platform::thread::unsignalled)) and has
//!   seen that the generation still is his own: so no fork tears a change, and a child never ends one of its parent's.
//! - What is counted as given is counted before it can be found, what is done with after: who waits until as much is done
//!   with as was given when he came waits for all of that. (They are delivered in their order.)

use super::image::Image;
use std::sync::atomic::{AtomicU64, Ordering};

crate::blank_struct! {
    /// A process's uploads; in the wiped page.
    pub struct MediaWords {
        head: AtomicU64,
        /// Bytes of memory that waiting uploads take, and those that are on their way to the disk.
        pub bytes: AtomicU64,
        /// Uploads that were given to this process's memory.
        pushed: AtomicU64,
        /// Those of them that are done with.
        done: AtomicU64,
        /// Uploads that this process wrote into the spool's directory.
        written: AtomicU64,
        /// Those of them that are known to be gone from there.
        gone: AtomicU64,
    }
}

/// How much was given at some time.
#[derive(Debug, Clone, Copy)]
pub struct Goal {
    pushed: u64,
    written: u64,
}

impl MediaWords {
    /// A generation begins.
    pub fn reset(&self) {
        for word in [&self.head, &self.bytes, &self.pushed, &self.done, &self.written, &self.gone] {
            word.store(0, Ordering::Relaxed);
        }
    }

    // ---- whoever gives ----

    /// Take `len` bytes of the room. `false`: there is not so much left. One alone always fits.
    pub fn reserve(&self, len: u64, room: u64) -> bool {
        let fits = |before: u64| Some(before.saturating_add(len)).filter(|now| before == 0 || *now <= room);
        self.bytes.fetch_update(Ordering::AcqRel, Ordering::Acquire, fits).is_ok()
    }

    /// Give them back.
    pub fn release(&self, len: u64) {
        self.bytes.fetch_sub(len, Ordering::AcqRel);
    }

    /// Add a sealed image.
    pub fn push(&self, image: Image) {
        self.pushed.fetch_add(1, Ordering::SeqCst);
        let mut head = self.head.load(Ordering::Acquire);
        loop {
            image.next().store(head, Ordering::Relaxed);
            let here = image.address();
            match self.head.compare_exchange_weak(head, here, Ordering::SeqCst, Ordering::Acquire) {
                Ok(_) => break,
                Err(now) => head = now,
            }
        }
        // From the exchange on it is the stack's.
        image.give_away();
    }

    /// One has its name in the spool's directory.
    pub fn wrote(&self) {
        self.written.fetch_add(1, Ordering::SeqCst);
    }

    // ---- whoever waits ----

    /// All that was given until now.
    pub fn goal(&self) -> Goal {
        Goal { pushed: self.pushed.load(Ordering::SeqCst), written: self.written.load(Ordering::SeqCst) }
    }

    /// Whether that is done with.
    pub fn is_reached(&self, goal: Goal) -> bool {
        self.done.load(Ordering::SeqCst) >= goal.pushed && self.gone.load(Ordering::SeqCst) >= goal.written
    }

    /// Uploads in memory that are not done with.
    pub fn in_memory(&self) -> u64 {
        let done = self.done.load(Ordering::SeqCst);
        self.pushed.load(Ordering::SeqCst).saturating_sub(done)
    }

    /// Uploads of this process that may lie in the spool's directory still.
    pub fn in_files(&self) -> u64 {
        let gone = self.gone.load(Ordering::SeqCst);
        self.written.load(Ordering::SeqCst).saturating_sub(gone)
    }

    // ---- the consumer ----

    /// Whether something came that the consumer, who knows of so many files, has not seen.
    pub fn waits(&self, written: u64) -> bool {
        self.has_any() || self.written() != written
    }

    /// Whether something was pushed and not taken.
    pub fn has_any(&self) -> bool {
        self.head.load(Ordering::SeqCst) != 0
    }

    /// Uploads that this process wrote into the spool's directory.
    pub fn written(&self) -> u64 {
        self.written.load(Ordering::SeqCst)
    }

    /// One from memory is done with, whose room was so much.
    pub fn finish(&self, len: u64) {
        self.release(len);
        self.done.fetch_add(1, Ordering::SeqCst);
    }

    /// One from the directory is gone.
    pub fn file_is_gone(&self) {
        self.gone.fetch_add(1, Ordering::SeqCst);
    }

    /// When so many were written, `there` were found in the directory after.
    pub fn files_are_there(&self, written: u64, there: u64) {
        self.gone.store(written.saturating_sub(there), Ordering::SeqCst);
    }

    /// Take all, the oldest first.
    pub fn take_all(&self) -> Vec<Image> {
        let mut images = Vec::new();
        let mut address = self.head.swap(0, Ordering::SeqCst);
        while address != 0 {
            // SAFETY: only `push` stores addresses, of images that it gives away, and the swap made us the owner of the
            // whole chain.
            let image = unsafe { Image::from_address(address as usize) };
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
        let mut image = Image::new(n, true).unwrap();
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
        words.release(100);
        assert!(words.reserve(101, 100) && !words.reserve(1, 100), "one alone fits");
    }

    #[test]
    fn a_goal_is_what_was_given_before_it() {
        let page = words();
        let words = page.head();
        assert!(words.is_reached(words.goal()));
        words.push(image(1));
        words.wrote();
        let goal = words.goal();
        words.push(image(2));
        words.wrote();
        words.files_are_there(2, 2);
        assert_eq!((words.in_memory(), words.in_files(), words.is_reached(goal)), (2, 2, false));
        words.reserve(8192, 8192);
        words.finish(4096);
        assert!(!words.is_reached(goal), "the file is there");
        words.file_is_gone();
        assert!(words.is_reached(goal) && !words.is_reached(words.goal()));
        assert_eq!((words.in_memory(), words.in_files()), (1, 1));
        // One that was named and is not counted yet.
        words.files_are_there(2, 3);
        assert_eq!(words.in_files(), 2);
        drop(words.take_all());
    }
}

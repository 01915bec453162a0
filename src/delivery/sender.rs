//! The consumer's loops: the sender's thread, and a caller that delivers by itself.
//!
//! Invariants:
//! - Both hold the consumer word while they use the engine, and give it back before they end.
//! - The sender's last act on shared memory is [`Words::resign`]; its kernel id stays in `tid` until the
//!   kernel has forgotten the thread, so that whoever frees the memory can wait for that.

use super::engine::{Desk, Engine, Next};
use super::words::{WISH_END, WISH_STOP, Words};
use crate::platform::{futex, thread};
use crate::queue::record::Position;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// How long a sender waits for its predecessor to leave the kernel, and for a caller to hand over.
const HANDOVER: Duration = Duration::from_secs(1);

/// How old the figures that others see may become while it works without a rest.
const PUBLISHED: Duration = Duration::from_millis(200);

/// Why the sender ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Nothing to do, or a fork wished it.
    Rest,
    /// The client is shut.
    Stop,
}

/// Step in: note who we are once the last sender is gone.
pub fn step_in(words: &Words) {
    let last = words.tid.load(Ordering::SeqCst);
    thread::wait_gone(last, Instant::now() + HANDOVER);
    words.tid.store(thread::tid(), Ordering::SeqCst);
    words.begin();
}

/// Become the consumer, by `deadline` at the latest. A holder that no longer exists is replaced.
pub fn become_consumer(words: &Words, deadline: Instant) -> bool {
    let me = thread::tid();
    loop {
        if words.claim_consumer(me) {
            return true;
        }
        let holder = words.consumer.load(Ordering::Acquire);
        let dead = holder != 0 && !thread::alive(holder);
        if dead && words.consumer.compare_exchange(holder, me, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
            return true;
        }
        let now = Instant::now();
        if now >= deadline {
            return false;
        }
        let free = || words.consumer.load(Ordering::SeqCst) == 0;
        words.wait((deadline - now).min(Duration::from_millis(10)), free);
    }
}

/// The sender's thread, as the consumer, until it should end. On return it has *not* resigned.
fn work(
    engine: &mut Engine,
    desk: &Desk<'_>,
    (idle, tick): (Duration, Duration),
    publish: &dyn Fn(bool),
) -> End {
    let words = desk.words;
    let mut last_work = Instant::now();
    let mut published = last_work;
    let mut faulted = None;
    loop {
        desk.backing.prepare(&desk.log, &mut faulted);
        let wish = words.wish.load(Ordering::SeqCst);
        if wish & WISH_STOP != 0 {
            return End::Stop;
        }
        let flushes = flush_words(words);
        let next = engine.poll(desk, wish & WISH_END != 0, None);
        let now = Instant::now();
        let bound = match next {
            Next::Again => {
                last_work = now;
                if now.duration_since(published) >= PUBLISHED {
                    published = now;
                    publish(wish & WISH_END == 0);
                }
                continue;
            }
            Next::Idle if wish & WISH_END != 0 || now.duration_since(last_work) >= idle => return End::Rest,
            Next::Idle => tick.min(idle.saturating_sub(now.duration_since(last_work))),
            Next::At(at) => {
                last_work = now;
                if wish & WISH_END != 0 {
                    // It cannot be done quickly: stay, and tell the fork not to wait.
                    words.wish.fetch_and(!WISH_END, Ordering::SeqCst);
                    words.tell();
                }
                at.saturating_duration_since(now)
            }
        };
        published = now;
        publish(wish & WISH_END == 0);
        let bound = engine.next_chore().map_or(bound, |at| bound.min(at.saturating_duration_since(now)));
        let (count, at) = engine.attention(&desk.log);
        let (read, held, written) = (engine.read(), engine.has_hole(), engine.written_seen());
        words.sleep(&desk.log, (count, at), bound.max(Duration::from_micros(100)), || {
            // Between the look at the log and the sleep: a wish, a flush, a full batch, or (when idle) an event.
            words.wish.load(Ordering::SeqCst) != 0
                || flush_words(words) != flushes
                || desk.media.waits(written)
                || (!held && (desk.log.accepted() >= count || desk.log.tail() > at))
                || (next == Next::Idle && desk.log.tail() != read)
        });
    }
}

fn flush_words(words: &Words) -> (u64, u32, u32) {
    let wishes = words.rescue_asked.load(Ordering::SeqCst);
    (words.flush_to.load(Ordering::SeqCst), words.flushes.load(Ordering::SeqCst), wishes)
}

/// The sender's life: step in, work, rest, resign; go on if something came meanwhile. `borrow` takes the
/// engine of this process out of its place (or makes one), `give_back` returns it; both only while this
/// thread is the consumer. `publish` shows what was counted to others, and may take its time if it is told true.
pub fn live(
    desk: &Desk<'_>,
    times: (Duration, Duration),
    mut borrow: impl FnMut() -> Option<Box<Engine>>,
    mut give_back: impl FnMut(Box<Engine>),
    publish: impl Fn(bool),
) {
    let words = desk.words;
    step_in(words);
    loop {
        // Who cannot get in leaves it to whoever delivers on his own thread.
        let engine = if become_consumer(words, Instant::now() + HANDOVER) { borrow() } else { None };
        let Some(mut engine) = engine else { break };
        desk.log.set_attention(u64::MAX, Position::MAX);
        let end = work(&mut engine, desk, times, &publish);
        publish(false);
        let (read, written) = (engine.read(), engine.written_seen());
        if end == End::Stop {
            engine.close(desk);
            break;
        }
        if words.wish.load(Ordering::SeqCst) & WISH_END == 0 {
            engine.rest();
        }
        give_back(engine);
        words.leave_consumer();
        if words.resign(&desk.log, read) {
            // The same as with the log: an upload that found a sender there is not left behind.
            if desk.media.waits(written) && words.claim_start() {
                words.begin();
                desk.log.set_attention(u64::MAX, Position::MAX);
                continue;
            }
            words.tell();
            return;
        }
    }
    if words.consumer.load(Ordering::SeqCst) == thread::tid() {
        words.leave_consumer();
    }
    words.step_down(&desk.log);
}

/// Deliver on the caller's thread, as the consumer, until it is `done` or the deadline has come.
pub fn deliver_here(engine: &mut Engine, desk: &Desk<'_>, done: impl Fn() -> bool, deadline: Instant) {
    while !done() {
        let now = Instant::now();
        if now >= deadline {
            return;
        }
        match engine.poll(desk, true, Some(deadline)) {
            Next::Again => {}
            Next::Idle => return,
            Next::At(at) => {
                let bound = at.saturating_duration_since(now).min(deadline - now);
                futex::wait(&desk.words.progress, desk.words.progress.load(Ordering::SeqCst), bound);
            }
        }
    }
}

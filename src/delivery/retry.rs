//! When to try again.
//!
//! Invariants: a delay is never longer than `max` (Retry-After included), and never shorter than what the
//! collector asked for, up to that clamp. Full jitter: "Exponential Backoff And Jitter", AWS Architecture
//! Blog, 2015.

use crate::platform::entropy::mix;
use std::time::{Duration, Instant, SystemTime};

/// Limits of the delays.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bound of the first delay.
    pub initial: Duration,
    /// Bound of any.
    pub max: Duration,
}

/// The state between attempts.
#[derive(Debug)]
pub struct Backoff {
    limits: Limits,
    failures: u32,
    seed: u64,
    not_before: Option<Instant>,
    /// Not even in a hurry.
    never_before: Option<Instant>,
}

impl Backoff {
    /// Nothing has failed yet. The seed must differ between processes.
    pub fn new(limits: Limits, seed: u64) -> Backoff {
        Backoff { limits, failures: 0, seed, not_before: None, never_before: None }
    }

    /// It worked.
    pub fn reset(&mut self) {
        self.failures = 0;
        self.not_before = None;
        self.never_before = None;
    }

    /// It failed; `asked` is the collector's Retry-After.
    pub fn failed(&mut self, now: Instant, asked: Option<Duration>) {
        let bound = self.limits.initial.saturating_mul(1 << self.failures.min(20)).min(self.limits.max);
        self.failures += 1;
        self.seed = mix(self.seed.wrapping_add(0x9e37_79b9_7f4a_7c15));
        let jittered = bound.mul_f64((self.seed >> 11) as f64 / (1u64 << 53) as f64);
        let asked = asked.map(|a| a.min(self.limits.max));
        self.never_before = asked.map(|a| now + a);
        self.not_before = Some(now + asked.map_or(jittered, |a| a.max(jittered)));
    }

    /// Credentials or address were refused: a slow probe.
    pub fn denied(&mut self, now: Instant) {
        self.failures += 1;
        self.not_before = Some(now + self.limits.max);
        self.never_before = self.not_before;
    }

    /// How long to wait yet. What goes beyond that which the collector asked for may be cut short (`hurry`).
    pub fn wait(&self, now: Instant, hurry: bool) -> Option<Instant> {
        let until = if hurry { self.never_before } else { self.not_before };
        until.filter(|&at| at > now)
    }
}

/// `Retry-After`: seconds or an HTTP date (RFC 9110, 10.2.3), and what servers send that take neither to the letter.
/// Nonsense and the past mean no request.
pub fn retry_after(value: &str, now: SystemTime) -> Option<Duration> {
    let value = value.trim();
    if !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit()) {
        // A number too large to be one is a long time.
        let seconds = value.parse().unwrap_or(u64::MAX);
        return Some(Duration::from_secs(seconds.min(u64::from(u32::MAX))));
    }
    if let Some(seconds) = decimal(value) {
        return Some(Duration::from_secs(seconds));
    }
    let date = httpdate::parse_http_date(value).ok().or_else(|| loose_date(value))?;
    date.duration_since(now).ok()
}

/// `1.5`, rounded up.
fn decimal(value: &str) -> Option<u64> {
    let (whole, part) = value.split_once('.')?;
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let seconds: u64 = Some(whole).filter(|_| digits(whole) && digits(part))?.parse().ok()?;
    Some(seconds.min(u64::from(u32::MAX)) + u64::from(part.bytes().any(|b| b != b'0')))
}

/// A date as in mail (RFC 5322, 3.3): no weekday, or another day's; a day of one digit; `UTC` or a numeric zone.
fn loose_date(value: &str) -> Option<SystemTime> {
    let date = value.split_once(',').map_or(value, |(_, date)| date);
    let mut words = date.split_ascii_whitespace();
    let (day, month, year) = (words.next()?, words.next()?, words.next()?);
    let (time, zone) = (words.next()?, words.next().unwrap_or("GMT"));
    let east = match zone.to_ascii_uppercase().as_str() {
        "GMT" | "UTC" | "UT" | "Z" => 0,
        zone => {
            let (sign, digits) = (zone.get(..1)?, zone.get(1..)?);
            let number: i64 = digits.parse().ok().filter(|_| digits.len() == 4)?;
            let minutes = number / 100 * 60 + number % 100;
            match sign {
                "+" => minutes,
                "-" => -minutes,
                _ => return None,
            }
        }
    };
    if words.next().is_some() {
        return None;
    }
    // The weekday is not looked at, but there has to be the right one.
    let strict = |weekday: &str| {
        httpdate::parse_http_date(&format!("{weekday}, {day:0>2} {month} {year} {time} GMT")).ok()
    };
    let as_gmt = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"].into_iter().find_map(strict)?;
    let shift = Duration::from_secs(60 * east.unsigned_abs());
    if east >= 0 { as_gmt.checked_sub(shift) } else { as_gmt.checked_add(shift) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { initial: Duration::from_millis(250), max: Duration::from_secs(30) };

    #[test]
    fn delays_grow_vary_and_stay_bounded() {
        let now = Instant::now();
        let mut b = Backoff::new(LIMITS, 7);
        let mut seen = std::collections::HashSet::new();
        for i in 0..40 {
            b.failed(now, None);
            let wait = b.wait(now, false).map_or(Duration::ZERO, |t| t - now);
            assert!(wait <= LIMITS.max && wait <= LIMITS.initial * (1 << i.min(20)), "{i}: {wait:?}");
            assert!(b.wait(now, true).is_none(), "a flush may hurry");
            seen.insert(wait);
        }
        assert!(seen.len() > 30, "jitter");
        b.reset();
        assert!(b.wait(now, false).is_none());
    }

    #[test]
    fn retry_after_is_a_minimum_and_clamped() {
        let now = Instant::now();
        let mut b = Backoff::new(LIMITS, 7);
        b.failed(now, Some(Duration::from_secs(5)));
        assert!(b.wait(now, true).unwrap() >= now + Duration::from_secs(5), "not even a flush may hurry");
        b.failed(now, Some(Duration::from_secs(3600)));
        assert_eq!(b.wait(now, false).unwrap(), now + LIMITS.max);
        // Less than our own delay: a hurry may cut that, down to what was asked for.
        for asked in [Duration::ZERO, Duration::from_millis(1)] {
            (0..20).for_each(|_| b.failed(now, Some(asked)));
            assert!(b.wait(now, false).unwrap() > now + asked);
            assert_eq!(b.wait(now, true), Some(now + asked).filter(|at| *at > now));
        }
        b.denied(now);
        assert_eq!(b.wait(now, true).unwrap(), now + LIMITS.max);
    }

    #[test]
    fn retry_after_forms() {
        let now = httpdate::parse_http_date("Sat, 21 Nov 2026 02:30:00 GMT").unwrap();
        assert_eq!(retry_after("7", now), Some(Duration::from_secs(7)));
        assert_eq!(retry_after(" Sat, 21 Nov 2026 02:30:09 GMT ", now), Some(Duration::from_secs(9)));
        let long = Some(Duration::from_secs(u64::from(u32::MAX)));
        assert_eq!(retry_after("18446744073709551615", now), long);
        assert_eq!(retry_after("99999999999999999999999999", now), long);
        for (loose, seconds) in [
            ("1.5", 2),
            ("3600.0", 3600),
            ("Fri, 21 Nov 2026 02:30:09 GMT", 9),
            ("Sat, 21 Nov 2026 02:30:09 +0000", 9),
            ("Sat, 21 Nov 2026 04:00:09 +0130", 9),
            ("Fri, 20 Nov 2026 21:30:09 -0500", 9),
            ("Sat, 21 Nov 2026 02:30:09 UTC", 9),
            ("Sat, 21 Nov 2026 02:30:09 gmt", 9),
            ("21 Nov 2026 02:30:09 GMT", 9),
            ("21 Nov 2026 02:30:09", 9),
            ("Tue, 1 Dec 2026 02:30:00 GMT", 10 * 86_400),
        ] {
            assert_eq!(retry_after(loose, now), Some(Duration::from_secs(seconds)), "{loose}");
        }
        let nonsense =
            ["", "-3", "+3", "soon", ".5", "1.", "1.5.2", "1e3", "21 Nov 2026", "32 Nov 2026 02:30:09 GMT"];
        let odd =
            ["Sat, 21 Nov 2026 02:30:09 CET", "Sat, 21 Nov 2026 02:30:09 GMT now", "21 Nov 2026 02:30:09 +1"];
        for nothing in nonsense.into_iter().chain(odd).chain(["Sat, 21 Nov 2020 02:30:00 GMT"]) {
            assert_eq!(retry_after(nothing, now), None, "{nothing}");
        }
    }
}

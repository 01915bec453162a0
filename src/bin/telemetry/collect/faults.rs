//! The faults a collector was told to inject, and which of them hits the next request.
//!
//! Invariants:
//! - Only POSTs of events and the steps of an upload are hit; pages, counters and the fault control itself
//!   always work.
//! - The list is walked in order and the first fault in force decides, so `429@3,500@2` is three 429
//!   and then two 500. `slow` only adds its delay and lets the walk go on, and so do `partial`, `again`
//!   and `quota`, which change what a normal answer says of the events.
//! - A request uses up one of `@N` only if the fault really hit it.
//! - `%P` is pseudo-random from a fixed seed: the same list hits the same requests in each run.
//!
//! Grammar, blanks around items allowed:
//! ```text
//! LIST   = "" | ITEM ("," ITEM)*
//! ITEM   = KIND [ "=" VALUE ] ( "@" N | "%" P | "/" S )*      each suffix at most once
//! KIND   = pass | refuse | stall | cut | lost | slow | partial | again | quota | 300..599
//! VALUE  = text without , @ % / " or anything between double quotes
//! ```
//! `VALUE` is seconds for `stall` (none: for ever), milliseconds for `slow` (required), `Location` for a
//! 3xx, `Retry-After` for other statuses (429 without one says 1); sent as it is. For `partial` and `again`
//! it is the per cent of the events (required), for `quota` the seconds it lasts as far as the service
//! tells them (none: 60).

use std::time::{Duration, Instant};

/// What may be written in a spec, for error texts and `--help`.
pub const ALLOWED: &str = "pass, refuse, stall[=SECONDS], cut, lost, slow=MS, partial=PERCENT, again=PERCENT, \
quota[=SECONDS], 429[=RETRY_AFTER] or any other status from 300 to 599; each may end in @N (the next N requests), %P (P per cent of them), /S (the first S seconds); \
separated by commas; a value with , @ % or / in it goes between double quotes";

/// What the less obvious of them do.
pub const MEANING: &str = "partial refuses a share of the events for good and again asks for a share of them again, \
where the format has words for it: posthog-v1 drop and retry, langfuse 400 and 429 entries, langfuse-scores \
counts, otlp partialSuccess, sentry a rate limit, ndjson and json rejected lines. quota: posthog answers 200 \
with quota_limited, posthog-v1 drops, langfuse 403, sentry 429 with a rate limit, others 429. pass lets requests \
through, so that pass@1,500@1 hits the second one only.";

/// What happens to one request instead of the normal course.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// The normal course; only keeps what follows in the list from hitting this request.
    Pass,
    /// The connection is closed once the request's head is read: no body read, no answer.
    Refuse,
    /// The request is read and held; when the time is over it is taken and answered as usual.
    Stall(Option<Duration>),
    /// This status is answered and nothing is stored.
    Status(u16, Option<String>),
    /// Half of an answer's head is sent and the connection closed; nothing is stored.
    Cut,
    /// The events are stored and the connection is closed without an answer.
    Lost,
}

/// What a normal answer says of the events.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Shaping {
    /// Per cent of them that are refused for good.
    pub refuse: f64,
    /// Per cent of the others that are asked for again.
    pub again: f64,
    /// Over the quota, for so many seconds.
    pub quota: Option<u64>,
    /// What decides which ones.
    pub seed: u64,
}

/// What the faults say about one request.
#[derive(Debug, Default, PartialEq)]
pub struct Decision {
    /// To wait before answering.
    pub delay: Duration,
    /// What is said of the events.
    pub shaping: Shaping,
    /// `None`: the normal course.
    pub action: Option<Action>,
}

#[derive(Debug)]
enum Kind {
    Slow(Duration),
    Partial(f64),
    Again(f64),
    Quota(u64),
    Act(Action),
}

#[derive(Debug)]
struct Fault {
    kind: Kind,
    /// The item without its suffixes, as it was written.
    name: String,
    left: Option<u64>,
    percent: Option<f64>,
    until: Option<Duration>,
    random: u64,
}

/// The list in force.
#[derive(Debug)]
pub struct Faults {
    list: Vec<Fault>,
    since: Instant,
}

impl Default for Faults {
    fn default() -> Self {
        Faults { list: Vec::new(), since: Instant::now() }
    }
}

impl Faults {
    /// Reads a list; the error names the item and what is allowed.
    pub fn parse(spec: &str) -> Result<Self, String> {
        let mut list = Vec::new();
        for item in split(spec)? {
            let seed = 0x7465_6c65_6d65_7472 ^ list.len() as u64;
            list.push(parse_item(item.trim(), seed).map_err(|why| format!("'{}': {why}", item.trim()))?);
        }
        Ok(Faults { list, since: Instant::now() })
    }

    /// Decides the next request. `now` is a parameter so that `/S` can be tested without waiting.
    pub fn decide(&mut self, now: Instant) -> Decision {
        let age = now.saturating_duration_since(self.since);
        let mut out = Decision::default();
        for f in &mut self.list {
            if !f.in_force(age) {
                continue;
            }
            if let Some(p) = f.percent {
                let draw = (splitmix(&mut f.random) >> 11) as f64 / (1u64 << 53) as f64;
                if draw * 100.0 >= p {
                    continue;
                }
            }
            if let Some(n) = &mut f.left {
                *n -= 1;
            }
            match &f.kind {
                Kind::Slow(d) => out.delay += *d,
                Kind::Partial(p) => {
                    out.shaping.refuse = *p;
                    out.shaping.seed ^= splitmix(&mut f.random);
                }
                Kind::Again(p) => {
                    out.shaping.again = *p;
                    out.shaping.seed ^= splitmix(&mut f.random);
                }
                Kind::Quota(s) => out.shaping.quota = Some(*s),
                Kind::Act(Action::Pass) => break,
                Kind::Act(a) => {
                    out.action = Some(a.clone());
                    break;
                }
            }
        }
        out
    }

    /// The items still in force, with what is left of `@N` and `/S`; joined by commas they are a spec again.
    pub fn in_force(&self, now: Instant) -> Vec<String> {
        let age = now.saturating_duration_since(self.since);
        self.list.iter().filter(|f| f.in_force(age)).map(|f| f.show(age)).collect()
    }
}

impl Fault {
    fn in_force(&self, age: Duration) -> bool {
        self.left != Some(0) && self.until.is_none_or(|u| age < u)
    }

    fn show(&self, age: Duration) -> String {
        let mut s = self.name.clone();
        if let Some(n) = self.left {
            s += &format!("@{n}");
        }
        if let Some(p) = self.percent {
            s += &format!("%{p}");
        }
        if let Some(u) = self.until {
            s += &format!("/{}", ((u.saturating_sub(age)).as_secs_f64() * 10.0).ceil() / 10.0);
        }
        s
    }
}

/// SplitMix64: one step of a generator that needs nothing but its counter.
pub fn splitmix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Splits at commas outside of quotes. An empty text has no items, an empty item is kept to be refused.
fn split(spec: &str) -> Result<Vec<&str>, String> {
    if spec.trim().is_empty() {
        return Ok(Vec::new());
    }
    let (mut items, mut start, mut quoted) = (Vec::new(), 0, false);
    for (i, c) in spec.char_indices() {
        match c {
            '"' => quoted = !quoted,
            ',' if !quoted => {
                items.push(&spec[start..i]);
                start = i + 1;
            }
            _ => {}
        }
    }
    if quoted {
        return Err(format!("'{spec}': a double quote is not closed; allowed: {ALLOWED}"));
    }
    items.push(&spec[start..]);
    Ok(items)
}

fn parse_item(item: &str, random: u64) -> Result<Fault, String> {
    let unknown = || format!("unknown fault; allowed: {ALLOWED}");
    let mut quoted = false;
    let end = item
        .find(|c| {
            quoted ^= c == '"';
            !quoted && matches!(c, '@' | '%' | '/')
        })
        .unwrap_or(item.len());
    let (name, mut rest) = item.split_at(end);
    let (word, value) = match name.split_once('=') {
        Some((w, v)) => (w, Some(v)),
        None => (name, None),
    };
    let value = match value {
        Some(v) if v.starts_with('"') => {
            Some(v.strip_prefix('"').and_then(|v| v.strip_suffix('"')).ok_or_else(unknown)?)
        }
        other => other,
    };
    // It becomes a header line.
    if value.is_some_and(|v| v.is_empty() || v.contains('"') || v.chars().any(|c| c.is_control())) {
        return Err(format!("the value after = is not usable; allowed: {ALLOWED}"));
    }
    let number = |what: &str, v: &str| match v.parse::<f64>() {
        Ok(n) if n.is_finite() && (0.0..=1e9).contains(&n) => Ok(n),
        _ => Err(format!("{what} must be a number from 0 to 1000000000, not '{v}'")),
    };
    let share = || {
        let v = value.ok_or_else(|| format!("needs per cent, as in {word}=20; allowed: {ALLOWED}"))?;
        number("the per cent after =", v).and_then(|p| {
            if p > 100.0 { Err(format!("= needs a number from 0 to 100, not '{v}'")) } else { Ok(p) }
        })
    };
    let plain = |a: Action| match value {
        None => Ok(Kind::Act(a)),
        Some(_) => Err(format!("takes no value; allowed: {ALLOWED}")),
    };
    let kind = match word {
        "pass" => plain(Action::Pass)?,
        "refuse" => plain(Action::Refuse)?,
        "cut" => plain(Action::Cut)?,
        "lost" => plain(Action::Lost)?,
        "stall" => {
            let t = value.map(|v| number("the seconds of stall", v)).transpose()?;
            Kind::Act(Action::Stall(t.map(Duration::from_secs_f64)))
        }
        "partial" => Kind::Partial(share()?),
        "again" => Kind::Again(share()?),
        "quota" => {
            let whole = |v: &str| v.parse().map_err(|_| format!("quota needs whole seconds, not '{v}'"));
            Kind::Quota(value.map_or(Ok(60), whole)?)
        }
        "slow" => {
            let v = value.ok_or_else(|| format!("needs milliseconds, as in slow=250; allowed: {ALLOWED}"))?;
            Kind::Slow(Duration::from_secs_f64(number("the milliseconds of slow", v)? / 1000.0))
        }
        _ => match word.parse::<u16>() {
            Ok(code @ 300..=599) if word.len() == 3 => {
                let default = (code == 429).then(|| "1".to_string());
                Kind::Act(Action::Status(code, value.map(str::to_string).or(default)))
            }
            _ => return Err(unknown()),
        },
    };
    let mut fault = Fault { kind, name: name.trim().into(), left: None, percent: None, until: None, random };
    while let Some(sign) = rest.chars().next() {
        let body = &rest[1..];
        let end = body.find(['@', '%', '/']).unwrap_or(body.len());
        let (text, after) = body.split_at(end);
        let twice = || format!("{sign} is given twice");
        match sign {
            '@' => {
                let n = text.parse().ok().filter(|n| *n > 0);
                let n = n.ok_or_else(|| format!("@ needs a whole number above 0, not '{text}'"))?;
                fault.left.replace(n).map_or(Ok(()), |_| Err(twice()))?;
            }
            '%' => {
                let p = number("the per cent after %", text)?;
                if p > 100.0 {
                    return Err(format!("% needs a number from 0 to 100, not '{text}'"));
                }
                fault.percent.replace(p).map_or(Ok(()), |_| Err(twice()))?;
            }
            _ => {
                let s = Duration::from_secs_f64(number("the seconds after /", text)?);
                fault.until.replace(s).map_or(Ok(()), |_| Err(twice()))?;
            }
        }
        rest = after;
    }
    Ok(fault)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn actions(spec: &str, n: usize) -> Vec<Option<Action>> {
        let mut f = Faults::parse(spec).unwrap();
        let now = f.since;
        (0..n).map(|_| f.decide(now).action).collect()
    }

    #[test]
    fn the_first_in_force_decides_and_counts_run_out() {
        let s = |c: u16, v: Option<&str>| Some(Action::Status(c, v.map(str::to_string)));
        assert_eq!(actions("429=7@2, 500@1", 4), [s(429, Some("7")), s(429, Some("7")), s(500, None), None]);
        assert_eq!(actions("429", 1), [s(429, Some("1"))]);
        assert_eq!(
            actions("503=\"Wed, 21 Oct 2026 07:28:00 GMT\"", 1),
            [s(503, Some("Wed, 21 Oct 2026 07:28:00 GMT"))]
        );
        assert_eq!(actions("stall=1.5", 1), [Some(Action::Stall(Some(Duration::from_millis(1500))))]);
        assert_eq!(actions("", 1), [None]);
    }

    #[test]
    fn slow_adds_to_what_follows() {
        let mut f = Faults::parse("slow=20,slow=5,lost").unwrap();
        let d = f.decide(Instant::now());
        let delay = Duration::from_millis(25);
        assert_eq!(d, Decision { delay, action: Some(Action::Lost), ..Decision::default() });
    }

    #[test]
    fn shares_shape_the_answer_and_pass_lets_one_through() {
        let mut f = Faults::parse("partial=20@2,again=100,quota@1,quota=5@2,pass@1,500").unwrap();
        let now = f.since;
        let shapes: Vec<_> = (0..3).map(|_| f.decide(now)).collect();
        let of = |i: usize| {
            let s = shapes[i].shaping;
            (s.refuse, s.again, s.quota, shapes[i].action.is_some())
        };
        assert_eq!(of(0), (20.0, 100.0, Some(5), false), "the later of two wins");
        assert_eq!(of(1), (20.0, 100.0, Some(5), true));
        assert_eq!(of(2), (0.0, 100.0, None, true));
        assert_ne!(shapes[0].shaping.seed, shapes[1].shaping.seed);
        assert_eq!(
            Faults::parse("partial=20").unwrap().decide(now),
            Faults::parse("partial=20").unwrap().decide(now)
        );
    }

    #[test]
    fn per_cent_is_repeatable_and_about_right() {
        let hits = |v: &[Option<Action>]| v.iter().filter(|a| a.is_some()).count();
        let a = actions("500%30", 2000);
        assert_eq!(a, actions("500%30", 2000));
        assert!((500..700).contains(&hits(&a)), "{}", hits(&a));
        assert_eq!(hits(&actions("500%0", 100)), 0);
        assert_eq!(hits(&actions("500%100", 100)), 100);
    }

    #[test]
    fn seconds_run_out_and_what_is_left_is_shown() {
        let mut f = Faults::parse("500/2,lost@3,cut%5").unwrap();
        let start = f.since;
        assert!(matches!(f.decide(start).action, Some(Action::Status(500, None))));
        let later = start + Duration::from_secs(3);
        assert_eq!(f.decide(later).action, Some(Action::Lost));
        assert_eq!(f.in_force(later), ["lost@2", "cut%5"]);
        assert_eq!(f.in_force(start + Duration::from_millis(500))[0], "500/1.5");
        assert!(Faults::parse(&f.in_force(start).join(",")).is_ok());
    }

    #[test]
    fn bad_specs_name_the_item_and_the_allowed() {
        for bad in [
            "nope",
            "200",
            "600",
            "0500",
            "slow",
            "slow=x",
            "stall=-1",
            "partial",
            "partial=101",
            "again=x",
            "quota=1.5",
            "pass=1",
            "cut=1",
            "500@0",
            "500@",
            "500%101",
            "500/x",
        ] {
            let e = Faults::parse(&format!("429,{bad}")).unwrap_err();
            assert!(e.contains(bad), "{bad}: {e}");
        }
        for bad in [",", "429,", "429=", "429=\"a", "500@1@2", "307=\"a\nb\""] {
            assert!(Faults::parse(bad).is_err(), "{bad}");
        }
        assert!(Faults::parse("nope").unwrap_err().contains("refuse, stall"));
    }
}

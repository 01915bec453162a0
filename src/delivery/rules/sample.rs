//! Which events are kept, when not all are: decided by a hash, so that all processes agree on it.
//!
//! Invariants:
//! - The same value of the key is always kept or never, in every process and at every start, and what a lower rate keeps, a
//!   higher one keeps too.
//! - It allocates nothing, takes no lock and neither recurses nor panics: `enqueue` asks it on the caller's thread.
//! - Any bytes get an answer. Whether they are JSON is the sender's matter.
#![forbid(unsafe_code)]

use super::path::{ALLOWED, Path, Step};
use super::scan::Scan;
use ring::digest::{Context, SHA256};

/// See the module's text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sample {
    /// Kept are hashes below it, of 2^64.
    below: u128,
    key: Option<Path>,
}

impl Sample {
    /// Keep that part (0 to 1) of all values of `key`, a dotted path; without one, of all events.
    pub fn parse(rate: f64, key: Option<&str>) -> Result<Sample, String> {
        if !(0.0..=1.0).contains(&rate) {
            return Err(format!("the rate {rate} is none; allowed: a number from 0 to 1"));
        }
        let path = |text: &str| match Path::parse(text) {
            Ok(path) if path.anywhere || path.steps.contains(&Step::Any) => Err("it has stars"),
            path => path,
        };
        let key = key.map(|text| {
            path(text).map_err(|why| format!("the path {text:?} is none: {why}; allowed: {ALLOWED}"))
        });
        // A power of two: no digit of the rate is lost.
        let below = (rate * 2f64.powi(64)).ceil() as u128;
        Ok(Sample { below, key: key.transpose()? })
    }

    /// Whether that event is kept.
    pub fn keep(&self, raw: &[u8]) -> bool {
        let mut hash = Context::new(&SHA256);
        let mut value = self.key.as_ref().and_then(|key| find(raw, &key.steps));
        match value.as_mut().map(|scan| (scan.peek(), scan)) {
            Some((b'"', scan)) => {
                if let Ok(string) = scan.string() {
                    string.decode(|piece| hash.update(piece));
                }
            }
            Some((_, scan)) => {
                if let Ok(part) = scan.skip() {
                    hash.update(scan.part(part));
                }
            }
            None => hash.update(raw),
        }
        let digest = hash.finish();
        let first = digest.as_ref().iter().take(8).fold(0u128, |sum, byte| sum << 8 | u128::from(*byte));
        first < self.below
    }
}

/// Before the first value at that place. None where there is none, or null, or what is before it is no JSON.
fn find<'a>(raw: &'a [u8], way: &[Step]) -> Option<Scan<'a>> {
    let mut scan = Scan::new(raw, 0);
    for step in way {
        let object = scan.peek() == b'{';
        scan.enter().ok()?;
        let mut index = 0;
        loop {
            let found = if object {
                step.is_key(&scan.key(index == 0).ok()??)
            } else if scan.item(index == 0).ok()? {
                step.is_index(index)
            } else {
                return None;
            };
            if found {
                break;
            }
            scan.skip().ok()?;
            index += 1;
        }
    }
    let value = scan;
    let whole = scan.peek() != b'n' && scan.skip().is_ok();
    whole.then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sample(rate: f64, key: &str) -> Sample {
        Sample::parse(rate, Some(key).filter(|key| !key.is_empty())).unwrap()
    }

    #[test]
    fn the_rate_is_kept() {
        for (rate, expected) in
            [(0.0, 0..=0), (0.1, 1850..=2150), (0.5, 9750..=10_250), (1.0, 20_000..=20_000)]
        {
            for key in ["", "id", "a.id"] {
                let sample = sample(rate, key);
                let event = |n| format!(r#"{{"id":"id-{n}","a":{{"id":{n}}}}}"#);
                let kept = (0..20_000).filter(|n| sample.keep(event(*n).as_bytes())).count();
                assert!(expected.contains(&kept), "{rate} {key:?}: {kept}");
            }
        }
    }

    #[test]
    fn by_the_first_eight_bytes_of_the_hash() {
        // `printf abc | sha256sum` begins with ba7816bf8f01cfea.
        let exact = 0xba78_16bf_8f01_cfea_u64 as f64 / 2f64.powi(64);
        let event = br#"{"k":"abc"}"#;
        assert!(sample(exact + 1e-12, "k").keep(event) && !sample(exact - 1e-12, "k").keep(event));
        assert!(Sample { below: 0xba78_16bf_8f01_cfeb, ..sample(1.0, "k") }.keep(event));
        assert!(!Sample { below: 0xba78_16bf_8f01_cfea, ..sample(1.0, "k") }.keep(event));
        assert!(sample(1.0, "k").below == 1 << 64 && sample(f64::MIN_POSITIVE, "k").below == 1);
        // `printf 1.50 | sha256sum` begins with 1a60b208, which is 0.103038 of the whole.
        assert!(sample(0.1031, "k").keep(br#"{"k": 1.50 }"#) && !sample(0.103, "k").keep(br#"{"k": 1.50 }"#));
    }

    #[test]
    fn one_value_one_fate() {
        let sample = sample(0.5, r"p.trace\.id");
        for n in 0..200 {
            let fate = sample.keep(format!(r#"{{"p":{{"trace.id":"t{n}"}}}}"#).as_bytes());
            for other in [
                format!(r#"{{"x":[1,{{"p":0}}],"p":{{"y":null,"trace.id" : "t{n}"}},"z":{n}}}"#),
                format!(r#"{{"\u0070":{{"trace\u002eid":"\u0074{n}"}}}}"#),
                format!(r#"{{"p":{{"trace.id":"t{n}","trace.id":"other"}}}}"#),
                format!(r#"{{"p":{{"trace.id":"t{n}"}},"torn":"#),
            ] {
                assert_eq!(sample.keep(other.as_bytes()), fate, "{other}");
            }
        }
    }

    #[test]
    fn without_a_value_the_event_itself_decides() {
        let (by_key, whole) = (sample(0.5, "a.b"), sample(0.5, ""));
        for n in 0..200 {
            for event in [
                format!(r#"{{"n":{n}}}"#),
                format!(r#"{{"n":{n},"a":"b"}}"#),
                format!(r#"{{"n":{n},"a":{{"b":null}}}}"#),
                format!(r#"{{"n":{n},"a":[{{"b":1}}]}}"#),
                format!(r#"{{"n":{n},"a":{{"b":"#),
                format!("{n} is no JSON"),
            ] {
                assert_eq!(by_key.keep(event.as_bytes()), whole.keep(event.as_bytes()), "{event}");
            }
        }
        assert!(sample(1.0, "a").keep(b"") && !sample(0.0, "a").keep(b""));
        let by_element = sample(0.5, "a.1");
        let fates: Vec<bool> =
            (0..64).map(|n| by_element.keep(format!(r#"{{"a":[0,{n}]}}"#).as_bytes())).collect();
        assert!(fates.contains(&true) && fates.contains(&false));
        assert!((0..64).all(|n| by_element.keep(format!(r#"{{"a":[{n},7]}}"#).as_bytes()) == fates[7]));
    }

    #[test]
    fn what_cannot_be_meant() {
        for (rate, key, why) in [
            (1.5, None, "from 0 to 1"),
            (-0.1, None, "from 0 to 1"),
            (f64::NAN, None, "from 0 to 1"),
            (0.5, Some("a..b"), "\"a..b\""),
            (0.5, Some("a.*"), "it has stars"),
            (0.5, Some("**.a"), "it has stars"),
        ] {
            let error = Sample::parse(rate, key).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_get_an_answer(text in proptest::collection::vec(any::<u8>(), 0..60)) {
            let (low, high) = (sample(0.2, "a.b"), sample(0.9, "a.b"));
            prop_assert!(high.keep(&text) || !low.keep(&text));
        }
    }
}

//! What is kept on disk: the spool, and the file of refused events.
//!
//! Invariants:
//! - The keys of the spool mean nothing without `spool_dir`, which is no error: the environment may set them for
//!   a whole host. Their values are checked all the same.
//! - Nothing on the disk is looked at here.

use std::path::{Path, PathBuf};

use super::values::Values;
use super::{Config, ConfigError};

/// Segments as files, which outlive their process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spool {
    /// The directory that holds one sub-directory a destination.
    pub dir: PathBuf,
    /// Disk for waiting events: at least two segments.
    pub max_bytes: usize,
    /// How long events live, and what could not be read.
    pub max_age_s: u64,
    /// What makes room in a full spool.
    pub evict: Evict,
    /// What a loss of power may undo.
    pub sync: Sync,
}

/// What makes room in a full spool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Evict {
    /// Nothing: `enqueue` says FULL.
    None,
    /// The oldest events go.
    Oldest,
}

/// When the spool is forced to disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sync {
    /// When the kernel likes.
    None,
    /// At intervals.
    Interval,
    /// With each batch.
    Batch,
}

impl Spool {
    /// None without `spool_dir`.
    pub(super) fn read(values: &Values<'_>) -> Result<Option<Spool>, ConfigError> {
        let max_bytes = values.integer("spool_max_bytes")?;
        let max_age_s = values.integer("spool_max_age_s")?.value;
        let evict = match values.choice("spool_evict")?.value {
            "oldest" => Evict::Oldest,
            _ => Evict::None,
        };
        let sync = match values.choice("sync")?.value {
            "interval" => Sync::Interval,
            "batch" => Sync::Batch,
            _ => Sync::None,
        };
        let Some(given) = values.path("spool_dir")? else { return Ok(None) };
        let dir = PathBuf::from(given.value);
        Ok(Some(Spool { dir, max_bytes: max_bytes.size()?, max_age_s, evict, sync }))
    }
}

impl Config {
    /// What tells destinations apart, for the spool's directory: endpoint, format and credentials, so that events
    /// never reach another account. 64 bits of SHA-256: the name of a directory gives no key away.
    pub fn destination_hash(&self) -> String {
        let mut text = format!("{}\n{}\n", self.endpoint, self.format.as_str());
        for secret in [&self.api_key, &self.basic, &self.bearer] {
            text.push_str(secret.as_deref().unwrap_or(""));
            text.push('\n');
        }
        for (name, value) in &self.headers {
            text.push_str(&format!("{}:{value}\n", name.to_ascii_lowercase()));
        }
        let digest = ring::digest::digest(&ring::digest::SHA256, text.as_bytes());
        digest.as_ref().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
    }
}

/// `dead_letter`, whose directory need not be there yet.
pub(super) fn dead_letter(values: &Values<'_>) -> Result<Option<PathBuf>, ConfigError> {
    let Some(given) = values.path("dead_letter")? else { return Ok(None) };
    let text = given.value.as_str();
    if text.ends_with('/') || text.ends_with("/.") || Path::new(text).file_name().is_none() {
        return Err(given.refuse("it names a directory"));
    }
    Ok(Some(given.value.into()))
}

#[cfg(test)]
mod tests {
    use super::super::Config;
    use super::*;

    fn with_env(json: &str, env: &[(&str, &str)]) -> Result<Config, ConfigError> {
        Config::parse(json, |name| env.iter().find(|(n, _)| *n == name).map(|(_, value)| value.to_string()))
    }

    fn good(json: &str) -> Config {
        with_env(json, &[]).unwrap_or_else(|error| panic!("{json}: {error}"))
    }

    fn bad(json: &str, parts: &[&str]) {
        let text = with_env(json, &[]).map(|_| ()).expect_err(json).to_string();
        for part in parts {
            assert!(text.contains(part), "{json}: {part:?} is not in {text:?}");
        }
    }

    #[test]
    fn a_directory_makes_it_a_spool() {
        let usual = Spool {
            dir: "s".into(),
            max_bytes: 256 << 20,
            max_age_s: 604_800,
            evict: Evict::None,
            sync: Sync::None,
        };
        assert_eq!(good(r#"{"spool_dir":"s"}"#).spool, Some(usual.clone()));
        assert_eq!(with_env("", &[("TELEMETRY_SPOOL_DIR", "s")]).unwrap().spool, Some(usual));
        let all = good(
            r#"{"spool_dir":"/s","spool_max_bytes":4194304,"spool_max_age_s":9,"spool_evict":"oldest","sync":"batch"}"#,
        );
        let (dir, max_bytes) = ("/s".into(), 4 << 20);
        let expected = Spool { dir, max_bytes, max_age_s: 9, evict: Evict::Oldest, sync: Sync::Batch };
        assert_eq!(all.spool, Some(expected));
        let at_intervals = good(r#"{"spool_dir":"s","sync":"interval"}"#).spool;
        assert_eq!(at_intervals.map(|spool| spool.sync), Some(Sync::Interval));
    }

    #[test]
    fn without_a_directory_its_keys_change_nothing() {
        let host = [
            ("TELEMETRY_SPOOL_MAX_BYTES", "131072"),
            ("TELEMETRY_SPOOL_MAX_AGE_S", "1"),
            ("TELEMETRY_SPOOL_EVICT", "oldest"),
            ("TELEMETRY_SYNC", "batch"),
        ];
        assert_eq!(with_env("", &host).unwrap(), good(""));
        bad(r#"{"sync":"always"}"#, &["sync is \"always\"", "none, interval or batch"]);
        bad(r#"{"spool_evict":"old"}"#, &["spool_evict is \"old\"", "none or oldest"]);
        bad(r#"{"spool_max_bytes":131071}"#, &["from 131072 to 68719476736, at least two segments"]);
    }

    #[test]
    fn two_segments_fit_into_the_spool_as_well() {
        for (json, segment, event) in [
            (r#"{"spool_dir":"s","spool_max_bytes":131072}"#, 65_536, 65_024),
            (r#"{"spool_dir":"s","spool_max_bytes":131072,"queue_bytes":1000000}"#, 65_536, 65_024),
            (r#"{"spool_dir":"s","spool_max_bytes":1000000}"#, 499_712, 262_144),
            (r#"{"spool_dir":"s","queue_bytes":131072}"#, 65_536, 65_024),
            (r#"{"spool_dir":"s","segment_bytes":8388608}"#, 8 << 20, 262_144),
        ] {
            let config = good(json);
            assert_eq!((config.segment_bytes, config.max_event_bytes), (segment, event), "{json}");
        }
        bad(
            r#"{"spool_dir":"s","spool_max_bytes":131072,"segment_bytes":69632}"#,
            &[
                "spool_max_bytes is 131072",
                "segment_bytes is 69632",
                "spool_max_bytes must hold at least two segments",
            ],
        );
        bad(
            r#"{"spool_dir":"s","queue_bytes":1073741824,"segment_bytes":268435456}"#,
            &["spool_max_bytes is 268435456 (by default)", "at least two segments"],
        );
        bad(
            r#"{"spool_dir":"s","spool_max_bytes":131072,"max_event_bytes":65025}"#,
            &["max_event_bytes is 65025", "segment_bytes is 65536 (by default)"],
        );
    }

    #[test]
    fn how_long_events_live() {
        for (json, seconds) in [
            (r#"{"spool_dir":"s"}"#, 604_800),
            (r#"{"spool_dir":"s","spool_max_age_s":60}"#, 60),
            (r#"{"spool_dir":"s","retry":{"max_age_s":60}}"#, 60),
            (r#"{"spool_dir":"s","retry":{"max_age_s":86400}}"#, 86_400),
            (r#"{"spool_dir":"s","retry":{"max_age_s":1000000}}"#, 604_800),
            (r#"{"spool_dir":"s","spool_max_age_s":60,"retry":{"max_age_s":61}}"#, 60),
            (r#"{"spool_max_age_s":60}"#, 86_400),
            (r#"{"spool_max_age_s":60,"retry":{"max_age_s":70}}"#, 70),
        ] {
            assert_eq!(good(json).retry.max_age_s, seconds, "{json}");
        }
        let variable = [("TELEMETRY_RETRY_MAX_AGE_S", "60")];
        assert_eq!(with_env(r#"{"spool_dir":"s"}"#, &variable).unwrap().retry.max_age_s, 60);
    }

    #[test]
    fn paths() {
        let config = good(r#"{"spool_dir":"a/","dead_letter":"b"}"#).anchored(Path::new("/srv"));
        assert_eq!(config.spool.map(|spool| spool.dir), Some("/srv/a/".into()));
        assert_eq!(config.dead_letter, Some("/srv/b".into()));
        let config = good(r#"{"spool_dir":"/a","dead_letter":"/b"}"#).anchored(Path::new("/srv"));
        assert_eq!(config.spool.map(|spool| spool.dir), Some("/a".into()));
        assert_eq!(config.dead_letter, Some("/b".into()));
        for key in ["spool_dir", "dead_letter"] {
            let label = format!("{key} is \"");
            bad(&format!(r#"{{"{key}":"a\u0000b"}}"#), &[&label, "a path has no NUL", "allowed: a path"]);
            bad(&format!(r#"{{"{key}":""}}"#), &[&label, "it is empty"]);
        }
        for path in ["/", "a/", "a/.", "..", "a/.."] {
            bad(&format!(r#"{{"dead_letter":"{path}"}}"#), &["dead_letter is \"", "it names a directory"]);
        }
    }
}

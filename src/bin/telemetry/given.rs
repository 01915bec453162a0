//! What a user gave as configuration: the option `--config` of the sub-commands that deliver.
//!
//! Invariants: nothing of a configuration is ever printed but what the library's own errors say, which hide
//! credentials; clap never sees one, because it would quote it. A bad one ends the process as a bad argument does.

use clap::error::ErrorKind;
use serde_json::{Map, Value};
use telemetry::client::config::{Config, process_env};

/// A name that somebody gave, with nothing in it that a terminal would obey.
pub fn plain(name: &str) -> String {
    name.chars().flat_map(char::escape_debug).collect()
}

/// End as a bad argument does. Not clap's own check of a value, which would quote it.
pub fn refuse(why: &str) -> ! {
    clap::Error::raw(ErrorKind::ValueValidation, format!("{why}\n")).exit()
}

/// The object of `--config JSON|@FILE`, checked but for keys that the endpoint or the format may need; none is empty.
pub fn object(config: Option<&str>) -> Map<String, Value> {
    let text = match config.map(|config| (config, config.strip_prefix('@'))) {
        None => return Map::new(),
        Some((json, None)) => json.to_string(),
        Some((_, Some(path))) => std::fs::read_to_string(path)
            .unwrap_or_else(|why| refuse(&format!("--config @{}: {why}", plain(path)))),
    };
    let object = match serde_json::from_str(&text) {
        Ok(Value::Object(object)) => object,
        Ok(_) => refuse("--config: allowed: a JSON object, or @ and the name of a file with one"),
        Err(why) => refuse(&format!("--config is no JSON: {why}; allowed: a JSON object, or @FILE")),
    };
    // For what the map forgets: keys given twice. Whether a key is missing shows when the format is known.
    let key = |name: &str| process_env(name).or((name == "TELEMETRY_API_KEY").then(|| "-".into()));
    if let Err(why) = Config::parse(&text, key) {
        refuse(&format!("--config: {why}"));
    }
    object
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_does_nothing_to_a_terminal() {
        assert_eq!(plain("a\u{1b}[2J"), "a\\u{1b}[2J");
    }
}

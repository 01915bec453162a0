//! What is done to each event: `context`, `redact`, `sample`.
//!
//! Invariants:
//! - A rule that could never apply as it stands is refused, not ignored.
//! - A value of the context is shown by no error: it may be anybody's business but the log's.

use super::json::Node;
use super::values::Values;
use super::{ConfigError, FormatKind};
use crate::delivery::rules::redact::Redact;
use crate::delivery::rules::sample::Sample;

/// Members that are merged into each event, each value as JSON text.
pub(super) fn context(values: &Values<'_>, format: FormatKind) -> Result<Vec<(String, String)>, ConfigError> {
    let Some(given) = values.object("context")? else { return Ok(Vec::new()) };
    let own: &[&str] = match format {
        // There the context stands beside what tells one event from another.
        FormatKind::Ndjson | FormatKind::Json => &["id", "timestamp"],
        _ => &[],
    };
    if let Some((name, _)) = given.value.iter().find(|(name, _)| own.contains(&name.as_str())) {
        return Err(given.refuse_as("", &format!("it has {name}, which each event has of its own")));
    }
    let there = given.value.iter().filter(|(_, value)| *value != Node::Null);
    Ok(there.map(|(name, value)| (name.clone(), value.text())).collect())
}

/// Paths, and what becomes of what they lead to.
pub(super) fn redact(values: &Values<'_>) -> Result<Option<Redact>, ConfigError> {
    let Some(given) = values.object("redact")? else { return Ok(None) };
    let refuse = |why: String| ConfigError::new(format!("{}: {why}", given.label()));
    let mut rules = Vec::new();
    for (path, action) in &given.value {
        match action {
            Node::Text(action) => rules.push((path.clone(), action.clone())),
            Node::Null => {}
            other => {
                let what = other.shown();
                return Err(refuse(format!("{path:?} is {what}; allowed: mask, hash or remove")));
            }
        }
    }
    if rules.is_empty() {
        return Ok(None);
    }
    Redact::parse(rules).map(Some).map_err(refuse)
}

/// What is kept. With a rate of 1 that is everything, and nothing is looked at.
pub(super) fn sample(values: &Values<'_>) -> Result<Option<Sample>, ConfigError> {
    let rate = values.fraction("sample.rate")?;
    let key = values.text("sample.key")?;
    let sample = Sample::parse(rate, key.as_ref().map(|key| key.value.as_str())).map_err(|why| {
        let label = key.map_or("sample.rate".to_string(), |key| key.label());
        ConfigError::new(format!("{label}: {why}"))
    })?;
    Ok((rate < 1.0).then_some(sample))
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

    fn bad(json: &str, env: &[(&str, &str)], parts: &[&str]) {
        let text = with_env(json, env).map(|_| ()).expect_err(json).to_string();
        for part in parts {
            assert!(text.contains(part), "{json}: {part:?} is not in {text:?}");
        }
    }

    #[test]
    fn members_of_the_context_keep_order_and_value() {
        let json = r#"{"z":"$pid","a":{"b":[1.5,-2,true,null,"\"é"]},"gone":null,"n":18446744073709551615}"#;
        let expected =
            [("z", r#""$pid""#), ("a", r#"{"b":[1.5,-2,true,null,"\"é"]}"#), ("n", "18446744073709551615")];
        let expected: Vec<_> = expected.iter().map(|(n, v)| (n.to_string(), v.to_string())).collect();
        assert_eq!(good(&format!(r#"{{"context":{json}}}"#)).context, expected);
        assert_eq!(with_env("", &[("TELEMETRY_CONTEXT", json)]).unwrap().context, expected);
        assert_eq!(with_env(r#"{"context":{}}"#, &[("TELEMETRY_CONTEXT", json)]).unwrap().context, []);
        for json in ["5", "\"x\"", "[]", "true"] {
            bad(&format!(r#"{{"context":{json}}}"#), &[], &["context is ***: it is a", "allowed: an object"]);
            let label = "TELEMETRY_CONTEXT (key context) is ***";
            bad("", &[("TELEMETRY_CONTEXT", json)], &[label, "not a JSON object"]);
        }
        bad("", &[("TELEMETRY_CONTEXT", "{")], &["TELEMETRY_CONTEXT", "not valid JSON"]);
        bad(r#"{"context":{"a":1,"a":1}}"#, &[], &["context.a twice"]);
        for format in ["ndjson", "json"] {
            for key in ["id", "timestamp"] {
                let json = format!(r#"{{"format":"{format}","context":{{"{key}":1}}}}"#);
                bad(&json, &[], &[&format!("it has {key}, which each event has")]);
            }
        }
        assert_eq!(good(r#"{"format":"posthog","api_key":"k","context":{"id":1}}"#).context.len(), 1);
    }

    #[test]
    fn rules_of_redaction() {
        let json = r#"{"a.b":"mask","items.*.c":"hash","**.d":"remove","off":null}"#;
        let rules = [("a.b", "mask"), ("items.*.c", "hash"), ("**.d", "remove")];
        let expected = Redact::parse(rules.map(|(p, a)| (p.into(), a.into())).into()).unwrap();
        assert_eq!(good(&format!(r#"{{"redact":{json}}}"#)).redact, Some(expected.clone()));
        assert_eq!(with_env("", &[("TELEMETRY_REDACT", json)]).unwrap().redact, Some(expected));
        for none in ["{}", "null", r#"{"a":null}"#] {
            assert_eq!(good(&format!(r#"{{"redact":{none}}}"#)).redact, None);
        }
        for (json, parts) in [
            (r#"{"a.b":"drop"}"#, [r#"redact: "a.b" is "drop""#, "allowed: mask, hash or remove"]),
            (r#"{"a.b":true}"#, [r#"redact: "a.b" is true"#, "allowed: mask, hash or remove"]),
            (r#"{"a..b":"mask"}"#, [r#"redact: the path "a..b""#, "allowed: keys with dots"]),
            (r#"{"a.**.b":"mask"}"#, [r#""a.**.b""#, "** stands at the beginning only"]),
            (r#""a.b""#, ["redact is ***: it is a string", "allowed: an object"]),
        ] {
            bad(&format!(r#"{{"redact":{json}}}"#), &[], &parts);
        }
        let variable = [("TELEMETRY_REDACT", r#"{"a":"x"}"#)];
        bad("", &variable, &["TELEMETRY_REDACT (key redact): \"a\" is \"x\""]);
    }

    #[test]
    fn the_part_that_is_kept() {
        let of = |rate: f64, key: Option<&str>| Some(Sample::parse(rate, key).unwrap());
        for (json, sample) in [
            (r#"{"rate":0.1,"key":"a.b"}"#, of(0.1, Some("a.b"))),
            (r#"{"rate":0}"#, of(0.0, None)),
            (r#"{"rate":1}"#, None),
            (r#"{"rate":1.0,"key":"a"}"#, None),
            (r#"{"key":"a"}"#, None),
            ("{}", None),
        ] {
            assert_eq!(good(&format!(r#"{{"sample":{json}}}"#)).sample, sample, "{json}");
        }
        let env = [("TELEMETRY_SAMPLE_RATE", "2.5e-1"), ("TELEMETRY_SAMPLE_KEY", "k")];
        assert_eq!(with_env("", &env).unwrap().sample, of(0.25, Some("k")));
        for value in ["1.5", "-0.1", "\"0.1\"", "true", "[]"] {
            let json = format!(r#"{{"sample":{{"rate":{value}}}}}"#);
            bad(&json, &[], &["sample.rate is ", "allowed: a number from 0 to 1"]);
        }
        for value in ["1.5", "-1", "ten", "nan", "inf", "1_0", " 0.5", "+0.5", ".5", "0x1", "50%"] {
            let part = "TELEMETRY_SAMPLE_RATE (key sample.rate) is ";
            bad("", &[("TELEMETRY_SAMPLE_RATE", value)], &[part, "allowed: a number from 0 to 1"]);
        }
        bad(r#"{"sample":0.1}"#, &[], &["sample is 0.1", "an object with rate, key"]);
        bad(r#"{"sample":{"key":"a..b"}}"#, &[], &["sample.key: ", "\"a..b\"", "allowed: keys with dots"]);
        bad(r#"{"sample":{"key":"a.*"}}"#, &[], &["sample.key: ", "it has stars"]);
        bad(r#"{"sample":{"ratio":1}}"#, &[], &["sample.ratio", "nearest known key is sample.rate"]);
    }

    #[test]
    fn the_spool_is_the_same_with_them_and_without() {
        let plain = r#"{"endpoint":"http://h","spool_dir":"s""#;
        let ruled = good(&format!(
            r#"{plain},"context":{{"a":1}},"redact":{{"b":"mask"}},"sample":{{"rate":0.5}}}}"#
        ));
        assert_eq!(ruled.destination_hash(), good(&format!("{plain}}}")).destination_hash());
    }
}

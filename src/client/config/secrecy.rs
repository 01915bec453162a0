//! Tests: no credential is ever shown. Each of them is `hush` here.

use super::*;

fn with_env(json: &str, env: &[(&str, &str)]) -> Result<Config, ConfigError> {
    Config::parse(json, |name| env.iter().find(|(n, _)| *n == name).map(|(_, value)| value.to_string()))
}

#[test]
fn credentials_are_never_shown() {
    let config = with_env(
        r#"{"endpoint":"https://us:hush@h/p?token=hush","api_key":"hush","headers":{"X-Key":"hush"},"proxy":"http://us:hush@p","context":{"Ctx":"hush","b":{"hush":["hush"]}}}"#,
        &[],
    )
    .unwrap();
    let bearer = with_env(r#"{"bearer":"hush"}"#, &[]).unwrap();
    let shown = format!("{config:?} {config:#?} {bearer:?}");
    assert!(!shown.contains("hush"), "{shown}");
    assert!(shown.contains("X-Key") && shown.contains("Ctx") && shown.contains("https://h/p\""), "{shown}");

    let secret = |json: &str, env: &[(&str, &str)]| {
        let error = with_env(json, env).expect_err(json);
        assert!(!format!("{error} {error:?}").contains("hush"), "{error}");
    };
    for json in [
        r#"{"api_key":["hush"]}"#,
        r#"{"api_key":"hush\n"}"#,
        r#"{"basic":"hush"}"#,
        r#"{"basic":":hush"}"#,
        r#"{"bearer":"hush hush"}"#,
        r#"{"bearer":{"hush":1}}"#,
        r#"{"basic":"a:hush","bearer":"hush"}"#,
        r#"{"headers":"hush"}"#,
        r#"{"headers":{"a":"hush\n"}}"#,
        r#"{"headers":{"a":["hush"]}}"#,
        r#"{"headers":{"a":"hush","a":"hush"}}"#,
        r#"{"headers":{"Host":"hush"}}"#,
        r#"{"context":"hush"}"#,
        r#"{"context":["hush"]}"#,
        r#"{"context":{"id":"hush"}}"#,
        r#"{"endpoint":"ftp://u:hush@h"}"#,
        r#"{"endpoint":"u:hush@h"}"#,
        r#"{"endpoint":"http://u:hush@"}"#,
        r#"{"endpoint":"http://u:hush@h:0/"}"#,
        r#"{"endpoint":"http://u:hu/hush@h"}"#,
        r#"{"endpoint":"http://u:hu?hush@h"}"#,
        r#"{"endpoint":"http://u:hu#hush@h"}"#,
        r#"{"endpoint":"http://u:hush%@h"}"#,
        r#"{"endpoint":"http://h:0/?key=hush"}"#,
        r#"{"endpoint":"http://u:hush@h","basic":"a:hush"}"#,
        r#"{"proxy":"ftp://u:hush@p"}"#,
        r#"{"api_key":"hush","nmae":"x"}"#,
        r#"{"api_key":"hush"#,
        r#"{"api_key":hush}"#,
        r#""hush""#,
    ] {
        secret(json, &[]);
    }
    for env in [
        ("TELEMETRY_API_KEY", "hush\n"),
        ("TELEMETRY_API_KEY", "hush\u{FFFD}"),
        ("TELEMETRY_BASIC", "hush"),
        ("TELEMETRY_BEARER", "hush "),
        ("TELEMETRY_HEADERS", "X-Key: hush"),
        ("TELEMETRY_HEADERS", r#"{"a":"hush"#),
        ("TELEMETRY_HEADERS", "\"hush\""),
        ("TELEMETRY_CONTEXT", "hush"),
        ("TELEMETRY_CONTEXT", r#"{"a":"hush"#),
        ("TELEMETRY_PROXY", "hush@"),
        ("TELEMETRY_ENDPOINT", "u:hush@h"),
    ] {
        secret("", &[env]);
    }
    secret(r#"{"endpoint":"https://h"}"#, &[("HTTPS_PROXY", "socks5://u:hush@p")]);
}

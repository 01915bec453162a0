//! What the configuration takes and refuses, key by key.

use super::*;

fn parse_env(json: &str, env: &[(&str, &str)]) -> Result<Config, ConfigError> {
    Config::parse(json, |name| env.iter().find(|(n, _)| *n == name).map(|(_, value)| value.to_string()))
}

fn parse(json: &str) -> Result<Config, ConfigError> {
    parse_env(json, &[])
}

fn good(json: &str) -> Config {
    parse(json).unwrap_or_else(|error| panic!("{json}: {error}"))
}

/// The error, which must contain all of `parts`.
fn bad(json: &str, env: &[(&str, &str)], parts: &[&str]) -> String {
    let text = parse_env(json, env).map(|_| ()).expect_err(json).to_string();
    for part in parts {
        assert!(text.contains(part), "{json} {env:?}: {part:?} is not in {text:?}");
    }
    text
}

fn nested(path: &str, value: &str) -> String {
    match path.split_once('.') {
        Some((group, member)) => format!(r#"{{"{group}":{{"{member}":{value}}}}}"#),
        None => format!(r#"{{"{path}":{value}}}"#),
    }
}

#[test]
fn defaults() {
    let expected = Config {
        endpoint: Endpoint::File { path: "telemetry-events.ndjson".into() },
        endpoint_as_is: false,
        format: FormatKind::Ndjson,
        encoding: Encoding::Protobuf,
        api_key: None,
        basic: None,
        bearer: None,
        headers: vec![],
        name: None,
        context: vec![],
        otel_resource: vec![],
        redact: None,
        sample: None,
        compression: Compression::Gzip,
        timeout_ms: 10_000,
        tls: TlsFiles::default(),
        proxy: None,
        resolver: ResolverKind::Builtin,
        batch: Batch { max_events: 1000, max_bytes: 1 << 20, max_age_ms: 1000 },
        queue_bytes: 16 << 20,
        segment_bytes: 1 << 20,
        max_event_bytes: 256 << 10,
        on_full: OnFull::Drop,
        block_timeout_ms: 100,
        retry: Retry { initial_ms: 250, max_ms: 30_000, max_age_s: 86_400 },
        spool: None,
        dead_letter: None,
        exit_timeout_ms: 1000,
        idle_ms: 10_000,
        clock: Clock::Precise,
        media_max_bytes: 64 << 20,
        disabled: false,
        test: TestSwitches::default(),
    };
    for json in ["", " \n\t", "{}", " {} ", r#"{"batch":{},"tls":null,"name":null,"headers":{}}"#] {
        assert_eq!(good(json), expected, "{json:?}");
    }
    for key in KEYS {
        assert_eq!(good(&nested(key.name, "null")), expected, "{} null is absent", key.name);
        assert_eq!(
            parse_env("", &[(&key.env_name(), "")]).unwrap(),
            expected,
            "{} empty is absent",
            key.name
        );
    }
}

#[test]
fn everything_at_once() {
    let config = good(
        r#"{"endpoint":"https://h:1/p","format":"posthog","encoding":"json","api_key":"phc_1","bearer":"tok","headers":{"X-A":"1","x-b":""},
        "name":"web-1.a","context":{"c":1},"redact":{"r":"mask"},"sample":{"rate":0.5,"key":"k"},"compression":"none","timeout_ms":5,"tls":{"ca_file":"ca","cert_file":"/c","key_file":"k"},
        "proxy":"http://p:1","resolver":"system","batch":{"max_events":2,"max_bytes":2048,"max_age_ms":3},
        "queue_bytes":300000,"segment_bytes":69632,"max_event_bytes":9,"on_full":"block","block_timeout_ms":0,
        "retry":{"initial_ms":4,"max_ms":4,"max_age_s":5},"spool_dir":"s",
        "spool_max_bytes":200000,"spool_max_age_s":7,"spool_evict":"oldest","sync":"interval","dead_letter":"d","exit_timeout_ms":0,"idle_ms":6,"clock":"coarse","media_max_bytes":8,"disabled":true}"#,
    );
    let expected = Config {
        endpoint: Endpoint::parse("https://h:1/p").unwrap(),
        endpoint_as_is: false,
        format: FormatKind::Posthog,
        encoding: Encoding::Json,
        api_key: Some("phc_1".into()),
        basic: None,
        bearer: Some("tok".into()),
        headers: vec![("X-A".into(), "1".into()), ("x-b".into(), "".into())],
        name: Some("web-1.a".into()),
        context: vec![("c".into(), "1".into())],
        otel_resource: vec![],
        redact: Some(Redact::parse(vec![("r".into(), "mask".into())]).unwrap()),
        sample: Some(Sample::parse(0.5, Some("k")).unwrap()),
        compression: Compression::None,
        timeout_ms: 5,
        tls: TlsFiles {
            ca_file: Some("ca".into()),
            cert_file: Some("/c".into()),
            key_file: Some("k".into()),
        },
        proxy: Some(Proxy::parse("http://p:1").unwrap()),
        resolver: ResolverKind::System,
        batch: Batch { max_events: 2, max_bytes: 2048, max_age_ms: 3 },
        queue_bytes: 300_000,
        segment_bytes: 69_632,
        max_event_bytes: 9,
        on_full: OnFull::Block,
        block_timeout_ms: 0,
        retry: Retry { initial_ms: 4, max_ms: 4, max_age_s: 5 },
        spool: Some(Spool {
            dir: "s".into(),
            max_bytes: 200_000,
            max_age_s: 7,
            evict: Evict::Oldest,
            sync: Sync::Interval,
        }),
        dead_letter: Some("d".into()),
        exit_timeout_ms: 0,
        idle_ms: 6,
        clock: Clock::Coarse,
        media_max_bytes: 8,
        disabled: true,
        test: TestSwitches::default(),
    };
    assert_eq!(config, expected);

    let anchored = config.anchored(Path::new("/srv"));
    let tls = TlsFiles {
        ca_file: Some("/srv/ca".into()),
        cert_file: Some("/c".into()),
        key_file: Some("/srv/k".into()),
    };
    assert_eq!(anchored.tls, tls);
    assert_eq!(anchored.endpoint, Endpoint::parse("https://h:1/p").unwrap());
    let file = good(r#"{"endpoint":"file:/x"}"#).anchored(Path::new("/srv"));
    assert_eq!(file.endpoint, Endpoint::File { path: "/x".into() });
    let file = good("").anchored(Path::new("/srv"));
    assert_eq!(file.endpoint, Endpoint::File { path: "/srv/telemetry-events.ndjson".into() });
}

#[test]
fn not_one_json_object() {
    for (json, part) in [
        ("{", "not valid JSON"),
        ("{} {}", "not valid JSON"),
        (r#"{"name":"x"}]"#, "not valid JSON"),
        (r#"{"name":"x",}"#, "not valid JSON"),
        ("{'name':'x'}", "not valid JSON"),
        ("[]", "an array, not a JSON object"),
        ("\"phc_secret\"", "a string, not a JSON object"),
        ("null", "null, not a JSON object"),
        ("5", "a number"),
        (r#"{"name":"x","name":"y"}"#, "key name twice"),
        (r#"{"name":null,"name":null}"#, "key name twice"),
        (r#"{"batch":{"max_events":1,"max_events":1}}"#, "key batch.max_events twice"),
        (r#"{"headers":{"a":"1","a":"1"}}"#, "key headers.a twice"),
    ] {
        let text = bad(json, &[], &["the configuration", part]);
        assert!(!text.contains("secret"), "{text}");
    }
}

#[test]
fn unknown_keys_name_the_nearest() {
    for (json, unknown, near) in [
        (r#"{"endpiont":"x"}"#, "\"endpiont\"", "endpoint"),
        (r#"{"maxEvents":1}"#, "\"maxEvents\"", "batch.max_events"),
        (r#"{"batch":{"max_event":1}}"#, "\"batch.max_event\"", "batch.max_events"),
        (r#"{"retry":{"initial":1}}"#, "\"retry.initial\"", "retry.initial_ms"),
        (r#"{"tls":{"ca":"x"}}"#, "\"tls.ca\"", "tls.ca_file"),
        (r#"{"tls":{"ca_file":null,"x.y":null}}"#, "\"tls.x.y\"", ""),
        (r#"{"Endpoint":null}"#, "\"Endpoint\"", "endpoint"),
        (r#"{"":1}"#, "\"\"", ""),
    ] {
        bad(json, &[], &["unknown key", unknown, &format!("nearest known key is {near}")]);
    }
    bad(r#"{"batch.max_events":1}"#, &[], &["unknown key", "nested", r#"{"batch": {"max_events": ...}}"#]);
    bad(r#"{"batch":5}"#, &[], &["batch is 5", "an object with max_events, max_bytes, max_age_ms"]);
    bad(r#"{"tls":[]}"#, &[], &["tls is an array", "ca_file"]);
}

/// JSON that makes a neighbour leave room, so that the bounds of one key can be tried alone.
fn with_room(name: &str, value: &str) -> String {
    let room = match name {
        "segment_bytes" => r#","queue_bytes":4294967296"#,
        "max_event_bytes" => r#","segment_bytes":1073741824,"queue_bytes":4294967296"#,
        _ => "",
    };
    format!("{}{room}}}", nested(name, value).strip_suffix('}').unwrap())
}

#[test]
fn every_integer_keeps_its_range() {
    for key in KEYS {
        let Kind::Integer { min, max } = key.kind else { continue };
        for value in [min, max] {
            parse(&with_room(key.name, &value.to_string()))
                .unwrap_or_else(|e| panic!("{} {value}: {e}", key.name));
            if !["segment_bytes", "max_event_bytes"].contains(&key.name) {
                parse_env("", &[(&key.env_name(), &value.to_string())]).unwrap();
            }
        }
        let allowed = format!("allowed: an integer from {min} to {max}");
        let above = (max + 1).to_string();
        let below = min.checked_sub(1).map_or("-1".to_string(), |below| below.to_string());
        for value in [
            &above,
            &below,
            "-1",
            "1.0",
            "1e3",
            "1.5",
            "\"1000\"",
            "true",
            "[]",
            "{}",
            "18446744073709551616",
        ] {
            let text = bad(&nested(key.name, value), &[], &[&allowed]);
            assert!(text.starts_with(&format!("{} is ", key.name)), "{text}");
        }
        bad(&nested(key.name, &above), &[], &[&format!("is {above}")]);
        let variable = key.env_name();
        for value in [&above, "-1", "+1000", "1.0", "1_000", " 1000", "0x10", "ten", "99999999999999999999"] {
            bad("", &[(&variable, value)], &[&format!("{variable} (key {}) is", key.name), value, &allowed]);
        }
    }
}

#[test]
fn words() {
    for (key, word, part) in [
        (
            "format",
            "\"NDJSON\"",
            "format is \"NDJSON\": the nearest is ndjson; allowed: ndjson, json, posthog, ",
        ),
        ("format", "\"protobuf\"", "format is \"protobuf\"; allowed"),
        ("encoding", "\"grpc\"", "allowed: protobuf or json"),
        ("format", "1", "format is 1; allowed"),
        ("compression", "\"gz\"", "the nearest is gzip; allowed: none, gzip or zstd"),
        ("compression", "\"\"", "compression is \"\""),
        ("resolver", "\"sys\"", "allowed: builtin or system"),
        ("on_full", "\"wait\"", "allowed: drop or block"),
        ("clock", "true", "clock is true; allowed: precise or coarse"),
        ("disabled", "\"true\"", "disabled is \"true\"; allowed: true or false"),
        ("disabled", "1", "disabled is 1; allowed: true or false"),
    ] {
        bad(&nested(key, word), &[], &[part]);
    }
    // Each word of the table means something of its own.
    let env = [("TELEMETRY_API_KEY", "k"), ("TELEMETRY_SPOOL_DIR", "s")];
    for key in KEYS {
        let Kind::Choice(now) = key.kind else { continue };
        let configs: Vec<_> =
            now.iter().map(|w| parse_env(&nested(key.name, &format!("{w:?}")), &env).unwrap()).collect();
        for (at, config) in configs.iter().enumerate() {
            assert!(!configs[..at].contains(config), "{} {}", key.name, now[at]);
        }
    }
}

#[test]
fn strings() {
    for key in KEYS.iter().filter(|key| matches!(key.kind, Kind::Text | Kind::Secret)) {
        for value in ["1", "true", "[]", "{}"] {
            bad(
                &nested(key.name, value),
                &[],
                &[&format!("{} is ", key.name), &format!("allowed: {}", key.rule)],
            );
        }
        if key.name != "proxy" {
            bad(&nested(key.name, "\"\""), &[], &["it is empty", key.name]);
        }
        bad("", &[(&key.env_name(), "a\u{FFFD}b")], &["not UTF-8", &key.env_name()]);
    }
    for name in ["a", "web.1_x-Y", &"n".repeat(64)] {
        assert_eq!(good(&nested("name", &format!("{name:?}"))).name.as_deref(), Some(name));
    }
    for name in [".", "..", ".a", "a/b", "a b", "é", "a\\u0000", &"n".repeat(65)] {
        bad(&nested("name", &format!("\"{name}\"")), &[], &["name is ", "allowed: 1 to 64 of"]);
    }
    bad(r#"{"tls":{"ca_file":"a\u0000b"}}"#, &[], &["tls.ca_file is \"a\\0b\": a path has no NUL"]);
    bad(r#"{"tls":{"cert_file":"c"}}"#, &[], &["tls.cert_file is set and tls.key_file is not"]);
    bad(r#"{"tls":{"key_file":"c"}}"#, &[], &["tls.key_file is set and tls.cert_file is not"]);
    bad("", &[("TELEMETRY_TLS_KEY_FILE", "k")], &["tls.cert_file is not"]);
}

#[test]
fn environment_fills_what_the_json_leaves_out() {
    let env = [
        ("TELEMETRY_ENDPOINT", "http://env/x"),
        ("TELEMETRY_BATCH_MAX_EVENTS", "7"),
        ("TELEMETRY_BATCH_MAX_BYTES", "2048"),
        ("TELEMETRY_TLS_CA_FILE", "ca"),
        ("TELEMETRY_RETRY_MAX_AGE_S", "9"),
        ("TELEMETRY_HEADERS", r#"{"a":"b"}"#),
        ("TELEMETRY_COMPRESSION", "none"),
        ("TELEMETRY_BEARER", "tok"),
    ];
    let config = parse_env(r#"{"batch":{"max_events":5},"headers":{},"compression":null}"#, &env).unwrap();
    assert_eq!(config.endpoint.to_string(), "http://env/x");
    assert_eq!(config.batch, Batch { max_events: 5, max_bytes: 2048, max_age_ms: 1000 });
    assert_eq!(config.tls.ca_file.as_deref(), Some(Path::new("ca")));
    assert_eq!(config.retry.max_age_s, 9);
    assert_eq!(config.headers, [], "an object in the JSON replaces the whole variable");
    assert_eq!(config.compression, Compression::None, "null leaves the variable in force");
    assert_eq!(config.bearer.as_deref(), Some("tok"));
    assert_eq!(parse_env("", &env).unwrap().headers, [("a".to_string(), "b".to_string())]);

    // What the JSON overrides is not looked at.
    let broken = [("TELEMETRY_IDLE_MS", "x"), ("TELEMETRY_ENDPOINT", "nonsense"), ("TELEMETRY_HEADERS", "{")];
    parse_env(r#"{"idle_ms":1,"endpoint":"file:x","headers":{}}"#, &broken).unwrap();

    bad(
        "",
        &[("TELEMETRY_ENDPOINT", "ftp://x")],
        &["TELEMETRY_ENDPOINT (key endpoint) is \"ftp://x\"", "file:PATH"],
    );
    bad("", &[("TELEMETRY_FORMAT", "xml")], &["TELEMETRY_FORMAT (key format) is \"xml\""]);
    bad("", &[("TELEMETRY_HEADERS", "{")], &["TELEMETRY_HEADERS (key headers) is ***: it is not valid JSON"]);
    bad("", &[("TELEMETRY_HEADERS", "[]")], &["TELEMETRY_HEADERS", "not a JSON object"]);
    bad("", &[("TELEMETRY_HEADERS", r#"{"a":"1","a":"2"}"#)], &["TELEMETRY_HEADERS", "key a twice"]);
    // Other programs' variables are theirs.
    parse_env("", &[("TELEMETRY_RUNTIME_DIR", "/x"), ("TELEMETRY_NONSENSE", "1")]).unwrap();
}

#[test]
fn disabled() {
    for (value, expected) in [("1", true), ("true", true), ("0", false), ("false", false)] {
        assert_eq!(parse_env("", &[("TELEMETRY_DISABLED", value)]).unwrap().disabled, expected);
    }
    assert!(!parse_env(r#"{"disabled":false}"#, &[("TELEMETRY_DISABLED", "1")]).unwrap().disabled);
    for value in ["TRUE", "yes", "2"] {
        bad(
            "",
            &[("TELEMETRY_DISABLED", value)],
            &["TELEMETRY_DISABLED (key disabled)", "true or false", "1 or 0"],
        );
    }
    // It hides no mistake.
    bad(r#"{"nmae":"x"}"#, &[("TELEMETRY_DISABLED", "1")], &["unknown key"]);
    bad(r#"{"disabled":true,"idle_ms":0}"#, &[], &["idle_ms is 0"]);
}

#[test]
fn bad_endpoints() {
    bad(
        r#"{"endpoint":"ftp://h"}"#,
        &[],
        &["endpoint is \"ftp://h\": not an address", "http+unix:///path.sock:/path"],
    );
    bad(
        r#"{"endpoint":"http://h:0"}"#,
        &[],
        &["endpoint is \"http://h:0\": the port is a number from 1 to 65535"],
    );
}

#[test]
fn one_way_to_say_who_we_are() {
    let config = good(r#"{"endpoint":"http://u:p%40@h/x"}"#);
    assert_eq!(config.basic.as_deref(), Some("u:p@"));
    assert_eq!(config.endpoint, Endpoint::parse("http://h/x").unwrap());
    assert_eq!(good(r#"{"basic":"pk:sk:é"}"#).basic.as_deref(), Some("pk:sk:é"));
    assert_eq!(good(r#"{"basic":"key:"}"#).basic.as_deref(), Some("key:"));

    let url = "a user and password in endpoint";
    for (json, env, first, second) in [
        (r#"{"endpoint":"http://u:p@h","basic":"a:b"}"#, None, url, "basic"),
        (r#"{"endpoint":"http://u:p@h","bearer":"t"}"#, None, url, "bearer"),
        (r#"{"basic":"a:b","bearer":"t"}"#, None, "basic", "bearer"),
        (r#"{"basic":"a:b"}"#, Some(("TELEMETRY_BEARER", "t")), "basic", "TELEMETRY_BEARER (key bearer)"),
        (
            r#"{"endpoint":"http://u:p@h"}"#,
            Some(("TELEMETRY_BASIC", "a:b")),
            url,
            "TELEMETRY_BASIC (key basic)",
        ),
        (r#"{"bearer":"t","headers":{"authorization":"x"}}"#, None, "bearer", "Authorization in headers"),
    ] {
        bad(json, env.as_slice(), &[&format!("{first} and {second} are all set")]);
    }
    for value in ["nocolon", ":nouser", "a:b\\n"] {
        bad(&nested("basic", &format!("\"{value}\"")), &[], &["basic is ***", "allowed: user:password"]);
    }
    for key in ["api_key", "bearer"] {
        for value in ["k\\n", "a b", " k", "k\\t"] {
            bad(
                &nested(key, &format!("\"{value}\"")),
                &[],
                &[&format!("{key} is ***"), "white space or a line break"],
            );
        }
        bad(&nested(key, "\"é\""), &[], &["strange character", "visible ASCII"]);
    }
    assert!(parse_env(r#"{"format":"posthog"}"#, &[("TELEMETRY_API_KEY", "k")]).is_ok());
}

#[test]
fn header_names_and_values() {
    let config = good(r#"{"headers":{"X-Tab":"a\tb","!#$%&'*+-.^_`|~":"é","null":null}}"#);
    assert_eq!(config.headers.len(), 2);
    for (headers, part) in [
        (r#"{"":"x"}"#, "is no header name"),
        (r#"{"a b":"x"}"#, "is no header name"),
        (r#"{"a:":"x"}"#, "is no header name"),
        (r#"{"é":"x"}"#, "is no header name"),
        (r#"{"a\r\nb":"x"}"#, "is no header name"),
        (r#"{"a":"x\r\ny: z"}"#, "control character"),
        (r#"{"a":"x\n"}"#, "control character"),
        (r#"{"a":"\u0000"}"#, "control character"),
        (r#"{"a":1}"#, "headers.a is a number and not a string"),
        (r#"{"a":{}}"#, "headers.a is an object and not a string"),
        (r#"{"X-a":"1","x-A":"2"}"#, "twice"),
        (r#"{"Host":"x"}"#, "set by the library"),
        (r#"{"CONTENT-LENGTH":"x"}"#, "set by the library"),
        (r#"{"content-type":"x"}"#, "set by the library"),
        (r#"{"Content-Encoding":"x"}"#, "set by the library"),
        (r#"{"Transfer-Encoding":"x"}"#, "set by the library"),
        (r#"{"Connection":"x"}"#, "set by the library"),
        (r#""a: secret""#, "it is a string"),
        ("[]", "it is an array"),
    ] {
        let text =
            bad(&nested("headers", headers), &[], &["headers is ***", part, "allowed: an object of strings"]);
        assert!(!text.contains("secret"), "{text}");
    }
}

#[test]
fn sizes_fit_into_each_other() {
    for (json, queue, segment, event) in [
        (r#"{"queue_bytes":131072}"#, 131_072, 65_536, 65_024),
        (r#"{"queue_bytes":1000000}"#, 1_000_000, 499_712, 262_144),
        (r#"{"queue_bytes":2097151}"#, 2_097_151, 1_044_480, 262_144),
        (r#"{"queue_bytes":2097152}"#, 2 << 20, 1 << 20, 262_144),
        (r#"{"segment_bytes":65536}"#, 16 << 20, 65_536, 65_024),
        (r#"{"segment_bytes":8388608}"#, 16 << 20, 8 << 20, 262_144),
        (r#"{"queue_bytes":131072,"max_event_bytes":65024}"#, 131_072, 65_536, 65_024),
        (r#"{"max_event_bytes":1048064}"#, 16 << 20, 1 << 20, 1_048_064),
        (r#"{"max_event_bytes":1}"#, 16 << 20, 1 << 20, 1),
    ] {
        let config = good(json);
        assert_eq!(
            (config.queue_bytes, config.segment_bytes, config.max_event_bytes),
            (queue, segment, event),
            "{json}"
        );
    }
    let two = "queue_bytes must hold at least two segments";
    for (json, parts) in [
        (
            r#"{"queue_bytes":131072,"segment_bytes":69632}"#,
            ["queue_bytes is 131072", "segment_bytes is 69632", two],
        ),
        (
            r#"{"segment_bytes":16777216}"#,
            ["queue_bytes is 16777216 (by default)", "segment_bytes is 16777216", two],
        ),
        (
            r#"{"segment_bytes":65537}"#,
            ["segment_bytes is 65537", "65536 to 1073741824", "a multiple of 4096"],
        ),
        (
            r#"{"max_event_bytes":1048065}"#,
            [
                "max_event_bytes is 1048065",
                "segment_bytes is 1048576 (by default)",
                "would have to be 1052672",
            ],
        ),
        (
            r#"{"queue_bytes":131072,"max_event_bytes":65025}"#,
            ["max_event_bytes is 65025", "segment_bytes is 65536 (by default)", "at most 65024"],
        ),
    ] {
        bad(json, &[], &parts);
    }
    bad(
        r#"{"segment_bytes":65536}"#,
        &[("TELEMETRY_MAX_EVENT_BYTES", "70000")],
        &["TELEMETRY_MAX_EVENT_BYTES (key max_event_bytes) is 70000 and segment_bytes is 65536"],
    );
}

#[test]
fn retry_stays_in_order() {
    for (json, initial_ms, max_ms) in [
        (r#"{"retry":{"initial_ms":60000}}"#, 60_000, 60_000),
        (r#"{"retry":{"max_ms":100}}"#, 100, 100),
        (r#"{"retry":{"max_ms":100,"initial_ms":99}}"#, 99, 100),
    ] {
        let retry = good(json).retry;
        assert_eq!((retry.initial_ms, retry.max_ms), (initial_ms, max_ms), "{json}");
    }
    let parts = ["retry.max_ms is 9 and retry.initial_ms is 10", "at least"];
    bad(r#"{"retry":{"initial_ms":10,"max_ms":9}}"#, &[], &parts);
}

#[test]
fn proxy_setting() {
    let env = [("https_proxy", "http://u:pw@p:1"), ("NO_PROXY", "other")];
    let proxy = parse_env(r#"{"endpoint":"https://h"}"#, &env).unwrap().proxy;
    assert_eq!(proxy, Some(Proxy::parse("http://u:pw@p:1").unwrap()));
    assert_eq!(parse_env(r#"{"endpoint":"https://h","proxy":""}"#, &env).unwrap().proxy, None);
    assert_eq!(parse_env("", &env).unwrap().proxy, None, "a file has no proxy");
    for url in ["socks5://p", "https://p"] {
        let parts =
            [&format!("is \"{url}\": only http://"), "allowed: an http:// address without a path, or"];
        bad(&nested("proxy", &format!("{url:?}")), &[], &parts);
        bad("", &[("TELEMETRY_PROXY", url)], &parts);
    }
}

#[test]
fn test_switches_come_from_the_environment_only() {
    let switches = |env: &[(&str, &str)]| parse_env("", env).unwrap().test;
    assert!(switches(&[("TELEMETRY_TEST_NO_WIPEONFORK", "1")]).no_wipeonfork);
    assert!(!switches(&[("TELEMETRY_TEST_NO_WIPEONFORK", "0")]).no_wipeonfork);
    assert_eq!(switches(&[("TELEMETRY_TEST_PANIC", "sender")]).panic.as_deref(), Some("sender"));
    assert_eq!(switches(&[("TELEMETRY_TEST_PANIC", "")]).panic, None);
    bad(
        "",
        &[("TELEMETRY_TEST_PANIC", "open")],
        &["TELEMETRY_TEST_PANIC is \"open\"; allowed: enqueue or sender"],
    );
    bad(
        "",
        &[("TELEMETRY_TEST_NO_WIPEONFORK", "on")],
        &["TELEMETRY_TEST_NO_WIPEONFORK is \"on\"", "allowed: 1, 0"],
    );
    bad(r#"{"test":{"panic":"sender"}}"#, &[], &["unknown key"]);
}

#[test]
fn the_process_environment() {
    assert_eq!(process_env("TELEMETRY_SURELY_NOT_SET_BY_ANYBODY"), None);
    assert!(process_env("PATH").is_some());
}

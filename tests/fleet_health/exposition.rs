//! A strict reader of Prometheus' text format, written from its description and from nothing of ours.

use std::collections::{BTreeMap, BTreeSet};

#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub value: f64,
}

#[derive(Debug, Default)]
pub struct Family {
    pub kind: String,
    pub samples: Vec<Sample>,
}

impl Family {
    /// The value of the only sample with these labels.
    pub fn value(&self, labels: &[(&str, &str)]) -> f64 {
        let wanted: BTreeMap<String, String> =
            labels.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        let found: Vec<_> = self.samples.iter().filter(|s| s.labels == wanted).collect();
        assert_eq!(found.len(), 1, "{labels:?} in {:?}", self.samples);
        found[0].value
    }
}

fn is_name(text: &str, colon: bool) -> bool {
    let first =
        text.chars().next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_' || (colon && c == ':'));
    first && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || (colon && c == ':'))
}

fn value(text: &str) -> f64 {
    match text {
        "NaN" => f64::NAN,
        "+Inf" => f64::INFINITY,
        "-Inf" => f64::NEG_INFINITY,
        _ => {
            assert!(text.starts_with(|c: char| c.is_ascii_digit() || c == '-'), "{text:?} is no number");
            text.parse().unwrap_or_else(|_| panic!("{text:?} is no number"))
        }
    }
}

/// `name{a="b",...} value`; no time.
fn sample(line: &str) -> Sample {
    let end = line.find(['{', ' ']).unwrap_or_else(|| panic!("no value: {line:?}"));
    let (name, mut rest) = line.split_at(end);
    assert!(is_name(name, true), "{line:?}");
    let mut labels = BTreeMap::new();
    if let Some(inside) = rest.strip_prefix('{') {
        rest = inside;
        loop {
            let (key, after) = rest.split_once("=\"").unwrap_or_else(|| panic!("no label: {line:?}"));
            assert!(is_name(key, false), "{key:?} in {line:?}");
            let mut text = String::new();
            let mut chars = after.char_indices();
            let end = loop {
                match chars.next().unwrap_or_else(|| panic!("no end: {line:?}")) {
                    (at, '"') => break at,
                    (_, '\\') => match chars.next().map(|(_, c)| c) {
                        Some('n') => text.push('\n'),
                        Some(c @ ('\\' | '"')) => text.push(c),
                        other => panic!("the escape {other:?} in {line:?}"),
                    },
                    (_, c) => text.push(c),
                }
            };
            assert!(labels.insert(key.to_string(), text).is_none(), "{key} twice in {line:?}");
            rest = &after[end + 1..];
            match rest.strip_prefix(',') {
                Some(more) => rest = more,
                None => break,
            }
        }
        rest = rest.strip_prefix('}').unwrap_or_else(|| panic!("no brace: {line:?}"));
    }
    let text = rest.strip_prefix(' ').unwrap_or_else(|| panic!("no space: {line:?}"));
    Sample { name: name.into(), labels, value: value(text) }
}

/// Reads all of it, and checks what the format demands: help and type once and first, families together, no series
/// twice, no carriage return, a line break at the end.
pub fn read(text: &str) -> BTreeMap<String, Family> {
    assert!(text.ends_with('\n') && !text.contains('\r') && !text.contains("\n\n"));
    let mut families: BTreeMap<String, Family> = BTreeMap::new();
    let (mut helped, mut current, mut series) = (None, None, BTreeSet::new());
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').unwrap();
            assert!(is_name(name, true) && !help.is_empty() && !help.contains('\\'));
            assert!(!families.contains_key(name), "{name} is not in one piece");
            helped = Some(name.to_string());
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            assert_eq!(helped.take().as_deref(), Some(name), "its help stands before a type");
            assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
            families.insert(name.into(), Family { kind: kind.into(), ..Family::default() });
            current = Some(name.to_string());
        } else {
            assert!(!line.starts_with('#'), "{line:?}");
            let sample = sample(line);
            let name = current.clone().expect("a family before a sample");
            let family = families.get_mut(&name).unwrap();
            let of_histogram =
                ["_bucket", "_sum", "_count"].iter().any(|end| sample.name == format!("{name}{end}"));
            assert!(if family.kind == "histogram" { of_histogram } else { sample.name == name }, "{line:?}");
            assert_eq!(family.kind == "counter", name.ends_with("_total"), "{name}");
            assert!(family.kind == "gauge" || sample.value >= 0.0, "{line:?}");
            assert!(series.insert(format!("{}{:?}", sample.name, sample.labels)), "twice: {line:?}");
            family.samples.push(sample);
        }
    }
    assert_eq!(helped, None);
    families.values().filter(|f| f.kind == "histogram").for_each(check_histogram);
    families
}

/// Buckets rise to `+Inf`, which is the count; there is a sum.
fn check_histogram(family: &Family) {
    let mut groups: BTreeMap<String, Vec<&Sample>> = BTreeMap::new();
    for sample in &family.samples {
        let mut labels = sample.labels.clone();
        labels.remove("le");
        groups.entry(format!("{labels:?}")).or_default().push(sample);
    }
    for samples in groups.values() {
        let of = |end: &str| samples.iter().filter(|s| s.name.ends_with(end)).collect::<Vec<_>>();
        let (buckets, count) = (of("_bucket"), of("_count"));
        let bounds: Vec<f64> = buckets.iter().map(|s| value(&s.labels["le"])).collect();
        assert!(bounds.windows(2).all(|two| two[0] < two[1]), "{bounds:?}");
        assert_eq!(bounds.last(), Some(&f64::INFINITY));
        assert!(buckets.windows(2).all(|two| two[0].value <= two[1].value));
        assert_eq!((count.len(), of("_sum").len()), (1, 1));
        assert_eq!(buckets.last().unwrap().value, count[0].value);
    }
}

#[test]
fn the_reader_is_strict() {
    let good = "# HELP a_total Help.\n# TYPE a_total counter\na_total{x=\"1\\\"\\\\\\n\"} 1\n";
    assert_eq!(read(good)["a_total"].value(&[("x", "1\"\\\n")]), 1.0);
    for bad in [
        "a 1\n",
        "# TYPE a gauge\na 1\n",
        "# HELP a H.\n# TYPE a gauge\na 1",
        "# HELP a H.\n# TYPE a gauge\na 1\na 2\n",
        "# HELP a H.\n# TYPE a gauge\nb 1\n",
        "# HELP a H.\n# TYPE a counter\na 1\n",
        "# HELP a H.\n# TYPE a gauge\na{x=\"1} 1\n",
        "# HELP a H.\n# TYPE a gauge\na{x=\"\\t\"} 1\n",
        "# HELP a H.\n# TYPE a gauge\na{1x=\"\"} 1\n",
        "# HELP a H.\n# TYPE a gauge\na{x=\"\",} 1\n",
        "# HELP a H.\n# TYPE a gauge\na  1\n",
        "# HELP a H.\n# TYPE a gauge\na inf\n",
        "# HELP a H.\n# TYPE a gauge\na 1 \n",
        "# HELP a H.\n# TYPE a histogram\na_bucket{le=\"+Inf\"} 1\na_sum 1\na_count 2\n",
        "# HELP a H.\n# TYPE a histogram\na_bucket{le=\"1\"} 1\na_sum 1\na_count 1\n",
        "# HELP a H.\n# TYPE a histogram\na_bucket{le=\"1\"} 2\na_bucket{le=\"+Inf\"} 1\na_sum 1\na_count 1\n",
    ] {
        assert!(std::panic::catch_unwind(|| read(bad)).is_err(), "{bad:?}");
    }
}

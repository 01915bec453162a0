//! The status to look at: one HTML page that needs nothing from elsewhere.
//!
//! Invariants:
//! - It is whole as it is served. The script only fetches it again each second and puts in place what differs; without
//!   scripts the browser loads it again.
//! - Every text of the status is escaped ([`Text`]), and the page allows no script but its own, by its hash: what a
//!   worker says it is doing is somebody's data.
//! - A state is told by its name, not by its colour alone.
#![forbid(unsafe_code)]

use super::document::{LastExit, Status, Worker};
use super::http::Answer;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use std::fmt::{self, Display, Formatter};

const CSS: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// The page as it is answered.
pub fn answer(status: &Status) -> Answer {
    let mut answer = Answer::new(200, "text/html; charset=utf-8", html(status));
    answer.headers.push(("Content-Security-Policy", policy()));
    answer
}

fn policy() -> String {
    let hash = |text: &str| STANDARD.encode(ring::digest::digest(&ring::digest::SHA256, text.as_bytes()));
    format!(
        "default-src 'none'; style-src 'sha256-{}'; script-src 'sha256-{}'; connect-src 'self'; img-src data:; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        hash(CSS),
        hash(SCRIPT)
    )
}

/// The page.
pub fn html(status: &Status) -> String {
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>{}</title>\n\
         <link rel=\"icon\" href=\"data:,\">\n<noscript><meta http-equiv=\"refresh\" content=\"2\"></noscript>\n\
         <style>{CSS}</style>\n</head>\n<body>\n<main>\n\
         <p id=\"lost\" role=\"alert\" hidden>The supervisor does not answer; this is what it said last.</p>\n\
         <div id=\"fleet\">\n{}</div>\n</main>\n<script>{SCRIPT}</script>\n</body>\n</html>\n",
        Title(status),
        Fleet(status)
    )
}

/// Text that is shown, whatever it contains.
struct Text<'a>(&'a str);

impl Display for Text<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for c in self.0.chars() {
            match c {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                // Not allowed in HTML, and nothing to see.
                c if c.is_control() => f.write_str("\u{fffd}")?,
                c => write!(f, "{c}")?,
            }
        }
        Ok(())
    }
}

/// Seconds as people read them.
struct Age(f64);

impl Display for Age {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let whole = self.0.max(0.0) as u64;
        let (days, hours, minutes) = (whole / 86_400, whole / 3600 % 24, whole / 60 % 60);
        match self.0 {
            s if s < 0.095 => write!(f, "{:.0} ms", s.max(0.0) * 1000.0),
            s if s < 9.95 => write!(f, "{s:.1} s"),
            s if s < 120.0 => write!(f, "{s:.0} s"),
            s if s < 7200.0 => write!(f, "{} min", whole / 60),
            s if s < 172_800.0 => write!(f, "{} h {minutes} min", whole / 3600),
            _ => write!(f, "{days} d {hours} h"),
        }
    }
}

/// A number in groups of three.
struct Count(u64);

impl Display for Count {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let digits = self.0.to_string();
        for (i, digit) in digits.chars().enumerate() {
            if i > 0 && (digits.len() - i).is_multiple_of(3) {
                // A narrow space that does not break.
                f.write_str("\u{202f}")?;
            }
            write!(f, "{digit}")?;
        }
        Ok(())
    }
}

/// In a browser's tab the bad news come first.
struct Title<'a>(&'a Status);

impl Display for Title<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let s = self.0;
        let verdict = match (s.live, s.ready) {
            (false, _) => "NOT LIVE",
            (_, false) => "not ready",
            _ => "ready",
        };
        write!(f, "{verdict}: {}", Text(&s.name))
    }
}

struct Fleet<'a>(&'a Status);

impl Display for Fleet<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let s = self.0;
        writeln!(
            f,
            "<header><h1>{}</h1> <span class=\"dim\">{}, up {}, supervisor {}, libtelemetry {}</span></header>",
            Text(&s.name),
            s.state,
            Age(s.supervisor.uptime_s),
            s.supervisor.pid,
            Text(s.supervisor.version)
        )?;
        let class = if s.live && s.ready { "good" } else { "bad" };
        write!(f, "<section class=\"card banner {class}\" role=\"status\" aria-label=\"Health\">")?;
        verdict(f, s.live, "Live", "Not live")?;
        verdict(f, s.ready, "Ready", "Not ready")?;
        if !s.reasons.is_empty() {
            f.write_str("<ul class=\"reasons\" aria-label=\"Reasons\">")?;
            s.reasons.iter().try_for_each(|reason| write!(f, "<li>{}</li>", Text(reason)))?;
            f.write_str("</ul>")?;
        }
        writeln!(f, "</section>")?;
        cards(f, s)?;
        f.write_str("<div class=\"map\" aria-hidden=\"true\">")?;
        s.workers.iter().try_for_each(|w| write!(f, "<span class=\"{}\"></span>", w.state))?;
        writeln!(f, "</div>")?;
        table(f, &s.workers)
    }
}

fn verdict(f: &mut Formatter<'_>, good: bool, yes: &str, no: &str) -> fmt::Result {
    let (class, sign, word) = if good { ("good", '\u{2713}', yes) } else { ("bad", '\u{2715}', no) };
    write!(
        f,
        "<span class=\"verdict {class}\"><span class=\"sign\" aria-hidden=\"true\">{sign}</span>{word}</span>"
    )
}

fn cards(f: &mut Formatter<'_>, s: &Status) -> fmt::Result {
    f.write_str("<dl>")?;
    let mut card = |title: &str, number: &dyn Display, more: &dyn Display| {
        writeln!(
            f,
            "<div class=\"card\"><dt>{title}</dt><dd class=\"num\">{number}</dd><dd><small>{more}</small></dd></div>"
        )
    };
    let n = &s.slots;
    let mut others = format!("{} busy", n.busy);
    for (count, what) in [
        (n.starting, "starting"),
        (n.stopping, "stopping"),
        (n.backoff, "in backoff"),
        (n.crash_looping, "crash-looping"),
        (n.failed, "failed"),
        (n.stale, "stale"),
        (n.abandoned, "abandoned"),
    ] {
        if count > 0 {
            others += &format!(", {count} {what}");
        }
    }
    card("Workers ready", &format_args!("{} of {}", n.ready, n.want), &others)?;
    let items = format!("{} failed, {} dead", Count(s.totals.failed), Count(s.totals.dead));
    card("Items done", &Count(s.totals.done), &items)?;
    let causes: Vec<String> = s
        .restarts
        .by_cause
        .iter()
        .filter(|(_, n)| **n > 0)
        .map(|(c, n)| format!("{} {c}", Count(*n)))
        .collect();
    card("Restarts", &Count(s.restarts.total), &Text(&causes.join(", ")))?;
    let stale =
        if s.stale_after_s > 0.0 { format!("stale after {}", Age(s.stale_after_s)) } else { String::new() };
    match s.oldest_beat_age_s {
        Some(age) => card("Oldest beat", &Age(age), &stale)?,
        None => card("Oldest beat", &"none", &stale)?,
    }
    match (s.probe.bound, s.probe.port, &s.probe.error) {
        (true, Some(port), _) => card("Health endpoint", &format_args!("port {port}"), &"bound"),
        (true, None, _) => card("Health endpoint", &"socket", &"bound"),
        (false, _, Some(why)) => card("Health endpoint", &"not bound", &Text(why)),
        (false, _, None) => card("Health endpoint", &"none", &""),
    }?;
    writeln!(f, "</dl>")
}

fn table(f: &mut Formatter<'_>, workers: &[Worker]) -> fmt::Result {
    f.write_str(
        "<div class=\"card table\" role=\"region\" aria-labelledby=\"workers\" tabindex=\"0\"><table>\
         <caption id=\"workers\">Workers</caption>\n<thead><tr>",
    )?;
    for (class, title) in [
        ("n", "Slot"),
        ("", "Name"),
        ("", "State"),
        ("n", "Pid"),
        ("n", "Incarnation"),
        ("n", "Beat age"),
        ("", "Doing"),
        ("n", "Items"),
        ("n", "Restarts"),
        ("", "Last exit"),
        ("", "Next start"),
    ] {
        write!(f, "<th scope=\"col\" class=\"{class}\">{title}</th>")?;
    }
    writeln!(f, "</tr></thead>\n<tbody>")?;
    for worker in workers {
        writeln!(f, "{}", Row(worker))?;
    }
    if workers.is_empty() {
        writeln!(f, "<tr><td colspan=\"11\">There are no workers yet.</td></tr>")?;
    }
    writeln!(f, "</tbody></table></div>")
}

/// What there is, or a dash.
struct Maybe<T>(Option<T>);

impl<T: Display> Display for Maybe<T> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(value) => value.fmt(f),
            None => f.write_str("\u{2013}"),
        }
    }
}

struct Row<'a>(&'a Worker);

impl Display for Row<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let w = self.0;
        let count = |name: &str| w.counters.get(name).copied().unwrap_or(0);
        write!(
            f,
            "<tr><th scope=\"row\" class=\"n\">{}</th><td>{}</td><td><span class=\"state {}\">{}</span></td>\
             <td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td>",
            w.slot,
            Text(&w.name),
            w.state,
            w.state.replace('_', " "),
            Maybe(w.pid),
            w.incarnation,
            Maybe(w.beat_age_s.map(Age)),
        )?;
        // Isolated: letters that run from right to left do not turn the columns round.
        write!(f, "<td class=\"doing\"><bdi>{}</bdi>", Text(&w.doing))?;
        if let Some(age) = w.item_age_s {
            write!(f, "<small>for {}</small>", Age(age))?;
        }
        write!(f, "</td><td class=\"n\">{}", Count(count("done")))?;
        let bad = ["failed", "dead"].map(|name| (name, count(name)));
        let bad: Vec<_> =
            bad.iter().filter(|(_, n)| *n > 0).map(|(name, n)| format!("{} {name}", Count(*n))).collect();
        if !bad.is_empty() {
            write!(f, "<small>{}</small>", bad.join(", "))?;
        }
        write!(f, "</td><td class=\"n\">{}", w.restarts)?;
        if w.crashes_in_row > 0 {
            write!(f, "<small>{} in a row</small>", w.crashes_in_row)?;
        }
        write!(f, "</td><td>{}</td>", Maybe(w.last_exit.as_ref().map(Exit)))?;
        let waits = matches!(w.state, "backoff" | "crash_looping");
        let next = waits.then(|| match w.not_before_in_s {
            s if s > 0.0 => format!("in {}", Age(s)),
            _ => "now".into(),
        });
        write!(f, "<td>{}</td></tr>", Maybe(next))
    }
}

struct Exit<'a>(&'a LastExit);

impl Display for Exit<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let e = self.0;
        match (e.cause, &e.signal, e.code) {
            ("signal", Some(signal), _) => write!(f, "{}", Text(signal))?,
            ("exit" | "exit0", _, Some(code)) => write!(f, "exit {code}")?,
            (cause, Some(signal), _) => write!(f, "{}, {}", cause.replace('_', " "), Text(signal))?,
            (cause, None, Some(code)) => write!(f, "{}, exit {code}", cause.replace('_', " "))?,
            (cause, None, None) => write!(f, "{}", cause.replace('_', " "))?,
        }
        let oom = if e.oom && e.cause != "oom" { "out of memory, " } else { "" };
        let core = if e.core { "core dumped, " } else { "" };
        write!(f, "<small>{oom}{core}{} ago</small>", Age(e.age_s))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_text_is_escaped() {
        let evil = "<script>alert('1')</script>\"&\0";
        let s = Status {
            name: evil.into(),
            reasons: vec![evil.into()],
            probe: super::super::document::Probe { bound: false, port: None, error: Some(evil.into()) },
            workers: vec![Worker { name: evil.into(), doing: evil.into(), ..Worker::default() }],
            ..Status::default()
        };
        let page = html(&s);
        let escaped = "&lt;script&gt;alert(&#39;1&#39;)&lt;/script&gt;&quot;&amp;\u{fffd}";
        // In the title, the heading, the reasons, the endpoint's error, the worker's name and words.
        assert_eq!(page.matches(escaped).count(), 6);
        assert!(!page.contains("<script>alert") && !page.contains('\0'));
    }

    #[test]
    fn ages_and_counts_are_for_people() {
        for (age, text) in [
            (0.0, "0 ms"),
            (0.0204, "20 ms"),
            (0.0949, "95 ms"),
            (0.096, "0.1 s"),
            (9.94, "9.9 s"),
            (9.96, "10 s"),
            (119.4, "119 s"),
            (120.0, "2 min"),
            (7199.0, "119 min"),
            (7200.0, "2 h 0 min"),
            (172_799.0, "47 h 59 min"),
            (180_000.0, "2 d 2 h"),
            (-1.0, "0 ms"),
        ] {
            assert_eq!(Age(age).to_string(), text);
        }
        let groups = [0, 999, 1000, 12_345, 1_234_567].map(|n| Count(n).to_string().replace('\u{202f}', " "));
        assert_eq!(groups, ["0", "999", "1 000", "12 345", "1 234 567"]);
    }
}

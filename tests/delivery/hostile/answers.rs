//! Answers that are odd, wrong, or none at all.
use super::End::{Delivered, Denied, Kept, Rejected, Unverified};
use super::villain::OK;
use super::{Case, EVENTS, SECRET, SECRET_BASE64, answer, case, play_all};
use crate::host::Dir;
use serde_json::json;
use std::time::{Duration, SystemTime};

/// With this status line's rest and these header lines.
fn says(name: &'static str, end: super::End, status: &str, headers: &str, body: &str) -> Case {
    let length = body.len();
    answer(name, end, format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {length}\r\n\r\n{body}"))
}

#[test]
fn statuses() {
    play_all(vec![
        says("204", Delivered, "204 No Content", "", ""),
        says("200 without a reason", Delivered, "200", "", ""),
        says("200 with garbage", Delivered, "200 OK", "", "\0\u{1}\u{7f}<html>{\"rejected\":"),
        says("207 with unknown ids", Delivered, "207 M", "", r#"{"errors":[{"id":"nobody","status":400}]}"#),
        says(
            "207 with unknown lines",
            Delivered,
            "207 M",
            "",
            r#"{"rejected":[{"line":99},{"line":-1},{}]}"#,
        ),
        says("226", Delivered, "226 IM Used", "", ""),
        says("300", Denied, "300 Multiple Choices", "", ""),
        says("304", Denied, "304 Not Modified", "", ""),
        says("400", Rejected, "400 Bad Request", "", "no"),
        says("401", Denied, "401 Unauthorized", "WWW-Authenticate: Basic\r\n", ""),
        says("402", Denied, "402 Payment Required", "", ""),
        says("403", Denied, "403 Forbidden", "", ""),
        says("404", Rejected, "404 Not Found", "", ""),
        says("408", Kept, "408 Request Timeout", "", ""),
        says("410", Rejected, "410 Gone", "", ""),
        says("413 always", Rejected, "413 Content Too Large", "", ""),
        says("415 always", Rejected, "415 Unsupported Media Type", "", ""),
        says("415 always, also plain", Rejected, "415 Unsupported Media Type", "", "")
            .large()
            .keys(json!({"compression": "gzip"})),
        says("418", Rejected, "418 I'm a teapot", "", ""),
        says("421", Rejected, "421 Misdirected Request", "", ""),
        says("425", Kept, "425 Too Early", "", ""),
        says("429 without Retry-After", Kept, "429 Too Many Requests", "", ""),
        says("500 for ever", Kept, "500 Internal Server Error", "", "oops"),
        says("501", Kept, "501 Not Implemented", "", ""),
        says("502", Kept, "502 Bad Gateway", "", "<html>"),
        says("503", Kept, "503 Service Unavailable", "", ""),
        says("504", Kept, "504 Gateway Timeout", "", ""),
        says("599", Kept, "599 Made Up", "", ""),
        says("999", Kept, "999 Made Up", "", ""),
    ]);
}

/// 503, and this as to when to come back. Whatever it says, the pause is within `retry.max_ms`.
fn busy(name: &'static str, asked: &str) -> Case {
    says(name, Kept, "503 Busy", &format!("Retry-After: {asked}\r\n"), "")
}

#[test]
fn pauses_that_are_asked_for() {
    let date = |time| httpdate::fmt_http_date(time);
    let now = SystemTime::now();
    play_all(vec![
        busy("in the past", &date(now - Duration::from_secs(3600))),
        busy("long ago", "Thu, 01 Jan 1970 00:00:00 GMT"),
        busy("in a moment", &date(now + Duration::from_secs(2))),
        busy("tomorrow", &date(now + Duration::from_secs(86_400))),
        busy("in 2099", "Thu, 31 Dec 2099 23:59:59 GMT"),
        busy("in 9999", "Fri, 31 Dec 9999 23:59:59 GMT"),
        busy("on no day", "Thu, 32 Foo 2099 25:61:61 GMT"),
        busy("zero", "0"),
        busy("negative", "-3600"),
        busy("positive", "+3600"),
        busy("a fraction", "3600.5"),
        busy("a long time", "3600"),
        busy("a huge number", "99999999999999999999999999"),
        busy("the largest number", "18446744073709551615"),
        busy("no number", "soon"),
        busy("nothing", ""),
        busy("a list", "3600, 7200"),
        says("twice", Kept, "429 Slow", "Retry-After: 3600\r\nRetry-After: 1\r\n", ""),
        says("with success", Delivered, "200 OK", "Retry-After: 3600\r\n", ""),
    ]);
}

#[test]
fn framings() {
    let length = |n: &str| format!("HTTP/1.1 200 OK\r\nContent-Length: {n}\r\n\r\n");
    let chunked = |rest: &str| format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{rest}");
    // What cannot be read ends the connection, so that the answer of each comes once.
    let once = |name, end, text: String| {
        case(name, end, move |v| {
            v.request();
            v.take();
            v.say(&text);
        })
    };
    play_all(vec![
        answer("longer than it says", Delivered, length("2") + "{}{}").rounds(4),
        answer("longer than nothing", Delivered, length("0") + "{}").rounds(4),
        answer("another answer behind it", Delivered, format!("{OK}HTTP/1.1 500 No\r\n\r\n")).rounds(4),
        once("two lengths", Kept, length("2\r\nContent-Length: 3") + "{}").twice(),
        once("a length that is no number", Kept, length("two") + "{}").twice(),
        once("a negative length", Kept, length("-2") + "{}").twice(),
        once("a length beyond all bounds", Kept, length("99999999999999999999") + "{}").twice(),
        once("the largest length", Unverified, length("18446744073709551615") + "{}"),
        once("chunked garbage", Unverified, chunked("garbage")),
        once("a chunk without a size", Unverified, chunked("\r\n\r\n")),
        once("a chunk of negative size", Unverified, chunked("-1\r\n\r\n")),
        once("a chunk that is larger than it says", Unverified, chunked("2\r\n{}{}\r\n0\r\n\r\n")),
        once("a chunk beyond all bounds", Unverified, chunked("fffffffffffffffff\r\n")),
        once("a chunk of the largest size", Unverified, chunked("ffffffffffffffff\r\n{}")),
        answer("chunks and a length", Delivered, {
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 9\r\n\r\n2\r\n{}\r\n0\r\n\r\n"
        })
        .rounds(4),
        once("an encoding that nobody knows", Delivered, {
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: squeezed\r\n\r\n{}".into()
        }),
        once("no length, to the end", Delivered, "HTTP/1.1 200 OK\r\n\r\n{}".into()),
        answer("100 Continue before", Delivered, format!("HTTP/1.1 100 Continue\r\n\r\n{OK}")).rounds(4),
        answer("100 Continue many times", Delivered, "HTTP/1.1 100 Continue\r\n\r\n".repeat(500) + OK),
        answer("early hints", Delivered, format!("HTTP/1.1 103 Hints\r\nLink: </a>\r\n\r\n{OK}")),
        once("another protocol", Kept, "HTTP/1.1 101 Go\r\nUpgrade: h2c\r\n\r\n".into()).twice(),
        answer("bare line feeds", Delivered, "HTTP/1.1 200 OK\nContent-Length: 0\n\n").rounds(4),
        once("HTTP/0.9", Kept, "<html>hello</html>".into()).twice(),
        once("HTTP/2, in words", Kept, "HTTP/2 200\r\ncontent-length: 0\r\n\r\n".into()).twice(),
        once("HTTP/2, its first frame", Kept, "\0\0\x12\x04\0\0\0\0\0\0\x03\0\0\0\x64".into()).twice(),
        once("HTTP/2, its preface", Kept, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".into()).twice(),
        once("another server's greeting", Kept, "220 mail.example ESMTP\r\n".into()).twice(),
        once("a status with a letter", Kept, "HTTP/1.1 2OO OK\r\n\r\n".into()).twice(),
        once("a status of two digits", Kept, "HTTP/1.1 20 OK\r\n\r\n".into()).twice(),
        once("a status below all", Kept, "HTTP/1.1 099 What\r\n\r\n".into()).twice(),
        once("a header without a name", Kept, "HTTP/1.1 200 OK\r\n: x\r\n\r\n".into()).twice(),
        once("a header with a space in its name", Kept, "HTTP/1.1 200 OK\r\na b: x\r\n\r\n".into()).twice(),
        answer("old HTTP", Delivered, "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\n{}").rounds(4),
        says("gzip that is none", Delivered, "200 OK", "Content-Encoding: gzip\r\n", "\x1f garbage"),
        says("gzip in a refusal", Kept, "503 Busy", "Content-Encoding: gzip\r\n", "\x1f garbage"),
        says("an encoding that we did not ask for", Delivered, "200 OK", "Content-Encoding: zz\r\n", "{}"),
    ]);
}

#[test]
fn sizes() {
    let head = |head: &'static str, status: &'static str| format!("HTTP/1.1 {status}\r\n{head}\r\n");
    let huge = |name, end, text: String| {
        let takes = end == Unverified;
        case(name, end, move |v| {
            v.request();
            if takes {
                v.take();
            }
            v.say(&text);
            v.flood("123456789abcdef\n");
        })
    };
    play_all(vec![
        huge("a huge answer", Unverified, head("Content-Length: 9000000\r\n", "200 OK")),
        huge("a huge answer without an end", Unverified, head("", "200 OK")),
        huge("a huge chunk", Unverified, head("Transfer-Encoding: chunked\r\n", "200 OK") + "7fffffff\r\n"),
        huge("a huge refusal", Kept, head("", "503 Busy")),
        case("endless headers", Kept, |v| {
            v.request();
            v.take();
            v.say("HTTP/1.1 200 OK\r\n");
            v.flood("A: 0123456789\r\n");
        })
        .twice(),
        case("an endless header", Kept, |v| {
            v.request();
            v.take();
            v.say("HTTP/1.1 200 OK\r\nA: ");
            v.flood("0123456789");
        })
        .twice(),
        case("an endless status line", Kept, |v| {
            v.request();
            v.take();
            v.say("HTTP/1.1 200 ");
            v.flood("OK");
        })
        .twice(),
        case("an endless size of a chunk", Unverified, |v| {
            v.request();
            v.take();
            v.say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
            v.flood("0");
        }),
        case("endless trailers", Unverified, |v| {
            v.request();
            v.take();
            v.say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n");
            v.flood("A: b\r\n");
        }),
    ]);
}

#[test]
fn answers_that_show_our_credentials() {
    let dir = Dir::new();
    let file = dir.0.join("refused");
    let echo = |what: &str| {
        let said = format!("who is {what}?");
        json!({"rejected": (0..EVENTS).map(|n| json!({"line": n, "reason": said})).collect::<Vec<_>>()})
    };
    let cases = [
        ("the password", format!("us3r:{SECRET}")),
        ("the header", format!("Basic {SECRET_BASE64}")),
        ("the key", SECRET.to_string()),
    ];
    let refusals = cases.map(|(name, what)| {
        let keys = json!({"dead_letter": file});
        says(name, Rejected, "200 OK", "", &echo(&what).to_string()).keys(keys.clone())
    });
    let whole = says("in words", Rejected, "422 No", "", &format!("{SECRET} is no key"))
        .keys(json!({"dead_letter": file}));
    play_all(refusals.into_iter().chain([whole]).collect());
    let kept = std::fs::read_to_string(&file).unwrap();
    assert!(!kept.contains(SECRET) && !kept.contains(SECRET_BASE64), "{kept}");
    assert!(kept.contains("who is ***?") && kept.contains("*** is no key"), "{kept}");
}

#[test]
fn answers_that_come_too_early() {
    play_all(vec![
        // The server reads on.
        case("success before the request was read", Delivered, |v| {
            v.request_saying(OK);
            v.take();
        })
        .large(),
        // It does not: what became of the rest nobody knows.
        case("success and the end before the request was read", Unverified, |v| {
            v.head();
            v.claim(0..EVENTS);
            v.say(OK);
        })
        .large(),
        case("refusal before the request was read", Rejected, |v| {
            v.head();
            v.say("HTTP/1.1 413 Content Too Large\r\nContent-Length: 0\r\n\r\n");
            v.half_close();
            v.hang();
        })
        .large(),
        case("busy before the request was read", Kept, |v| {
            v.head();
            v.say("HTTP/1.1 503 Busy\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        })
        .large(),
        case("an answer before there was a request", Kept, |v| {
            v.say("HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n");
            v.request();
        }),
    ]);
}

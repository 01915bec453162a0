//! Connections that break off, and ones that go on for ever.
use super::End::{Delivered, Kept, Unverified};
use super::villain::OK;
use super::{case, play_all};
use serde_json::json;

#[test]
fn connections_that_break_off() {
    play_all(vec![
        case("cut after accept", Kept, |_| {}),
        case("reset at accept", Kept, |v| v.reset()),
        case("cut after the head of the request", Kept, |v| drop(v.head())).large(),
        case("cut within the body of the request", Kept, |v| {
            v.head();
            v.read();
        })
        .large(),
        case("cut before the answer", Kept, |v| {
            v.request();
            v.take();
        })
        .twice(),
        case("reset before the answer", Kept, |v| {
            v.request();
            v.take();
            v.reset();
        })
        .twice(),
        case("cut within the status line", Kept, |v| {
            v.request();
            v.take();
            v.say("HTTP/1.1 20");
        })
        .twice(),
        case("cut within the headers", Kept, |v| {
            v.request();
            v.take();
            v.say("HTTP/1.1 200 OK\r\nContent-Le");
        })
        .twice(),
        case("cut within the body of an answer", Unverified, |v| {
            v.request();
            v.take();
            v.say("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{\"rej");
        }),
        case("reset within the body of an answer", Unverified, |v| {
            v.request();
            v.take();
            v.say("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{\"rej");
            // What was said has arrived when the client's next word has.
            v.half_close();
            v.hang();
            v.reset();
        }),
        case("cut within a chunk of an answer", Unverified, |v| {
            v.request();
            v.take();
            v.say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n10\r\n{\"rej");
        }),
        case("cut before the last chunk", Unverified, |v| {
            v.request();
            v.take();
            v.say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n");
        }),
        case("cut within the body of a refusal", Kept, |v| {
            v.request();
            v.say("HTTP/1.1 503 Busy\r\nRetry-After: 0\r\nContent-Length: 100\r\n\r\nbu");
        }),
        case("cut after 100 Continue", Kept, |v| {
            v.request();
            v.take();
            v.say("HTTP/1.1 100 Continue\r\n\r\n");
        })
        .twice(),
        // The farewell of a server that is still to read what we send.
        case("half closed at accept", Kept, |v| {
            v.half_close();
            v.hang();
        }),
        case("closed after each answer without a word about it", Delivered, |v| {
            v.request();
            v.take();
            v.say(OK);
        })
        .rounds(8),
        case("closed after some answers without a word about it", Delivered, |v| {
            for _ in 0..v.number {
                v.request();
                v.take();
                v.say(OK);
            }
        })
        .rounds(8),
        case("reset after each answer", Delivered, |v| {
            v.request();
            v.take();
            v.say(OK);
            // The next request, if it is this connection that it comes on, is not read.
            v.reset();
        })
        .rounds(8),
        // What a balancer says to a connection that is idle for too long.
        case("408 to a kept connection that is idle", Delivered, |v| {
            v.request();
            v.take();
            v.say(OK);
            v.say("HTTP/1.1 408 Request Timeout\r\nConnection: close\r\n\r\n");
        })
        .rounds(8),
    ]);
}

#[test]
fn connections_that_go_on_for_ever() {
    play_all(vec![
        case("silence from the start", Kept, |v| {
            // Not even reading: the client is not done with sending.
            std::thread::park_timeout(super::LIMIT);
            v.reset();
        })
        .large()
        .slow(),
        case("silence instead of an answer", Kept, |v| {
            v.request();
            v.take();
            v.hang();
        })
        .twice()
        .slow(),
        case("slow reading", Kept, |v| {
            while v.read() {
                std::thread::sleep(std::time::Duration::from_millis(200));
            }
        })
        .large()
        .slow(),
        case("slow status line", Kept, |v| {
            v.request();
            v.take();
            v.drip("HTTP/1.1 200 O", "K");
        })
        .twice()
        .slow(),
        case("slow headers", Kept, |v| {
            v.request();
            v.take();
            v.drip("HTTP/1.1 200 OK\r\n", "A: b\r\n");
        })
        .twice()
        .slow(),
        case("slow body of known length", Unverified, |v| {
            v.request();
            v.take();
            v.say("HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n");
            v.drip("", " ");
        })
        .slow(),
        case("slow body in chunks", Unverified, |v| {
            v.request();
            v.take();
            v.say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
            v.drip("", "1\r\n \r\n");
        })
        .slow(),
        case("slow body without an end", Unverified, |v| {
            v.request();
            v.take();
            v.say("HTTP/1.1 200 OK\r\n\r\n");
            v.drip("", " ");
        })
        .slow(),
        case("slow body of a refusal", Kept, |v| {
            v.request();
            v.drip("HTTP/1.1 500 Oops\r\nContent-Length: 100000\r\n\r\n", " ");
        })
        .slow(),
        case("slow trailers", Unverified, |v| {
            v.request();
            v.take();
            v.say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n");
            v.drip("", "A: b\r\n");
        })
        .slow(),
        case("an answer that is shorter than it says", Unverified, |v| {
            v.request();
            v.take();
            v.say("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{}");
            v.hang();
        })
        .slow(),
        case("interim answers now and then", Kept, |v| {
            v.request();
            v.take();
            v.drip("", "HTTP/1.1 102 Processing\r\n\r\n");
        })
        .twice()
        .slow(),
        case("interim answers without end", Kept, |v| {
            v.request();
            v.take();
            v.flood("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n");
        })
        .twice()
        .slow(),
        case("interim answers while we send", Kept, |v| {
            v.head();
            v.flood("HTTP/1.1 100 Continue\r\n\r\n");
        })
        .large()
        .slow(),
    ]);
}

#[test]
fn a_slow_server_in_each_size_of_body() {
    // The time limit is the request's, not a pause's: a byte now and then does not lengthen it.
    let keys = |compression| json!({"compression": compression});
    for (name, compression) in [("plain", "none"), ("gzip", "gzip")] {
        play_all(vec![
            case(name, Kept, |v| {
                v.request();
                v.take();
                v.drip("HTTP/1.1 ", "2");
            })
            .large()
            .twice()
            .slow()
            .keys(keys(compression)),
        ]);
    }
}

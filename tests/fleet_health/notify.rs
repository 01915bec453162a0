//! What the service manager hears.

use crate::driver::DEADLINE;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use telemetry::fleet::health::Notify;
use telemetry::fleet::health::notify::Watchdog;

fn name(of: &str) -> String {
    format!("fleet-health-{}-{of}", std::process::id())
}

fn manager(of: &str) -> (UnixDatagram, Notify) {
    let socket = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(name(of)).unwrap()).unwrap();
    socket.set_nonblocking(true).unwrap();
    (socket, Notify::new(&format!("@{}", name(of))).unwrap())
}

fn heard(socket: &UnixDatagram) -> String {
    let mut bytes = [0; 4096];
    let n = socket.recv(&mut bytes).unwrap();
    String::from_utf8(bytes[..n].to_vec()).unwrap()
}

#[test]
fn each_message_is_one_datagram() {
    let (socket, notify) = manager("each");
    assert!(notify.ready("4 of 4 ready"));
    assert_eq!(heard(&socket), "READY=1\nSTATUS=4 of 4 ready");
    assert!(notify.status("slot 2:\nREADY=1\r\u{e9}"));
    assert_eq!(heard(&socket), "STATUS=slot 2: READY=1 \u{e9}");
    assert!(notify.stopping(25_000_000, "draining"));
    assert_eq!(heard(&socket), "STOPPING=1\nEXTEND_TIMEOUT_USEC=25000000\nSTATUS=draining");
    assert!(notify.extend_timeout(5));
    assert_eq!(heard(&socket), "EXTEND_TIMEOUT_USEC=5");
    assert!(notify.reloading(123_456));
    assert_eq!(heard(&socket), "RELOADING=1\nMONOTONIC_USEC=123456");
    assert!(notify.watchdog());
    assert_eq!(heard(&socket), "WATCHDOG=1");
    assert!(socket.recv(&mut [0; 8]).is_err(), "nothing else");
}

#[test]
fn a_path_is_an_address_too() {
    let path = std::env::temp_dir().join(name("path"));
    let _ = std::fs::remove_file(&path);
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_nonblocking(true).unwrap();
    assert!(Notify::new(path.to_str().unwrap()).unwrap().watchdog());
    assert_eq!(heard(&socket), "WATCHDOG=1");
    std::fs::remove_file(&path).unwrap();
}

#[test]
fn a_manager_that_does_not_read_or_is_gone_holds_nobody_up() {
    let (socket, notify) = manager("deaf");
    let (done, sent) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let sent = (0..100_000).take_while(|_| notify.watchdog()).count();
        done.send((sent, notify)).unwrap();
    });
    let (sent, notify) = sent.recv_timeout(DEADLINE).expect("it waits for the manager");
    assert!((1..100_000).contains(&sent), "its queue has an end, and then nothing waits: {sent}");
    assert_eq!(heard(&socket), "WATCHDOG=1");
    assert!(notify.watchdog(), "room again");
    drop(socket);
    assert!(!notify.watchdog());
}

#[test]
fn only_a_fleet_that_lives_feeds_the_watchdog() {
    let (socket, notify) = manager("watchdog");
    let mut dog = Watchdog::new("3000000", Some("7"), 7, 1000).unwrap();
    assert!(dog.turn(1000, true, &notify), "at once");
    assert!(!dog.turn(2499, true, &notify), "not yet");
    assert_eq!(dog.next_deadline(), 2500);
    assert!(dog.turn(2500, true, &notify));
    assert!(!dog.turn(4000, false, &notify), "not live");
    assert_eq!(dog.next_deadline(), 5500, "asked again in its time");
    assert!(dog.turn(5500, true, &notify));
    for _ in 0..3 {
        assert_eq!(heard(&socket), "WATCHDOG=1");
    }
    assert!(socket.recv(&mut [0; 8]).is_err());
}

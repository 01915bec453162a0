//! A process of its own with a client in it, that does as it is told until it is killed.
use crate::host::{Dir, Host, until};
use crate::langfuse;
use crate::spool::event;
use serde_json::{Value, json};
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Child, Command};
use std::time::Duration;
use telemetry::client::handle::Status;

const MARK: &str = "SPOOL_TEST_VICTIM";

pub struct Victim {
    child: Child,
    line: BufReader<UnixStream>,
    dir: Dir,
}

impl Victim {
    pub fn open(url: &str, keys: Value) -> Victim {
        Victim::open_under(&[], url, keys)
    }

    /// The same, started by another command.
    pub fn open_under(command: &[&str], url: &str, keys: Value) -> Victim {
        let dir = Dir::new();
        let path = dir.0.join("line");
        let listener = UnixListener::bind(&path).unwrap();
        let this = std::env::current_exe().unwrap();
        let line = command.iter().copied().chain([this.to_str().unwrap()]);
        let line: Vec<&str> = line.chain(["--exact", "victim::victim", "--test-threads=1"]).collect();
        let child = Command::new(line[0])
            .args(&line[1..])
            .env(MARK, &path)
            .stdout(File::create(dir.0.join("said")).unwrap())
            .stderr(File::create(dir.0.join("complained")).unwrap())
            .spawn()
            .unwrap();
        listener.set_nonblocking(true).unwrap();
        let mut line = None;
        until("the victim calls", || {
            line = listener.accept().ok();
            line.is_some()
        });
        let line = line.unwrap().0;
        line.set_nonblocking(false).unwrap();
        let mut victim = Victim { child, line: BufReader::new(line), dir };
        victim.ask(&json!({"open": url, "keys": keys}));
        victim
    }

    fn ask(&mut self, what: &Value) -> String {
        writeln!(self.line.get_mut(), "{what}").unwrap();
        let mut answer = String::new();
        self.line.read_line(&mut answer).unwrap();
        if !answer.ends_with('\n') {
            let ended = self.child.wait().unwrap();
            let text = ["said", "complained"].map(|name| fs::read_to_string(self.dir.0.join(name)).unwrap());
            panic!("the victim died over {what}: {ended}\n{}", text.concat());
        }
        answer.trim_end().to_string()
    }

    /// Events of `len` bytes with these numbers, each taken.
    pub fn fill(&mut self, numbers: std::ops::Range<u64>, len: usize) {
        assert_eq!(self.ask(&json!({"from": numbers.start, "to": numbers.end, "len": len})), "Ok");
    }

    /// Uploads with this content, each taken.
    pub fn upload(&mut self, contents: &[&str]) {
        assert_eq!(self.ask(&json!({"upload": contents})), "Ok");
    }

    /// Stop it; when this returns, no thread of it runs. It lives, and holds what it holds.
    pub fn stop(&self) {
        let pid = self.child.id() as libc::id_t;
        // SAFETY: our own child, which was not waited for yet.
        assert_eq!(unsafe { libc::kill(pid as libc::pid_t, libc::SIGSTOP) }, 0);
        until("it stops", || {
            // SAFETY: all-zero bytes are a value of `siginfo_t`, and waitid may write one there; it reaps nothing.
            unsafe {
                let mut seen: libc::siginfo_t = std::mem::zeroed();
                assert_eq!(libc::waitid(libc::P_PID, pid, &raw mut seen, libc::WSTOPPED | libc::WNOHANG), 0);
                seen.si_pid() == pid as libc::pid_t
            }
        });
    }

    pub fn flush(&mut self, ms: u64) -> String {
        self.ask(&json!({"flush": ms}))
    }

    pub fn shutdown(&mut self, ms: u64) -> String {
        self.ask(&json!({"shutdown": ms}))
    }

    /// SIGKILL, and nothing of it is left but a number.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The victim's own side.
#[test]
fn victim() {
    let Some(path) = std::env::var_os(MARK) else { return };
    let mut line = BufReader::new(UnixStream::connect(path).unwrap());
    let mut host: Option<Host> = None;
    let mut text = String::new();
    while line.read_line(&mut text).unwrap() > 0 {
        let order: Value = serde_json::from_str(&text).unwrap();
        text.clear();
        if let Some(url) = order["open"].as_str() {
            host = Some(Host::open(url, order["keys"].clone()));
        }
        let host = host.as_ref().unwrap();
        let mut status = Status::Ok;
        if let (Some(from), Some(to)) = (order["from"].as_u64(), order["to"].as_u64()) {
            let len = order["len"].as_u64().unwrap() as usize;
            for n in from..to {
                let taken = host.enqueue(event(n, len));
                status = if status == Status::Ok { taken } else { status };
            }
        }
        for content in order["upload"].as_array().into_iter().flatten() {
            let taken = host.upload(&langfuse::meta(), Some(content.as_str().unwrap().as_bytes()));
            status = taken.map_or_else(|refused| refused.status, |_| status);
        }
        if let Some(ms) = order["flush"].as_u64() {
            status = host.flush(Duration::from_millis(ms));
        }
        if let Some(ms) = order["shutdown"].as_u64() {
            status = host.shutdown(Duration::from_millis(ms));
        }
        writeln!(line.get_mut(), "{status:?}").unwrap();
    }
}

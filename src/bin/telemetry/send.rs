//! `telemetry send`: each line of the standard input is an event.
//!
//! Invariants:
//! - A line that was read is enqueued before the next one is read. A full queue holds the input back and drops nothing,
//!   so a pipe's writer feels a slow collector, and memory stays bounded by `queue_bytes` and one line.
//! - Lines that come slowly leave after `batch.max_age_ms`; nobody need end the input for that.
//! - It ends at the end of the input, or soon after SIGINT or SIGTERM, when what was read is delivered, or after
//!   `--timeout`; a second signal ends it at once. Status 0 only if every line was delivered.

use crate::given;
use serde_json::{Value, json};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::{flag, low_level::pipe};
use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use telemetry::client::config::{Config, process_env};
use telemetry::client::handle::{Client, Status};
use telemetry::client::open::{OpenError, open};
use telemetry::platform::poll::{self, Interest};

/// How long a wait for room or for delivery lasts before it is looked whether to stop.
const TURN: Duration = Duration::from_millis(100);
/// How long a thread that delivers may take to end.
const PARTING: Duration = Duration::from_secs(1);
/// How long a wait for input is that has no end of its own.
const LONG: Duration = Duration::from_secs(3600);
/// What is read at a time.
const CHUNK: usize = 64 << 10;
/// An input that was made non-blocking by somebody may be empty after all.
const RETRIED: [ErrorKind; 2] = [ErrorKind::Interrupted, ErrorKind::WouldBlock];

/// Arguments of `telemetry send`.
#[derive(clap::Args)]
pub struct Args {
    /// Where to, as the key `endpoint` takes it. Default: that key, or TELEMETRY_ENDPOINT, or a file in this directory
    #[arg(long, value_name = "URL")]
    endpoint: Option<String>,
    /// The format of the requests: the key `format`
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
    /// Further configuration, such as api_key, context or spool_dir, as a JSON object or in a file. TELEMETRY_*
    /// variables stand behind it. (Arguments can be seen by other users of the machine, files need not be.)
    #[arg(long, value_name = "JSON|@FILE")]
    config: Option<String>,
    /// Lines are text and not JSON: each becomes an object with the line as the value of KEY
    #[arg(long, value_name = "KEY", num_args = 0..=1, require_equals = true, default_missing_value = "message")]
    text: Option<String>,
    /// After the end of the input, wait so long for delivery
    #[arg(long, value_name = "SECONDS", default_value_t = 60,
          value_parser = clap::value_parser!(u64).range(1..=31_536_000))]
    timeout: u64,
    /// Say nothing when all went well
    #[arg(short, long)]
    quiet: bool,
}

/// Run it. An error unless every line was delivered.
pub fn run(args: &Args) -> Result<(), String> {
    let mut stop =
        Stop::take(Duration::from_secs(args.timeout)).map_err(|why| format!("cannot take signals: {why}"))?;
    let json = configure(args);
    let config = Config::parse(&json, process_env).unwrap_or_else(|why| given::refuse(&why.to_string()));
    let client = open(&json).map_err(|why| match why {
        OpenError::Config(why) => given::refuse(&why),
        OpenError::Io(why) => why,
    })?;
    let mut sending = Sending {
        client: &client,
        key: args.text.as_deref(),
        longest: config.max_event_bytes,
        held: Held::default(),
        lines: 0,
        too_large: 0,
        not_taken: 0,
    };
    let read = sending.read_all(&mut stop);
    deliver(&client, &mut stop);
    client.shutdown(PARTING);
    let stats = client.stats();

    let Sending { lines, too_large, not_taken, .. } = sending;
    let kept = stats.left_in_spool.min(stats.queue_events);
    let counts = [
        (stats.sampled_out, "left out by sample"),
        (stats.rejected, "rejected"),
        (stats.invalid, "invalid"),
        (stats.expired, "expired"),
        (too_large, "too large"),
        (kept, "left in the spool"),
        (stats.queue_events - kept + not_taken, "not delivered"),
    ];
    client.free();
    let mut text = match config.disabled {
        true => format!("{lines} read, none sent: disabled is true"),
        false => format!("{lines} read, {} delivered", stats.delivered),
    };
    if stats.recovered > 0 {
        text += &format!(" ({} were found in the spool)", stats.recovered);
    }
    for (count, what) in counts.iter().filter(|(count, _)| *count > 0) {
        text += &format!(", {count} {what}");
    }
    if let Err(why) = read {
        return Err(format!("standard input: {why}; {text}"));
    }
    if counts[1..].iter().any(|(count, _)| *count > 0) {
        return Err(text);
    }
    if !args.quiet {
        eprintln!("telemetry: {text}");
    }
    Ok(())
}

/// The configuration's text, with the options laid over it.
fn configure(args: &Args) -> String {
    let mut object = given::object(args.config.as_deref());
    for (key, value) in [("endpoint", &args.endpoint), ("format", &args.format)] {
        if let Some(value) = value {
            object.insert(key.into(), json!(value));
        }
    }
    // The input waits instead of being dropped.
    object.insert("on_full".into(), json!("block"));
    object.insert("block_timeout_ms".into(), json!(TURN.as_millis() as u64));
    Value::Object(object).to_string()
}

/// Deliver what was taken: whether it was.
fn deliver(client: &Client, stop: &mut Stop) -> bool {
    // The signal that ended the input asks for just this; the next one would end the process.
    let ended_by_it = stop.is_asked();
    let until = stop.last_moment();
    loop {
        let left = until.saturating_duration_since(Instant::now());
        match client.flush(left.min(TURN)) {
            Status::Ok => return true,
            _ if left.is_zero() || (!ended_by_it && stop.is_asked()) => return false,
            _ => {}
        }
    }
}

/// SIGINT and SIGTERM: the first one asks to stop, the second one ends the process.
struct Stop {
    asked: Arc<AtomicBool>,
    pipe: UnixStream,
    patience: Duration,
    /// When the patience ends that began with the end of the input.
    until: Option<Instant>,
}

impl Stop {
    fn take(patience: Duration) -> io::Result<Stop> {
        let asked = Arc::new(AtomicBool::new(false));
        let (pipe, ring) = UnixStream::pair()?;
        for signal in [SIGINT, SIGTERM] {
            flag::register_conditional_shutdown(signal, 1, Arc::clone(&asked))?;
            flag::register(signal, Arc::clone(&asked))?;
            pipe::register(signal, ring.try_clone()?)?;
        }
        Ok(Stop { asked, pipe, patience, until: None })
    }

    fn is_asked(&self) -> bool {
        self.asked.load(Ordering::Relaxed)
    }

    fn last_moment(&mut self) -> Instant {
        *self.until.get_or_insert_with(|| Instant::now() + self.patience)
    }

    /// Wait for input: whether there is any, before it is asked to stop.
    fn until_input(&self, input: &File) -> io::Result<bool> {
        while !self.is_asked() {
            let ready = poll::wait_any(&[input.as_fd(), self.pipe.as_fd()], Interest::Read, LONG)?;
            if ready[0] {
                return Ok(!self.is_asked());
            }
        }
        Ok(false)
    }
}

/// The lines on their way into the queue.
struct Sending<'a> {
    client: &'a Client,
    key: Option<&'a str>,
    /// More of a line than this is not kept.
    longest: usize,
    held: Held,
    lines: u64,
    too_large: u64,
    /// Read, but there was no room before the end.
    not_taken: u64,
}

impl Sending<'_> {
    /// Enqueue all of the input, the last line with or without its end.
    fn read_all(&mut self, stop: &mut Stop) -> io::Result<()> {
        // A descriptor, and not the standard library's stream: poll cannot see into its buffer.
        let mut input = File::from(io::stdin().as_fd().try_clone_to_owned()?);
        let mut chunk = vec![0; CHUNK];
        while stop.until_input(&input)? {
            let n = match input.read(&mut chunk) {
                Ok(n) => n,
                Err(why) if RETRIED.contains(&why.kind()) => continue,
                Err(why) => return Err(why),
            };
            if n == 0 {
                self.line(stop);
                break;
            }
            let mut rest = &chunk[..n];
            while let Some(end) = memchr::memchr(b'\n', rest) {
                self.held.add(&rest[..end], self.longest);
                self.line(stop);
                rest = &rest[end + 1..];
            }
            self.held.add(rest, self.longest);
        }
        Ok(())
    }

    /// Enqueue the line that is held, if there is anything in it.
    fn line(&mut self, stop: &mut Stop) {
        let Held { bytes, len } = std::mem::take(&mut self.held);
        let line = bytes.trim_ascii_end();
        if line.is_empty() && len == bytes.len() {
            return;
        }
        self.lines += 1;
        let status = match self.key {
            _ if len > bytes.len() => Status::TooLarge,
            None => self.enqueue(line, stop),
            Some(key) => {
                let object = json!({ key: String::from_utf8_lossy(line) });
                self.enqueue(object.to_string().as_bytes(), stop)
            }
        };
        match status {
            Status::Ok => {}
            Status::TooLarge => {
                self.too_large += 1;
                let (line, most) = (self.lines, self.longest);
                eprintln!(
                    "telemetry: line {line} has {len} bytes; allowed: {most} (max_event_bytes), or what the format allows"
                );
            }
            _ => self.not_taken += 1,
        }
    }

    /// Enqueue, as soon as there is room.
    fn enqueue(&self, event: &[u8], stop: &mut Stop) -> Status {
        loop {
            let status = self.client.enqueue(event);
            let wait = status == Status::Full && !(stop.is_asked() && Instant::now() >= stop.last_moment());
            if !wait {
                return status;
            }
        }
    }
}

/// A line, as far as it was read.
#[derive(Default)]
struct Held {
    bytes: Vec<u8>,
    /// More than there are bytes, if it is too long.
    len: usize,
}

impl Held {
    fn add(&mut self, part: &[u8], longest: usize) {
        self.len += part.len();
        let room = longest - self.bytes.len();
        self.bytes.extend_from_slice(&part[..part.len().min(room)]);
    }
}

//! A fleet: its supervisor's line, and a row for each slot.

use super::say::{age, signal};
use super::table::{Mood, Style, Table};
use serde_json::{Map, Value, json};
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use telemetry::board::directory::{Found, Trouble};
use telemetry::board::family::COUNTER_NAMES as CLIENT_COUNTERS;
use telemetry::board::layout::{CAUSES, COUNTER_NAMES, Header, PHASES, flag, probe, verdict};
use telemetry::board::scoreboard::{Board, text_of};
use telemetry::board::view::SlotView;
use telemetry::platform::clock;
use telemetry::platform::identity::Identity;

/// As the policy numbers a slot's states.
const STATES: [(&str, Mood); 9] = [
    ("empty", Mood::Plain),
    ("starting", Mood::Odd),
    ("ready", Mood::Good),
    ("stopping", Mood::Odd),
    ("backoff", Mood::Odd),
    ("crash_looping", Mood::Bad),
    ("failed", Mood::Bad),
    ("abandoned", Mood::Bad),
    ("stale", Mood::Bad),
];
/// What is seen of it.
pub struct Fleet {
    name: String,
    pid: u32,
    path: String,
    seen: Result<Whole, Missing>,
}

/// Why nothing is seen.
struct Missing {
    gone: bool,
    why: String,
}

struct Whole {
    phase: &'static str,
    /// "ok", "stopped" or "gone".
    supervisor: &'static str,
    uptime: f64,
    started_unix_ns: u64,
    probe: u32,
    port: u32,
    verdict: u32,
    reasons: Vec<String>,
    want: u32,
    paused: bool,
    wakeups: u64,
    late_ms: u64,
    restarts: Vec<u64>,
    own_names: Vec<String>,
    /// Those in use.
    slots: Vec<(usize, SlotView)>,
    now: u64,
}

fn word(word: &AtomicU64) -> u64 {
    word.load(Ordering::Relaxed)
}

fn half(word: &AtomicU32) -> u32 {
    word.load(Ordering::Relaxed)
}

/// The name that a number stands for; a newer library may have more.
fn name_of<'a>(names: &[&'a str], number: u32) -> &'a str {
    names.get(number as usize).copied().unwrap_or("unknown")
}

fn state_of(number: u32) -> (&'static str, Mood) {
    STATES.get(number as usize).copied().unwrap_or(("unknown", Mood::Odd))
}

/// Whether that process is alive and takes part.
fn supervisor_of(h: &Header, me: &Identity) -> &'static str {
    let who = Identity {
        boot: word(&h.boot),
        pid_ns: word(&h.pid_ns),
        pid: half(&h.pid),
        start: word(&h.start_ticks),
        image: 0,
    };
    if who.is_dead(me) {
        return "gone";
    }
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", who.pid)).unwrap_or_default();
    let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
    if who.is_visible_to(me) && matches!(state, Some('T' | 't')) { "stopped" } else { "ok" }
}

impl Fleet {
    /// Read it.
    pub fn look(found: &Found, me: &Identity) -> Fleet {
        let board = found.board();
        let name = board.as_ref().map_or(found.name.clone(), |board| text_of(&board.header().name));
        let seen = match board {
            Ok(board) => Ok(Whole::of(&board, me)),
            Err(Trouble::Gone) => Err(Missing { gone: true, why: "its supervisor is gone".into() }),
            Err(why) => Err(Missing { gone: false, why: why.to_string() }),
        };
        Fleet { name, pid: found.pid.unwrap_or(0), path: found.path.display().to_string(), seen }
    }

    /// For programs.
    pub fn json(&self) -> Value {
        let mut all = json!({"name": self.name, "path": self.path, "pid": self.pid});
        match &self.seen {
            Ok(whole) => whole.json(&mut all),
            Err(why) => {
                all["supervisor"] = if why.gone { "gone".into() } else { Value::Null };
                all["error"] = why.why.as_str().into();
            }
        }
        all
    }

    /// For people.
    pub fn text(&self, style: &Style) -> String {
        match &self.seen {
            Ok(whole) => format!("{}\n{}", style.cut(&whole.head(&self.name, self.pid)), whole.table(style)),
            Err(why) => {
                let line = format!("fleet {}  pid {}  {}", self.name, self.pid, why.why);
                format!("{}\n", style.paint(if why.gone { Mood::Bad } else { Mood::Odd }, &style.cut(&line)))
            }
        }
    }
}

impl Whole {
    fn of(board: &Board, me: &Identity) -> Whole {
        let (h, now) = (board.header(), clock::monotonic_ns());
        let slots = (0..board.slots()).filter_map(|i| Some((i, SlotView::of(board.slot(i)?))));
        Whole {
            phase: name_of(&PHASES, half(&h.phase)),
            supervisor: supervisor_of(h, me),
            uptime: seconds(now, word(&h.started_ns)).unwrap_or(0.0),
            started_unix_ns: word(&h.started_unix_ns),
            probe: half(&h.probe),
            port: half(&h.probe_port),
            verdict: half(&h.verdict),
            reasons: text_of(&h.reasons).lines().map(String::from).collect(),
            want: half(&h.want),
            paused: half(&h.paused) != 0,
            wakeups: word(&h.wakeups),
            late_ms: word(&h.late_ns_max) / 1_000_000,
            restarts: h.restarts.iter().map(word).collect(),
            own_names: h.counter_names.iter().map(text_of).collect(),
            slots: slots.filter(|(_, slot)| in_use(slot)).collect(),
            now,
        }
    }

    fn head(&self, name: &str, pid: u32) -> String {
        let mut out = format!("fleet {name}  ");
        match self.supervisor {
            "ok" => out.push_str(self.phase),
            "gone" => out.push_str("gone: its process is dead"),
            _ => {
                let _ = write!(out, "{}: supervisor does not respond, its process is stopped", self.phase);
            }
        }
        let _ = write!(out, "  pid {pid}  up {}", age(Some(self.uptime)));
        if self.supervisor == "gone" {
            return out;
        }
        out.push_str(if self.verdict & verdict::LIVE != 0 { "  live" } else { "  NOT LIVE" });
        out.push_str(if self.verdict & verdict::READY != 0 { "  ready" } else { "  not ready" });
        if self.paused {
            out.push_str("  paused");
        }
        match (self.probe & probe::WANTED != 0, self.probe & probe::BOUND != 0, self.port) {
            (_, true, 0) => out.push_str("  probe bound"),
            (_, true, port) => {
                let _ = write!(out, "  probe on port {port}");
            }
            (true, false, _) => out.push_str("  probe NOT BOUND"),
            _ => {}
        }
        for reason in &self.reasons {
            let _ = write!(out, "  {reason}");
        }
        out
    }

    fn table(&self, style: &Style) -> String {
        let columns = [
            "SLOT",
            "NAME",
            "STATE",
            "PID",
            "INC",
            "BEAT",
            "DOING",
            "DONE",
            "FAILED",
            "RESTARTS",
            "LAST EXIT",
            "NEXT",
        ];
        let mut table = Table::new(&columns, 6);
        for (index, slot) in &self.slots {
            let (theirs, own) = (&slot.supervised, &slot.working);
            let (state, mood) = state_of(theirs.state);
            let busy = own.flags & flag::BUSY != 0;
            let counter = |i: usize| slot.counters.get(i).map_or("0".into(), u64::to_string);
            let cells = vec![
                index.to_string(),
                theirs.name.clone(),
                state.into(),
                if theirs.pid == 0 { "-".into() } else { theirs.pid.to_string() },
                theirs.incarnation.to_string(),
                age(seconds(self.now, own.beat_ns)),
                if busy { own.doing.clone() } else { "-".into() },
                counter(1),
                counter(2),
                theirs.restarts.to_string(),
                self.exit_in_words(slot),
                age(seconds(theirs.not_before_ns, self.now)),
            ];
            table.row(cells, 2, mood);
        }
        table.text(style)
    }

    fn exit_in_words(&self, slot: &SlotView) -> String {
        let s = &slot.supervised;
        if s.ended_ns == 0 {
            return "-".into();
        }
        let how = match (name_of(&CAUSES, s.exit_cause), s.exit_signal) {
            ("none" | "exit0" | "exit", 0) => format!("exit {}", s.exit_code),
            ("none" | "signal", number) => signal(number),
            (cause, 0) => cause.into(),
            (cause, number) => format!("{cause} {}", signal(number)),
        };
        let core = if s.exit_bits & 1 != 0 { " core" } else { "" };
        format!("{how}{core} {} ago", age(seconds(self.now, s.ended_ns)))
    }

    fn json(&self, all: &mut Value) {
        let named = |(i, count): (usize, &u64)| {
            let name = CAUSES.get(i).filter(|_| *count > 0)?;
            Some((name.to_string(), Value::from(*count)))
        };
        let by_cause: Map<String, Value> = self.restarts.iter().enumerate().filter_map(named).collect();
        let wanted = self.probe & probe::WANTED != 0;
        let mut put = |key: &str, value: Value| all[key] = value;
        put("supervisor", self.supervisor.into());
        put("state", self.phase.into());
        put("uptime_s", self.uptime.into());
        put("started_unix_ms", (self.started_unix_ns / 1_000_000).into());
        put("live", (self.verdict & verdict::LIVE != 0).into());
        put("ready", (self.verdict & verdict::READY != 0).into());
        put("reasons", self.reasons.clone().into());
        put("paused", self.paused.into());
        put("want", self.want.into());
        put(
            "liveness_probe_bound",
            if wanted { (self.probe & probe::BOUND != 0).into() } else { Value::Null },
        );
        put("probe_port", self.port.into());
        put("wakeups", self.wakeups.into());
        put("late_ms_max", self.late_ms.into());
        put("restarts", json!({"total": self.restarts.iter().sum::<u64>(), "by_cause": by_cause}));
        put("workers", self.slots.iter().map(|(index, slot)| self.worker(*index, slot)).collect());
    }

    fn worker(&self, index: usize, slot: &SlotView) -> Value {
        let (s, w) = (&slot.supervised, &slot.working);
        let busy = w.flags & flag::BUSY != 0;
        let own = self.own_names.iter().map(String::as_str);
        let names = COUNTER_NAMES.iter().copied().chain(own);
        let named = names.zip(&slot.counters).filter(|(name, _)| !name.is_empty());
        let counters: Map<String, Value> =
            named.map(|(name, count)| (name.to_string(), Value::from(*count))).collect();
        let clients: Map<String, Value> = CLIENT_COUNTERS
            .iter()
            .zip(slot.clients)
            .map(|(name, count)| (name.to_string(), count.into()))
            .collect();
        json!({
            "slot": index,
            "name": s.name,
            "state": state_of(s.state).0,
            "pid": s.pid,
            "incarnation": s.incarnation,
            "beat_age_s": seconds(self.now, w.beat_ns),
            "busy": busy,
            "item_age_s": seconds(self.now, w.item_started_ns).filter(|_| busy),
            "doing": if busy { w.doing.as_str() } else { "" },
            "restarts": s.restarts,
            "crashes_in_row": s.crashes,
            "not_before_in_s": seconds(s.not_before_ns, self.now).unwrap_or(0.0),
            "fork_errors": s.fork_errors,
            "rss_kb": slot.rss_kb,
            "loop_lag_us": w.loop_lag_us,
            "counters": counters,
            "telemetry": clients,
            "last_exit": (s.ended_ns != 0).then(|| json!({
                "cause": name_of(&CAUSES, s.exit_cause),
                "code": s.exit_code,
                "signal": (s.exit_signal != 0).then(|| signal(s.exit_signal)),
                "core": s.exit_bits & 1 != 0,
                "oom": s.exit_bits & 2 != 0,
                "age_s": seconds(self.now, s.ended_ns),
            })),
        })
    }
}

/// A slot that has somebody, had somebody, or is about to.
fn in_use(slot: &SlotView) -> bool {
    slot.supervised.state != 0 || slot.supervised.incarnation != 0
}

/// From one time to another; `None` if there is none, or it has not come.
fn seconds(later: u64, earlier: u64) -> Option<f64> {
    let known = earlier != 0 && later > earlier;
    known.then(|| ((later - earlier) / 1_000_000) as f64 / 1000.0)
}

//! A family: the processes that share a destination.

use super::say::age;
use super::table::{Mood, Style, Table};
use serde_json::{Map, Value, json};
use std::fmt::Write as _;
use telemetry::board::directory::Found;
use telemetry::board::family::{COUNTER_NAMES, Family, RowView};
use telemetry::platform::identity::Identity;

/// What is seen of it.
pub struct Kin {
    name: String,
    path: String,
    seen: Result<(Vec<RowView>, u64), String>,
}

impl Kin {
    /// Read it.
    pub fn look(found: &Found, me: &Identity) -> Kin {
        let seen = Family::read(found).map_err(|why| why.to_string()).map(|family| {
            let mut rows = family.views(me);
            rows.sort_unstable_by_key(|row| (!row.alive, row.who.pid, row.index));
            (rows, family.missed())
        });
        Kin { name: found.name.clone(), path: found.path.display().to_string(), seen }
    }

    /// For programs.
    pub fn json(&self) -> Value {
        let mut all = json!({"name": self.name, "path": self.path});
        match &self.seen {
            Ok((rows, missed)) => {
                all["not_shown"] = (*missed).into();
                all["processes"] = rows.iter().map(process).collect();
            }
            Err(why) => all["error"] = why.as_str().into(),
        }
        all
    }

    /// For people.
    pub fn text(&self, style: &Style) -> String {
        let (rows, missed) = match &self.seen {
            Ok(seen) => seen,
            Err(why) => return format!("{}\n", style.cut(&format!("family {}  {why}", self.name))),
        };
        let alive = rows.iter().filter(|row| row.alive && !row.ended).count();
        let mut head = format!("family {}  {alive} of {} alive", self.name, rows.len());
        if *missed > 0 {
            let _ = write!(head, "  {missed} not shown: there was no room");
        }
        let columns =
            ["PID", "NAME", "WORKER", "STATE", "ACCEPTED", "DELIVERED", "LOST", "QUEUED", "CIRCUIT", "SEEN"];
        let mut table = Table::new(&columns, 1);
        for row in rows {
            let (state, mood) = match (row.alive, row.ended) {
                (true, false) if row.counter("circuit_open") != 0 => ("alive", Mood::Odd),
                (true, false) => ("alive", Mood::Good),
                (true, true) => ("shut", Mood::Plain),
                (false, true) => ("exited", Mood::Plain),
                (false, false) => ("DEAD", Mood::Bad),
            };
            let circuit = if row.counter("circuit_open") != 0 { "OPEN" } else { "closed" };
            let worker = if row.worker == 0 { "-".into() } else { row.worker.to_string() };
            let cells = vec![
                row.who.pid.to_string(),
                row.name.clone(),
                worker,
                state.into(),
                row.counter("accepted").to_string(),
                row.counter("delivered").to_string(),
                row.lost().to_string(),
                row.counter("queue_events").to_string(),
                circuit.into(),
                age(Some(row.updated.as_secs_f64())),
            ];
            table.row(cells, 3, mood);
        }
        format!("{}\n{}", style.cut(&head), table.text(style))
    }
}

fn process(row: &RowView) -> Value {
    let mut all = Map::new();
    let counters = COUNTER_NAMES.iter().map(|name| (name.to_string(), row.counter(name).into()));
    let whole = |time: std::time::Duration| Value::from(time.as_millis() as u64);
    all.insert("pid".into(), row.who.pid.into());
    all.insert("parent".into(), row.parent.into());
    all.insert("worker".into(), row.worker.into());
    all.insert("alive".into(), row.alive.into());
    all.insert("ended".into(), row.ended.into());
    all.insert("generation".into(), format!("{:016x}", row.generation).into());
    all.insert("age_ms".into(), whole(row.age));
    all.insert("updated_age_ms".into(), whole(row.updated));
    all.insert("name".into(), row.name.as_str().into());
    all.insert("lost".into(), row.lost().into());
    all.extend(counters);
    all.into()
}

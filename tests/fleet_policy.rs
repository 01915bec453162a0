//! docs/fleet-states.svg is what the fleet's table of states says. With `UPDATE=1` (`make generate`) it is drawn anew.
//!
//! One column a state, one row a reason: a dot on every state that may be left for it, an arrow head on the state that
//! follows. What the table means is tested beside it (`src/fleet/policy/tests`), and that each row of it is taken.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::fmt::Write;
use std::fs;
use telemetry::fleet::policy::SlotState::{self, *};
use telemetry::fleet::policy::table::{TABLE, Why};

/// From left to right, with what they are.
const COLUMNS: [(SlotState, &str, &str); 9] = [
    (Empty, "nobody's", "idle"),
    (Starting, "child, not ready", "up"),
    (Ready, "child works", "good"),
    (Stale, "child hangs", "down"),
    (Stopping, "child told to end", "up"),
    (Abandoned, "killed, not dead", "bad"),
    (Backoff, "waits", "down"),
    (CrashLooping, "waits, loops", "bad"),
    (Failed, "not tried again", "bad"),
];

const LEFT: usize = 40;
const COLUMN: usize = 112;
const HEAD: usize = 76;
const ROW: usize = 24;
const LABELS: usize = 280;

const STYLE: &str = "\
text{font:13px system-ui,sans-serif;fill:#1f2328}.name{font-weight:600;text-anchor:middle}\
.what{font-size:11px;fill:#59636e;text-anchor:middle}.panel{fill:#fff;stroke:#d1d9e0}\
.line{stroke:#d1d9e0}.arrow{stroke:#1f2328;stroke-width:1.5}.mark{fill:#1f2328}\
.idle{fill:#eef1f4}.up{fill:#ddf4ff}.good{fill:#dafbe1}.down{fill:#fff8c5}.bad{fill:#ffebe9}\
@media(prefers-color-scheme:dark){text{fill:#e6edf3}.what{fill:#9198a1}.panel{fill:#0d1117;stroke:#3d444d}\
.line{stroke:#3d444d}.arrow{stroke:#e6edf3}.mark{fill:#e6edf3}\
.idle{fill:#21262d}.up{fill:#0c2d6b}.good{fill:#033a16}.down{fill:#4b2900}.bad{fill:#67060c}}";

fn x(state: SlotState) -> usize {
    let at = COLUMNS.iter().position(|(of, ..)| *of == state).unwrap();
    LEFT + COLUMN / 2 + at * COLUMN
}

/// The table by what happens: (to, why), and the states that it happens to.
fn rows() -> Vec<(SlotState, Why, BTreeSet<SlotState>)> {
    let mut rows: Vec<(SlotState, Why, BTreeSet<SlotState>)> = Vec::new();
    for (from, to, why) in TABLE {
        match rows.iter_mut().find(|row| (row.0, row.1) == (*to, *why)) {
            Some(row) => _ = row.2.insert(*from),
            None => rows.push((*to, *why, BTreeSet::from([*from]))),
        }
    }
    // A life from its beginning: what leads back to nobody's is last.
    rows.sort_by_key(|(to, why, _)| (*to == Empty, x(*to), *why));
    rows
}

fn svg() -> String {
    let rows = rows();
    let (right, bottom) = (LEFT + COLUMNS.len() * COLUMN, HEAD + (rows.len() + 1) * ROW);
    let (width, height) = (right + LABELS, bottom + 12);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" \
         height=\"{height}\" role=\"img\" aria-label=\"What a fleet's slot may become, from what, and why\">\n\
         <!-- Generated from src/fleet/policy/table.rs. -->\n<style>{STYLE}</style>\n\
         <rect class=\"panel\" x=\"1\" y=\"1\" width=\"{}\" height=\"{}\" rx=\"8\"/>\n",
        width - 2,
        height - 2
    );
    for (state, what, class) in COLUMNS {
        let (x, left) = (x(state), x(state) - COLUMN / 2 + 4);
        writeln!(out, "<line class=\"line\" x1=\"{x}\" y1=\"60\" x2=\"{x}\" y2=\"{bottom}\"/>").unwrap();
        let box_width = COLUMN - 8;
        writeln!(
            out,
            "<rect class=\"{class}\" x=\"{left}\" y=\"14\" width=\"{box_width}\" height=\"46\" rx=\"6\"/>"
        )
        .unwrap();
        writeln!(out, "<text class=\"name\" x=\"{x}\" y=\"34\">{state:?}</text>").unwrap();
        writeln!(out, "<text class=\"what\" x=\"{x}\" y=\"51\">{what}</text>").unwrap();
    }
    for (n, (to, why, from)) in rows.iter().enumerate() {
        let y = HEAD + (n + 1) * ROW - ROW / 2;
        if n > 0 && rows[n - 1].0 != *to {
            let above = y - ROW / 2;
            writeln!(
                out,
                "<line class=\"line\" x1=\"12\" y1=\"{above}\" x2=\"{}\" y2=\"{above}\"/>",
                width - 12
            )
            .unwrap();
        }
        for state in from {
            let (start, end) = (x(*state), x(*to));
            writeln!(out, "<line class=\"arrow\" x1=\"{start}\" y1=\"{y}\" x2=\"{end}\" y2=\"{y}\"/>")
                .unwrap();
            writeln!(out, "<circle class=\"mark\" cx=\"{start}\" cy=\"{y}\" r=\"4\"/>").unwrap();
            let tail = if start < end { end - 9 } else { end + 9 };
            let (up, down) = (y - 5, y + 5);
            writeln!(out, "<path class=\"mark\" d=\"M{end} {y}L{tail} {up}L{tail} {down}Z\"/>").unwrap();
        }
        writeln!(out, "<text x=\"{}\" y=\"{}\">{why}</text>", right + 8, y + 4).unwrap();
    }
    out.push_str("</svg>\n");
    out
}

#[test]
fn the_diagram_of_states() {
    let path = format!("{}/docs/fleet-states.svg", env!("CARGO_MANIFEST_DIR"));
    let committed = fs::read_to_string(&path).unwrap_or_default();
    let fresh = svg();
    if std::env::var_os("UPDATE").is_some() {
        fs::write(path, fresh).unwrap();
    } else {
        assert!(committed == fresh, "{path} is stale: run `make generate`");
    }
}

#[test]
fn the_diagram_shows_every_row_of_the_table() {
    assert_eq!(svg().matches("<circle").count(), TABLE.len());
    let states: BTreeSet<SlotState> = TABLE.iter().flat_map(|(from, to, _)| [*from, *to]).collect();
    assert_eq!(states.len(), COLUMNS.len());
}

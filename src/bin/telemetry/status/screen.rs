//! Where it is shown: a terminal, or anything else.

use super::table::Style;
use std::io::{self, IsTerminal, Write};
use telemetry::platform::terminal;

/// The other screen of the terminal, without a cursor; and back.
const ENTER: &str = "\x1b[?1049h\x1b[?25l";
const LEAVE: &str = "\x1b[?25h\x1b[?1049l";
/// To the first place, all after it blank.
const CLEAR: &str = "\x1b[H\x1b[J";

/// See the module's text.
pub struct Screen {
    terminal: bool,
    /// It is drawn over again and again.
    live: bool,
    shown: bool,
}

impl Screen {
    /// Standard output; `live`: if it is a terminal, a screen that is drawn over.
    pub fn new(live: bool) -> Screen {
        let terminal = io::stdout().is_terminal();
        Screen { terminal, live: live && terminal, shown: false }
    }

    /// How text may look there, now: terminals change their size.
    pub fn style(&self) -> Style {
        let no_colour = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let width = terminal::size(&io::stdout()).map(|(columns, _)| columns);
        Style { width: width.filter(|_| self.terminal), colour: self.terminal && !no_colour }
    }

    /// Show this text, in the place of the one before if that can be.
    pub fn show(&mut self, text: &str) -> io::Result<()> {
        let mut out = io::stdout().lock();
        if !self.live {
            let between =
                if std::mem::replace(&mut self.shown, true) && !text.starts_with('{') { "\n" } else { "" };
            write!(out, "{between}{text}")?;
            return out.flush();
        }
        if !std::mem::replace(&mut self.shown, true) {
            out.write_all(ENTER.as_bytes())?;
        }
        let rows = terminal::size(&io::stdout()).map_or(usize::MAX, |(_, rows)| rows);
        write!(out, "{CLEAR}{}", fitting(text, rows))?;
        out.flush()
    }
}

/// As many lines as there are rows.
fn fitting(text: &str, rows: usize) -> String {
    let count = text.lines().count();
    if count < rows {
        return text.into();
    }
    let kept = rows.saturating_sub(2);
    let first: Vec<&str> = text.lines().take(kept).collect();
    format!("{}\n... {} lines more\n", first.join("\n"), count - kept)
}

impl Drop for Screen {
    fn drop(&mut self) {
        if self.live && self.shown {
            let mut out = io::stdout().lock();
            // Nothing can be done about a terminal that is gone.
            let _ = out.write_all(LEAVE.as_bytes()).and_then(|()| out.flush());
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn what_does_not_fit_is_counted() {
        assert_eq!(super::fitting("a\nb\n", 3), "a\nb\n");
        assert_eq!(super::fitting("a\nb\nc\nd\n", 4), "a\nb\n... 2 lines more\n");
    }
}

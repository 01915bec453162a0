//! Columns that fit: one of them gives way.

use std::fmt::Write as _;

/// How text may look.
#[derive(Debug, Clone, Copy, Default)]
pub struct Style {
    /// Columns of the terminal; `None`: as wide as it gets.
    pub width: Option<usize>,
    /// Colours may be used.
    pub colour: bool,
}

/// How something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mood {
    /// As it should be.
    Good,
    /// Worth a look.
    Odd,
    /// Somebody should do something.
    Bad,
    /// Nothing is said about that.
    Plain,
}

impl Style {
    /// The text in its mood's colour.
    pub fn paint(&self, mood: Mood, text: &str) -> String {
        let code = match mood {
            Mood::Good => "32",
            Mood::Odd => "33",
            Mood::Bad => "1;31",
            Mood::Plain => return text.into(),
        };
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.into() }
    }

    /// The text, in one line, cut to the width.
    pub fn cut(&self, text: &str) -> String {
        shorten(&tame(text), self.width.unwrap_or(usize::MAX))
    }
}

/// A table: its head, what gives way when it is too wide, and rows with a mood for one of their cells.
pub struct Table {
    head: Vec<&'static str>,
    gives_way: usize,
    rows: Vec<(Vec<String>, usize, Mood)>,
}

impl Table {
    /// Without rows yet.
    pub fn new(head: &[&'static str], gives_way: usize) -> Table {
        Table { head: head.to_vec(), gives_way, rows: Vec::new() }
    }

    /// One more; the cell `coloured` has a mood.
    pub fn row(&mut self, cells: Vec<String>, coloured: usize, mood: Mood) {
        self.rows.push((cells.iter().map(|cell| tame(cell)).collect(), coloured, mood));
    }

    /// As lines, each indented by two.
    pub fn text(&self, style: &Style) -> String {
        let wide = |i: usize| {
            let cells =
                self.rows.iter().filter_map(|(cells, ..)| cells.get(i)).map(|cell| cell.chars().count());
            cells.chain([self.head.get(i).map_or(0, |name| name.len())]).max().unwrap_or(0)
        };
        let mut widths: Vec<usize> = (0..self.head.len()).map(wide).collect();
        let whole: usize = widths.iter().map(|width| width + 2).sum();
        if let (Some(most), Some(width)) = (style.width, widths.get_mut(self.gives_way)) {
            *width = width.saturating_sub(whole.saturating_sub(most)).max(8).min(*width);
        }
        let head: Vec<String> = self.head.iter().map(|name| name.to_string()).collect();
        let mut out = line(&head, &widths, usize::MAX, Mood::Plain, style);
        for (cells, coloured, mood) in &self.rows {
            out.push_str(&line(cells, &widths, *coloured, *mood, style));
        }
        out
    }
}

/// What others wrote, with nothing in it that ends a line or that a terminal would obey.
fn tame(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

fn line(cells: &[String], widths: &[usize], coloured: usize, mood: Mood, style: &Style) -> String {
    let (mut out, mut left) = (String::new(), style.width.unwrap_or(usize::MAX));
    for (i, (cell, width)) in cells.iter().zip(widths).enumerate() {
        let last = i + 1 == widths.len();
        let text = shorten(cell, (*width).min(left.saturating_sub(2)));
        if text.is_empty() && left <= 2 {
            break;
        }
        let pad = if last { 0 } else { width.saturating_sub(text.chars().count()) };
        left = left.saturating_sub(2 + width);
        let text = if i == coloured { style.paint(mood, &text) } else { text };
        let _ = write!(out, "  {text}{:pad$}", "");
    }
    format!("{}\n", out.trim_end())
}

fn shorten(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.into();
    }
    let kept: String = text.chars().take(width.saturating_sub(1)).collect();
    if width == 0 { kept } else { format!("{kept}…") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_never_wider_than_the_terminal() {
        let mut table = Table::new(&["SLOT", "DOING", "LAST"], 1);
        table.row(vec!["1".into(), "x".repeat(50), "exit 3".into()], 2, Mood::Bad);
        let wide = table.text(&Style::default());
        assert_eq!(wide.lines().nth(1).unwrap(), format!("  1     {}  exit 3", "x".repeat(50)));
        for width in 4..70 {
            let text = table.text(&Style { width: Some(width), colour: false });
            assert!(text.lines().all(|line| line.chars().count() <= width), "{width}: {text}");
        }
        let text = table.text(&Style { width: Some(40), colour: false });
        assert!(text.contains("xx…  exit 3"), "{text}");
        table.row(vec!["2\n".into(), "a\u{1b}[2J\nfleet".into(), "-".into()], 2, Mood::Plain);
        let text = table.text(&Style::default());
        assert!(text.lines().count() == 3 && !text.contains('\u{1b}'), "{text:?}");
        assert!(!Style::default().cut("a\u{1b}b\nc").contains(['\u{1b}', '\n']));
        let coloured = table.text(&Style { width: None, colour: true });
        assert!(coloured.contains("\x1b[1;31mexit 3\x1b[0m"), "{coloured:?}");
    }
}

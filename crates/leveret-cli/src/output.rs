//! What goes to stdout: JSON, tables, lines. Everything is written through here, so that a reader who goes away is an error and
//! not a panic, and that no text of a node, a file or a server drives the terminal.

use std::{
    borrow::Cow,
    io::{self, Write},
};

use serde::Serialize;

use crate::progress;

/// How a command prints data.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Output {
    /// As JSON.
    pub(crate) json: bool,
}

/// Prints a line, or several, [cleaned](clean).
pub(crate) fn line(text: impl AsRef<str>) -> io::Result<()> {
    write_line(&clean(text.as_ref()))
}

/// Prints a script as it is.
pub(crate) fn script(text: &str) -> io::Result<()> {
    write_line(text)
}

fn write_line(text: &str) -> io::Result<()> {
    progress::aside(|| {
        let mut stdout = io::stdout().lock();
        stdout.write_all(text.as_bytes())?;
        stdout.write_all(b"\n")?;
        stdout.flush()
    })
}

/// Text for a terminal: a space in place of each control character that is not the end of a line.
pub(crate) fn clean(text: &str) -> Cow<'_, str> {
    let drives = |c: char| c.is_control() && c != '\n';
    if text.contains(drives) {
        Cow::Owned(text.replace(drives, " "))
    } else {
        Cow::Borrowed(text)
    }
}

/// Prints a document over several lines.
pub(crate) fn json(value: &impl Serialize) -> anyhow::Result<()> {
    Ok(write_line(&escape(serde_json::to_string_pretty(value)?))?)
}

/// Prints a document on one line, for output of several.
pub(crate) fn json_line(value: &impl Serialize) -> anyhow::Result<()> {
    Ok(write_line(&escape(serde_json::to_string(value)?))?)
}

/// The same JSON with the control characters escaped that it may have as they are. They stand in strings only, unlike those below U+0020,
/// which stand between tokens.
fn escape(json: String) -> String {
    let raw = '\u{7f}'..='\u{9f}';
    if !json.contains(|c| raw.contains(&c)) {
        return json;
    }
    raw.fold(json, |json, c| {
        json.replace(c, &format!("\\u{:04x}", u32::from(c)))
    })
}

/// Cells longer than this are cut.
const CELL_CHARS_MAX: usize = 72;

/// A table for people: the first row is its head.
#[derive(Debug, Default)]
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
    numbers: Vec<usize>,
}

impl Table {
    pub(crate) fn new<const N: usize>(head: [&str; N]) -> Table {
        Table {
            rows: vec![head.map(str::to_owned).to_vec()],
            numbers: Vec::new(),
        }
    }

    /// Sets a column to the right.
    pub(crate) fn number(mut self, column: usize) -> Table {
        self.numbers.push(column);
        self
    }

    pub(crate) fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.rows.push(cells.map(|cell| cut(&cell)).to_vec());
    }

    /// The table as text, without a newline at its end.
    pub(crate) fn render(&self) -> String {
        let columns = self.rows[0].len();
        let width = |column: usize| {
            self.rows
                .iter()
                .map(|row| row[column].chars().count())
                .max()
                .unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let render_row = |row: &Vec<String>| {
            let cells = row.iter().enumerate().map(|(column, cell)| {
                let width = widths[column];
                if self.numbers.contains(&column) {
                    format!("{cell:>width$}")
                } else {
                    format!("{cell:<width$}")
                }
            });
            cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
        };
        self.rows
            .iter()
            .map(render_row)
            .collect::<Vec<_>>()
            .join("\n")
    }

    pub(crate) fn print(&self) -> io::Result<()> {
        line(self.render())
    }
}

/// One line of at most [`CELL_CHARS_MAX`] characters.
fn cut(text: &str) -> String {
    let mut chars = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    let mut cell: String = chars.by_ref().take(CELL_CHARS_MAX).collect();
    if chars.next().is_some() {
        cell.push('…');
    }
    cell
}

/// Milliseconds for people.
pub(crate) fn duration(ms: u64) -> String {
    match ms {
        0..10_000 => format!("{ms} ms"),
        10_000..120_000 => format!("{:.1} s", ms as f64 / 1000.0),
        _ => format!("{} min {} s", ms / 60_000, ms / 1000 % 60),
    }
}

/// The value below which a share of sorted values lies; 0 for none.
pub(crate) fn percentile(sorted: &[u64], share: f64) -> u64 {
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.max(1) - 1).copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_align() {
        let mut table = Table::new(["step", "ms", "output"]).number(1);
        table.row(["a".to_owned(), "7".to_owned(), "x\ny".to_owned()]);
        table.row(["longer".to_owned(), "1200".to_owned(), String::new()]);
        assert_eq!(
            table.render(),
            "step      ms  output\na          7  x y\nlonger  1200"
        );
    }

    #[test]
    fn terminals_are_not_driven() {
        assert_eq!(
            clean("a\u{1b}[2J\r\u{9b}7m\tb\nc\u{7f}é"),
            "a [2J  7m b\nc é"
        );
        let value = serde_json::json!({ "a": "\u{1b}[2J\u{9b}7m\u{7f}é" });
        let text = escape(serde_json::to_string_pretty(&value).unwrap());
        assert_eq!(clean(&text), text);
        assert_eq!(
            serde_json::from_str::<serde_json::Value>(&text).unwrap(),
            value
        );
        let spaced = "{\t\"a\":\r\n1}".to_owned();
        assert_eq!(escape(spaced.clone()), spaced);
    }

    #[test]
    fn cells_are_cut() {
        assert_eq!(cut(&"é".repeat(80)).chars().count(), CELL_CHARS_MAX + 1);
    }

    #[test]
    fn percentiles_are_values_that_occurred() {
        let sorted: Vec<u64> = (1..=100).collect();
        assert_eq!(
            (percentile(&sorted, 0.5), percentile(&sorted, 0.99)),
            (50, 99)
        );
        assert_eq!((percentile(&[7], 0.99), percentile(&[], 0.5)), (7, 0));
    }
}

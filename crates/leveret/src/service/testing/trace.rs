//! What has happened in a world, a line for each event.

use std::{collections::VecDeque, fmt, time::Duration};

/// The most lines that are kept.
const LINES_MAX: usize = 10_000;
/// The most that are told of a test that failed.
const TOLD_MAX: usize = 60;

/// The events.
#[derive(Debug, Default)]
pub(super) struct Trace {
    count: u64,
    lines: VecDeque<String>,
}

impl Trace {
    pub(super) fn add(&mut self, at: Duration, who: &str, what: fmt::Arguments<'_>) {
        self.count += 1;
        if self.lines.len() == LINES_MAX {
            self.lines.pop_front();
        }
        self.lines
            .push_back(format!("{:>7} ms {who} {what}", at.as_millis()));
    }

    /// How many there were.
    pub(super) fn count(&self) -> u64 {
        self.count
    }

    pub(super) fn lines(&self) -> Vec<String> {
        self.lines.iter().cloned().collect()
    }

    /// The last ones.
    pub(super) fn last(&self) -> impl Iterator<Item = &String> {
        self.lines
            .iter()
            .skip(self.lines.len().saturating_sub(TOLD_MAX))
    }
}

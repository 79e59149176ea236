//! What a heart has in memory. All of it can be made anew from the log, and from what nodes tell.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use leveret_core::{
    broadcast::{Logged, Position},
    time::Timestamp,
};
use tokio::time::Instant;

use super::{keep::Kept, marks::Marks, members::Members, phase::Phase, waiting::Waiting};

/// The most writes that wait to be published; older ones are fetched from the log by the nodes.
pub(super) const OUTBOX_WRITES_MAX: usize = 8192;

/// The most bytes that wait to be published, about.
const OUTBOX_BYTES_MAX: usize = 64 << 20;

/// Of so many of the last writes it is remembered when they were logged.
const RECENT_MAX: usize = 1 << 16;

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) phase: Phase,
    /// The last write of the log. What is acknowledged is not behind it.
    pub(super) last: Position,
    /// The oldest seq of the log.
    pub(super) oldest: u64,
    /// The size of the log in bytes, when it was last looked at.
    pub(super) log_bytes: u64,
    pub(super) cluster: Arc<str>,
    /// The last write's time, behind which no later one goes.
    pub(super) at: Timestamp,
    pub(super) members: Members,
    pub(super) waiting: Waiting,
    pub(super) marks: Marks,
    pub(super) outbox: Outbox,
    pub(super) recent: Recent,
    /// Until then writes wait for most of the members to tell where they are: a log that is older than they are does not know of it.
    pub(super) settling: Option<Instant>,
    /// Why nothing can be published now.
    pub(super) unpublished: Option<String>,
    /// An append failed of which nobody knows whether it is in the log.
    pub(super) is_uncertain: bool,
    /// The last write that a question of level `latest` has seen.
    pub(super) seen: u64,
    /// The snapshot that the log may begin behind.
    pub(super) kept: Option<Kept>,
}

/// What is logged and not yet published, in the log's order.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    entries: VecDeque<Outgoing>,
    bytes: usize,
}

/// A write to be published.
#[derive(Clone, Debug)]
pub(super) struct Outgoing {
    pub(super) logged: Logged,
    /// Whether somebody waits for its outcome.
    pub(super) is_wanted: bool,
    /// Its size, about.
    pub(super) bytes: usize,
}

impl Outbox {
    /// Takes a write. The oldest ones go if there are too many: nodes see the gap, and fetch it.
    pub(super) fn push(&mut self, outgoing: Outgoing) {
        self.bytes += outgoing.bytes;
        self.entries.push_back(outgoing);
        while self.entries.len() > OUTBOX_WRITES_MAX || self.bytes > OUTBOX_BYTES_MAX {
            let Some(gone) = self.entries.pop_front() else {
                return;
            };
            self.bytes -= gone.bytes;
        }
    }

    /// A copy of the first ones, at most so many and about so many bytes.
    pub(super) fn first(&self, writes_max: usize, bytes_max: usize) -> Vec<Outgoing> {
        let mut bytes = 0;
        let fits = |outgoing: &&Outgoing| {
            let is_first = bytes == 0;
            bytes += outgoing.bytes;
            is_first || bytes <= bytes_max
        };
        let first = self.entries.iter().take(writes_max).take_while(fits);
        first.cloned().collect()
    }

    /// What goes up to this seq is published.
    pub(super) fn published(&mut self, seq: u64) {
        while self
            .entries
            .front()
            .is_some_and(|one| one.logged.position.seq <= seq)
        {
            if let Some(gone) = self.entries.pop_front() {
                self.bytes -= gone.bytes;
            }
        }
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn clear(&mut self) {
        *self = Outbox::default();
    }
}

/// When the last writes were logged.
#[derive(Debug, Default)]
pub(super) struct Recent(VecDeque<(u64, Instant)>);

impl Recent {
    pub(super) fn note(&mut self, seq: u64, now: Instant) {
        self.0.push_back((seq, now));
        if self.0.len() > RECENT_MAX {
            self.0.pop_front();
        }
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// The last write that was logged longer ago than this. Of those that are no more remembered, all were.
    pub(super) fn before(&self, lag: Duration, now: Instant, last: u64) -> u64 {
        let is_old = |(_, at): &(u64, Instant)| now.duration_since(*at) > lag;
        let old = self.0.partition_point(is_old);
        match (old.checked_sub(1), self.0.front()) {
            (Some(at), _) => self.0[at].0,
            (None, Some((first, _))) => first - 1,
            (None, None) => last,
        }
    }

    /// How long ago the write behind `seq` was logged: how far behind a node is that has applied `seq`. None if that is no more known, and zero
    /// if there is none.
    pub(super) fn lag(&self, seq: u64, now: Instant, last: u64) -> Option<Duration> {
        if seq >= last {
            return Some(Duration::ZERO);
        }
        let at = self.0.partition_point(|(known, _)| *known <= seq);
        let (found, logged) = self.0.get(at)?;
        (*found == seq + 1).then(|| now.duration_since(*logged))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lags() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut recent = Recent::default();
        assert_eq!(recent.before(Duration::ZERO, at(0), 7), 7);
        for (seq, ms) in [(8, 10), (9, 20), (10, 30)] {
            recent.note(seq, at(ms));
        }
        let before = |lag| recent.before(Duration::from_millis(lag), at(31), 10);
        assert_eq!([0, 5, 15, 25].map(before), [10, 9, 8, 7]);
        let lag = |seq| recent.lag(seq, at(31), 10).map(|lag| lag.as_millis());
        assert_eq!([10, 9, 7, 6].map(lag), [Some(0), Some(1), Some(21), None]);
    }
}

//! Which acknowledgements go out: pure bookkeeping of one channel's delivery tags.
//!
//! A channel numbers its deliveries 1, 2, 3, …. Settlements that gathered become few frames: a run at the front of what is
//! outstanding is one frame with *multiple*, the rest one frame each. Nothing is held back.

use std::collections::VecDeque;

use crate::broker::Settlement;

/// One frame to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) tag: u64,
    pub(super) multiple: bool,
    pub(super) settlement: Settlement,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Entry {
    Unsettled,
    /// Settled, not yet sent.
    Settled(Settlement),
    Sent,
}

/// The deliveries of one channel that are not acknowledged up to the front.
#[derive(Debug)]
pub(super) struct Outstanding {
    /// The tag of the first entry.
    first: u64,
    entries: VecDeque<Entry>,
    unsettled: usize,
}

impl Outstanding {
    pub(super) fn new() -> Outstanding {
        Outstanding {
            first: 1,
            entries: VecDeque::new(),
            unsettled: 0,
        }
    }

    /// How many deliveries are not settled yet.
    pub(super) fn unsettled(&self) -> usize {
        self.unsettled
    }

    /// The broker delivered the next tag; false if it is not the next one, which is a fault of the broker.
    #[must_use]
    pub(super) fn delivered(&mut self, tag: u64) -> bool {
        let is_next = tag == self.first + self.entries.len() as u64;
        if is_next {
            self.entries.push_back(Entry::Unsettled);
            self.unsettled += 1;
        }
        is_next
    }

    /// Takes what gathered, and returns what to send for it, in order.
    pub(super) fn settle(&mut self, gathered: &[(u64, Settlement)]) -> Vec<Frame> {
        for &(tag, settlement) in gathered {
            let index = tag.checked_sub(self.first).map(|index| index as usize);
            let entry = index.and_then(|index| self.entries.get_mut(index));
            let entry = entry.expect("a receipt settles a delivery of its channel");
            assert_eq!(*entry, Entry::Unsettled, "a receipt settles once");
            *entry = Entry::Settled(settlement);
            self.unsettled -= 1;
        }
        let mut frames = self.take_front();
        for &(tag, settlement) in gathered {
            if tag >= self.first {
                self.entries[(tag - self.first) as usize] = Entry::Sent;
                frames.push(Frame {
                    tag,
                    multiple: false,
                    settlement,
                });
            }
        }
        frames
    }

    /// Removes what is settled at the front: one frame for each run of the same settlement. The tag of a frame is one that the
    /// broker still waits for: it does not know those sent before any more.
    fn take_front(&mut self) -> Vec<Frame> {
        let mut frames: Vec<Frame> = Vec::new();
        while let Some(entry) = self.entries.front().copied() {
            let tag = self.first;
            match entry {
                Entry::Unsettled => break,
                Entry::Sent => {}
                Entry::Settled(settlement) => match frames.last_mut() {
                    Some(last) if last.settlement == settlement && settlement.runs() => {
                        last.tag = tag;
                        last.multiple = true;
                    }
                    _ => frames.push(Frame {
                        tag,
                        multiple: false,
                        settlement,
                    }),
                },
            }
            self.entries.pop_front();
            self.first += 1;
        }
        frames
    }
}

impl Settlement {
    /// Whether one frame can carry many of them. (A multiple `nack` requeues in an order of the broker's choice.)
    fn runs(self) -> bool {
        self == Settlement::Ack
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Deliveries 1 to `delivered`, then groups like `a1 a2 r3`; what goes out for each group, like `a2*` for a multiple.
    fn check(delivered: u64, groups: &[&str], expect: &[&str]) {
        let mut outstanding = Outstanding::new();
        assert!((1..=delivered).all(|tag| outstanding.delivered(tag)));
        for (group, expect) in groups.iter().zip(expect) {
            let gathered = group.split_whitespace().map(|word| {
                let settlement = match &word[..1] {
                    "a" => Settlement::Ack,
                    "r" => Settlement::Requeue,
                    _ => Settlement::Reject,
                };
                (word[1..].parse().unwrap(), settlement)
            });
            let frames = outstanding.settle(&gathered.collect::<Vec<_>>());
            let shown = frames.iter().map(|frame| {
                let name = match frame.settlement {
                    Settlement::Ack => "a",
                    Settlement::Requeue => "r",
                    Settlement::Reject => "x",
                };
                let star = if frame.multiple { "*" } else { "" };
                format!("{name}{}{star}", frame.tag)
            });
            assert_eq!(&shown.collect::<Vec<_>>().join(" "), expect, "{group}");
        }
    }

    #[test]
    fn a_run_at_the_front_is_one_frame() {
        check(4, &["a1 a2 a3", "a4"], &["a3*", "a4"]);
        check(4, &["a3 a1 a2 a4"], &["a4*"]);
    }

    #[test]
    fn what_is_behind_a_gap_goes_out_at_once() {
        check(5, &["a3 a1 a2 a5", "a4"], &["a3* a5", "a4"]);
        check(4, &["a2 a3", "a1 a4"], &["a2 a3", "a4*"]);
    }

    #[test]
    fn the_tag_of_a_multiple_is_still_outstanding() {
        // 3 went out alone, so that a multiple up to 3 would be an unknown tag to the broker.
        check(3, &["a3", "a1 a2"], &["a3", "a2*"]);
        check(3, &["a2", "a1", "a3"], &["a2", "a1", "a3"]);
    }

    #[test]
    fn other_settlements_break_the_run() {
        check(5, &["a1 a2 r3 a4 x5"], &["a2* r3 a4 x5"]);
        check(3, &["r1 r2 r3"], &["r1 r2 r3"]);
    }

    #[test]
    fn counts_what_is_unsettled() {
        let mut outstanding = Outstanding::new();
        assert!((1..=3).all(|tag| outstanding.delivered(tag)));
        outstanding.settle(&[(2, Settlement::Ack)]);
        assert_eq!(outstanding.unsettled(), 2);
        outstanding.settle(&[(1, Settlement::Ack), (3, Settlement::Requeue)]);
        assert_eq!(outstanding.unsettled(), 0);
        assert!(!outstanding.delivered(5));
        assert!(outstanding.delivered(4));
        assert_eq!(
            outstanding.settle(&[(4, Settlement::Ack)]),
            [Frame {
                tag: 4,
                multiple: false,
                settlement: Settlement::Ack
            }]
        );
    }
}

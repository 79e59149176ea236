//! When a schedule is due: at an interval, or by a cron pattern in a time zone. Pure: the time is an argument.
//!
//! # Where clocks change
//!
//! A pattern is about the clock on the wall. If its hour has no `*`, it names times of the day: one that comes twice counts the first time only, and
//! one that the clock skips is due at the moment of the change. If its hour has a `*`, it goes by the time that passes: what comes twice is due
//! twice, and what is skipped is not due.

use std::{fmt, time::Duration};

use chrono::DateTime;
use croner::{
    Cron,
    parser::{CronParser, Seconds},
};
use jiff::{Timestamp as Instant, tz::TimeZone};

use crate::time::Timestamp;

/// The shortest interval.
pub const EVERY_MIN: Duration = Duration::from_millis(100);

/// The longest interval: a hundred years. Longer ones are taken for mistakes.
pub const EVERY_MAX: Duration = Duration::from_secs(100 * 366 * 86_400);

/// The longest pattern, in bytes.
pub const CRON_BYTES_MAX: usize = 200;

/// Changes of the clock that are looked at for one due time: those of some thousands of years.
const CHANGES_MAX: usize = 20_000;

/// When a schedule is due.
#[derive(Clone)]
pub struct Timing(Rule);

#[derive(Clone)]
enum Rule {
    Every(i64),
    Cron(Box<Pattern>),
}

#[derive(Clone)]
struct Pattern {
    cron: Cron,
    zone: TimeZone,
    /// It names times of the day.
    names_times: bool,
}

/// Why this is never due, or nothing that could be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TimingError {
    /// An interval that is too short or too long.
    #[error("`every` must be from 100ms to a hundred years, not {0:?}")]
    Every(Duration),
    /// Not a pattern.
    #[error("'{pattern}' is no cron pattern: {reason}")]
    Pattern {
        /// What was given.
        pattern: String,
        /// What is wrong with it.
        reason: String,
    },
    /// No such zone.
    #[error("there is no time zone '{0}'; say one as in Europe/Berlin, or UTC")]
    Zone(String),
}

/// Prints what it is made of.
impl fmt::Debug for Timing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Rule::Every(ms) => write!(f, "every {ms} ms"),
            Rule::Cron(pattern) => write!(f, "{}", pattern.cron.as_str()),
        }
    }
}

impl Timing {
    /// Due each time that so much time has passed since the anchor.
    pub fn every(interval: Duration) -> Result<Timing, TimingError> {
        if !(EVERY_MIN..=EVERY_MAX).contains(&interval) {
            return Err(TimingError::Every(interval));
        }
        Ok(Timing(Rule::Every(interval.as_millis() as i64)))
    }

    /// Due by a pattern of five fields, or six with seconds in front, or a nickname such as `@daily`; on the clocks of a zone of the IANA's database.
    pub fn cron(pattern: &str, zone: &str) -> Result<Timing, TimingError> {
        let wrong = |reason: String| TimingError::Pattern {
            pattern: pattern.chars().take(CRON_BYTES_MAX).collect(),
            reason,
        };
        if pattern.len() > CRON_BYTES_MAX {
            return Err(wrong(format!("it has more than {CRON_BYTES_MAX} bytes")));
        }
        let parser = CronParser::builder().seconds(Seconds::Optional).build();
        let cron = parser
            .parse(pattern)
            .map_err(|error| wrong(error.to_string()))?;
        let zone = TimeZone::get(zone).map_err(|_| TimingError::Zone(zone.to_owned()))?;
        Ok(Timing(Rule::Cron(Box::new(Pattern {
            cron,
            zone,
            names_times: names_times(pattern),
        }))))
    }

    /// The first due time after `after`; `None` if there is none any more. An interval counts from `anchor`, and is due for the first time when
    /// it has passed once.
    pub fn next_due(&self, anchor: Timestamp, after: Timestamp) -> Option<Timestamp> {
        match &self.0 {
            Rule::Every(ms) => {
                let passed = i128::from(after.0.max(anchor.0)) - i128::from(anchor.0);
                let due = (passed / i128::from(*ms) + 1) * i128::from(*ms) + i128::from(anchor.0);
                i64::try_from(due).ok().map(Timestamp)
            }
            Rule::Cron(pattern) => pattern.next(after),
        }
    }

    /// The last due time from `first`, which is one, up to `until`. The work does not depend on how many there are in between.
    pub fn last_due(&self, anchor: Timestamp, first: Timestamp, until: Timestamp) -> Timestamp {
        let mut back = 1000;
        loop {
            let from = Timestamp(until.0.saturating_sub(back));
            if from <= first {
                return self.walk(anchor, first, until);
            }
            if let Some(due) = self.next_due(anchor, from).filter(|due| *due <= until) {
                return self.walk(anchor, due, until);
            }
            back = back.saturating_mul(2);
        }
    }

    fn walk(&self, anchor: Timestamp, mut due: Timestamp, until: Timestamp) -> Timestamp {
        while let Some(next) = self.next_due(anchor, due).filter(|next| *next <= until) {
            due = next;
        }
        due
    }
}

/// Whether the hour of a pattern has no `*`.
fn names_times(pattern: &str) -> bool {
    let fields: Vec<_> = pattern.split_whitespace().collect();
    match fields[..] {
        [nickname] => !nickname.eq_ignore_ascii_case("@hourly"),
        [_, hour, _, _, _] | [_, _, hour, ..] => !hour.contains('*'),
        _ => true,
    }
}

impl Pattern {
    /// Walks over spans in which the clock does not change; times are in seconds, and those of the clock on the wall as if it were UTC's.
    fn next(&self, after: Timestamp) -> Option<Timestamp> {
        let mut at = Instant::from_second(after.0.div_euclid(1000)).ok()?;
        let mut wall = at.as_second() + self.offset(at);
        if self.names_times {
            wall = wall.max(self.shown_before(at)?);
        }
        for _ in 0..CHANGES_MAX {
            let offset = self.offset(at);
            let found = self.next_on_wall(wall)?;
            let change = self.zone.following(at).next();
            let Some(change) =
                change.filter(|change| found - offset >= change.timestamp().as_second())
            else {
                return found.checked_sub(offset)?.checked_mul(1000).map(Timestamp);
            };
            at = change.timestamp();
            let (old, new) = (
                at.as_second() + offset,
                at.as_second() + i64::from(change.offset().seconds()),
            );
            if self.names_times && found < new {
                return at.as_second().checked_mul(1000).map(Timestamp);
            }
            wall = if self.names_times {
                old.max(new) - 1
            } else {
                new - 1
            };
        }
        None
    }

    fn offset(&self, at: Instant) -> i64 {
        i64::from(self.zone.to_offset(at).seconds())
    }

    /// The last time that the clock had shown before its last change: what it shows again was due the first time.
    fn shown_before(&self, at: Instant) -> Option<i64> {
        let second = jiff::SignedDuration::from_secs(1);
        let Some(change) = self.zone.preceding(at.checked_add(second).ok()?).next() else {
            return Some(i64::MIN);
        };
        let before = change.timestamp().checked_sub(second).ok()?;
        Some(before.as_second() + self.offset(before))
    }

    /// The first time after `wall` that the pattern has.
    fn next_on_wall(&self, wall: i64) -> Option<i64> {
        let from = DateTime::from_timestamp(wall, 0)?;
        let found = self.cron.find_next_occurrence(&from, false).ok()?;
        Some(found.timestamp())
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use insta::assert_snapshot;

    use super::*;

    /// The next times after one, on the clock of the zone.
    fn next(pattern: &str, zone: &str, after: &str, count: usize) -> String {
        let timing = match Timing::cron(pattern, zone) {
            Ok(timing) => timing,
            Err(error) => return error.to_string(),
        };
        let mut at: Timestamp = after.parse().unwrap();
        let mut told = String::new();
        for _ in 0..count {
            let Some(due) = timing.next_due(Timestamp(0), at) else {
                told.push_str("never\n");
                break;
            };
            assert!(due > at);
            let shown = Instant::from_millisecond(due.0).unwrap();
            let shown = shown.to_zoned(TimeZone::get(zone).unwrap());
            writeln!(told, "{}", shown.strftime("%F %T%:z")).unwrap();
            at = due;
        }
        told
    }

    #[test]
    fn patterns_are_due() {
        let check = |pattern, after| next(pattern, "UTC", after, 3);
        assert_snapshot!(check("*/15 9-10 * * 1-5", "2026-11-27T10:20:00Z"), @"
        2026-11-27 10:30:00+00:00
        2026-11-27 10:45:00+00:00
        2026-11-30 09:00:00+00:00
        ");
        assert_snapshot!(check("@daily", "2026-12-30T00:00:00Z"), @"
        2026-12-31 00:00:00+00:00
        2027-01-01 00:00:00+00:00
        2027-01-02 00:00:00+00:00
        ");
        assert_snapshot!(check("0 0 29 2 *", "2026-01-01T00:00:00Z"), @"
        2028-02-29 00:00:00+00:00
        2032-02-29 00:00:00+00:00
        2036-02-29 00:00:00+00:00
        ");
        assert_snapshot!(check("*/20 * * * * *", "2026-01-01T00:00:00.001Z"), @"
        2026-01-01 00:00:20+00:00
        2026-01-01 00:00:40+00:00
        2026-01-01 00:01:00+00:00
        ");
        assert_snapshot!(check("0 0 L * *", "2026-01-31T00:00:00Z"), @"
        2026-02-28 00:00:00+00:00
        2026-03-31 00:00:00+00:00
        2026-04-30 00:00:00+00:00
        ");
        assert_snapshot!(check("0 0 30 2 *", "2026-01-01T00:00:00Z"), @"never");
    }

    /// Berlin goes from 02:00 to 03:00 on 2026-03-29, and from 03:00 back to 02:00 on 2026-10-25.
    #[test]
    fn what_the_clock_skips_is_due_at_the_change() {
        let check = |pattern| next(pattern, "Europe/Berlin", "2026-03-28T12:00:00Z", 3);
        assert_snapshot!(check("30 2 * * *"), @"
        2026-03-29 03:00:00+02:00
        2026-03-30 02:30:00+02:00
        2026-03-31 02:30:00+02:00
        ");
        assert_snapshot!(check("0,30 2,3 * * *"), @"
        2026-03-29 03:00:00+02:00
        2026-03-29 03:30:00+02:00
        2026-03-30 02:00:00+02:00
        ");
        let check = |pattern| next(pattern, "Europe/Berlin", "2026-03-29T00:15:00Z", 3);
        assert_snapshot!(check("*/30 * * * *"), @"
        2026-03-29 01:30:00+01:00
        2026-03-29 03:00:00+02:00
        2026-03-29 03:30:00+02:00
        ");
    }

    #[test]
    fn what_comes_twice_is_due_once_if_its_hour_is_named() {
        let check = |pattern| next(pattern, "Europe/Berlin", "2026-10-24T23:40:00Z", 4);
        assert_snapshot!(check("0,30 2 * * *"), @"
        2026-10-25 02:00:00+02:00
        2026-10-25 02:30:00+02:00
        2026-10-26 02:00:00+01:00
        2026-10-26 02:30:00+01:00
        ");
        assert_snapshot!(check("*/30 * * * *"), @"
        2026-10-25 02:00:00+02:00
        2026-10-25 02:30:00+02:00
        2026-10-25 02:00:00+01:00
        2026-10-25 02:30:00+01:00
        ");
        // Asked in the middle of the second time, and at its very beginning.
        for after in ["2026-10-25T01:10:00Z", "2026-10-25T01:00:00Z"] {
            let due = next("0,30 2 * * *", "Europe/Berlin", after, 1);
            assert_eq!(due, "2026-10-26 02:00:00+01:00\n", "{after}");
        }
        assert_snapshot!(next("0 3 * * *", "Europe/Berlin", "2026-10-25T00:59:00Z", 1), @"2026-10-25 03:00:00+01:00");
    }

    /// A day that Samoa skipped, half an hour of Lord Howe, and the zone that has nothing of it.
    #[test]
    fn odd_changes_are_changes() {
        assert_snapshot!(next("0 12 * * *", "Pacific/Apia", "2011-12-29T00:00:00Z", 3), @"
        2011-12-29 12:00:00-10:00
        2011-12-31 00:00:00+14:00
        2011-12-31 12:00:00+14:00
        ");
        assert_snapshot!(next("15 2 * * *", "Australia/Lord_Howe", "2026-10-03T00:00:00Z", 2), @"
        2026-10-04 02:30:00+11:00
        2026-10-05 02:15:00+11:00
        ");
        assert_snapshot!(next("30 2 * * *", "UTC", "2026-03-28T12:00:00Z", 1), @"2026-03-29 02:30:00+00:00");
    }

    #[test]
    fn what_is_no_timing_is_told() {
        let check = |pattern, zone| next(pattern, zone, "2026-01-01T00:00:00Z", 1);
        for bad in ["", "* * * *", "61 * * * *", "a b c d e", "* * * * * * * *"] {
            let told = check(bad, "UTC");
            assert!(told.contains("is no cron pattern: "), "{bad}: {told}");
        }
        let long = "*".repeat(201);
        assert!(check(&long, "UTC").contains("it has more than 200 bytes"));
        assert_snapshot!(check("* * * * *", "Mars/Phobos"), @"there is no time zone 'Mars/Phobos'; say one as in Europe/Berlin, or UTC");
        for bad in [
            Duration::ZERO,
            Duration::from_millis(99),
            EVERY_MAX + EVERY_MIN,
        ] {
            assert_eq!(Timing::every(bad).unwrap_err(), TimingError::Every(bad));
        }
    }

    #[test]
    fn an_interval_is_due_first_when_it_has_passed() {
        let timing = Timing::every(Duration::from_secs(10)).unwrap();
        let next = |after| {
            timing
                .next_due(Timestamp(5000), Timestamp(after))
                .unwrap()
                .0
        };
        assert_eq!(
            [
                next(0),
                next(5000),
                next(14_999),
                next(15_000),
                next(99_999)
            ],
            [15_000, 15_000, 15_000, 25_000, 105_000]
        );
        assert_eq!(timing.next_due(Timestamp(i64::MAX - 5), Timestamp(0)), None);
    }

    /// However long ago the first was.
    #[test]
    fn the_last_due_time_is_found() {
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let check = |timing: &Timing, first: &str, until: &str, expect: &str| {
            let last = timing.last_due(at(first), at(first), at(until));
            assert_eq!(last, at(expect), "{first} {until}");
        };
        let second = Timing::cron("* * * * * *", "UTC").unwrap();
        check(
            &second,
            "1990-01-01T00:00:00Z",
            "2026-01-01T00:00:00.5Z",
            "2026-01-01T00:00:00Z",
        );
        let leap = Timing::cron("0 0 29 2 *", "UTC").unwrap();
        check(
            &leap,
            "1992-02-29T00:00:00Z",
            "2027-06-01T00:00:00Z",
            "2024-02-29T00:00:00Z",
        );
        check(
            &leap,
            "2024-02-29T00:00:00Z",
            "2027-06-01T00:00:00Z",
            "2024-02-29T00:00:00Z",
        );
        let every = Timing::every(Duration::from_secs(60)).unwrap();
        check(
            &every,
            "2020-01-01T00:00:00Z",
            "2026-01-01T00:00:59Z",
            "2026-01-01T00:00:00Z",
        );
    }
}

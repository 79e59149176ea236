//! Points in time, as milliseconds since the Unix epoch.

use std::{fmt, ops::Add, str::FromStr, time::Duration};

use serde::{Deserialize, Serialize};

/// A point in time: milliseconds since 1970-01-01T00:00:00Z. Always an argument, never read here.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// Milliseconds from `earlier` to `self`; zero when the clock went backwards.
    pub fn ms_since(self, earlier: Timestamp) -> u64 {
        u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0)
    }
}

impl Add<Duration> for Timestamp {
    type Output = Timestamp;

    fn add(self, rhs: Duration) -> Timestamp {
        let ms = i64::try_from(rhs.as_millis()).unwrap_or(i64::MAX);
        Timestamp(self.0.saturating_add(ms))
    }
}

/// RFC 3339 in UTC with milliseconds, as in `2026-11-21T02:24:23.755Z`.
impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let days = self.0.div_euclid(86_400_000);
        let ms = self.0.rem_euclid(86_400_000);
        let (year, month, day) = civil_from_days(days);
        let (hour, minute, second) = (ms / 3_600_000, ms / 60_000 % 60, ms / 1000 % 60);
        if !(0..=9999).contains(&year) {
            write!(f, "{year:04}")?;
        }
        // Many are printed, and `write!` of seven numbers takes ten times as long.
        let mut text = *b"0000-00-00T00:00:00.000Z";
        let fields = [
            (0, 4, year),
            (5, 2, month),
            (8, 2, day),
            (11, 2, hour),
            (14, 2, minute),
            (17, 2, second),
            (20, 3, ms % 1000),
        ];
        for (at, width, mut number) in fields {
            for place in (at..at + width).rev() {
                text[place] = b'0' + number.rem_euclid(10) as u8;
                number /= 10;
            }
        }
        let text = str::from_utf8(&text).map_err(|_| fmt::Error)?;
        f.write_str(if (0..=9999).contains(&year) {
            text
        } else {
            &text[4..]
        })
    }
}

/// A text that is no point in time in the form of RFC 3339.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a time as RFC 3339 has it, such as 2026-11-21T02:24:23.755Z")]
pub struct NotATime;

/// RFC 3339 with any offset, such as `2026-11-21T02:24:23Z` or `2026-11-21t04:24:23.7554+02:00`; what is finer than a millisecond is cut off. A
/// leap second is the first one after it.
impl FromStr for Timestamp {
    type Err = NotATime;

    fn from_str(text: &str) -> Result<Timestamp, NotATime> {
        parse_rfc_3339(text.as_bytes()).ok_or(NotATime)
    }
}

fn parse_rfc_3339(text: &[u8]) -> Option<Timestamp> {
    let number = |at: usize, width: usize, range: std::ops::RangeInclusive<i64>| {
        let digits = text.get(at..at + width)?;
        let digit = |sum: i64, &byte: &u8| {
            byte.is_ascii_digit()
                .then(|| sum * 10 + i64::from(byte - b'0'))
        };
        digits
            .iter()
            .try_fold(0, digit)
            .filter(|number| range.contains(number))
    };
    let is = |at: usize, marks: &[u8]| text.get(at).is_some_and(|byte| marks.contains(byte));
    if !(is(4, b"-") && is(7, b"-") && is(10, b"Tt ") && is(13, b":") && is(16, b":")) {
        return None;
    }
    let (year, month) = (number(0, 4, 0..=9999)?, number(5, 2, 1..=12)?);
    let day = number(8, 2, 1..=days_of_month(year, month))?;
    let (hour, minute, second) = (
        number(11, 2, 0..=23)?,
        number(14, 2, 0..=59)?,
        number(17, 2, 0..=60)?,
    );
    let mut at = 19;
    let mut ms = 0;
    if is(at, b".") {
        let digits = text[at + 1..]
            .iter()
            .take_while(|byte| byte.is_ascii_digit());
        let digits = digits.count();
        if digits == 0 {
            return None;
        }
        for place in 1..=3 {
            let digit = if place <= digits {
                i64::from(text[at + place] - b'0')
            } else {
                0
            };
            ms = ms * 10 + digit;
        }
        at += 1 + digits;
    }
    let offset_minutes = if is(at, b"Zz") && text.len() == at + 1 {
        0
    } else if is(at, b"+-") && is(at + 3, b":") && text.len() == at + 6 {
        let minutes = number(at + 1, 2, 0..=23)? * 60 + number(at + 4, 2, 0..=59)?;
        if text[at] == b'-' { -minutes } else { minutes }
    } else {
        return None;
    };
    let minutes = days_from_civil(year, month, day) * 1440 + hour * 60 + minute - offset_minutes;
    Some(Timestamp((minutes * 60 + second) * 1000 + ms))
}

fn days_of_month(year: i64, month: i64) -> i64 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// The inverse of [`civil_from_days`], from the same source.
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = year - i64::from(month <= 2);
    let era = year.div_euclid(400);
    let year_of_era = year - era * 400;
    let shifted_month = (month + 9) % 12;
    let day_of_year = (153 * shifted_month + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

/// A point in time as text of RFC 3339 in serde: `#[serde(with = "leveret_core::time::rfc_3339")]`.
pub mod rfc_3339 {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    use super::Timestamp;

    /// Writes it.
    pub fn serialize<S: Serializer>(time: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(time)
    }

    /// Reads it.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Timestamp, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(D::Error::custom)
    }

    /// The same where there may be none.
    pub mod option {
        use serde::{Deserialize, Deserializer, Serializer, de::Error};

        use super::Timestamp;

        /// Writes it.
        pub fn serialize<S: Serializer>(
            time: &Option<Timestamp>,
            serializer: S,
        ) -> Result<S::Ok, S::Error> {
            match time {
                Some(time) => super::serialize(time, serializer),
                None => serializer.serialize_none(),
            }
        }

        /// Reads it.
        pub fn deserialize<'de, D: Deserializer<'de>>(
            deserializer: D,
        ) -> Result<Option<Timestamp>, D::Error> {
            let text = Option::<std::borrow::Cow<str>>::deserialize(deserializer)?;
            text.map(|text| text.parse().map_err(D::Error::custom))
                .transpose()
        }
    }
}

/// A duration from text: digits and a unit, as in `250ms`, `10s`, `5m`, `1h`, `2d`. No signs, no fractions.
pub fn parse_duration(text: &str) -> Option<Duration> {
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let count: u32 = text[..digits].parse().ok()?;
    let ms = match &text[digits..] {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    Some(Duration::from_millis(u64::from(count) * ms))
}

/// Days since the epoch to a date in the proleptic Gregorian calendar (Howard Hinnant, "chrono-Compatible
/// Low-Level Date Algorithms", `civil_from_days`).
fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 {
        shifted_month + 3
    } else {
        shifted_month - 9
    };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_rfc_3339() {
        let check = |ms, expect: &str| assert_eq!(Timestamp(ms).to_string(), expect);
        check(0, "1970-01-01T00:00:00.000Z");
        check(951_782_400_000, "2000-02-29T00:00:00.000Z");
        check(1_795_141_463_755, "2026-11-20T02:24:23.755Z");
        check(-1, "1969-12-31T23:59:59.999Z");
        check(253_402_300_800_000, "10000-01-01T00:00:00.000Z");
    }

    #[test]
    fn reads_rfc_3339() {
        let check = |text: &str, ms| assert_eq!(text.parse(), Ok(Timestamp(ms)), "{text}");
        check("1970-01-01T00:00:00Z", 0);
        check("2000-02-29T00:00:00.000Z", 951_782_400_000);
        check("2026-11-20t04:24:23.7559+02:00", 1_795_141_463_755);
        check("1969-12-31 23:59:59.9-00:00", -100);
        check("2016-12-31T23:59:60Z", 1_483_228_800_000);
        for bad in [
            "",
            "2026-11-20",
            "2026-11-20T04:24:23",
            "2026-02-29T00:00:00Z",
            "2026-13-01T00:00:00Z",
            "2026-11-20T24:00:00Z",
            "2026-11-20T00:00:00.Z",
            "2026-11-20T00:00:00Zx",
            "2026-11-20T00:00:00+2:00",
            "+026-11-20T00:00:00Z",
            "2026-11-20T00:00:00\u{e9}",
        ] {
            assert_eq!(bad.parse::<Timestamp>(), Err(NotATime), "{bad}");
        }
        for days in (-700_000..2_900_000).step_by(97) {
            let time = Timestamp(days * 86_400_000 + 1);
            let text = time.to_string();
            if text.len() == 24 {
                assert_eq!(text.parse(), Ok(time), "{text}");
            }
        }
    }

    #[test]
    fn reads_durations() {
        assert_eq!(parse_duration("250ms"), Some(Duration::from_millis(250)));
        assert_eq!(parse_duration("2d"), Some(Duration::from_secs(172_800)));
        for bad in ["", "5", "s", "5x", "-1s", "1.5s", "1 s", "99999999999s"] {
            assert_eq!(parse_duration(bad), None, "{bad}");
        }
    }

    #[test]
    fn elapsed_never_goes_negative() {
        assert_eq!(Timestamp(5).ms_since(Timestamp(9)), 0);
        assert_eq!(
            (Timestamp(5) + Duration::from_secs(1)).ms_since(Timestamp(5)),
            1000
        );
    }
}

//! Values on their way into PostgreSQL and out of it.
//!
//! In: as text, which PostgreSQL reads as the type that the parameter has there. Out: whole numbers, rounded ones, texts and bytes as they are,
//! truth as 1 and 0, `numeric` as a whole number where it is one of 64 bits and else as text, times, UUIDs and JSON as text.

use std::{error::Error, fmt::Write as _};

use bytes::BytesMut;
use leveret_core::broadcast::{Value, asks_for_time};
use tokio_postgres::{
    Row,
    types::{Format, FromSql, IsNull, ToSql, Type},
};

/// A value as PostgreSQL reads it.
#[derive(Debug)]
pub(super) struct Argument(Option<String>);

impl Argument {
    /// The argument for a parameter of this type, or why it is none.
    pub(super) fn new(value: &Value, parameter: &Type) -> Result<Argument, String> {
        let is_bytes = *parameter == Type::BYTEA;
        let text = match value {
            Value::Null => return Ok(Argument(None)),
            Value::Integer(number) => number.to_string(),
            Value::Real(number) if number.is_infinite() => if *number > 0.0 {
                "Infinity"
            } else {
                "-Infinity"
            }
            .to_owned(),
            Value::Real(number) => format!("{number:?}"),
            Value::Text(text) if is_time(parameter) && asks_for_time(text) => {
                return Err(format!(
                    "'{text}' is the time of the node: CURRENT_TIMESTAMP is that of the write"
                ));
            }
            // As text of a bytea it might be read as an escape.
            Value::Text(text) if is_bytes => hex(text.as_bytes()),
            Value::Text(text) => text.clone(),
            Value::Blob(bytes) if is_bytes => hex(bytes),
            Value::Blob(_) => return Err(format!("bytes are no {parameter}")),
        };
        Ok(Argument(Some(text)))
    }
}

fn is_time(parameter: &Type) -> bool {
    [
        Type::TIMESTAMP,
        Type::TIMESTAMPTZ,
        Type::DATE,
        Type::TIME,
        Type::TIMETZ,
    ]
    .contains(parameter)
}

fn hex(bytes: &[u8]) -> String {
    let mut text = "\\x".to_owned();
    for byte in bytes {
        // Writing to a String does not fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

impl ToSql for Argument {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        let Some(text) = &self.0 else {
            return Ok(IsNull::Yes);
        };
        out.extend_from_slice(text.as_bytes());
        Ok(IsNull::No)
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    fn to_sql_checked(
        &self,
        parameter: &Type,
        out: &mut BytesMut,
    ) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        self.to_sql(parameter, out)
    }

    fn encode_format(&self, _: &Type) -> Format {
        Format::Text
    }
}

/// Whether values of this type can be returned.
pub(super) fn is_known(column: &Type) -> bool {
    [
        Type::BOOL,
        Type::INT2,
        Type::INT4,
        Type::INT8,
        Type::FLOAT4,
        Type::FLOAT8,
        Type::NUMERIC,
        Type::TEXT,
        Type::VARCHAR,
        Type::BPCHAR,
        Type::NAME,
        Type::UNKNOWN,
        Type::BYTEA,
        Type::TIMESTAMP,
        Type::TIMESTAMPTZ,
        Type::DATE,
        Type::TIME,
        Type::UUID,
        Type::JSON,
        Type::JSONB,
    ]
    .contains(column)
}

/// The bytes of a column.
struct Raw<'a>(&'a [u8]);

impl<'a> FromSql<'a> for Raw<'a> {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Raw<'a>, Box<dyn Error + Sync + Send>> {
        Ok(Raw(raw))
    }

    fn accepts(_: &Type) -> bool {
        true
    }
}

/// The values of a row, whose types are [known](is_known).
pub(super) fn values(row: &Row) -> Result<Vec<Value>, tokio_postgres::Error> {
    let columns = row.columns().iter().enumerate();
    columns
        .map(|(place, column)| {
            let raw = row.try_get::<_, Option<Raw<'_>>>(place)?;
            Ok(raw.map_or(Value::Null, |raw| {
                // What the server sends is of its type; bytes are what is left of anything else.
                value(column.type_(), raw.0).unwrap_or_else(|| Value::Blob(raw.0.to_vec()))
            }))
        })
        .collect()
}

fn value(column: &Type, raw: &[u8]) -> Option<Value> {
    let text = |text: String| Some(Value::Text(text));
    let number = |bytes: &[u8]| match bytes.len() {
        2 => Some(i16::from_be_bytes(bytes.try_into().ok()?).into()),
        4 => Some(i32::from_be_bytes(bytes.try_into().ok()?).into()),
        8 => Some(i64::from_be_bytes(bytes.try_into().ok()?)),
        _ => None,
    };
    match *column {
        Type::BOOL => Some(Value::Integer((*raw.first()? != 0).into())),
        Type::INT2 | Type::INT4 | Type::INT8 => number(raw).map(Value::Integer),
        Type::FLOAT4 => Some(real(f32::from_be_bytes(raw.try_into().ok()?).into())),
        Type::FLOAT8 => Some(real(f64::from_be_bytes(raw.try_into().ok()?))),
        Type::NUMERIC => numeric(raw),
        Type::TIMESTAMP => text(moment(number(raw)?, "")),
        Type::TIMESTAMPTZ => text(moment(number(raw)?, "+00")),
        Type::DATE => text(day(number(raw)?)),
        Type::TIME => text(clock(number(raw)?)),
        Type::UUID => text(uuid::Uuid::from_slice(raw).ok()?.to_string()),
        // A version stands before it.
        Type::JSONB => text(String::from_utf8(raw.get(1..)?.to_vec()).ok()?),
        Type::BYTEA => Some(Value::Blob(raw.to_vec())),
        _ => text(String::from_utf8(raw.to_vec()).ok()?),
    }
}

/// SQL has NaN here, and nowhere else.
fn real(number: f64) -> Value {
    if number.is_nan() {
        Value::Text("NaN".to_owned())
    } else {
        Value::Real(number)
    }
}

/// Digits to the base of 10,000.
fn numeric(raw: &[u8]) -> Option<Value> {
    let word = |at: usize| {
        Some(i16::from_be_bytes(
            raw.get(2 * at..2 * at + 2)?.try_into().ok()?,
        ))
    };
    let (count, weight, sign, scale) = (word(0)?, word(1)?, word(2)? as u16, word(3)?);
    match sign {
        0xC000 => return Some(Value::Text("NaN".to_owned())),
        0xD000 => return Some(Value::Text("Infinity".to_owned())),
        0xF000 => return Some(Value::Text("-Infinity".to_owned())),
        _ => {}
    }
    let digit = |place: i16| {
        let at = weight - place;
        if (0..count).contains(&at) {
            word(4 + at as usize)
        } else {
            Some(0)
        }
    };
    let mut text = String::new();
    for place in (0..=weight.max(0)).rev() {
        // Writing to a String does not fail.
        let _ = write!(text, "{:04}", digit(place)?);
    }
    let whole = text.trim_start_matches('0');
    let mut text = if whole.is_empty() { "0" } else { whole }.to_owned();
    if sign == 0x4000 {
        text.insert(0, '-');
    }
    if scale > 0 {
        let mut fraction = String::new();
        let mut place = -1;
        while fraction.len() < scale as usize {
            let _ = write!(fraction, "{:04}", digit(place)?);
            place -= 1;
        }
        text.push('.');
        text.push_str(&fraction[..scale as usize]);
        return Some(Value::Text(text));
    }
    Some(text.parse().map_or(Value::Text(text), Value::Integer))
}

const DAY_US: i64 = 86_400_000_000;

/// Microseconds since 2000.
fn moment(us: i64, zone: &str) -> String {
    match us {
        i64::MAX => "infinity".to_owned(),
        i64::MIN => "-infinity".to_owned(),
        us => {
            let date = day(us.div_euclid(DAY_US));
            let time = clock(us.rem_euclid(DAY_US));
            match date.strip_suffix(" BC") {
                Some(date) => format!("{date} {time}{zone} BC"),
                None => format!("{date} {time}{zone}"),
            }
        }
    }
}

fn clock(us: i64) -> String {
    let (seconds, fraction) = (us / 1_000_000, us % 1_000_000);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    let mut text = format!("{hour:02}:{minute:02}:{second:02}");
    if fraction > 0 {
        let fraction = format!(".{fraction:06}");
        text.push_str(fraction.trim_end_matches('0'));
    }
    text
}

/// Days since 2000, in the Gregorian calendar.
fn day(days: i64) -> String {
    if days == i64::from(i32::MAX) {
        return "infinity".to_owned();
    }
    if days == i64::from(i32::MIN) {
        return "-infinity".to_owned();
    }
    // Days since the first of March of year 0, in eras of 400 years.
    let days = days + 730_425;
    let (era, of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    if year > 0 {
        format!("{year:04}-{month:02}-{day:02}")
    } else {
        format!("{:04}-{month:02}-{day:02} BC", 1 - year)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_and_times() {
        assert_eq!(day(0), "2000-01-01");
        assert_eq!(day(-1), "1999-12-31");
        assert_eq!(day(59), "2000-02-29");
        assert_eq!(day(-730_119), "0001-01-01");
        assert_eq!(day(-730_120), "0001-12-31 BC");
        assert_eq!(moment(-1, "+00"), "1999-12-31 23:59:59.999999+00");
        assert_eq!(moment(1_500_000, ""), "2000-01-01 00:00:01.5");
        assert_eq!(moment(i64::MAX, ""), "infinity");
    }

    #[test]
    fn numbers_to_the_base_of_ten_thousand() {
        let raw = |words: &[u16]| {
            let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_be_bytes()).collect();
            numeric(&bytes).unwrap()
        };
        let text = |text: &str| Value::Text(text.to_owned());
        assert_eq!(raw(&[0, 0, 0, 0]), Value::Integer(0));
        assert_eq!(raw(&[2, 1, 0, 0, 1, 23]), Value::Integer(10_023));
        assert_eq!(raw(&[1, 1, 0x4000, 0, 5]), Value::Integer(-50_000));
        assert_eq!(raw(&[2, 0, 0, 2, 12, 3400]), text("12.34"));
        assert_eq!(raw(&[1, 0xFFFF, 0x4000, 5, 7]), text("-0.00070"));
        assert_eq!(raw(&[0, 0, 0xC000, 0]), text("NaN"));
    }
}

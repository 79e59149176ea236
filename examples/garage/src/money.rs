//! Amounts: minor units inside, decimal text in answers and events; requests may say a number or a decimal text.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};
use serde_json::Value;

/// The largest amount, in minor units: what every JSON reader keeps exact as a number.
pub(crate) const MONEY_MAX: i64 = (1 << 53) - 1;

/// An amount of money in minor units, not negative. Printed with two decimals: `150.00`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Money(pub(crate) i64);

impl Money {
    /// Reads a number or decimal text with two decimals at most.
    pub(crate) fn read(value: &Value) -> Result<Money, String> {
        let text = match value {
            Value::String(text) => text.clone(),
            Value::Number(number) => number.to_string(),
            _ => {
                return Err("is no amount; say a number or decimal text such as \"150.00\"".into());
            }
        };
        Money::parse(&text).ok_or_else(|| {
            let shown: String = text.chars().take(40).collect();
            format!("'{shown}' is no amount; say one of 0 or more with two decimals at most")
        })
    }

    fn parse(text: &str) -> Option<Money> {
        let (whole, decimals) = text.split_once('.').unwrap_or((text, "0"));
        let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        if !digits(whole) || !digits(decimals) || whole.len() > 16 {
            return None;
        }
        // A number may print with a zero that nobody wrote: `1000.0`.
        let significant = decimals.trim_end_matches('0');
        if significant.len() > 2 {
            return None;
        }
        let whole: i64 = whole.parse().ok()?;
        let cents: i64 = format!("{significant:0<2}").parse().ok()?;
        let minor = whole.checked_mul(100)?.checked_add(cents)?;
        (minor <= MONEY_MAX).then_some(Money(minor))
    }

    /// So many of it.
    pub(crate) fn times(self, quantity: i64) -> Option<Money> {
        self.0.checked_mul(quantity).and_then(Money::bounded)
    }

    /// Both together.
    pub(crate) fn plus(self, other: Money) -> Option<Money> {
        self.0.checked_add(other.0).and_then(Money::bounded)
    }

    fn bounded(minor: i64) -> Option<Money> {
        (0..=MONEY_MAX).contains(&minor).then_some(Money(minor))
    }
}

impl fmt::Display for Money {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:02}", self.0 / 100, self.0 % 100)
    }
}

impl Serialize for Money {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Money {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Money, D::Error> {
        let value = Value::deserialize(deserializer)?;
        Money::read(&value).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn read_and_printed() {
        let check = |value: Value, expected: Option<&str>| {
            let read = Money::read(&value).ok().map(|money| money.to_string());
            assert_eq!(read.as_deref(), expected, "{value}");
        };
        check(json!(150), Some("150.00"));
        check(json!(150.5), Some("150.50"));
        check(json!("150.05"), Some("150.05"));
        check(json!("0"), Some("0.00"));
        check(json!(1e3), Some("1000.00"));
        check(json!("1.230"), Some("1.23"));
        for bad in [
            json!("1.234"),
            json!(0.001),
            json!(-1),
            json!("-1.00"),
            json!(""),
            json!("1."),
            json!(".5"),
            json!("1,50"),
            json!(null),
            json!([1]),
            json!(1e300),
            json!("90071992547409.92"),
        ] {
            check(bad, None);
        }
        assert_eq!(Money(150).times(i64::MAX), None);
        assert_eq!(Money(MONEY_MAX).plus(Money(1)), None);
    }
}

//! Values of SQL, and their JSON.
//!
//! `null`, numbers and text are themselves; a number with a point or an exponent is a [`Value::Real`]; `true` and `false` come in as 1 and 0.
//! What JSON has no form for is tagged: `{"$blob": BASE64}`, `{"$real": "Infinity"}`; `{"$int": "…"}` is taken for clients whose numbers are
//! not exact.

use std::fmt;

use base64::{Engine, engine::general_purpose::STANDARD};
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{self, MapAccess, Visitor},
    ser::SerializeMap,
};

/// A value of SQL, exact on every way: through JSON, the broker and the database.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// NULL.
    Null,
    /// A whole number.
    Integer(i64),
    /// A number; never NaN, which SQL does not know.
    Real(f64),
    /// Text.
    Text(String),
    /// Bytes.
    Blob(Vec<u8>),
}

const BLOB: &str = "$blob";
const INT: &str = "$int";
const REAL: &str = "$real";

impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let tagged = |serializer: S, tag, text: &str| {
            let mut map = serializer.serialize_map(Some(1))?;
            map.serialize_entry(tag, text)?;
            map.end()
        };
        match self {
            Value::Null => serializer.serialize_unit(),
            Value::Integer(number) => serializer.serialize_i64(*number),
            Value::Real(number) if number.is_finite() => serializer.serialize_f64(*number),
            Value::Real(number) if number.is_nan() => serializer.serialize_unit(),
            Value::Real(number) if *number > 0.0 => tagged(serializer, REAL, "Infinity"),
            Value::Real(_) => tagged(serializer, REAL, "-Infinity"),
            Value::Text(text) => serializer.serialize_str(text),
            Value::Blob(bytes) => tagged(serializer, BLOB, &STANDARD.encode(bytes)),
        }
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(ValueVisitor)
    }
}

struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "null, true, false, a number, text, {\"$blob\": base64}, {\"$int\": text} or {\"$real\": text}",
        )
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, truth: bool) -> Result<Value, E> {
        Ok(Value::Integer(truth.into()))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Value, E> {
        Ok(Value::Integer(number))
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<Value, E> {
        let number = i64::try_from(number);
        let number = number.map_err(|_| E::custom("a whole number beyond 64 bits with sign"))?;
        Ok(Value::Integer(number))
    }

    fn visit_f64<E>(self, number: f64) -> Result<Value, E> {
        Ok(Value::Real(number))
    }

    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(Value::Text(text.to_owned()))
    }

    fn visit_string<E>(self, text: String) -> Result<Value, E> {
        Ok(Value::Text(text))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let tagged = map.next_entry::<String, String>()?;
        let (tag, text) = tagged.ok_or_else(|| de::Error::custom("an empty object is no value"))?;
        if map.next_key::<de::IgnoredAny>()?.is_some() {
            return Err(de::Error::custom("a value has one tag"));
        }
        match tag.as_str() {
            BLOB => STANDARD
                .decode(&text)
                .map(Value::Blob)
                .map_err(|error| de::Error::custom(format!("$blob is not base64: {error}"))),
            INT => text
                .parse()
                .map(Value::Integer)
                .map_err(|_| de::Error::custom("$int is no whole number of 64 bits with sign")),
            REAL => match text.parse::<f64>() {
                Ok(number) if !number.is_nan() => Ok(Value::Real(number)),
                _ => Err(de::Error::custom("$real is no number")),
            },
            other => Err(de::Error::custom(format!(
                "unknown tag '{other}'; there are $blob, $int and $real"
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_survive_json() {
        let check = |value: Value, json: &str| {
            assert_eq!(serde_json::to_string(&value).unwrap(), json);
            assert_eq!(serde_json::from_str::<Value>(json).unwrap(), value);
        };
        check(Value::Null, "null");
        check(Value::Integer(i64::MIN), "-9223372036854775808");
        check(Value::Integer(i64::MAX), "9223372036854775807");
        check(Value::Real(1.0), "1.0");
        check(Value::Real(-0.0), "-0.0");
        check(Value::Real(0.1 + 0.2), "0.30000000000000004");
        check(Value::Real(f64::MAX), "1.7976931348623157e+308");
        check(Value::Real(5e-324), "5e-324");
        check(Value::Real(f64::NEG_INFINITY), r#"{"$real":"-Infinity"}"#);
        check(Value::Text("ä\0\"".to_owned()), r#""ä\u0000\"""#);
        check(Value::Blob(vec![0, 255]), r#"{"$blob":"AP8="}"#);
    }

    /// Shortest forms of random bits, since the default reader of numbers may be one place off.
    #[test]
    fn numbers_are_exact() {
        let mut bits = 0x9E37_79B9_7F4A_7C15_u64;
        for _ in 0..100_000 {
            bits = bits.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let number = f64::from_bits(bits ^ (bits >> 29));
            if number.is_finite() {
                let json = serde_json::to_string(&Value::Real(number)).unwrap();
                let Value::Real(back) = serde_json::from_str(&json).unwrap() else {
                    panic!("{json} is no real");
                };
                assert_eq!(back.to_bits(), number.to_bits(), "{json}");
            }
        }
    }

    #[test]
    fn what_is_no_value_is_refused() {
        let check = |json: &str, expect: &str| {
            let error = serde_json::from_str::<Value>(json).unwrap_err().to_string();
            assert!(error.contains(expect), "{json}: {error}");
        };
        check("9223372036854775808", "beyond 64 bits");
        check("[]", "expected null, true");
        check("{}", "empty object");
        check(r#"{"$blob":"!"}"#, "not base64");
        check(r#"{"$int":"1.5"}"#, "no whole number");
        check(r#"{"$real":"NaN"}"#, "no number");
        check(r#"{"$date":"x"}"#, "unknown tag '$date'");
        check(r#"{"$int":"1","$real":"1"}"#, "one tag");
    }
}

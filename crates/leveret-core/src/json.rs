//! JSON that is cheap to hand on: text and parsed value of one document, each made at most once.

use std::{
    fmt,
    sync::{Arc, LazyLock, OnceLock},
};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use serde_json::{Value, value::RawValue};

/// An immutable JSON document.
///
/// A clone shares the document. A document that came as text is parsed only if somebody looks inside, and one
/// that came as a value is printed only if somebody stores or sends it: a step that hands its input on costs neither.
#[derive(Clone)]
pub struct Json(Arc<Document>);

struct Document {
    text: OnceLock<Box<RawValue>>,
    value: OnceLock<Value>,
}

static NULL: LazyLock<Json> = LazyLock::new(|| Json::from_value(Value::Null));

impl Json {
    /// The document `null`.
    pub fn null() -> Json {
        NULL.clone()
    }

    /// A document from a value.
    pub fn from_value(value: Value) -> Json {
        Json(Arc::new(Document {
            text: OnceLock::new(),
            value: OnceLock::from(value),
        }))
    }

    /// A document from its text, which is checked to be JSON and nothing else.
    pub fn from_text(text: String) -> Result<Json, serde_json::Error> {
        Ok(Self::from_raw(RawValue::from_string(text)?))
    }

    /// A document of what prints as JSON. Fails if it does not: a map whose keys are no texts.
    pub fn from_serialize(value: &impl Serialize) -> Result<Json, serde_json::Error> {
        Ok(Self::from_raw(serde_json::value::to_raw_value(value)?))
    }

    fn from_raw(raw: Box<RawValue>) -> Json {
        Json(Arc::new(Document {
            text: OnceLock::from(raw),
            value: OnceLock::new(),
        }))
    }

    /// The document as text.
    pub fn text(&self) -> &str {
        self.raw().get()
    }

    fn raw(&self) -> &RawValue {
        self.0.text.get_or_init(|| {
            let value = self
                .0
                .value
                .get()
                .expect("a document has a text or a value");
            serde_json::value::to_raw_value(value).expect("a JSON value prints")
        })
    }

    /// The document as a value.
    ///
    /// The text was checked when it came in, but only by the grammar: a document that no value holds reads as null here, and
    /// [`readable`](Self::readable) tells it from null.
    pub fn value(&self) -> &Value {
        self.0.value.get_or_init(|| {
            let text = self.0.text.get().expect("a document has a text or a value");
            serde_json::from_str(text.get()).unwrap_or(Value::Null)
        })
    }

    /// Whether [`value`](Self::value) is what the text says.
    ///
    /// # Errors
    /// What keeps it from that: a number that is too large, nesting that is too deep, half of a surrogate pair.
    pub fn readable(&self) -> Result<(), serde_json::Error> {
        let Some(text) = self.0.text.get() else {
            return Ok(());
        };
        if self.value().is_null() {
            serde_json::from_str::<Value>(text.get())?;
        }
        match unkept_number(text.get()) {
            None => Ok(()),
            Some(number) => Err(serde_json::Error::custom(beyond(number))),
        }
    }

    /// Whether the document is `null`.
    pub fn is_null(&self) -> bool {
        match self.0.value.get() {
            Some(value) => value.is_null(),
            None => self.text() == "null",
        }
    }
}

/// What is wrong with an [`unkept_number`].
pub fn beyond(number: &str) -> String {
    let shown: String = number.chars().take(40).collect();
    format!("number {shown} is beyond 64 bits and would be rounded; make it text")
}

/// The first whole number of a JSON text that 64 bits do not hold: a value would have it rounded.
pub fn unkept_number(text: &str) -> Option<&str> {
    let bytes = text.as_bytes();
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'"' => at = end_of_string(bytes, at),
            b'0'..=b'9' | b'-' => {
                let is_part =
                    |byte: &u8| matches!(byte, b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E');
                let len = bytes[at..].iter().take_while(|byte| is_part(byte)).count();
                let number = &text[at..at + len];
                let is_whole = !number.contains(['.', 'e', 'E']);
                if is_whole && len >= DIGITS_KEPT && !is_kept(number) {
                    return Some(number);
                }
                at += len;
            }
            _ => at += 1,
        }
    }
    None
}

/// Fewer characters make no number beyond 64 bits.
const DIGITS_KEPT: usize = 19;

fn is_kept(whole: &str) -> bool {
    whole.parse::<i64>().is_ok() || whole.parse::<u64>().is_ok()
}

/// Behind the string that begins there.
fn end_of_string(bytes: &[u8], start: usize) -> usize {
    let mut at = start + 1;
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'"' => return at + 1,
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    at
}

/// Whether a text can be that of an object. serde takes a list for a struct, its items for the fields in their order.
pub fn begins_object(body: &[u8]) -> bool {
    body.trim_ascii_start().starts_with(b"{")
}

impl Default for Json {
    fn default() -> Json {
        Json::null()
    }
}

impl From<Value> for Json {
    fn from(value: Value) -> Json {
        Json::from_value(value)
    }
}

impl PartialEq for Json {
    fn eq(&self, other: &Json) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.value() == other.value()
    }
}

impl fmt::Debug for Json {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

impl Serialize for Json {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.raw().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Json, D::Error> {
        Box::<RawValue>::deserialize(deserializer).map(Json::from_raw)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn keeps_text_and_value_in_step() {
        let document = Json::from_text(r#"{"a": [1, 2]}"#.to_owned()).unwrap();
        assert_eq!(document.value(), &json!({"a": [1, 2]}));
        assert_eq!(document.text(), r#"{"a": [1, 2]}"#);
        assert_eq!(document, Json::from(json!({"a": [1, 2]})));
        assert!(Json::null().is_null());
        assert!(Json::from_text("{".to_owned()).is_err());
    }

    /// What the grammar allows and no value holds is told, with the reason.
    #[test]
    fn tells_what_cannot_be_read() {
        let check = |text: &str, expect: &str| {
            let document = Json::from_text(text.to_owned()).unwrap();
            let error = document.readable().unwrap_err().to_string();
            assert!(error.contains(expect), "{text}: {error}");
        };
        check(r#"{"amount": 1e999}"#, "number out of range");
        check(r#"["cut \ud83d"]"#, "hex escape");
        check(
            r#"{"id": 18446744073709551616}"#,
            "number 18446744073709551616 is beyond 64 bits",
        );
        check(
            "[1, -9223372036854775809]",
            "number -9223372036854775809 is beyond",
        );
        let nested = format!("{}{}", "[".repeat(300), "]".repeat(300));
        check(&nested, "recursion limit");
        let kept = [
            "18446744073709551615",
            "[-9223372036854775808,\"123456789012345678901234\"]",
            r#""\\\"123456789012345678901234""#,
            "1234567890123456789012345.5",
            "1e30",
        ];
        for text in ["null", " null ", "1e9", r#""\ud83d\ude00""#]
            .into_iter()
            .chain(kept)
        {
            let document = Json::from_text(text.to_owned()).unwrap();
            assert!(document.readable().is_ok(), "{text}");
        }
        assert!(Json::null().readable().is_ok());
    }

    #[test]
    fn nests_in_other_documents_unparsed() {
        #[derive(Serialize, Deserialize)]
        struct Outer {
            inner: Json,
        }
        let outer: Outer = serde_json::from_str(r#"{"inner":{"b":true}}"#).unwrap();
        assert_eq!(
            serde_json::to_string(&outer).unwrap(),
            r#"{"inner":{"b":true}}"#
        );
    }
}

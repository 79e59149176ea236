//! Values as JavaScript has them, and what they turn into.

use std::{borrow::Cow, cmp::Ordering, fmt::Write};

use serde_json::Value;

/// A value. What the scope has is borrowed.
#[derive(Clone, Debug)]
pub(super) enum Js<'a> {
    Undefined,
    Null,
    Bool(bool),
    Number(f64),
    Text(Cow<'a, str>),
    /// A list or object of the scope.
    Json(&'a Value),
    /// A list that was made.
    List(Vec<Js<'a>>),
    /// An object that was made, in the order of its members.
    Object(Vec<(Cow<'a, str>, Js<'a>)>),
}

impl<'a> From<&'a Value> for Js<'a> {
    fn from(value: &'a Value) -> Js<'a> {
        match value {
            Value::Null => Js::Null,
            Value::Bool(truth) => Js::Bool(*truth),
            Value::Number(number) => Js::Number(number.as_f64().unwrap_or(f64::NAN)),
            Value::String(text) => Js::Text(text.into()),
            Value::Array(_) | Value::Object(_) => Js::Json(value),
        }
    }
}

impl<'a> From<Option<&'a Value>> for Js<'a> {
    fn from(value: Option<&'a Value>) -> Js<'a> {
        value.map_or(Js::Undefined, Js::from)
    }
}

impl<'a> Js<'a> {
    pub(super) fn is_true(&self) -> bool {
        match self {
            Js::Undefined | Js::Null => false,
            Js::Bool(truth) => *truth,
            Js::Number(number) => *number != 0.0 && !number.is_nan(),
            Js::Text(text) => !text.is_empty(),
            Js::Json(_) | Js::List(_) | Js::Object(_) => true,
        }
    }

    pub(super) fn is_nullish(&self) -> bool {
        matches!(self, Js::Undefined | Js::Null)
    }

    pub(super) fn is_object(&self) -> bool {
        matches!(self, Js::Json(_) | Js::List(_) | Js::Object(_))
    }

    pub(super) fn type_of(&self) -> &'static str {
        match self {
            Js::Undefined => "undefined",
            Js::Bool(_) => "boolean",
            Js::Number(_) => "number",
            Js::Text(_) => "string",
            Js::Null | Js::Json(_) | Js::List(_) | Js::Object(_) => "object",
        }
    }

    /// The elements, if it is a list.
    pub(super) fn elements(&self) -> Option<Vec<Js<'a>>> {
        match self {
            Js::Json(Value::Array(elements)) => Some(elements.iter().map(Js::from).collect()),
            Js::List(elements) => Some(elements.clone()),
            _ => None,
        }
    }

    pub(super) fn number(&self) -> f64 {
        match self {
            Js::Undefined => f64::NAN,
            Js::Null => 0.0,
            Js::Bool(truth) => f64::from(u8::from(*truth)),
            Js::Number(number) => *number,
            Js::Text(text) => text_number(text),
            Js::Json(_) | Js::List(_) | Js::Object(_) => text_number(&self.text()),
        }
    }

    /// As `String(…)` has it.
    pub(super) fn text(&self) -> Cow<'a, str> {
        match self {
            Js::Undefined => "undefined".into(),
            Js::Null => "null".into(),
            Js::Bool(true) => "true".into(),
            Js::Bool(false) => "false".into(),
            Js::Number(number) => number_text(*number).into(),
            Js::Text(text) => text.clone(),
            Js::Json(Value::Object(_)) | Js::Object(_) => "[object Object]".into(),
            Js::Json(_) | Js::List(_) => joined(&self.elements().unwrap_or_default(), ",").into(),
        }
    }

    /// What `+` and comparisons see: objects as texts.
    pub(super) fn primitive(self) -> Js<'a> {
        if self.is_object() {
            Js::Text(self.text())
        } else {
            self
        }
    }

    /// `===`. Objects are the same when they are one and the same of the scope.
    #[expect(clippy::float_cmp)] // As JavaScript compares them.
    pub(super) fn same(&self, other: &Js<'_>) -> bool {
        match (self, other) {
            (Js::Undefined, Js::Undefined) | (Js::Null, Js::Null) => true,
            (Js::Bool(a), Js::Bool(b)) => a == b,
            (Js::Number(a), Js::Number(b)) => a == b,
            (Js::Text(a), Js::Text(b)) => a == b,
            (Js::Json(a), Js::Json(b)) => std::ptr::eq(*a, *b),
            _ => false,
        }
    }

    /// `==`.
    #[expect(clippy::float_cmp)] // As JavaScript compares them.
    pub(super) fn equal(&self, other: &Js<'_>) -> bool {
        if self.is_nullish() || other.is_nullish() {
            return self.is_nullish() && other.is_nullish();
        }
        if self.type_of() == other.type_of() {
            return self.same(other);
        }
        if self.is_object() || other.is_object() {
            return Js::clone(self)
                .primitive()
                .equal(&other.clone().primitive());
        }
        self.number() == other.number()
    }

    /// How two compare; none when one is no number.
    pub(super) fn compare(self, other: Js<'_>) -> Option<Ordering> {
        match (self.primitive(), other.primitive()) {
            (Js::Text(a), Js::Text(b)) => Some(a.encode_utf16().cmp(b.encode_utf16())),
            (a, b) => a.number().partial_cmp(&b.number()),
        }
    }

    /// The place in a list or text that a key names.
    pub(super) fn index(key: &str) -> Option<usize> {
        let index: usize = key.parse().ok()?;
        (index.to_string() == key).then_some(index)
    }
}

/// As `join` has it: null and undefined are nothing.
pub(super) fn joined(elements: &[Js<'_>], separator: &str) -> String {
    let mut text = String::new();
    for (at, element) in elements.iter().enumerate() {
        if at > 0 {
            text.push_str(separator);
        }
        if !element.is_nullish() {
            text.push_str(&element.text());
        }
    }
    text
}

/// As `String(number)` has it.
pub(super) fn number_text(number: f64) -> String {
    if number.is_nan() {
        return "NaN".to_owned();
    }
    if number.is_infinite() {
        return if number > 0.0 {
            "Infinity"
        } else {
            "-Infinity"
        }
        .to_owned();
    }
    if number == 0.0 {
        return "0".to_owned();
    }
    if (1e-6..1e21).contains(&number.abs()) {
        return number.to_string();
    }
    let scientific = format!("{number:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let mut text = digits.to_owned();
    let sign = if exponent.starts_with('-') { "" } else { "+" };
    let _ = write!(text, "e{sign}{exponent}");
    text
}

/// As `Number(text)` has it.
fn text_number(text: &str) -> f64 {
    let text = text.trim();
    if text.is_empty() {
        return 0.0;
    }
    let radix = |digits: &str, radix| {
        let sound = !digits.is_empty() && digits.chars().all(|c| c.is_digit(radix));
        let value = u64::from_str_radix(digits, radix).ok().filter(|_| sound);
        value.map_or(f64::NAN, |value| value as f64)
    };
    match text.get(..2) {
        Some("0x" | "0X") => return radix(&text[2..], 16),
        Some("0o" | "0O") => return radix(&text[2..], 8),
        Some("0b" | "0B") => return radix(&text[2..], 2),
        _ => {}
    }
    match text {
        "Infinity" | "+Infinity" => f64::INFINITY,
        "-Infinity" => f64::NEG_INFINITY,
        // Rust reads words that JavaScript does not.
        _ if text.contains(|c: char| c.is_ascii_alphabetic() && !matches!(c, 'e' | 'E')) => {
            f64::NAN
        }
        _ => text.parse().unwrap_or(f64::NAN),
    }
}

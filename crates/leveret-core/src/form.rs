//! Forms: which data a person may give, as a JSON Schema of bounded means.
//!
//! A form is checked when its workflow is loaded: a keyword that is not known here is an error rather than passed over, as data would then be taken that
//! the form refuses. Keywords that only describe (`title`, `description`, `default`, `examples`, `format`, `$schema`, `$id`, `$comment`, `readOnly`,
//! `writeOnly`) are taken.

use std::cmp::Ordering::{self, Greater, Less};

use regex_lite::RegexBuilder;
use serde_json::{Map, Value};

/// What is told at most.
const FAULTS_MAX: usize = 20;
/// The largest compiled `pattern`, in bytes.
const PATTERN_SIZE_MAX: usize = 1 << 20;
/// How deep forms and data are nested at most.
const DEPTH_MAX: usize = 64;

const TYPES: [&str; 7] = [
    "null", "boolean", "integer", "number", "string", "array", "object",
];

const DESCRIBING: [&str; 10] = [
    "title",
    "description",
    "default",
    "examples",
    "format",
    "$schema",
    "$id",
    "$comment",
    "readOnly",
    "writeOnly",
];

/// Something that is wrong, and where: keys and positions from the outside inwards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Where.
    pub path: Vec<String>,
    /// What.
    pub message: String,
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.path.is_empty() {
            f.write_str(&self.message)
        } else {
            write!(f, "{}: {}", self.path.join("."), self.message)
        }
    }
}

/// All that is wrong with a form.
pub fn check_form(form: &Value) -> Vec<Fault> {
    let mut walk = Walk::default();
    walk.form(form);
    walk.faults
}

/// All that is wrong with data by a form; nothing if it fits. What is wrong with the form itself fits nothing.
pub fn check_data(form: &Value, data: &Value) -> Vec<Fault> {
    let mut walk = Walk::default();
    walk.data(form, data);
    walk.faults
}

#[derive(Default)]
struct Walk {
    path: Vec<String>,
    faults: Vec<Fault>,
}

impl Walk {
    fn tell(&mut self, message: impl Into<String>) {
        if self.faults.len() < FAULTS_MAX {
            let path = self.path.clone();
            self.faults.push(Fault {
                path,
                message: message.into(),
            });
        }
    }

    fn within(&mut self, step: impl Into<String>, look: impl FnOnce(&mut Walk)) {
        if self.path.len() >= DEPTH_MAX {
            return self.tell(format!("is nested deeper than {DEPTH_MAX}"));
        }
        self.path.push(step.into());
        look(self);
        self.path.pop();
    }

    fn form(&mut self, form: &Value) {
        let Value::Object(keywords) = form else {
            if !form.is_boolean() {
                self.tell("a form is an object, true or false");
            }
            return;
        };
        for (keyword, value) in keywords {
            self.within(keyword.as_str(), |walk| walk.keyword(keyword, value));
        }
    }

    fn keyword(&mut self, keyword: &str, value: &Value) {
        match keyword {
            "type" => {
                let types: Vec<&Value> = match value {
                    Value::Array(types) if !types.is_empty() => types.iter().collect(),
                    one => vec![one],
                };
                let is_known =
                    |name: &&Value| name.as_str().is_some_and(|name| TYPES.contains(&name));
                if !types.iter().all(is_known) {
                    self.tell(format!(
                        "must be one of {}, or a list of them",
                        TYPES.join(", ")
                    ));
                }
            }
            "enum" if value.as_array().is_none_or(Vec::is_empty) => {
                self.tell("must be a list of values");
            }
            "enum" | "const" => {}
            "properties" => match value {
                Value::Object(properties) => {
                    for (name, form) in properties {
                        self.within(name.as_str(), |walk| walk.form(form));
                    }
                }
                _ => self.tell("must be a map from name to form"),
            },
            "required" => {
                let names = value.as_array();
                if !names.is_some_and(|names| names.iter().all(Value::is_string)) {
                    self.tell("must be a list of names");
                }
            }
            "additionalProperties" | "items" | "not" => self.form(value),
            "allOf" | "anyOf" | "oneOf" => match value {
                Value::Array(forms) if !forms.is_empty() => {
                    for (at, form) in forms.iter().enumerate() {
                        self.within(at.to_string(), |walk| walk.form(form));
                    }
                }
                _ => self.tell("must be a list of forms"),
            },
            "minLength" | "maxLength" | "minItems" | "maxItems" | "minProperties"
            | "maxProperties" => {
                if !value.is_u64() {
                    self.tell("must be a whole number");
                }
            }
            "minimum" | "maximum" | "exclusiveMinimum" | "exclusiveMaximum" => {
                if !value.is_number() {
                    self.tell("must be a number");
                }
            }
            "uniqueItems" => {
                if !value.is_boolean() {
                    self.tell("must be true or false");
                }
            }
            "pattern" => match value.as_str().map(pattern) {
                Some(Ok(_)) => {}
                Some(Err(error)) => self.tell(format!("is no pattern: {error}")),
                None => self.tell("must be text"),
            },
            _ if DESCRIBING.contains(&keyword) => {}
            _ => self.tell("is no keyword that forms have here"),
        }
    }

    fn data(&mut self, form: &Value, data: &Value) {
        let keywords = match form {
            Value::Object(keywords) => keywords,
            Value::Bool(true) => return,
            Value::Bool(false) => return self.tell("is not asked for"),
            _ => return self.tell("has a form that is none"),
        };
        if let Some(of) = keywords.get("type")
            && !is_of(of, data)
        {
            let wanted = match of {
                Value::Array(types) => {
                    let names: Vec<&str> = types.iter().filter_map(Value::as_str).collect();
                    names.join(" or ")
                }
                one => one.as_str().unwrap_or_default().to_owned(),
            };
            return self.tell(format!("must be {wanted}"));
        }
        if let Some(Value::Array(values)) = keywords.get("enum")
            && !values.iter().any(|value| same(value, data))
        {
            let values: Vec<String> = values.iter().map(Value::to_string).collect();
            self.tell(format!("must be one of {}", values.join(", ")));
        }
        if let Some(value) = keywords.get("const")
            && !same(value, data)
        {
            self.tell(format!("must be {value}"));
        }
        match data {
            Value::String(text) => self.text(keywords, text),
            Value::Number(_) => self.number(keywords, data),
            Value::Array(items) => self.list(keywords, items),
            Value::Object(entries) => self.object(keywords, entries),
            Value::Null | Value::Bool(_) => {}
        }
        self.combined(keywords, data);
    }

    fn text(&mut self, keywords: &Map<String, Value>, text: &str) {
        self.counted(
            keywords,
            ("minLength", "maxLength"),
            text.chars().count(),
            "characters",
        );
        let Some(wanted) = keywords.get("pattern").and_then(Value::as_str) else {
            return;
        };
        if !pattern(wanted).is_ok_and(|pattern| pattern.is_match(text)) {
            self.tell(format!("does not match '{wanted}'"));
        }
    }

    fn number(&mut self, keywords: &Map<String, Value>, data: &Value) {
        for (keyword, words, holds) in [
            (
                "minimum",
                "at least",
                (|order| order != Less) as fn(Ordering) -> bool,
            ),
            ("maximum", "at most", |order| order != Greater),
            ("exclusiveMinimum", "more than", |order| order == Greater),
            ("exclusiveMaximum", "less than", |order| order == Less),
        ] {
            if let Some(bound) = keywords.get(keyword)
                && !compare(data, bound).is_some_and(holds)
            {
                self.tell(format!("must be {words} {bound}"));
            }
        }
    }

    fn list(&mut self, keywords: &Map<String, Value>, items: &[Value]) {
        self.counted(keywords, ("minItems", "maxItems"), items.len(), "items");
        if let Some(form) = keywords.get("items") {
            for (at, item) in items.iter().enumerate() {
                self.within(at.to_string(), |walk| walk.data(form, item));
            }
        }
        if keywords.get("uniqueItems") == Some(&Value::Bool(true)) {
            let mut seen = std::collections::HashSet::new();
            if !items.iter().all(|item| seen.insert(item.to_string())) {
                self.tell("has an item twice");
            }
        }
    }

    fn object(&mut self, keywords: &Map<String, Value>, entries: &Map<String, Value>) {
        self.counted(
            keywords,
            ("minProperties", "maxProperties"),
            entries.len(),
            "entries",
        );
        let required = keywords.get("required").and_then(Value::as_array);
        for name in required.into_iter().flatten().filter_map(Value::as_str) {
            if !entries.contains_key(name) {
                self.within(name, |walk| walk.tell("is missing"));
            }
        }
        let properties = keywords.get("properties").and_then(Value::as_object);
        let others = keywords.get("additionalProperties");
        for (name, value) in entries {
            let form = properties.and_then(|properties| properties.get(name));
            if let Some(form) = form.or(others) {
                self.within(name.as_str(), |walk| walk.data(form, value));
            }
        }
    }

    fn counted(
        &mut self,
        keywords: &Map<String, Value>,
        (least, most): (&str, &str),
        count: usize,
        of: &str,
    ) {
        let bound = |keyword| keywords.get(keyword).and_then(Value::as_u64);
        if let Some(least) = bound(least).filter(|least| (count as u64) < *least) {
            self.tell(format!("must have at least {least} {of}"));
        }
        if let Some(most) = bound(most).filter(|most| count as u64 > *most) {
            self.tell(format!("must have at most {most} {of}"));
        }
    }

    fn combined(&mut self, keywords: &Map<String, Value>, data: &Value) {
        let forms = |keyword| {
            let forms = keywords.get(keyword).and_then(Value::as_array);
            forms.map(Vec::as_slice)
        };
        for form in forms("allOf").into_iter().flatten() {
            self.data(form, data);
        }
        let fitting = |forms: &[Value]| {
            let fits = |form: &&Value| check_data(form, data).is_empty();
            forms.iter().filter(fits).count()
        };
        if forms("anyOf").is_some_and(|forms| fitting(forms) == 0) {
            self.tell("fits none of the forms that it may have");
        }
        if forms("oneOf").is_some_and(|forms| fitting(forms) != 1) {
            self.tell("must fit exactly one of the forms that it may have");
        }
        let not = keywords.get("not");
        if not.is_some_and(|form| check_data(form, data).is_empty()) {
            self.tell("has a form that it must not have");
        }
    }
}

fn pattern(text: &str) -> Result<regex_lite::Regex, regex_lite::Error> {
    RegexBuilder::new(text).size_limit(PATTERN_SIZE_MAX).build()
}

fn is_of(types: &Value, data: &Value) -> bool {
    let is = |name: &str| match name {
        "null" => data.is_null(),
        "boolean" => data.is_boolean(),
        "integer" => {
            data.is_i64()
                || data.is_u64()
                || data.as_f64().is_some_and(|number| number.fract() == 0.0)
        }
        "number" => data.is_number(),
        "string" => data.is_string(),
        "array" => data.is_array(),
        "object" => data.is_object(),
        _ => false,
    };
    match types {
        Value::Array(names) => names.iter().filter_map(Value::as_str).any(is),
        one => one.as_str().is_some_and(is),
    }
}

/// Numbers are the same by value.
fn same(one: &Value, other: &Value) -> bool {
    one == other || compare(one, other).is_some_and(|order| order == Ordering::Equal)
}

fn compare(one: &Value, other: &Value) -> Option<Ordering> {
    let whole = |value: &Value| {
        value
            .as_i64()
            .map(i128::from)
            .or(value.as_u64().map(i128::from))
    };
    match (whole(one), whole(other)) {
        (Some(one), Some(other)) => Some(one.cmp(&other)),
        _ => one.as_f64()?.partial_cmp(&other.as_f64()?),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn lines(faults: &[Fault]) -> Vec<String> {
        faults.iter().map(Fault::to_string).collect()
    }

    #[test]
    fn data_fits_a_form() {
        let form = json!({
            "type": "object",
            "title": "How much?",
            "properties": {
                "cents": { "type": "integer", "minimum": 1, "exclusiveMaximum": 100 },
                "why": { "type": ["string", "null"], "minLength": 2, "maxLength": 5, "pattern": "^[a-zé]+$" },
                "tags": { "type": "array", "items": { "enum": ["a", "b", 1] }, "maxItems": 2, "uniqueItems": true },
                "is": { "const": true },
                "by": { "oneOf": [{ "type": "string" }, { "type": "number" }, { "const": 5 }] },
                "at": { "not": { "type": "null" }, "anyOf": [{ "type": "string" }, { "type": "number" }] },
            },
            "required": ["cents"],
            "additionalProperties": false,
        });
        assert_eq!(lines(&check_form(&form)), Vec::<String>::new());
        let check = |data: Value, expect: &[&str]| {
            assert_eq!(lines(&check_data(&form, &data)), expect, "{data}");
        };
        check(
            json!({ "cents": 5.0, "why": "été", "tags": ["a", 1.0], "is": true, "by": "x", "at": 3 }),
            &[],
        );
        check(json!({ "cents": 99, "why": null }), &[]);
        check(json!([]), &["must be object"]);
        check(json!({}), &["cents: is missing"]);
        check(json!({ "cents": 0 }), &["cents: must be at least 1"]);
        check(json!({ "cents": 100 }), &["cents: must be less than 100"]);
        check(json!({ "cents": 1.5 }), &["cents: must be integer"]);
        check(
            json!({ "cents": 1, "why": "x", "more": 1 }),
            &[
                "more: is not asked for",
                "why: must have at least 2 characters",
            ],
        );
        check(
            json!({ "cents": 1, "why": "12" }),
            &["why: does not match '^[a-zé]+$'"],
        );
        check(
            json!({ "cents": 1, "why": 12 }),
            &["why: must be string or null"],
        );
        check(
            json!({ "cents": 1, "tags": ["c", "a", "a"] }),
            &[
                "tags: must have at most 2 items",
                "tags.0: must be one of \"a\", \"b\", 1",
                "tags: has an item twice",
            ],
        );
        check(json!({ "cents": 1, "is": 1 }), &["is: must be true"]);
        check(
            json!({ "cents": 1, "by": 5 }),
            &["by: must fit exactly one of the forms that it may have"],
        );
        check(
            json!({ "cents": 1, "at": null }),
            &[
                "at: fits none of the forms that it may have",
                "at: has a form that it must not have",
            ],
        );
    }

    #[test]
    fn what_is_no_form_is_told() {
        let check = |form: Value, expect: &[&str]| {
            assert_eq!(lines(&check_form(&form)), expect, "{form}");
        };
        check(json!(true), &[]);
        check(json!("text"), &["a form is an object, true or false"]);
        check(
            json!({ "type": "text", "requird": [], "properties": { "a": { "minimum": "1" } } }),
            &[
                "properties.a.minimum: must be a number",
                "requird: is no keyword that forms have here",
                "type: must be one of null, boolean, integer, number, string, array, object, or a list of them",
            ],
        );
        check(
            json!({ "$ref": "#" }),
            &["$ref: is no keyword that forms have here"],
        );
        let faults = lines(&check_form(&json!({ "pattern": "(" })));
        assert!(
            faults[0].starts_with("pattern: is no pattern: "),
            "{faults:?}"
        );
        let deep = (0..80).fold(json!({}), |form, _| json!({ "items": form }));
        assert!(lines(&check_form(&deep))[0].ends_with("is nested deeper than 64"));
    }
}

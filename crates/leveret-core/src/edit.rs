//! Edits of one JSON object by dotted paths: `customer.address.city`, `lines.0.cents`.
//!
//! A path is keys from the object inwards; a position in a list is a key of digits. A key that has a dot itself cannot be reached.

use std::{fmt, str::FromStr};

use serde_json::{Map, Value};

/// The most keys of a path.
pub const PATH_KEYS_MAX: usize = 64;

/// Keys from an object inwards. There is at least one, and none is empty.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Path(Vec<String>);

/// Why a text is no path.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "'{0}' is no path: it is keys with dots between them, {PATH_KEYS_MAX} at most, none of them empty"
)]
pub struct PathError(String);

/// Why a value cannot be set where a path leads.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EditError {
    /// There is something else than an object or a list on the way.
    #[error("'{path}' leads through {found} at '{at}'")]
    NoWay {
        /// The whole path.
        path: Path,
        /// As far as it leads.
        at: String,
        /// What is there.
        found: &'static str,
    },
    /// A list has no such position.
    #[error("'{path}' leads to '{key}' of a list with {len} elements")]
    NoElement {
        /// The whole path.
        path: Path,
        /// The position that is not there.
        key: String,
        /// The elements that are there.
        len: usize,
    },
}

impl FromStr for Path {
    type Err = PathError;

    fn from_str(text: &str) -> Result<Path, PathError> {
        let keys: Vec<_> = text.split('.').take(PATH_KEYS_MAX + 1).collect();
        if keys.len() > PATH_KEYS_MAX || keys.iter().any(|key| key.is_empty()) {
            return Err(PathError(text.to_owned()));
        }
        Ok(Path(keys.into_iter().map(str::to_owned).collect()))
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("."))
    }
}

impl Path {
    /// Whether it leads to the same place as `other`, or to one around it.
    pub fn holds(&self, other: &Path) -> bool {
        other.0.starts_with(&self.0)
    }

    /// Puts a value where the path leads. Objects that are missing on the way, or null, are made; an element of a list must be there.
    pub fn set(&self, object: &mut Map<String, Value>, value: Value) -> Result<(), EditError> {
        let (first, rest) = self.0.split_first().expect("a path has a key");
        let mut at = object.entry(first).or_insert(Value::Null);
        for (ix, key) in rest.iter().enumerate() {
            if at.is_null() {
                *at = Value::Object(Map::new());
            }
            at = match at {
                Value::Object(entries) => entries.entry(key).or_insert(Value::Null),
                Value::Array(elements) => {
                    let len = elements.len();
                    let position = key.parse::<usize>().ok();
                    let element = position.and_then(|position| elements.get_mut(position));
                    element.ok_or_else(|| EditError::NoElement {
                        path: self.clone(),
                        key: key.clone(),
                        len,
                    })?
                }
                other => {
                    return Err(EditError::NoWay {
                        path: self.clone(),
                        at: self.0[..=ix].join("."),
                        found: kind(other),
                    });
                }
            };
        }
        *at = value;
        Ok(())
    }

    /// Takes away what the path leads to, if it is there. What was behind an element of a list moves up.
    pub fn remove(&self, object: &mut Map<String, Value>) {
        let (last, way) = self.0.split_last().expect("a path has a key");
        let Some((first, rest)) = way.split_first() else {
            object.remove(last);
            return;
        };
        let mut at = object.get_mut(first);
        for key in rest {
            at = at.and_then(|value| step(value, key));
        }
        match at {
            Some(Value::Object(entries)) => {
                entries.remove(last);
            }
            Some(Value::Array(elements)) => {
                let position = last.parse::<usize>().ok();
                if let Some(position) = position.filter(|position| *position < elements.len()) {
                    elements.remove(position);
                }
            }
            _ => {}
        }
    }
}

fn step<'v>(value: &'v mut Value, key: &str) -> Option<&'v mut Value> {
    match value {
        Value::Object(entries) => entries.get_mut(key),
        Value::Array(elements) => elements.get_mut(key.parse::<usize>().ok()?),
        _ => None,
    }
}

/// What a value is, in words.
pub fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use insta::assert_snapshot;
    use serde_json::json;

    use super::*;

    /// `PATH = VALUE` sets, `- PATH` removes, each in an object of its own.
    fn edit(line: &str) -> String {
        let mut value = json!({ "a": { "b": 1, "c": { "d": 2 } }, "list": [{ "x": 1 }, 5], "text": "t", "no": null });
        let object = value.as_object_mut().unwrap();
        if let Some(path) = line.strip_prefix("- ") {
            path.parse::<Path>().unwrap().remove(object);
        } else {
            let (path, new) = line.split_once(" = ").unwrap();
            let path: Path = match path.parse() {
                Ok(path) => path,
                Err(error) => return PathError::to_string(&error),
            };
            if let Err(error) = path.set(object, serde_json::from_str(new).unwrap()) {
                return error.to_string();
            }
        }
        value.to_string()
    }

    #[test]
    fn sets_and_removes() {
        assert_snapshot!(edit("a.b = 7"), @r#"{"a":{"b":7,"c":{"d":2}},"list":[{"x":1},5],"no":null,"text":"t"}"#);
        assert_snapshot!(edit("n.e.w = {}"), @r#"{"a":{"b":1,"c":{"d":2}},"list":[{"x":1},5],"n":{"e":{"w":{}}},"no":null,"text":"t"}"#);
        assert_snapshot!(edit("no.more = 1"), @r#"{"a":{"b":1,"c":{"d":2}},"list":[{"x":1},5],"no":{"more":1},"text":"t"}"#);
        assert_snapshot!(edit("list.0.x = 2"), @r#"{"a":{"b":1,"c":{"d":2}},"list":[{"x":2},5],"no":null,"text":"t"}"#);
        assert_snapshot!(edit("list.1 = 6"), @r#"{"a":{"b":1,"c":{"d":2}},"list":[{"x":1},6],"no":null,"text":"t"}"#);
        assert_snapshot!(edit("- a.c"), @r#"{"a":{"b":1},"list":[{"x":1},5],"no":null,"text":"t"}"#);
        assert_snapshot!(edit("- a"), @r#"{"list":[{"x":1},5],"no":null,"text":"t"}"#);
        assert_snapshot!(edit("- list.0"), @r#"{"a":{"b":1,"c":{"d":2}},"list":[5],"no":null,"text":"t"}"#);
        assert_snapshot!(edit("- list.0.x"), @r#"{"a":{"b":1,"c":{"d":2}},"list":[{},5],"no":null,"text":"t"}"#);
        for absent in [
            "- x", "- x.y.z", "- text.y", "- list.2", "- list.x", "- no.x",
        ] {
            assert_eq!(edit(absent), edit("text = \"t\""), "{absent}");
        }
    }

    #[test]
    fn tells_where_no_path_leads() {
        assert_snapshot!(edit("text.x = 1"), @"'text.x' leads through text at 'text'");
        assert_snapshot!(edit("list.1.y.z = 1"), @"'list.1.y.z' leads through a number at 'list.1'");
        assert_snapshot!(edit("list.2 = 1"), @"'list.2' leads to '2' of a list with 2 elements");
        assert_snapshot!(edit("list.x = 1"), @"'list.x' leads to 'x' of a list with 2 elements");
        assert_snapshot!(edit("a..b = 1"), @"'a..b' is no path: it is keys with dots between them, 64 at most, none of them empty");
        let long = format!("{} = 1", ["a"; PATH_KEYS_MAX + 1].join("."));
        assert!(edit(&long).contains("is no path"));
    }
}

//! A cursor over a definition: a value, its place and its path, with the checks that every field needs.

use std::fmt;

use serde_json::{Map, Value};

use super::{
    diagnostics::{Problem, Report},
    keys::Keys,
    place::{Inside, Places},
};

/// That something is wrong and was told.
#[derive(Debug)]
pub(super) struct Told;

/// What was read, unless there was a problem, which was told.
pub(super) type Checked<T> = Result<T, Told>;

/// A value within a definition.
#[derive(Clone, Copy)]
pub(super) struct Field<'a> {
    pub(super) value: &'a Value,
    pub(super) places: &'a Places,
    parent: Option<&'a Field<'a>>,
    step: Step<'a>,
}

#[derive(Clone, Copy)]
enum Step<'a> {
    Root,
    Key(&'a str),
    Element(usize),
}

const TEXT: &str = "text";

impl<'a> Field<'a> {
    pub(super) fn root(value: &'a Value, places: &'a Places) -> Field<'a> {
        Field {
            value,
            places,
            parent: None,
            step: Step::Root,
        }
    }

    /// A field of an object; `None` when it is absent or null.
    pub(super) fn get(&'a self, key: &'a str) -> Option<Field<'a>> {
        let value = self.value.get(key)?;
        (!value.is_null()).then(|| Field {
            value,
            places: self.places.entry(key),
            parent: Some(self),
            step: Step::Key(key),
        })
    }

    /// The elements of an array.
    pub(super) fn elements(&'a self, array: &'a [Value]) -> Vec<Field<'a>> {
        let element = |(at, value)| Field {
            value,
            places: self.places.element(at),
            parent: Some(self),
            step: Step::Element(at),
        };
        array.iter().enumerate().map(element).collect()
    }

    /// The entries of an object, in the order of the text.
    pub(super) fn entries(&'a self, object: &'a Map<String, Value>) -> Vec<(&'a str, Field<'a>)> {
        let entry = |(key, value): (&'a String, &'a Value)| {
            let field = Field {
                value,
                places: self.places.entry(key),
                parent: Some(self),
                step: Step::Key(key),
            };
            (key.as_str(), field)
        };
        let mut entries: Vec<_> = object.iter().map(entry).collect();
        if matches!(self.places.inside, Inside::Entries(_)) {
            entries.sort_by_key(|(_, field)| (field.places.mark.line, field.places.mark.column));
        }
        entries
    }

    /// Whether it stands before another value in the text.
    pub(super) fn is_before(&self, other: &Field<'_>) -> bool {
        let place = |field: &Field<'_>| (field.places.mark.line, field.places.mark.column);
        place(self) < place(other)
    }

    pub(super) fn path(&self) -> String {
        self.to_string()
    }

    /// Tells a problem of this value.
    pub(super) fn tell(&self, report: &mut Report<'_>, problem: Problem) -> Told {
        report.tell(problem, self.places.mark, self.path());
        Told
    }

    /// Tells a problem at a byte of this string.
    pub(super) fn tell_at(&self, report: &mut Report<'_>, offset: usize, problem: Problem) -> Told {
        report.tell_inside(problem, self.places.mark, Some(offset), self.path());
        Told
    }

    /// Tells a problem of what a path within this value leads to.
    pub(super) fn tell_within(
        &self,
        report: &mut Report<'_>,
        path: &[String],
        offset: Option<usize>,
        problem: Problem,
    ) -> Told {
        let (mut value, mut places, mut text) = (self.value, self.places, self.path());
        for step in path {
            if let Some(at) = step.parse().ok().filter(|_| value.is_array()) {
                value = value.get::<usize>(at).unwrap_or(&Value::Null);
                places = places.element(at);
                text.extend(["[", step, "]"]);
            } else {
                value = value.get(step).unwrap_or(&Value::Null);
                places = places.entry(step);
                text.extend([".", step]);
            }
        }
        let mark = if places.mark.line == 0 {
            self.places.mark
        } else {
            places.mark
        };
        report.tell_inside(problem, mark, offset, text);
        Told
    }

    /// Tells that a required field is missing.
    pub(super) fn tell_missing(&self, report: &mut Report<'_>, what: &str, key: &str) -> Told {
        let message = format!("{what} needs `{key}`");
        self.tell(report, Problem::error("missing-field", message))
    }

    pub(super) fn object(
        &self,
        report: &mut Report<'_>,
        what: &str,
    ) -> Checked<&'a Map<String, Value>> {
        match self.value {
            Value::Object(object) => Ok(object),
            _ => Err(self.wrong_type(report, what, "an object")),
        }
    }

    pub(super) fn text(&self, report: &mut Report<'_>, what: &str) -> Checked<&'a str> {
        match self.value {
            Value::String(text) => Ok(text),
            _ => Err(self.wrong_type(report, what, TEXT)),
        }
    }

    pub(super) fn wrong_type(&self, report: &mut Report<'_>, what: &str, wanted: &str) -> Told {
        let found = match self.value {
            Value::Null => "null",
            Value::Bool(_) => "true or false",
            Value::Number(_) => "a number",
            Value::String(_) => TEXT,
            Value::Array(_) => "a list",
            Value::Object(_) => "an object",
        };
        let message = format!("{what} must be {wanted}, not {found}");
        let mut problem = Problem::error("wrong-type", message);
        if wanted == TEXT && matches!(self.value, Value::Number(_) | Value::Bool(_)) {
            problem = problem.help(format!("put quotes around it: \"{}\"", self.value));
        }
        self.tell(report, problem)
    }

    /// Tells of keys that mean nothing and were probably meant to.
    pub(super) fn warn_of_unknown(
        &self,
        report: &mut Report<'_>,
        object: &Map<String, Value>,
        keys: &Keys,
    ) {
        for (key, problem) in keys.unknown(object) {
            let path = match self.path() {
                path if path.is_empty() => key.to_owned(),
                path => format!("{path}.{key}"),
            };
            report.tell(problem, self.places.key_mark(key), path);
        }
    }
}

/// The path, as in `nodes[2].config.fallback`.
impl fmt::Display for Field<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_inner = self
            .parent
            .is_some_and(|parent| !matches!(parent.step, Step::Root));
        if let Some(parent) = self.parent {
            fmt::Display::fmt(parent, f)?;
        }
        match self.step {
            Step::Root => Ok(()),
            Step::Key(key) if is_inner => write!(f, ".{key}"),
            Step::Key(key) => f.write_str(key),
            Step::Element(at) => write!(f, "[{at}]"),
        }
    }
}

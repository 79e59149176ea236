//! Checks of parameters as they are written. A text with `{{` stands for any value, and passes all of them.

use std::time::Duration;

use leveret_core::{parse::ParamProblem, suggest::nearest, time::parse_duration};
use serde_json::Value;

/// Gathers what is wrong with the parameters of a node.
pub(super) struct Check<'a> {
    params: &'a Value,
    problems: Vec<ParamProblem>,
}

impl<'a> Check<'a> {
    /// Begins, with a problem for each parameter that is not among `known`.
    pub(super) fn of(params: &'a Value, known: &[&str]) -> Check<'a> {
        let mut check = Check {
            params,
            problems: Vec::new(),
        };
        if !check.has_names() {
            check.tell(&[], "params must be an object");
        }
        let given = params.as_object().into_iter().flat_map(|map| map.keys());
        for key in given.filter(|key| !known.contains(&key.as_str())) {
            let help = match nearest(key, known.iter().copied()) {
                Some(near) => format!("did you mean '{near}'?"),
                None => format!("known: {}", known.join(", ")),
            };
            check.tell(&[key], format!("unknown parameter '{key}'; {help}"));
        }
        check
    }

    /// Tells a problem of what a path within the parameters leads to.
    pub(super) fn tell(&mut self, path: &[&str], message: impl Into<String>) {
        self.problems.push(ParamProblem {
            path: path.iter().map(|step| (*step).to_owned()).collect(),
            message: message.into(),
        });
    }

    /// What was found.
    pub(super) fn end(self) -> Vec<ParamProblem> {
        self.problems
    }

    /// Whether these are parameters at all; none are null.
    fn has_names(&self) -> bool {
        self.params.is_object() || self.params.is_null()
    }

    /// A parameter that is given and known before the node is executed.
    pub(super) fn literal(&self, name: &str) -> Option<&'a Value> {
        self.params.get(name).filter(|value| !is_template(value))
    }

    /// As [`literal`](Self::literal), without null, where that counts as not given.
    pub(super) fn optional(&self, name: &str) -> Option<&'a Value> {
        self.literal(name).filter(|value| !value.is_null())
    }

    /// Tells a parameter that is missing, or null where that counts as not given.
    pub(super) fn needs(&mut self, name: &str) {
        if self.has_names() && self.params.get(name).is_none() {
            self.tell(&[name], format!("parameter '{name}' is missing"));
        }
    }

    /// Tells a value that is not what the parameter must be.
    pub(super) fn expect(&mut self, name: &str, value: Option<&Value>, wanted: Wanted) {
        if let Some(value) = value.filter(|value| !wanted.is(value)) {
            let message = format!(
                "parameter '{name}' must be {}, not {}",
                wanted.words(),
                kind(value)
            );
            self.tell(&[name], message);
        }
    }
}

/// What a parameter must be.
#[derive(Clone, Copy)]
pub(super) enum Wanted {
    Text,
    Truth,
    WholeNumber,
    Object,
}

impl Wanted {
    fn is(self, value: &Value) -> bool {
        match self {
            Wanted::Text => value.is_string(),
            Wanted::Truth => value.is_boolean(),
            Wanted::WholeNumber => value.is_u64(),
            Wanted::Object => value.is_object(),
        }
    }

    fn words(self) -> &'static str {
        match self {
            Wanted::Text => "text",
            Wanted::Truth => "true or false",
            Wanted::WholeNumber => "a whole number",
            Wanted::Object => "an object",
        }
    }
}

/// Not the value itself, which may be a secret.
fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "this number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// Tells an expression without braces that is missing or empty, or is no text.
pub(super) fn needs_expression(check: &mut Check<'_>, name: &str) {
    check.needs(name);
    let given = check.params.get(name);
    check.expect(name, given, Wanted::Text);
    if given
        .and_then(Value::as_str)
        .is_some_and(|text| text.trim().is_empty())
    {
        check.tell(&[name], format!("parameter '{name}' is empty"));
    }
}

/// Whether a parameter's text holds an expression, so that its value is known only at execution.
pub(super) fn is_template(value: &Value) -> bool {
    value.as_str().is_some_and(|text| text.contains("{{"))
}

/// The longest wait: a hundred years. Longer ones are taken for mistakes.
const WAIT_MAX: Duration = Duration::from_secs(100 * 366 * 86_400);

/// A parameter that is a length of time: milliseconds, or text such as `10s`.
pub(super) fn duration_of(params: &Value, name: &str) -> Result<Duration, String> {
    let value = params
        .get(name)
        .ok_or_else(|| format!("parameter '{name}' is missing"))?;
    let duration = match value {
        Value::Number(number) => number
            .as_u64()
            .map(Duration::from_millis)
            .ok_or_else(|| format!("{number} is no duration in whole milliseconds"))?,
        Value::String(text) => parse_duration(text).ok_or_else(|| {
            format!("'{text}' is no duration: say '250ms', '10s', '5m', '1h' or '2d'")
        })?,
        other => return Err(format!("{other} is no duration: say milliseconds or '10s'")),
    };
    if duration > WAIT_MAX {
        Err(format!("{value} is longer than a hundred years"))
    } else {
        Ok(duration)
    }
}

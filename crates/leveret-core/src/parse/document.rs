//! Text to values with their places: decides between JSON and YAML.

use std::path::Path;

use serde_json::{Map, Value};

use super::{
    Source, TEXT_BYTES_MAX,
    diagnostics::{Problem, Report},
    json_text,
    place::{Entry, Inside, Mark, Places},
    yaml_text,
};

/// A problem of the text itself.
pub(super) struct SyntaxProblem {
    pub(super) problem: Problem,
    pub(super) mark: Mark,
}

/// What a text holds.
pub(super) struct Text {
    pub(super) value: Value,
    pub(super) places: Places,
    /// Keys that come twice, of which the first counts: errors that do not hide others.
    pub(super) problems: Vec<SyntaxProblem>,
}

/// The values of a text. `None` when it is not well-formed, which is told.
pub(super) fn read(source: &Source<'_>, report: &mut Report<'_>) -> Option<(Value, Places)> {
    if source.text.len() > TEXT_BYTES_MAX {
        let message = format!("a definition has at most {TEXT_BYTES_MAX} bytes");
        report.tell(
            Problem::error("too-large", message),
            Mark::default(),
            String::new(),
        );
        return None;
    }
    let text = source.text.strip_prefix('\u{feff}').unwrap_or(source.text);
    let (parsed, problems) = match parse(source.name, text) {
        Ok(text) => (Some((text.value, text.places)), text.problems),
        Err(problems) => (None, problems),
    };
    for SyntaxProblem { problem, mark } in problems {
        report.tell(problem, mark, String::new());
    }
    parsed
}

fn parse(name: &str, text: &str) -> Result<Text, Vec<SyntaxProblem>> {
    let extension = Path::new(name).extension();
    if extension.is_some_and(|extension| extension.eq_ignore_ascii_case("json")) {
        return json_text::parse(text);
    }
    // What begins as JSON is read as JSON, which has no bounds on the length of a key or the like; a YAML flow
    // mapping begins in the same way, so that a failure is YAML's to explain.
    if text.trim_start().starts_with(['{', '['])
        && let Ok(parsed) = json_text::parse(text)
    {
        return Ok(parsed);
    }
    yaml_text::parse(text)
}

/// Makes an object of entries in the order of the text. A key that comes twice is a problem.
pub(super) fn object(
    mark: Mark,
    entries: Vec<(String, Mark, Value, Places)>,
    problems: &mut Vec<SyntaxProblem>,
) -> (Value, Places) {
    let mut map = Map::new();
    let mut places = Vec::with_capacity(entries.len());
    for (key, key_mark, value, value_places) in entries {
        if map.contains_key(&key) {
            problems.push(SyntaxProblem {
                problem: Problem::error("duplicate-key", format!("the key `{key}` comes twice")),
                mark: key_mark,
            });
            continue;
        }
        map.insert(key.clone(), value);
        places.push(Entry {
            key,
            key_mark,
            places: value_places,
        });
    }
    places.sort_by(|a, b| a.key.cmp(&b.key));
    let inside = Inside::Entries(places);
    (Value::Object(map), Places { mark, inside })
}

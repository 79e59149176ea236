//! What is read: workflow files, inputs, lines of inputs.

use std::{
    io::{IsTerminal, Read},
    path::Path,
    sync::Arc,
};

use anyhow::Context;
use leveret::nodes::Registry;
use leveret_core::{
    json::Json,
    parse::{Diagnostics, Source, TEXT_BYTES_MAX, check_workflow},
    workflow::Workflow,
};
use serde_json::{Map, Value};

use crate::{
    exit::{BadInput, Exit},
    output, progress,
};

/// A file's text. What is longer than a definition may be is not read to its end.
pub(crate) fn text_of(file: &Path) -> anyhow::Result<String> {
    let unreadable = |error| BadInput::new(format!("cannot read {}: {error}", file.display()));
    let mut bytes = Vec::new();
    let opened = std::fs::File::open(file).map_err(unreadable)?;
    opened
        .take(TEXT_BYTES_MAX as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(unreadable)?;
    if bytes.len() > TEXT_BYTES_MAX {
        // Too long, which is told; it may end within a character.
        return Ok(String::from_utf8_lossy(&bytes).into_owned());
    }
    utf8(bytes, &file.display().to_string())
}

/// The text of bytes, without the mark of UTF-8 that editors put first.
fn utf8(bytes: Vec<u8>, from: &str) -> anyhow::Result<String> {
    let is_utf16 = bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]);
    let mut text = String::from_utf8(bytes).map_err(|_| {
        let help = if is_utf16 { ", but UTF-16" } else { "" };
        BadInput::new(format!("cannot read {from}: it is not UTF-8{help}"))
    })?;
    if text.starts_with('\u{feff}') {
        text.remove(0);
    }
    Ok(text)
}

/// Parses a definition with the built-in node types.
pub(crate) fn check(name: &str, text: &str) -> (Option<Workflow>, Diagnostics) {
    check_workflow(&Source { name, text }, Some(&Registry::builtin()))
}

/// The workflow in a file. Its problems, warnings too, go to stderr; with errors there is none, and the exit is given.
pub(crate) fn workflow(file: &Path) -> anyhow::Result<Result<Arc<Workflow>, Exit>> {
    Ok(workflow_of(&file.display().to_string(), &text_of(file)?))
}

/// As [`workflow`], for a server that may know other node types: their names and parameters are for it to check.
pub(crate) fn workflow_for_server(file: &Path) -> anyhow::Result<Result<Arc<Workflow>, Exit>> {
    let (name, text) = (file.display().to_string(), text_of(file)?);
    let source = Source {
        name: &name,
        text: &text,
    };
    let (workflow, diagnostics) = check_workflow(&source, None);
    Ok(told(workflow, &diagnostics))
}

/// As [`workflow`], of text at hand.
pub(crate) fn workflow_of(name: &str, text: &str) -> Result<Arc<Workflow>, Exit> {
    let (workflow, diagnostics) = check(name, text);
    told(workflow, &diagnostics)
}

fn told(workflow: Option<Workflow>, diagnostics: &Diagnostics) -> Result<Arc<Workflow>, Exit> {
    if !diagnostics.is_empty() {
        let problems = format!("{diagnostics}\n");
        progress::to_stderr(output::clean(&problems).as_bytes());
    }
    workflow.map(Arc::new).ok_or(Exit::BadInput)
}

/// An input as it is given: JSON, `@FILE`, or `-` for stdin; null when there is none.
pub(crate) fn input(given: Option<&str>) -> anyhow::Result<Json> {
    let (text, from) = match given {
        None => return Ok(Json::null()),
        Some("-") => (stdin()?, "stdin".to_owned()),
        Some(given) => match given.strip_prefix('@') {
            Some(file) => (read(file)?, file.to_owned()),
            None => (given.to_owned(), "--input".to_owned()),
        },
    };
    let parsed = Json::from_text(text.trim().to_owned());
    let input = parsed.map_err(|error| {
        BadInput::new(format!("{from} is not JSON: {error}; for a file say @FILE"))
    })?;
    readable(input, &from)
}

/// The input, unless it is JSON that no step could read: it would count as null. `place` names it in errors.
fn readable(input: Json, place: &str) -> anyhow::Result<Json> {
    match input.readable() {
        Ok(()) => Ok(input),
        Err(error) => Err(BadInput::new(format!("{place}: cannot be taken in: {error}")).into()),
    }
}

/// Lines of JSON as they are given: `@FILE`, or `-` for stdin. Blank lines are passed over. A line that is no JSON is an error.
pub(crate) fn lines(given: &str) -> anyhow::Result<Vec<Line>> {
    let (text, from) = match given.strip_prefix('@') {
        _ if given == "-" => (stdin()?, "stdin"),
        Some(file) => (read(file)?, file),
        None => {
            let help = format!("--each takes @FILE, or - for stdin; did you mean @{given}?");
            return Err(BadInput::new(help).into());
        }
    };
    lines_of(from, &text)
}

/// An input and where it stood.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    /// Its line, from 1.
    pub(crate) number: usize,
    /// The input.
    pub(crate) input: Json,
}

/// As [`lines`], of text at hand.
pub(crate) fn lines_of(from: &str, text: &str) -> anyhow::Result<Vec<Line>> {
    let filled = text
        .lines()
        .enumerate()
        .filter(|(_, line)| !line.trim().is_empty());
    let parsed = filled.map(|(at, line)| -> anyhow::Result<Line> {
        let number = at + 1;
        let place = format!("{from}:{number}");
        let input = Json::from_text(line.trim().to_owned())
            .map_err(|error| BadInput::new(format!("{place}: not JSON: {error}")))?;
        let input = readable(input, &place)?;
        Ok(Line { number, input })
    });
    parsed.collect()
}

/// Fields to set in inputs, as `KEY=JSON`. What is no JSON after the `=` is taken as text, unless it begins as JSON does.
#[derive(Debug, Default)]
pub(crate) struct Sets(Map<String, Value>);

impl Sets {
    pub(crate) fn parse(given: &[String]) -> anyhow::Result<Sets> {
        let mut sets = Map::new();
        for pair in given {
            let Some((key, value)) = pair.split_once('=').filter(|(key, _)| !key.is_empty()) else {
                return Err(BadInput::new(format!("--set takes KEY=JSON, not '{pair}'")).into());
            };
            let value = match Json::from_text(value.to_owned()) {
                Ok(json) => readable(json, &format!("--set {key}"))?.value().clone(),
                Err(error) if value.trim_start().starts_with(['{', '[', '"']) => {
                    let help = "text that begins so is given in the quotes of JSON";
                    let message = format!("--set {key}: {value} is not JSON: {error}; {help}");
                    return Err(BadInput::new(message).into());
                }
                Err(_) => Value::from(value),
            };
            sets.insert(key.to_owned(), value);
        }
        Ok(Sets(sets))
    }

    pub(crate) fn one(key: &str, value: Value) -> Sets {
        Sets(Map::from_iter([(key.to_owned(), value)]))
    }

    /// The input with the fields set. `place` names the input in errors. A null input becomes an object.
    pub(crate) fn apply(&self, input: Json, place: &str) -> anyhow::Result<Json> {
        if self.0.is_empty() {
            return Ok(input);
        }
        let mut object = match input.value() {
            Value::Object(object) => object.clone(),
            Value::Null => Map::new(),
            _ => {
                return Err(BadInput::new(format!(
                    "{place}: --set needs an input that is an object"
                ))
                .into());
            }
        };
        object.extend(self.0.clone());
        Ok(Json::from(Value::Object(object)))
    }
}

fn read(file: &str) -> anyhow::Result<String> {
    let bytes = std::fs::read(file)
        .map_err(|error| BadInput::new(format!("cannot read {file}: {error}")))?;
    utf8(bytes, file)
}

fn stdin() -> anyhow::Result<String> {
    if std::io::stdin().is_terminal() {
        progress::to_stderr(b"reading JSON from the terminal; end with Ctrl-D\n");
    }
    let mut bytes = Vec::new();
    let read = std::io::stdin().lock().read_to_end(&mut bytes);
    read.context("cannot read stdin")?;
    utf8(bytes, "stdin")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn lines_have_numbers() {
        let lines = lines_of("f", "{}\n\n  [1]\r\n").unwrap();
        let numbers: Vec<usize> = lines.iter().map(|line| line.number).collect();
        assert_eq!((numbers, lines[1].input.value()), (vec![1, 3], &json!([1])));
        let error = lines_of("orders.jsonl", "{}\n{\n").unwrap_err().to_string();
        assert!(error.starts_with("orders.jsonl:2: not JSON"), "{error}");
    }

    #[test]
    fn sets_fields() {
        let sets = Sets::parse(&[
            "a=1".to_owned(),
            "url=http://h/?x=y".to_owned(),
            "b={\"c\":null}".to_owned(),
        ])
        .unwrap();
        let input = sets
            .apply(Json::from(json!({ "a": 0, "z": 9 })), "f:1")
            .unwrap();
        assert_eq!(
            input.value(),
            &json!({ "a": 1, "z": 9, "url": "http://h/?x=y", "b": { "c": null } })
        );
        assert!(
            sets.apply(Json::from(json!([])), "f:1")
                .unwrap_err()
                .to_string()
                .starts_with("f:1: ")
        );
        for bad in ["=1", "name={bad", "list= [1,", "text=\"open"] {
            assert!(Sets::parse(&[bad.to_owned()]).is_err(), "{bad}");
        }
    }

    #[test]
    fn texts_are_utf8() {
        let text = |bytes: &[u8]| utf8(bytes.to_vec(), "f").map_err(|error| error.to_string());
        assert_eq!(text(b"\xef\xbb\xbf{}"), Ok("{}".to_owned()));
        let not_utf8 = "cannot read f: it is not UTF-8";
        assert_eq!(text(b"caf\xe9"), Err(not_utf8.to_owned()));
        assert_eq!(text(b"\xff\xfei\0"), Err(format!("{not_utf8}, but UTF-16")));
    }

    /// JSON that no value holds is an error, and neither null nor a text.
    #[test]
    fn inputs_that_cannot_be_read_are_refused() {
        let nested = format!("{}{}", "[".repeat(300), "]".repeat(300));
        for text in [r#"{"name": "cut \ud83d", "x": 1}"#, "[1e999]", &nested] {
            let check = |refused: anyhow::Error, place: &str| {
                let error = refused.to_string();
                let expect = format!("{place}: cannot be taken in: ");
                assert!(error.starts_with(&expect), "{error}");
                assert!(refused.is::<BadInput>());
            };
            check(input(Some(text)).unwrap_err(), "--input");
            let lines = lines_of("orders.jsonl", &format!("{{}}\n{text}\n"));
            check(lines.unwrap_err(), "orders.jsonl:2");
            let sets = Sets::parse(&[format!("a={text}")]);
            check(sets.unwrap_err(), "--set a");
        }
    }

    #[test]
    fn inputs_that_are_no_json_say_what_to_do() {
        let error = input(Some("order.json")).unwrap_err().to_string();
        assert!(error.contains("@FILE"), "{error}");
        assert_eq!(input(None).unwrap(), Json::null());
    }
}

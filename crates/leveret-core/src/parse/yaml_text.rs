//! YAML text to values with their places: YAML 1.2 with the core schema, as far as JSON can hold it.

use std::{borrow::Cow, collections::HashMap};

use saphyr_parser::{Event, Parser, ScalarStyle, Span, Tag};
use serde_json::{Number, Value};

use super::{
    DEPTH_MAX, EXPANDED_MAX,
    diagnostics::Problem,
    document::{self, SyntaxProblem, Text},
    json_text::{leaf, too_deep},
    place::{Entry, Inside, Mark, Places, Style},
};

/// Parses a whole text, which is one document.
pub(super) fn parse(text: &str) -> Result<Text, Vec<SyntaxProblem>> {
    let mut builder = Builder::default();
    for event in Parser::new_from_str(text) {
        let outcome = match event {
            Ok((event, span)) => builder.event(event, span),
            Err(error) => {
                let marker = error.marker();
                Err(SyntaxProblem {
                    problem: Problem::error("syntax", error.info()),
                    mark: mark(marker.line(), marker.col(), Style::Other),
                })
            }
        };
        if let Err(problem) = outcome {
            builder.problems.push(problem);
            return Err(builder.problems);
        }
    }
    match builder.root {
        Some((value, places)) => Ok(Text {
            value,
            places,
            problems: builder.problems,
        }),
        None => Err(vec![SyntaxProblem {
            problem: Problem::error("syntax", "the file is empty"),
            mark: Mark::default(),
        }]),
    }
}

fn mark(line: usize, column: usize, style: Style) -> Mark {
    // A text has at most 4 MiB.
    Mark {
        line: line as u32,
        column: column as u32 + 1,
        style,
    }
}

type Parsed = (Value, Places);
type Outcome<T> = Result<T, SyntaxProblem>;

/// Values under construction, outermost first, and what anchors stand for.
#[derive(Default)]
struct Builder {
    open: Vec<Open>,
    anchors: HashMap<usize, (Parsed, usize)>,
    expanded: usize,
    root: Option<Parsed>,
    /// Duplicate keys and the like, which do not stop the reading.
    problems: Vec<SyntaxProblem>,
}

struct Open {
    mark: Mark,
    anchor: usize,
    content: Content,
}

enum Content {
    Sequence(Vec<Value>, Vec<Places>),
    Mapping {
        entries: Vec<(String, Mark, Value, Places)>,
        key: Option<(String, Mark)>,
        merges: Vec<(Parsed, Mark)>,
    },
}

/// The key of a merge, as YAML 1.1 has it. It cannot be written by itself, since quotes make it a plain key.
const MERGE: &str = "<<";

impl Builder {
    fn event(&mut self, event: Event<'_>, span: Span) -> Outcome<()> {
        let at = |style| mark(span.start.line(), span.start.col(), style);
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                let is_one_line = span.start.line() == span.end.line();
                let mark = at(style_of(style, is_one_line));
                let is_plain = style == ScalarStyle::Plain;
                if self.expects_key() {
                    return self.key(text, is_plain, mark);
                }
                let value = scalar(text, is_plain, tag.as_deref(), mark)?;
                self.done((value, leaf(mark)), anchor)
            }
            Event::SequenceStart(anchor, tag) => {
                let content = Content::Sequence(Vec::new(), Vec::new());
                self.open(content, anchor, tag.as_deref(), at(Style::Other))
            }
            Event::MappingStart(anchor, tag) => {
                let content = Content::Mapping {
                    entries: Vec::new(),
                    key: None,
                    merges: Vec::new(),
                };
                if self.expects_key() {
                    let problem = Problem::error("syntax", "a key must be text");
                    let problem = problem.help("a template needs quotes around it: \"{{ … }}\"");
                    let mark = at(Style::Other);
                    return Err(SyntaxProblem { problem, mark });
                }
                self.open(content, anchor, tag.as_deref(), at(Style::Other))
            }
            Event::SequenceEnd | Event::MappingEnd => self.close(),
            Event::Alias(anchor) => self.alias(anchor, at(Style::Other)),
            Event::DocumentStart(_) if self.root.is_some() => {
                Err(syntax("a file holds one definition", at(Style::Other)))
            }
            _ => Ok(()),
        }
    }

    /// Bounds what aliases make of a small file.
    fn spend(&mut self, units: usize, mark: Mark) -> Outcome<()> {
        self.expanded = self.expanded.saturating_add(units);
        if self.expanded > EXPANDED_MAX {
            let message = "aliases make this file too large";
            return Err(SyntaxProblem {
                problem: Problem::error("too-large", message),
                mark,
            });
        }
        Ok(())
    }

    fn expects_key(&self) -> bool {
        matches!(
            self.open.last().map(|open| &open.content),
            Some(Content::Mapping { key: None, .. })
        )
    }

    fn key(&mut self, text: Cow<'_, str>, is_plain: bool, mark: Mark) -> Outcome<()> {
        let Some(Open {
            content: Content::Mapping { key, .. },
            ..
        }) = self.open.last_mut()
        else {
            return Err(syntax("a key is not expected here", mark));
        };
        // The mark of a plain key says that `<<` merges.
        let style = if is_plain { Style::Plain } else { Style::Other };
        *key = Some((text.into_owned(), Mark { style, ..mark }));
        Ok(())
    }

    fn open(
        &mut self,
        content: Content,
        anchor: usize,
        tag: Option<&Tag>,
        mark: Mark,
    ) -> Outcome<()> {
        if self.expects_key() {
            return Err(syntax("a key must be text", mark));
        }
        if self.open.len() > DEPTH_MAX {
            return Err(too_deep(mark));
        }
        if tag.is_some_and(|tag| !tag.is_yaml_core_schema()) {
            return Err(unknown_tag(mark));
        }
        self.open.push(Open {
            mark,
            anchor,
            content,
        });
        Ok(())
    }

    fn close(&mut self) -> Outcome<()> {
        let Some(Open {
            mark,
            anchor,
            content,
        }) = self.open.pop()
        else {
            return Ok(());
        };
        let parsed = match content {
            Content::Sequence(values, places) => {
                let inside = Inside::Elements(places);
                (Value::Array(values), Places { mark, inside })
            }
            Content::Mapping {
                entries, merges, ..
            } => {
                let parsed = document::object(mark, entries, &mut self.problems);
                merges.into_iter().try_fold(parsed, merge)?
            }
        };
        self.done(parsed, anchor)
    }

    /// Puts a finished value where it belongs.
    fn done(&mut self, parsed: Parsed, anchor: usize) -> Outcome<()> {
        if anchor > 0 {
            let size = size(&parsed.0);
            self.spend(size, parsed.1.mark)?;
            self.anchors.insert(anchor, (parsed.clone(), size));
        }
        match self.open.last_mut().map(|open| &mut open.content) {
            None => self.root = Some(parsed),
            Some(Content::Sequence(values, places)) => {
                values.push(parsed.0);
                places.push(parsed.1);
            }
            Some(Content::Mapping {
                entries,
                key,
                merges,
            }) => match key.take() {
                Some((key, mark)) if key == MERGE && mark.style == Style::Plain => {
                    merges.push((parsed, mark));
                }
                Some((key, mark)) => entries.push((key, mark, parsed.0, parsed.1)),
                None => return Err(syntax("a key must be text", parsed.1.mark)),
            },
        }
        Ok(())
    }

    fn alias(&mut self, anchor: usize, mark: Mark) -> Outcome<()> {
        let Some((_, size)) = self.anchors.get(&anchor) else {
            return Err(syntax("this alias stands within what it names", mark));
        };
        let size = *size;
        self.spend(size, mark)?;
        let (value, mut places) = self.anchors[&anchor].0.clone();
        if self.expects_key() {
            return match value {
                Value::String(text) => self.key(Cow::Owned(text), false, mark),
                _ => Err(syntax("a key must be text", mark)),
            };
        }
        if self.open.len() + depth(&value) > DEPTH_MAX {
            return Err(too_deep(mark));
        }
        // The value is here; what is within it keeps its place.
        if value.is_object() || value.is_array() {
            places.mark = mark;
        }
        self.done((value, places), 0)
    }
}

fn syntax(message: &str, mark: Mark) -> SyntaxProblem {
    SyntaxProblem {
        problem: Problem::error("syntax", message),
        mark,
    }
}

fn unknown_tag(mark: Mark) -> SyntaxProblem {
    SyntaxProblem {
        problem: Problem::error(
            "syntax",
            "a tag of one's own has no meaning in a definition",
        )
        .help("leave the `!…` out"),
        mark,
    }
}

fn style_of(style: ScalarStyle, is_one_line: bool) -> Style {
    match style {
        ScalarStyle::Plain if is_one_line => Style::Plain,
        ScalarStyle::SingleQuoted if is_one_line => Style::SingleQuoted,
        ScalarStyle::DoubleQuoted if is_one_line => Style::DoubleQuoted,
        ScalarStyle::Literal => Style::Literal,
        _ => Style::Other,
    }
}

/// Values and pieces of text in a value.
fn size(value: &Value) -> usize {
    match value {
        Value::Array(elements) => 1 + elements.iter().map(size).sum::<usize>(),
        Value::Object(entries) => {
            let entry = |(key, value): (&String, &Value)| 1 + key.len() / 16 + size(value);
            1 + entries.iter().map(entry).sum::<usize>()
        }
        Value::String(text) => 1 + text.len() / 16,
        _ => 1,
    }
}

fn depth(value: &Value) -> usize {
    match value {
        Value::Array(elements) => 1 + elements.iter().map(depth).max().unwrap_or(0),
        Value::Object(entries) => 1 + entries.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

/// Adds the entries of a merged mapping, or of a list of them, that the mapping lacks.
fn merge(into: Parsed, (from, mark): (Parsed, Mark)) -> Outcome<Parsed> {
    let (
        Value::Object(mut map),
        Places {
            mark: own,
            inside: Inside::Entries(mut entries),
        },
    ) = into
    else {
        return Ok(into);
    };
    let sources = match from {
        (Value::Array(values), places) => values
            .into_iter()
            .enumerate()
            .map(|(at, value)| (value, places.element(at).clone()))
            .collect(),
        one => vec![one],
    };
    for (value, places) in sources {
        let Value::Object(values) = value else {
            return Err(syntax("`<<` merges a mapping, or a list of them", mark));
        };
        for (key, value) in values {
            if map.contains_key(&key) {
                continue;
            }
            entries.push(Entry {
                key: key.clone(),
                key_mark: places.key_mark(&key),
                places: places.entry(&key).clone(),
            });
            map.insert(key, value);
        }
    }
    entries.sort_by(|a, b| a.key.cmp(&b.key));
    let inside = Inside::Entries(entries);
    Ok((Value::Object(map), Places { mark: own, inside }))
}

/// The value of a scalar: quoted ones are text, plain ones what the core schema says.
fn scalar(text: Cow<'_, str>, is_plain: bool, tag: Option<&Tag>, mark: Mark) -> Outcome<Value> {
    match tag {
        Some(tag) if !tag.is_yaml_core_schema() => return Err(unknown_tag(mark)),
        Some(tag) if tag.suffix == "str" => return Ok(Value::String(text.into_owned())),
        None if !is_plain => return Ok(Value::String(text.into_owned())),
        _ => {}
    }
    match &*text {
        "" | "~" | "null" | "Null" | "NULL" => Ok(Value::Null),
        "true" | "True" | "TRUE" => Ok(Value::Bool(true)),
        "false" | "False" | "FALSE" => Ok(Value::Bool(false)),
        _ => match number(&text) {
            Some(Ok(number)) => Ok(Value::Number(number)),
            Some(Err(())) => Err(syntax(
                "JSON has no such number, or it is beyond 64 bits: put it in quotes",
                mark,
            )),
            None => Ok(Value::String(text.into_owned())),
        },
    }
}

/// The number that a plain scalar is, if it is one; `Err` for one that JSON cannot hold.
fn number(text: &str) -> Option<Result<Number, ()>> {
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    if matches!(unsigned, ".inf" | ".Inf" | ".INF") || matches!(text, ".nan" | ".NaN" | ".NAN") {
        return Some(Err(()));
    }
    let radix = |prefix: &str, radix| {
        let digits = text.strip_prefix(prefix)?;
        let is_number = !digits.is_empty() && digits.chars().all(|c| c.is_digit(radix));
        is_number.then(|| {
            u64::from_str_radix(digits, radix)
                .map(Number::from)
                .map_err(|_| ())
        })
    };
    if let Some(number) = radix("0x", 16).or_else(|| radix("0o", 8)) {
        return Some(number);
    }
    if !is_decimal(unsigned) {
        return None;
    }
    let plain = text.strip_prefix('+').unwrap_or(text);
    if let Ok(int) = plain.parse::<i64>() {
        return Some(Ok(Number::from(int)));
    }
    if let Ok(int) = plain.parse::<u64>() {
        return Some(Ok(Number::from(int)));
    }
    if !unsigned.contains(['.', 'e', 'E']) {
        // It would be rounded.
        return Some(Err(()));
    }
    let double = plain.parse().ok().and_then(Number::from_f64);
    Some(double.ok_or(()))
}

/// `[0-9]+ ( \. [0-9]* )? ( [eE] [-+]? [0-9]+ )?`, or a dot first.
fn is_decimal(text: &str) -> bool {
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent)),
        None => (text, None),
    };
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let exponent_is_good = exponent.is_none_or(|exponent| {
        let exponent = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
        !exponent.is_empty() && digits(exponent)
    });
    let has_digits = !whole.is_empty() || !fraction.is_empty();
    has_digits && digits(whole) && digits(fraction) && exponent_is_good
}

//! JSON text to values with their places.
//!
//! Numbers and strings are read by `serde_json`, so that what counts as one is the same everywhere; only the
//! structure is read here, to know where each value begins.

use serde_json::Value;

use super::{
    DEPTH_MAX,
    diagnostics::Problem,
    document::{self, SyntaxProblem, Text},
    place::{Inside, Mark, Places, Style},
};
use crate::json::{beyond, unkept_number};

/// Parses a whole text.
pub(super) fn parse(text: &str) -> Result<Text, Vec<SyntaxProblem>> {
    let mut reader = Reader {
        text,
        at: 0,
        line: 1,
        column: 1,
        problems: Vec::new(),
    };
    let parsed = reader.value(0).and_then(|parsed| {
        reader.skip_blank();
        match reader.peek() {
            None => Ok(parsed),
            Some(_) => Err(reader.problem("the JSON value ends before this")),
        }
    });
    match parsed {
        Ok((value, places)) => Ok(Text {
            value,
            places,
            problems: reader.problems,
        }),
        Err(problem) => {
            reader.problems.push(problem);
            Err(reader.problems)
        }
    }
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
    line: u32,
    column: u32,
    /// Duplicate keys, which do not stop the reading.
    problems: Vec<SyntaxProblem>,
}

type Outcome<T> = Result<T, SyntaxProblem>;

impl<'a> Reader<'a> {
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn mark(&self) -> Mark {
        Mark {
            line: self.line,
            column: self.column,
            style: Style::Other,
        }
    }

    fn problem(&self, message: impl Into<String>) -> SyntaxProblem {
        SyntaxProblem {
            problem: Problem::error("syntax", message),
            mark: self.mark(),
        }
    }

    /// Passes over bytes that hold no line break.
    fn pass(&mut self, bytes: usize) -> &'a str {
        let passed = &self.text[self.at..self.at + bytes];
        self.column += passed.chars().count() as u32;
        self.at += bytes;
        passed
    }

    fn skip_blank(&mut self) {
        while let Some(byte) = self.peek() {
            match byte {
                b'\n' => {
                    self.line += 1;
                    self.column = 1;
                }
                b' ' | b'\t' | b'\r' => self.column += 1,
                _ => return,
            }
            self.at += 1;
        }
    }

    fn value(&mut self, depth: usize) -> Outcome<(Value, Places)> {
        self.skip_blank();
        if depth > DEPTH_MAX {
            return Err(too_deep(self.mark()));
        }
        match self.peek() {
            None => Err(self.problem("the text ends where a value is expected")),
            Some(b'{') => self.object(depth),
            Some(b'[') => self.array(depth),
            Some(b'"') => {
                let (text, mark) = self.string()?;
                Ok((Value::String(text), leaf(mark)))
            }
            Some(_) => self.word(),
        }
    }

    fn object(&mut self, depth: usize) -> Outcome<(Value, Places)> {
        let mark = self.mark();
        self.pass(1);
        let mut entries = Vec::new();
        self.skip_blank();
        if self.peek() == Some(b'}') {
            self.pass(1);
            return Ok(document::object(mark, entries, &mut self.problems));
        }
        loop {
            self.skip_blank();
            if self.peek() != Some(b'"') {
                return Err(self.problem("expected a key in double quotes"));
            }
            let (key, key_mark) = self.string()?;
            self.skip_blank();
            if self.peek() != Some(b':') {
                return Err(self.problem("expected `:` after the key"));
            }
            self.pass(1);
            let (value, places) = self.value(depth + 1)?;
            entries.push((key, key_mark, value, places));
            if self.ends(b'}')? {
                return Ok(document::object(mark, entries, &mut self.problems));
            }
        }
    }

    fn array(&mut self, depth: usize) -> Outcome<(Value, Places)> {
        let mark = self.mark();
        self.pass(1);
        let (mut values, mut places) = (Vec::new(), Vec::new());
        self.skip_blank();
        let mut has_ended = self.peek() == Some(b']');
        if has_ended {
            self.pass(1);
        }
        while !has_ended {
            let (value, place) = self.value(depth + 1)?;
            values.push(value);
            places.push(place);
            has_ended = self.ends(b']')?;
        }
        let inside = Inside::Elements(places);
        Ok((Value::Array(values), Places { mark, inside }))
    }

    /// Passes over the closing bracket, which ends the list, or a comma, which does not.
    fn ends(&mut self, close: u8) -> Outcome<bool> {
        self.skip_blank();
        match self.peek() {
            Some(b',') => {
                self.pass(1);
                Ok(false)
            }
            Some(byte) if byte == close => {
                self.pass(1);
                Ok(true)
            }
            _ => Err(self.problem(format!("expected `,` or `{}`", close as char))),
        }
    }

    fn string(&mut self) -> Outcome<(String, Mark)> {
        let mark = Mark {
            style: Style::DoubleQuoted,
            ..self.mark()
        };
        let bytes = &self.text.as_bytes()[self.at..];
        let mut len = 1;
        loop {
            match bytes.get(len) {
                None => return Err(self.problem("this string has no closing quote")),
                Some(b'"') => break,
                Some(b'\\') => len += 2,
                Some(byte) if *byte < 0x20 => {
                    self.pass(len);
                    return Err(self.problem("a string holds no line breaks or control characters"));
                }
                Some(_) => len += 1,
            }
        }
        let written = &self.text[self.at..=self.at + len];
        let text = serde_json::from_str(written)
            .map_err(|_| self.problem("this string has an escape that is not JSON"))?;
        self.pass(len + 1);
        Ok((text, mark))
    }

    /// `true`, `false`, `null` or a number.
    fn word(&mut self) -> Outcome<(Value, Places)> {
        let mark = self.mark();
        let rest = &self.text[self.at..];
        let is_word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.' | '_');
        let len = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
        let value = serde_json::from_str(&rest[..len]).map_err(|_| {
            let begins_as_number = rest.starts_with(|c: char| c.is_ascii_digit() || c == '-');
            self.problem(if begins_as_number {
                "this is not a JSON number, or it is too large"
            } else {
                "expected a JSON value"
            })
        })?;
        if let Some(number) = unkept_number(&rest[..len]) {
            return Err(self.problem(beyond(number)));
        }
        self.pass(len);
        Ok((value, leaf(mark)))
    }
}

pub(super) fn leaf(mark: Mark) -> Places {
    Places {
        mark,
        inside: Inside::Nothing,
    }
}

pub(super) fn too_deep(mark: Mark) -> SyntaxProblem {
    let message = format!("values are nested deeper than {DEPTH_MAX} levels");
    SyntaxProblem {
        problem: Problem::error("too-deep", message),
        mark,
    }
}

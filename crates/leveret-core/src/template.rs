//! Templates: JSON whose strings may hold `{{ expression }}`.
//!
//! A string that is one `{{ … }}` and nothing else becomes the value of the expression, of whatever type. In any
//! other string the values are put into the text: strings as they are, null as nothing, others as compact JSON.
//! A literal `{{` is written `{{{{`; a `}}` outside of an expression is just text. Keys of objects are not templates.
//! What holds no expression is never rendered again: see [`Template::constant`].

use std::{fmt, sync::Arc};

use serde_json::{Map, Value};

use crate::expr::{EvalError, EvalScope, Expression, ExpressionError, Names, References};

/// The deepest nesting of a template.
pub const TEMPLATE_DEPTH_MAX: usize = 128;

/// A compiled template. A clone shares it.
#[derive(Clone)]
pub struct Template(Arc<Compiled>);

struct Compiled {
    raw: Value,
    root: Part,
    constant: Option<Arc<Value>>,
    references: References,
}

/// A part of a template; one without expressions is a [`Part::Constant`] as a whole.
enum Part {
    Constant(Value),
    Whole(Expression),
    Text(Vec<Piece>),
    Array(Vec<Part>),
    Object(Vec<(String, Part)>),
}

enum Piece {
    Text(String),
    Value(Expression),
}

/// Why a value is not a template.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{error}")]
#[non_exhaustive]
pub struct TemplateError {
    /// Where in the value: keys and positions from the root to the string.
    pub path: Vec<String>,
    /// What is wrong. Its offset counts from the start of the string.
    pub error: ExpressionError,
}

impl Template {
    /// Compiles a value: every expression in it is checked.
    pub fn compile(value: &Value, names: &Names<'_>) -> Result<Template, TemplateError> {
        let mut compiler = Compiler {
            names,
            path: Vec::new(),
            references: References::default(),
        };
        let root = match compiler.part(value) {
            Ok(part) => part.unwrap_or_else(|| Part::Constant(value.clone())),
            Err(error) => {
                return Err(TemplateError {
                    path: compiler.path,
                    error,
                });
            }
        };
        let constant = match &root {
            Part::Constant(value) => Some(Arc::new(value.clone())),
            _ => None,
        };
        Ok(Template(Arc::new(Compiled {
            raw: value.clone(),
            root,
            constant,
            references: compiler.references,
        })))
    }

    /// The value it stands for, when it holds no expression: there is nothing to render.
    pub fn constant(&self) -> Option<&Arc<Value>> {
        self.0.constant.as_ref()
    }

    /// The value as it was written.
    pub fn raw(&self) -> &Value {
        &self.0.raw
    }

    /// What its expressions read.
    pub fn references(&self) -> &References {
        &self.0.references
    }

    /// The value with every expression evaluated.
    pub fn render(&self, scope: &EvalScope<'_>) -> Result<Value, EvalError> {
        render(&self.0.root, scope)
    }
}

impl fmt::Debug for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.raw())
    }
}

/// Two templates are equal when they were written the same.
impl PartialEq for Template {
    fn eq(&self, other: &Template) -> bool {
        self.raw() == other.raw()
    }
}

struct Compiler<'a> {
    names: &'a Names<'a>,
    /// Where it is; after an error, where the error is.
    path: Vec<String>,
    references: References,
}

impl Compiler<'_> {
    /// The part that a value is; `None` when it holds no expression and no escape.
    fn part(&mut self, value: &Value) -> Result<Option<Part>, ExpressionError> {
        if self.path.len() > TEMPLATE_DEPTH_MAX {
            let message = format!("this is nested deeper than {TEMPLATE_DEPTH_MAX} levels");
            return Err(ExpressionError::at_start(message));
        }
        match value {
            Value::String(text) if text.contains("{{") => self.text(text).map(Some),
            Value::Array(elements) => {
                let keyed = elements.iter().enumerate();
                let parts = self.parts(keyed.map(|(at, element)| (at.to_string(), element)))?;
                Ok(parts
                    .map(|parts| Part::Array(parts.into_iter().map(|(_, part)| part).collect())))
            }
            Value::Object(entries) => {
                let parts = self.parts(entries.iter().map(|(key, value)| (key.clone(), value)))?;
                Ok(parts.map(Part::Object))
            }
            _ => Ok(None),
        }
    }

    fn parts<'v>(
        &mut self,
        values: impl Iterator<Item = (String, &'v Value)>,
    ) -> Result<Option<Vec<(String, Part)>>, ExpressionError> {
        let mut is_constant = true;
        let mut parts = Vec::new();
        let mut constants = Vec::new();
        for (key, value) in values {
            self.path.push(key.clone());
            let part = self.part(value)?;
            self.path.pop();
            is_constant &= part.is_none();
            // Constants are copied only once something beside them is not.
            if part.is_none() {
                constants.push((parts.len(), value));
            }
            parts.push((key, part));
        }
        if is_constant {
            return Ok(None);
        }
        for (at, value) in constants {
            parts[at].1 = Some(Part::Constant(value.clone()));
        }
        let parts = parts
            .into_iter()
            .filter_map(|(key, part)| part.map(|part| (key, part)));
        Ok(Some(parts.collect()))
    }

    fn text(&mut self, text: &str) -> Result<Part, ExpressionError> {
        let mut pieces = Vec::new();
        let mut literal = String::new();
        let mut at = 0;
        while let Some(found) = text[at..].find("{{") {
            literal.push_str(&text[at..at + found]);
            let open = at + found;
            if text[open..].starts_with("{{{{") {
                literal.push_str("{{");
                at = open + 4;
                continue;
            }
            let start = open + 2;
            let len = expression_len(&text[start..]).ok_or_else(|| unclosed(open))?;
            if !literal.is_empty() {
                pieces.push(Piece::Text(std::mem::take(&mut literal)));
            }
            pieces.push(Piece::Value(self.expression(text, start, start + len)?));
            at = start + len + 2;
        }
        literal.push_str(&text[at..]);
        if !literal.is_empty() {
            pieces.push(Piece::Text(literal));
        }
        Ok(match pieces.as_slice() {
            [] => Part::Constant(Value::String(String::new())),
            [Piece::Text(text)] => Part::Constant(Value::String(text.clone())),
            [Piece::Value(expression)] => Part::Whole(expression.clone()),
            _ => Part::Text(pieces),
        })
    }

    fn expression(
        &mut self,
        text: &str,
        start: usize,
        end: usize,
    ) -> Result<Expression, ExpressionError> {
        let inner = &text[start..end];
        let trimmed = inner.trim_start();
        let start = start + (inner.len() - trimmed.len());
        let expression =
            Expression::compile(trimmed.trim_end(), self.names).map_err(|mut error| {
                error.offset += start;
                error
            })?;
        self.references.extend(expression.references());
        Ok(expression)
    }
}

fn unclosed(offset: usize) -> ExpressionError {
    let mut error = ExpressionError::at_start("this `{{` has no `}}`");
    error.offset = offset;
    error.help = Some("a literal `{{` is written `{{{{`".to_owned());
    error
}

/// The bytes before the `}}` that closes an expression: neither inside of quotes nor of braces.
fn expression_len(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    let mut braces = 0_usize;
    let mut at = 0;
    while at < bytes.len() {
        match bytes[at] {
            quote @ (b'"' | b'\'') => {
                at += 1;
                while *bytes.get(at)? != quote {
                    at += 1 + usize::from(bytes[at] == b'\\');
                }
            }
            b'{' => braces += 1,
            b'}' if braces > 0 => braces -= 1,
            b'}' if bytes.get(at + 1) == Some(&b'}') => return Some(at),
            _ => {}
        }
        at += 1;
    }
    None
}

fn render(part: &Part, scope: &EvalScope<'_>) -> Result<Value, EvalError> {
    match part {
        Part::Constant(value) => Ok(value.clone()),
        Part::Whole(expression) => expression.eval(scope),
        Part::Text(pieces) => {
            let mut text = String::new();
            for piece in pieces {
                match piece {
                    Piece::Text(literal) => text.push_str(literal),
                    Piece::Value(expression) => append(&mut text, &expression.eval(scope)?),
                }
            }
            Ok(Value::String(text))
        }
        Part::Array(parts) => {
            let elements = parts.iter().map(|part| render(part, scope));
            Ok(Value::Array(elements.collect::<Result<_, _>>()?))
        }
        Part::Object(parts) => {
            let entries = parts
                .iter()
                .map(|(key, part)| Ok((key.clone(), render(part, scope)?)));
            Ok(Value::Object(entries.collect::<Result<Map<_, _>, _>>()?))
        }
    }
}

fn append(text: &mut String, value: &Value) {
    match value {
        Value::Null => {}
        Value::String(value) => text.push_str(value),
        other => text.push_str(&other.to_string()),
    }
}
